"""The Fisher information: how sharply the parameters of a classifier are determined by a task.

`diagonal_fisher` keeps the diagonal of the matrix, `kronecker_fisher` two small factors for the block of each layer.

Four estimators share one piece of code. For image n they differ only in the vectors v that are sent backwards from the
logits in place of the loss's gradient; with p = softmax(logits), eq. (2.2), and e_c the c-th unit vector,

    exact       √p_c (e_c − p) for each class c     expectation over the model's own prediction, eq. (4.3)
    sample      e_y − p,  y drawn from p            one draw from it, eq. (4.5)
    empirical   e_y − p,  y the true label          eq. (4.6)
    predicted   e_y − p,  y the most likely label   eq. (4.7)

because ∂ log p_c / ∂logits = e_c − p, eq. (4.8). All squares are taken image by image, and only then averaged.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.functional import one_hot, unfold
from tqdm.auto import tqdm

from contlearn.data import batches
from contlearn.models import classify, device_of, mode

Estimator = Literal["exact", "sample", "empirical", "predicted"]

_BUDGET = 2**24  # numbers that an intermediate result may hold: 64 MB in single precision
_PROBE = 3  # images on which a layer's closed form is compared with autograd before it is trusted


def diagonal_fisher(
    model: nn.Module,
    loader: Iterable[Any],
    estimator: Estimator = "exact",
    *,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> dict[str, Tensor]:
    """The diagonal F_i of the Fisher information of a classifier, averaged over all images of the loader.

    For `"exact"`, F_i = 1/N Σ_n Σ_c p_c(x_n) (∂ log p_c(x_n) / ∂θ_i)², eq. (4.3): EXACT in van de Ven 2025
    (arXiv:2502.11756); the expectation over labels is the one in Kirkpatrick et al. 2017 (10.1073/pnas.1611835114) and
    in Martens 2020 (arXiv:1412.1193). `"empirical"` uses the true labels instead; its limits: Kunstner, Balles and
    Hennig 2019 (arXiv:1905.12558). Changing the estimator changes the scale of F, and with it the λ that fits.

    Linear and convolutional layers take the closed form, eq. (4.10); all other parameters (normalisation, embeddings,
    shared weights, recurrent layers) are differentiated image by image with `torch.func`, in bounded memory.

    Args:
        model: maps inputs (N, …) to logits (N, C), each row from its own input alone.
        loader: yields (inputs, labels). Only `"empirical"` looks at the labels. How images are grouped into batches
            changes nothing in the result.
        estimator: `"exact"`, `"sample"`, `"empirical"` or `"predicted"`.
        generator: makes the draws of `"sample"` reproducible; it must be on the model's device.
        progress: show a progress bar where it takes more than two seconds.

    Returns:
        A tensor for each trainable parameter, keyed and shaped like `model.named_parameters()`, float32 (float64 for a
        float64 model), detached, on the model's device. Frozen parameters (`requires_grad=False`) are left out.
        The model is evaluated in `eval()` mode; its mode, buffers and gradients are left as they were found.

    Raises:
        ValueError: unknown estimator, empty loader, nothing trainable, model and data that do not fit together, or
            images of a batch that change each other's logits.
        FloatingPointError: a logit is not finite.
    """
    trainable = _trainable(model)
    fisher = {name: torch.zeros_like(p, dtype=_at_least_float32(p)) for name, p in trainable.items()}
    count = 0
    for images, logits, vectors, layers in _sweep(model, loader, estimator, generator, progress):
        by_layer = {name for layer in layers for name in layer.names.values()}
        others = {name: p.detach() for name, p in trainable.items() if name not in by_layer}
        for name, squares in _layer_by_layer(layers, logits, vectors):
            fisher[name] += squares
        for name, squares in _image_by_image(model, others, images, vectors):
            fisher[name] += squares
        count += len(images)
    return {name: total / count for name, total in fisher.items()}


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
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> KroneckerFisher:
    """Kronecker factors A and G of the Fisher information of each layer, averaged over all images of the loader.

    The block of a linear layer is E[(a ⊗ g)(a ⊗ g)ᵀ]; it is replaced by E[a aᵀ] ⊗ E[g gᵀ], eq. (7.3), as if inputs and
    gradients were independent (Martens and Grosse 2015, arXiv:1503.05671, equation 1; for EWC: Ritter, Botev and Barber
    2018, arXiv:1805.07810). Of a convolution, a are the patches, summed over their places, while g gᵀ is averaged over
    them (Grosse and Martens 2016, arXiv:1602.01407, theorem 1); of a linear layer called on sequences, likewise.

    Whatever `diagonal_fisher` has no closed form for, grouped convolutions, and layers of which the weight is frozen
    get their diagonal, eq. (4.3), instead.

    Arguments and errors are those of `diagonal_fisher`; the factors have its dtype and device.

    Raises:
        ValueError: also if a layer has factors for inputs of one shape and none for those of another.
    """
    trainable = _trainable(model)
    name_of = {module: name for name, module in model.named_modules()}
    inputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    parameters: dict[str, tuple[str, ...]] = {}
    places: dict[str, int] = {}
    diagonal: dict[str, Tensor] = {}
    count = 0
    for images, logits, vectors, layers in _sweep(model, loader, estimator, generator, progress):
        factored = [layer for layer in layers if layer.groups == 1 and "weight" in layer.names]
        own = {name_of[layer.module]: tuple(layer.names.values()) for layer in factored}
        if count and own != parameters:
            raise ValueError(
                f"with inputs of shape {tuple(images.shape[1:])} the layers that have Kronecker factors are "
                f"{list(own)}, but before they were {list(parameters)}; structure='diagonal' takes both"
            )
        parameters = own
        for layer, found in zip(factored, _gradients(factored, logits, vectors), strict=True):
            name = name_of[layer.module]
            a, g = layer.products(found)
            inputs[name] = inputs[name] + a if count else a
            gradients[name] = gradients[name] + g if count else g
            places[name] = places.get(name, 0) + layer.outputs.numel() // len(g)
        done = {name for names in parameters.values() for name in names}
        plain = [layer for layer in layers if layer not in factored]
        by_layer = {name for layer in plain for name in layer.names.values()}
        others = {name: p.detach() for name, p in trainable.items() if name not in done | by_layer}
        for name, squares in chain(
            _layer_by_layer(plain, logits, vectors), _image_by_image(model, others, images, vectors)
        ):
            squares = squares.to(_at_least_float32(squares))
            diagonal[name] = diagonal[name] + squares if name in diagonal else squares
        count += len(images)
    factors = {
        name: Factors(inputs[name] / count, gradients[name] / places[name], names) for name, names in parameters.items()
    }
    return KroneckerFisher(factors, {name: total / count for name, total in diagonal.items()})


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError("the model has no trainable parameter: set requires_grad=True on those that EWC shall protect")
    return trainable


def _sweep(
    model: nn.Module, loader: Iterable[Any], estimator: Estimator, generator: torch.Generator | None, progress: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor, "list[_Layer]"]]:
    """Once through the loader: images, their logits, the vectors to send backwards, the layers with a closed form."""
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator={estimator!r}: expected one of {', '.join(map(repr, get_args(Estimator)))}")
    trainable = _trainable(model)
    silent = not progress or "TQDM_DISABLE" in os.environ
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    # In eval() mode cuDNN does not differentiate recurrent layers; PyTorch's own kernels do.
    without_cudnn = torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
    with (
        mode(model, training=False),  # dropout off, batch-norm statistics neither taken from the batch nor changed
        without_cudnn,
        tqdm(desc="Fisher information", unit="image", disable=silent, delay=2, leave=False) as bar,
    ):
        stream = batches(loader, device_of(model))
        first = next(stream)
        layers, chunk = _closed_form_layers(model, *first, trainable)
        probed = first[0].shape[1:]
        for images, labels in _regrouped(chain([first], stream), chunk):
            if images.shape[1:] != probed:  # a sequence of another length may call a layer another number of times
                layers, probed = _closed_form_layers(model, images, labels, trainable)[0], images.shape[1:]
            with torch.enable_grad(), _recording(layers):
                logits = classify(model, images, labels)
            yield images, logits, _output_vectors(logits.detach(), labels, estimator, generator), layers
            bar.update(len(images))


def _at_least_float32(p: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)


def _regrouped(stream: Iterable[tuple[Tensor, Tensor]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same images in groups of about `size`: small batches joined where their shapes agree, large ones cut."""
    held: list[tuple[Tensor, Tensor]] = []

    def release() -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = (torch.cat(parts) for parts in zip(*held, strict=True))
        held.clear()
        return zip(images.split(size), labels.split(size), strict=True)

    for batch in stream:
        if held and batch[0].shape[1:] != held[0][0].shape[1:]:
            yield from release()
        held.append(batch)
        if sum(len(labels) for _, labels in held) >= size:
            yield from release()
    if held:
        yield from release()


