"""Models that would have a wrong F believed: each is right here, or refused. All are in float64 unless they say so."""

import copy
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, nn

from contlearn import diagonal_fisher, kronecker_fisher

CLASSES = 3
MIXES = "depend on the other images"


class Wired(nn.Module):
    """A forward function and the parts that it uses."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return make().double().eval()


def images(count: int, *shape: int) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(2)
    x = torch.randn(count, *shape, generator=numbers, dtype=torch.float64)
    return x, torch.randint(CLASSES, (count,), generator=numbers)


def tokens(count: int, length: int = 5, words: int = 20) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    return torch.randint(1, words, (count, length), generator=numbers), torch.randint(
        CLASSES, (count,), generator=numbers
    )


def right(model: nn.Module, x: Tensor, y: Tensor, estimator: Any = "exact") -> None:
    expected = oracles.fisher(copy.deepcopy(model), x, y.tolist(), estimator)
    oracles.assert_close(diagonal_fisher(model, [(x, y)], estimator, progress=False), expected, 1e-10)


def odd_one(x: Tensor) -> Tensor:
    """Ordinary images, and one in the middle, at which no proof looks, that needs the special path."""
    x = x.clamp(-2, 2)
    x[21] = 9
    return x


class Clamped(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight, bias).clamp(-3, 3)


def test_a_hook_that_clamps_one_image_and_an_overridden_convolution() -> None:
    """What a hook makes of z comes after z."""
    x, y = images(64, 4)
    model = built(lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, CLASSES)))
    model[0].register_forward_hook(lambda _, args, z: z.clamp(-3, 3))
    right(model, odd_one(x), y)
    x, y = images(64, 1, 4, 4)
    model = built(lambda: nn.Sequential(Clamped(1, 2, 3), nn.Flatten(), nn.Linear(8, CLASSES)))
    x = x.clamp(-1, 1)
    x[21] *= 20
    right(model, x, y)


def test_a_layer_that_only_the_second_output_uses() -> None:
    def heads(m: Any, x: Tensor) -> Tensor:
        return torch.cat((m.first(m.a(x).tanh()), m.second(m.b(x).tanh())), 1)

    parts = {"a": (4, 4), "b": (4, 4), "first": (4, 1), "second": (4, 1)}
    model = built(lambda: Wired(heads, **{name: nn.Linear(*sizes) for name, sizes in parts.items()}))
    model.b.register_forward_hook(lambda _, args, z: 2 * z)
    x, _ = images(64, 4)
    found = diagonal_fisher(model, [(x, x[:, :2])], likelihood="gaussian", progress=False)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image in x:
        for output in model(image[None])[0]:
            gradients = torch.autograd.grad(output, list(model.parameters()), retain_graph=True, allow_unused=True)
            for name, g in zip(expected, gradients, strict=True):
                if g is not None:
                    expected[name] += g**2 / len(x)
    oracles.assert_close(found, expected, 1e-10)


@pytest.mark.parametrize("padding", [0, 3])
def test_padding_that_vmap_does_not_know(padding: int) -> None:
    x, y = tokens(64)
    x[20:22] = padding

    def run(m: Any, x: Tensor) -> Tensor:
        return m.head(torch.embedding(m.words, x, padding).flatten(1).tanh())

    right(built(lambda: Wired(run, words=nn.Parameter(torch.randn(20, 4)), head=nn.Linear(20, CLASSES))), x, y)
    model = built(lambda: nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(20, CLASSES)))
    model[0].padding_idx = padding - 20  # counted from the end
    right(model, x, y)


def tied(m: Any, x: Tensor) -> Tensor:
    return m.head(m.a(x).tanh() + torch.where(x[:, :1] > 8, x @ m.list[0], 0))


def gated(m: Any, x: Tensor) -> Tensor:
    h = x * m.scale
    if h.requires_grad:  # not so under vmap
        h.register_hook(lambda g: torch.where(x.abs() > 5, 0 * g, g))
    return m.head(h.tanh() * m.scale)


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
@pytest.mark.parametrize("run", [tied, gated], ids=["a weight in a list", "a hook that vmap does not run"])
def test_vmap_must_be_right_for_all_images(run: Any, estimator: str) -> None:
    """Their gradients have to add up to those of the batch. Once that may be a ReLU's edge; twice it is said."""
    model = built(
        lambda: Wired(run, a=nn.Linear(4, 4), head=nn.Linear(4, CLASSES), scale=nn.Parameter(0.1 * torch.randn(4)))
    )
    model.list = [model.a.weight]
    x, y = images(64, 4)
    x = odd_one(x)
    right(model, x, y, estimator)
    expected = oracles.fisher(model, torch.cat((x, x)), torch.cat((y, y)).tolist(), estimator)
    batches = [(x, y, 0), (x, y, 1)]  # a number that keeps them apart
    with pytest.warns(
        UserWarning, match=r"for some images torch\.func\.vmap finds other gradients of .*scale|a\.weight"
    ):
        found = diagonal_fisher(
            model, batches, estimator, forward=lambda m, batch: (m(batch[0]), batch[1]), progress=False
        )
    oracles.assert_close(found, expected, 1e-10)


