"""Look for the common mistakes in somebody's EWC code: `python -m contlearn.doctor module:function`.

The detectors are those of notebook 08, asked of the reader's own function on a small trained network and 64 images that
the doctor brings along. What each finding costs was measured by experiments/gallery.py; see `COSTS`.
"""

import argparse
import contextlib
import copy
import importlib
import inspect
import math
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from contlearn.models import MLP
from contlearn.training import train
from contlearn.wild import squares_of_images

Kind = Literal["estimator", "penalty", "ewc", "model"]
Claim = Literal["exact", "sample", "empirical", "predicted"]

DESCRIPTION = """\
Look for the common mistakes in your own EWC code. Name a function, as module:function or file.py:function:

  estimate(model, batches)                    an estimator of F: returns a tensor for each parameter, by its name;
                                              batches are a list of pairs (images, labels)
  penalty(theta, anchor, fisher, importance)  a penalty: takes three dictionaries of tensors and a number
  make(importance)                            returns an object with consolidate(model, loader) and penalty(model)
  make()                                      returns a model: are its outputs logits?
"""
EPILOG = """\
The exit code is 0 if nothing was found, 1 if something was, and 2 if your function could not be examined.
"""

# Points of accuracy against right code, mean and standard error: with the λ that suits the right code, and with the
# mistake's own best λ. From files/results/gallery.json, which the tests compare them with.
COSTS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "square of the batch mean": ((-12.5, 1.6), (0.1, 0.1)),
    "square of the sum": ((-1.3, 0.0), (-0.8, 0.2)),
    "every label": ((-0.3, 0.1), (0.2, 0.1)),
    "most likely label": ((-1.0, 0.1), (-0.1, 0.0)),
    "one number a layer": ((-6.9, 0.5), (-6.9, 0.5)),
    "no half": ((-0.2, 0.1), (-0.2, 0.1)),
    "penalty is zero": ((-17.2, 1.7), (-17.2, 1.7)),
    "old F overwritten": ((-0.7, 0.1), (-0.7, 0.1)),
    "ReLU on the logits": ((-0.5, 0.1), (-0.5, 0.1)),
    "layer was frozen": ((-11.0, 1.2), (-11.0, 1.2)),
    "off by one": ((0.0, 0.0), (0.0, 0.0)),
    "batch norm, F in train() mode": ((-2.4, 0.7), (1.0, 1.2)),
}


class Mistake(NamedTuple):
    """One of notebook 08's mistakes."""

    number: str
    title: str
    gallery: str  # its name in the gallery, or what is said of a cost that was not measured
    mend: str


MISTAKES = {
    "depends_on_batch_size": Mistake(
        "1",
        "The square of the mean gradient, where the mean of squares is meant",
        "square of the batch mean",
        "square the gradient of each image: take batches of one, or diagonal_fisher(model, loader)",
    ),
    "is_no_mean": Mistake(
        "2",
        "Gradients are added up over the whole set, then squared once",
        "square of the sum",
        "call zero_grad() before each image, square its gradient, and add up the squares",
    ),
    "meets_every_label": Mistake(
        "3",
        "Every image meets every label of its batch",
        "every label",
        "log_p[range(len(y)), y], not log_p[:, y]: one number an image",
    ),
    "ignores_labels": Mistake(
        "4",
        "The given labels are ignored, and the result called empirical",
        "most likely label",
        'use the true labels for the empirical F, or say "predicted"; and never carry λ from one to the other',
    ),
    "is_flat": Mistake(
        "5",
        "One number a layer",
        "one number a layer",
        "keep one F for each parameter: no .mean() over a tensor of F",
    ),
    "lacks_the_half": Mistake(
        "6",
        "The ½ is missing",
        "no half",
        "multiply the penalty by 0.5, or halve λ; and say which when you publish λ",
    ),
    "is_asleep": Mistake(
        "7",
        "The penalty is always zero",
        "penalty is zero",
        "keep θ* with .detach().clone(), compare names without an `except` that swallows, and assert that the penalty "
        "of a model that was pushed is positive",
    ),
    "has_no_gradient": Mistake(
        "7",
        "The penalty has no gradient",
        "penalty is zero",
        "compute it from the parameters themselves: no .data, .item(), .detach() or no_grad() on the way",
    ),
    "lost_a_spring": Mistake(
        "8",
        "The old F is overwritten when the next task comes",
        "old F overwritten",
        "add the new F to the old one: fisher[name] += new[name]",
    ),
    "is_never_negative": Mistake(
        "9",
        "No output is ever negative: a ReLU on the logits",
        "ReLU on the logits",
        "end the model with its last linear layer",
    ),
    "leaves_some_free": Mistake(
        "10",
        "Some parameters get no F",
        "layer was frozen",
        "unfreeze all that the next task will train before F is measured, and loop over all named_parameters()",
    ),
    "counts_wrongly": Mistake(
        "11",
        "Images are counted wrongly",
        "off by one",
        "count what was added up: count += len(y)",
    ),
    "leaves_a_trace": Mistake(
        "12",
        "Estimating changes the model: eval() is missing, or a step is taken",
        "batch norm, F in train() mode",
        "call model.eval() before F is estimated, and put the mode back afterwards",
    ),
    "drops_out": Mistake(
        "13",
        "F is estimated with dropout on",
        "The gallery has no price for it.",
        "call model.eval() before F is estimated, and put the mode back afterwards",
    ),
    "depends_on_the_past": Mistake(
        "13",
        "F of a task depends on the tasks before: F of the loss plus the penalty",
        "The gallery has no price for it.",
        "differentiate the log-likelihood alone when F is measured",
    ),
}


