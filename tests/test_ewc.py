"""The penalty of many tasks against their sum, its step against the minimum, and everything that could go wrong."""

import copy
import math
from collections.abc import Callable
from functools import reduce
from operator import getitem
from typing import Any

import oracles
import pytest
import torch
from oracles import Tensors, assert_close
from torch import Tensor, nn

from contlearn import EWC, diagonal_fisher, load_checkpoint, save_checkpoint
from contlearn.fisher import Factors, KroneckerFisher

SHAPES = {"weight": (4, 3), "bias": (4,), "scale": ()}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
HISTORIES = [(1.0, "optima"), (0.7, "optima"), (0.0, "optima"), (1.0, "latest"), (0.7, "latest")]

histories = pytest.mark.parametrize(("decay", "anchor"), HISTORIES)
structures = pytest.mark.parametrize("structure", ["diagonal", "kronecker"])


class Weights(nn.Module):
    """A model that is nothing but its parameters."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor.clone()))

    def values(self) -> Tensors:
        return {name: p.detach().clone() for name, p in self.named_parameters()}

    def gradients(self) -> Tensors:
        return {name: p.grad for name, p in self.named_parameters() if p.grad is not None}


def random_tensors(seed: int, dtype: torch.dtype = torch.float64) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}


def random_tasks(count: int, dtype: torch.dtype = torch.float64) -> list[tuple[Tensors, Tensors]]:
    """(F, θ*) of each task; F spans several orders of magnitude, and a weight that one task needs no other may need."""
    tasks = []
    for k in range(count):
        fisher = {name: (2 * t).exp() * (t > -0.5) for name, t in random_tensors(2 * k, dtype).items()}
        tasks.append((fisher, random_tensors(2 * k + 1, dtype)))
    return tasks


def filled(tasks: list[tuple[Tensors, Tensors]], importance: float = 10.0, **options: Any) -> EWC:
    ewc = EWC(importance, **options)
    for fisher, anchor in tasks:
        ewc.add(fisher, anchor)
    return ewc


def one_weight(precision: float, anchor: float, importance: float = 1.0) -> EWC:
    return filled([({"w": torch.tensor([precision]).double()}, {"w": torch.tensor([anchor]).double()})], importance)


def value_of(ewc: EWC, model: nn.Module) -> float:
    return float(ewc.penalty(model).detach())


def at(w: float) -> Weights:
    return Weights(w=torch.tensor([w], dtype=torch.float64))


def same(ewc: EWC, state: dict[str, Any]) -> bool:
    """Whether `ewc` is, to the last bit, in `state`."""
    now = ewc.state_dict()
    numbers = all(now[key] == state[key] for key in ("importance", "decay", "anchor", "tasks", "constant"))
    return numbers and all(
        list(now[key]) == list(state[key]) and all(torch.equal(now[key][n], state[key][n]) for n in state[key])
        for key in ("precision", "center")
    )


# The penalty


@histories
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("count", [1, 2, 10])
def test_one_quadratic_equals_the_sum_over_tasks(count: int, dtype: torch.dtype, decay: float, anchor: str) -> None:
    """Value and gradient, though only S, μ and one number are kept; the gradient by autograd, on the plain sum."""
    tasks = random_tasks(count, dtype)
    model, plain = Weights(**random_tensors(99, dtype)), Weights(**random_tensors(99, dtype)).double()
    found = filled(tasks, decay=decay, anchor=anchor).penalty(model)
    expected = oracles.penalty(10.0, tasks, dict(plain.named_parameters()), decay, anchor)
    assert found.shape == ()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=TOLERANCE[dtype])
    found.backward()
    expected.backward()
    assert_close(model.gradients(), plain.gradients(), TOLERANCE[dtype])


def test_value_far_from_the_anchors_of_many_tasks_keeps_its_digits() -> None:
    """The constant is part of the value: at μ, where the quadratic vanishes, it is all of it."""
    tasks = random_tasks(10)
    ewc = filled(tasks)
    expected = float(oracles.penalty(10.0, tasks, ewc.center))
    assert value_of(ewc, Weights(**ewc.center)) == pytest.approx(expected, rel=1e-12)


@histories
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_add_gradient_adds_what_backward_would(dtype: torch.dtype, decay: float, anchor: str) -> None:
    """In place, to a gradient that is there already or to none."""
    tasks = random_tasks(3, dtype)
    model, plain = Weights(**random_tensors(99, dtype)), Weights(**random_tensors(99, dtype)).double()
    model.weight.grad = (already := random_tensors(98, dtype)["weight"]).clone()
    kept = model.weight.grad
    filled(tasks, decay=decay, anchor=anchor).add_gradient(model)
    assert model.weight.grad is kept
    oracles.penalty(10.0, tasks, dict(plain.named_parameters()), decay, anchor).backward()
    expected = plain.gradients()
    expected["weight"] += already
    assert_close(model.gradients(), expected, TOLERANCE[dtype])


def test_add_gradient_leaves_weights_and_frozen_parameters_alone() -> None:
    model, ewc = Weights(**random_tensors(99)), filled(random_tasks(2))
    model.bias.requires_grad_(False)
    EWC(10).add_gradient(model)  # before the first task
    assert model.gradients() == {}
    ewc.add_gradient(model)
    assert list(model.gradients()) == ["weight", "scale"]
    assert_close(model.values(), random_tensors(99), 0)


@pytest.mark.parametrize("count", [1, 3])
def test_gradient_equals_finite_differences(count: int) -> None:
    model, ewc = Weights(**random_tensors(99)), filled(random_tasks(count))
    assert torch.autograd.gradcheck(lambda *_: 3 * ewc.penalty(model), tuple(model.parameters()))


def test_the_half_by_hand() -> None:
    """½ · λ 10 · F 2 · (4 − 1)² = 90, and its slope 10 · 2 · 3 = 60."""
    model = at(4)
    penalty = one_weight(2, anchor=1, importance=10).penalty(model)
    penalty.backward()
    assert float(penalty.detach()) == 90
    assert model.w.grad.item() == 60


def test_two_tasks_by_hand() -> None:
    """F 1 at 0 and F 3 at 4: S = 4, μ = 3, and at θ = 1 the sum is ½ (1 · 1 + 3 · 9) = 14."""
    ewc = one_weight(1, anchor=0)
    ewc.add({"w": torch.tensor([3.0]).double()}, {"w": torch.tensor([4.0]).double()})
    assert (ewc.precision["w"].item(), ewc.center["w"].item(), ewc.tasks) == (4, 3, 2)
    assert value_of(ewc, at(1)) == pytest.approx(14)


def test_consolidate_by_hand() -> None:
    """Two classes, zero weights, one image x = 2: F = p (1 − p) x² = 1, so a weight that moves by 3 costs ½ λ 9."""
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    ewc = EWC(importance=10)
    ewc.consolidate(model, [(torch.tensor([[2.0]]), torch.tensor([0]))])
    with torch.no_grad():
        model.weight[0] += 3
    assert value_of(ewc, model) == pytest.approx(45)


@pytest.mark.parametrize("anchor", ["optima", "latest"])
@pytest.mark.parametrize("estimator", ["exact", "empirical", "predicted"])
def test_consolidate_adds_the_fisher_and_the_weights(estimator: str, anchor: str) -> None:
    model, loader = network(), [batch()]
    ewc, by_hand = EWC(10, anchor=anchor), EWC(10, anchor=anchor)
    ewc.consolidate(model, loader, estimator)
    by_hand.add(diagonal_fisher(model, loader, estimator), dict(model.named_parameters()))
    assert same(ewc, by_hand.state_dict())
    assert_close(ewc.center, dict(model.named_parameters()), 0)
    assert not any(t.requires_grad for t in (*ewc.precision.values(), *ewc.center.values()))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(6, 3), torch.arange(6) % 3


def consolidated() -> tuple[nn.Module, EWC]:
    model, ewc = network(), EWC(10)
    ewc.consolidate(model, [batch()])
    return model, ewc


def move(model: nn.Module, by: float = 0.1) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p += by


def test_zero_before_the_first_task_and_right_after_it_and_not_once_weights_move() -> None:
    """Exactly zero, in value and gradient; and the anchor is a copy: it does not follow the weights."""
    model, ewc = network(), EWC(10)
    assert value_of(ewc, model) == 0
    ewc.consolidate(model, [batch()])
    (penalty := ewc.penalty(model)).backward()
    assert float(penalty.detach()) == 0
    assert not any(p.grad.any() for p in model.parameters())
    move(model)
    assert value_of(ewc, model) > 0


@pytest.mark.parametrize("anchor", ["optima", "latest"])
@pytest.mark.parametrize("count", [1, 2])
def test_what_was_added_is_copied(count: int, anchor: str) -> None:
    """F and θ* may be overwritten by their owner afterwards."""
    tasks = random_tasks(count)
    ewc = filled(tasks, anchor=anchor)
    state = ewc.state_dict()
    for fisher, anchor in tasks:
        for t in (*fisher.values(), *anchor.values()):
            t.fill_(77)
    assert same(ewc, state)


def test_importance_is_live() -> None:
    """The penalty is proportional to λ, whenever it is set; and so is its step."""
    ewc, model = one_weight(2, anchor=1, importance=10), at(4)
    for importance in (5, 0, 20):
        ewc.importance = importance
        assert value_of(ewc, model) == importance * 9
        stepped = at(4)
        ewc.proximal_step(stepped, lr=0.1)
        assert stepped.w.item() == pytest.approx((4 + 0.1 * importance * 2) / (1 + 0.1 * importance * 2))


def test_penalty_works_with_an_optimiser() -> None:
    """Descent on the penalty alone brings the weights that have F > 0 back to θ*, and leaves the others."""
    (fisher, anchor), *_ = tasks = random_tasks(1)
    ewc, model = filled(tasks, importance=1), Weights(**random_tensors(99))
    before = model.values()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        ewc.penalty(model).backward()
        optimizer.step()
    for name, value in model.values().items():
        expected = torch.where(fisher[name] > 0, anchor[name], before[name])
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-3)


def test_weights_of_a_wider_type_than_at_consolidation() -> None:
    """A float32 model made float64 keeps its penalty and its step."""
    model, ewc = consolidated()
    move(model)
    expected = value_of(ewc, model)
    model.double()
    assert value_of(ewc, model) == pytest.approx(expected, rel=1e-5)
    ewc.add_gradient(model)
    assert_close(
        {n: p.grad for n, p in model.named_parameters()},
        {n: 10 * ewc.precision[n] * (p.detach() - ewc.center[n]) for n, p in model.named_parameters()},
        1e-6,
    )
    ewc.proximal_step(model, lr=0.1)
    assert value_of(ewc, model) < expected


def test_half_precision_model() -> None:
    """F and θ* are kept in float32; the weights stay what they are."""
    model, ewc = network().bfloat16(), EWC(10)
    ewc.consolidate(model, [(batch()[0].bfloat16(), batch()[1])])
    assert {t.dtype for t in (*ewc.precision.values(), *ewc.center.values())} == {torch.float32}
    move(model, 1)
    before = value_of(ewc, model)
    ewc.add_gradient(model)
    ewc.proximal_step(model, lr=1)
    assert value_of(ewc, model) < before
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("structure", ["diagonal", "kronecker"])
@pytest.mark.parametrize(("size", "importance"), [(1e-8, 1e7), (1e6, 1e-4)], ids=["small", "large"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_f_that_half_precision_cannot_hold(dtype: torch.dtype, size: float, importance: float, structure: Any) -> None:
    """1e-8 is zero in float16, and 1e6 infinite; the gradient, λ times as much, is neither."""
    model, ewc = nn.Linear(3, 2, bias=False).to(dtype), EWC(importance, structure=structure)
    f = {"weight": torch.full((2, 3), size)}
    factors = {"": Factors(size**0.5 * torch.eye(3), size**0.5 * torch.eye(2), ("weight",))}
    ewc.add(f if structure == "diagonal" else KroneckerFisher(factors, {}), dict(model.named_parameters()))
    with torch.no_grad():
        model.weight.add_(0.01)
    ewc.add_gradient(model)
    offset = model.weight.detach().float() - ewc.center["weight"]
    assert model.weight.grad.dtype == dtype
    torch.testing.assert_close(model.weight.grad.float(), importance * size * offset, rtol=0.01, atol=0)


@pytest.mark.parametrize("structure", ["diagonal", "kronecker"])
def test_autocast_rounds_neither_the_penalty_nor_the_step(structure: Any) -> None:
    model, ewc = network(), EWC(1e4, structure=structure)
    ewc.consolidate(model, [batch()], progress=False)
    move(model, 1)
    found = []
    for autocast in (False, True):
        own = copy.deepcopy(model)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = ewc.penalty(own)
            value.backward()
            ewc.add_gradient(own)
            gradients = [p.grad.clone() for p in own.parameters()]
            ewc.proximal_step(own, lr=1)
        found.append([value.detach(), *gradients, *(p.detach() for p in own.parameters())])
    for plain, cast in zip(*found, strict=True):
        torch.testing.assert_close(cast, plain, rtol=1e-6, atol=0)


@pytest.mark.parametrize("structure", ["diagonal", "kronecker"])
def test_add_gradient_joins_a_sparse_gradient(structure: Any) -> None:
    """As backward would, which makes a dense one of both."""
    model = nn.Sequential(nn.Embedding(6, 2, sparse=True), nn.Flatten(), nn.Linear(6, 3))
    tokens, ewc = torch.randint(6, (10, 3)), EWC(10, structure=structure)
    ewc.consolidate(model, [(tokens, torch.randint(3, (10,)))], progress=False)
    move(model, 1)
    (model(tokens).sum() + ewc.penalty(model)).backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(tokens).sum().backward()
    ewc.add_gradient(model)
    for p, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient)


# The cost does not grow with the tasks


def numbers_in(ewc: EWC) -> int:
    """All numbers that the object holds, wherever it holds them."""
    state = [ewc.__dict__]
    count = 0
    while state:
        value = state.pop()
        if isinstance(value, dict):
            state.extend(value.values())
        elif isinstance(value, list | tuple):
            state.extend(value)
        else:
            count += value.numel() if isinstance(value, Tensor) else 1
    return count


@histories
def test_ten_tasks_take_no_more_room_and_no_more_operations_than_one(decay: float, anchor: str) -> None:
    costs = []
    for count in (1, 2, 10):
        model = Weights(**random_tensors(99))  # a new one: the first gradient of a tensor takes other operations
        ewc = filled(random_tasks(count), decay=decay, anchor=anchor)
        with oracles.Watch() as watch:
            ewc.penalty(model).backward()
            ewc.add_gradient(model)
            ewc.proximal_step(model, lr=0.1)
            ewc.proximal_step(model, lr=0.1)
        costs.append((numbers_in(ewc), watch.operations))
    assert costs[0] == costs[1] == costs[2]


# The proximal step


@pytest.mark.parametrize(("precision", "anchor", "theta", "lr", "importance"), [(2, 1, 4, 0.1, 10), (0.5, -3, 0, 1, 7)])
def test_proximal_step_by_hand(precision: float, anchor: float, theta: float, lr: float, importance: float) -> None:
    """(θ + ηλSμ) / (1 + ηλS): from 4 towards 1 with ηλS = 2 it is 2."""
    model = at(theta)
    one_weight(precision, anchor, importance).proximal_step(model, lr)
    pull = lr * importance * precision
    assert model.w.item() == pytest.approx((theta + pull * anchor) / (1 + pull), rel=1e-14)


@histories
@pytest.mark.parametrize("importance", [1e-3, 1, 1e3])
def test_proximal_step_lands_where_its_objective_is_flat(importance: float, decay: float, anchor: str) -> None:
    """At θ' the gradient of ½‖θ' − θ‖² + η·penalty(θ') vanishes, the penalty being the plain sum over tasks."""
    tasks, lr = random_tasks(3), 0.1
    model = Weights(**random_tensors(99))
    before = model.values()
    filled(tasks, importance, decay=decay, anchor=anchor).proximal_step(model, lr)
    distance = sum((0.5 * (p - before[name]) ** 2).sum() for name, p in model.named_parameters())
    (distance + lr * oracles.penalty(importance, tasks, dict(model.named_parameters()), decay, anchor)).backward()
    for name, gradient in model.gradients().items():
        scale = 1 + lr * importance * sum(fisher[name].max() for fisher, _ in tasks)
        assert float(gradient.abs().max() / scale) < 1e-13, name


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("importance", [10.0**n for n in range(-3, 13, 3)])
def test_proximal_step_never_overshoots(importance: float, dtype: torch.dtype) -> None:
    """For every λ the weights end between where they were and μ, however often it is applied."""
    ewc, model = filled(random_tasks(2, dtype), importance), Weights(**random_tensors(99, dtype))
    for _ in range(5):
        before = model.values()
        ewc.proximal_step(model, lr=0.1)
        for name, p in model.values().items():
            assert p.isfinite().all()
            assert ((p - before[name]) * (ewc.center[name] - p) >= 0).all(), name
    if importance == 1e12:
        assert_close(model.values(), {n: torch.where(ewc.precision[n] > 0, ewc.center[n], model.values()[n])
                                      for n in SHAPES}, 1e-6)  # fmt: skip


def test_proximal_step_is_a_gradient_step_to_first_order() -> None:
    """Halving η quarters their difference."""
    ewc = filled(random_tasks(3), importance=1)

    def difference(lr: float) -> float:
        proximal, plain = Weights(**random_tensors(99)), Weights(**random_tensors(99))
        ewc.proximal_step(proximal, lr)
        ewc.penalty(plain).backward()
        torch.optim.SGD(plain.parameters(), lr=lr).step()
        return max(float((proximal.values()[n] - plain.values()[n]).abs().max()) for n in SHAPES)

    ratios = [difference(lr) / difference(lr / 2) for lr in (1e-4, 1e-5)]
    assert ratios == pytest.approx([4, 4], rel=0.02)
    assert difference(1e-5) > 0


def test_k_small_proximal_steps_are_close_to_one_of_k_times_the_rate() -> None:
    """What lets the step be taken every k steps with kη: k steps give (1 + ηλS)^−k, one gives (1 + kηλS)^−1."""
    often, once, ewc = at(4), at(4), one_weight(2, anchor=1, importance=0.1)
    for _ in range(10):
        ewc.proximal_step(often, lr=0.01)
    ewc.proximal_step(once, lr=0.1)
    assert often.w.item() - 1 == pytest.approx(3 * 1.002**-10, rel=1e-14)
    assert once.w.item() - 1 == pytest.approx(3 / 1.02, rel=1e-14)
    assert often.w.item() == pytest.approx(once.w.item(), rel=2e-4)


@pytest.mark.parametrize("change", ["lr", "importance", "add", "load", "to"])
def test_proximal_step_forgets_what_it_had_prepared_when_something_changes(change: str) -> None:
    """The pull is kept from step to step; it must not outlive the λ, η, S or μ that it was made from."""
    ewc = one_weight(2, anchor=1, importance=10)
    ewc.proximal_step(at(4), lr=0.1)
    lr, pull, center = 0.1, 2.0, 1.0
    if change == "lr":
        lr, pull = 0.2, 4.0
    elif change == "importance":
        ewc.importance, pull = 20, 4.0
    elif change == "add":
        ewc.add({"w": torch.tensor([6.0]).double()}, {"w": torch.tensor([9.0]).double()})
        pull, center = 8.0, 7.0
    elif change == "load":
        ewc.load_state_dict(one_weight(6, anchor=2, importance=10).state_dict())
        pull, center = 6.0, 2.0
    else:
        ewc.to("meta").proximal_step(at(4).to("meta"), lr)
        ewc.load_state_dict(one_weight(2, anchor=1, importance=10).state_dict())
    model = at(4)
    ewc.proximal_step(model, lr)
    assert model.w.item() == pytest.approx((4 + pull * center) / (1 + pull), rel=1e-14)


def test_weights_that_no_task_needs_are_left_alone() -> None:
    """Where S = 0 neither the gradient nor the step, at any λ, touches a weight; nor does 0/0 creep in."""
    zeros = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for count in (1, 2):
        ewc = filled([(zeros, random_tensors(k)) for k in range(count)], importance=1e12)
        model = Weights(**random_tensors(99))
        before = model.values()
        ewc.proximal_step(model, lr=1)
        (penalty := ewc.penalty(model)).backward()
        assert float(penalty.detach()) == 0
        assert_close(ewc.center, random_tensors(count - 1), 1e-15)
        assert_close(model.values(), before, 0)
        assert not any(g.any() for g in model.gradients().values())


@pytest.mark.parametrize("lr_or_importance", ["lr", "importance"])
def test_proximal_step_of_no_strength_changes_nothing(lr_or_importance: str) -> None:
    model = Weights(**random_tensors(99))
    ewc = filled(random_tasks(2), importance=0 if lr_or_importance == "importance" else 10)
    ewc.proximal_step(model, lr=0 if lr_or_importance == "lr" else 0.1)
    assert_close(model.values(), random_tensors(99), 0)
    EWC(10).proximal_step(model, lr=0.1)  # nor before the first task
    assert_close(model.values(), random_tensors(99), 0)


@pytest.mark.parametrize(("factor", "converges"), [(0.95, True), (1.05, False)])
def test_largest_stable_importance_divides_convergence_from_divergence(factor: float, converges: bool) -> None:
    """Gradient descent on the penalty alone, a little below the limit and a little above it."""
    ewc = filled(random_tasks(2), importance=1)
    ewc.importance = factor * ewc.largest_stable_importance(lr=0.03)
    model = Weights(**random_tensors(99))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    values = []
    for _ in range(200):
        optimizer.zero_grad()
        (penalty := ewc.penalty(model)).backward()
        optimizer.step()
        values.append(float(penalty.detach()))
    assert (values[-1] <= values[0]) == converges
    assert (values[-1] > 1e6 * values[0]) != converges


def test_largest_stable_importance_by_hand() -> None:
    """2 / (η · max S) = 2 / (0.1 · 4) = 5; without any curvature there is no limit."""
    assert one_weight(4, anchor=0).largest_stable_importance(lr=0.1) == pytest.approx(5)
    assert one_weight(4, anchor=0).largest_stable_importance(lr=1) == pytest.approx(0.5)
    assert one_weight(0, anchor=0).largest_stable_importance(lr=0.1) == math.inf
    assert EWC(1).largest_stable_importance(lr=0.1) == math.inf


# Models that change


def test_frozen_parameters_are_not_protected_and_not_moved() -> None:
    """What is frozen before consolidating has no F; what is frozen later keeps its value, also in the proximal step."""
    model = network()
    model[0].weight.requires_grad_(False)
    ewc = EWC(10)
    ewc.consolidate(model, [batch()])
    assert list(ewc.precision) == ["0.bias", "2.weight", "2.bias"]
    move(model)
    model[2].weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ewc.penalty(model).backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["0.bias", "2.bias"]
    ewc.proximal_step(model, lr=1)
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["0.bias", "2.bias"]


def test_a_parameter_frozen_later_keeps_what_earlier_tasks_said_of_it() -> None:
    """The second task adds nothing to it; decay still applies."""
    model, ewc = consolidated()
    ewc.decay = 0.5
    first = ewc.state_dict()
    move(model)
    model[0].weight.requires_grad_(False)
    ewc.consolidate(model, [batch(1)])
    assert torch.equal(ewc.precision["0.weight"], 0.5 * first["precision"]["0.weight"])
    assert torch.equal(ewc.center["0.weight"], first["center"]["0.weight"])
    assert not torch.equal(ewc.center["0.bias"], first["center"]["0.bias"])


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.first = nn.Linear(3, 4), nn.Linear(4, 3)
        self.second: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        return (self.second or self.first)(self.body(x).tanh())


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_a_new_head_is_free_until_it_is_consolidated(decay: float) -> None:
    model, ewc = TwoHeads(), EWC(10, decay)
    ewc.consolidate(model, [batch()])
    old = ewc.state_dict()["precision"]
    model.second = nn.Linear(4, 3)
    move(model)
    ewc.penalty(model).backward()
    assert model.second.weight.grad is None
    ewc.consolidate(model, [batch(1)])
    new = diagonal_fisher(model, [batch(1)])
    assert torch.equal(ewc.precision["second.weight"], new["second.weight"])
    assert torch.equal(ewc.center["second.weight"], model.second.weight)
    assert torch.equal(ewc.precision["first.weight"], decay * old["first.weight"])  # the new task does not use it
    assert_close({"": ewc.precision["body.weight"]}, {"": decay * old["body.weight"] + new["body.weight"]}, 1e-6)


def test_penalty_of_a_model_with_extra_parameters_is_unchanged() -> None:
    model, ewc = consolidated()
    move(model)
    expected = value_of(ewc, model)
    model.add_module("3", nn.Linear(3, 3))
    assert value_of(ewc, model) == expected


# More rows


def consolidated_twice(structure: Any, importance: float = 10) -> tuple[nn.Module, EWC]:
    model, ewc = network(), EWC(importance, decay=0.7, structure=structure)
    model[1] = nn.LayerNorm(4)  # with Kronecker factors for the others, it has a diagonal
    model.double()
    for k in range(2):
        move(model)
        ewc.consolidate(model, [(batch(k)[0].double(), batch(k)[1])])
    move(model)
    return model, ewc


def wider(model: nn.Module, inputs: int = 4, outputs: int = 5) -> nn.Module:
    """The same model with another last layer, of which the first rows are the old ones."""
    new = copy.deepcopy(model)
    new[2] = nn.Linear(inputs, outputs).double()
    if (inputs, outputs) >= (4, 3):
        with torch.no_grad():
            new[2].weight[:3, :4], new[2].bias[:3] = model[2].weight, model[2].bias
    return new


@structures
@pytest.mark.parametrize("importance", [10, 1e9])
def test_grow_frees_the_new_rows_and_leaves_the_old_ones_as_they_were(structure: Any, importance: float) -> None:
    """In value, gradient and proximal step, and in S; whatever stands in the new rows."""
    model, ewc = consolidated_twice(structure, importance)
    new = wider(model)
    free, tolerance = new[2].weight[3:].detach().clone(), 0 if structure == "diagonal" else 1e-13
    # G's rows add up to nothing, so a gradient G ΔW A may be all rounding: of terms as large as λ S, ΔW being below 1.
    rounding = tolerance * importance * max(float(s.max()) for s in ewc.precision.values())
    values = []
    for each in (model, new):
        if each is new:
            ewc.grow(new)
        values.append(value_of(ewc, each))
        ewc.add_gradient(each)
        ewc.proximal_step(each, lr=0.1)
    assert values[1] == pytest.approx(values[0], rel=1e-13)
    assert values[0] > 0
    for name, old in model.named_parameters():
        p = new.get_parameter(name)
        torch.testing.assert_close(p[: len(old)], old, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(p.grad[: len(old)], old.grad, rtol=1e-13, atol=rounding)
        assert not p.grad[len(old) :].any()
        assert not ewc.precision[name][len(old) :].any()
    torch.testing.assert_close(new[2].weight[3:], free, rtol=tolerance, atol=tolerance)


@structures
def test_new_rows_are_protected_once_they_are_consolidated(structure: Any) -> None:
    """The old model is refused from then on, and the new one before it has grown."""
    model, ewc = consolidated_twice(structure)
    new, old_row = wider(model), ewc.precision["2.weight"][0]
    task = [(batch(2)[0].double(), torch.arange(6) % 5)]
    with pytest.raises(ValueError, match=r"found shape \(5, 4\) \(ewc.grow\(model\) accepts new rows\)"):
        ewc.penalty(new)
    with pytest.raises(ValueError, match=r"2(\.weight)? has changed its shape .*; see EWC.grow"):
        ewc.consolidate(new, task)
    ewc.grow(new)
    ewc.consolidate(new, task)
    assert ewc.tasks == 3
    assert (ewc.precision["2.weight"] > 0).all()
    assert (ewc.precision["2.bias"] > 0).all()
    assert not torch.equal(ewc.precision["2.weight"][0], old_row)
    move(new)
    before = value_of(ewc, new)
    with torch.no_grad():
        new[2].weight[3:] += 1
    assert value_of(ewc, new) > before
    with pytest.raises(ValueError, match=r"expected 2.weight of shape \(5, 4\), found shape \(3, 4\)"):
        ewc.penalty(model)


@structures
def test_grow_without_new_rows_or_tasks_changes_nothing(structure: Any) -> None:
    """Nor does it change what the next task does."""
    model, ewc = consolidated_twice(structure)
    state = ewc.state_dict()
    ewc.grow(model)
    assert unchanged(ewc, state)
    (other := EWC(1)).load_state_dict(state)
    for each in (ewc, other):
        each.consolidate(model, [(batch(2)[0].double(), batch(2)[1])])
    assert unchanged(ewc, other.state_dict())
    EWC(1, structure=structure).grow(model)


@structures
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: wider(model, 4, 2), r"2.*: shape \(3, .\) cannot grow to \(2, .\)"),
        (lambda model: wider(model, 5, 3), r"2.weight: shape \(3, 4\) cannot grow to \(3, 5\)"),
        (lambda model: wider(model, 5, 4), r"2.weight: shape \(3, 4\) cannot grow to \(4, 5\)"),
        (lambda model: model[:2], "no parameter '2.weight'; it has 0.weight, 0.bias, 1.weight, 1.bias"),
    ],
    ids=["fewer rows", "more columns", "more of both", "missing"],
)
def test_another_change_than_new_rows_is_refused(structure: Any, change: Callable[..., Any], message: str) -> None:
    model, ewc = consolidated_twice(structure)
    kept, before = ewc.quadratic, value_of(ewc, model)
    with pytest.raises(ValueError, match=message):
        ewc.grow(change(model))
    assert ewc.quadratic is kept
    assert value_of(ewc, model) == before


