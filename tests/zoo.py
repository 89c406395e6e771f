"""Architectures as people have them, small and untrained: those whose F must be right, and those to be refused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from test_fisher import Wired
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

from contlearn.data import _torchvision_datasets
from contlearn.models import Masked

_torchvision_datasets()  # beside a CPU build of torch, torchvision imports only after this
from torchvision.models import SwinTransformer, VisionTransformer, mobilenetv2, mobilenetv3, resnet  # noqa: E402
from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # noqa: E402

CLASSES = 3


@dataclass(frozen=True)
class Animal:
    """A model, the shape of one input for it, and how a batch is put into it.

    Attributes:
        build: makes the model.
        shape: of one image; with a vocabulary, of a row of token numbers.
        forward: what `diagonal_fisher` takes; None where a batch is a pair.
        batches: cuts inputs and labels into what the loader yields; by default two batches.
        layers: how many layers must have Kronecker factors.
        slow: how vmap fails here, so that a warning comes.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layers: int
    vocabulary: int = 0
    images: int = 9
    forward: Callable[[nn.Module, Any], tuple[Tensor, Tensor]] | None = None
    batches: Callable[[Tensor, Tensor], list[Any]] | None = None
    slow: str = ""

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The same weights in every dtype, and statistics and biases that are no longer those of a new network."""
        torch.manual_seed(1)
        model = self.build()
        with torch.no_grad():
            for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
                if name.endswith("running_mean") or (name.endswith("bias") and tensor.is_floating_point()):
                    tensor.normal_(0, 0.2)
                elif name.endswith("running_var"):
                    tensor.uniform_(0.5, 2)
        if any(p.is_complex() for p in model.parameters()):
            for p in model.parameters():
                p.data = p.data.to(torch.complex128)
            return model
        return model.to(dtype)

    def data(self, dtype: torch.dtype = torch.float64) -> list[Any]:
        """What the loader yields."""
        torch.manual_seed(2)
        if self.vocabulary:
            x = torch.randint(self.vocabulary, (self.images, *self.shape))
        else:
            x = torch.randn(self.images, *self.shape).to(dtype)
        y = torch.randint(CLASSES, (self.images,))
        cut = self.batches or (lambda x, y: list(zip(x.split(5), y.split(5), strict=True)))
        return cut(x, y)


def head(*body: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, CLASSES))


def wired(wiring: Callable[[Any, Any], Tensor], **parts: Any) -> nn.Module:
    return Wired(wiring, **parts)


def resnet18(norm: Any = None, frozen: bool = False) -> nn.Module:
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], CLASSES, norm_layer=norm)
    if frozen:
        model.requires_grad_(False).fc.requires_grad_(True)
    return model


def mobilenet_v3() -> nn.Module:
    block = partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=0.5)
    settings = [block(8, 3, 8, 8, True, "RE", 2), block(8, 3, 16, 16, False, "HS", 1)]
    return mobilenetv3.MobileNetV3(settings, 16, num_classes=CLASSES)


def transformer(kind: str) -> nn.Module:
    """Token numbers; 0 is padding. Encoder: the mean of what is no padding; decoder: causal, its last state."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=kind == "decoder")

    def wiring(m: Any, batch: dict[str, Tensor]) -> Tensor:
        tokens = batch["tokens"]
        x = m.embed(tokens) + m.places
        if kind == "decoder":
            causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            return m.head(m.body(x, src_mask=causal)[:, -1])
        present = batch["present"]
        states = m.body(x, src_key_padding_mask=~present)
        return m.head((states * present[..., None]).sum(1) / present.sum(1, keepdim=True))

    return wired(
        wiring, embed=nn.Embedding(7, 8), places=nn.Parameter(torch.randn(5, 8)), body=layer, head=nn.Linear(8, CLASSES)
    )


def with_masks(x: Tensor, y: Tensor) -> list[dict[str, Tensor]]:
    lengths = torch.arange(len(x)) % 3 + 3
    present = torch.arange(x.shape[1]) < lengths[:, None]
    whole = {"tokens": x, "present": present, "label": y}
    return [{k: v[:4] for k, v in whole.items()}, {k: v[4:] for k, v in whole.items()}]