class Finding(NamedTuple):
    """A mistake, and what showed it."""

    mistake: Mistake
    seen: str

    def __str__(self) -> str:
        cost = COSTS.get(self.mistake.gallery)
        priced = self.mistake.gallery
        if cost:
            priced = (
                f"Costs {_points(*cost[0])} with the λ of right code, {_points(*cost[1])} with its own best λ "
                "(notebook 08)."
            )
        lines = [self.seen, priced, f"Mend: {self.mistake.mend}."]
        return "\n    ".join([f"{self.mistake.number:>2}  {self.mistake.title}.", *lines])


class Report(NamedTuple):
    """What `examine` found.

    Attributes:
        kind: what the function was taken for.
        findings: the mistakes; none is good news.
        notes: what it is, and what is worth knowing but no mistake.
    """

    kind: Kind
    findings: list[Finding]
    notes: list[str]

    def __str__(self) -> str:
        if self.findings:
            words = "1 mistake" if len(self.findings) == 1 else f"{len(self.findings)} mistakes"
            head = [f"{words} found:", *map(str, self.findings)]
        else:
            head = ["No mistake found."]
        return "\n".join([*head, *self.notes])


class CannotExamine(Exception):
    """The reader's function could not be examined; the message says why, and what to do."""


# ---- the patient's material ------------------------------------------------------------------------------------------

Fisher = dict[str, Tensor]
Batches = list[tuple[Tensor, Tensor]]
SMALL, LARGE = 4, 16
PUSH = 0.01  # how far every weight is moved to see a penalty
STRONG = 10_000  # a λ with which a penalty cannot hide in F
DRAWS = 16  # how often an estimator that draws labels is asked, and averaged


class Bench:
    """A small network that has half learnt to tell ten kinds of noisy images apart, and 64 images with their labels.

    Half, so that its probabilities are far from 0 and 1, and every estimator of F has something to show.
    """

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            kinds = torch.rand(10, 28, 28)
            y = torch.arange(640) % 10
            x = (kinds[y] + 0.7 * torch.randn(640, 28, 28)).clamp(0, 1)
            self.model: nn.Module = MLP(hidden_size=16, hidden_layers=2)
            self.wide = nn.Sequential(
                nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)
            )
            self.dropping = nn.Sequential(
                nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)
            )
            train(self.model, list(zip(x.split(32), y.split(32), strict=True)), epochs=4, lr=0.05, progress=False)
        self.x, self.y = x[:64], y[:64]

    def cut(self, size: int, first: int = 0, last: int = 64) -> Batches:
        """Some of the images, in batches."""
        return list(zip(self.x[first:last].split(size), self.y[first:last].split(size), strict=True))

    @cached_property
    def truths(self) -> dict[str, Fisher]:
        """F by plain autograd, one image and one label at a time; "sample" has the expectation of "exact"."""
        names = {"exact": "all", "empirical": "true", "predicted": "predicted", "weighted": "weighted"}
        self.model.eval()
        found = {name: squares_of_images(self.model, self.cut(64), labels) for name, labels in names.items()}  # type: ignore[arg-type]
        return found | {"sample": found["exact"]}


@cache
def _bench() -> Bench:
    return Bench()