@pytest.mark.parametrize("first", [0, 20])
def test_a_hook_on_a_weight_that_masks_rows(first: int) -> None:
    """As where new tokens alone are trained: whichever image has one of the others."""
    x, y = tokens(64)
    x[first, 2] = 0
    model = built(lambda: nn.Sequential(nn.Embedding(20, 4), nn.Flatten(), nn.Linear(20, CLASSES)))
    mask = torch.ones(20, 1, dtype=torch.float64)
    mask[0] = 0
    model[0].weight.register_hook(lambda g: g * mask)
    found = diagonal_fisher(model, [(x, y)], progress=False)
    assert not found["0.weight"][0].any()
    model[0].weight._backward_hooks = None
    expected = oracles.fisher(model, x, y.tolist(), "exact")
    expected["0.weight"][0] = 0
    oracles.assert_close(found, expected, 1e-10)


class Adapter(nn.Linear):
    """Merges itself into the weight in `eval()`."""

    def __init__(self) -> None:
        super().__init__(4, 5)
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(5, 2))
        self.weight.requires_grad_(False)
        self.merged = False

    def train(self, mode: bool = True) -> "Adapter":
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * (self.up @ self.down).data
            self.merged = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        return z if self.merged else z + x @ self.down.T @ self.up.T


class Kept(nn.Linear):
    """An effective weight that is made once for `eval()`."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.kept = None
        elif self.kept is None:
            self.kept = self.weight.tanh()
        return nn.functional.linear(x, self.weight.tanh() if self.kept is None else self.kept, self.bias)


def test_what_takes_part_in_training_alone_is_refused_and_left_as_it_was() -> None:
    x, y = images(32, 4)
    model = built(lambda: nn.Sequential(Adapter(), nn.Tanh(), nn.Linear(5, CLASSES))).train()
    logits = model(x)
    with pytest.raises(ValueError, match=r"0\.(down|up), 0\.(down|up) take part in train\(\) mode, but not in eval"):
        diagonal_fisher(model, [(x, y)], progress=False)
    assert (model[0].training, model[0].merged) == (True, False)
    torch.testing.assert_close(model(x), logits)
    model = built(lambda: nn.Sequential(Kept(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)))
    with torch.no_grad():
        model(x)
    with pytest.raises(ValueError, match=r"0\.weight take part in train\(\) mode"):
        diagonal_fisher(model, [(x, y)], progress=False)


@pytest.mark.filterwarnings("ignore:torch.func.vmap cannot")
def test_rows_leave_their_images_in_a_later_batch_by_a_product() -> None:
    """As the routing of a mixture of experts by one-hot matrices: no index in sight."""

    def run(m: Any, x: Tensor) -> Tensor:
        shift = torch.eye(len(x), dtype=x.dtype)
        if (x > 8).any():
            shift = shift[torch.arange(len(x)).roll(1)]
        return m.head(shift.T @ m.a(shift @ x).tanh())

    model = built(lambda: Wired(run, a=nn.Linear(4, 5), head=nn.Linear(5, CLASSES)))
    x, y = images(64, 4)
    x = x.clamp(-2, 2)
    late = odd_one(x.clone())
    expected = oracles.fisher(model, torch.cat((x, late)), torch.cat((y, y)).tolist(), "empirical")
    with pytest.warns(UserWarning, match="the closed form of a.weight, a.bias differs from autograd"):
        found = diagonal_fisher(
            model, [(x, y, 0), (late, y, 0)], "empirical", forward=lambda m, b: (m(b[0]), b[1]), progress=False
        )
    oracles.assert_close(found, expected, 1e-10)


def test_a_double_model_is_proven_with_double_precision() -> None:
    """Tokens less a thousandth of a tenth of the batch's mean: that is no rounding."""

    def run(m: Any, x: Tensor) -> Tensor:
        e = m.words(x).flatten(1)
        return m.head((e - 1e-4 * e.mean(0)).tanh())

    model = built(lambda: Wired(run, words=nn.Embedding(20, 4), head=nn.Linear(20, CLASSES)))
    with pytest.raises(ValueError, match=MIXES):
        diagonal_fisher(model, [tokens(64)], progress=False)


def test_tokens_that_mix_in_half_precision_are_refused_by_their_derivatives() -> None:
    """A recurrent network along the images: in bfloat16 its logits alone may be called rounding."""
    for seed in range(4):
        torch.manual_seed(seed)
        model = Wired(
            lambda m, x: m.head(m.body(m.words(x))[0].mean(1)),
            words=nn.Embedding(20, 8), body=nn.LSTM(8, 8), head=nn.Linear(8, CLASSES),
        ).bfloat16()  # fmt: skip
        with pytest.raises(ValueError, match=MIXES):
            diagonal_fisher(model, [tokens(64)], progress=False)