def _output_vectors(logits: Tensor, labels: Tensor, estimator: Estimator, generator: torch.Generator | None) -> Tensor:
    """What each image sends backwards from its logits: (V, N, C) with V = C for `"exact"`, else 1."""
    if not bool(logits.isfinite().all()):
        raise FloatingPointError("a logit is not finite: look for inputs or weights that are not, before measuring F")
    classes = logits.shape[1]
    p = logits.softmax(1)
    if estimator == "exact":
        unit = torch.eye(classes, dtype=p.dtype, device=p.device)
        return p.T.sqrt()[:, :, None] * (unit[:, None] - p)  # √p_c (e_c − p), eq. (4.3) and eq. (4.8)
    if estimator == "sample":
        labels = torch.multinomial(p, 1, generator=generator)[:, 0]  # eq. (4.5)
    elif estimator == "predicted":
        labels = p.argmax(1)  # eq. (4.7)
    return (one_hot(labels, classes) - p)[None]  # e_y − p, eq. (4.8)


class _Layer:
    """A linear or convolutional layer z = W a + b, and what passed through it in the last forward pass.

    A convolution is linear in its patches. With G groups, T positions in the image (tokens, or places of the kernel; 1
    for a plain linear layer), I inputs and O outputs a group: patches a are (N, G, I, T), gradients g are (N, G, O, T).
    """

    def __init__(self, module: nn.Linear | nn.Conv1d | nn.Conv2d, names: dict[str, str]) -> None:
        self.module = module
        self.names = names  # "weight" and "bias", where trainable, to the parameter's name in the model
        self.groups = 1 if isinstance(module, nn.Linear) else module.groups
        self.calls = 0
        self.inputs = self.outputs = torch.empty(0)

    def record(self, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        self.calls += 1
        self.inputs, self.outputs = (args[0] if args else kwargs["input"]).detach(), output
        return output.clone()  # so that an in-place ReLU leaves z alone

    def patches(self) -> Tensor:
        """a, (N, G, I, T)."""
        a, layer = self.inputs, self.module
        if isinstance(layer, nn.Linear):
            return a.reshape(len(a), 1, -1, layer.in_features).mT
        if isinstance(layer, nn.Conv1d):  # an image one pixel high
            a, options = a[:, :, None], {"dilation": (1, *layer.dilation), "stride": (1, *layer.stride)}
            a = unfold(a, (1, *layer.kernel_size), padding=(0, int(layer.padding[0])), **options)
        else:
            padding = (int(layer.padding[0]), int(layer.padding[1]))
            a = unfold(a, layer.kernel_size, layer.dilation, padding, layer.stride)
        return a.reshape(len(a), self.groups, -1, a.shape[-1])

    def gradients(self, g: Tensor) -> Tensor:
        """∂/∂z in the shape of the layer's output, brought to (N, G, O, T)."""
        if isinstance(self.module, nn.Linear):
            return g.reshape(len(g), 1, -1, self.module.out_features).mT
        return g.reshape(len(g), self.groups, self.module.out_channels // self.groups, -1)

    def sums_of_squares(self, gradients: Sequence[Tensor]) -> dict[str, Tensor]:
        """Σ_n Σ_v (∂/∂W)² and Σ_n Σ_v (∂/∂b)², from ∂/∂z for each v: (G, O, I) and (G, O)."""
        a, gs = self.patches(), [self.gradients(g) for g in gradients]
        if a.shape[-1] == 1:  # (g aᵀ)² = g² (a²)ᵀ, so one product serves all images and all v, eq. (4.10)
            g2 = torch.zeros_like(gs[0])
            for g in gs:
                g2.addcmul_(g, g)
            return {"weight": torch.einsum("ngot,ngit->goi", g2, a.square()), "bias": g2.sum((0, 3))}
        bias = sum((g.sum(-1).square().sum(0) for g in gs), start=torch.zeros_like(gs[0][0, ..., 0]))
        weight = torch.zeros_like(bias[..., None] * a[0, :, None, :, 0])
        some = max(1, _BUDGET // weight.numel())
        for g in gs:
            for g_part, a_part in zip(g.split(some), a.split(some), strict=True):
                weight += (g_part @ a_part.mT).square().sum(0)  # per image g aᵀ, eq. (4.9), then its square
        return {"weight": weight, "bias": bias}

    def products(self, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Σ_n Σ_t a aᵀ, with a one below each a where the bias is trainable, and Σ_n Σ_v Σ_t g gᵀ; one group only."""
        a = self.patches()[:, 0].mT.flatten(0, 1)  # (N·T, I)
        a = a.to(precise := _at_least_float32(a))
        if "bias" in self.names:
            a = torch.cat((a, a.new_ones(len(a), 1)), 1)
        rows = [self.gradients(g)[:, 0].mT.flatten(0, 1).to(precise) for g in gradients]  # each (N·T, O)
        return a.T @ a, torch.stack([g.T @ g for g in rows]).sum(0)


@contextmanager
def _recording(layers: list[_Layer]) -> Iterator[None]:
    handles = [layer.module.register_forward_hook(layer.record, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _closed_form_layers(
    model: nn.Module, images: Tensor, labels: Tensor, trainable: Mapping[str, Tensor]
) -> tuple[list[_Layer], int]:
    """The layers whose closed form holds, and how many images to take at once.

    A layer may be called twice, share its weight, mix images, or have its weight used behind its back. Rather than
    guess from its type, compare: on a few images, one at a time, g aᵀ must be what autograd finds for its weight.
    """
    name_of = {id(p): name for name, p in trainable.items()}
    layers = []
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            continue
        # An image with empty borders cannot show how a border is continued; so of the paddings only that by zeros.
        if isinstance(getattr(module, "padding", 0), str) or getattr(module, "padding_mode", "zeros") != "zeros":
            continue
        direct = dict(module.named_parameters(recurse=False))
        own = {kind: name_of[id(p)] for kind in ("weight", "bias") if id(p := direct.get(kind)) in name_of}
        if own:
            layers.append(_Layer(module, own))
    several = torch.arange(_PROBE, device=images.device) % len(images)  # a single image could not show that they mix
    images, labels = images[several], labels[several]
    with torch.enable_grad(), _recording(layers):
        logits = classify(model, images, labels)
    with torch.no_grad():
        error = (classify(model, images[:1], labels[:1]) - logits[:1]).abs().max()
    if bool(error > 1e-3 * logits[:1].abs().max()):
        raise ValueError(
            "the logits of an image depend on the other images of its batch, so that it has no F of its own; "
            "normalise with running statistics (track_running_stats=True), or by GroupNorm or LayerNorm"
        )
    layers = [layer for layer in layers if layer.calls == 1 and len(layer.inputs) == len(layer.outputs) == len(images)]
    for n in range(len(images)):
        v = torch.zeros_like(logits)
        v[n] = torch.linspace(1, 2, logits.shape[1])  # no zero: every class has its say
        parameters = [trainable[name] for layer in layers for name in layer.names.values()]
        wanted = [layer.outputs for layer in layers] + parameters
        found = torch.autograd.grad(logits, wanted, v, retain_graph=True, allow_unused=True) if wanted else ()
        of_parameter = dict(zip(map(id, parameters), found[len(layers) :], strict=True))
        layers = [
            layer
            for layer, g in zip(layers, found[: len(layers)], strict=True)
            if g is not None
            and _agrees(layer, g, n, {k: of_parameter[id(trainable[p])] for k, p in layer.names.items()})
        ]
    classes = logits.shape[1]
    numbers = sum(layer.patches()[0].numel() + classes * layer.outputs[0].numel() for layer in layers)
    numbers += images[0].numel() + classes**2
    return layers, max(1, min(1024, _BUDGET // numbers))


def _agrees(layer: _Layer, g: Tensor, n: int, expected: dict[str, Tensor | None]) -> bool:
    """Whether image n alone has a gradient, and g aᵀ is the one that autograd found for the weight and bias."""
    if bool(torch.cat((g[:n], g[n + 1 :])).any()):
        return False
    g = layer.gradients(g)[n]
    closed = {"weight": g @ layer.patches()[n].mT, "bias": g.sum(-1)}  # eq. (4.9)
    for kind, gradient in expected.items():
        if gradient is None:
            return False
        error = (closed[kind].reshape_as(gradient) - gradient).abs().max()
        if not bool(error <= 1e-3 * gradient.abs().max()):
            return False
    return True


def _gradients(layers: Sequence[_Layer], logits: Tensor, vectors: Tensor) -> list[tuple[Tensor, ...]]:
    """For each layer, ∂/∂z for each vector v that is sent backwards from the logits."""
    if not layers:
        return []
    outputs = [layer.outputs for layer in layers]
    found = [torch.autograd.grad(logits, outputs, v, retain_graph=True) for v in vectors]
    return list(zip(*found, strict=True))


def _layer_by_layer(layers: Sequence[_Layer], logits: Tensor, vectors: Tensor) -> Iterator[tuple[str, Tensor]]:
    """For each closed-form layer, Σ_n Σ_v (∂/∂θ)² over the images and vectors, from gradients at its outputs alone."""
    for layer, gradients in zip(layers, _gradients(layers, logits, vectors), strict=True):
        squares = layer.sums_of_squares(gradients)
        for kind, name in layer.names.items():
            yield name, squares[kind].reshape(getattr(layer.module, kind).shape)


def _image_by_image(
    model: nn.Module, parameters: dict[str, Tensor], images: Tensor, vectors: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Σ_n Σ_v (∂/∂θ)² for parameters without a closed form: differentiate every image by itself."""
    if not parameters:
        return

    # Every place where a parameter stands, spelled out: with functional_call's own handling of shared ones, a module
    # that is registered under two names does not get its parameters back.
    name_of = {id(p): name for name, p in model.named_parameters()}
    places = {
        f"{prefix}.{kind}".lstrip("."): name_of[id(p)]
        for prefix, module in model.named_modules()
        for kind, p in module.named_parameters(recurse=False)
        if name_of[id(p)] in parameters
    }

    def logits_of(image: Tensor, values: dict[str, Tensor]) -> Tensor:
        placed = {place: values[name] for place, name in places.items()}
        logits: Tensor = functional_call(model, placed, (image[None],), tie_weights=False)[0]
        return logits

    def squares(image: Tensor, v: Tensor) -> dict[str, Tensor]:
        backward = vjp(lambda values: logits_of(image, values), parameters)[1]
        (gradients,) = vmap(backward)(v)  # v: (V, C); each gradient: (V, *shape)
        return {name: g.square().sum(0) for name, g in gradients.items()}

    def squares_one_by_one(images: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        own = dict(model.named_parameters())
        sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for n in range(len(images)):
            with torch.enable_grad():
                logits = model(images[n : n + 1])[0]
            for v in vectors[:, n]:
                found = torch.autograd.grad(
                    logits, [own[name] for name in sums], v, retain_graph=True, allow_unused=True
                )
                for name, g in zip(sums, found, strict=True):
                    if g is not None:
                        sums[name] += g.square()
        return sums

    some = max(1, _BUDGET // (len(vectors) * sum(p.numel() for p in parameters.values())))
    for part, v in zip(images.split(some), vectors.split(some, dim=1), strict=True):
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")
                found = vmap(squares, in_dims=(0, 1))(part, v)
                sums = {name: each.sum(0) for name, each in found.items()}
        except RuntimeError:  # torch.func has no rule for some operators, those of recurrent layers among them
            sums = squares_one_by_one(part, v)
        yield from sums.items()