# ---- detectors of an estimator ---------------------------------------------------------------------------------------


class Patient:
    """An estimator of F, asked on one bench. One that draws labels is asked often, and its answers are averaged."""

    def __init__(self, estimate: Callable[[nn.Module, Batches], Any], bench: Bench) -> None:
        self.estimate, self.bench = estimate, bench
        _doing("asking for F twice")
        first, again = self.once(bench.model, bench.cut(LARGE), 0), self.once(bench.model, bench.cut(LARGE), 1)
        self.draws = not _close(_flat(first), _flat(again), 1e-6)
        self.tolerance = 0.4 if self.draws else 0.01

    def once(self, model: nn.Module, batches: Batches, seed: int = 0) -> Fisher:
        """One answer, on a copy of the model, by name of the parameter."""
        model = copy.deepcopy(model)
        torch.manual_seed(seed)
        return _by_name(_call(self.estimate, model, [(x.clone(), y.clone()) for x, y in batches]), model)

    def f(self, batches: Batches, draws: int = DRAWS) -> Tensor:
        """F as one long vector."""
        times = draws if self.draws else 1
        return torch.stack([_flat(self.once(self.bench.model, batches, seed)) for seed in range(times)]).mean(0)

    def same(self, a: Tensor, b: Tensor, tolerance: float | None = None) -> bool:
        """Whether two F are equal; of one that draws labels, whether their sums are, roughly."""
        if self.draws:
            return abs(float(a.sum()) - float(b.sum())) <= self.tolerance * abs(float(b.sum()))
        return _close(a, b, tolerance or self.tolerance)

    def findings(self, claim: Claim | None) -> tuple[list[Finding], list[str]]:
        """All detectors, in the order of notebook 08."""
        b, found = self.bench, []

        def note(name: str, seen: str) -> None:
            found.append(Finding(MISTAKES[name], seen))

        _doing("estimating F of 64 images in batches of 16, and of 4")
        whole, small = self.f(b.cut(LARGE)), self.f(b.cut(SMALL))
        halves = self.f(b.cut(LARGE, 0, 32)), self.f(b.cut(LARGE, 32, 64))
        added = self.same(whole, halves[0] + halves[1]) and not self.same(whole, (halves[0] + halves[1]) / 2)
        if not whole.isfinite().all():
            raise CannotExamine("F is not finite: look for a division by zero or a log of zero")
        if not whole.any():
            note("leaves_some_free", "F is zero everywhere: no parameter would be held.")
            return found, []
        _doing("looking for parameters without F")
        fisher = self.once(b.model, b.cut(LARGE))
        self._shape(fisher, note)
        by_size = not self.same(whole, small)
        no_mean = not added and not self.same(whole, (halves[0] + halves[1]) / 2, 0.05)
        if not any(finding.mistake.number == "5" for finding in found):  # else there is nothing to compare
            if by_size and not no_mean:
                seen = f"The same 64 images in batches of 4 give {float(small.sum() / whole.sum()):.2f} times F in"
                note("depends_on_batch_size", f"{seen} batches of 16.")
            if no_mean:
                ratio = float(2 * whole.sum() / (halves[0] + halves[1]).sum())
                note("is_no_mean", f"F of 64 images is {ratio:.2f} times the mean of the F of its two halves.")
            self._labels(claim, note)
            if not (no_mean or added or by_size):
                self._count(note)
        notes = self._trace(note, found)
        found.sort(key=lambda finding: int(finding.mistake.number))
        return found, [*self._notes(whole, found, added, claim), *self._frozen(), *notes]

    def _labels(self, claim: Claim | None, note: Callable[[str, str], None]) -> None:
        """Mistakes 3 and 4: labels change places within one batch; then they are all replaced."""
        _doing("exchanging labels")
        if self.draws:
            return
        b = self.bench
        plain = self.f([(b.x, b.y)])
        turned = self.f([(b.x, b.y.roll(1))])
        other = self.f([(b.x, (b.y + 1) % 3)])
        if _close(turned, plain, 0.01) and not _close(other, plain, 0.01):
            note(
                "meets_every_label",
                "Labels may change places within a batch, and F stays the same; other labels change it.",
            )
        elif claim == "empirical" and _close(other, plain, 0.01):
            note("ignores_labels", "It says empirical, but no label that is given changes F.")

    def _shape(self, fisher: Fisher, note: Callable[[str, str], None]) -> None:
        """Mistakes 5 and 10: entries that are all equal, or missing."""
        flat = [name for name, f in fisher.items() if f.numel() > 1 and bool(f.any()) and bool(f.max() == f.min())]
        if flat:
            note("is_flat", f"All entries of F are equal in {_list(flat)}.")
        needed = [name for name, f in self.bench.truths["exact"].items() if f.any()]
        free = [name for name in needed if name not in fisher or not fisher[name].any()]
        if free:
            note("leaves_some_free", f"Without F: {_list(free)}.")

    def _frozen(self) -> list[str]:
        """Mistake 10: a frozen layer. Who crashes there is warned, so that is no finding."""
        _doing("freezing a layer")
        model = copy.deepcopy(self.bench.model)
        for p in model.hidden1.parameters():  # type: ignore[union-attr]
            p.requires_grad_(False)
        try:
            self.once(model, self.bench.cut(LARGE))
        except CannotExamine as error:
            remedy = "parameters without a gradient must be skipped"
            return [f"Mind mistake 10, should you freeze a layer: {error}; {remedy}."]
        return []

    def _count(self, note: Callable[[str, str], None]) -> None:
        """Mistake 11: copies of one image, alone in their batches; all have the same F."""
        _doing("counting copies of one image")
        b = self.bench
        two, forty = (
            self.f([(b.x[:1], b.y[:1])] * copies, draws)
            for copies, draws in ((2, 8 * DRAWS), (40, DRAWS))  # two images show little: they are asked more often
        )
        if not self.same(two, forty) or not two.isfinite().all():
            ratio = float(two.sum() / forty.sum())
            note("counts_wrongly", f"Two copies of an image give {ratio:.2f} times the F of forty copies.")

    def _trace(self, note: Callable[[str, str], None], found: list[Finding]) -> list[str]:
        """Facts 12 and 13: batch norm's running statistics, weights, and dropout."""
        _doing("looking for traces in a model with batch norm")
        b = self.bench
        data = [(x.clone(), y.clone()) for x, y in b.cut(LARGE)]
        before, after = copy.deepcopy(b.wide).train(), copy.deepcopy(b.wide).train()
        notes = []
        try:
            _call(self.estimate, after, data)
        except CannotExamine as error:
            try:
                _call(self.estimate, copy.deepcopy(b.wide).eval(), data)
                note("leaves_a_trace", f"With batch norm, {error}; handed over in eval() mode, it works.")
            except CannotExamine:
                notes.append(f"A model with batch norm could not be asked: {error}.")
        pairs = zip(before.state_dict().items(), after.state_dict().values(), strict=True)
        changed = [name for (name, old), new in pairs if not torch.equal(old, new)]
        if changed and not any(finding.mistake.number == "12" for finding in found):
            note("leaves_a_trace", f"Changed by estimating F: {_list(changed)}.")
        if not self.draws:
            _doing("switching dropout on")
            on, off = (_flat(self.once(copy.deepcopy(b.dropping).train(mode), b.cut(LARGE))) for mode in (True, False))
            again = _flat(self.once(copy.deepcopy(b.dropping).eval(), b.cut(LARGE), seed=1))
            if not _close(on, off, 1e-4) or not _close(off, again, 1e-4):
                note("drops_out", "F of a model with dropout is another one in train() mode than in eval() mode.")
        return notes

    def _notes(self, whole: Tensor, found: list[Finding], added: bool, claim: Claim | None) -> list[str]:
        """Which F it is, if one can tell."""
        spoilt = {"1", "2", "3", "5"} & {finding.mistake.number for finding in found}
        if spoilt:
            return []
        here = self.once(self.bench.model, self.bench.cut(LARGE))
        names = {
            "exact": "the exact F: all labels, each weighted with its probability",
            "empirical": "the empirical F, of the true labels",
            "predicted": "the F of the most likely labels",
            "weighted": "the squared gradients of the true labels, each weighted with its probability: a part of the "
            "exact F, as in Mammoth (notebook 11)",
        }
        notes = []
        for name, words in names.items():
            truth = _flat({key: self.bench.truths[name][key] for key in here})
            factor = float(whole @ truth / (truth @ truth))
            if self.draws and name == "exact" and _cosine(whole, truth) > 0.9:
                words = f"F with labels that are drawn, whose expectation is {words}"
                notes.append(f"It is {words}{_scaled(round(factor, 1), added)}.")
                break
            if not self.draws and _close(whole, factor * truth, 1e-3):
                said = f"You say {claim}; it" if claim not in (None, name) else "It"
                notes.append(f"{said} is {words}{_scaled(factor, added)}.")
                break
        if not notes:
            cosine = _cosine(whole, _flat({key: self.bench.truths["exact"][key] for key in here}))
            notes.append(f"Which F it is could not be told: its cosine with the exact F is {cosine:.3f}.")
        return notes