def test_a_loader_that_fills_the_same_memory_again() -> None:
    x, y = images(40, 4)
    model = built(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)))

    def ring() -> Iterator[tuple[Tensor, Tensor]]:
        held = torch.empty(8, 4, dtype=torch.float64), torch.empty(8, dtype=torch.int64)
        for batch in zip(x.split(8), y.split(8), strict=True):
            for place, part in zip(held, batch, strict=True):
                place.copy_(part)
            yield held

    expected = oracles.fisher(model, x, y.tolist(), "exact")
    oracles.assert_close(diagonal_fisher(model, ring(), progress=False), expected, 1e-10)


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
def test_gradients_that_are_clipped_on_their_way_back(estimator: Any) -> None:
    """With the true label its gradient is what it is; vectors that stand for several labels need a linear way back."""

    def run(m: Any, x: Tensor) -> Tensor:
        h = m.a(x)
        if h.requires_grad:
            h.register_hook(lambda g: g.clamp(-0.05, 0.05))
        return m.head(h.tanh())

    model = built(lambda: Wired(run, a=nn.Linear(4, 5), head=nn.Linear(5, CLASSES)))
    x, y = images(64, 4)
    if estimator == "empirical":
        right(model, x, y, estimator)
        return
    with pytest.raises(ValueError, match=r"gradients are changed on their way back.*take 'empirical'"):
        diagonal_fisher(model, [(x, y)], estimator, progress=False)


@pytest.mark.parametrize("task", [int, torch.tensor], ids=["a number", "a tensor"])
def test_a_hidden_path_of_the_second_task(task: Any) -> None:
    def forward(m: Any, batch: Any) -> tuple[Tensor, Tensor]:
        z = m.bodies[int(batch[2])](batch[0]).tanh()
        return m.head(z.detach() if int(batch[2]) else z), batch[1]

    bodies = nn.ModuleList([nn.Linear(4, 5), nn.Linear(4, 5)])
    model = built(lambda: Wired(lambda m, x: x, bodies=bodies, head=nn.Linear(5, CLASSES)))
    x, y = images(16, 4)
    with pytest.raises(ValueError, match=r"the logits depend on .*bodies\.1\.weight"):
        diagonal_fisher(model, [(x, y, task(0)), (x, y, task(1))], forward=forward, progress=False)


@pytest.mark.parametrize("first", [1.0, -1.0])
def test_a_hidden_path_that_the_first_image_does_not_take(first: float) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = m.a(x)
        return m.head(torch.where(x[:, :1] > 0, hidden, x).tanh())

    model = built(lambda: Wired(run, a=nn.Linear(4, 4), head=nn.Linear(4, CLASSES)))
    x, y = images(16, 4)
    x[0, 0] = first
    with pytest.raises(ValueError, match=r"the logits depend on a\.weight"):
        diagonal_fisher(model, [(x, y)], progress=False)


@pytest.mark.parametrize("measure", [diagonal_fisher, kronecker_fisher])
def test_what_is_not_finite_is_said(measure: Any) -> None:
    """Squares of inputs that are too large; and 0 times infinity on the way back, which is no image that mixes."""
    x, y = images(16, 4)
    model = built(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))).float()
    with torch.no_grad():
        model[0].weight *= 1e-25
    with pytest.raises(FloatingPointError, match=r"F of 0\.weight.* is not finite: gradients or inputs are too large"):
        measure(model, [(1e25 * x.float(), y)], progress=False)
    root = built(
        lambda: Wired(
            lambda m, x: m.head((m.a(x) - m.a(x)).square().sum(1, keepdim=True).sqrt() + x[:, :1]),
            a=nn.Linear(4, 5), head=nn.Linear(1, CLASSES),
        )
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match="is not finite: look for 0 times infinity on the way back"):
        measure(root, [(x, y)], progress=False)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("measure", [diagonal_fisher, kronecker_fisher])
@pytest.mark.parametrize("sizes", [(4, 0), (0, 4), (0, 0)])
def test_parameters_without_an_entry(measure: Any, sizes: tuple[int, int]) -> None:
    """As those of rank 0."""
    model = built(
        lambda: Wired(
            lambda m, x: m.head(x + m.a(x[:, : sizes[0]]).sum(1, keepdim=True)) + x @ m.up @ m.down,
            a=nn.Linear(*sizes), head=nn.Linear(4, CLASSES),
            up=nn.Parameter(torch.randn(4, 0)), down=nn.Parameter(torch.zeros(0, CLASSES)),
        )
    )  # fmt: skip
    x, y = images(16, 4)
    found = measure(model, [(x, y)], progress=False)
    expected = oracles.fisher(model, x, y.tolist(), "exact")
    if measure is kronecker_fisher:
        assert set(found.factors) == {"head"}
        found, expected = found.diagonal, {name: f for name, f in expected.items() if "head" not in name}
    assert {name: f.shape for name, f in found.items()} == {name: f.shape for name, f in expected.items()}
    full = [name for name, f in found.items() if f.numel()]
    oracles.assert_close({name: found[name] for name in full}, {name: expected[name] for name in full}, 1e-10)


