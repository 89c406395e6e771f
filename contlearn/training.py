"""The training loop, with and without EWC, and what it remembers."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from operator import length_hint
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from contlearn.data import batches
from contlearn.ewc import EWC
from contlearn.models import classify, device_of, mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS_BETWEEN_CHECKS = 50  # reading a loss makes a GPU wait, so not every one is read at once


@dataclass
class History:
    """What happened during a call of `train`.

    Attributes:
        accuracy: for each test set, the fraction classified correctly before training and after each epoch.
        loss: cross-entropy in nats, without the penalty, averaged over the batches of each epoch.
        penalty: the EWC penalty before training and after each epoch; empty without EWC.
        interrupted: whether a keyboard interrupt ended the training early.
    """

    accuracy: dict[str, list[float]] = field(default_factory=dict)
    loss: list[float] = field(default_factory=list)
    penalty: list[float] = field(default_factory=list)
    interrupted: bool = False

    def to_json(self) -> str:
        """All of it as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "History":
        """The history that `to_json` wrote."""
        return cls(**json.loads(text))

    def plot(self) -> "Figure":
        """The learning curves; see `contlearn.plots.learning_curves`."""
        from contlearn.plots import learning_curves

        return learning_curves([("", self)])


def train(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    epochs: int,
    lr: float | Sequence[float],
    ewc: EWC | None = None,
    proximal: bool | int = False,
    evaluate: Mapping[str, Iterable[Any]] | None = None,
    device: torch.device | str | None = None,
    progress: bool | str = True,
) -> History:
    """Stochastic gradient descent on the cross-entropy, eq. (2.3) and eq. (2.4); with `ewc`, on eq. (5.3).

    Args:
        model: a classifier that maps a batch of inputs to logits (N, C). It is trained in place.
        loader: yields (inputs, labels), labels int64 (N,).
        epochs: passes over the loader, at least one.
        lr: the learning rate η, or one for each epoch.
        ewc: protects the tasks that were consolidated into it. One that holds no task yet changes nothing.
        proximal: how the penalty acts. False: its gradient, eq. (5.4), joins the loss's; stable while η·λ·max S < 2.
            True: the closed-form step, eq. (5.6), follows each step of the optimiser; stable for every λ. A whole
            number k: the closed-form step follows every k steps, with kη.
        evaluate: test loaders by name; each is measured before training and after every epoch.
        device: where to train, such as "cuda"; the model is moved there. By default where the model is. Batches are
            moved one by one; `Task.to(device)` moves a whole task once.
        progress: show a progress bar; a text is what it is called.

    Returns:
        The history. A keyboard interrupt ends the training, keeps the weights so far and returns the history so far,
        with `interrupted` set.

    Raises:
        ValueError: a setting is out of its range, nothing is trainable, or model and data do not fit together.
        FloatingPointError: the loss is not finite. The model gets back the weights it had when that epoch began.
    """
    if not isinstance(epochs, Integral) or epochs < 1:
        raise ValueError(f"epochs={epochs}: expected a whole number, at least 1")
    rates = [float(lr)] * int(epochs) if isinstance(lr, Real) else [float(rate) for rate in lr]
    if len(rates) != epochs or not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise ValueError(f"lr={lr}: the learning rate must be positive and finite, such as 0.1, or one for each epoch")
    if not isinstance(proximal, Integral) or proximal < 0 or (proximal and ewc is None):
        raise ValueError(f"proximal={proximal}: expected False, True or every how many steps, together with ewc=…")
    if device is not None:
        model.to(device)
    device = device_of(model)
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("the model has no trainable parameter: set requires_grad=True on at least one")

    optimizer = torch.optim.SGD(trainable, lr=rates[0], fused=True)  # fused: one pass over the weights, not several
    history = History({name: [] for name in evaluate or {}})
    owed: list[float] = []  # the learning rates of the steps since the last closed-form step
    total = epochs * length_hint(loader) or None  # 0 also for a DataLoader of an IterableDataset
    title = progress if isinstance(progress, str) else "training"
    silent = not progress or "TQDM_DISABLE" in os.environ
    try:
        with (
            mode(model, training=True),
            tqdm(total=total, desc=title, unit="step", disable=silent, delay=0.5, leave=False) as bar,
        ):
            _measure(model, evaluate, ewc, history)
            for epoch, rate in enumerate(rates, start=1):
                optimizer.param_groups[0]["lr"] = rate
                before = {name: value.clone() for name, value in model.state_dict().items()}
                losses: list[torch.Tensor] = []
                for images, labels in batches(loader, device):
                    loss = cross_entropy(classify(model, images, labels), labels)  # L_B, eq. (2.3)
                    losses.append(loss.detach())
                    optimizer.zero_grad()
                    loss.backward()
                    if ewc is not None and not proximal:
                        ewc.add_gradient(model)  # as if L_B + ½ λ Σ F (θ − θ*)² had been differentiated, eq. (5.3)
                    optimizer.step()  # θ ← θ − η ∇L, eq. (2.4)
                    owed.append(rate)
                    if ewc is not None and len(owed) == proximal:
                        ewc.proximal_step(model, sum(owed))  # eq. (5.6)
                        owed.clear()
                    bar.update()
                    if len(losses) % _STEPS_BETWEEN_CHECKS == 0 and not bool(loss.isfinite()):
                        break
                if ewc is not None and proximal and epoch == epochs:
                    ewc.proximal_step(model, sum(owed))  # the steps since the last multiple of k
                finite = torch.stack(losses).isfinite()
                if not bool(finite.all()) or not _is_finite(trainable, model, ewc):
                    model.load_state_dict(before)
                    raise FloatingPointError(_not_finite(finite, epoch, rate, ewc if not proximal else None))
                _measure(model, evaluate, ewc, history)
                history.loss.append(float(torch.stack(losses).mean()))
                percent = {name: f"{100 * values[-1]:.1f} %" for name, values in history.accuracy.items()}
                bar.set_postfix(percent, refresh=False)  # a refresh would show the bar before its delay is over
    except KeyboardInterrupt:
        history.interrupted = True
    return history