def test_grow_takes_a_parameter_that_is_a_single_number() -> None:
    ewc, model = filled(random_tasks(2)), Weights(**random_tensors(99))
    before = value_of(ewc, model)
    ewc.grow(model)
    assert value_of(ewc, model) == before


# Saving


@histories
def test_checkpoint_round_trip(tmp_path: Any, decay: float, anchor: str) -> None:
    """Everything comes back, to the last bit, and goes on in the same way; read with weights_only=True."""
    tasks = random_tasks(3)
    ewc, loaded = filled(tasks[:2], decay=decay, anchor=anchor), EWC(1)
    save_checkpoint(tmp_path / "ewc.pt", ewc=ewc)
    load_checkpoint(tmp_path / "ewc.pt", ewc=loaded)
    assert same(loaded, ewc.state_dict())
    for each in (ewc, loaded):
        each.add(*tasks[2])
    assert same(loaded, ewc.state_dict())
    model = Weights(**random_tensors(99))
    assert torch.equal(loaded.penalty(model), ewc.penalty(model))


def test_an_empty_one_is_saved_too(tmp_path: Any) -> None:
    save_checkpoint(tmp_path / "ewc.pt", ewc=EWC(3, decay=0.5, anchor="latest"))
    loaded = filled(random_tasks(1))
    load_checkpoint(tmp_path / "ewc.pt", ewc=loaded)
    assert same(loaded, EWC(3, decay=0.5, anchor="latest").state_dict())


