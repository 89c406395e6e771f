"""The Fisher information: how sharply the parameters of a model are determined by a task.

`diagonal_fisher` keeps the diagonal of the matrix, `kronecker_fisher` two small factors for the block of each layer.
`likelihoods` says what is sent backwards from the outputs, `layers` and `per_image` how that becomes squared gradients;
`sweep` goes once through the data, and proves what is fast.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from contlearn import ranks
from contlearn.layers import Layer
from contlearn.likelihoods import Estimator, Likelihood
from contlearn.per_image import Forward, add
from contlearn.sweep import Sweep


def diagonal_fisher(
    model: nn.Module,
    loader: Iterable[Any],
    estimator: Estimator = "exact",
    *,
    likelihood: Likelihood = "categorical",
    forward: Forward | None = None,
    samples: int = 1,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> dict[str, Tensor]:
    """The diagonal F_i of the Fisher information of a model, averaged over all images (or tokens) of the loader.

    For `"exact"`, F_i = 1/N Σ_n Σ_c p_c(x_n) (∂ log p_c(x_n) / ∂θ_i)², eq. (4.3): EXACT in van de Ven 2025
    (arXiv:2502.11756); the expectation over labels is the one in Martens 2020 (arXiv:1412.1193). `"empirical"` uses the
    true labels instead; its limits: Kunstner, Balles and Hennig 2019 (arXiv:1905.12558). Changing the estimator changes
    the scale of F, and with it the λ that fits.

    With another `likelihood`, ∂ log p / ∂θ is that of binary or multi-label answers, or of a regression; see
    `contlearn.likelihoods` for the formulas. With tokens, logits (N, T, C), F is averaged over the tokens, eq. (10.2),
    so that λ keeps its meaning beside a loss that is a mean over tokens; take `"sample"`, which needs one backward pass
    where `"exact"` needs T · (C − 1).

    Linear, convolutional, embedding and normalisation layers take the closed form, eq. (4.10); other parameters (shared
    weights, attention's packed projection) are differentiated image by image, batched by `torch.func.vmap` or,
    where that cannot be (recurrent layers, hooks on a weight's gradient), in a loop. Whatever is fast is compared with
    plain autograd on single images of every batch, and what vmap finds also on the sum of all; it is given up for the
    slower way, with a warning, where it differs. That images leave each other's logits alone is proven for the first
    batch of its kind; of later ones every 16th image is looked at again, or 64 of more than 1,024. Whether gradients
    are clipped on their way back is looked at in the first batch of its kind alone.

    Under `torch.distributed`, every rank calls this with images of its own; sums and numbers of images are added up, so
    that all ranks hold the same F, that of all their images. What fails on one rank fails on all. A model in shards
    (`fully_shard`) is refused: measure F on a copy that is whole.

    Memory, beside the model and the reader's batch: F (twice, where it takes more than 64 passes), one gradient, two of
    the largest parameter, and twice the larger of 64 MiB and what one image needs (activations, patches, gradients);
    small batches are joined, and large ones cut, to stay within that, and nothing grows with C². `"exact"` takes C − 1
    backward passes: with many classes, `"sample"` is as many times as fast.

    Args:
        model: maps inputs (N, …) to logits (N, C), C ≥ 2, or (N, T, C) for T tokens; for the other likelihoods to
            outputs (N, …); each row from its own input alone.
        loader: yields (inputs, labels), or whatever `forward` takes. Labels are integers (N,), or (N, T); −100 leaves
            an image, or a token, out. Targets of the other likelihoods have the outputs' shape. Apart from −100, only
            `"empirical"` looks at their values. Label t is what the logits at t predict: of a language model whose
            labels are its inputs, let `forward` return `logits[:, :-1]` and `labels[:, 1:]`. How images are grouped
            into batches changes nothing in the result, but perhaps the draws of `"sample"`: small ones are joined, so
            what differs between them, such as the task, belongs into the batch, not into the model.
        estimator: `"exact"`, `"sample"`, `"empirical"` or `"predicted"`.
        likelihood: `"categorical"` (softmax), `"bernoulli"` (a sigmoid for each output) or `"gaussian"` (variance 1).
        forward: how a batch is put into the model: takes model and batch, returns outputs and labels, or None for
            them. A batch may be a tensor, or a tuple, list or dictionary, also nested; tensors whose first dimension
            is N, that of the first tensor, hold one entry an image, all else is shared. By default
            `lambda model, batch: (model(batch[0]), batch[1])`.
        samples: how many labels or targets `"sample"` draws for each image.
        generator: makes the draws of `"sample"` reproducible; it must be on the model's device.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        A tensor for each trainable parameter, keyed and shaped like `model.named_parameters()` (of `DataParallel`, like
        those of the module in it), float32 (float64 for a float64 model; of complex parameters |∂/∂θ|², real),
        detached, on the model's device. Frozen parameters (`requires_grad=False`) are left out. The model is evaluated
        in `eval()` mode; its mode, buffers and gradients are left as they were found, and what it notes of itself. A
        compiled model is run uncompiled.

    Raises:
        ValueError: unknown estimator or likelihood, empty loader, nothing trainable, a model in shards, ranks that hold
            different weights, a single logit, `"exact"` where the tokens, or the outputs, of an image need more than
            4,096 backward passes (classes alone may be as many as you have time for), outputs and labels that do not
            fit together, images of a batch that change each other's logits, logits that depend on a trainable parameter
            which no gradient reaches, parameters that take part in `train()` mode alone (adapters that merge), weights
            or state that `forward`, or the loader, changes meanwhile, or, for `"exact"`, gradients that are clipped on
            their way back; or it is called under `torch.inference_mode()`.
        TypeError: the loader yields no tensors or, without `forward`, no pairs of them.
        FloatingPointError: an output, or F, is NaN or infinite. (A logit of −∞, a class that is masked out, is fine.)
            In single precision, gradients below 1e-19 lose digits when they are squared, and vanish below 1e-22.
    """
    ranks.require_one_model(model)
    with ranks.all_or_none():
        sweep = Sweep(model, estimator, likelihood, forward, samples, generator)
        sums = _Sums()
        count = 0  # images, or tokens
        for step in sweep.over(loader, progress):
            sums.add(step.squares(step.layers))
            count += step.vectors.units
    count = _units(count)
    return {name: _finite(name, ranks.total(squares).div_(count)) for name, squares in sums.of(sweep.parameters)}


def uniform(fisher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """F with each entry replaced by the mean of all, so that EWC becomes L2 of equal mean strength."""
    mean = sum(float(f.sum()) for f in fisher.values()) / sum(f.numel() for f in fisher.values())
    return {name: torch.full_like(f, mean) for name, f in fisher.items()}


class Factors(NamedTuple):
    """The block of the Fisher information that belongs to one layer, approximately A ⊗ G, eq. (7.3).

    Attributes:
        a: A = E[a aᵀ], (I+1, I+1), of the layer's inputs followed by a one for the bias; (I, I) without a bias.
        g: G = E[g gᵀ], (O, O), of the log-likelihood's gradients with respect to the layer's outputs.
        parameters: the names of the weight and, where it is trainable, the bias.
    """

    a: Tensor
    g: Tensor
    parameters: tuple[str, ...]


class KroneckerFisher(NamedTuple):
    """What `kronecker_fisher` returns: factors by name of the layer, and the diagonal of what has none."""

    factors: dict[str, Factors]
    diagonal: dict[str, Tensor]


def kronecker_fisher(
    model: nn.Module,
    loader: Iterable[Any],
    estimator: Estimator = "exact",
    *,
    likelihood: Likelihood = "categorical",
    forward: Forward | None = None,
    samples: int = 1,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> KroneckerFisher:
    """Kronecker factors A and G of the Fisher information of each layer, averaged over all images of the loader.

    The block of a linear layer is E[(a ⊗ g)(a ⊗ g)ᵀ], eq. (7.2); it is replaced by E[a aᵀ] ⊗ E[g gᵀ], eq. (7.3), as if
    inputs and gradients were independent (Martens and Grosse 2015, arXiv:1503.05671, equation 1; for EWC: Ritter, Botev
    and Barber 2018, arXiv:1805.07810). Of a convolution, a are the patches, summed over their places, while g gᵀ is
    averaged over them (Grosse and Martens 2016, arXiv:1602.01407, theorem 1). A linear layer called on sequences is
    treated likewise, as if its positions were independent, too: the *expand* approximation of Eschenhagen et al. 2023
    (arXiv:2311.00636), meant for models with a loss at each token, and exact for one linear layer whose G is the same
    for all tokens. Tokens that are left out are no samples of A and G, where nothing else depends on them. Their
    *reduce*, for models that average over positions first, is not built.

    Embedding and normalisation layers, whatever `diagonal_fisher` has no closed form for, grouped convolutions, and
    layers of which the weight is frozen get their diagonal, eq. (4.3), instead.

    Arguments and errors are those of `diagonal_fisher`; memory too, and each layer's factors twice (thrice, where it
    takes more than 64 passes). The factors have the dtype and device that its F has.

    Raises:
        ValueError: also if a layer has factors for some batches, and is used in another way by others.
    """
    names: dict[str, tuple[str, ...]] = {}  # of each layer's parameters
    places: dict[str, int] = {}  # over which its Σ g gᵀ is a mean
    factors, diagonal = _Sums(), _Sums()
    count = 0

    def products(layers: list[Layer]) -> Iterator[tuple[str, Tensor]]:
        """Σ a aᵀ and Σ g gᵀ of one layer after the other, for they may be large."""
        for layer in layers:
            a, g, own = layer.products()
            names[layer.name], places[layer.name] = tuple(layer.names.values()), places.get(layer.name, 0) + own
            yield from ((f"{layer.name} A", a), (f"{layer.name} G", g))

    ranks.require_one_model(model)
    with ranks.all_or_none():
        sweep = Sweep(model, estimator, likelihood, forward, samples, generator)
        for step in sweep.over(loader, progress):
            factored = [layer for layer in step.layers if layer.factored]
            own = {name for layer in factored for name in layer.names.values()}
            before = {name for parameters in names.values() for name in parameters}
            if own & diagonal.names() or before & (step.used - own):
                raise ValueError(
                    f"with inputs of shape {step.batch.shapes()[0]} the layers that have Kronecker factors are "
                    f"{[layer.name for layer in factored]}, but before they were {list(names)}; structure='diagonal' "
                    "takes both"
                )
            plain = [layer for layer in step.layers if not layer.factored]
            diagonal.add(step.squares(plain, factored))
            factors.add(products(factored))
            count += step.vectors.units
    with ranks.all_or_none():
        kinds = ranks.gathered(names)
        if any(other != names for other in kinds):
            raise ValueError(f"the ranks have Kronecker factors of different layers: {[list(kind) for kind in kinds]}")
    count = _units(count)
    sums = factors.joined()
    named = {name for parameters in names.values() for name in parameters}
    rest = {name: p for name, p in sweep.parameters.items() if name not in named}
    return KroneckerFisher(
        {
            name: Factors(
                _finite(", ".join(names[name]), ranks.total(sums[f"{name} A"]).div_(count)),
                _finite(", ".join(names[name]), ranks.total(sums[f"{name} G"]).div_(sum(ranks.gathered(places[name])))),
                names[name],
            )
            for name in kinds[0]
        },
        {name: _finite(name, ranks.total(squares).div_(count)) for name, squares in diagonal.of(rest)},
    )


class _Sums:
    """Sums by name, the newest terms apart: one long sum in single precision would lose digits."""

    def __init__(self) -> None:
        self.newest: dict[str, Tensor] = {}
        self.older: dict[str, Tensor] = {}
        self.times = 0

    def add(self, terms: Iterable[tuple[str, Tensor]]) -> None:
        """Takes the tensors over: later terms are added to them in place."""
        for name, term in terms:
            add(self.newest, name, term)
        self.times += 1
        if self.times % 64 == 0:
            self.joined()

    def joined(self) -> dict[str, Tensor]:
        """All of them."""
        for name, term in self.newest.items():
            add(self.older, name, term)
        self.newest = {}
        return self.older

    def names(self) -> set[str]:
        """The parameters of which there are terms."""
        return self.newest.keys() | self.older.keys()

    def of(self, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The sum for each parameter; zero where there was no term."""
        sums = self.joined()
        for name, p in parameters.items():
            yield name, sums[name] if name in sums else torch.zeros_like(p, dtype=_real(p))


def _units(own: int) -> int:
    """The number of images, or tokens, of all ranks."""
    count: int = sum(ranks.gathered(own))
    if count == 0:
        raise ValueError("everything in the loader is labelled -100, so there is nothing to measure F on")
    return count


def _finite(name: str, mean: Tensor) -> Tensor:
    """The mean, if it is finite."""
    if not bool(mean.isfinite().all()):
        raise FloatingPointError(
            f"F of {name} is not finite: gradients or inputs are too large to be squared in {mean.dtype}, or on their "
            "way back 0 met infinity; bring the inputs to numbers around 1, or measure in float64"
        )
    return mean


def _real(p: Tensor) -> torch.dtype:
    """The dtype of F: real, and at least single precision."""
    return torch.promote_types(p.dtype.to_real(), torch.float32)
