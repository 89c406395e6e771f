"""The trap of mixed precision: a penalty that joins gradients which are still multiplied by a `GradScaler`'s scale.

The scaler then divides it together with them, by 65,536 to begin with, and EWC protects nothing; nothing else tells.
What a gradient was when EWC left it, and what it is when the optimiser takes it, shows the division.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from contlearn.ranks import local

_SMALLEST = 16  # of the divisions that are a scaler's; less may be the reader's own


def watch(parameters: Sequence[nn.Parameter]) -> bool:
    """Look at one number of the gradients now, and again when an optimiser is about to take them.

    The optimiser's step raises RuntimeError, before it changes anything, if the number has been divided by a power of
    two, as a scaler's scale is, or will be inside a fused step. It is looked at once; no number is kept alive.

    Returns:
        Whether there is such a number: finite, and not zero.
    """
    for p in parameters:
        number = _largest(p)
        if number is not None and number[1] > 0 and math.isfinite(number[1]):
            break
    else:
        return False
    of, (place, before) = weakref.ref(p), number

    def at_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        own = of()
        if own is None:
            handle.remove()
        elif any(own is q for group in optimizer.param_groups for q in group["params"]):
            handle.remove()
            inside = getattr(optimizer, "grad_scale", None)  # set where a fused step divides
            scale = 1.0 if inside is None else float(inside)
            if own.grad is not None:
                scale *= _ratio(before, float(local(own.grad).flatten()[place].abs()))
            if scale >= _SMALLEST:
                raise RuntimeError(
                    f"after ewc.add_gradient all gradients are divided by {scale:g}, and EWC's penalty with them, so "
                    "that it protects nothing: call it after scaler.unscale_(optimizer), or with "
                    "scale=scaler.get_scale()"
                )

    handle = register_optimizer_step_pre_hook(at_step)
    return True


def _largest(p: nn.Parameter) -> tuple[int, float] | None:
    """Where the gradient is largest, and how large."""
    if p.grad is None or not p.requires_grad:
        return None
    size = local(p.grad).flatten().abs()
    if size.numel() == 0:
        return None
    place = int(size.argmax())
    return place, float(size[place])


def _ratio(before: float, after: float) -> float:
    """The first over the second if that is a power of two, otherwise 1: clipping divides by other numbers."""
    if not (math.isfinite(after) and after > 0):
        return 1.0
    ratio = before / after
    return ratio if math.frexp(ratio)[0] == 0.5 else 1.0
