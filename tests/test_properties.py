"""What holds for every shape, dtype, grouping and λ: examples are chosen by hypothesis, the same at every run."""

import copy
import math
from typing import Any

import hypothesis.strategies as st
import oracles
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from contlearn import EWC, diagonal_fisher, kronecker_fisher

same = settings(derandomize=True, deadline=None, max_examples=40, database=None)
sizes = st.integers(1, 6)
strengths = st.floats(-12, 12).map(lambda exponent: 10**exponent)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


DTYPES = st.sampled_from(list(TOLERANCE))


@st.composite
def networks(draw: Any, dtypes: Any = DTYPES) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network with some of its parameters frozen, its images and labels."""
    inputs, hidden, classes, images = draw(sizes), draw(sizes), draw(st.integers(2, 5)), draw(st.integers(1, 12))
    torch.manual_seed(draw(st.integers(0, 99)))
    norm = draw(st.sampled_from([nn.Identity, nn.LayerNorm, nn.BatchNorm1d]))
    body = nn.Linear(inputs, hidden, bias=draw(st.booleans()))
    model = nn.Sequential(body, norm(hidden), draw(st.sampled_from([nn.ReLU, nn.Tanh]))(), nn.Linear(hidden, classes))
    names = [name for name, _ in model.named_parameters()]
    for name in draw(st.sets(st.sampled_from(names), max_size=len(names) - 1)):
        model.get_parameter(name).requires_grad_(False)
    dtype = draw(dtypes)
    return model.to(dtype), torch.randn(images, inputs, dtype=dtype), torch.randint(classes, (images,))


@same
@given(network=networks(), cut=st.integers(1, 5), estimator=st.sampled_from(["exact", "empirical", "predicted"]))
def test_diagonal_is_the_loops_however_images_are_grouped(network: Any, cut: int, estimator: Any) -> None:
    model, images, labels = network
    batches = list(zip(images.split(cut), labels.split(cut), strict=True))
    found = diagonal_fisher(model, batches, estimator, progress=False)
    wanted = oracles.fisher(copy.deepcopy(model).double(), images.double(), labels.tolist(), estimator)
    assert list(found) == [name for name, p in model.named_parameters() if p.requires_grad]
    largest = max(float(f.max()) for f in wanted.values())
    for name, f in found.items():
        floor = (100 * torch.finfo(f.dtype).eps) ** 2 * largest  # the square of a gradient that is rounding only
        torch.testing.assert_close(
            f.double(), wanted[name], rtol=0, atol=max(1e-10, TOLERANCE[f.dtype]) * largest + floor
        )


def tasks(draw: Any, model: nn.Module, count: int) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    torch.manual_seed(draw(st.integers(0, 99)))
    return [
        (
            {name: torch.rand_like(p) * (torch.rand_like(p) > 0.3) for name, p in model.named_parameters()},
            {name: torch.randn_like(p) for name, p in model.named_parameters()},
        )
        for _ in range(count)
    ]


@same
@given(st.data(), st.integers(1, 4), strengths, st.sampled_from(["optima", "latest"]), st.floats(0, 1))
def test_one_quadratic_is_the_sum_over_the_tasks(
    data: Any, count: int, importance: float, anchor: Any, decay: float
) -> None:
    model, *_ = data.draw(networks(st.just(torch.float64)))
    known = tasks(data.draw, model, count)
    ewc = EWC(importance, decay, anchor)
    for fisher, star in known:
        ewc.add(fisher, star)
    wanted = oracles.penalty(importance, known, dict(model.named_parameters()), decay, anchor)
    torch.testing.assert_close(ewc.penalty(model), wanted, rtol=1e-9, atol=1e-12 * importance)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(known[-1][1][name])
    if count == 1 or anchor == "latest":
        assert float(ewc.penalty(model).detach()) == 0
    again = EWC(0)
    again.load_state_dict(ewc.state_dict())
    assert torch.equal(again.penalty(model), ewc.penalty(model))


@same
@given(st.data(), strengths, strengths, st.sampled_from(["diagonal", "kronecker"]), st.sampled_from(list(TOLERANCE)))
def test_the_proximal_step_never_leads_away(
    data: Any, importance: float, lr: float, structure: Any, dtype: Any
) -> None:
    """Towards μ or not at all, finite, and downhill, whatever λ and η."""
    model, images, labels = data.draw(networks(st.just(dtype)))
    for p in model.parameters():
        p.requires_grad_(True)
    ewc = EWC(importance, structure=structure)
    ewc.consolidate(model, [(images, labels)], progress=False)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(torch.randn_like(p))
    before, far = float(ewc.penalty(moved).detach()), distance(ewc, moved)
    ewc.proximal_step(moved, lr)
    slack = 1 + 100 * torch.finfo(dtype).eps
    assert math.isfinite(before)
    assert float(ewc.penalty(moved).detach()) <= before * slack
    assert distance(ewc, moved) <= far * slack


def distance(ewc: EWC, model: nn.Module) -> float:
    own = dict(model.named_parameters())
    return math.sqrt(sum(float((own[name].detach() - m).double().square().sum()) for name, m in ewc.center.items()))


@same
@given(
    st.data(),
    st.sampled_from([math.nan, math.inf, -math.inf, -1.0]),
    st.sampled_from(["fisher", "anchor"]),
    st.sampled_from(["add", "load"]),
)
def test_no_number_that_cannot_be_gets_in(data: Any, bad: float, where: str, how: str) -> None:
    model, *_ = data.draw(networks(st.just(torch.float64)))
    (fisher, star), (second, other) = tasks(data.draw, model, 2)
    ewc = EWC(1)
    ewc.add(fisher, star)
    before = float(ewc.penalty(model).detach())
    if where == "anchor" and bad == -1:
        bad = math.nan
    spoilt = (second if where == "fisher" else other)[data.draw(st.sampled_from(list(second)))]
    spoilt.view(-1)[data.draw(st.integers(0, spoilt.numel() - 1))] = bad
    state = ewc.state_dict() | {"precision": second, "center": other}
    with pytest.raises(ValueError, match="finite"):
        ewc.add(second, other) if how == "add" else ewc.load_state_dict(state)
    assert float(ewc.penalty(model).detach()) == before
    assert ewc.tasks == 1


@pytest.mark.parametrize(
    ("structure", "change", "message"),
    [
        ("diagonal", {"constant": -1.0}, "constant -1.0"),
        ("diagonal", {"constant": math.nan}, "constant nan"),
        ("diagonal", {"tasks": -3}, "tasks=-3"),
        ("kronecker", {"tasks": 1.5}, "tasks=1.5"),
        ("kronecker", {"counts": {"0": -1.0, "2": 1.0}}, "number of tasks"),
        ("kronecker", {"counts": {"0": math.nan, "2": 1.0}}, "number of tasks"),
    ],
)
def test_a_damaged_state_changes_nothing(structure: Any, change: dict[str, Any], message: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    ewc = EWC(2, structure=structure)
    ewc.consolidate(model, [(torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 0]))], progress=False)
    other = EWC(7)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(ewc.state_dict() | change)
    assert (other.importance, other.tasks, other.structure) == (7, 0, "diagonal")


@pytest.mark.parametrize("matrix", ["a", "g"])
def test_damaged_factors_change_nothing(matrix: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    fisher = kronecker_fisher(model, [(torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 0]))], progress=False)
    ewc, star = EWC(1, structure="kronecker"), dict(model.named_parameters())
    ewc.add(fisher, star)
    state = ewc.state_dict()
    getattr(fisher.factors["2"], matrix)[0, 0] = -1
    with pytest.raises(ValueError, match="A and G must be finite, with nothing negative"):
        ewc.add(fisher, star)
    state["factors"]["0"][matrix][0, 0] = math.nan
    with pytest.raises(ValueError, match="A and G must be finite"):
        ewc.load_state_dict(state)
    assert ewc.tasks == 1


def test_integer_importances_do_not_truncate_the_anchor() -> None:
    ewc = EWC(1)
    ewc.add({"weight": torch.tensor([2, 3])}, {"weight": torch.tensor([0.5, 0.25])})
    assert ewc.center["weight"].tolist() == [0.5, 0.25]
    assert ewc.precision["weight"].dtype == torch.float32


def test_a_missing_anchor_is_named() -> None:
    ewc = EWC(1)
    with pytest.raises(ValueError, match="an F for 'bias', but no such θ"):
        ewc.add({"weight": torch.ones(2), "bias": torch.ones(1)}, {"weight": torch.ones(2)})
    assert ewc.tasks == 0
