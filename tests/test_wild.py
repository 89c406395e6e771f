"""What public codes compute, against the formulas on a table of single gradients; and λ, against trainings with it."""

import copy
import importlib
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from contlearn import EWC, MLP, diagonal_fisher
from contlearn.wild import CODES, equivalent_importance, importances

IMAGES, CLASSES = 40, 3
SIZES = {"Avalanche": 8, "FACIL": 8, "GT-RIPL": 8, "HAT": 20}  # the rest is indifferent to it, or fixes its own


@pytest.fixture(scope="module")
def model():
    """Small, in float64; neither sure nor at an optimum, so that no two definitions agree by chance."""
    torch.manual_seed(3)
    return MLP(5, 1, 4, CLASSES).double()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(IMAGES, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (IMAGES,), generator=generator)


@pytest.fixture(scope="module")
def table(model, data):
    """The gradient of the log-probability of each class of each image, (N, C, P), and p, (N, C)."""
    logs = model(data[0]).log_softmax(1)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(log, list(model.parameters()), retain_graph=True)])
        for log in logs.flatten()
    ]
    return torch.stack(rows).view(IMAGES, CLASSES, -1), logs.detach().exp()


def batches(data, size):
    return list(zip(*(t.split(size) for t in data), strict=True))


def vector(q):
    return torch.cat([t.flatten() for t in q.values()])


def by_formula(code, table, y, size):
    """Q of a code as its project writes it down: sums, divisors and factors in their places."""
    g, p = table
    n = torch.arange(IMAGES)
    true, likely = g[n, y], g[n, p.argmax(1)]
    count = IMAGES // size

    def means(rows):
        return rows.view(count, size, -1).mean(1)

    return {
        "Avalanche": lambda: means(true).square().sum(0) / count,
        "PyCIL": lambda: torch.minimum(means(true).square().sum(0) / count, torch.tensor(1e-4, dtype=torch.float64)),
        "FACIL": lambda: 0.5 * 0 + 0.5 * (means(likely).square() * size).sum(0) / (count * size),
        "HAT": lambda: (20 * means(true).square()).sum(0) / IMAGES,
        "GT-RIPL": lambda: (means(likely).square() * size / count).sum(0),
        "Mammoth": lambda: (p[n, y][:, None] * true.square()).sum(0) / IMAGES,
        "van de Ven": lambda: (p[:, :, None] * g.square()).sum((0, 1)) / (IMAGES - 1),
        "ewc.pytorch": lambda: (likely.square() / IMAGES).sum(0),
        "pytorch-ewc": lambda: true.square().mean(0),
        "overcoming-catastrophic": lambda: true.square().sum(0) / IMAGES,  # y being what was drawn
        "ContinualAI introduction": lambda: means(true).sum(0).square(),
        "Neuromatch W3D4": lambda: means(true).sum(0).square(),
        "Overcoming-Catastrophic-forgetting": lambda: (
            torch.stack([g[a][:, y[a]].mean((0, 1)) for a in n.split(size)]).mean(0).square()
        ),
    }[code]()


@pytest.mark.parametrize("code", CODES)
def test_definitions(code, model, data, table):
    """Each derivation against the project's formula; that of drawn labels with the draws it made."""
    _, y = data
    size = SIZES.get(code, 8)
    if code == "overcoming-catastrophic":
        generator = torch.Generator().manual_seed(5)
        y = torch.cat([torch.multinomial(p, 1, generator=generator) for p in table[1]])
    found = importances(code, model, batches(data, size), generator=torch.Generator().manual_seed(5))
    expected = by_formula(code, table, y, size)
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert torch.allclose(vector(found), expected, rtol=1e-9, atol=1e-15)


def test_the_clip_holds_something_back(model, data):
    """Else the test above would not see it."""
    free, clipped = (vector(importances(code, model, batches(data, 8))) for code in ("Avalanche", "PyCIL"))
    assert clipped.max() == pytest.approx(1e-4)
    assert free.max() > 1e-3


