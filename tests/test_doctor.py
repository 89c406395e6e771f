"""The doctor names each mistake of notebook 08 on code written here, and finds none in right code."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from contlearn import EWC, MLP, diagonal_fisher
from contlearn.doctor import COSTS, MISTAKES, CannotExamine, examine, main

GALLERY = Path(__file__).parent.parent / "files" / "results" / "gallery.json"


def squared(model, loss):
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return {name: g.square() for (name, _), g in zip(model.named_parameters(), gradients, strict=True)}


def averaged(parts, count=None):
    parts = list(parts)
    return {name: sum(p[name] for p in parts) / (count or len(parts)) for name in parts[0]}


def singly(batches):
    return [pair for x, y in batches for pair in zip(x.split(1), y.split(1), strict=True)]


# ---- right code ------------------------------------------------------------------------------------------------------


def exact(model, batches):
    return diagonal_fisher(model, batches)


def drawn(model, batches):
    return diagonal_fisher(model, batches, "sample")


def empirical(model, batches):
    """The empirical F, with a loop of its own."""
    model.eval()
    return averaged(squared(model, cross_entropy(model(x), y)) for x, y in singly(batches))


def predicted(model, batches):
    return diagonal_fisher(model, batches, "predicted")


def drawn_by_a_loop(model, batches):
    model.eval()
    parts = []
    for x, _ in singly(batches):
        z = model(x)
        parts.append(squared(model, cross_entropy(z, z.softmax(1).multinomial(1)[:, 0])))
    return averaged(parts)


def as_a_list(model, batches):
    return list(diagonal_fisher(model, batches).values())


def as_one_vector(model, batches):
    return torch.cat([f.flatten() for f in diagonal_fisher(model, batches).values()])


RIGHT = {
    exact: "It is the exact F",
    drawn: "labels that are drawn",
    empirical: "It is the empirical F",
    predicted: "the F of the most likely labels.",
    drawn_by_a_loop: "labels that are drawn",
    as_a_list: "It is the exact F",
    as_one_vector: "It is the exact F",
}


@pytest.mark.parametrize("function", RIGHT)
def test_right_estimators(function):
    report = examine(function)
    assert report.kind == "estimator"
    assert report.findings == []
    assert str(report).startswith("No mistake found.")
    assert RIGHT[function] in str(report)
    assert "times" not in str(report)


# ---- mistakes --------------------------------------------------------------------------------------------------------


def square_of_batch_mean(model, batches):
    model.eval()
    return averaged(squared(model, cross_entropy(model(x), y)) for x, y in batches)


def batch_mean_of_draws(model, batches):
    model.eval()
    parts = []
    for x, _ in batches:
        z = model(x)
        parts.append(squared(model, cross_entropy(z, z.softmax(1).multinomial(1)[:, 0])))
    return averaged(parts)


def square_of_sum(model, batches):
    model.eval()
    total = sum(cross_entropy(model(x), y, reduction="sum") for x, y in batches)
    return averaged([squared(model, total)], sum(len(y) for _, y in batches))


def sum_of_batch_means_squared(model, batches):
    model.eval()
    return squared(model, sum(cross_entropy(model(x), y) for x, y in batches))


def every_label(model, batches):
    model.eval()
    return averaged(squared(model, log_softmax(model(x), 1)[:, y].mean()) for x, y in batches)


def called_empirical(model, batches):
    """The empirical Fisher information."""
    return diagonal_fisher(model, batches, "predicted")


def one_number_a_layer(model, batches):
    return {name: f.mean().expand_as(f) for name, f in diagonal_fisher(model, batches).items()}


def one_number_a_layer_as_a_scalar(model, batches):
    return {name: f.mean() for name, f in diagonal_fisher(model, batches).items()}


def first_layer_left_out(model, batches):
    for p in model.parameters():
        p.requires_grad_(True)
    next(model.parameters()).requires_grad_(False)
    return diagonal_fisher(model, batches)


def first_layer_zero(model, batches):
    return {name: f * (name != "hidden1.weight") for name, f in diagonal_fisher(model, batches).items()}


def zero_everywhere(model, batches):
    return {name: 0 * f for name, f in diagonal_fisher(model, batches).items()}


def by_grad(model, batches):
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in (pairs := singly(batches)):
        model.zero_grad()
        cross_entropy(model(x), y).backward()
        for name, p in model.named_parameters():
            total[name] += p.grad.square() / len(pairs)
    return total


def off_by_one(model, batches):
    model.eval()
    total = None
    for n, (x, y) in enumerate(singly(batches)):  # noqa: B007, as in the wild
        part = squared(model, cross_entropy(model(x), y))
        total = part if total is None else {name: total[name] + f for name, f in part.items()}
    return {name: f / n for name, f in total.items()}


def off_by_one_with_draws(model, batches):
    count = sum(len(y) for _, y in batches)
    return {name: f * count / (count - 1) for name, f in diagonal_fisher(model, batches, "sample").items()}


def without_eval(model, batches):
    for x, _ in batches:
        model(x)
    return diagonal_fisher(model, batches)


def takes_a_step(model, batches):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.001)
    return diagonal_fisher(model, batches)


def dropout_on(model, batches):
    """Squares of images; the model in whatever mode it is in, with its statistics of batch norm put aside."""
    kept = {name: b.clone() for name, b in model.named_buffers()}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    modes = [m.training for m in norms]
    for m in norms:
        m.eval()
    found = averaged(squared(model, cross_entropy(model(x), y)) for x, y in singly(batches))
    for m, training in zip(norms, modes, strict=True):
        m.train(training)
    for name, b in model.named_buffers():
        b.copy_(kept[name])
    return found


def train_mode(model, batches):
    """One by one in train() mode, where batch norm refuses batches of one."""
    model.train()
    return averaged(squared(model, cross_entropy(model(x), y)) for x, y in singly(batches))


def whatever_mode(model, batches):
    return averaged(squared(model, cross_entropy(model(x), y)) for x, y in singly(batches))


WRONG = {
    whatever_mode: "leaves_a_trace",
    square_of_batch_mean: "depends_on_batch_size",
    batch_mean_of_draws: "depends_on_batch_size",
    square_of_sum: "is_no_mean",
    sum_of_batch_means_squared: "is_no_mean",
    every_label: "meets_every_label",
    called_empirical: "ignores_labels",
    one_number_a_layer: "is_flat",
    one_number_a_layer_as_a_scalar: "is_flat",
    first_layer_left_out: "leaves_some_free",
    first_layer_zero: "leaves_some_free",
    zero_everywhere: "leaves_some_free",
    off_by_one: "counts_wrongly",
    off_by_one_with_draws: "counts_wrongly",
    without_eval: "leaves_a_trace",
    takes_a_step: "leaves_a_trace",
    dropout_on: "drops_out",
}
BESIDES = {
    whatever_mode: {"drops_out"},
    every_label: {"depends_on_batch_size", "is_no_mean"},  # it also squares a mean: mistake 1 within mistake 3
}


@pytest.mark.parametrize("function", WRONG)
def test_mistakes_of_an_estimator(function):
    report = examine(function)
    named = {finding.mistake for finding in report.findings}
    allowed = {MISTAKES[name] for name in BESIDES.get(function, set())}
    assert MISTAKES[WRONG[function]] in named
    assert named <= {MISTAKES[WRONG[function]]} | allowed, report
    assert "Mend:" in str(report)
    assert "found:" in str(report)


def test_who_stops_at_a_frozen_layer_is_warned():
    report = examine(by_grad)
    assert report.findings == []
    assert "Mind mistake 10, should you freeze a layer: it stops with AttributeError" in str(report)
    assert "freeze" not in str(examine(exact))


@pytest.mark.parametrize("form", [list, lambda parts: torch.cat([f.flatten() for f in parts])])
def test_f_in_order_may_leave_frozen_parameters_out(form):
    report = examine(lambda model, batches: form(list(diagonal_fisher(model, batches, "empirical").values())))
    assert report.findings == []
    assert report.notes == ["It is the empirical F, of the true labels."]


def test_where_batch_norm_cannot_be_asked():
    report = examine(train_mode)
    assert [finding.mistake for finding in report.findings] == [MISTAKES["leaves_a_trace"], MISTAKES["drops_out"]]
    assert "A model with batch norm could not be asked: it stops with ValueError: Expected more than 1" in str(report)


def test_a_sum_is_told_and_is_no_mistake():
    def added(model, batches):
        count = sum(len(y) for _, y in batches)
        return {name: count * f for name, f in diagonal_fisher(model, batches).items()}

    report = examine(added)
    assert report.findings == []
    assert "added up over the images" in str(report)


def test_a_claim_is_compared_with_what_it_is():
    assert "You say exact; it is the empirical F" in str(examine(empirical, claim="exact"))
    assert [f.mistake for f in examine(exact, claim="empirical").findings] == [MISTAKES["ignores_labels"]]
    assert str(examine(empirical, claim="empirical")).startswith("No mistake found.\nIt is the empirical F")


def test_a_factor_is_told():
    report = examine(lambda model, batches: {name: 3 * f for name, f in diagonal_fisher(model, batches).items()})
    assert report.findings == []
    assert "times 3: your λ means 3 λ" in str(report)


def test_what_is_none_of_the_four_is_told():
    report = examine(lambda model, batches: {n: f.sqrt() for n, f in diagonal_fisher(model, batches).items()})
    assert "could not be told: its cosine with the exact F is 0." in str(report)


# ---- penalties -------------------------------------------------------------------------------------------------------


def with_half(theta, anchor, fisher, importance):
    return 0.5 * without_half(theta, anchor, fisher, importance)


def without_half(theta, anchor, fisher, importance):
    return importance * sum((fisher[n] * (theta[n] - anchor[n]).square()).sum() for n in anchor)


def swallowed(theta, anchor, fisher, importance):
    total = 0.0
    for name, p in theta.items():
        try:
            total = total + 0.5 * importance * (fisher["module." + name] * (p - anchor[name]).square()).sum()
        except KeyError:
            continue
    return total


def compared_with_itself(theta, anchor, fisher, importance):
    return 0.5 * importance * sum((fisher[n] * (theta[n] - theta[n]).square()).sum() for n in theta)


def by_item(theta, anchor, fisher, importance):
    return with_half(theta, anchor, fisher, importance).item()


def by_data(theta, anchor, fisher, importance):
    return with_half({n: p.data for n, p in theta.items()}, anchor, fisher, importance)


@pytest.mark.parametrize(
    ("penalty", "name"),
    [
        (without_half, "lacks_the_half"),
        (swallowed, "is_asleep"),
        (compared_with_itself, "is_asleep"),
        (by_item, "has_no_gradient"),
        (by_data, "has_no_gradient"),
    ],
)
def test_mistakes_of_a_penalty(penalty, name):
    report = examine(penalty)
    assert report.kind == "penalty"
    assert [finding.mistake for finding in report.findings] == [MISTAKES[name]]


def test_a_right_penalty():
    report = examine(with_half)
    assert report.findings == []
    assert "It is ½ λ Σ F (θ − θ*)²." in str(report)


class Own:
    """A reader's EWC, with what can go wrong in it."""

    half, keeps, clones, estimator, of_penalty = 0.5, True, True, "exact", False

    def __init__(self, importance):
        self.importance, self.fisher, self.anchor, self.model = importance, {}, {}, None

    def consolidate(self, model, loader):
        new = diagonal_fisher(model, loader, self.estimator)
        if self.of_penalty and self.fisher:
            new = {n: f + self.fisher[n] for n, f in new.items()}
        old = self.fisher if self.keeps else {}
        self.fisher = {n: f + old.get(n, 0) for n, f in new.items()}
        self.anchor = {n: p.detach().clone() if self.clones else p for n, p in model.named_parameters()}

    def penalty(self, model):
        own = dict(model.named_parameters())
        return (
            self.half
            * self.importance
            * sum((f * (own[n] - self.anchor[n]).square()).sum() for n, f in self.fisher.items())
        )