def test_a_state_is_a_copy_in_both_directions() -> None:
    ewc, loaded = filled(random_tasks(2)), EWC(1)
    state = ewc.state_dict()
    kept = copy.deepcopy(state)
    loaded.load_state_dict(state)
    for key in ("precision", "center"):
        for t in state[key].values():
            t.fill_(77)
    assert same(ewc, kept)
    assert same(loaded, kept)


def leaves(state: Any, path: str = "") -> dict[str, Any]:
    """What stands at the ends of nested dictionaries."""
    if not isinstance(state, dict):
        return {path: state}
    return {p: leaf for key in state for p, leaf in leaves(state[key], f"{path}/{key}").items()}


def unchanged(ewc: EWC, state: dict[str, Any]) -> bool:
    """As `same`, for either structure."""
    now, then = leaves(ewc.state_dict()), leaves(state)
    equal = (torch.equal(now[p], then[p]) if isinstance(then[p], Tensor) else now[p] == then[p] for p in then)
    return list(now) == list(then) and all(equal)


@structures
@pytest.mark.parametrize("start", ["diagonal", "kronecker"])
def test_checkpoint_of_either_structure_goes_into_an_ewc_of_either(tmp_path: Any, start: Any, structure: Any) -> None:
    """To the last bit, with weights_only=True; and it goes on in the same way, also after more rows."""
    (model, ewc), loaded = consolidated_twice(structure), EWC(1, structure=start)
    save_checkpoint(tmp_path / "ewc.pt", ewc=ewc)
    load_checkpoint(tmp_path / "ewc.pt", ewc=loaded)
    assert unchanged(loaded, ewc.state_dict())
    assert torch.equal(loaded.penalty(model), ewc.penalty(model))
    new = wider(model)
    for each in (ewc, loaded):
        each.grow(new)
        each.consolidate(new, [(batch(2)[0].double(), batch(2)[1])])
    assert unchanged(loaded, ewc.state_dict())
    move(new)
    assert torch.equal(loaded.penalty(new), ewc.penalty(new))