def of_dictionary(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return model(batch), batch["label"]


def recurrent(kind: type[nn.Module], **options: Any) -> nn.Module:
    states = 5 * (2 if options.get("bidirectional") else 1)
    return wired(
        lambda m, x: m.head(m.body(x)[0][:, -1]),
        body=kind(4, 5, batch_first=True, **options),
        head=nn.Linear(states, CLASSES),
    )


def packed() -> nn.Module:
    def wiring(m: Any, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        rows = pack_padded_sequence(batch[0], batch[1].cpu(), batch_first=True, enforce_sorted=False)
        return m.head(m.body(rows)[1][-1])

    return wired(wiring, body=nn.GRU(4, 5, batch_first=True), head=nn.Linear(5, CLASSES))


def with_lengths(x: Tensor, y: Tensor) -> list[Any]:
    lengths = torch.arange(len(x)) % 3 + 1
    return [(x[:5], lengths[:5], y[:5]), (x[5:], lengths[5:], y[5:])]


class Experts(nn.Module):
    """Each token goes to one of three experts, which sees as many rows as there are such tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.head = nn.Linear(4, 3), nn.Linear(4, CLASSES)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        weights = self.router(tokens).softmax(1)
        chosen = weights.argmax(1)
        out = torch.zeros_like(tokens)
        for k, expert in enumerate(self.experts):
            rows = (chosen == k).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, expert(tokens[rows]).tanh() * weights[rows, k : k + 1])
        return self.head(out.view_as(x).sum(1))


class OneExpertSeesAsManyRowsAsImages(Experts):
    """One token of every image but the first, which has two, goes to the second expert, and none of the last image."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        wanted = x[..., 0] > 0
        out = self.experts[0](x).tanh()
        rows = wanted.flatten().nonzero()[:, 0]
        if len(rows):
            out = out.flatten(0, 1).index_add(0, rows, self.experts[1](tokens[rows]).tanh()).view_as(x)
        return self.head(out.sum(1))


def as_many_rows_as_images(x: Tensor, y: Tensor) -> list[Any]:
    x = x.clone()
    x[..., 0] = -x[..., 0].abs()
    x[:, 0, 0] *= -1
    x[0, 1, 0] *= -1
    x[-1, 0, 0] *= -1
    return [(x, y)]


def padded_by_turns(x: Tensor, y: Tensor) -> list[Any]:
    """Every second image has padding, the last has none."""
    x = x.clamp(max=48)
    x[::2, -2:] = 49
    return [(x, y)]


class LowRank(nn.Module):
    """An adapter beside a frozen layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(layer.in_features, 2, bias=False), nn.Linear(2, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


class SecondUse(nn.Module):
    """The weight is used behind the layer's back, but only where an image has a large first number."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z, large = self.body(x).tanh(), x[:, 0] > 3
        if large.any():
            z = z + torch.where(large[:, None], (x @ self.body.weight).tanh(), torch.zeros_like(z))
        return self.head(z)


def late_and_large(x: Tensor, y: Tensor) -> list[Any]:
    """More images than are joined at once; the last of them needs the branch that the others do not."""
    x, y = x.clamp(-2, 2).repeat(300, 1), y.repeat(300)
    x[-1, 0] = 4
    return [(x[:2000], y[:2000]), (x[2000:], y[2000:])]


def scaled(hook: Callable[..., Any]) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    model[0].register_forward_hook(hook)
    return model


def attention_by_parts(m: Any, x: Tensor) -> Tensor:
    """The bias of the keys has no effect at all."""
    return m.head(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x)).mean(1))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, CLASSES, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.weight.dtype) @ self.weight).abs()


def lstm_along_images() -> nn.Module:
    return wired(lambda m, x: m.head(m.body(x)[0][:, -1]), body=nn.LSTM(4, 5), head=nn.Linear(5, CLASSES))


def halting(m: Any, x: Tensor) -> Tensor:
    """As many steps as the largest image of the batch wants; a step more changes nothing for the others."""
    wanted = x.abs().amax(1).ceil().clamp(1, 4)
    for step in range(int(wanted.max())):
        x = torch.where((wanted > step)[:, None], m.body(x).tanh(), x)
    return m.head(x)


def of_several_lengths(x: Tensor, y: Tensor) -> list[Any]:
    return [(x[:3, :2], y[:3]), (x[3:6, :1], y[3:6]), (x[6:7], y[6:7]), (x[7:], y[7:])]


def task_heads(model: nn.Module, batch: tuple[Tensor, Tensor, int]) -> tuple[Tensor, Tensor]:
    return model.heads[batch[2]](model.body(batch[0]).tanh()), batch[1]