def test_nested_tensors_inside_sparse_images_and_parameters_of_inference_mode() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        nested = torch.nested.as_nested_tensor(list(x), layout=torch.jagged)
        return m.head(torch.nested.to_padded_tensor(m.a(nested), 0.0).sum(1))

    x, y = images(16, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that vmap cannot, and whatever PyTorch says of nested tensors
        right(built(lambda: Wired(run, a=nn.Linear(4, 5), head=nn.Linear(5, CLASSES))), x, y)
    nested = torch.nested.nested_tensor(list(x[:, 0]), layout=torch.jagged)
    for odd in (x[:, 0].to_sparse(), nested):
        with pytest.raises(ValueError, match=r"images are sparse or nested.*to_dense"):
            diagonal_fisher(built(lambda: nn.Linear(4, CLASSES)), [(odd, y)], progress=False)
    with torch.inference_mode():
        model = nn.Linear(4, CLASSES)
    with pytest.raises(ValueError, match=r"made under torch\.inference_mode\(\)"):
        diagonal_fisher(model, [(x[:, 0].float(), y)], progress=False)


def test_what_all_images_share_is_not_cut_where_the_last_batch_is_as_short() -> None:
    scale = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    model = built(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)))
    x, y = images(40, 4)
    found = diagonal_fisher(
        model, [(x[:37], y[:37], scale), (x[37:], y[37:], scale)],
        forward=lambda m, batch: (m(batch[0]) * batch[2], batch[1]), progress=False,
    )  # fmt: skip
    scaled = Wired(lambda m, x: m.model(x) * scale, model=model)
    expected = oracles.fisher(scaled, x, y.tolist(), "exact")
    oracles.assert_close(found, {name.removeprefix("model."): f for name, f in expected.items()}, 1e-10)


def test_long_sums_in_single_precision_keep_their_digits() -> None:
    """Equal images one by one, for there is no vmap of recurrent layers, and batches that cannot be joined."""
    model = Wired(lambda m, x: m.head(m.body(x)[0][:, -1]), body=nn.GRU(2, 3, batch_first=True), head=nn.Linear(3, 2))
    torch.manual_seed(0)
    x = torch.randn(1, 3, 2)
    y = torch.zeros(1500, dtype=torch.int64)
    expected = oracles.fisher(copy.deepcopy(model).double(), x.double(), [0], "empirical")
    found = diagonal_fisher(model, [(x.repeat(1500, 1, 1), y)], "empirical", progress=False)
    oracles.assert_close(found, expected, 1e-5)
    linear = nn.Linear(2, 2)
    batches = [(x[:, k % 2, :], y[:1], k % 2) for k in range(3000)]
    found = diagonal_fisher(linear, batches, "empirical", forward=lambda m, b: (m(b[0]), b[1]), progress=False)
    expected = oracles.fisher(copy.deepcopy(linear).double(), x[0, :2].double(), [0, 0], "empirical")
    oracles.assert_close(found, expected, 1e-6)


def test_names_of_files_do_not_make_each_batch_a_kind_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    proofs: list[int] = []
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **options: proofs.append(1) or real(*args, **options))
    model = built(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)))
    x, y = images(40, 4)
    counts = []
    for name in ("same", "{}"):
        proofs.clear()
        batches = [
            {"x": x[k : k + 4], "y": y[k : k + 4], "file": name.format(k)} for k in range(0, 40, 4)
        ]  # fmt: skip
        diagonal_fisher(model, batches, forward=lambda m, b: (m(b["x"]), b["y"]), progress=False)
        counts.append(len(proofs))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("measure", [diagonal_fisher, kronecker_fisher])
def test_an_embedding_that_is_not_called(measure: Any) -> None:
    """As T5's `shared`, whose weight others hold, and DeBERTa's relative positions, which are read off the weight."""
    x, y = tokens(16)
    model = built(
        lambda: Wired(
            lambda m, x: m.head((m.words(x) + m.places.weight[: x.shape[1]]).tanh().flatten(1)),
            shared=nn.Embedding(20, 4), words=nn.Embedding(20, 4), places=nn.Embedding(9, 4), idle=nn.Embedding(3, 2),
            head=nn.Linear(20, CLASSES),
        )
    )  # fmt: skip
    model.words.weight = model.shared.weight
    found = measure(model, [(x, y)], progress=False)
    expected = oracles.fisher(copy.deepcopy(model), x, y.tolist(), "exact")
    if measure is kronecker_fisher:
        assert list(found.factors) == ["head"]
        found, expected = found.diagonal, {name: f for name, f in expected.items() if "head" not in name}
    oracles.assert_close(found, expected, 1e-10)