def _scaled(factor: float, added: bool) -> str:
    if added:
        return ", added up over the images instead of averaged: your λ is as many times as large as the set"
    return "" if math.isclose(factor, 1, rel_tol=0.02) else f", times {factor:.3g}: your λ means {factor:.3g} λ"


# ---- the other kinds -------------------------------------------------------------------------------------------------


def _of_penalty(penalty: Callable[..., Any], bench: Bench) -> tuple[list[Finding], list[str]]:
    """Mistakes 6 and 7 of penalty(theta, anchor, fisher, importance)."""
    _doing("pushing all weights of a model, and asking for the penalty")
    anchor = {name: p.detach().clone() for name, p in bench.model.named_parameters()}
    fisher = {name: torch.ones_like(p) for name, p in anchor.items()}
    theta = {name: (p + PUSH).requires_grad_() for name, p in anchor.items()}
    value = _scalar(_call(penalty, theta, dict(anchor), dict(fisher), 2.0))
    expected = 0.5 * 2.0 * sum(PUSH**2 * p.numel() for p in anchor.values())
    return _of_value(value, expected, list(theta.values()))


def _of_value(value: Tensor, expected: float, theta: Sequence[Tensor]) -> tuple[list[Finding], list[str]]:
    found, notes = [], []
    if float(value) == 0:
        found.append(Finding(MISTAKES["is_asleep"], f"All weights were pushed by {PUSH}, and the penalty is 0."))
    elif not value.requires_grad or not any(
        g is not None and g.any() for g in torch.autograd.grad(value, list(theta), retain_graph=True, allow_unused=True)
    ):
        found.append(
            Finding(MISTAKES["has_no_gradient"], "Its value depends on the weights, but no gradient reaches them.")
        )
    elif math.isclose(float(value), 2 * expected, rel_tol=1e-3):
        found.append(Finding(MISTAKES["lacks_the_half"], "It is twice ½ λ Σ F (θ − θ*)²."))
    elif math.isclose(float(value), expected, rel_tol=1e-3):
        notes.append("It is ½ λ Σ F (θ − θ*)².")
    else:
        notes.append(f"It is {float(value) / expected:.3g} times ½ λ Σ F (θ − θ*)².")
    return found, notes


