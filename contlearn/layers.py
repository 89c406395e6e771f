"""The closed form of a layer's gradients, and the proof, on this model and these images, that it holds.

A linear layer z = W a + b has, for one image, the gradients ∂/∂W = g aᵀ and ∂/∂b = g with g = ∂/∂z, eq. (4.9). So all
that has to be differentiated is what comes after z. This is right if, in the pass at hand,

  - images lie along the first dimension, and each row of g belongs to the image of that number;
  - every path from the logits to the parameters leads through this z: read off autograd's graph (`connected`);
  - g aᵀ of an image is what autograd finds with that image alone (`agrees`).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.linalg import vector_norm
from torch.nn.functional import group_norm, layer_norm, pad, rms_norm
from torch.utils._pytree import tree_leaves

from contlearn.likelihoods import precise
from contlearn.per_image import add, tolerance

_Node = Any  # of autograd's graph
_BLOCK = 128  # rows at a time of a symmetric matrix
_SMALL, _ROWS = 16, 256  # products of matrices with so few rows add up image after image: no more than 256 at a time

_LINEAR = nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d
# Of autograd's nodes those that leave each image in its row, whatever they are given.
_ROWWISE = {
    *("Relu", "LeakyRelu", "Elu", "Celu", "Gelu", "Silu", "Mish", "Tanh", "Sigmoid", "Softplus", "Hardtanh"),
    *("Hardswish", "Hardsigmoid", "Add", "Mul", "Clone", "ToCopy", "MaxPool2DWithIndices", "AvgPool2D"),
    *("NativeLayerNorm", "NativeGroupNorm", "NativeBatchNorm", "CudnnBatchNorm"),
}
_RESHAPING = {"View", "UnsafeView", "ReshapeAlias"}  # they do, where there are as many rows as images
_NORMALISING = nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d


class Layer:
    """A linear or convolutional layer, and what passed through it in the last forward pass.

    A convolution is linear in its patches. With G groups, T positions in the image (tokens, or places of the kernel; 1
    for a plain linear layer), I inputs and O outputs a group: patches a are (N, G, I, T), gradients g are (N, G, O, T).
    """

    def __init__(self, name: str, module: Any, names: dict[str, str]) -> None:
        self.name, self.module = name, module
        self.names = names  # "weight" and "bias", where trainable, to the parameter's name in the model
        self.factored = type(self) is Layer and getattr(module, "groups", 1) == 1 and "weight" in names
        kernel, normalised = getattr(module, "kernel_size", ()), getattr(module, "normalized_shape", ())
        self.dimensions = 2 + len(kernel) if kernel else 1 + max(1, len(normalised))  # of inputs that come in batches
        self.listening = False  # to the next forward pass
        self.forget()

    def forget(self) -> None:
        """The last forward pass, and the memory that it takes."""
        self.inputs, self.shape = torch.empty(0), torch.Size()
        self.edge: GradientEdge | None = None  # where z stands in autograd's graph
        self._a: Tensor | None = None
        self._sums: dict[str, Tensor] = {}

    def record(self, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Any) -> Any:
        """A forward hook."""
        if not isinstance(output, Tensor) or output.is_nested:
            return output
        if self.listening:
            # What an in-place ReLU makes of z later does not matter.
            self.inputs = (args[0] if args else kwargs["input"]).detach()
            if self.inputs.is_floating_point():
                self.inputs = self.inputs.to(output.dtype)  # as autocast saw them
            self.shape = output.shape
            self.edge = get_gradient_edge(output) if output.requires_grad else None
        return output.clone() if output._is_view() else output  # in place, a view would change its edge

    @property
    def numbers(self) -> int:
        """How many numbers an image takes here: patches, outputs and gradients."""
        return self.patches()[0].numel() + 3 * self.shape.numel() if self.fits(1) else 0

    def fits(self, images: int) -> bool:
        """Whether what the layer saw last has that many images along the first dimension."""
        return (
            self.edge is not None
            and self.inputs.layout is torch.strided
            and self.inputs.ndim >= self.dimensions
            and len(self.inputs) == self.shape[0] == images
        )

    def patches(self) -> Tensor:
        """a, (N, G, I, T), in at least single precision."""
        if self._a is None:
            self._a = self._patches(precise(self.inputs))
        return self._a

    def _patches(self, a: Tensor) -> Tensor:
        layer = self.module
        if isinstance(layer, nn.Linear):
            return a.reshape(len(a), 1, -1, a.shape[-1]).mT
        kernel = layer.weight.shape[2:]  # not what the attributes say, which may be out of date
        d = len(kernel)
        padding, dilation, stride = (_of_axes(each, d) for each in (layer.padding, layer.dilation, layer.stride))
        a = pad(a, [int(p) for p in reversed(padding) for _ in "<>"])
        for axis, k in enumerate(kernel):
            spacing = dilation[axis]
            a = a.unfold(axis + 2, (k - 1) * spacing + 1, stride[axis])[..., ::spacing]
        places = a.shape[2 : d + 2].numel()  # of (N, channels, places…, kernel…)
        a = a.permute(0, 1, *range(d + 2, 2 * d + 2), *range(2, d + 2))
        return a.reshape(len(a), layer.groups, -1, places)

    def gradients(self, g: Tensor) -> Tensor:
        """∂/∂z in the shape of the layer's output, brought to (N, G, O, T)."""
        g = precise(g)
        if isinstance(self.module, nn.Linear):
            return g.reshape(len(g), 1, -1, g.shape[-1]).mT
        return g.reshape(len(g), self.module.groups, g.shape[1] // self.module.groups, -1)

    def errors(self, g: Tensor, n: int, truth: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """What is wrong in the gradients of weight and bias for image n, part by part, and the size of their terms."""
        g, a = self.gradients(g[n : n + 1])[0], self.patches()[n]
        if "weight" in truth:
            size = vector_norm(g, dim=-1).max() * vector_norm(a, dim=-1).max()
            yield truth["weight"].reshape(*g.shape[:2], -1).baddbmm_(g, a.mT, alpha=-1), size  # eq. (4.9)
        if "bias" in truth:
            yield truth["bias"].view_as(g[..., 0]) - g.sum(-1), g.abs().sum(-1).max()

    def add_squares(self, g: Tensor, budget: int) -> None:
        """Take in ∂/∂z for one of the vectors that are sent backwards."""
        g, a = self.gradients(g), self.patches()
        if a.shape[-1] == 1:  # (g aᵀ)² = g² (a²)ᵀ, so one product serves all images and all vectors, eq. (4.10)
            if "g²" in self._sums:
                self._sums["g²"].addcmul_(g, g)
            else:
                self._sums["g²"] = g.square()
            return
        self._add("bias", g.sum(-1).square().sum(0))
        some = max(1, budget // (g[0, ..., 0].numel() * a.shape[2]))
        for g_part, a_part in zip(g.split(some), a.split(some), strict=True):
            self._add("weight", (g_part @ a_part.mT).square_().sum(0))  # per image g aᵀ, eq. (4.9), then its square

    def squares(self) -> dict[str, Tensor]:
        """Σ_n Σ_v (∂/∂θ)² of the parameters, by name and in their shape, from the gradients taken in."""
        if "g²" in self._sums:
            g2 = self._sums.pop("g²")
            self._sums["bias"] = g2.sum((0, 3))
            rows = _ROWS if min(g2.shape[2], self.patches().shape[2]) < _SMALL else len(g2)
            for g_part, a_part in zip(g2.split(rows), self.patches().split(rows), strict=True):
                self._add("weight", torch.einsum("ngot,ngit->goi", g_part, a_part.square()))
        return {
            name: self._sums[kind].reshape(getattr(self.module, kind).shape)
            for kind, name in self.names.items()
            if kind in self._sums
        }

    def add_products(self, g: Tensor, used: Tensor | None) -> None:
        """Take in ∂/∂z for one of the vectors that are sent backwards; `used`, (N,) or (N, T), as in `Vectors`."""
        columns = self.gradients(g)[:, 0].transpose(0, 1).flatten(1)  # (O, N·T)
        self._sums["G"] = _add_gram(self._sums.get("G"), columns)
        if used is not None and isinstance(self.module, nn.Linear) and g.shape[:-1] == used.shape:
            counted = used.flatten() | columns.ne(0).any(0)  # those of padding, where ∂/∂z is 0, are no samples
            self._sums["counted"] = self._sums.get("counted", counted) | counted
        elif used is not None:  # nor are images that are left out as a whole
            images = used.view(len(used), 1, -1).any(-1)
            self._sums["counted"] = images.expand(-1, columns.shape[1] // len(used)).flatten()

    def products(self) -> tuple[Tensor, Tensor, int]:
        """Σ_n Σ_t a aᵀ, with a one below each a where the bias is trainable, Σ_n Σ_v Σ_t g gᵀ, and how many a."""
        a = self.patches()[:, 0].transpose(0, 1).flatten(1)  # (I, N·T)
        if "counted" in self._sums:
            a = a[:, self._sums["counted"]]
        inputs = len(a)
        whole = a.new_full([inputs + ("bias" in self.names)] * 2, a.shape[1])
        if "bias" in self.names:
            whole[inputs, :inputs] = whole[:inputs, inputs] = a.sum(1)
        _mirrored(_add_gram(whole[:inputs, :inputs].zero_(), a))
        return whole, _mirrored(self._sums["G"]), a.shape[1]

    def _add(self, key: str, value: Tensor) -> None:
        add(self._sums, key, value)


class Normalisation(Layer):
    """z = γ ⊙ x̂ + β: for one image ∂/∂γ = Σ g ⊙ x̂ and ∂/∂β = Σ g, over the positions that share a γ.

    Batch norm is one in `eval()` mode, where mean and variance are constants. x̂ and g are brought to (N, K, T), K being
    the size of γ.
    """

    def _patches(self, a: Tensor) -> Tensor:
        layer = self.module
        if isinstance(layer, nn.LayerNorm):
            a = layer_norm(a, layer.normalized_shape, eps=layer.eps)
        elif isinstance(layer, nn.RMSNorm):
            a = rms_norm(a, list(layer.normalized_shape), eps=layer.eps)
        elif isinstance(layer, nn.GroupNorm):
            a = group_norm(a, layer.num_groups, eps=layer.eps)
        else:
            shape = (-1, *[1] * (a.ndim - 2))
            a = (a - layer.running_mean.view(shape)) / (layer.running_var.view(shape) + layer.eps).sqrt()
        return self.gradients(a)

    def gradients(self, g: Tensor) -> Tensor:
        """x̂ or ∂/∂z as (N, K, T)."""
        size = self.module.weight.numel()
        if isinstance(self.module, nn.LayerNorm | nn.RMSNorm):
            return precise(g).reshape(len(g), -1, size).mT
        return precise(g).reshape(len(g), size, -1)

    def errors(self, g: Tensor, n: int, truth: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        g, a = self.gradients(g[n : n + 1])[0], self.patches()[n]
        for kind, true in truth.items():
            terms = g * a if kind == "weight" else g
            yield true.flatten() - terms.sum(-1), terms.abs().sum(-1).max()

    def add_squares(self, g: Tensor, budget: int) -> None:
        g = self.gradients(g)
        self._add("weight", (g * self.patches()).sum(-1).square().sum(0))
        self._add("bias", g.sum(-1).square().sum(0))


class Embedding(Layer):
    """z_t is row v_t of W: for one image ∂/∂W_v is the sum of ∂/∂z_t over the places t where v stands."""

    def __init__(self, name: str, module: Any, names: dict[str, str]) -> None:
        super().__init__(name, module, names)
        self.dimensions = 1

    def patches(self) -> Tensor:
        """v, (N, T)."""
        return self.inputs.reshape(len(self.inputs), -1)

    def gradients(self, g: Tensor) -> Tensor:
        """∂/∂z as (N, T, width), zero where autograd gives the padding none."""
        g, padding = precise(g).reshape(len(g), -1, g.shape[-1]), self.module.padding_idx
        return g if padding is None else g * (self.patches() != padding % len(self.module.weight))[..., None]

    def errors(self, g: Tensor, n: int, truth: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        g, v = self.gradients(g)[n], self.patches()[n]
        yield truth["weight"].index_add(0, v, g, alpha=-1), g.abs().sum(0).max()

    def add_squares(self, g: Tensor, budget: int) -> None:
        g, rows = self.gradients(g), len(self.module.weight)
        if self._a is None:  # the pairs of image and row that occur, and which of them stands at each place
            image = torch.arange(len(g), device=g.device)[:, None]
            self._a, self._place = (image * rows + self.patches()).flatten().unique(return_inverse=True)
        sums = g.new_zeros(len(self._a), g.shape[-1]).index_add_(0, self._place, g.flatten(0, 1))
        self._add("weight", g.new_zeros(self.module.weight.shape).index_add_(0, self._a % rows, sums.square_()))


def candidates(model: nn.Module, trainable: Mapping[str, Tensor]) -> list[Layer]:
    """The layers that may have a closed form, judged by their type alone."""
    name_of = {id(p): name for name, p in trainable.items()}
    layers: list[Layer] = []
    for name, module in model.named_modules():
        bases = [base for base in (*_LINEAR, *_NORMALISING, nn.Embedding) if isinstance(module, base)]
        if not bases or any(  # a subclass may do whatever it likes
            getattr(getattr(module, method, None), "__func__", None) is not getattr(bases[0], method, None)
            for method in ("forward", "_conv_forward")
        ):
            continue
        kind: type[Layer] = Layer if isinstance(module, _LINEAR) else Normalisation
        kind = Embedding if isinstance(module, nn.Embedding) else kind
        if isinstance(module, nn.Embedding) and (module.max_norm or module.scale_grad_by_freq):
            continue
        if hasattr(module, "running_var") and not isinstance(module.running_var, Tensor):
            continue
        # An image with empty borders cannot show how a border is continued; so of the paddings only that by zeros.
        if isinstance(getattr(module, "padding", 0), str) or getattr(module, "padding_mode", "zeros") != "zeros":
            continue
        direct = dict(module.named_parameters(recurse=False))
        if not all(p.numel() for p in direct.values()):
            continue
        own = {k: name_of[id(direct[k])] for k in ("weight", "bias") if id(direct.get(k)) in name_of}
        if own and all(trainable[n].is_floating_point() and not trainable[n]._backward_hooks for n in own.values()):
            layers.append(kind(name, module, own))
    return layers


def connected(
    layers: Iterable[Layer], logits: Tensor, images: int, parameters: Mapping[str, Tensor]
) -> tuple[list[Layer], set[str], bool]:
    """Judged by autograd's graph of the last pass: the layers that saw as many inputs as there are images, and whose
    output lies on every path from the logits to their parameters; the names of the parameters with a path; and whether
    there is anything else on the way that might exchange images, from one pass to the next in another way.
    """
    consumers, leaves = _graph(logits)

    def through(node: _Node, target: _Node) -> bool:
        while node is not target:
            above = consumers[node]
            if len(above) != 1:
                return False
            node = above[0]
        return True

    found = [
        layer
        for layer in layers
        if layer.fits(images)
        and layer.edge is not None
        and layer.edge.node in consumers
        and all(
            id(parameters[name]) in leaves and through(leaves[id(parameters[name])], layer.edge.node)
            for name in layer.names.values()
        )
    ]
    known = {layer.edge.node for layer in found if layer.edge is not None}
    reorders = any(not _rowwise(node, images) for node in consumers.keys() - known - {None})
    return found, {name for name, p in parameters.items() if id(p) in leaves}, reorders


def _graph(logits: Tensor) -> tuple[dict[_Node, list[_Node]], dict[int, _Node]]:
    """Autograd's graph below the logits: for each node who uses what it made, and the nodes of the parameters."""
    consumers: dict[_Node, list[_Node]] = defaultdict(list)
    leaves: dict[int, _Node] = {}
    nodes: list[_Node] = [logits.grad_fn]
    consumers[logits.grad_fn] = []
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):  # only those that gather the gradient of a parameter have one
            leaves[id(node.variable)] = node
        for below, _ in node.next_functions if node is not None else ():
            if below is not None:
                if below not in consumers:
                    nodes.append(below)
                consumers[below].append(node)
    return consumers, leaves


def _rowwise(node: _Node, images: int) -> bool:
    """Whether every image stays in its row here; of a layer that is no candidate, as of all that is unknown: no."""
    if hasattr(node, "variable") or (node.name() == "TBackward0" and hasattr(node.next_functions[0][0], "variable")):
        return True  # a parameter, or the transpose of one
    kind = node.name().partition("Backward")[0]
    if kind in _RESHAPING:
        return bool(getattr(node, "_saved_self_sym_sizes", (0,))[0] == images)
    return kind in _ROWWISE and not getattr(node, "_saved_training", False)


def agrees(
    layer: Layer, g: Tensor, n: int, expected: Mapping[str, Tensor | None], dtype: torch.dtype = torch.float32
) -> bool:
    """Whether g aᵀ is what autograd found for image n by itself, up to the rounding of such sums in `dtype`."""
    truth = {}
    for kind, name in layer.names.items():
        true = expected[name]
        true = torch.zeros_like(getattr(layer.module, kind)) if true is None else true
        truth[kind] = precise(true)
    return all(bool(error.abs_().max() <= tolerance(dtype) * size) for error, size in layer.errors(g, n, truth))


def _add_gram(total: Tensor | None, x: Tensor) -> Tensor:
    """Add x xᵀ to `total`, or make one; only what `_mirrored` reads of it is right, which saves half of the work."""
    total = x.new_zeros(len(x), len(x)) if total is None else total
    for start in range(0, len(x), _BLOCK):
        total[start : start + _BLOCK, start:] += _long_product(x[start : start + _BLOCK], x[start:])
    return total


def _long_product(x: Tensor, y: Tensor) -> Tensor:
    """The product x yᵀ in parts: one long sum in single precision would lose digits."""
    some = _ROWS if len(x) < _SMALL else 64 * _ROWS
    parts = x.shape[1] // some
    (x, x_rest), (y, y_rest) = (each.tensor_split([parts * some], 1) for each in (x, y))
    x, y = (each.unflatten(1, (parts, some)).transpose(0, 1) for each in (x, y))
    return (x @ y.mT).sum(0).addmm_(x_rest, y_rest.T)


def _mirrored(total: Tensor) -> Tensor:
    """With the other half; in place, for these matrices may be large."""
    for start in range(0, len(total), _BLOCK):
        end = start + _BLOCK
        total[end:, start:end] = total[start:end, end:].T
    return total


def _of_axes(setting: Any, axes: int) -> list[int]:
    """One number for each axis of a convolution: set by hand it may be one for all."""
    numbers = tree_leaves(setting)
    return numbers * axes if len(numbers) == 1 else numbers