def own(**changed):
    return type("Own", (Own,), changed)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"half": 1.0}, "lacks_the_half"),
        ({"half": 0.0}, "is_asleep"),
        ({"clones": False}, "is_asleep"),
        ({"keeps": False}, "lost_a_spring"),
        ({"consolidate": lambda self, model, loader: _consolidate(self, model, loader)}, "depends_on_batch_size"),
        ({"consolidate": lambda self, model, loader: _with_penalty(self, model, loader)}, "depends_on_the_past"),
    ],
)
def test_mistakes_of_a_class(changed, name):
    report = examine(own(**changed))
    assert report.kind == "ewc"
    assert [finding.mistake for finding in report.findings] == [MISTAKES[name]]


def _consolidate(self, model, loader):
    new = square_of_batch_mean(model, loader)
    self.fisher = {n: f + self.fisher.get(n, 0) for n, f in new.items()}
    self.anchor = {n: p.detach().clone() for n, p in model.named_parameters()}


def _with_penalty(self, model, loader):
    """Squared gradients of the loss with which the second task was trained."""
    model.eval()
    parts = [
        squared(model, cross_entropy(model(x), y) + (self.penalty(model) if self.fisher else 0))
        for x, y in singly(loader)
    ]
    self.fisher = {n: f + self.fisher.get(n, 0) for n, f in averaged(parts).items()}
    self.anchor = {n: p.detach().clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (EWC, "It is the exact F"),
        (lambda importance: EWC(importance, anchor="latest"), "It is the exact F"),
        (own(), "It is the exact F"),
        (own(estimator="empirical"), "It is the empirical F"),
        (own(estimator="sample"), "labels that are drawn"),
    ],
)
def test_right_classes(make, told):
    report = examine(make)
    assert report.findings == []
    assert told in str(report)


