"""Kronecker factors against loops over single images, and EWC with them against the matrices that they stand for."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from oracles import assert_close
from test_ewc import Weights, unchanged, value_of
from test_fisher import CASES, CLASSES, ESTIMATORS, Case, Wired, classifier, prepared, snapshot, theta_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from contlearn import EWC, train
from contlearn.fisher import Factors, KroneckerFisher, kronecker_fisher

pytestmark = pytest.mark.filterwarnings("ignore:the closed form of .* differs from autograd")
DOUBLE = torch.float64
Task = tuple[KroneckerFisher, dict[str, Tensor]]  # F and θ*
fisher_of = partial(kronecker_fisher, progress=False)


def frozen(*names: str) -> Case:
    def build() -> nn.Module:
        model = CASES["mlp"].build()
        for name in names:
            model.get_parameter(name).requires_grad_(False)
        return model

    return Case(build, CASES["mlp"].shape)


def two_heads() -> nn.Module:
    parts = {"body": nn.Linear(5, 5), "first": nn.Linear(5, CLASSES), "second": nn.Linear(5, CLASSES)}
    return Wired(lambda m, x: getattr(m, m.task)(m.body(x).tanh()), **parts)


def mean_of_tokens() -> nn.Module:
    return Wired(lambda m, x: m.head(m.body(x).tanh().mean(1)), body=nn.Linear(4, 5), head=nn.Linear(5, CLASSES))


ALL = CASES | {
    "conv2d, one group": Case(  # (3, 2) pixels, stride, padding, dilation
        lambda: classifier(nn.Conv2d(2, 3, (3, 2), (2, 1), (2, 1), (1, 2)), nn.Tanh(), features=48), (2, 5, 4)),
    "conv1d, one group": Case(lambda: classifier(nn.Conv1d(2, 3, 3, 2, 1, 3), nn.Tanh(), features=6), (2, 7)),
    "wide": Case(lambda: classifier(nn.Linear(140, 130), nn.Tanh(), features=130), (140,)),
    "mean of tokens": Case(mean_of_tokens, (3, 4)), "all frozen": frozen("1.weight", "1.bias", "3.weight", "3.bias"),
    "bias frozen": frozen("1.bias"), "weight frozen": frozen("1.weight"), "layer frozen": frozen("1.weight", "1.bias"),
}  # fmt: skip
# Which layers have factors; all other parameters have a diagonal.
FACTORED = {
    "linear": [""], "log-softmax": ["0"], "mlp": ["1", "3"], "no bias": ["0", "2"], "in-place relu": ["0", "3", "6"],
    "wide": ["0", "3"], "tokens": ["0", "3"], "tokens in two dimensions": ["0", "3"], "conv2d": ["0", "3"],
    "conv2d, one group": ["0", "3"], "conv1d, one group": ["0", "3"], "bias frozen": ["1", "3"],
    "weight frozen": ["3"], "layer frozen": ["3"], "conv2d, everything": ["3"], "conv1d": ["3"], "conv3d": ["0", "3"],
    "conv2d, padding='same'": ["3"], "batch norm": ["0", "5"], "batch norm of a convolution": ["0", "4"],
    "layer norm": ["0", "4"], "embedding": ["1", "4"], "tied weights": ["4"], "tied embedding": [],
    "module called twice": ["head"], "weight used elsewhere": ["head"], "unused layer": ["head"],
    "subclass that doubles": ["3"], "weight norm": ["3"], "gru": ["head"], "step by step": ["head"],
    "learned query": ["body", "head"], "mean of tokens": ["body", "head"],
}  # fmt: skip
MATRICES = ["linear", "mlp", "no bias", "tokens", "conv1d, one group", "batch norm of a convolution", "gru"]


# The oracles


def loop(model: nn.Module, layer: nn.Module, images: Any, labels: Any, estimator: str = "exact") -> dict[str, Tensor]:
    """A = 1/N Σ_n Σ_t ã ãᵀ and G = 1/(N T) Σ_n Σ_c w_c Σ_t g gᵀ: images, places t and classes one at a time.

    By autograd: ã is the derivative of the first output at a place with respect to its own row of [W b], g that of
    log p_c with respect to something added to the outputs; w_c as in `oracles.fisher`.
    """
    trainable = [p for p in layer.parameters() if p.requires_grad]
    a, g, places = torch.zeros((), dtype=DOUBLE), torch.zeros((), dtype=DOUBLE), 0
    seen: list[Tensor] = []

    def shifted(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        seen[:] = output, torch.zeros_like(output, requires_grad=True)
        return output + seen[1]

    def columns(z: Tensor) -> Tensor:
        return z.movedim(-1 if isinstance(layer, nn.Linear) else 1, 0).flatten(1).T  # (T, O)

    handle = layer.register_forward_hook(shifted)
    for image, label in zip(images, labels, strict=True):
        log_p = model.eval()(image[None])[0].log_softmax(0)
        z, shift = seen
        for outputs in columns(z):
            rows = torch.autograd.grad(outputs[0], trainable, retain_graph=True)
            extended = torch.cat([row[0].flatten() for row in rows])
            a, places = a + extended.outer(extended), places + 1
        p = log_p.detach().exp().tolist()
        weights = {"exact": dict(enumerate(p)), "predicted": {p.index(max(p)): 1.0}}.get(estimator, {int(label): 1.0})
        for c, weight in weights.items():
            for gradient in columns(torch.autograd.grad(log_p[c], shift, retain_graph=True)[0]):
                g = g + weight * gradient.outer(gradient)
    handle.remove()
    return {"A": a / len(labels), "G": g / places}


def flat(tensors: dict[str, Any]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors.values()])


def explicit(tasks: list[Task], decay: float = 1.0) -> tuple[Tensor, Tensor]:
    """S as a matrix and μ as a vector over all parameters: of each layer the mean of its A's ⊗ the sum of its G's."""
    shapes, start, size = {name: t.shape for name, t in tasks[-1][1].items()}, {}, 0
    for name, shape in shapes.items():
        start[name], size = size, size + shape.numel()
    matrix, center = torch.zeros(size, size, dtype=DOUBLE), torch.zeros(size, dtype=DOUBLE)
    aged = [(decay**age, fisher, flat(anchor)) for age, (fisher, anchor) in enumerate(reversed(tasks))]  # newest first
    for layer in {layer for fisher, _ in tasks for layer in fisher.factors}:
        own = [(w, fisher.factors[layer], theta) for w, fisher, theta in aged if layer in fisher.factors]
        a, g = sum(w * f.a for w, f, _ in own) / sum(w for w, _, _ in own), sum(w * f.g for w, f, _ in own)
        rows = [start[n] + torch.arange(shapes[n].numel()).reshape(len(g), -1) for n in own[0][1].parameters]
        index = torch.cat(rows, 1).flatten()  # [W b], row by row
        matrix[index[:, None], index], center[index] = torch.kron(g, a), own[0][2][index]
    for name in {name for fisher, _ in tasks for name in fisher.diagonal}:
        index = start[name] + torch.arange(shapes[name].numel())
        own = [(w, fisher.diagonal[name], theta) for w, fisher, theta in aged if name in fisher.diagonal]
        if own := [(w, f, theta) for w, f, theta in own if f.any()]:  # zeros: a task that does not use the layer
            matrix[index, index], center[index] = sum(w * f.flatten() for w, f, _ in own), own[0][2][index]
    return matrix, center


# The factors


def assert_factors(found: KroneckerFisher, model: nn.Module, layers: list[str], *data: Any) -> None:
    """Those of `layers` and of no others, equal to the loop's."""
    assert sorted(found.factors) == sorted(layers)
    for name, (a, g, parameters) in found.factors.items():
        layer = model.get_submodule(name)
        assert parameters == tuple(f"{name}.{n}".lstrip(".") for n, p in layer.named_parameters() if p.requires_grad)
        assert_close({"A": a, "G": g}, loop(model, layer, *data), 1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("name", "layers"), FACTORED.items(), ids=FACTORED)
