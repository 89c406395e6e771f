"""Several processes, one F: what `torch.distributed` adds up, models that are wrapped for it, and tensors in shards.

Without an initialised process group, or with one process only, nothing here does anything.

A model that was given to `fully_shard`, or is parallel in its tensors, has parameters of type `DTensor`: each rank
holds a shard. A tensor of EWC that belongs to one is cut in the same way; what is done number by number is done there.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


@contextmanager
def launched() -> Iterator[None]:
    """Join the other processes where `torchrun` has started several, and leave them in the end."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """Of several GPUs the one of this process."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" and several() else device


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if several() else 1


def number() -> int:
    """That of this one: 0 is the one that writes and prints."""
    return dist.get_rank() if several() else 0


class Share:
    """This rank's part of each batch of a loader that is the same on all: images r, r + R, r + 2R, … for R ranks.

    With `even`, for training, a batch with fewer images than ranks is left out, so that all take the same steps.
    """

    def __init__(self, loader: Iterable[Any], even: bool = False) -> None:
        self.loader, self.even = loader, even

    def __len__(self) -> int:
        if not isinstance(self.loader, Sized):
            raise TypeError("the loader has no length")
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if not self.even or len(batch[0]) >= size():
                yield tuple(part[number() :: size()] for part in batch)


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
        raise RuntimeError(f"this could not be done on every rank. {'; '.join(failed)}")


def require_one_model(model: nn.Module) -> None:
    """Raises ValueError: the ranks hold different weights, so that their sums would be the F of no model at all."""
    if not several():
        return
    own = {name: (tuple(p.shape), _bits(p)) for name, p in model.named_parameters()}
    for rank, other in enumerate(gathered(own)):
        for name in own.keys() | other.keys():
            if own.get(name) != other.get(name):
                raise ValueError(
                    f"{name} is not the same on rank {dist.get_rank()} and rank {rank}, but F is that of one model: "
                    "wrap it in DistributedDataParallel before training, or load one checkpoint on every rank"
                )


def _bits(p: Tensor) -> int:
    """The sum of the numbers that its bits would be as integers."""
    if p.is_meta or sharded(p):
        return 0
    integer = torch.int32 if p.element_size() % 4 == 0 else torch.int16 if p.element_size() % 2 == 0 else torch.uint8
    return int(p.detach().contiguous().view(-1).view(integer).sum(dtype=torch.int64))


def sharded(tensor: Tensor) -> bool:
    """Whether this rank holds a shard of it only."""
    module = sys.modules.get("torch.distributed.tensor")  # otherwise there can be none
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, in place; or all of it, where it is whole. Not for autograd."""
    if not sharded(tensor):
        return tensor
    with torch.no_grad():
        shard: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return shard


def whole(tensor: Tensor) -> Tensor:
    """All of it, gathered from the ranks where it is in shards."""
    if not sharded(tensor):
        return tensor
    full: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return full


def with_shard(shard: Tensor, like: Tensor) -> Tensor:
    """The tensor of which this rank's shard is given, cut as `like` is."""
    if not sharded(like):
        return shard
    where: Any = like
    return type(where).from_local(  # type: ignore[no-any-return]
        shard, where.device_mesh, where.placements, run_check=False, shape=where.size(), stride=where.stride()
    )


def cut(tensor: Tensor, like: Tensor) -> Tensor:
    """The same numbers, cut as `like` is, or whole as it is; without a copy where they are already.

    Raises:
        ValueError: `like` is cut in another way than along its dimensions.
    """
    if not sharded(like):
        return whole(tensor)
    from torch.distributed.tensor import DTensor, Replicate, Shard

    of: Any = like
    if not all(type(each) in (Shard, Replicate) for each in of.placements):
        raise ValueError(f"a parameter is placed as {of.placements}: EWC knows shards along a dimension, and copies")
    if isinstance(tensor, DTensor) and (tensor.device_mesh, tensor.placements) == (of.device_mesh, of.placements):
        return tensor
    copies = [Replicate()] * of.device_mesh.ndim
    return DTensor.from_local(whole(tensor), of.device_mesh, copies, run_check=False).redistribute(
        placements=of.placements
    )


def sum_over_shards(values: Iterable[Tensor], of: Iterable[Tensor]) -> Tensor:
    """The sum of numbers, each of them made from the shard that this rank holds of a tensor: the same on all ranks."""
    groups: dict[Any, Tensor] = {}
    for value, tensor in zip(values, of, strict=True):
        where: Any = tensor
        key = (where.device_mesh, tuple(each.is_replicate() for each in where.placements)) if sharded(tensor) else None
        groups[key] = groups[key] + value if key in groups else value
    total = torch.zeros(())
    for key, value in groups.items():
        if key is not None:
            from torch.distributed.tensor import DTensor, Partial, Replicate

            mesh, copied = key
            placements = [Replicate() if each else Partial() for each in copied]
            value = DTensor.from_local(value, mesh, placements, run_check=False).full_tensor()
        total = value + total.to(value.device)
    return total


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `DistributedDataParallel`, `DataParallel` and `torch.compile`: its names are shorter.

    Raises:
        ValueError: the first `FullyShardedDataParallel` is somewhere in it.
    """
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            break
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ValueError(
            "FullyShardedDataParallel flattens the parameters of a layer into one, and EWC goes by parameters: take "
            "torch.distributed.fsdp.fully_shard, which leaves them what they are"
        )
    return model