def test_a_decay_is_told_and_is_no_mistake():
    report = examine(lambda importance: EWC(importance, decay=0.5))
    assert report.findings == []
    assert "weaker" in str(report)


# ---- models ----------------------------------------------------------------------------------------------------------


def silenced():
    torch.manual_seed(0)
    return nn.Sequential(MLP(8, 1), nn.ReLU())


def test_a_relu_on_the_logits():
    report = examine(silenced)
    assert report.kind == "model"
    assert [finding.mistake for finding in report.findings] == [MISTAKES["is_never_negative"]]
    assert examine(silenced()).findings == report.findings


def test_a_right_model():
    assert examine(lambda: MLP(8, 1)).findings == []
    assert examine(MLP).findings == []
    assert examine(nn.Conv2d(2, 3, 3), shape=[2, 5, 5]).findings == []
    assert "probabilities" in str(examine(nn.Sequential(MLP(8, 1), nn.Softmax(1))))


def test_a_model_for_other_images():
    with pytest.raises(CannotExamine, match="--shape"):
        examine(nn.Linear(5, 3))


# ---- what it costs ---------------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_gallery():
    """Computed again as notebook 08 does."""
    runs = json.loads(GALLERY.read_text(encoding="utf-8"))["runs"]

    def scores(variant, key, importance):
        found = [run for run in runs if (run["variant"], run["importance"]) == (variant, importance)]
        return torch.tensor([run[key] for run in sorted(found, key=lambda run: run["seed"])]).double().mean(1)

    def best(variant):
        tried = sorted({run["importance"] for run in runs if run["variant"] == variant})
        return max(tried, key=lambda importance: float(scores(variant, "validation", importance).mean()))

    references = {
        "old F overwritten": "five tasks, newest anchor",
        "off by one": "exact, 200 images",
        "batch norm, F in train() mode": "batch norm, F in eval() mode",
    }
    priced = {mistake.gallery for mistake in MISTAKES.values() if not mistake.gallery.endswith(".")}
    assert set(COSTS) == priced
    for variant, pair in COSTS.items():
        right = references.get(variant, "exact")
        for importance, (mean, error) in zip((best(right), best(variant)), pair, strict=True):
            gap = 100 * (scores(variant, "test", importance) - scores(right, "test", best(right)))
            assert mean == pytest.approx(float(gap.mean()), abs=0.06), variant
            assert error == pytest.approx(float(gap.std() / len(gap) ** 0.5), abs=0.06), variant


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of the reader's into the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(text, name="patient"):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


