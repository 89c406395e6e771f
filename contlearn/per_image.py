"""Gradients image by image, for parameters without a closed form: batched by `torch.func.vmap`, or one at a time."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from contlearn.likelihoods import Vectors

Forward = Callable[[nn.Module, Any], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Batch:
    """What a loader yields, taken apart: the tensors that hold images along their first dimension, and the rest."""

    leaves: list[Any]
    form: Any
    images: int

    @classmethod
    def of(cls, value: Any, device: torch.device) -> "Batch":
        """Take `value` apart, its tensors moved to `device`.

        Raises:
            TypeError: there is no tensor in it.
        """
        leaves, form = tree_flatten(value)
        leaves = [leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        sizes = [len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
        if not sizes:
            raise TypeError(
                f"the loader must yield tensors, in tuples, lists or dictionaries, got {type(value).__name__}"
            )
        return cls(leaves, form, sizes[0])

    def is_part(self, leaf: Any) -> bool:
        """Whether `leaf` has one entry an image."""
        return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == self.images

    def __getitem__(self, images: slice) -> "Batch":
        leaves = [leaf[images] if self.is_part(leaf) else leaf for leaf in self.leaves]
        return Batch(leaves, self.form, len(range(self.images)[images]))

    def take(self, images: Tensor) -> "Batch":
        """A batch of the images with these numbers."""
        leaves = [leaf[images.to(leaf.device)] if self.is_part(leaf) else leaf for leaf in self.leaves]
        return Batch(leaves, self.form, len(images))

    def value(self) -> Any:
        """What the loader yielded."""
        return tree_unflatten(self.leaves, self.form)

    def fits(self, other: "Batch") -> bool:
        """Whether both can be joined: only images, of the same shapes."""
        return self.form == other.form and all(
            self.is_part(a) and other.is_part(b) and (a.shape[1:], a.dtype) == (b.shape[1:], b.dtype)
            for a, b in zip(self.leaves, other.leaves, strict=True)
        )

    def kind(self) -> list[Any]:
        """Its shapes, and all that is no tensor, such as the number of a task."""
        return [*self.shapes(), *(repr(leaf) for leaf in self.leaves if not isinstance(leaf, Tensor))]

    def shapes(self) -> list[Any]:
        """What two batches have in common for which a model may be expected to do the same."""
        return [tuple(leaf.shape[1:]) for leaf in self.leaves if isinstance(leaf, Tensor)]


def joined(batches: list[Batch]) -> Batch:
    """Several batches that fit as one."""
    if len(batches) == 1:
        return batches[0]
    parts = zip(*(batch.leaves for batch in batches), strict=True)
    return Batch([torch.cat(part) for part in parts], batches[0].form, sum(batch.images for batch in batches))


class Classifier(nn.Module):
    """A model with the `forward` that its user has for a batch, so that `functional_call` reaches its parameters."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model, self.call = model, forward

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        return self.call(self.model, batch)


def gradients(logits: Tensor, parameters: Mapping[str, Tensor], v: Tensor) -> dict[str, Tensor | None]:
    """∂(v · logits)/∂θ, None where no path leads to θ."""
    found = torch.autograd.grad(logits, list(parameters.values()), v, retain_graph=True, allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def one_at_a_time(
    classifier: Classifier, parameters: Mapping[str, Tensor], batch: Batch, vectors: Vectors
) -> Iterator[tuple[str, Tensor]]:
    """(∂/∂θ)² of image after image, vector after vector, by plain autograd: what everything else is compared with."""
    for n in range(batch.images):
        logits = classifier(batch[n : n + 1].value())[0]
        of_image = vectors.of(slice(n, n + 1))
        for k in range(len(vectors)):
            for name, g in gradients(logits, parameters, of_image[k]).items():
                if g is not None:
                    yield name, square(g)


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
    images = [leaf for leaf in batch.leaves if batch.is_part(leaf)]

    def logits_of(images: list[Tensor], values: dict[str, Tensor]) -> Tensor:
        own = iter(images)
        leaves = [next(own)[None] if batch.is_part(leaf) else leaf for leaf in batch.leaves]
        placed = {place: values[name] for place, name in places.items()}
        logits: Tensor = functional_call(
            classifier, placed, (Batch(leaves, batch.form, 1).value(),), tie_weights=False
        )[0]
        return logits[0]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        logits = vmap(logits_of)(images, copies)
    for v in vectors:
        found = gradients(logits, copies, v)
        yield {name: torch.zeros_like(copies[name]) if g is None else g for name, g in found.items()}


def square(g: Tensor) -> Tensor:
    """|g|² in at least single precision."""
    if g.is_complex():
        return torch.view_as_real(g).square().sum(-1)
    return g.to(torch.promote_types(g.dtype, torch.float32)).square()