def _of_ewc(make: Callable[..., Any], bench: Bench) -> tuple[list[Finding], list[str]]:
    """Springs are read off the penalty's gradient; then what an estimator and a penalty are asked, and mistake 8."""
    importance = 2.0
    parameters = _required(make)

    def springs(model: nn.Module, ewc: Any, importance: float = importance) -> Fisher:
        """S from the gradient λ S δ of the penalty, every weight being pushed by δ, and put back."""
        own = dict(model.named_parameters())
        with _pushed(model):
            value = _scalar(_call(ewc.penalty, model))
            moved = [p for p in own.values() if p.requires_grad]
            gradients: Sequence[Tensor | None] = [None] * len(moved)
            if value.requires_grad:
                gradients = torch.autograd.grad(value, moved, allow_unused=True)
        found = dict(zip(map(id, moved), gradients, strict=True))
        return {
            name: torch.zeros_like(p) if (g := found.get(id(p))) is None else g / (importance * PUSH)
            for name, p in own.items()
        }

    def consolidated(model: nn.Module, *tasks: Batches, importance: float = importance) -> Any:
        ewc = _call(make, *([importance] if parameters else []))
        for needed in ("consolidate", "penalty"):
            if not callable(getattr(ewc, needed, None)):
                raise CannotExamine(
                    f"it returns {type(ewc).__name__}, which has no method {needed}(…): it was taken for what makes an "
                    "EWC object, or a model; if it is another of the four, say so with --kind"
                )
        for task in tasks:
            _call(ewc.consolidate, model, task)
        return ewc

    _doing("consolidating a task, pushing all weights, and asking for the penalty")
    model = copy.deepcopy(bench.model)
    ewc = consolidated(model, bench.cut(LARGE))
    with _pushed(model):
        found, _ = _of_value(_scalar(_call(ewc.penalty, model)), math.nan, list(model.parameters()))
    if found:
        return found, []

    def estimate(model: nn.Module, batches: Batches) -> Fisher:
        return springs(model, consolidated(model, batches))

    found, notes = Patient(estimate, bench).findings(None)
    doubled = [n for n in notes if ", times 2:" in n]
    if doubled:
        found.append(Finding(MISTAKES["lacks_the_half"], "The penalty is twice ½ λ Σ F (θ − θ*)²."))
        notes = [n.split(", times 2:")[0] + "." for n in notes]
    _doing("consolidating a second task")
    first, second = bench.cut(LARGE, 0, 32), bench.cut(LARGE, 32, 64)
    model = copy.deepcopy(bench.model)
    alone = _flat(springs(model, consolidated(model, first)))
    newest = _flat(springs(model, consolidated(model, second)))
    model = copy.deepcopy(bench.model)
    both = _flat(springs(model, consolidated(model, first, second)))
    if _close(both, newest, 0.01) and not _close(alone + newest, newest, 0.01):
        found.append(
            Finding(MISTAKES["lost_a_spring"], "After a second task, the springs are those of that task alone.")
        )
    elif bool((both < 0.99 * alone).any()):
        weakest = float((both / alone)[alone > 0].min())
        notes.append(
            f"After a second task some springs of the first are weaker ({weakest:.2f} times): a decay, I hope."
        )
    if not parameters:
        return found, notes
    _doing("consolidating a second task at other weights, with another λ")

    def moved_on(importance: float) -> Tensor:
        """The springs after a second task that ended elsewhere, so that the first task's penalty pulls meanwhile."""
        model = copy.deepcopy(bench.model)
        torch.manual_seed(0)
        ewc = consolidated(model, first, importance=importance)
        with _pushed(model):
            _call(ewc.consolidate, model, second)
            # Each task may have its own anchor: the slope of the gradient is the sum of the springs all the same.
            near = _flat(springs(model, ewc, importance))
            with _pushed(model):
                return _flat(springs(model, ewc, importance)) - near

    usual, again, strong = moved_on(importance), moved_on(importance), moved_on(STRONG)
    if _close(usual, again, 0.01) and not _close(strong, usual, 0.05):
        ratio = float(strong.sum() / usual.sum())
        seen = (
            f"With λ = {STRONG:,} F of two tasks, the weights having moved in between, is {ratio:.3g} times that with"
        )
        found.append(Finding(MISTAKES["depends_on_the_past"], f"{seen} λ = {importance:g}."))
    return found, notes


