"""The laboratory's mathematics, run in node, against the library on the same weights and images; and its page."""

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from math import cos, sin
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from contlearn import EWC, MLP, diagonal_fisher, kronecker_fisher, train
from contlearn.fisher import uniform

ROOT = Path(__file__).parent.parent
LAB = ROOT / "site" / "lab"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="the laboratory's mathematics is JavaScript: needs node")


@pytest.fixture(scope="module")
def build():
    """The script that builds the page, as a module."""
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        spec = importlib.util.spec_from_file_location("lab_build", LAB / "build.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "experiments"))


@pytest.fixture(scope="module")
def parts(build, mnist, fashion):
    """Digits and clothes as the page has them: grey levels (N, 14, 14) and labels, by part."""
    return {"digits": build.laboratory.small(mnist), "clothes": build.laboratory.small(fashion)}


@pytest.fixture(scope="module")
def html():
    return (LAB / "index.html").read_text(encoding="utf-8")


def ask(question, **given):
    """What the page's scripts compute, in node."""
    found = subprocess.run(
        [NODE, ROOT / "tests" / "lab_node.js"],
        input=json.dumps({"question": question, **given}),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def for_node(part, images=slice(None)):
    levels, labels = part
    return {"images": levels[images].flatten().tolist(), "labels": labels[images].tolist()}


def for_torch(part, images=slice(None), dtype=torch.float64):
    levels, labels = part
    return levels[images].to(dtype) / 5, labels[images]


def flat(named):
    """Weights, or anything shaped like them, in the page's order: each layer's inputs, then its bias, by outputs."""
    layers = [(named[f"{layer}.weight"], named[f"{layer}.bias"]) for layer in ("hidden1", "output")]
    return torch.cat([torch.cat((w.detach().T, b.detach()[None])).flatten() for w, b in layers])


def small_network(seed, dtype=torch.float64):
    torch.manual_seed(seed)
    return MLP(64, 1, 196).to(dtype)


@pytest.fixture(scope="module")
def learnt(parts):
    """A network that reads digits a little, in double precision."""
    model = small_network(0)
    x, y = for_torch(parts["digits"]["train"], slice(0, 3200))
    train(model, list(zip(x.split(32), y.split(32), strict=True)), epochs=1, lr=0.1, progress=False)
    return model


@pytest.fixture(scope="module")
def compared(learnt, parts):
    """The library's side and the page's side of one comparison."""
    images, lam, eta = slice(100, 300), 30.0, 0.7
    other = copy.deepcopy(learnt)
    with torch.no_grad():
        for p in other.parameters():
            p += 0.3 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(p.numel()))
    page = ask(
        "compared",
        theta=flat(dict(learnt.named_parameters())).tolist(),
        other=flat(dict(other.named_parameters())).tolist(),
        data=for_node(parts["digits"]["train"], images),
        batch=list(range(5, 37)),
        **{"lambda": lam, "eta": eta},
    )
    loader = [for_torch(parts["digits"]["train"], images)]
    return learnt, other, loader, lam, eta, page


def close(found, expected, tolerance=1e-5):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=tolerance, atol=tolerance)


@needs_node
def test_logits_loss_and_gradient_are_the_librarys(compared):
    model, _, [(x, y)], *_, page = compared
    loss = cross_entropy(model(x[5:37]), y[5:37])
    gradient = dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True)
    )
    close(page["loss"], loss.item())
    close(page["gradient"], flat(gradient))
    close(page["logits"], model(x[3:4])[0].detach())
    assert page["accuracy"] == pytest.approx((model(x).argmax(1) == y).double().mean().item())


@needs_node
def test_f_is_the_librarys_exact_diagonal(compared):
    model, _, loader, *_, page = compared
    fisher = flat(diagonal_fisher(model, loader, progress=False))
    close(page["diagonal"], fisher, 1e-9)
    assert fisher.max() > 1e-2  # or the tolerance says nothing


