"""What is sent backwards from the outputs of a model to measure its Fisher information.

Four estimators share one piece of code. For image n they differ only in the vectors v that stand for the gradient of
the loss at the logits; with p = softmax(logits), eq. (2.2), and e_c the c-th unit vector,

    exact       √p_c (e_c − p) for each class c     expectation over the model's own prediction, eq. (4.3)
    sample      e_y − p,  y drawn from p            one draw from it, or the mean over several, eq. (4.5)
    empirical   e_y − p,  y the true label          eq. (4.6)
    predicted   e_y − p,  y the most likely label   eq. (4.7)

because ∂ log p_c / ∂logits = e_c − p, eq. (4.8). All squares are taken image by image, and only then averaged.
"""

from collections.abc import Sequence
from typing import Literal, get_args, overload

import torch
from torch import Tensor

Estimator = Literal["exact", "sample", "empirical", "predicted"]


class Vectors(Sequence[Tensor]):
    """The vectors v of a batch, each (N, C) and made when it is asked for, so that there is never a tensor (C, N, C).

    Attributes:
        p: the probabilities, (N, C), in at least single precision.
        labels: which label each image takes in each vector, (V, N); None for `"exact"`, where V = C.
    """

    def __init__(self, p: Tensor, labels: Tensor | None, dtype: torch.dtype) -> None:
        self.p, self.labels, self.dtype = p, labels, dtype

    def __len__(self) -> int:
        return self.p.shape[1] if self.labels is None else len(self.labels)

    @overload
    def __getitem__(self, k: int) -> Tensor: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, k: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(len(self)))]
        if not 0 <= k < len(self):
            raise IndexError(k)
        v = -self.p
        if self.labels is None:
            v[:, k] += 1
            v *= self.p[:, k, None].sqrt()  # √p_c (e_c − p), eq. (4.3) and eq. (4.8)
        else:
            v.scatter_add_(1, self.labels[k, :, None], torch.ones_like(v[:, :1]))  # e_y − p, eq. (4.8)
            v /= len(self.labels) ** 0.5  # the squares of several draws are averaged, eq. (4.5)
        return v.to(self.dtype)

    def of(self, images: slice) -> "Vectors":
        """Those of some of the images."""
        return Vectors(self.p[images], None if self.labels is None else self.labels[:, images], self.dtype)


def categorical(
    logits: Tensor, labels: Tensor | None, estimator: Estimator, samples: int, generator: torch.Generator | None
) -> Vectors:
    """The vectors of a classifier with logits (N, C). Only `"empirical"` looks at the labels, int64 (N,).

    A logit of −∞ is a class that cannot be: it has p = 0 and sends nothing.

    Raises:
        FloatingPointError: a logit is NaN or +∞, or no class of an image can be.
        ValueError: there is one logit only, or `"empirical"` has no labels or some without a logit.
    """
    classes = logits.shape[1]
    if classes < 2:
        raise ValueError(
            "the model has a single logit, and the softmax of one number is always 1: F would be zero. "
            "Give it two logits, such as torch.cat((torch.zeros_like(z), z), 1), whose softmax is the sigmoid of z"
        )
    p = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
    if not bool(p.isfinite().all()):
        raise FloatingPointError("a logit is not finite: look for inputs or weights that are not, before measuring F")
    if estimator == "exact":
        return Vectors(p, None, logits.dtype)
    if estimator == "sample":
        return Vectors(p, torch.multinomial(p, samples, replacement=True, generator=generator).T, logits.dtype)
    if estimator == "predicted":
        return Vectors(p, p.argmax(1)[None], logits.dtype)
    if labels is None:
        raise ValueError("estimator='empirical' takes the true labels, but forward returned None for them")
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be integers of shape ({len(logits)},), got {labels.dtype} {tuple(labels.shape)}")
    labels = labels.long()
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but the model has {classes} logits: "
            f"labels must be 0 to {classes - 1}"
        )
    if bool(logits.detach().gather(1, labels[:, None]).isinf().any()):
        raise FloatingPointError("the logit of a true label is not finite: the mask excludes a label that occurs")
    return Vectors(p, labels[None], logits.dtype)


def check_estimator(estimator: str, samples: int) -> None:
    """Raises ValueError: there is no such estimator, or it takes no such number of samples."""
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator={estimator!r}: expected one of {', '.join(map(repr, get_args(Estimator)))}")
    if samples < 1 or (samples != 1 and estimator != "sample"):
        raise ValueError(f"samples={samples}: expected 1, or with estimator='sample' the number of draws an image")