def compiled() -> nn.Module:
    return torch.compile(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)), backend="eager")


ANIMALS = {
    "ResNet": Animal(resnet18, (3, 32, 32), 13, images=3),
    "ResNet with group norm": Animal(partial(resnet18, partial(nn.GroupNorm, 2)), (3, 16, 16), 13, images=3),
    "ResNet, all but its head frozen": Animal(partial(resnet18, frozen=True), (3, 32, 32), 1, images=3),
    "MobileNetV2": Animal(
        lambda: mobilenetv2.MobileNetV2(
            CLASSES, width_mult=0.25, inverted_residual_setting=[[1, 8, 1, 1], [2, 8, 2, 2]]
        ),
        (3, 16, 16), 8, images=3,
    ),
    "MobileNetV3": Animal(mobilenet_v3, (3, 16, 16), 8, images=3),
    "ViT": Animal(lambda: VisionTransformer(8, 4, 1, 2, 8, 12, num_classes=CLASSES), (3, 8, 8), 4),
    "Swin": Animal(
        lambda: SwinTransformer([2, 2], 8, [2], [2], [2, 2], stochastic_depth_prob=0.1, num_classes=CLASSES),
        (3, 8, 8), 6, images=3,
    ),
    "ConvNeXt": Animal(
        lambda: ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], num_classes=CLASSES), (3, 16, 16), 7,
        images=3,
    ),
    "encoder with padding": Animal(
        partial(transformer, "encoder"), (5,), 3, vocabulary=7, forward=of_dictionary, batches=with_masks
    ),
    "decoder": Animal(
        partial(transformer, "decoder"), (5,), 3, vocabulary=7, forward=of_dictionary, batches=with_masks
    ),
    "attention by parts": Animal(
        lambda: wired(attention_by_parts, **{k: nn.Linear(6, 6) for k in "qkv"}, head=nn.Linear(6, CLASSES)), (4, 6), 4
    ),
    "LSTM": Animal(partial(recurrent, nn.LSTM), (3, 4), 1),
    "LSTM both ways round": Animal(partial(recurrent, nn.LSTM, bidirectional=True), (3, 4), 1),
    "GRU, two layers": Animal(partial(recurrent, nn.GRU, num_layers=2), (3, 4), 1),
    "GRU, packed": Animal(
        packed, (3, 4), 1, forward=lambda m, batch: (m(batch), batch[2]), batches=with_lengths
    ),
    "embedding bag": Animal(lambda: head(nn.EmbeddingBag(7, 4), nn.Tanh(), features=4), (5,), 1, vocabulary=7),
    "tied weights": Animal(
        lambda: wired(lambda m, x: F.linear(m.embed(x).tanh().mean(1), m.embed.weight[:CLASSES]),
                      embed=nn.Embedding(7, 4)),
        (5,), 0, vocabulary=7,
    ),
    "tied weights and padding, which some images have": Animal(
        lambda: wired(lambda m, x: F.linear(m.embed(x).tanh().mean(1), m.embed.weight[:CLASSES]),
                      embed=nn.Embedding(50, 4, padding_idx=-1)),
        (5,), 0, vocabulary=50, images=64, batches=padded_by_turns,
    ),
    "embedding with sparse gradients": Animal(
        lambda: head(nn.Embedding(7, 4, sparse=True), nn.Tanh(), features=20), (5,), 1, vocabulary=7
    ),
    "embedding with sparse gradients, used twice": Animal(
        lambda: wired(lambda m, x: m.head(m.embed(x).tanh().mean(1) * m.embed(x[:, 0])),
                      embed=nn.Embedding(7, 4, sparse=True), head=nn.Linear(4, CLASSES)),
        (5,), 1, vocabulary=7, slow="vmap",
    ),
    "PReLU": Animal(lambda: head(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.PReLU(), features=5), (6,), 2, images=64),
    "PReLU of channels": Animal(lambda: head(nn.PReLU(2), nn.Conv2d(2, 3, 2), nn.PReLU(3), features=12), (2, 3, 3), 2),
    "prototypes": Animal(
        lambda: wired(lambda m, x: -torch.cdist(m.body(x), m.prototypes), body=nn.Linear(4, 5),
                      prototypes=nn.Parameter(torch.randn(CLASSES, 5))),
        (4,), 1,
    ),
    "experts, weighted": Animal(
        lambda: wired(
            lambda m, x: m.head((m.router(x).softmax(1)[:, :, None] * torch.stack([m.a(x), m.b(x)], 1)).sum(1).tanh()),
            router=nn.Linear(4, 2), a=nn.Linear(4, 5), b=nn.Linear(4, 5), head=nn.Linear(5, CLASSES),
        ),
        (4,), 4,
    ),
    "experts, routed by token": Animal(Experts, (3, 4), 1, slow="vmap"),
    "an expert with as many rows as images": Animal(
        OneExpertSeesAsManyRowsAsImages, (3, 4), 2, batches=as_many_rows_as_images, images=10, slow="closed form|vmap"
    ),
    "weight norm": Animal(lambda: head(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), features=5), (4,), 1),
    "spectral norm": Animal(
        lambda: head(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), features=5), (4,), 1
    ),
    "orthogonal": Animal(
        lambda: head(parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley"), nn.Tanh(), features=4),
        (4,), 1,
    ),
    "low-rank adapter": Animal(lambda: head(LowRank(nn.Linear(4, 5)), nn.Tanh(), features=5), (4,), 3),
    "depthwise and dilated": Animal(
        lambda: head(nn.Conv2d(2, 4, 3, groups=2, dilation=2, padding=2), nn.Tanh(), features=64), (2, 4, 4), 1
    ),
    "transposed and 3-d convolutions": Animal(
        lambda: head(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(2), nn.ConvTranspose1d(2, 2, 2), features=18),
        (1, 3, 3, 3), 2,
    ),
    "channels last": Animal(
        lambda: head(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), features=48).to(memory_format=torch.channels_last),
        (2, 4, 4), 2,
        batches=lambda x, y: [(x.to(memory_format=torch.channels_last), y)],
    ),
    "instance norm": Animal(
        lambda: head(nn.Conv2d(2, 3, 2), nn.InstanceNorm2d(3, affine=True), nn.ReLU(), features=27), (2, 4, 4), 2
    ),
    "RMS norm": Animal(
        lambda: head(nn.Linear(4, 5), nn.RMSNorm(5), nn.SiLU(), nn.LayerNorm(5), features=15), (3, 4), 2
    ),
    "complex": Animal(Complex, (4,), 0),
    "as many steps as the batch wants": Animal(
        lambda: wired(halting, body=nn.Linear(4, 4), head=nn.Linear(4, CLASSES)), (4,), 1, slow="vmap"
    ),
    "second use of a weight, late": Animal(SecondUse, (4,), 1, batches=late_and_large, slow="vmap"),
    "several lengths": Animal(
        lambda: wired(lambda m, x: m.head(m.body(x).tanh().mean(1)), body=nn.Linear(4, 5), head=nn.Linear(5, CLASSES)),
        (3, 4), 2, batches=of_several_lengths,
    ),
    "a layer that one shape skips": Animal(
        lambda: wired(lambda m, x: m.head(m.body(x[:, 0]).tanh() if x.shape[1] > 1 else x[:, 0]), body=nn.Linear(4, 4),
                      head=nn.Linear(4, CLASSES)),
        (3, 4), 2, batches=of_several_lengths,
    ),
    "checkpointed": Animal(
        lambda: wired(lambda m, x: m.head(checkpoint(m.body, x, use_reentrant=False)),
                      body=nn.Sequential(nn.Linear(4, 5), nn.Tanh()), head=nn.Linear(5, CLASSES)),
        (4,), 2,
    ),
    "hook that scales": Animal(lambda: scaled(lambda m, args, out: 1.1 * out), (4,), 2),
    "compiled": Animal(compiled, (4,), 2),
    "registered twice": Animal(
        lambda: (lambda layer: nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, CLASSES)))(
            nn.Linear(4, 4)
        ),
        (4,), 1,
    ),
    "a head for each task": Animal(
        lambda: wired(lambda m, x: x, body=nn.Linear(4, 5),
                      heads=nn.ModuleList(nn.Linear(5, CLASSES) for _ in range(2))),
        (4,), 3, forward=task_heads, batches=lambda x, y: [(x[:4], y[:4], 0), (x[4:], y[4:], 1)],
    ),
    "batches of one": Animal(
        lambda: head(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), features=5), (4,), 2,
        batches=lambda x, y: list(zip(x.split(1), y.split(1), strict=True)),
    ),
    "a generator": Animal(
        lambda: head(nn.Linear(4, 5), nn.ReLU(), features=5), (4,), 2,
        batches=lambda x, y: list(zip(x.split([2, 6, 1]), y.split([2, 6, 1]), strict=True)),
    ),
    "minus infinity for a class": Animal(
        lambda: wired(lambda m, x: torch.cat((m.head(x), torch.full_like(x[:, :1], -torch.inf)), 1),
                      head=nn.Linear(4, CLASSES)),
        (4,), 1,
    ),
}  # fmt: skip