MODULE = """
from contlearn import diagonal_fisher
import torch

def right(model, batches):
    return diagonal_fisher(model, batches)

def flat(model, batches):
    return {n: f.mean().expand_as(f) for n, f in diagonal_fisher(model, batches).items()}

def raises(model, batches):
    raise RuntimeError("no\\n  GPU here")

def three(a, b, c):
    pass

def nothing(model, batches):
    return None

def renamed(model, batches):
    return {"module." + n: f for n, f in diagonal_fisher(model, batches).items()}

def transposed(model, batches):
    return {n: f.T for n, f in diagonal_fisher(model, batches).items()}

def not_finite(model, batches):
    return {n: f / 0 for n, f in diagonal_fisher(model, batches).items()}

def string(theta, anchor, fisher, importance):
    return "0.5"

def no_methods(importance):
    return {}

def arrays(model, batches):
    return {name: p.detach().numpy() for name, p in model.named_parameters()}

def asserts(model, batches):
    assert False

def anything(*arguments):
    return {}

number = 3
"""


def said(capsys, *arguments):
    code = main([*arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def test_exit_codes(module, capsys):
    module(MODULE)
    code, out, err = said(capsys, "patient:right")
    assert (code, err) == (0, "")
    assert out.startswith("patient:right, taken for an estimator of F, estimate(model, batches)\nNo mistake found.")
    code, out, err = said(capsys, "patient.py:flat")
    assert (code, err) == (1, "")
    assert "1 mistake found:\n 5  One number a layer." in out
    assert "Costs -6.9 ± 0.5 points" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("patient:raises", "it stops with RuntimeError: no GPU here (patient.py, line 12)"),
        ("patient:three", "Wrap yours in one of these\n"),
        ("patient:nothing", "it returns NoneType: expected a tensor for each parameter"),
        ("patient:renamed", "it returns F of module.hidden1.weight"),
        ("patient:transposed", "F of hidden1.weight has shape (784, 16), the parameter (16, 784)"),
        ("patient:not_finite", "F is not finite"),
        ("patient:arrays", "it returns ndarray in a dict: expected a tensor for each parameter"),
        ("patient:asserts", "it stops with AssertionError (patient.py, line"),
        ("patient:string", "the penalty is str, not a single number"),
        ("patient:no_methods", "it returns dict, which has no method consolidate"),
        ("patient:number", "it is no function, but int"),
        ("patient:missing", "patient has no 'missing'; it has"),
        ("patient:anything", "say so with --kind (while consolidating a task"),
        ("absent:right", "there is no module 'absent' here"),
        ("absent.py:right", "there is no file absent.py"),
        ("patient.py", "not of the form module:function or file.py:function"),
        ("broken:right", "importing broken stops with NameError: name 'oops' is not defined"),
        ("unmet:right", "unmet needs the module 'no_such_package_here'"),
        ("leaving:right", "it stops with SystemExit: 3"),
    ],
)
def test_what_cannot_be_examined_is_told_in_one_line(module, capsys, name, words):
    module(MODULE)
    module("oops", "broken")
    module("import no_such_package_here", "unmet")
    module("raise SystemExit(3)", "leaving")
    code, out, err = said(capsys, name)
    assert (code, out) == (2, "")
    assert err.startswith(f"{name}: ")
    assert words in err
    assert err.count("\n") == 1


def test_an_estimator_that_takes_minutes(module, capsys):
    module("import time\n\ndef slow(model, batches):\n    time.sleep(5)\n")
    started = time.monotonic()
    code, out, err = said(capsys, "patient:slow", "--seconds", "1")
    assert (code, out) == (2, "")
    assert "given up after 1 seconds, while asking for F twice" in err
    assert time.monotonic() - started < 5


def test_from_the_command_line(module, tmp_path):
    """The process ends at once, though the function is still running."""
    module("import time\n\ndef slow(model, batches):\n    time.sleep(600)\n")
    command = [sys.executable, "-m", "contlearn.doctor", "patient:slow", "--seconds", "2"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, encoding="utf-8")
    assert found.returncode == 2
    assert "given up" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_randomness_of_the_caller_is_left_alone():
    state = torch.random.get_rng_state()
    examine(lambda model, batches: {n: f + 0 * torch.rand(1) for n, f in diagonal_fisher(model, batches).items()})
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_kind_that_does_not_exist():
    with pytest.raises(ValueError, match="expected one of 'estimator'"):
        examine(exact, kind="surgeon")