@structures
def test_a_state_of_either_structure_is_a_copy_in_both_directions(structure: Any) -> None:
    (_, ewc), loaded = consolidated_twice(structure), EWC(1)
    state = ewc.state_dict()
    kept = copy.deepcopy(state)
    loaded.load_state_dict(state)
    for tensor in [leaf for leaf in leaves(state).values() if isinstance(leaf, Tensor)]:
        tensor.fill_(77)
    for part in [part for part in state.values() if isinstance(part, dict)]:
        part.clear()
    assert unchanged(ewc, kept)
    assert unchanged(loaded, kept)
    assert ewc.to("meta") is ewc
    assert {leaf.device.type for leaf in leaves(ewc.state_dict()).values() if isinstance(leaf, Tensor)} == {"meta"}


def test_to_moves_everything_and_returns_itself() -> None:
    ewc = filled(random_tasks(1))
    assert ewc.to("meta") is ewc
    assert {t.device.type for t in (*ewc.precision.values(), *ewc.center.values())} == {"meta"}


# Mistakes are named, and change nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"importance": -1}, "importance=-1"),
        ({"importance": math.nan}, "importance=nan"),
        ({"importance": math.inf}, "importance=inf"),
        ({"importance": 1, "decay": -0.1}, "decay=-0.1"),
        ({"importance": 1, "decay": 1.1}, "decay=1.1"),
        ({"importance": 1, "decay": math.nan}, "decay=nan"),
        ({"importance": 1, "anchor": "newest"}, "anchor='newest'.*'optima', 'latest'"),
        ({"importance": 1, "structure": "full"}, "structure='full'.*'diagonal', 'kronecker'"),
        ({"importance": 1, "structure": "kronecker", "anchor": "optima"}, "'optima' needs structure='diagonal'"),
    ],
    ids=str,
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EWC(**arguments)