@needs_node
def test_kronecker_factors_are_the_librarys(compared):
    model, _, loader, *_, page = compared
    for found, factors in zip(
        page["factors"], kronecker_fisher(model, loader, progress=False).factors.values(), strict=True
    ):
        close(found["a"], factors.a.flatten(), 1e-9)
        close(found["g"], factors.g.flatten(), 1e-9)


@needs_node
@pytest.mark.parametrize("method", ["EWC", "L2", "Kronecker"])
def test_penalty_pull_and_step_are_the_librarys(method, compared):
    model, other, loader, lam, eta, page = compared
    ewc = EWC(lam, structure="kronecker" if method == "Kronecker" else "diagonal")
    fisher = (kronecker_fisher if method == "Kronecker" else diagonal_fisher)(model, loader, progress=False)
    ewc.add(uniform(fisher) if method == "L2" else fisher, dict(model.named_parameters()))
    found = page["springs"][method]
    assert found["zero"] == 0
    assert found["penalty"] == pytest.approx(ewc.penalty(other).item(), rel=1e-5)
    assert found["penalty"] > 0.1
    pull = torch.autograd.grad(ewc.penalty(other), list(other.parameters()))
    close(found["pull"], flat(dict(zip(dict(other.named_parameters()), pull, strict=True))))
    stepped = copy.deepcopy(other)
    ewc.proximal_step(stepped, eta)
    close(found["step"], flat(dict(stepped.named_parameters())))


@needs_node
@pytest.mark.parametrize("method", [None, "EWC", "L2", "Kronecker"])
def test_twenty_steps_lead_where_the_librarys_training_leads(method, learnt, parts):
    """In single precision, as the library trains."""
    lam, every = 30.0, 10
    model = small_network(0, torch.float32)
    model.load_state_dict(learnt.state_dict())
    theta = flat(dict(model.named_parameters())).tolist()
    old = slice(0, 200)
    batches = torch.randperm(2000, generator=torch.Generator().manual_seed(3))[:640].view(20, 32)
    ewc = None
    if method:
        ewc = EWC(lam, structure="kronecker" if method == "Kronecker" else "diagonal")
        measure = kronecker_fisher if method == "Kronecker" else diagonal_fisher
        fisher = measure(model, [for_torch(parts["digits"]["train"], old, torch.float32)], progress=False)
        ewc.add(uniform(fisher) if method == "L2" else fisher, dict(model.named_parameters()))
    x, y = for_torch(parts["clothes"]["train"], slice(0, 2000), torch.float32)
    loader = [(x[batch], y[batch]) for batch in batches]
    train(model, loader, epochs=1, lr=0.1, ewc=ewc, proximal=every if ewc else False, progress=False)
    walked = ask(
        "walked",
        theta=theta,
        data=for_node(parts["clothes"]["train"], slice(0, 2000)),
        batches=batches.tolist(),
        eta=0.1,
        every=every,
        springs=method,
        old=for_node(parts["digits"]["train"], old),
        **{"lambda": lam},
    )
    end = flat(dict(model.named_parameters())).double()
    close(walked, end, 1e-3)
    assert (end - torch.tensor(theta)).abs().max() > 0.05


@needs_node
def test_eigenvectors_rebuild_the_matrix():
    """Also of one that is singular, as A is where a pixel is always black."""
    x = torch.randn(40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, [0, 7]] = 0
    x[:, 9] = 2 * x[:, 8]
    matrix = x.T @ x / 40
    found = ask("eigen", matrix=matrix.flatten().tolist(), n=30)
    values = torch.tensor(found["values"], dtype=torch.float64)
    vectors = torch.tensor(found["vectors"], dtype=torch.float64).view(30, 30)
    torch.testing.assert_close(vectors @ torch.diag(values) @ vectors.T, matrix, rtol=0, atol=1e-9)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(30, dtype=torch.float64), rtol=0, atol=1e-9)
    close(sorted(found["values"]), torch.linalg.eigvalsh(matrix).clamp(min=0), 1e-9)
    assert torch.equal(torch.tensor(found["transposed"], dtype=torch.float64).view(30, 30), vectors.T)