class Stretching(nn.Module):
    """Frequencies that are made anew for the longest input so far, as those of dynamic rotary embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequency", torch.ones(()), persistent=False)
        self.longest = 4

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > self.longest:
            self.longest = x.shape[1]
            self.register_buffer("frequency", 4 / torch.tensor(x.shape[1]).to(x), persistent=False)
        return (x * self.frequency).sin()


def test_what_a_buffer_was_made_for_goes_back_with_it() -> None:
    model = built(lambda: nn.Sequential(Stretching(), nn.Linear(8, CLASSES)))
    x, y = images(16, 8)
    untouched = copy.deepcopy(model)
    for _ in range(2):
        right(model, x, y)
    assert (model[0].longest, float(model[0].frequency)) == (4, 1)
    assert torch.equal(model(x), untouched(x))


def contrastive(m: Any, batch: Any) -> tuple[Tensor, Tensor]:
    return m["a"](batch[0]) @ m["b"](batch[0]).T, torch.arange(len(batch[0]))


def trimmed(m: Any, batch: Any) -> tuple[Tensor, Tensor]:
    longest = int((batch[0] > 0).sum(1).max())
    return m["head"](m["words"](batch[0][:, :longest])), batch[0][:, :longest] % CLASSES


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
@pytest.mark.parametrize("forward", [contrastive, trimmed])
def test_logits_whose_number_depends_on_the_batch(forward: Any, estimator: Any) -> None:
    """A loss between all images of a batch, and padding that is taken off up to the longest of them."""
    x, _ = images(8, 4)
    if forward is trimmed:
        x, _ = tokens(8)
        x[1:, 3:] = 0
    model = built(
        lambda: nn.ModuleDict(
            {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "words": nn.Embedding(20, 4), "head": nn.Linear(4, CLASSES)}
        )
    )
    with pytest.raises(ValueError, match=r"logits of shape .* among fewer images.*padding"):
        diagonal_fisher(model, [(x,)], estimator, forward=lambda m, batch: forward(m, batch), progress=False)


def test_what_to_do_with_other_mappings_and_other_outputs() -> None:
    """As those of Hugging Face's collators and models."""
    x, y = images(8, 4)
    model = built(lambda: Wired(lambda m, x: SimpleNamespace(logits=m.head(x)), head=nn.Linear(4, CLASSES)))
    batch = UserDict(x=x, y=y)
    with pytest.raises(TypeError, match=r"got UserDict: give \(dict\(batch\) for batch in loader\)"):
        diagonal_fisher(model, [batch], forward=lambda m, b: (m(b["x"]).logits, b["y"]), progress=False)
    with pytest.raises(ValueError, match=r"got SimpleNamespace: take its \.logits, in forward"):
        diagonal_fisher(model, [(x, y)], progress=False)
    found = diagonal_fisher(
        model, (dict(b) for b in [batch]), forward=lambda m, b: (m(b["x"]).logits, b["y"]), progress=False
    )
    expected = oracles.fisher(model.head, x, y.tolist(), "exact")
    oracles.assert_close(found, {f"head.{name}": f for name, f in expected.items()}, 1e-10)


@pytest.mark.filterwarnings("ignore:torch.func.vmap cannot")
@pytest.mark.parametrize("last", [0.0, 1.0])
@pytest.mark.parametrize("estimator", ["exact", "empirical"])
def test_images_that_use_frozen_weights_alone(estimator: Any, last: float) -> None:
    """As rows of a batch that name the adapter they take, or none."""

    def run(m: Any, x: Tensor) -> Tensor:
        rows = [m.head(m.a(row[None]).tanh() if row[0] > 0 else row[None].tanh()) for row in x]
        return torch.cat(rows)

    def make() -> nn.Module:
        model = Wired(run, a=nn.Linear(4, 4), head=nn.Linear(4, CLASSES))
        model.head.requires_grad_(False)
        return model

    model = built(make)
    x, y = images(24, 4)
    x[1::2, 0], x[::2, 0], x[-1, 0] = 1, -1, last
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    some = x[:, 0] > 0
    for name, f in oracles.fisher(copy.deepcopy(model), x[some], y[some].tolist(), estimator).items():
        expected[name] = f * some.sum() / len(x)
    oracles.assert_close(diagonal_fisher(model, [(x, y)], estimator, progress=False), expected, 1e-10)


