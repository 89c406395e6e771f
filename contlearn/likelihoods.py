"""What is sent backwards from the outputs of a model to measure its Fisher information.

The estimators share one piece of code. For image n they differ only in the vectors v that stand for the gradient of
the log-likelihood at the outputs z, where y is the target and p the probabilities that the model gives:

                categorical            Bernoulli             Gaussian of unit variance
    log p(y)    log softmax(z)_y       Σ_k log p_k(y_k)      −½ Σ_k (y_k − z_k)² + constant
    ∂/∂z        e_y − p                y − p                 y − z
    exact       √p_c (e_c − m), c ≠ k  √(p_k (1 − p_k)) e_k  e_k                  expectation over the model's own y
    sample      y drawn from the model's own prediction: one draw, or the mean over several, eq. (4.5)
    empirical   y as the data have it, eq. (4.6)
    predicted   the most likely y, eq. (4.7)

The first line's derivative for a classifier is eq. (4.8), with p = softmax(z), eq. (2.2), and the c-th unit vector e_c.
The vectors of `"exact"` are the columns of a square root of the Fisher information of the outputs themselves,
Cov(∂ log p / ∂z): diag(p) − p pᵀ, diag(p (1 − p)), and the unit matrix (Martens 2020, arXiv:1412.1193). All squares are
taken image by image, and only then averaged.

The expectation over C classes, eq. (4.3), has the C vectors √p_c (e_c − p). They lie in C − 1 dimensions, for
Σ_c √p_c · √p_c (e_c − p) = 0; so the reflection that takes the unit vector (√p_1 … √p_C) to −e_k makes the k-th vanish
and leaves the sum of their outer products as it is. The others become √p_c (e_c − m), with
m = (p + √p_k e_k) / (1 + √p_k): one backward pass less. k is the most likely class.

A model of sequences has T tokens in an image. Given the inputs, their targets are independent and each score e_y − p
has mean zero, so in expectation the products of different positions vanish, and one draw for all positions, sent
backwards at once, serves `"sample"`. `"empirical"` and `"predicted"`, whose scores have no such mean, square the
gradient of the whole sequence.

A difference such as 1 − p_y is never formed: on a sure network all its digits would be rounding. It is the sum of the
other probabilities, or a sigmoid of −z.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Estimator = Literal["exact", "sample", "empirical", "predicted"]
Likelihood = Literal["categorical", "bernoulli", "gaussian"]

_LEFT_OUT = -100  # the label that cross_entropy ignores
_MOST = 4096  # backward passes that `"exact"` may take for the tokens, or the outputs, of an image


class Vectors:
    """The vectors v of a batch, in the shape of its outputs, each made when it is asked for: there is never a stack.

    Attributes:
        says: which outputs matter, in their shape: all but those of impossible classes and of tokens left out.
        units: the number of images, or of tokens, that the average is over.
        used: (N,) or (N, T), which images or tokens these are; None where none is left out.
    """

    def __init__(
        self,
        number: int,
        make: Callable[[int, slice], Tensor],
        says: Tensor,
        units: int,
        used: Tensor | None = None,
        images: range | None = None,
    ) -> None:
        self.number, self.make, self.says, self.units, self.used = number, make, says, units, used
        self.images = range(len(says)) if images is None else images

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, k: int) -> Tensor:
        if not 0 <= k < len(self):
            raise IndexError(k)
        return self.make(k, slice(self.images.start, self.images.stop))

    def of(self, images: slice) -> "Vectors":
        """Those of some of the images."""
        return Vectors(self.number, self.make, self.says, self.units, self.used, self.images[images])


def categorical(
    outputs: Tensor, labels: Tensor | None, estimator: Estimator, samples: int, generator: torch.Generator | None
) -> Vectors:
    """The vectors of a classifier with logits (N, C), or (N, T, C) for T tokens in each image.

    log p(y) = z_y − log Σ_c exp z_c, so ∂/∂z = e_y − p. Over y ~ p that has mean Σ_c p_c e_c − p = 0, and covariance
    Σ_c p_c (e_c − p)(e_c − p)ᵀ = diag(p) − p pᵀ: the columns √p_c (e_c − p) are a square root of it.

    Labels are integers (N,) or (N, T). An image, or a token, labelled −100 is left out, as `cross_entropy` has it.
    Apart from that, only `"empirical"` looks at them. A logit of −∞ is a class that cannot be: it has p = 0 and sends
    nothing.

    Raises:
        FloatingPointError: a logit is NaN or +∞, or no class of an image can be.
        ValueError: there is one logit only, or no token, labels have another shape, `"empirical"` has no labels or some
            without a logit, or `"exact"` would take more than 4,096 backward passes for the tokens of an image.
    """
    if not outputs.is_floating_point():
        raise ValueError(f"the model must return real numbers as logits, got {outputs.dtype}")
    if outputs.ndim not in (2, 3) or (outputs.ndim == 3 and labels is not None and labels.ndim == 1):
        raise ValueError(
            f"the model must return logits of shape ({len(outputs)}, classes), or ({len(outputs)}, tokens, classes), "
            f"got {tuple(outputs.shape)}"
        )
    classes, tokens = outputs.shape[-1], outputs.ndim == 3
    _require_some(outputs)
    if classes < 2:
        raise ValueError(
            "the model has a single logit, and the softmax of one number is always 1: F would be zero. "
            "Take likelihood='bernoulli', or give it two logits, such as torch.cat((torch.zeros_like(z), z), 1)"
        )
    if labels is not None and (labels.shape != outputs.shape[:-1] or labels.is_floating_point()):
        swapped = tokens and labels.shape == (len(outputs), classes)
        raise ValueError(
            f"labels must be integers of shape {tuple(outputs.shape[:-1])}, got {labels.dtype} {tuple(labels.shape)}"
            + (": if that is (N, tokens), bring the classes last, with logits.transpose(1, 2)" if swapped else "")
        )
    if labels is None:
        used = torch.ones(outputs.shape[:-1], dtype=torch.bool, device=outputs.device)
    else:
        used = labels.long() != _LEFT_OUT  # in bytes, −100 would be the class 156
    p = precise(outputs).softmax(-1).where(used[..., None], 1 / classes)
    if not bool(p.isfinite().all()):
        raise FloatingPointError("a logit is not finite: look for inputs or weights that are not, before measuring F")
    units = int(used.sum())
    says = (p > 0) & used[..., None]
    left_out = used if units < used.numel() else None
    if estimator == "exact":
        return _exact_categorical(p, used, says, left_out, outputs.dtype)
    if estimator == "sample":
        rows = p.flatten(0, -2)
        drawn = torch.multinomial(rows, samples, replacement=True, generator=generator).T.unflatten(1, p.shape[:-1])
    elif estimator == "predicted":
        drawn = p.argmax(-1)[None]
    else:
        drawn = _true(outputs, labels, used)[None]

    def make(k: int, images: slice) -> Tensor:
        y = drawn[k, images, ..., None]
        v = (-p[images]).scatter_(-1, y, 0)
        v.scatter_(-1, y, -v.sum(-1, keepdim=True))  # e_y − p, eq. (4.8)
        if left_out is not None:
            v *= left_out[images, ..., None]
        v /= len(drawn) ** 0.5  # the squares of several draws are averaged, eq. (4.5)
        return v.to(outputs.dtype)

    return Vectors(len(drawn), make, says, units, left_out)


def _exact_categorical(p: Tensor, used: Tensor, says: Tensor, left_out: Tensor | None, dtype: torch.dtype) -> Vectors:
    classes, positions = p.shape[-1], math.prod(p.shape[1:-1])
    if p.ndim == 3:
        _refuse_absurd((classes - 1) * positions, f"{positions} tokens × {classes} classes but one")
    p, used = p.view(len(p), positions, classes), used.view(len(p), positions)
    # The vector that comes first is what the proof looks at: of each image the last token, which has seen the others,
    # and there the class second to k, with about the longest vector. A class that is masked out, or padding, would
    # prove nothing.
    last = (used * torch.arange(1, positions + 1, device=p.device)).argmax(1)
    ranked, order = p.sort(-1, descending=True)  # the first is k
    root = ranked.sqrt() * used[..., None]
    m = p.scatter_add(-1, order[..., :1], root[..., :1]) / (1 + root[..., :1])

    def make(number: int, images: slice) -> Tensor:
        place, rank = divmod(number, classes - 1)
        c, root_c = (each[images, :, rank + 1 : rank + 2] for each in (order, root))
        if positions > 1:  # only at place t
            t = _exchanged(place, last[images])[:, None, None]
            root_c = torch.zeros_like(root_c).scatter_(1, t, root_c.gather(1, t))
        v = (-m[images]).scatter_add_(-1, c, torch.ones_like(root_c))
        v *= root_c  # √p_c (e_c − m), eq. (4.3) and eq. (4.8)
        return v.view(-1, *says.shape[1:]).to(dtype)

    return Vectors((classes - 1) * positions, make, says, int(used.sum()), left_out)


def _true(logits: Tensor, labels: Tensor | None, used: Tensor) -> Tensor:
    """The labels, int64, and 0 where a token is left out."""
    if labels is None:
        raise ValueError("estimator='empirical' takes the true labels, but forward returned None for them")
    classes, labels = logits.shape[-1], labels.long().where(used, 0)
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but the model has {classes} logits: "
            f"labels must be 0 to {classes - 1}"
        )
    if bool(logits.detach().gather(-1, labels[..., None])[..., 0].isinf().logical_and(used).any()):
        raise FloatingPointError("the logit of a true label is not finite: the mask excludes a label that occurs")
    return labels


def bernoulli(
    outputs: Tensor, targets: Tensor | None, estimator: Estimator, samples: int, generator: torch.Generator | None
) -> Vectors:
    """The vectors of independent yes-or-no answers with logits (N, …): binary and multi-label models.

    log p(y) = y z − log(1 + exp z), so ∂/∂z = y − p with p = σ(z). Over y ~ p that has mean 0 and variance p (1 − p),
    and answers are independent: the columns √(p (1 − p)) e_k are a square root of the covariance.

    Targets have the shape of the outputs and lie between 0 and 1. Only `"empirical"` looks at them.

    Raises:
        FloatingPointError: an output is not finite.
        ValueError: `"empirical"` has no such targets, or `"exact"` would take more than 4,096 backward passes.
    """
    _require_finite(outputs)
    p, rest = precise(outputs).sigmoid(), precise(-outputs).sigmoid()  # 1 − p
    if estimator == "exact":
        return _exact_independent((p * rest).sqrt(), outputs.dtype)
    if estimator == "sample":
        drawn = torch.stack([torch.bernoulli(p, generator=generator) for _ in range(samples)])
    elif estimator == "predicted":
        drawn = (p > 0.5).to(p.dtype)[None]
    else:
        drawn = _targets(outputs, targets).to(p.dtype)[None]
        if not bool(((drawn >= 0) & (drawn <= 1)).all()):
            raise ValueError("targets of likelihood='bernoulli' lie between 0 (no) and 1 (yes)")
    return _averaged(len(drawn), lambda k, n: drawn[k, n] * rest[n] - (1 - drawn[k, n]) * p[n], outputs)  # y − p


def gaussian(
    outputs: Tensor, targets: Tensor | None, estimator: Estimator, samples: int, generator: torch.Generator | None
) -> Vectors:
    """The vectors of a regression with outputs (N, …), the means of Gaussians of variance 1.

    log p(y) = −½ (y − z)² + constant, eq. (9.5), so ∂/∂z = y − z. Over y ~ N(z, 1) that has mean 0 and variance 1,
    whatever z is: the unit vectors e_k are a square root of the covariance.

    Its loss is ½ Σ (y − z)² for each image. With noise of variance σ² all F are 1/σ² times as large; beside a loss that
    is the mean over K outputs of (y − z)², without ½, λ counts K/2 times as much. Only `"empirical"` looks at the
    targets, in the shape of the outputs.

    Raises:
        FloatingPointError: an output is not finite.
        ValueError: `"empirical"` has no such targets, `"predicted"` is asked for (the most likely y is z itself, so
            that F would be zero), or `"exact"` would take more than 4,096 backward passes.
    """
    _require_finite(outputs)
    z = precise(outputs)
    if estimator == "exact":
        return _exact_independent(torch.ones_like(z), outputs.dtype)
    if estimator == "predicted":
        raise ValueError(
            "with likelihood='gaussian' the most likely target is the output itself, and F would be zero: take "
            "'exact', 'sample' or 'empirical'"
        )
    if estimator == "sample":
        noise = torch.randn(samples, *z.shape, generator=generator, dtype=z.dtype, device=z.device)
        return _averaged(samples, lambda k, n: noise[k, n], outputs)
    y = _targets(outputs, targets).to(z.dtype)
    return _averaged(1, lambda _, n: y[n] - z[n], outputs)


def vectors(
    likelihood: Likelihood,
    outputs: Tensor,
    targets: Tensor | None,
    estimator: Estimator,
    samples: int,
    generator: torch.Generator | None,
) -> Vectors:
    """Those of the likelihood with this name."""
    make = {"categorical": categorical, "bernoulli": bernoulli, "gaussian": gaussian}[likelihood]
    return make(outputs, targets, estimator, samples, generator)


def check_choices(likelihood: str, estimator: str, samples: int) -> None:
    """Raises ValueError: there is no such likelihood or estimator, or it takes no such number of samples."""
    if likelihood not in get_args(Likelihood):
        names = ", ".join(map(repr, get_args(Likelihood)))
        raise ValueError(f"likelihood={likelihood!r}: expected one of {names}")
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator={estimator!r}: expected one of {', '.join(map(repr, get_args(Estimator)))}")
    if not isinstance(samples, int) or samples < 1 or (samples != 1 and estimator != "sample"):
        raise ValueError(f"samples={samples}: expected 1, or with estimator='sample' the number of draws an image")


def _exact_independent(root: Tensor, dtype: torch.dtype) -> Vectors:
    """One vector an output: its standard deviation there, zero elsewhere."""
    outputs = root[0].numel()
    _refuse_absurd(outputs, f"{outputs} outputs")
    rows = root.reshape(len(root), outputs)
    loudest = rows.argmax(1)  # comes first: see above

    def make(k: int, images: slice) -> Tensor:
        own = _exchanged(k, loudest[images])[:, None]
        v = torch.zeros_like(rows[images]).scatter_(1, own, rows[images].gather(1, own))
        return v.view(-1, *root.shape[1:]).to(dtype)

    return Vectors(outputs, make, torch.ones_like(root, dtype=torch.bool), len(root))


def _exchanged(k: int, first: Tensor) -> Tensor:
    """The number k for each image, in an order in which `first` and 0 have changed places."""
    return first if k == 0 else torch.full_like(first, k).masked_fill_(first == k, 0)


def _averaged(draws: int, score: Callable[[int, slice], Tensor], outputs: Tensor) -> Vectors:
    """A vector for each draw, so that the squares of all of them add up to their mean, eq. (4.5)."""

    def make(k: int, images: slice) -> Tensor:
        v: Tensor = score(k, images) / draws**0.5
        return v.to(outputs.dtype)

    return Vectors(draws, make, torch.ones_like(outputs, dtype=torch.bool), len(outputs))


def _targets(outputs: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:
        raise ValueError("estimator='empirical' takes the targets, but forward returned None for them")
    if targets.shape != outputs.shape:
        raise ValueError(f"targets must have the outputs' shape {tuple(outputs.shape)}, got {tuple(targets.shape)}")
    if not bool(targets.isfinite().all()):
        raise FloatingPointError("a target is not finite")
    return targets


def _require_finite(outputs: Tensor) -> None:
    if not outputs.is_floating_point():
        raise ValueError(f"the model must return real numbers, got {outputs.dtype}")
    _require_some(outputs)
    if not bool(outputs.isfinite().all()):
        raise FloatingPointError("an output is not finite: look for inputs or weights that are not")


def _require_some(outputs: Tensor) -> None:
    if outputs.numel() == 0:
        raise ValueError(f"the model returns nothing for an input, its outputs have shape {tuple(outputs.shape)}")


def _refuse_absurd(passes: int, why: str) -> None:
    if passes > _MOST:
        raise ValueError(
            f"estimator='exact' would take a backward pass for each of {why}: take 'sample', which has the same "
            "expectation and takes one"
        )


def precise(tensor: Tensor) -> Tensor:
    """The numbers in at least single precision, detached."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
