"""Gradients image by image, for parameters without a closed form: batched by `torch.func.vmap`, or one at a time."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from contlearn.likelihoods import Vectors, precise

Forward = Callable[[nn.Module, Any], tuple[Tensor, Tensor | None]]
_FEW = 16  # numbers in a tensor that may say which task it is
_GROUP = 32  # images whose squares are added up before they join the sum of all


@dataclass(frozen=True)
class Batch:
    """What a loader yields, taken apart: the tensors that hold images along their first dimension, and the rest."""

    leaves: list[Any]
    form: Any
    images: int
    parts: list[bool]  # which leaves have one entry an image; a cut batch may be as short as something shared

    @classmethod
    def of(cls, value: Any, device: torch.device) -> "Batch":
        """Take `value` apart, its tensors moved to `device`.

        Raises:
            TypeError: there is no tensor in it.
            ValueError: its images are sparse or nested.
        """
        leaves, form = tree_flatten(value)
        leaves = [leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        leaves = [leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf for leaf in leaves]
        sizes = [len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
        if not sizes:
            raise TypeError(
                f"the loader must yield tensors, in tuples, lists or dictionaries, got {type(value).__name__}"
                + (": give (dict(batch) for batch in loader)" if isinstance(value, Mapping) else "")
            )
        parts = [isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == sizes[0] for leaf in leaves]
        if any(part and leaf.layout is not torch.strided for leaf, part in zip(leaves, parts, strict=True)):
            raise ValueError(
                "the loader's images are sparse or nested, and cannot be taken one by one: yield images.to_dense(), or "
                "torch.nested.to_padded_tensor(images, 0) and their lengths"
            )
        return cls(leaves, form, sizes[0], parts)

    def __getitem__(self, images: slice) -> "Batch":
        leaves = [leaf[images] if part else leaf for leaf, part in zip(self.leaves, self.parts, strict=True)]
        return replace(self, leaves=leaves, images=len(range(self.images)[images]))

    def room(self, images: int) -> "Batch":
        """Room for that many images of the same shapes."""
        return replace(self, leaves=[leaf.new_empty(images, *leaf.shape[1:]) for leaf in self.leaves], images=images)

    def put(self, batch: "Batch", start: int) -> None:
        """Copy the images of a batch that fits to the places from `start` on."""
        for room, leaf in zip(self.leaves, batch.leaves, strict=True):
            room[start : start + batch.images] = leaf.detach()

    def take(self, images: Tensor) -> "Batch":
        """A batch of the images with these numbers."""
        leaves = [
            leaf[images.to(leaf.device)] if part else leaf for leaf, part in zip(self.leaves, self.parts, strict=True)
        ]
        return replace(self, leaves=leaves, images=len(images))

    def value(self) -> Any:
        """In the form in which the loader yielded it."""
        return tree_unflatten(self.leaves, self.form)

    def fits(self, other: "Batch") -> bool:
        """Whether both can be joined: only images, of the same shapes."""
        return (
            self.form == other.form
            and all(self.parts)
            and all(other.parts)
            and all(
                (a.shape[1:], a.dtype) == (b.shape[1:], b.dtype) for a, b in zip(self.leaves, other.leaves, strict=True)
            )
        )

    def kind(self) -> tuple[Any, ...]:
        """Its shapes, and what all images share, such as the number of a task; no text, which may be a file's name."""
        shared = [leaf for leaf, part in zip(self.leaves, self.parts, strict=True) if not part]
        numbers = [leaf for leaf in shared if isinstance(leaf, Tensor) and not leaf.is_floating_point()]
        others = [repr(leaf) for leaf in shared if not isinstance(leaf, Tensor | str)]
        return *self.shapes(), *others, *(repr(each.tolist()) for each in numbers if each.numel() <= _FEW)

    def shapes(self) -> list[Any]:
        """What two batches have in common for which a model may be expected to do the same."""
        return [tuple(leaf.shape[1:]) for leaf in self.leaves if isinstance(leaf, Tensor)]


class Classifier(nn.Module):
    """A model with the `forward` that its user has for a batch, so that `functional_call` reaches its parameters.

    It runs under the autocast in which it was made.
    """

    def __init__(self, model: nn.Module, forward: Forward, device: str) -> None:
        super().__init__()
        self.model, self.call, self.device = model, forward, device
        self.autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        enabled, dtype = self.autocast
        with torch.autocast(self.device, dtype, enabled):
            return self.call(self.model, batch)

    def quietly(self, batch: Batch) -> Tensor:
        """The logits, without a graph under `no_grad`, unless `forward` needs one for hooks on its activations."""
        try:
            return self(batch.value())[0]  # type: ignore[no-any-return]
        except RuntimeError:
            with torch.enable_grad():
                return self(batch.value())[0].detach()  # type: ignore[no-any-return]