class WithToken(nn.Module):
    """A parameter that the pass at hand does not use, beside batch norm whose statistics are not those of the data."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, CLASSES)
        self.token, self.answer, self.dropout = nn.Parameter(torch.zeros(4)), answer, nn.Dropout()

    def forward(self, x: Tensor) -> Any:
        logits = self.head(self.dropout(self.norm(self.body(x)).tanh()))
        return self.answer(logits) if self.training else logits


@pytest.mark.parametrize("answer", [lambda z: z, lambda z: (z, z), lambda z: {"logits": z}], ids=["z", "tuple", "dict"])
def test_the_look_at_train_mode_leaves_no_trace(answer: Any) -> None:
    """It once moved the statistics of batch norm inside the owner of an unused parameter, and drew random numbers."""
    x, y = images(32, 4)
    model, numbers = built(lambda: WithToken(answer)), torch.get_rng_state()
    right(model, x, y)
    assert torch.equal(torch.get_rng_state(), numbers)


def test_the_proof_of_vmap_stacks_no_vectors() -> None:
    """With a thousand classes they would be a thousand times the logits."""
    model = built(
        lambda: Wired(lambda m, x: m.scale * m.head(x), head=nn.Linear(4, 60), scale=nn.Parameter(torch.ones(())))
    )
    x, y = images(40, 4)
    with oracles.Watch() as watch:
        diagonal_fisher(model, [(x, y)], progress=False)
    assert watch.largest < 10 * 40 * 60


def changed(name: str, **settings: Any) -> Callable[[], nn.Module]:
    """A small model, of which attributes of one layer are set by hand."""

    def build() -> nn.Module:
        first = nn.Embedding(20, 6) if name == "words" else nn.Conv2d(1, 2, 3)
        middle = nn.Flatten(0, 0) if name == "words" else nn.AdaptiveAvgPool2d(1)
        model = Wired(
            lambda m, x: m.head(m.middle(m.first(x)).flatten(1).tanh()), first=first, middle=middle,
            head=nn.Linear(30 if name == "words" else 2, CLASSES),
        )  # fmt: skip
        for key, value in settings.items():
            setattr(model.head if name == "head" else model.first, key, value)
        return model

    return build


@pytest.mark.parametrize(
    "build",
    [
        changed("head", weight=nn.Parameter(torch.randn(4, 2)), bias=nn.Parameter(torch.randn(4))),
        changed("head", weight=nn.Parameter(torch.randn(6, 2)), bias=nn.Parameter(torch.randn(6))),
        changed("words", weight=nn.Parameter(torch.randn(30, 6)), embedding_dim=3, num_embeddings=2),
        changed("convolution", weight=nn.Parameter(torch.randn(2, 1, 2, 2)), out_channels=7),
        changed("convolution", stride=2),
        changed("convolution", stride=(2,), padding=1, dilation=(1,)),
    ],
    ids=["4 classes of 3", "6 classes of 3", "words", "kernel", "stride", "one number for all"],
)
def test_a_weight_that_was_replaced_by_hand_has_the_shape_that_it_has(build: Any) -> None:
    """As where a head grows, and `out_features` is not told; PyTorch itself looks at the weight alone."""
    model = built(build)
    x, y = tokens(16) if isinstance(model.first, nn.Embedding) else images(16, 1, 6, 6)
    right(model, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kronecker_fisher(model, [(x, y)], progress=False)


def test_long_sums_of_factors_in_single_precision_keep_their_digits() -> None:
    """A million places of a small convolution; and many batches that cannot be joined."""
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AvgPool2d(28), nn.Flatten(), nn.Linear(2, 2))
    x, y = torch.rand(1, 1, 30, 30).repeat(1024, 1, 1, 1), torch.zeros(1024, dtype=torch.int64)
    linear, rows = nn.Linear(2, 2), torch.randn(1, 2)
    for model, batches in ((small, [(x, y)]), (linear, [(rows, y[:1], k % 2) for k in range(2000)])):
        one = batches[0][0][:1].double(), y[:1]
        expected = kronecker_fisher(copy.deepcopy(model).double(), [one], "empirical", progress=False).factors
        found = kronecker_fisher(
            model, batches, "empirical", forward=lambda m, b: (m(b[0]), b[1]), progress=False
        ).factors
        for name, (a, g, _) in expected.items():
            oracles.assert_close({"A": found[name].a, "G": found[name].g}, {"A": a, "G": g}, 1e-5)


def test_a_sequence_without_a_label_is_no_sample_of_any_layer() -> None:
    """Nor of a layer that sees it as a whole; whatever batch it comes in."""
    model = built(
        lambda: Wired(
            lambda m, x: m.head((m.words(x) + m.context(x.mean(1))[:, None]).tanh()),
            words=nn.Linear(4, 5), context=nn.Linear(4, 5), head=nn.Linear(5, CLASSES),
        )
    )  # fmt: skip
    x, _ = images(6, 3, 4)
    y = torch.randint(CLASSES, (6, 3)).index_fill_(0, torch.arange(3, 6), -100)
    y[0, 1] = -100
    found, expected = (kronecker_fisher(model, [(x[:n], y[:n])], "empirical", progress=False) for n in (6, 3))
    for name, (a, g, _) in expected.factors.items():
        oracles.assert_close({"A": found.factors[name].a, "G": found.factors[name].g}, {"A": a, "G": g}, 1e-12)


def test_an_embedding_that_nobody_calls() -> None:
    x, y = images(16, 4)
    right(built(lambda: Wired(lambda m, x: m.head(x), head=nn.Linear(4, CLASSES), words=nn.Embedding(5, 3))), x, y)


def test_functional_call_inside_forward() -> None:
    """The layer is the model's, its weight is not: it is masked, which one image alone can show."""

    def masked(m: Any, x: Tensor) -> Tensor:
        mask = torch.tensor([0.0, 1, 1, 1], dtype=x.dtype)
        return m.head(torch.func.functional_call(m.a, {"weight": m.a.weight * mask}, (x,)).tanh())

    x, y = images(32, 4)
    x[:, 0] = 0
    x[5, 0] = 2
    right(built(lambda: Wired(masked, a=nn.Linear(4, 4), head=nn.Linear(4, CLASSES))), x, y)


@pytest.mark.parametrize("length", [1, 3])
def test_vmap_inside_forward(length: int) -> None:
    """What the layers see there must not be looked at afterwards."""
    x, y = images(16, length, 4)
    run: Any = lambda m, x: m.head(torch.func.vmap(m.a)(x).tanh().mean(1))  # noqa: E731
    right(built(lambda: Wired(run, a=nn.Linear(4, 5), head=nn.Linear(5, CLASSES))), x, y)