def test_drawn_labels_of_a_batch_are_those_of_the_generator(model, data):
    """And the squares are those of the drawn labels, taken for the true ones."""
    x, y = data[0][:8], data[1][:8]
    found, again, other = (
        importances("FACIL", model, [(x, y)], "sample", torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    drawn = torch.multinomial(model(x).softmax(1), 1, generator=torch.Generator().manual_seed(5))[:, 0]
    assert torch.equal(vector(found), vector(again))
    assert not torch.allclose(vector(found), vector(other), rtol=1e-3)
    assert torch.allclose(vector(found), vector(importances("FACIL", model, [(x, drawn)], "true")), rtol=1e-9)
    with pytest.raises(ValueError, match="labels='all': expected one of 'sample', 'true', 'predicted' with FACIL"):
        importances("FACIL", model, [(x, y)], "all")


def test_closed_forms_take_their_place(model, data):
    """The experiment measures three codes with `diagonal_fisher`, which is the same and faster."""
    for code, estimator in {"ewc.pytorch": "predicted", "pytorch-ewc": "empirical", "van de Ven": "exact"}.items():
        slow = vector(importances(code, model, batches(data, 1)))
        fast = vector(diagonal_fisher(model, batches(data, IMAGES), estimator))
        assert torch.allclose(slow, CODES[code].scale(IMAGES, 1) * fast, rtol=1e-9)


def test_the_closed_form_of_mammoth(model, data, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "experiments")
    weighted = importlib.import_module("in_the_wild").weighted
    slow = vector(importances("Mammoth", model, batches(data, 1)))
    assert torch.allclose(vector(weighted(model, batches(data, IMAGES))), slow, rtol=1e-9)


def test_the_mode_is_the_projects_and_is_put_back():
    class Noticing(nn.Linear):
        seen = ()

        def forward(self, x):
            self.seen = (*self.seen, self.training)
            return super().forward(x)

    for code, definition in CODES.items():
        for before in (True, False):
            layer = Noticing(3, 2).train(before)
            importances(code, layer, [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))])
            assert set(layer.seen) == {before if definition.training is None else definition.training}
            assert layer.training is before


# ---- λ ---------------------------------------------------------------------------------------------------------------


def trained(model, data, penalty):
    """Forty steps of descent on another task, with a penalty; the weights at the end."""
    student = copy.deepcopy(model)
    x, y = -data[0], (data[1] + 1) % CLASSES
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        (cross_entropy(student(x), y) + penalty(student)).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(student.parameters()).detach()


def theirs(code, importance, model, table, y, size):
    """The penalty as the project writes it: λ Σ Q (θ − θ*)², with or without a ½."""
    q, star = by_formula(code, table, y, size), nn.utils.parameters_to_vector(model.parameters()).detach()

    def penalty(student):
        distance = (q * (nn.utils.parameters_to_vector(student.parameters()) - star).square()).sum()
        half = 2 if code in {"PyCIL", "FACIL", "HAT", "van de Ven", "pytorch-ewc", "overcoming-catastrophic"} else 1
        return importance * distance / half

    return penalty


EQUIVALENTS = [
    ("ewc.pytorch", 1),
    ("pytorch-ewc", 1),
    ("van de Ven", 1),
    ("overcoming-catastrophic", 1),
    ("Avalanche", 1),
    ("FACIL", 1),
    ("GT-RIPL", 1),
]


@pytest.mark.parametrize(("code", "size"), EQUIVALENTS)
def test_trainings_with_the_converted_importance_end_at_the_same_weights(code, size, model, data, table):
    x, y = data
    if code == "overcoming-catastrophic":  # the same draws for both
        y = torch.multinomial(table[1], 1, generator=torch.Generator().manual_seed(6))[:, 0]
    answer = equivalent_importance(30, code, batch_size=size, images=IMAGES)
    estimator = "empirical" if answer.estimator == "sample" else answer.estimator
    ewc = EWC(answer.importance)
    ewc.consolidate(model, batches((x, y), 10), estimator, progress=False)
    expected = trained(model, data, theirs(code, 30, model, table, y, size))
    free = trained(model, data, lambda student: torch.zeros((), dtype=torch.float64))
    assert torch.allclose(trained(model, data, ewc.penalty), expected, rtol=1e-9, atol=1e-12)
    assert (free - expected).norm() > 0.05 * (expected - nn.utils.parameters_to_vector(model.parameters())).norm()
    ewc.importance *= 1.02  # another λ ends elsewhere
    assert not torch.allclose(trained(model, data, ewc.penalty), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("code", "to", "size"),
    [
        ("Avalanche", "HAT", 20),
        ("HAT", "Avalanche", 20),
        ("GT-RIPL", "FACIL", 8),
        ("FACIL", "GT-RIPL", 8),
        ("van de Ven", "van de Ven", 1),
        ("Neuromatch W3D4", "ContinualAI introduction", 256),
    ],
)
def test_trainings_between_two_codes(code, to, size, model, data, table):
    answer = equivalent_importance(
        30,
        code,
        batch_size=None if CODES[code].batch_size else size,
        to=to,
        to_batch_size=None if CODES[to].batch_size else size,
        images=IMAGES,
    )
    size = min(size, IMAGES)
    ends = [
        trained(model, data, theirs(name, importance, model, table, data[1], size))
        for name, importance in ((code, 30), (to, answer.importance))
    ]
    assert torch.allclose(*ends, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("code", "options", "words"),
    [
        ("Avalanche", {"batch_size": 64}, "mean gradients of batches of 64, of the true labels"),
        ("FACIL", {"batch_size": 64}, "of the most likely labels"),
        ("PyCIL", {}, "batches of 128, of the true labels, and cuts at 0.0001"),
        ("Mammoth", {}, "of the true labels, each weighted with its probability"),
        ("Neuromatch W3D4", {}, "one sum of the mean gradients of batches of 256"),
        ("ContinualAI introduction", {}, "one sum of the mean gradients of batches of 256"),
        ("Overcoming-Catastrophic-forgetting", {"batch_size": 100}, "each image meets every label"),
        ("HAT", {"to": "Avalanche", "to_batch_size": 64}, "no equivalent in Avalanche"),
        ("van de Ven", {"images": 100, "to": "Mammoth"}, "; Mammoth squares the gradient of each image"),
    ],
)
def test_no_equivalent(code, options, words):
    answer = equivalent_importance(1000, code, **options)
    assert answer.importance is None
    assert answer.estimator is None
    assert "no equivalent" in str(answer)
    assert words in str(answer)