def test_factors_and_diagonal_equal_loops_over_single_images(name: str, layers: list[str], estimator: str) -> None:
    images, labels = ALL[name].data(DOUBLE)
    generator, again = (torch.Generator().manual_seed(3) for _ in range(2))
    found = fisher_of(model := ALL[name].model(DOUBLE), [(images, labels)], estimator, generator=generator)
    if estimator == "sample":
        labels = torch.multinomial(model.eval()(images).softmax(1), 1, generator=again)[:, 0]
    assert_factors(found, model, layers, images, labels, estimator)
    done = {n for f in found.factors.values() for n in f.parameters}
    diagonal = {n: f for n, f in ALL[name].oracle(estimator, tuple(labels.tolist())).items() if n not in done}
    assert_close(dict(sorted(found.diagonal.items())), dict(sorted(diagonal.items())), 1e-12)


@pytest.mark.parametrize("n", range(3))
def test_one_image_of_softmax_regression_has_the_exact_block(n: int) -> None:
    """A ⊗ G is the whole Hessian of −log p for [W b], row by row; not just its diagonal."""
    model, image, label = ALL["linear"].model(DOUBLE), ALL["linear"].data(DOUBLE)[0][n : n + 1], torch.tensor([n])
    a, g, _ = fisher_of(model, [(image, label)]).factors[""]
    hessian = torch.autograd.functional.hessian(
        lambda joined: cross_entropy(image @ joined[:, :-1].T + joined[:, -1], label),
        torch.cat((model.weight, model.bias[:, None]), 1).detach(),
    )
    torch.testing.assert_close(torch.kron(g, a), hessian.reshape(24, 24), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("budget", [None, 1, 300])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", ["mlp", "conv2d, one group", "tokens", "batch norm", "embedding"])
def test_batches_and_chunks_change_nothing(name: str, size: int, budget: int | None, monkeypatch: Any) -> None:
    images, labels = ALL[name].data(DOUBLE)
    monkeypatch.setattr("contlearn.sweep._BUDGET", budget or 2**24)
    batches = [(images[:0], labels[:0]), *zip(images.split(size), labels.split(size), strict=True)]
    found = fisher_of(model := ALL[name].model(DOUBLE), batches, "empirical")
    assert_factors(found, model, FACTORED[name], images, labels, "empirical")
    assert_close(found.diagonal, {n: ALL[name].oracle("empirical")[n] for n in found.diagonal}, 1e-12)


def sequences(lengths: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(5)
    return [(torch.randn(2, t, 4, dtype=DOUBLE), torch.randint(CLASSES, (2,))) for t in lengths]


def test_sequences_of_several_lengths() -> None:
    """A is summed over the places and averaged over the images; G is averaged over all places of all images."""
    model, batches = ALL["mean of tokens"].model(DOUBLE), sequences((1, 4, 2))
    images, labels = [x for xs, _ in batches for x in xs], [y for _, ys in batches for y in ys]
    assert_factors(fisher_of(model, batches), model, ["body", "head"], images, labels)


@pytest.mark.parametrize("lengths", [(1, 3), (3, 1)])
def test_layers_that_have_factors_for_some_lengths_only_are_refused(lengths: tuple[int, ...]) -> None:
    """A recurrent cell that is called once has factors, and none when it is called three times."""
    model = prepared(CASES["step by step"]).double()
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"shape \({lengths[1]}, 4\) the layers.*structure='diagonal' takes both"):
        fisher_of(model, sequences(lengths))
    assert snapshot(model) == before


@pytest.mark.parametrize("name", FACTORED)
def test_model_is_left_as_it_was_found(name: str) -> None:
    """Values, buffers, modes, gradients and hooks. And nothing has a graph."""
    before = snapshot(model := prepared(ALL[name]))
    found = fisher_of(model, [ALL[name].data()])
    assert snapshot(model) == before
    tensors = [*found.diagonal.values(), *(t for f in found.factors.values() for t in f[:2])]
    assert {(t.dtype, t.requires_grad) for t in tensors} == {(torch.float32, False)}


@pytest.mark.parametrize(
    ("message", "name", "factor", "batches", "estimator"),
    [
        ("the loader is empty", "mlp", 1, 0, "exact"), ("no trainable parameter", "all frozen", 1, 1, "exact"),
        ("a logit is not finite", "mlp", math.nan, 1, "exact"), ("'exakt'.*'exact', 'sample'", "mlp", 1, 1, "exakt"),
    ],
)  # fmt: skip
def test_mistakes_are_named(message: str, name: str, factor: float, batches: int, estimator: Any) -> None:
    images, labels = ALL[name].data()
    with pytest.raises((ValueError, FloatingPointError), match=message):
        fisher_of(ALL[name].model(), [(factor * images, labels)] * batches, estimator)


# The penalty and its step


def moved(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5 * torch.randn(p.shape, generator=generator).to(p.dtype)
    return model


def task_of(model: nn.Module, case: Case, seed: int) -> Task:
    (images, labels), generator = case.data(next(model.parameters()).dtype), torch.Generator().manual_seed(seed)
    images = images + torch.randn(images.shape, generator=generator).to(images.dtype)
    return fisher_of(model, [(images, labels)]), {n: p.detach().clone() for n, p in model.named_parameters()}


def history(name: str, count: int, dtype: torch.dtype = DOUBLE) -> list[Task]:
    """Tasks with weights and images of their own."""
    return [task_of(moved(ALL[name].model(dtype), k), ALL[name], k) for k in range(count)]


def filled(tasks: list[Task], importance: float = 10.0, decay: float = 1.0) -> EWC:
    ewc = EWC(importance, decay, structure="kronecker")
    for fisher, anchor in tasks:
        ewc.add(fisher, anchor)
    return ewc


def far(name: str) -> nn.Module:
    return moved(ALL[name].model(DOUBLE), 99)


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


def slope_of(model: nn.Module) -> Tensor:
    return flat({name: p.grad for name, p in model.named_parameters()})


@pytest.mark.parametrize(("count", "decay"), [(1, 1.0), (1, 0.0), (3, 1.0), (3, 0.6), (3, 0.0)])
@pytest.mark.parametrize("name", MATRICES)
def test_value_gradient_and_step_equal_those_of_the_whole_matrix(name: str, count: int, decay: float) -> None:
    """½ λ (θ−μ)ᵀ S (θ−μ), its gradient λ S (θ−μ), and (I + ηλS)⁻¹ (θ + ηλSμ), by torch.kron and a linear solver."""
    tasks = history(name, count)
    ewc, (matrix, center), model = filled(tasks, 10.0, decay), explicit(tasks, decay), far(name)
    theta = theta_of(model)
    for part, expected in ((ewc.precision, matrix.diagonal()), (ewc.center, center)):
        assert close(flat({n: part[n] for n, _ in model.named_parameters()}), expected)
    slope = 10 * matrix @ (theta - center)
    (penalty := ewc.penalty(model)).backward()
    assert penalty.shape == ()
    assert float(penalty.detach()) == pytest.approx(float(0.5 * (theta - center) @ slope), rel=1e-12)
    assert close(slope_of(model), slope)
    ewc.add_gradient(model)  # to what is there already
    assert close(slope_of(model), 2 * slope)
    assert torch.equal(theta_of(model), theta)
    for strength in (1e-3, 1, 1e3):
        model, ewc.importance = far(name), strength / 0.1
        ewc.proximal_step(model, lr=0.1)
        wanted = torch.linalg.solve(torch.eye(len(theta)) + strength * matrix, theta + strength * matrix @ center)
        assert close(theta_of(model), wanted)
        model.zero_grad()
        ewc.penalty(model).backward()  # ½‖θ'−θ‖² + η·penalty is flat there
        flatness = (theta_of(model) - theta + 0.1 * slope_of(model)).abs().max()
        assert float(flatness) < 1e-13 * (1 + strength * float(matrix.abs().max()))


def test_one_weight_by_hand() -> None:
    """½ · 10 · 6 · (4 − 1)² = 270; slope 10 · 6 · 3 = 180; ηλS = 6 leaves a seventh of the way; stable for λ < 10/3."""
    a, g, one = (torch.tensor([[x]]).double() for x in (2, 3, 1))
    ewc = filled([(KroneckerFisher({"": Factors(a, g, ("weight",))}, {}), {"weight": one})])
    model = Weights(weight=4 * one)
    (penalty := ewc.penalty(model)).backward()
    assert (float(penalty.detach()), model.weight.grad.item()) == (270, 180)
    ewc.proximal_step(model, lr=0.1)
    assert model.weight.item() == pytest.approx(1 + 3 / 7, rel=1e-14)
    assert ewc.largest_stable_importance(lr=0.1) == pytest.approx(10 / 3)


def test_gradient_equals_finite_differences() -> None:
    model, ewc = far("no bias"), filled(history("no bias", 2))
    assert torch.autograd.gradcheck(lambda *_: 3 * ewc.penalty(model), tuple(model.parameters()))


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
def test_consolidate_adds_the_factors_and_the_weights(estimator: Any) -> None:
    model, loader, ewc = CASES["batch norm"].model(), [CASES["batch norm"].data()], EWC(10, structure="kronecker")
    ewc.consolidate(model, loader, estimator)
    assert unchanged(ewc, filled([(fisher_of(model, loader, estimator), dict(model.named_parameters()))]).state_dict())
    assert value_of(ewc, model) == 0 < value_of(ewc, moved(model, 1))  # the anchor does not follow the weights


def test_nothing_moves_without_strength_or_a_task_nor_what_is_frozen() -> None:
    tasks, model, empty = history("mlp", 1), far("mlp"), EWC(10, structure="kronecker")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for ewc, lr in [(empty, 0.1), (filled(tasks, 0), 0.1), (filled(tasks), 0)]:
        ewc.proximal_step(model, lr)
        assert_close(dict(model.named_parameters()), before, 0)
    (empty.penalty(model) + filled(tasks, 0).penalty(model)).backward()
    assert not slope_of(model).any()
    model.zero_grad()
    model.get_parameter("1.weight").requires_grad_(False)
    filled(tasks).add_gradient(model)
    filled(tasks).proximal_step(model, lr=1)
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == ["1.weight"]
    assert [n for n, p in model.named_parameters() if p.grad is None] == ["1.weight"]


@pytest.mark.parametrize("name", MATRICES)
def test_repeated_steps_lead_to_the_anchor(name: str) -> None:
    """Nearer with each step, in distance and penalty; and where S is not zero, in the end to θ* itself."""
    tasks = history(name, 2)
    ewc, model, (matrix, center), course = filled(tasks), far(name), explicit(tasks), []
    for _ in range(8):
        course.append((value_of(ewc, model), float((theta_of(model) - center).norm())))
        ewc.proximal_step(model, lr=0.1)
    assert all(after < before for values in zip(*course, strict=True) for before, after in pairwise(values))
    ewc.proximal_step(model, lr=1e9)
    assert float((matrix @ (theta_of(model) - center)).abs().max()) < 1e-8


@pytest.mark.parametrize("proximal", [1, 10])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("importance", [10.0**n for n in range(-3, 10, 3)])
def test_every_importance_is_stable(importance: float, dtype: torch.dtype, proximal: int) -> None:
    """`train` raises an error where weights, loss or penalty are not finite."""
    case, tasks = CASES["batch norm of a convolution"], history("batch norm of a convolution", 2, dtype)
    ewc, model = filled(tasks, importance), moved(case.model(dtype), 99)
    course = train(model, [case.data(dtype)] * 12, epochs=2, lr=0.1, ewc=ewc, proximal=proximal, progress=False)
    assert course.penalty[-1] < (100 if importance < 1 else 0.5) * course.penalty[0]


def test_a_step_every_ten_is_close_to_ten_steps() -> None:
    """With kη; compared with what the penalty does to the weights at all."""
    ends = []
    for importance, proximal in ((0, 1), (1, 1), (1, 10)):
        ewc, model = filled(history("mlp", 1), importance), far("mlp")
        train(model, [CASES["mlp"].data(DOUBLE)] * 65, epochs=1, lr=0.02, ewc=ewc, proximal=proximal, progress=False)
        ends.append(theta_of(model))
    assert 0 < (ends[1] - ends[2]).norm() < 0.1 * (ends[0] - ends[1]).norm()


@pytest.mark.parametrize("scale", [1, 1e4])
def test_largest_stable_importance(scale: float) -> None:
    """From the largest eigenvalue of the whole matrix, whether it comes from a layer or from the diagonal."""
    tasks = history("batch norm of a convolution", 2)
    tasks = [(f._replace(diagonal={n: scale * d for n, d in f.diagonal.items()}), anchor) for f, anchor in tasks]
    largest = float(torch.linalg.eigvalsh(explicit(tasks)[0])[-1])
    assert filled(tasks).largest_stable_importance(lr=0.1) == pytest.approx(2 / (0.1 * largest), rel=1e-10)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_layer_that_a_task_does_not_use_keeps_its_factors_and_its_anchor(decay: float) -> None:
    model, tasks = (case := Case(two_heads, (5,))).model(DOUBLE), []
    for k, model.task in enumerate(["first", "second", "second", "first", "second"]):
        tasks.append(task_of(moved(model, k), case, k))
        assert ("second.weight" in filled(tasks).center) == (k > 0)  # a layer is free until it is used
    (matrix, center), theta = explicit(tasks, decay), theta_of(moved(model, 99))
    expected = float(5 * (theta - center) @ matrix @ (theta - center))
    assert value_of(filled(tasks, decay=decay), model) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("then", "now"), [(torch.float32, DOUBLE), (torch.bfloat16, torch.bfloat16)], ids=str)
def test_weights_of_another_type(then: torch.dtype, now: torch.dtype) -> None:
    """Factors are float32 at least, as the diagonal is; and a model made float64 later keeps its penalty and step."""
    model, ewc = CASES["batch norm"].model(then), EWC(10, structure="kronecker")
    ewc.consolidate(model, [CASES["batch norm"].data(then)])
    assert {t.dtype for t in (*ewc.precision.values(), *ewc.center.values())} == {torch.float32}
    before = value_of(ewc, moved(model.to(now), 1))
    ewc.add_gradient(model)
    ewc.proximal_step(model, lr=1)
    assert value_of(ewc, model) < before
    assert {p.dtype for p in model.parameters()} == {now}


@pytest.mark.parametrize("count", [1, 2])
def test_what_was_added_is_copied(count: int) -> None:
    tasks = history("batch norm", count)
    kept = (ewc := filled(tasks)).state_dict()
    for fisher, anchor in tasks:
        for t in (*anchor.values(), *fisher.diagonal.values(), *(t for f in fisher.factors.values() for t in f[:2])):
            t.fill_(77)
    assert unchanged(ewc, kept)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (CASES["mlp"], frozen("1.weight"), "1.bias had Kronecker factors in an earlier task: structure='diagonal'"),
        (frozen("1.weight"), CASES["mlp"], "1.bias had no Kronecker factors in an earlier task: structure='diagonal'"),
        (CASES["mlp"], frozen("3.bias"), "3 has changed its shape since an earlier task"),
    ],
)
def test_tasks_that_do_not_go_together_are_refused(first: Case, second: Case, message: str) -> None:
    ewc = EWC(10, structure="kronecker")
    ewc.consolidate(first.model(), [first.data()])
    kept = ewc.state_dict()
    with pytest.raises(ValueError, match=message):
        ewc.consolidate(second.model(), [second.data()])
    assert unchanged(ewc, kept)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda fisher, anchor: fisher.factors["5"].a.fill_(math.nan),
        lambda fisher, anchor: fisher.factors["5"].g.fill_(math.inf),
        lambda fisher, anchor: anchor["5.bias"].fill_(-math.inf),
        lambda fisher, anchor: anchor["1.weight"].fill_(math.nan),
        lambda fisher, anchor: fisher.diagonal["1.bias"].neg_(),
        lambda fisher, anchor: fisher.factors["5"].g.neg_(),
        lambda fisher, anchor: anchor.update({"5.weight": anchor["5.weight"].T}),
    ],
)
def test_a_task_that_is_not_sound_leaves_no_trace(spoil: Callable[..., Any], count: int) -> None:
    """The last layer is the bad one, when others have been taken up already."""
    *tasks, (fisher, anchor) = history("batch norm", count + 1)
    kept = (ewc := filled(tasks)).state_dict()
    spoil(fisher, anchor)
    with pytest.raises(ValueError, match=r"finite|negative|shape"):
        ewc.add(fisher, anchor)
    assert unchanged(ewc, kept)