@pytest.mark.filterwarnings("ignore:the closed form of b.weight, b.bias differs from autograd")
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_proof_sees_a_layer_that_one_output_uses(likelihood: Any) -> None:
    """Its rows are the tokens, of which there are as many as images."""

    def heads(m: Any, x: Tensor) -> Tensor:
        return torch.cat((m.first(x.mean(1)), m.second(m.b(x.transpose(0, 1)).tanh().mean(0)) - 3), 1)

    parts = {"first": (4, 1), "second": (4, 1), "b": (4, 4)}
    model = built(lambda: Wired(heads, **{name: nn.Linear(*sizes) for name, sizes in parts.items()}))
    x, _ = images(5, 5, 4)
    found = diagonal_fisher(model, [(x, x[:, 0, :2])], likelihood=likelihood, progress=False)
    loop = [
        diagonal_fisher(model, [(x[n : n + 1], x[n : n + 1, 0, :2])], likelihood=likelihood, progress=False)
        for n in range(5)
    ]
    expected = {name: torch.stack([each[name] for each in loop]).mean(0) for name in found}
    oracles.assert_close(found, expected, 1e-10)


class NoneForItsInput(torch.autograd.Function):
    """x ⊙ w, as a kernel that was made for a model's first layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[None, Tensor]:
        assert not ctx.needs_input_grad[0]
        return None, (g * ctx.saved_tensors[0]).sum(0)


@pytest.mark.filterwarnings("ignore:torch.func.vmap cannot")
@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.head(torch.special.gammainc(x.abs() + 1, m.w.exp().expand_as(x))),
        lambda m, x: m.head(NoneForItsInput.apply(x, m.w)),
    ],
    ids=["not implemented", "asserted"],
)
def test_an_operation_without_a_derivative_for_its_input(run: Any) -> None:
    x, y = images(16, 4)
    right(built(lambda: Wired(run, w=nn.Parameter(torch.randn(4)), head=nn.Linear(4, CLASSES))), x, y)


def test_buffers_that_grow_in_forward_are_put_back_and_hide_no_error() -> None:
    """As those of the observers that prepare a quantisation."""

    def run(m: Any, x: Tensor) -> Tensor:
        m.seen.resize_(len(m.seen) + 1).fill_(1)
        return m.head(x) * m.seen.sum()

    model = built(lambda: Wired(run, head=nn.Linear(4, CLASSES)))
    model.register_buffer("seen", torch.empty(0, dtype=torch.float64))
    x, y = images(16, 4)
    with pytest.raises(ValueError, match="change from call to call"):
        diagonal_fisher(model, [(x, y)], progress=False)
    assert model.seen.shape == (0,)


def test_state_that_drifts_a_little_with_each_call() -> None:
    """Too little for the images of one batch to differ."""

    def run(m: Any, x: Tensor) -> Tensor:
        m.calls = m.calls + 1
        return m.head(x) * (1 + 1e-5 * m.calls)

    torch.manual_seed(0)
    model = Wired(run, head=nn.Linear(4, CLASSES))
    model.calls = 0
    x, y = images(8, 4)
    batches = [(x.float(), y, k) for k in range(100)]
    with pytest.raises(ValueError, match=r"no longer what they were: forward changes .* state that it keeps"):
        diagonal_fisher(model, batches, forward=lambda m, batch: (m(batch[0]), batch[1]), progress=False)


def test_a_hook_on_a_weight_that_forward_makes() -> None:
    """Whichever image has the token that it masks."""

    def run(m: Any, x: Tensor) -> Tensor:
        if m.mask is None:
            m.mask = torch.ones(20, 1, dtype=torch.float64).index_fill_(0, torch.tensor(0), 0)
            m.words.weight.register_hook(lambda g: g * m.mask)
        return m.head(m.words(x).flatten(1).tanh())

    x, y = tokens(64)
    x[20, 2] = 0
    model = built(lambda: Wired(run, words=nn.Embedding(20, 4), head=nn.Linear(20, CLASSES)))
    model.mask = None
    found = diagonal_fisher(model, [(x, y)], progress=False)
    oracles.assert_close(found, oracles.fisher(model, x, y.tolist(), "exact"), 1e-10)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_a_normalisation_that_only_shifts(norm: Any) -> None:
    model = built(lambda: nn.Sequential(nn.Linear(4, 5), norm(5), nn.Tanh(), nn.Linear(5, CLASSES)))
    model[1].weight = None
    right(model, *images(16, 4))


def test_a_loader_that_tells_the_model_which_task_comes() -> None:
    """Its batches are small, and would be joined: all of them would be measured in the last task."""
    x, y = images(32, 4)
    heads = built(
        lambda: Wired(
            lambda m, x: getattr(m, f"task{m.task}")(x), **{f"task{k}": nn.Linear(4, CLASSES) for k in (0, 1)}
        )
    )

    def loader(tasks: int) -> Iterator[tuple[Tensor, Tensor]]:
        for k in range(tasks):
            heads.task = k
            yield x[16 * k : 16 * k + 16], y[16 * k : 16 * k + 16]
        heads.task = 1

    for tasks in (2, 1):
        with pytest.raises(ValueError, match=r"the loader changes the model .* number of the task, into the batch"):
            diagonal_fisher(heads, loader(tasks), progress=False)
    heads.task = 0
    for p in heads.parameters():
        for _ in range(1000):  # as training does
            p.data.mul_(1)
            p.detach().mul_(1)
    found = diagonal_fisher(heads, list(zip(x.split(4), y.split(4), strict=True)), progress=False)
    oracles.assert_close(found, diagonal_fisher(heads, [(x, y)], progress=False), 1e-10)


def test_batch_norm_that_finds_nothing_to_normalise_by_in_one_image() -> None:
    x, y = images(16, 4)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, CLASSES)).double()
    with pytest.raises(ValueError, match="depend on the other images"):
        diagonal_fisher(model, [(x, y)], progress=False)


class Halving(nn.Linear):
    """Weights that the first pass in `eval()` halves, and the first in `train()` doubles, as those of RWKV's layers."""

    def __init__(self, data: bool) -> None:
        super().__init__(4, CLASSES)
        self.data, self.halved = data, False

    def forward(self, x: Tensor) -> Tensor:
        if self.halved == self.training:
            with torch.no_grad():
                (self.weight.data if self.data else self.weight).mul_(2 if self.halved else 0.5)
            self.halved = not self.halved
        return super().forward(2 * x if self.halved else x)