@pytest.mark.parametrize("code", ["Avalanche", "FACIL", "HAT", "GT-RIPL", "PyCIL", "Mammoth", "Neuromatch W3D4"])
def test_where_none_is_claimed_there_is_none(code, model, data, table):
    """No multiple of any of our four F is their Q: the shapes differ."""
    size = SIZES.get(code, 8)
    q = vector(importances(code, model, batches(data, size)))
    for estimator in ("exact", "empirical", "predicted"):
        f = vector(diagonal_fisher(model, batches(data, IMAGES), estimator))
        assert (q - f * (q @ f) / (f @ f)).norm() > 0.02 * q.norm()


def test_sentences():
    assert str(equivalent_importance(1000, "ewc.pytorch")) == (
        "ewc.pytorch's λ = 1,000 is contlearn's λ = 2,000 with estimator=\"predicted\"."
    )
    assert str(equivalent_importance(1000, "Avalanche", batch_size=20, to="HAT")) == (
        "Avalanche's λ = 1,000 is HAT's λ = 2,000."
    )
    assert equivalent_importance(5000, "HAT").roughly == 250
    assert "roughly λ = 250 with estimator" in str(equivalent_importance(5000, "HAT"))
    assert equivalent_importance(0.4, "Neuromatch W3D4").roughly is None
    assert equivalent_importance(10, "van de Ven", images=11, labels="true").importance == pytest.approx(11)
    assert equivalent_importance(10, "van de Ven", images=11, labels="true").estimator == "empirical"
    assert equivalent_importance(10, "van de Ven", images=11, labels="weighted").importance is None


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((1000, "Avalance"), {}, "code='Avalance': expected one of 'Avalanche'"),
        ((1000, "Avalanche"), {}, "give batch_size=…"),
        ((1000, "van de Ven"), {}, "give images=…"),
        ((-1, "ewc.pytorch"), {}, "importance=-1: λ must be finite and not negative"),
        ((float("inf"), "ewc.pytorch"), {}, "must be finite"),
        ((1, "Avalanche"), {"batch_size": 0}, "batch_size=0: expected a whole number, 1 or more"),
        ((1, "van de Ven"), {"images": 1}, "images=1: expected a whole number, 2 or more"),
        ((1, "HAT"), {"batch_size": 64}, "batch_size=64: HAT always takes batches of 20"),
        ((1, "van de Ven"), {"images": 9, "labels": "best"}, "labels='best': expected one of 'all'"),
        ((1, "FACIL"), {"batch_size": 9, "labels": "weighted"}, "expected one of 'sample', 'true', 'predicted' with"),
        ((1, "Neuromatch W3D4"), {"labels": "predicted"}, "labels='predicted': expected one of 'true' with"),
        ((1, "Avalanche"), {"batch_size": 9, "to": "Avalance"}, "code='Avalance'"),
    ],
)
def test_errors(arguments, options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        equivalent_importance(*arguments, **options)


def test_what_was_read_is_named():
    for code in CODES.values():
        assert re.fullmatch(r"[0-9a-f]{40}", code.commit)
        assert code.repository.count("/") == 1
        assert code.file.endswith((".py", ".ipynb"))