@needs_node
def test_the_story_goes_as_told_and_as_in_the_results(build, parts):
    """Digits, clothes, and clothes with springs, with the page's own seed: the numbers that the page will show."""
    measured = build.measured()
    lab = build.laboratory
    found = ask(
        "story",
        digits=for_node(parts["digits"]["train"]),
        clothes=for_node(parts["clothes"]["train"]),
        tests={name: for_node(part["test"]) for name, part in parts.items()},
        seed=1,
        steps=[lab.EPOCHS_A * lab.TRAIN_IMAGES // lab.BATCH, lab.EPOCHS_B * lab.TRAIN_IMAGES // lab.BATCH],
        eta=lab.RATE,
        every=lab.EVERY,
        size=lab.BATCH,
        lambdas={"unprotected": 0} | measured["chosen"],
    )
    found = {name: [100 * share for share in pair] for name, pair in found.items()}
    digits, (free_digits, free_clothes) = found["digits"][0], found["unprotected"]
    assert digits >= 90
    assert free_digits <= digits - 35
    assert found["EWC"][0] >= digits - 6
    assert found["EWC"][1] >= free_clothes - 12
    assert found["Kronecker"][0] >= digits - 4
    assert found["Kronecker"][1] >= free_clothes - 5
    assert found["EWC"][0] > found["L2"][0] + 5
    for name, importance in ({"digits alone": None, "unprotected": None} | measured["chosen"]).items():
        (row,) = [row for row in measured["rows"][name] if row["lambda"] == importance]
        band = 12 if name == "unprotected" else 8 if name == "L2" else 4  # one network beside the mean of five
        page = found["digits" if name == "digits alone" else name]
        assert page[0] == pytest.approx(row["mean"][0], abs=band), name
        assert page[1] == pytest.approx(row["mean"][1], abs=4), name


@needs_node
def test_a_drawing_is_scaled_and_centred_as_mnist_is():
    stroke = [[0.1, 0.2], [0.5, 0.25], [0.3, 0.9]]
    levels = torch.tensor(ask("drawn", strokes=[stroke])).view(14, 14).double()
    moved = ask("drawn", strokes=[[[300 * x - 40, 300 * y + 90] for x, y in stroke]])
    assert moved == levels.flatten().long().tolist()
    place = torch.arange(14, dtype=torch.float64)
    centre = torch.stack([(levels.sum(1) * place).sum(), (levels.sum(0) * place).sum()]) / levels.sum()
    assert ((centre - 6.5).abs() < 0.3).all(), centre
    rows = levels.sum(1).nonzero().flatten()
    assert 9 <= int(rows[-1] - rows[0]) + 1 <= 12  # a box of 10 rows, and the ink that fades beyond
    assert levels.max() == 15


@needs_node
def test_a_dot_is_a_dot_and_nothing_is_nothing():
    assert ask("drawn", strokes=[]) is None
    dot = torch.tensor(ask("drawn", strokes=[[[0.9, 0.9]]])).view(14, 14)
    assert dot.sum() == dot[6:8, 6:8].sum() > 0


def two_weights(build):
    tasks = build.points()
    return [tasks["A"], tasks["B"]], [
        tuple(torch.tensor(t[k], dtype=torch.float64) for k in "xy") for t in tasks.values()
    ]


@needs_node
def test_the_two_weights_are_those_of_notebook_00(build):
    given, tasks = two_weights(build)
    theta, anchor, f, lam = [1.3, 0.7], [2.29, 0.24], [0.297, 0.028, 0.0061], 2.0
    page = ask("two", tasks=given, theta=theta, anchor=anchor, f=f, level=0.0125, **{"lambda": lam})

    def loss(at, task):
        x, y = task
        return -torch.log(torch.sigmoid(y * (at @ x.T - 4))).mean()

    at = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    for k, task in enumerate(tasks):
        close(page["losses"][k], loss(at, task).item(), 1e-9)
        close(page["slopes"][k], torch.autograd.grad(loss(at, task), at)[0], 1e-9)
        right = (task[1] * (at @ task[0].T - 4) > 0).double().mean()
        assert page["accuracies"][k] == pytest.approx(right.item())
    hessian = torch.autograd.functional.hessian(lambda t: loss(t, tasks[0]), at.detach())
    close(page["fisher"], hessian[[0, 0, 1], [0, 1, 1]], 1e-9)
    close(page["back"], f, 1e-9)
    d = torch.tensor(
        [page["ellipse"]["first"] * fn(page["ellipse"]["angle"]) for fn in (cos, sin)], dtype=torch.float64
    )
    matrix = torch.tensor([f[:2], f[1:]], dtype=torch.float64)
    assert 0.5 * d @ matrix @ d == pytest.approx(0.0125)

    start = torch.tensor(anchor, dtype=torch.float64)
    walk = start.clone()
    for _ in range(page["steps"]):  # the notebook's plain descent on the sum ends in the same place
        walk = walk.requires_grad_()
        total = loss(walk, tasks[1]) + 0.5 * lam * (walk - start) @ matrix @ (walk - start)
        walk = (walk - page["rate"] * torch.autograd.grad(total, walk)[0]).detach()
    close(page["end"], walk, 1e-3)


def test_the_points_are_those_of_notebook_00(build):
    notebook = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))
    (source,) = ["".join(c["source"]) for c in notebook["cells"] if "def make_task(" in "".join(c["source"])]
    scope = {"torch": torch}
    exec(source, scope)
    _, tasks = two_weights(build)
    for (x, y), name in zip(tasks, ("task_a", "task_b"), strict=True):
        torch.testing.assert_close(x, scope[name][0], rtol=0, atol=1e-6)
        assert torch.equal(y, scope[name][1])