def test_a_sum_of_kronecker_products_has_the_latest_anchor() -> None:
    """Only the diagonal can keep the anchor of each task; and does so unless told otherwise."""
    assert EWC(1).anchor == EWC(1, structure="diagonal").anchor == "optima"
    assert EWC(1, anchor="latest").anchor == EWC(1, structure="kronecker").anchor == "latest"
    assert EWC(1, anchor="latest", structure="kronecker").anchor == "latest"


@structures
@pytest.mark.parametrize("count", [0, 1])
def test_the_fisher_of_the_other_structure_is_refused(structure: Any, count: int) -> None:
    ewc, model = EWC(1, structure=structure), network()
    for _ in range(count):
        ewc.consolidate(model, [batch()])
    kept, tasks = ewc.quadratic, ewc.tasks
    other = KroneckerFisher({}, {}) if structure == "diagonal" else diagonal_fisher(model, [batch()])
    with pytest.raises(TypeError, match=rf"structure='{structure}': take F from {structure}_fisher\(\)"):
        ewc.add(other, dict(model.named_parameters()))
    assert (ewc.quadratic, ewc.tasks) == (kept, tasks)


@structures
def test_a_state_tells_its_structure(structure: Any) -> None:
    """An EWC of the other structure becomes one of this."""
    state = EWC(3, 0.5, structure=structure).state_dict()
    assert state["structure"] == structure
    for start in ("diagonal", "kronecker"):
        (loaded := EWC(1, structure=start)).load_state_dict(state)
        assert (loaded.structure, loaded.anchor) == (structure, EWC(1, structure=structure).anchor)
        loaded.consolidate(model := network(), [batch()])  # and measures what it needs
        assert value_of(loaded, model) == 0