def gradients(logits: Tensor, parameters: Mapping[str, Tensor], v: Tensor) -> dict[str, Tensor | None]:
    """∂(v · logits)/∂θ, the score, eq. (4.1), for v = ∂ log p / ∂z; None where no path leads to θ."""
    if not logits.requires_grad:  # an image may use frozen weights alone
        return dict.fromkeys(parameters)
    found = torch.autograd.grad(logits, list(parameters.values()), v, retain_graph=True, allow_unused=True)
    # that of an embedding with `sparse=True` is sparse
    dense = [g.to_dense() if g is not None and g.layout is torch.sparse_coo else g for g in found]
    return dict(zip(parameters, dense, strict=True))


def tolerance(dtype: torch.dtype) -> float:
    """What two ways to compute one number may differ by, relative to the size of its terms: half of the digits."""
    return float(torch.finfo(dtype).eps ** 0.5)


def same(found: Mapping[str, Tensor], truth: Mapping[str, Tensor | None], dtype: torch.dtype) -> bool:
    """Whether gradients agree up to rounding; where they cancel to nothing, up to that of the largest of them."""
    largest = max((float(g.abs().max()) for g in truth.values() if g is not None), default=0.0)
    for name, g in found.items():
        true = truth[name]
        true = torch.zeros_like(g) if true is None else true
        size = max(tolerance(dtype) * float(true.abs().max()), 32 * torch.finfo(dtype).eps * largest)
        if not float((g - true).abs().max()) <= size:
            return False
    return True


def one_at_a_time(
    classifier: Classifier, parameters: Mapping[str, Tensor], batch: Batch, vectors: Vectors
) -> dict[str, Tensor]:
    """Σ_n Σ_v (∂/∂θ)² by plain autograd, image after image, vector after vector: what all else is compared with.

    In groups: one long sum in single precision would lose digits.
    """
    total: dict[str, Tensor] = {}
    for start in range(0, batch.images, _GROUP):
        group: dict[str, Tensor] = {}
        for n in range(start, min(start + _GROUP, batch.images)):
            logits = classifier(batch[n : n + 1].value())[0]
            of_image = vectors.of(slice(n, n + 1))
            for k in range(len(vectors)):
                for name, g in gradients(logits, parameters, of_image[k]).items():
                    if g is not None:
                        add(group, name, square(g))
        for name, squares in group.items():
            add(total, name, squares)
    return total


def add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    """Add `value` to the sum of that name, in place, or begin one with it."""
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value


class PaddingWithoutGradient(TorchFunctionMode):
    """An embedding's `padding_idx`, of which vmap's rule for the backward pass knows nothing.

    An image without padding would not show it: so it is not left to the comparison with autograd.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in (embedding, torch.embedding):
            arguments = _of_functional if function is embedding else _of_torch
            tokens, weight, padding = arguments(*args, **(kwargs or {}))
            if padding is not None:
                return torch.where((tokens == padding % len(weight))[..., None], result.detach(), result)
        return result


def _of_functional(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, int | None]:
    """What matters here of the arguments of `torch.nn.functional.embedding`."""
    return input, weight, padding_idx


def _of_torch(
    weight: Tensor, indices: Tensor, padding_idx: int = -1, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, int | None]:
    """The same of `torch.embedding`, where −1 is no padding."""
    return indices, weight, padding_idx if padding_idx >= 0 else None


def batched(
    classifier: Classifier, parameters: Mapping[str, Tensor], batch: Batch, vectors: Vectors
) -> Iterator[dict[str, Tensor]]:
    """For each vector the gradients of all images at once, (N, *shape): every image gets its own copy of θ.

    Raises:
        RuntimeError: vmap has no rule for an operator, or forward does something that it cannot follow.
    """
    # Every place where a parameter stands, spelled out: with functional_call's own handling of shared ones, a module
    # that is registered under two names does not get its parameters back.
    name_of = {id(p): name for name, p in parameters.items()}
    places = {
        f"{prefix}.{kind}": name_of[id(p)]
        for prefix, module in classifier.named_modules()
        for kind, p in module._parameters.items()
        if id(p) in name_of
    }
    copies = {
        name: p.detach().expand(batch.images, *p.shape).requires_grad_()  # a view: takes no memory
        for name, p in parameters.items()
    }
    images = [leaf for leaf, part in zip(batch.leaves, batch.parts, strict=True) if part]

    def logits_of(images: list[Tensor], values: dict[str, Tensor]) -> Tensor:
        own = iter(images)
        leaves = [next(own)[None] if part else leaf for leaf, part in zip(batch.leaves, batch.parts, strict=True)]
        placed = {place: values[name] for place, name in places.items()}
        logits: Tensor = functional_call(
            classifier, placed, (replace(batch, leaves=leaves, images=1).value(),), tie_weights=False
        )[0]
        return logits[0]

    with warnings.catch_warnings(), PaddingWithoutGradient():
        warnings.filterwarnings("ignore", "There is a performance drop")
        logits = vmap(logits_of)(images, copies)
    for k in range(len(vectors)):
        found = gradients(logits, copies, vectors[k])
        yield {name: torch.zeros_like(copies[name]) if g is None else g for name, g in found.items()}


def square(g: Tensor) -> Tensor:
    """|g|² in at least single precision."""
    if g.is_complex():
        return torch.view_as_real(g).square().sum(-1)
    return precise(g).square()