@torch.no_grad()
def accuracy(model: nn.Module, loader: Iterable[Any]) -> float:
    """The fraction of images whose largest logit is that of their label, eq. (2.5), in [0, 1].

    The model is evaluated in `eval()` mode on its own device, and left in the mode it was in.

    Raises:
        ValueError: the loader is empty, or model and data do not fit together.
    """
    with mode(model, training=False):
        correct, count = torch.zeros((), dtype=torch.int64), 0
        for images, labels in batches(loader, device_of(model)):
            hits = classify(model, images, labels).argmax(1) == labels
            correct, count = correct.to(hits.device) + hits.sum(), count + len(labels)
    return int(correct) / count


def _measure(model: nn.Module, evaluate: Mapping[str, Iterable[Any]] | None, ewc: EWC | None, history: History) -> None:
    # All is measured before anything is noted down, so that an interrupt leaves lists of equal length.
    measured = {name: accuracy(model, loader) for name, loader in (evaluate or {}).items()}
    if ewc is not None:
        with torch.no_grad():
            history.penalty.append(float(ewc.penalty(model)))
    for name, value in measured.items():
        history.accuracy[name].append(value)


@torch.no_grad()
def _is_finite(trainable: list[nn.Parameter], model: nn.Module, ewc: EWC | None) -> bool:
    """Whether weights and penalty are: the last step may have spoilt them without any loss having shown it."""
    return all(bool(p.isfinite().all()) for p in trainable) and (ewc is None or bool(ewc.penalty(model).isfinite()))


def _not_finite(finite: torch.Tensor, epoch: int, lr: float, ewc: EWC | None) -> str:
    step = min(int(finite.cumprod(0).sum()) + 1, len(finite))  # the first that was not, or the last of all
    message = f"the loss is no longer finite in epoch {epoch}, step {step}, with learning rate η = {lr:g}"
    if ewc is not None and ewc.importance > 0 and ewc.tasks > 0:
        limit = ewc.largest_stable_importance(lr)
        message += (
            f" and λ = {ewc.importance:g}: η·λ·max S = {2 * ewc.importance / limit:.3g}, and descent on the penalty's "
            f"gradient is stable below 2 only, that is for λ < {limit:.3g}. Lower λ or η, or pass proximal=True"
        )
    else:
        message += ". Lower it, and look for inputs or weights that are not finite"
    return f"{message}. The model has the weights it had before this epoch."
