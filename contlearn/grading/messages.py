"""What passes between the grader and a student's process: frames of JSON with the bytes of tensors behind it.

The grader sends pickles, for it is trusted. What comes back is only ever data: `pack` and `unpack` know None, booleans,
numbers, strings, lists, tuples, dicts, arrays and tensors; an argument that comes back is a number saying which; of any
other object only the name of its type arrives.
"""

import contextlib
import copy
import io
import json
import math
import pickle
import struct
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

LONGEST_TEXT = 8 * 2**20  # bytes of JSON in a frame
LONGEST_DATA = 128 * 2**20  # bytes of tensors in a frame that a student's process sends
MOST_ITEMS = 20_000
DEEPEST = 12

_HEADER = struct.Struct(">QQ")
_DTYPES = {
    str(dtype): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip


class Malformed(ValueError):
    """A frame that no honest process sends."""


class Unknown:
    """An object that stayed in the student's process; only its type's name came over."""


def write(stream: BinaryIO, message: Any, data: bytes | bytearray | memoryview = b"") -> None:
    """Send one frame: `message`, which JSON can hold, and the bytes that it speaks of."""
    text = json.dumps(message).encode()
    stream.write(_HEADER.pack(len(text), len(data)))
    stream.write(text)
    stream.write(data)
    stream.flush()


def read(stream: BinaryIO, longest: int = LONGEST_DATA) -> tuple[Any, bytearray]:
    """Receive one frame.

    Raises:
        EOFError: the other side is gone.
        Malformed: the frame is too long, or its text is no JSON.
    """
    text_length, data_length = _HEADER.unpack(_exactly(stream, _HEADER.size))
    if text_length > LONGEST_TEXT or data_length > longest:
        raise Malformed(f"a message of {text_length:,} + {data_length:,} bytes")
    text, data = _exactly(stream, text_length), _exactly(stream, data_length)
    try:
        return json.loads(text), data
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a message that is no JSON: {type(error).__name__}") from None


def _exactly(stream: BinaryIO, count: int) -> bytearray:
    found = bytearray()
    while len(found) < count:
        part = stream.read(min(count - len(found), 2**20))
        if not part:
            raise EOFError
        found += part
    return found


def send_arguments(arguments: Sequence[Any]) -> tuple[list[int], memoryview]:
    """The grader's side of a call: gradients by module, which a pickle would drop, and the pickle.

    Functions among the arguments stay here: the student's process gets a stand-in that asks back.
    """
    stay = {id(a): k for k, a in enumerate(arguments) if callable(a) and not isinstance(a, nn.Module)}

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> Any:
            return stay.get(id(item))

    buffer = io.BytesIO()
    gradients = [{n: p.grad for n, p in a.named_parameters()} for a in arguments if isinstance(a, nn.Module)]
    Pickler(buffer).dump((tuple(arguments), gradients))
    return sorted(stay.values()), buffer.getbuffer()


def receive_arguments(data: bytes | bytearray, ask_back: Callable[[int], Any]) -> tuple[Any, ...]:
    """The student's side of a call; `ask_back(k)` makes the stand-in for argument k."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, place: Any) -> Any:
            return ask_back(int(place))

    arguments, gradients = Unpickler(io.BytesIO(data)).load()
    for model, grads in zip((a for a in arguments if isinstance(a, nn.Module)), gradients, strict=True):
        for name, p in model.named_parameters():
            p.grad = grads[name]
    return tuple(arguments)


def pack(value: Any, arguments: Sequence[Any] = ()) -> tuple[Any, bytearray]:
    """`value` as a tree that JSON can hold, and the bytes of its tensors.

    Of tensors it is told whether they share memory with a parameter of one of the `arguments`, and which of these a
    gradient through them would reach.
    """
    data = bytearray()
    models = [(k, a) for k, a in enumerate(arguments) if isinstance(a, nn.Module)]
    parameters = [(k, name, p) for k, model in models for name, p in model.named_parameters()]
    items = 0

    def tensor(t: Tensor) -> Any:
        if t.is_sparse or t.is_quantized or str(t.dtype) not in _DTYPES:
            return {"is": "object", "type": "Tensor"}
        told: dict[str, Any] = {"is": "tensor", "dtype": str(t.dtype), "shape": list(t.shape), "at": len(data)}
        told["wants_gradient"] = bool(t.requires_grad)
        told["alias"] = next(
            ([k, n] for k, n, p in parameters if p.data_ptr() == t.data_ptr() and p.shape == t.shape and t.numel()),
            None,
        )
        told["reaches"] = []
        if t.grad_fn is not None and parameters:
            with contextlib.suppress(RuntimeError):  # backward() has used the graph up: nothing flows any more
                found = torch.autograd.grad(t.sum(), [p for *_, p in parameters], allow_unused=True, retain_graph=True)
                told["reaches"] = [[k, n] for (k, n, _), g in zip(parameters, found, strict=True) if g is not None]
        plain = t.detach().resolve_conj().resolve_neg().cpu().contiguous()
        data.extend(plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
        return told

    def tree(v: Any, depth: int) -> Any:
        nonlocal items
        items += 1
        if items > MOST_ITEMS or depth > DEEPEST:
            return {"is": "object", "type": type(v).__name__}
        for k, argument in enumerate(arguments):
            if v is argument and not isinstance(v, Tensor | int | float | str | bool | None):
                return {"is": "argument", "which": k}
        if v is None or v is ...:
            return {"is": "none" if v is None else "dots"}
        if isinstance(v, np.generic):
            v = v.item()
        if type(v) in (bool, float, str) or (type(v) is int and abs(v) < 2**200):
            return {"is": "value", "value": v[:100_000] if isinstance(v, str) else v}
        if isinstance(v, Tensor):
            return tensor(v)
        if isinstance(v, np.ndarray) and v.dtype.kind in "fiub":
            return tensor(torch.from_numpy(np.ascontiguousarray(v)))
        if isinstance(v, list | tuple):
            return {"is": "list" if isinstance(v, list) else "tuple", "items": [tree(x, depth + 1) for x in v]}
        if isinstance(v, dict):
            return {"is": "dict", "items": [[tree(a, depth + 1), tree(b, depth + 1)] for a, b in v.items()]}
        if isinstance(v, nn.Module):
            return {"is": "module", "type": type(v).__name__, "state": tree(dict(v.state_dict()), depth + 1)}
        return {"is": "object", "type": type(v).__name__}

    return tree(value, 0), data


def unpack(told: Any, data: bytes | bytearray, arguments: Sequence[Any] = ()) -> Any:
    """The value that a tree of `pack` describes, in the grader.

    Raises:
        Malformed: the tree is not one that `pack` makes.
    """
    try:
        return _unpack(told, data, arguments, 0)
    except Malformed:
        raise
    except Exception as error:  # whatever a forged tree provokes
        raise Malformed(f"an answer that cannot be read: {type(error).__name__}") from None


def _unpack(told: Any, data: bytes | bytearray, arguments: Sequence[Any], depth: int) -> Any:
    if depth > DEEPEST + 1:
        raise Malformed("an answer that is nested too deeply")
    match told["is"]:
        case "none":
            return None
        case "dots":
            return ...
        case "value" if isinstance(told["value"], bool | int | float | str):
            return told["value"]
        case "argument":
            return arguments[_index(told["which"], arguments)]
        case "tensor":
            return _tensor(told, data, arguments)
        case "list":
            return [_unpack(x, data, arguments, depth + 1) for x in told["items"]]
        case "tuple":
            return tuple(_unpack(x, data, arguments, depth + 1) for x in told["items"])
        case "dict":
            pairs = [[_unpack(x, data, arguments, depth + 1) for x in pair] for pair in told["items"]]
            return {key: value for key, value in pairs if isinstance(key, bool | int | float | str | None)}
        case "module":
            return _module(told, _unpack(told["state"], data, (), depth + 1), arguments)
        case "object":
            return unknown(told["type"])
    raise Malformed("an answer of an unknown kind")


def _index(k: Any, arguments: Sequence[Any]) -> int:
    if not isinstance(k, int) or not 0 <= k < len(arguments):
        raise Malformed("an argument that was not given")
    return k


def unknown(name: Any) -> Any:
    """An empty object of a new type with this name, for what is said of it."""
    return type("".join(c for c in str(name)[:40] if c.isalnum() or c == "_") or "object", (Unknown,), {})()


def _tensor(told: Any, data: bytes | bytearray, arguments: Sequence[Any]) -> Tensor:
    dtype, shape, at = _DTYPES[told["dtype"]], told["shape"], told["at"]
    if not all(isinstance(n, int) and n >= 0 for n in [*shape, at]) or len(shape) > 12:
        raise Malformed("a tensor of a shape that cannot be")
    count = math.prod(shape)
    if at + count * dtype.itemsize > len(data):
        raise Malformed("a tensor without its numbers")
    if count:
        found = torch.frombuffer(bytearray(data[at : at + count * dtype.itemsize]), dtype=dtype).reshape(shape)
    else:
        found = torch.empty(shape, dtype=dtype)
    if told["alias"] is not None:
        found = _parameter(told["alias"], arguments)
        return found if told["wants_gradient"] else found.detach()
    if told["wants_gradient"] and (dtype.is_floating_point or dtype.is_complex):
        found.requires_grad_()
        for place in told["reaches"]:
            p = _parameter(place, arguments)
            found = found + (p - p.detach()).sum().to(dtype)  # nothing added, but the graph leads to p again
    return found


def _parameter(place: Any, arguments: Sequence[Any]) -> Tensor:
    k, name = place
    model = arguments[_index(k, arguments)]
    found: Tensor = dict(model.named_parameters())[name]
    return found


def _module(told: Any, state: Any, arguments: Sequence[Any]) -> Any:
    """A copy of the model that was given, with the weights of the one that came back, if they fit."""
    for model in arguments:
        if isinstance(model, nn.Module):
            wanted = {name: t.shape for name, t in model.state_dict().items()}
            if wanted == {name: getattr(t, "shape", None) for name, t in state.items()}:
                twin = copy.deepcopy(model)
                twin.load_state_dict(state)
                return twin
    return unknown(told["type"])


def state(arguments: Sequence[Any]) -> list[Any]:
    """What a call may have changed in each model among the arguments: weights, gradients, buffers and modes."""
    return [
        {
            "weights": {name: p.detach() for name, p in a.named_parameters()},
            "gradients": {name: p.grad for name, p in a.named_parameters()},
            "buffers": dict(a.named_buffers()),
            "free": {name: p.requires_grad for name, p in a.named_parameters()},
            "modes": {name: module.training for name, module in a.named_modules()},
        }
        if isinstance(a, nn.Module)
        else None
        for a in arguments
    ]


def apply_state(states: Any, arguments: Sequence[Any]) -> None:
    """Change the grader's models as the student's process says that the call changed its own.

    Raises:
        Malformed: names or shapes are not those of the models.
    """
    try:
        for told, model in zip(states, arguments, strict=True):
            if not isinstance(model, nn.Module):
                continue
            with torch.no_grad():
                for name, p in model.named_parameters():
                    p.copy_(_like(told["weights"][name], p))
                    gradient = told["gradients"][name]
                    p.grad = None if gradient is None else _like(gradient, p).to(p.dtype)
                    p.requires_grad_(told["free"][name] is True)
                for name, b in model.named_buffers():
                    b.copy_(_like(told["buffers"][name], b))
            for name, module in model.named_modules():
                module.training = told["modes"][name] is True
    except Malformed:
        raise
    except Exception as error:
        raise Malformed(f"a model that is not the one given: {type(error).__name__}") from None


def _like(given: Any, wanted: Tensor) -> Tensor:
    if not isinstance(given, Tensor) or given.shape != wanted.shape:
        raise Malformed("a model whose weights have other shapes than those given")
    return given.detach()