@pytest.mark.parametrize("data", [False, True])
def test_weights_that_differ_between_train_and_eval_have_no_f(data: bool) -> None:
    """And what the model notes of them stays with them."""
    model = built(lambda: Halving(data)).train()
    x, y = images(16, 4)
    expected = model(x)
    for _ in range(2):
        with pytest.raises(ValueError, match="its weights differ between train"):
            diagonal_fisher(model, [(x, y)], progress=False)
        assert torch.equal(model(x), expected)


class Switching(nn.Module):
    """It exchanges a part of itself and adds a hook, once, and notes both: as BigBird for short texts, and Whisper."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.hooked = nn.Sequential(nn.Linear(4, 4)), "long", False
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "long" and len(x) > 3:
            self.body, self.kind = nn.Sequential(self.body[0], nn.Tanh()), "short"
        if not self.hooked:
            self.body[0].register_forward_hook(lambda _, args, z: 2 * z)
            self.hooked = True
        if len(x) > 3 and self.kind != "short":
            raise RuntimeError("these do not go together")
        self.seen.append(len(x))
        self.last = len(x)
        return self.body(x)


def test_parts_and_hooks_that_forward_exchanges_go_back() -> None:
    model = built(lambda: nn.Sequential(Switching(), nn.Linear(4, CLASSES)))
    x, y = images(16, 4)
    body, untouched = model[0].body, copy.deepcopy(model)
    for _ in range(2):
        diagonal_fisher(model, [(x, y)], progress=False)
        assert (model[0].body, model[0].kind, model[0].hooked, model[0].seen) == (body, "long", False, [])
        assert not hasattr(model[0], "last")
        assert not body[0]._forward_hooks
    assert torch.equal(model(x), untouched(x))


class Idle(nn.Sequential):
    """With a parameter that it does not use."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(*parts)
        self.idle = nn.Parameter(torch.zeros(2))


def test_the_look_at_train_mode_draws_no_random_numbers() -> None:
    """Dropout is on in it."""
    model = built(lambda: nn.Sequential(Idle(nn.Linear(4, 5), nn.Dropout(0.5)), nn.Linear(5, CLASSES)))
    before = torch.get_rng_state()
    right(model, *images(16, 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_so_small_that_they_lack_digits_are_not_called_bent() -> None:
    """As those of the first layers of MobileViT before it has learned anything."""
    torch.manual_seed(0)
    model = Wired(
        lambda m, x: m.head(m.b(2e-43 * m.a(x).tanh()).tanh() + x),
        a=nn.Linear(4, 4), b=nn.Linear(4, 4), head=nn.Linear(4, CLASSES),
    )  # fmt: skip
    x, y = images(32, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diagonal_fisher(model, [(x.float(), y)], progress=False)
    expected = oracles.fisher(copy.deepcopy(model).double(), x.float().double(), y.tolist(), "exact")
    for name in ("a.weight", "a.bias", "b.weight"):
        assert not found.pop(name).any()
    oracles.assert_close(found, {name: expected[name] for name in found}, 1e-5)


class MergingForEval(nn.Linear):
    """A frozen adapter that `eval()` adds to its frozen weight, and `train()` takes off again."""

    def train(self, mode: bool = True) -> nn.Linear:
        if mode != self.training:
            self.weight.data.add_(-0.5 if mode else 0.5)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight + 0.5 if self.training else self.weight, self.bias)


def test_frozen_adapters_may_merge_for_eval() -> None:
    """The other weights are those that are trained: nothing is written while they are measured."""
    model = built(lambda: nn.Sequential(MergingForEval(4, 5).requires_grad_(False), nn.Linear(5, CLASSES))).train()
    before = copy.deepcopy(model.state_dict())
    x, y = images(16, 4)
    right(model, x, y)
    assert all(torch.allclose(value, before[name], atol=1e-12) for name, value in model.state_dict().items())