def test_a_wrong_importance_leaves_the_old_one() -> None:
    ewc = EWC(10)
    with pytest.raises(ValueError, match="importance=-1"):
        ewc.importance = -1
    assert ewc.importance == 10


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf])
def test_proximal_step_wants_a_learning_rate(lr: float) -> None:
    with pytest.raises(ValueError, match=f"lr={lr}"):
        one_weight(2, 1).proximal_step(at(1), lr)


@pytest.mark.parametrize("lr", [0, -0.1, math.nan, math.inf])
def test_largest_stable_importance_wants_a_learning_rate(lr: float) -> None:
    with pytest.raises(ValueError, match=f"lr={lr}"):
        one_weight(2, 1).largest_stable_importance(lr)


@pytest.mark.parametrize(
    "use",
    [EWC.penalty, EWC.add_gradient, lambda ewc, model: ewc.proximal_step(model, 0.1)],
    ids=["value", "gradient", "step"],
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.__delitem__(2), "expected 2.weight.*no such parameter; the model has 0.weight, 0.bias"),
        (lambda model: model.__setitem__(2, nn.Linear(4, 5)), r"2.weight of shape \(3, 4\), found shape \(5, 4\)"),
        (lambda model: model.__setitem__(2, nn.Linear(4, 3, bias=False)), "expected 2.bias.*no such parameter"),
        (lambda model: model.to("meta"), r"the model is on meta, EWC on cpu: call ewc.to\('meta'\)"),
    ],
    ids=["missing layer", "other shape", "missing bias", "other device"],
)
def test_another_model_is_refused(change: Callable[[nn.Module], Any], message: str, use: Callable[..., Any]) -> None:
    model, ewc = consolidated()
    change(model)
    with pytest.raises(ValueError, match=message):
        use(ewc, model)