def test_the_page_is_that_of_its_sources(build):
    assert build.is_current(), "site/lab/index.html is not that of its sources: python site/lab/build.py"
    assert (LAB / "index.html").stat().st_size <= 3_000_000


def test_the_page_asks_for_nothing_else(html):
    """No address that a browser would fetch: only links to follow, and a policy that forbids the rest."""
    addresses = re.findall(r"(?:src|href|url|action|data)\s*[=(]\s*[\"']?([^\"'\s)>]+)", html)
    elsewhere = [a for a in addresses if re.match(r"(https?:)?//", a)]
    assert set(elsewhere) == set(re.findall(r"<a href=\"(https://[^\"]+)\"", html))
    assert "default-src 'none'" in html
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|sendBeacon|importScripts)\s*\(", html)


def test_no_image_is_both_learnt_from_and_tested_on(build, parts):
    """Training images come from the training sets and test images from the test sets; those kept for λ from neither."""
    lab = build.laboratory
    assert lab.TRAIN_IMAGES + lab.VALIDATION_IMAGES <= 60_000
    for part in parts.values():
        assert [len(part[name][1]) for name in ("train", "validation", "test")] == [12_800, 2_000, 1_000]
        rows = {name: {tuple(image.tolist()) for image in part[name][0].flatten(1)} for name in part}
        for a, b in pairwise(("train", "test", "validation", "train")):
            assert len(rows[a] & rows[b]) <= 2, (a, b)  # the sets hold a few twins, and shrinking makes no more


def test_images_are_means_of_squares_in_sixteen_levels(build):
    image = torch.zeros(1, 28, 28)
    image[0, 0, :2] = 1.0  # half of the first square
    image[0, 2:4, 2:4] = 1.0
    image[0, 26, 27] = 68 / 255  # a quarter of 4 levels: 1
    image[0, 26, 0] = 34 / 255  # half a level, upwards
    levels = build.laboratory.shrunk(image)[0]
    assert levels.dtype == torch.uint8
    assert levels[0, 0] == 8
    assert levels[1, 1] == 15
    assert levels[13, 13] == 1
    assert levels[13, 0] == 1
    assert levels.sum() == 25