@contextlib.contextmanager
def _pushed(model: nn.Module) -> Iterator[None]:
    """Every weight a little further, in place; afterwards back, to the last digit."""
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(PUSH)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(model.parameters(), before, strict=True):
                p.copy_(old)


def _of_model(model: nn.Module, shape: Sequence[int]) -> tuple[list[Finding], list[str]]:
    """Mistake 9: outputs that are never negative."""
    _doing("putting noise through the model")
    torch.manual_seed(0)
    shapes = [tuple(shape)] if shape else [(28, 28), (1, 28, 28), (784,), (3, 32, 32), (3, 224, 224)]
    outputs, failure = None, ""
    for each in shapes:
        try:
            with torch.no_grad():
                outputs = _call(copy.deepcopy(model).eval(), 2 * torch.randn(64, *each))
            break
        except CannotExamine as error:
            failure = str(error)
    if not isinstance(outputs, Tensor):
        raise CannotExamine(f"no outputs: {failure or type(outputs).__name__}. Name an image's shape: --shape 1 28 28")
    if float(outputs.min()) >= 0:
        total = outputs.flatten(1).sum(1)
        if torch.allclose(total, torch.ones_like(total), atol=1e-4):
            return [], ["Its outputs are probabilities: give EWC, and cross_entropy, the logits before the softmax."]
        silent = int((outputs == 0).flatten(1).all(0).sum())
        seen = f"The smallest of {outputs.numel()} outputs is {float(outputs.min()):.3g}"
        return [Finding(MISTAKES["is_never_negative"], f"{seen}; {silent} of them are 0 for every input.")], []
    return [], ["Its outputs are negative and positive, as logits are."]


# ---- the examination -------------------------------------------------------------------------------------------------