def under(context: Callable[[], Any], m: Any, x: Tensor) -> Tensor:
    with context():
        z = m.body(x)
    return m.head(z.clone())


def two_layers(wiring: Callable[[Any, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: wired(wiring, body=nn.Linear(4, 4), head=nn.Linear(4, CLASSES))


def one_by_one(x: Tensor, y: Tensor) -> list[Any]:
    return list(zip(x.split(1), y.split(1), strict=True))


MIXES = "depend on the other images"
UNREACHED = r"depend on body.weight, body.bias.*no gradient reaches them.*requires_grad_\(False\)"
REFUSED: dict[str, tuple[Animal, type[Exception], str]] = {
    "batch norm by the batch": (
        Animal(
            lambda: head(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2, track_running_stats=False), features=18), (1, 4, 4), 0
        ),
        ValueError, MIXES,
    ),
    "LSTM along the images": (Animal(lstm_along_images, (3, 4), 0), ValueError, MIXES + ".*batch_first"),
    "LSTM along the images, one by one": (
        Animal(lstm_along_images, (3, 4), 0, batches=one_by_one), ValueError, MIXES
    ),
    "LSTM along the images, masked": (
        Animal(lambda: Masked(lstm_along_images(), [0, 2]), (3, 4), 0), ValueError, MIXES
    ),
    "mean of the batch": (Animal(two_layers(lambda m, x: m.head(m.body(x - x.mean(0)))), (4,), 0), ValueError, MIXES),
    "a thousandth of the mean of the batch": (
        Animal(two_layers(lambda m, x: m.head(m.body(x - 1e-3 * x.mean(0)))), (4,), 0), ValueError, MIXES
    ),
    "attention across the batch": (
        Animal(two_layers(lambda m, x: m.head((m.body(x) @ x.T).softmax(1) @ x)), (4,), 0), ValueError, MIXES
    ),
    "dropout that is always on": (
        Animal(two_layers(lambda m, x: m.head(F.dropout(m.body(x), 0.5, training=True))), (4,), 0), ValueError,
        "change from call to call",
    ),
    "backbone under no_grad": (Animal(two_layers(partial(under, torch.no_grad)), (4,), 0), ValueError, UNREACHED),
    "backbone in inference mode": (
        Animal(two_layers(partial(under, torch.inference_mode)), (4,), 0), ValueError, UNREACHED
    ),
    "backbone detached": (Animal(two_layers(lambda m, x: m.head(m.body(x).detach())), (4,), 0), ValueError, UNREACHED),
    "reentrant checkpoint": (
        Animal(two_layers(lambda m, x: m.head(checkpoint(m.body, x.clone().requires_grad_(), use_reentrant=True))),
               (4,), 0),
        ValueError, UNREACHED + ".*use_reentrant=False",
    ),
    "meta": (Animal(lambda: nn.Linear(4, CLASSES, device="meta"), (4,), 0), ValueError, "meta device"),
    "one logit": (Animal(lambda: nn.Linear(4, 1), (4,), 0), ValueError, "single logit"),
    "inputs changed in place": (
        Animal(two_layers(lambda m, x: m.head(m.body(x.mul_(2)))), (4,), 0), ValueError, "changes its inputs in place"
    ),
    "every class masked": (
        Animal(two_layers(lambda m, x: m.head(x).fill_(-torch.inf)), (4,), 0), FloatingPointError, "not finite"
    ),
    "plus infinity": (
        Animal(two_layers(lambda m, x: m.head(x) + torch.inf), (4,), 0), FloatingPointError, "not finite"
    ),
}  # fmt: skip


def slices(batch: Any) -> Iterator[Any]:
    """The images of a batch one by one; what is no tensor, or has no entry for each image, is shared."""
    first = next(leaf for leaf in torch.utils._pytree.tree_leaves(batch) if isinstance(leaf, Tensor))
    for n in range(len(first)):
        yield torch.utils._pytree.tree_map_only(
            Tensor, lambda t, n=n: t[n : n + 1] if len(t) == len(first) else t, batch
        )
