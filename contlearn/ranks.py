"""Several processes, one F: what `torch.distributed` adds up, and models that are wrapped for it.

Without an initialised process group, or with one process only, nothing here does anything.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def several() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gathered(value: Any) -> list[Any]:
    """What each rank has given, in the order of the ranks."""
    if not several():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def total(tensor: Tensor) -> Tensor:
    """The sum over the ranks, with the same bits on each."""
    if several():
        tensor = tensor.contiguous()
        dist.all_reduce(tensor)
    return tensor


@contextmanager
def all_or_none() -> Iterator[None]:
    """What fails on one rank fails on all of them, so that none waits for another that has given up.

    Raises:
        RuntimeError: another rank has failed; the message is that of its error.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found
    messages = gathered(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    failed = [f"rank {rank}: {message}" for rank, message in enumerate(messages) if message is not None]
    if failed:
        raise RuntimeError(f"F could not be measured on every rank. {'; '.join(failed)}")


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `DistributedDataParallel` and `torch.compile`, whose parameters have shorter names."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model