def examine(subject: Any, kind: Kind | None = None, claim: Claim | None = None, shape: Sequence[int] = ()) -> Report:
    """Look for notebook 08's mistakes in `subject`.

    Args:
        subject: one of the four functions that the command's help names, or a model.
        kind: what it is; by default told from how many arguments it must be given.
        claim: which F an estimator is said to be; by default read from its name and the docstring's first paragraph.
        shape: of an image, for a model.

    Raises:
        CannotExamine: it is none of them, raises an exception, or returns something else.
    """
    if kind is not None and kind not in get_args(Kind):
        raise ValueError(f"kind={kind!r}: expected one of {', '.join(map(repr, get_args(Kind)))}")
    if isinstance(subject, nn.Module):
        return Report("model", *_of_model(subject, shape))
    if not callable(subject):
        raise CannotExamine(f"it is no function, but {type(subject).__name__}")
    kind = kind or _kind(subject)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = _bench()
        if kind == "model":
            made = _call(subject)
            if isinstance(made, nn.Module):
                return Report(kind, *_of_model(made, shape))
            kind = "ewc"
        if kind == "estimator":
            return Report(kind, *Patient(subject, bench).findings(claim or _claim(subject)))
        if kind == "penalty":
            return Report(kind, *_of_penalty(subject, bench))
        return Report(kind, *_of_ewc(subject, bench))


def _kind(subject: Callable[..., Any]) -> Kind:
    kinds: dict[int, Kind] = {0: "model", 1: "ewc", 2: "estimator", 4: "penalty"}
    needed = _required(subject)
    if inspect.isclass(subject) and needed <= 1:
        return "model" if issubclass(subject, nn.Module) else "ewc"
    if needed not in kinds:
        raise CannotExamine(
            f"it must be given {needed} arguments, and I know functions of 2, estimate(model, batches); of 4, "
            "penalty(theta, anchor, fisher, importance); and of 1 or none that make an object: see --help. "
            "Wrap yours in one of these"
        )
    return kinds[needed]


def _required(subject: Callable[..., Any]) -> int:
    """How many arguments must be given."""
    try:
        parameters = inspect.signature(subject).parameters.values()
    except (TypeError, ValueError) as error:
        raise CannotExamine("its arguments cannot be read: wrap it in a function of your own") from error
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in plain and p.default is p.empty for p in parameters)


def _claim(subject: Callable[..., Any]) -> Claim | None:
    summary = (inspect.getdoc(subject) or "").partition("\n\n")[0]  # what follows may tell of other estimators
    words = f"{getattr(subject, '__name__', '')} {summary}".casefold()
    return "empirical" if "empirical" in words and "not empirical" not in words else None


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the reader's function returns; an exception of theirs is told in one line."""
    try:
        return function(*arguments)
    except CannotExamine:
        raise
    except Exception as error:
        own = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent != Path(__file__).parent]
        last = next((f for f in reversed(own) if not _is_library(f.filename)), None)
        file = "your cell" if last and "ipykernel_" in last.filename else Path(last.filename).name if last else ""
        place = f" ({file}, line {last.lineno})" if last else ""
        text = " ".join([f"{type(error).__name__}:", *str(error).split()]).rstrip(":")
        raise CannotExamine(f"it stops with {text}{place}") from error


def _is_library(file: str) -> bool:
    return "site-packages" in file or file.startswith("<") or f"{os.sep}torch{os.sep}" in file


def _by_name(found: Any, model: nn.Module) -> Fisher:
    """F by name of the parameter: from a mapping; or a list, or one long vector, of all or of the trainable ones."""
    own = dict(model.named_parameters())
    for some in (own, {name: p for name, p in own.items() if p.requires_grad}):
        if isinstance(found, Tensor) and found.numel() == sum(p.numel() for p in some.values()):
            parts = found.detach().flatten().split([p.numel() for p in some.values()])
            found = [part.view_as(p) for part, p in zip(parts, some.values(), strict=True)]
        if isinstance(found, list | tuple) and len(found) == len(some):
            found = dict(zip(some, found, strict=True))
    parts = found.values() if isinstance(found, Mapping) else []
    odd = [type(f).__name__ for f in parts if not isinstance(f, Tensor)]
    if odd or not isinstance(found, Mapping):
        raise CannotExamine(
            f"it returns {f'{odd[0]} in a ' if odd else ''}{type(found).__name__}: expected a tensor for each "
            "parameter, as {name: F} with the names of model.named_parameters()"
        )
    unknown = [str(name) for name in found if name not in own]
    if unknown:
        raise CannotExamine(f"it returns F of {_list(unknown)}, but the parameters are called {_list(list(own))}")
    for name, f in found.items():
        if f.shape != own[name].shape:
            if f.numel() == 1:
                continue
            raise CannotExamine(f"F of {name} has shape {tuple(f.shape)}, the parameter {tuple(own[name].shape)}")
    return {name: found[name].detach().float().expand_as(p) for name, p in own.items() if name in found}