def test_a_parameter_that_changed_its_shape_cannot_be_consolidated_again() -> None:
    model, ewc = consolidated()
    ewc.proximal_step(model, 0.1)
    state = ewc.state_dict()
    model[2] = nn.Linear(4, 5)
    with pytest.raises(ValueError, match=r"2\.weight has changed its shape since an earlier task"):
        ewc.consolidate(model, [batch()])
    assert same(ewc, state)


@pytest.mark.parametrize(
    ("where", "value"),
    [("fisher", math.nan), ("fisher", math.inf), ("fisher", -1.0), ("anchor", math.nan), ("anchor", -math.inf)],
)
@pytest.mark.parametrize("count", [0, 1])
def test_a_task_that_is_not_finite_or_negative_leaves_no_trace(count: int, where: str, value: float) -> None:
    """The last parameter is the bad one, when all others have been taken up already."""
    ewc = filled(random_tasks(count))
    state = ewc.state_dict()
    fisher, anchor = random_tasks(3)[2]
    {"fisher": fisher, "anchor": anchor}[where]["scale"].fill_(value)
    with pytest.raises(ValueError, match="scale: F must be finite and not negative"):
        ewc.add(fisher, anchor)
    assert same(ewc, state)


def test_a_diverged_model_cannot_be_consolidated() -> None:
    model, ewc = consolidated()
    state = ewc.state_dict()
    move(model, math.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        ewc.consolidate(model, [batch()])
    assert same(ewc, state)


def without(state: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: {},
        lambda state: None,
        lambda state: nn.Linear(2, 2).state_dict(),
        lambda state: without(state, "importance"),
        lambda state: without(state, "constant"),
        lambda state: without(state, "center"),
        lambda state: without(state, "structure"),  # from before there was more than one
        lambda state: state | {"structure": "full"},
        lambda state: state | {"structure": "kronecker"},
        lambda state: state | {"structure": "kronecker", "anchor": "latest"},
        lambda state: state | {"importance": -1},
        lambda state: state | {"decay": 2},
        lambda state: state | {"anchor": "newest"},
        lambda state: state | {"tasks": "many"},
        lambda state: state | {"precision": 3},
        lambda state: state | {"precision": {"w": 3}},
        lambda state: state | {"precision": {}},
        lambda state: state | {"center": {name: t.flatten() for name, t in state["center"].items()}},
    ],
)
def test_a_spoilt_state_is_refused_and_leaves_no_trace(spoil: Callable[[dict[str, Any]], Any]) -> None:
    ewc = filled(random_tasks(2))
    state = ewc.state_dict()
    with pytest.raises(ValueError, match=r"state_dict|importance|decay|anchor|many"):
        ewc.load_state_dict(spoil(filled(random_tasks(3), importance=5, decay=0.5).state_dict()))
    assert same(ewc, state)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("structure", None), ("factors", None), ("counts", None), ("anchors", None), ("rest", None),
        ("rest/center", None), ("counts/2", None), ("factors/0/a", None), ("factors/0/parameters", None),
        ("anchors/2.bias", None), ("structure", "diagonal"), ("anchor", "optima"), ("factors", 3), ("factors/0", 3),
        ("factors/0/g", 3), ("anchors/0.bias", "x"), ("rest", 3),
        ("factors/0/g", torch.zeros(2, 2)),
        ("anchors/0.weight", torch.zeros(2, 2)),
        ("counts/0", "many"),
    ],
)  # fmt: skip
def test_a_spoilt_state_of_kronecker_factors_is_refused_and_leaves_no_trace(path: str, value: Any) -> None:
    """Where the value is None, the entry is missing."""
    (_, ewc), state = consolidated_twice("kronecker"), consolidated_twice("kronecker", 5)[1].state_dict()
    kept, (*outer, last) = ewc.state_dict(), path.split("/")
    inner = reduce(getitem, outer, state)
    inner.pop(last) if value is None else inner.update({last: value})
    with pytest.raises(ValueError, match="this is no state_dict of an EWC"):
        ewc.load_state_dict(state)
    assert unchanged(ewc, kept)


