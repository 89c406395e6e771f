"""The multilayer perceptron of the series, and checkpoints of whatever has a `state_dict`."""

import copy
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class MLP(nn.Sequential):
    """784 → 256 → 256 → 256 → 10, with a ReLU after each hidden layer and none after the last: raw logits.

    h_l = max(0, W_l h_{l−1} + b_l), eq. (2.1). Its parameters are called `hidden1.weight`, `hidden1.bias`, …,
    `output.weight`, `output.bias`.

    Input: float images (N, 28, 28), or anything else of 784 numbers an image. Output: logits (N, 10).

    Raises:
        ValueError: a size is smaller than one.
    """

    def __init__(self, hidden_size: int = 256, hidden_layers: int = 3, inputs: int = 784, classes: int = 10) -> None:
        sizes = {"hidden_size": hidden_size, "hidden_layers": hidden_layers, "inputs": inputs, "classes": classes}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size}: an MLP needs at least one")
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i in range(1, hidden_layers + 1):
            layers[f"hidden{i}"] = nn.Linear(inputs if i == 1 else hidden_size, hidden_size)
            layers[f"relu{i}"] = nn.ReLU()
        layers["output"] = nn.Linear(hidden_size, classes)
        super().__init__(layers)
        self.inputs = inputs

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:].numel() != self.inputs:
            raise ValueError(
                f"this MLP takes {self.inputs} numbers an image, got a batch of shape {tuple(images.shape)}; "
                f"the first dimension counts the images"
            )
        logits: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return logits


class Masked(nn.Module):
    """A model that answers with some of its classes only, eq. (8.1): task-incremental, with those of the task at hand.

    The logits of all other classes become −10⁹, and so their probabilities zero. The model inside is shared, not
    copied: what is trained through one mask is seen through every other. Its parameters are called `model.…`,
    but `EWC` knows them by their names inside.

    Input: what the model takes. Output: logits of the model's shape, (N, C) or (N, T, C).

    Raises:
        ValueError: `classes` is empty, or the model has no logit for one of them.
    """

    def __init__(self, model: nn.Module, classes: Iterable[int]) -> None:
        super().__init__()
        self.model = model
        self.classes = sorted(classes)
        if not self.classes:
            raise ValueError("classes is empty: name the labels that the model may answer with, such as task.classes")

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        own = logits.shape[-1]
        if not 0 <= self.classes[0] <= self.classes[-1] < own:
            raise ValueError(f"classes={self.classes}: the model has logits for 0 to {own - 1} only")
        hidden = torch.ones(own, dtype=torch.bool, device=logits.device)
        hidden[self.classes] = False
        return logits.masked_fill(hidden, max(-1e9, torch.finfo(logits.dtype).min))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are.

    Raises:
        ValueError: the model has no parameters, or they are spread over several devices.
    """
    devices = {p.device for p in model.parameters()}
    if len(devices) != 1:
        raise ValueError(f"the model's parameters must be on one device, found {sorted(map(str, devices)) or 'none'}")
    return devices.pop()


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the model into `train()` or `eval()` mode, and afterwards each of its modules back into the one it was in."""
    before = {module: module.training for module in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        model.train(before[model])  # not the flags alone: adapters that merge for eval() come apart again in here
        for module, was_training in before.items():
            module.training = was_training


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """In `eval()` mode; afterwards in the modes and with the buffers from before, even if `forward` updates some.

    With their other attributes, too, and the dictionaries and lists among them: a length that a buffer was made for has
    to go back together with that buffer, a mark that hooks were added together with the hooks. Not so where weights
    were written to: they stay, and what is noted of them has to stay with them.
    """
    attributes = [vars(m) for m in model.modules()]
    held = [each for own in attributes for each in own.values() if type(each) in (dict, OrderedDict, list)]
    kept: list[tuple[Any, Any]] = [(each, each.copy()) for each in (*attributes, *held)]
    weights = fingerprint(model)
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    try:
        with mode(model, training=False):  # dropout off, batch-norm statistics neither taken from the batch nor changed
            yield
    finally:
        for now, before in kept if fingerprint(model) == weights else []:
            if isinstance(now, list):
                now[:] = before
            else:
                now.update(before)
                for name in now.keys() - before.keys():
                    del now[name]
        for module, name, buffer, value in buffers:
            module._buffers[name] = buffer
            if not torch.equal(buffer, value):
                buffer.resize_(value.shape).copy_(value)  # for quantisation they grow with the first batch


def fingerprint(model: nn.Module) -> str:
    """The sum of each parameter, which hardly stays when its numbers change."""
    real = (torch.view_as_real(p) if p.is_complex() else p for p in model.parameters())
    return repr([float(p.detach().sum(dtype=torch.promote_types(p.dtype, torch.float32))) for p in real])


def check_logits(logits: Any, images: int) -> None:
    """Raises ValueError: `logits` is no tensor of shape (images, C)."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != images:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits of shape ({images}, classes), got {found}")


def classify(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The logits (N, C) of a batch, checked: one row an input and one column for each label that occurs.

    Raises:
        ValueError: the model's output has another shape, or a label has no logit.
    """
    logits: Tensor = model(inputs)
    check_logits(logits, len(labels))
    # On a GPU this look at the values would wait for the device at every batch; CUDA's own assertion steps in there.
    if labels.device.type == "cpu" and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but the model has {logits.shape[1]} logits: "
            f"labels must be 0 to {logits.shape[1] - 1}"
        )
    return logits


class Stateful(Protocol):
    """What can be saved: models, optimisers, `EWC`."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


def save_checkpoint(path: Path | str, **parts: Stateful) -> None:
    """Write the state dictionaries of `parts` to one file, all or nothing.

    >>> save_checkpoint("run.pt", model=model, ewc=ewc)

    The file appears under its name only when it is complete, so an interruption leaves the previous one intact.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save({name: part.state_dict() for name, part in parts.items()}, unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_checkpoint(path: Path | str, **parts: Stateful) -> None:
    """Load `parts` from a file that `save_checkpoint` wrote.

    Models and optimisers stay on the device where they are; an `EWC` comes back on the CPU, see `EWC.to`.

    The file is read with `weights_only=True`: it holds tensors and numbers and can run no code.

    All parts are loaded, or none is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, holds no part of that name, or one that is damaged.
        RuntimeError: a part does not fit (another architecture); torch names the parameters.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no checkpoint {path}: check the path, or write one with save_checkpoint(); those that come with "
            "contlearn are restored by: git checkout -- files/checkpoints"
        ) from None
    except Exception as error:  # torch.load fails in many ways on a damaged file: pickle, zip, runtime and EOF errors
        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from error
    for name in parts:
        if not isinstance(saved, dict) or name not in saved:
            held = sorted(saved) if isinstance(saved, dict) else type(saved).__name__
            raise ValueError(f"{path} holds no part {name!r}, only {held}")
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    except Exception:
        for name, part in parts.items():
            part.load_state_dict(before[name])
        raise