def _scalar(value: Any) -> Tensor:
    if isinstance(value, int | float):
        return torch.tensor(float(value))
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise CannotExamine(f"the penalty is {type(value).__name__}, not a single number")
    return value.reshape(())


def _flat(fisher: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([f.flatten() for f in fisher.values()]).double()


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= tolerance * b.norm())


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _points(mean: float, error: float) -> str:
    return f"{mean:+.1f} ± {error:.1f} points"


# ---- the command -----------------------------------------------------------------------------------------------------

IMPORTING = "importing your module"
_now = [IMPORTING]


def _doing(what: str) -> None:
    _now[0] = what


def _found(name: str) -> Any:
    """The object that module:function names.

    Raises:
        CannotExamine: there is none.
    """
    module, _, attribute = name.rpartition(":")
    if not module or not attribute:
        raise CannotExamine(f"{name!r} is not of the form module:function or file.py:function, such as ewc.py:fisher")
    if module.endswith(".py"):
        path = Path(module)
        if not path.is_file():
            raise CannotExamine(f"there is no file {module}")
        sys.path.insert(0, str(path.parent.resolve()))
        module = path.stem
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise CannotExamine(
                f"there is no module {error.name!r} here: run this in the folder of {error.name}.py, or install it"
            ) from error
        raise CannotExamine(f"{module} needs the module {error.name!r}, which is not installed here") from error
    except Exception as error:
        raise CannotExamine(
            f"importing {module} stops with {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [n for n, v in vars(found).items() if callable(v) and not n.startswith("_")]
            raise CannotExamine(f"{module} has no {part!r}; it has {_list(known) or 'no function'}")
        found = getattr(found, part)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine what the command line names, and print the report. The exit codes are 0, 1 and 2: see `EPILOG`."""
    parser = argparse.ArgumentParser(
        "python -m contlearn.doctor",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("function", help="module:function, module:Class or file.py:function")
    parser.add_argument("--kind", choices=get_args(Kind), help="what it is; by default told from its arguments")
    parser.add_argument("--claims", choices=get_args(Claim), help="which F an estimator is said to be")
    parser.add_argument("--shape", nargs="+", type=int, default=[], metavar="N", help="of one image, for a model")
    parser.add_argument("--seconds", type=float, default=60, help="give up after so long (60)")
    options = parser.parse_args(arguments)
    outcome: list[Report | CannotExamine | BaseException] = []

    def work() -> None:
        try:
            outcome.append(examine(_found(options.function), options.kind, options.claims, options.shape))
        except BaseException as error:  # also a SystemExit of the reader's module: it is told below
            outcome.append(error)

    _doing(IMPORTING)
    sys.path.insert(0, str(Path.cwd()))
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(options.seconds)
    if not outcome:
        print(
            f"{options.function}: given up after {options.seconds:g} seconds, while {_now[0]}. The doctor brings 64 "
            "images of 784 numbers and 13,000 weights; plain code needs a few seconds for all of its questions. Does "
            "yours load data, or take other images than those it is given? Or give it longer: --seconds 600",
            file=sys.stderr,
        )
        return 2
    result = outcome[0]
    if isinstance(result, Report):
        words = {
            "estimator": "an estimator of F, estimate(model, batches)",
            "penalty": "a penalty, penalty(theta, anchor, fisher, importance)",
            "ewc": "what makes an object with consolidate(model, loader) and penalty(model)",
            "model": "a model",
        }
        print(f"{options.function}, taken for {words[result.kind]}\n{result}")
        return 1 if result.findings else 0
    if isinstance(result, KeyboardInterrupt):
        return 130
    reason = str(result) if isinstance(result, CannotExamine) else f"it stops with {type(result).__name__}: {result}"
    where = "" if _now[0] == IMPORTING else f" (while {_now[0]})"
    print(f"{options.function}: {reason}{where}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # where λ cannot be written
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a function that was given up on may still be running