# In which precision


def test_the_constant_is_summed_in_double_precision() -> None:
    """½ (2²⁴ + 1) has more digits than single precision."""
    ewc = EWC(1)
    for star in (torch.zeros(2), torch.tensor([4096.0, 1.0])):
        ewc.add({"w": torch.ones(2)}, {"w": star})
    assert ewc.quadratic.constant == 0.5 * (2**24 + 1)


def test_the_gradient_follows_a_model_into_another_precision() -> None:
    """What was kept from the last step has the old one."""
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    ewc = EWC(3)
    ewc.add({name: torch.rand_like(p) for name, p in model.named_parameters()}, dict(model.named_parameters()))
    ewc.add_gradient(model)
    model = model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.rand_like(p))
            p.grad = None
    ewc.add_gradient(model)
    for name, p in model.named_parameters():
        wanted = 3 * ewc.precision[name].double() * (p.detach() - ewc.center[name].double())
        torch.testing.assert_close(p.grad, wanted, rtol=1e-14, atol=0)


def test_the_penalty_has_no_second_derivative_to_be_wrong() -> None:
    model = nn.Linear(2, 2)
    ewc = EWC(3)
    ewc.add({"weight": torch.ones(2, 2)}, {"weight": torch.zeros(2, 2)})
    scale = torch.ones((), requires_grad=True)
    (gradient,) = torch.autograd.grad(scale * ewc.penalty(model), [model.weight], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_eigenbases_are_found_in_double_precision() -> None:
    """Of eigenvalues from 1e4 to 1e-4, single precision would lose the small ones, where ηλ of 1e4 still moves."""
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    a = (q @ torch.diag(torch.tensor([1e4, 1.0, 1e-3], dtype=torch.float64)) @ q.T).float()
    a = (a + a.T) / 2
    model = nn.Linear(3, 2, bias=False)
    ewc = EWC(1e3, structure="kronecker")
    ewc.add(KroneckerFisher({"": Factors(a, torch.eye(2), ("weight",))}, {}), {"weight": torch.zeros(2, 3)})
    before = model.weight.detach().double()
    ewc.proximal_step(model, 1)
    wanted = torch.linalg.solve(torch.eye(3, dtype=torch.float64) + 1e3 * a.double(), before.T).T
    torch.testing.assert_close(model.weight.detach().double(), wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_a_diagonal_part_that_a_task_does_not_need_gets_its_anchor_all_the_same() -> None:
    """Kronecker factors are centred on the newest θ*, and so is what has none."""
    factors = {"": Factors(torch.eye(2), torch.eye(2), ("weight",))}
    ewc = EWC(1, structure="kronecker")
    for needed, star in ((1.0, 0.0), (0.0, 5.0)):
        theta = {"weight": torch.full((2, 2), star), "scale": torch.full((3,), star)}
        ewc.add(KroneckerFisher(factors, {"scale": torch.full((3,), needed)}), theta)
    assert ewc.center["scale"].tolist() == [5, 5, 5]


def test_complex_weights_are_held_by_their_distance() -> None:
    """½ λ F |θ − θ*|², and its gradient λ F (θ − θ*), as torch has it for complex numbers."""
    model = nn.Module()
    model.w = nn.Parameter(torch.tensor([1 + 1j, 2j]))
    ewc = EWC(2)
    ewc.add({"w": torch.tensor([3.0, 0.5])}, {"w": torch.tensor([1 + 0j, 0j])})
    penalty = ewc.penalty(model)
    assert penalty.item() == pytest.approx(3 * 1 + 0.5 * 4)
    (gradient,) = torch.autograd.grad(penalty, [model.w])
    ewc.add_gradient(model)
    assert gradient.tolist() == pytest.approx([6j, 2j])
    assert model.w.grad.tolist() == pytest.approx([6j, 2j])
    ewc.proximal_step(model, 0.5)
    assert model.w.tolist() == pytest.approx([1 + 0.25j, 2j / 1.5])
