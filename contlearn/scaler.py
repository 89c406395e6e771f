"""The trap of mixed precision: a penalty that joins gradients which are still multiplied by a `GradScaler`'s scale.

The scaler then divides it together with them, by 65,536 to begin with, and EWC protects nothing; nothing else tells.
What a gradient was when EWC left it, and what it is when the optimiser takes it, shows the division.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from contlearn.ranks import local

_SMALLEST = 16  # of the divisions that are a scaler's; less may be the reader's own


class _Number(NamedTuple):
    """One of a gradient, as EWC left it."""

    parameter: "weakref.ref[nn.Parameter]"
    place: int
    size: float


_watched: list[_Number] = []  # until an optimiser takes them
_listening: list[Any] = []  # one hook for the steps of all optimisers, once it is needed


def watch(parameters: Sequence[nn.Parameter]) -> bool:
    """Look at one number of the gradients now, and again when an optimiser is about to take them.

    The optimiser's step raises RuntimeError, before it changes anything, if the number has been divided by a power of
    two, as a scaler's scale is, or will be inside a fused step. It is looked at once.

    Returns:
        Whether there is such a number: finite, and not zero.
    """
    for p in parameters:
        size = local(p.grad).flatten().abs() if p.grad is not None and p.requires_grad else torch.empty(0)
        place = int(size.argmax()) if size.numel() else 0
        if size.numel() and 0 < float(size[place]) < math.inf:
            _watched.append(_Number(weakref.ref(p), place, float(size[place])))
            if not _listening:
                _listening.append(register_optimizer_step_pre_hook(_at_step))
            return True
    return False


def _at_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if not _watched:
        return
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    taken: list[_Number] = []
    others: list[_Number] = []
    for number in _watched:
        p = number.parameter()
        (taken if p is None or id(p) in own else others).append(number)
    _watched[:] = others
    inside = getattr(optimizer, "grad_scale", None)  # set where a fused step divides
    for number in taken:
        p = number.parameter()
        if p is None or p.grad is None:
            continue
        scale = _ratio(number.size, float(local(p.grad).flatten()[number.place].abs()))
        scale *= 1.0 if inside is None else float(inside)
        if scale >= _SMALLEST:
            raise RuntimeError(
                f"after ewc.add_gradient all gradients are divided by {scale:g}, and EWC's penalty with them, so that "
                "it protects nothing: call it after scaler.unscale_(optimizer), or with scale=scaler.get_scale()"
            )


def _ratio(before: float, after: float) -> float:
    """The first over the second if that is a power of two, otherwise 1: clipping divides by other numbers."""
    if not 0 < after < math.inf:
        return 1.0
    ratio = before / after
    return ratio if math.frexp(ratio)[0] == 0.5 else 1.0
