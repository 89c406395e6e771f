"""The Fisher diagonal against loops over single images, against curvature, and on networks that invite mistakes."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import oracles
import pytest
import torch
from oracles import assert_close
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset

import contlearn.per_image
import contlearn.sweep
from contlearn import diagonal_fisher, kronecker_fisher
from contlearn.layers import agrees, candidates
from contlearn.likelihoods import categorical

CLASSES = 4
ESTIMATORS = ["exact", "sample", "empirical", "predicted"]
# Some models below look as if a layer had a closed form; that this is found out, and said, is tested once.
pytestmark = pytest.mark.filterwarnings("ignore:the closed form of .* differs from autograd")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

fisher_of = partial(diagonal_fisher, progress=False)


class Wired(nn.Module):
    """A network from its parts and a function `wiring(parts, x)`, in which each part is an attribute."""

    def __init__(self, wiring: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.wiring = wiring
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


@dataclass(frozen=True)
class Case:
    """A network, and the shape of one image for it; with a vocabulary, an image is a row of token numbers."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    vocabulary: int = 0
    images: int = 5

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The same weights whatever the dtype, in training mode, with running statistics that are not 0 and 1."""
        torch.manual_seed(1)
        model = self.build()
        for name, statistics in model.named_buffers():
            if name.endswith("running_mean"):
                statistics.normal_()
            elif name.endswith("running_var"):
                statistics.uniform_(0.5, 2)
        return model.to(dtype).train()

    def data(self, dtype: torch.dtype = torch.float32, images: int | None = None) -> tuple[Tensor, Tensor]:
        """Random images and labels that are not all what the network predicts; the same whatever the dtype."""
        torch.manual_seed(2)
        n = images or self.images
        x = torch.randint(self.vocabulary, (n, *self.shape)) if self.vocabulary else torch.randn(n, *self.shape)
        return (x if self.vocabulary else x.to(dtype)), torch.randint(CLASSES, (n,))

    @cache  # noqa: B019
    def oracle(self, estimator: str, labels: tuple[int, ...] | None = None) -> dict[str, Tensor]:
        x, y = self.data(torch.float64)
        return oracles.fisher(self.model(torch.float64), x, y.tolist() if labels is None else labels, estimator)


def classifier(*body: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, CLASSES))


def tied_weights() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, CLASSES))
    model[2].weight = model[0].weight
    return model


def tied_embedding() -> nn.Module:
    """The embedding of the four tokens is also the weight of the last layer, as in language models."""
    model = Wired(lambda m, x: m.head(m.embed(x).tanh().mean(1)), embed=nn.Embedding(4, 5), head=nn.Linear(5, 4))
    model.head.weight = model.embed.weight
    return model


def registered_twice() -> nn.Module:
    layer = nn.Linear(5, 5)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(5, CLASSES))


class WithLowRank(nn.Linear):
    """A layer with parameters of its own beside weight and bias, as adapters have."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


class Doubled(nn.Linear):
    """A subclass whose output is not W x + b."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, CLASSES))
    prune.l1_unstructured(model[0], "weight", amount=0.4)
    return model


def recurrent(kind: type[nn.Module], batch_first: bool = True) -> nn.Module:
    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        states = m.body(x if batch_first else x.transpose(0, 1))[0]
        return m.head(states[:, -1] if batch_first else states[-1])

    return Wired(wiring, body=kind(4, 5, batch_first=batch_first), head=nn.Linear(5, CLASSES))


def transformer(batch_first: bool) -> nn.Module:
    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        if batch_first:
            return m.head(m.body(x).mean(1))
        return m.head(m.body(x.transpose(0, 1)).mean(0))

    return Wired(wiring, body=nn.TransformerEncoderLayer(4, 2, 6, batch_first=batch_first), head=nn.Linear(4, CLASSES))


def sequence_first() -> nn.Module:
    """Its layer sees (T, N, d): images along the second dimension."""
    return Wired(
        lambda m, x: m.head(m.body(x.transpose(0, 1)).tanh().sum(0)), body=nn.Linear(4, 5), head=nn.Linear(5, CLASSES)
    )


def first_token_only() -> nn.Module:
    """Sequence-first, and only the first token counts."""
    return Wired(
        lambda m, x: m.head(m.body(x.transpose(0, 1)).tanh()[0]), body=nn.Linear(4, 5), head=nn.Linear(5, CLASSES)
    )


def step_by_step() -> nn.Module:
    """A recurrent network written by hand: its linear layer is called once a token."""

    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            state = m.cell(torch.cat([x[:, t], state], 1)).tanh()
        return m.head(state)

    return Wired(wiring, cell=nn.Linear(8, 4), head=nn.Linear(4, CLASSES))


def tokens_as_batch() -> nn.Module:
    """Its layer sees (N·T, d): tokens and images in one dimension."""

    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        return m.head(m.body(x.flatten(0, 1)).tanh().unflatten(0, x.shape[:2]).sum(1))

    return Wired(wiring, body=nn.Linear(4, 5), head=nn.Linear(5, CLASSES))


def learned_query() -> nn.Module:
    """Its projection sees one learned row, shared by all images."""
    return Wired(
        lambda m, x: m.head((m.body(x) + m.project(m.query)).tanh()),
        body=nn.Linear(4, 5), project=nn.Linear(3, 5), head=nn.Linear(5, CLASSES), query=nn.Parameter(torch.ones(1, 3)),
    )  # fmt: skip


def middle_class_apart() -> nn.Module:
    """The middle one of five classes has a layer of its own, whose weight is also used behind the layer's back."""
    return Wired(
        lambda m, x: torch.cat([m.left(x), m.middle(x) ** 2 + x @ m.middle.weight.T, m.right(x)], 1),
        left=nn.Linear(4, 2), middle=nn.Linear(4, 1), right=nn.Linear(4, 2),
    )  # fmt: skip


CLOSED_FORM = {
    "linear": Case(lambda: nn.Linear(5, CLASSES), (5,)),
    "mlp": Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, CLASSES)), (2, 3)),
    "no bias": Case(lambda: nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, CLASSES)), (5,)),
    "in-place relu": Case(
        lambda: classifier(
            nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(inplace=True), features=5
        ),
        (1, 4, 4),
    ),
    "in-place relu of tokens": Case(lambda: classifier(nn.Linear(3, 2), nn.ReLU(inplace=True), features=10), (5, 3)),
    "tokens": Case(lambda: classifier(nn.Linear(3, 2), nn.Tanh(), features=10), (5, 3)),
    "embedding with padding": Case(
        lambda: classifier(nn.Embedding(4, 3, padding_idx=2), nn.Tanh(), features=15), (5,), vocabulary=4
    ),
    "tokens in two dimensions": Case(lambda: classifier(nn.Linear(3, 2), nn.Tanh(), features=12), (2, 3, 3)),
    "few wide tokens": Case(lambda: classifier(nn.Linear(20, 20), nn.Tanh(), features=40), (2, 20)),
    "conv2d": Case(lambda: classifier(nn.Conv2d(2, 3, 3), nn.Tanh(), features=12), (2, 4, 4)),
    "conv2d, everything": Case(
        lambda: classifier(
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2), nn.Tanh(), features=96
        ),
        (4, 5, 4),
    ),
    "conv2d, depthwise": Case(lambda: classifier(nn.Conv2d(3, 6, 2, groups=3), nn.Tanh(), features=24), (3, 3, 3)),
    "conv2d, one patch": Case(lambda: classifier(nn.Conv2d(2, 6, 3, groups=2), nn.Tanh(), features=6), (2, 3, 3)),
    "conv1d": Case(
        lambda: classifier(nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), nn.Tanh(), features=24),
        (4, 7),
    ),
    "log-softmax": Case(lambda: nn.Sequential(nn.Linear(5, CLASSES), nn.LogSoftmax(1)), (5,)),
}

FALLBACK = {
    "conv2d, padding='same'": Case(
        lambda: classifier(nn.Conv2d(1, 2, 3, padding="same"), nn.Tanh(), features=32), (1, 4, 4)
    ),
    "conv2d, reflected": Case(
        lambda: classifier(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Tanh(), features=32), (1, 4, 4)
    ),
    "conv1d, circular": Case(
        lambda: classifier(nn.Conv1d(1, 2, 3, padding=1, padding_mode="circular"), nn.Tanh(), features=10), (1, 5)
    ),
    "conv3d": Case(lambda: classifier(nn.Conv3d(1, 2, 2, stride=2, padding=1), nn.Tanh(), features=16), (1, 3, 3, 3)),
    "transposed conv2d": Case(lambda: classifier(nn.ConvTranspose2d(1, 2, 2), nn.Tanh(), features=18), (1, 2, 2)),
    "batch norm": Case(
        lambda: classifier(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(), features=6), (5,)
    ),
    "batch norm of a convolution": Case(
        lambda: classifier(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), features=12), (1, 4, 4)
    ),
    "layer norm": Case(lambda: classifier(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), features=6), (5,)),
    "group norm": Case(lambda: classifier(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), features=16), (1, 4, 4)),
    "embedding": Case(
        lambda: classifier(nn.Embedding(6, 3), nn.Linear(3, 2), nn.Tanh(), features=10), (5,), vocabulary=6
    ),
    "tied weights": Case(tied_weights, (5,)),
    "tied embedding": Case(tied_embedding, (5,), vocabulary=4),
    "module registered twice": Case(registered_twice, (5,)),
    "module called twice": Case(
        lambda: Wired(lambda m, x: m.head(m.body(m.body(x).tanh())), body=nn.Linear(5, 5), head=nn.Linear(5, CLASSES)),
        (5,),
    ),
    "weight used elsewhere": Case(
        lambda: Wired(
            lambda m, x: m.head(m.body(x).tanh() + x @ m.body.weight.T),
            body=nn.Linear(5, 6),
            head=nn.Linear(6, CLASSES),
        ),
        (5,),
    ),
    "bias used elsewhere": Case(
        lambda: Wired(
            lambda m, x: m.head((m.body(x) * m.body.bias).tanh()), body=nn.Linear(5, 6), head=nn.Linear(6, CLASSES)
        ),
        (5,),
    ),
    "parameter of the model itself": Case(
        lambda: Wired(lambda m, x: m.head(x * m.scale), head=nn.Linear(5, CLASSES), scale=nn.Parameter(torch.ones(5))),
        (5,),
    ),
    "unused layer": Case(
        lambda: Wired(lambda m, x: m.head(x), head=nn.Linear(5, CLASSES), unused=nn.Linear(2, 2)), (5,)
    ),
    "subclass with more parameters": Case(lambda: classifier(WithLowRank(5, 6), nn.Tanh(), features=6), (5,)),
    "subclass that doubles": Case(lambda: classifier(Doubled(5, 6), nn.Tanh(), features=6), (5,)),
    "input by keyword": Case(lambda: Wired(lambda m, x: m.head(input=x), head=nn.Linear(5, CLASSES)), (5,)),
    "weight norm": Case(lambda: classifier(weight_norm(nn.Linear(5, 6)), nn.Tanh(), features=6), (5,)),
    "pruned": Case(pruned, (5,)),
    "sequence first": Case(sequence_first, (5, 4)),
    "sequence first, three tokens": Case(sequence_first, (3, 4)),
    "sequence first, three tokens, three images": Case(sequence_first, (3, 4), images=3),
    "sequence first, one image": Case(sequence_first, (3, 4), images=1),
    "first of three tokens, three images": Case(first_token_only, (3, 4), images=3),
    "step by step": Case(step_by_step, (3, 4)),
    "tokens as batch": Case(tokens_as_batch, (3, 4)),
    "learned query": Case(learned_query, (4,)),
    "middle class apart": Case(middle_class_apart, (4,)),
    "transformer": Case(partial(transformer, True), (3, 4)),
    "transformer, sequence first": Case(partial(transformer, False), (3, 4)),
    "gru": Case(partial(recurrent, nn.GRU), (3, 4)),
    "gru, sequence first": Case(partial(recurrent, nn.GRU, False), (3, 4)),
    "lstm": Case(partial(recurrent, nn.LSTM), (3, 4)),
}

CASES = CLOSED_FORM | FALLBACK


def every(cases: dict[str, Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("estimator", ["exact", "empirical", "predicted"])
@every(CASES)
def test_equals_a_loop_over_single_images(case: Case, estimator: str, dtype: torch.dtype) -> None:
    found = fisher_of(case.model(dtype), [case.data(dtype)], estimator)
    assert {f.dtype for f in found.values()} == {dtype}
    assert_close(found, case.oracle(estimator), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@every(CASES)
def test_sample_equals_a_loop_over_single_images_with_the_labels_it_draws(case: Case, dtype: torch.dtype) -> None:
    with torch.no_grad():
        p = case.model(dtype).eval()(case.data(dtype)[0]).softmax(1)
    drawn = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(3))
    found = fisher_of(case.model(dtype), [case.data(dtype)], "sample", generator=torch.Generator().manual_seed(3))
    assert_close(found, case.oracle("sample", tuple(drawn[:, 0].tolist())), TOLERANCE[dtype])


def test_the_labels_of_the_estimators_differ_in_these_tests() -> None:
    """Otherwise one estimator could stand in for another and no test above would notice."""
    case = CASES["mlp"]
    found = [fisher_of(case.model(), [case.data()], e, generator=torch.Generator().manual_seed(3)) for e in ESTIMATORS]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert not torch.allclose(one["3.weight"], other["3.weight"], rtol=0.01)


def test_sample_is_reproduced_by_its_generator_and_by_nothing_else() -> None:
    case = CASES["mlp"]

    def drawn(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return fisher_of(case.model(), [case.data()], "sample", generator=generator)["3.weight"]

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_sample_converges_to_exact() -> None:
    """Its draws come from p: 3000 of them for each image leave an error of a few per cent."""
    case = CASES["mlp"]
    draws = fisher_of(case.model(), [case.data()] * 3000, "sample", generator=torch.Generator().manual_seed(0))
    assert_close(draws, case.oracle("exact"), 0.05)


@every(CLOSED_FORM)
def test_closed_form_is_taken(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain linear and convolutional networks never go the slow way, image by image."""
    monkeypatch.setattr("contlearn.sweep.batched", None)
    monkeypatch.setattr("contlearn.sweep.one_at_a_time", None)
    fisher_of(case.model(), [case.data()])


def test_softmax_regression_by_hand() -> None:
    """For z = W x, F of W_ci is the mean of p_c (1 − p_c) x_i²; with W = 0 and four classes, 3/16 x_i²."""
    model = nn.Linear(2, 4)
    for p in model.parameters():
        nn.init.zeros_(p)
    found = fisher_of(model, [(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1]))])
    assert found["weight"].flatten().tolist() == pytest.approx([3 / 16 * 5, 3 / 16 * 2] * 4)
    assert found["bias"].tolist() == pytest.approx([3 / 16] * 4)


# Curvature: what F means, with no square of a gradient in sight


def smooth_mlp() -> Case:
    return Case(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, CLASSES)), (3,))


def flat(fisher: dict[str, Tensor]) -> Tensor:
    return torch.cat([f.flatten() for f in fisher.values()])


def logits_at(model: nn.Module, theta: Tensor, images: Tensor) -> Tensor:
    """The model's logits with all its parameters replaced by the one vector θ."""
    parameters = dict(model.named_parameters())
    parts = theta.split([p.numel() for p in parameters.values()])
    values = {name: part.view_as(p) for (name, p), part in zip(parameters.items(), parts, strict=True)}
    return functional_call(model, values, (images,))


def theta_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_exact_is_the_diagonal_of_the_gauss_newton_matrix() -> None:
    """Jᵀ (diag p − p pᵀ) J, with the whole Jacobian J of the logits, averaged over the images."""
    case = smooth_mlp()
    model, (images, labels) = case.model(torch.float64), case.data(torch.float64)
    matrix = torch.zeros(())
    for image in images:
        jacobian = torch.autograd.functional.jacobian(
            lambda theta, x=image: logits_at(model, theta, x[None])[0], theta_of(model)
        )
        p = logits_at(model, theta_of(model), image[None])[0].softmax(0)
        matrix = matrix + jacobian.T @ (p.diag() - p.outer(p)) @ jacobian / len(images)
    torch.testing.assert_close(flat(fisher_of(model, [(images, labels)])), matrix.diag(), rtol=1e-10, atol=1e-14)


def test_exact_is_the_hessian_of_the_loss_of_softmax_regression() -> None:
    """There the second derivative of the cross-entropy does not depend on the labels, so it is F itself."""
    case = CASES["linear"]
    model, (images, labels) = case.model(torch.float64), case.data(torch.float64)
    hessian = torch.autograd.functional.hessian(
        lambda theta: cross_entropy(logits_at(model, theta, images), labels), theta_of(model)
    )
    torch.testing.assert_close(flat(fisher_of(model, [(images, labels)])), hessian.diag(), rtol=1e-10, atol=1e-14)


def test_exact_is_the_curvature_of_the_expected_loss() -> None:
    """E_{y~p}[−log p_θ'(y)] as a function of θ', p held at θ: its second differences at θ' = θ, for any network."""
    case = smooth_mlp()
    model, (images, labels) = case.model(torch.float64), case.data(torch.float64)
    theta, h = theta_of(model), 1e-3
    p = logits_at(model, theta, images).softmax(1)

    def expected_loss(theta: Tensor) -> Tensor:
        return -(p * logits_at(model, theta, images).log_softmax(1)).sum(1).mean()

    with torch.no_grad():
        curvature = torch.stack(
            [
                (expected_loss(theta + e) - 2 * expected_loss(theta) + expected_loss(theta - e)) / h**2
                for e in h * torch.eye(len(theta), dtype=torch.float64)
            ]
        )
    torch.testing.assert_close(flat(fisher_of(model, [(images, labels)])), curvature, rtol=1e-4, atol=1e-6)


# How images come changes nothing

GROUPED = ["mlp", "conv2d", "tokens", "embedding", "batch norm", "gru"]


@pytest.mark.parametrize("budget", [None, 1, 300])
@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", GROUPED)
def test_batches_and_chunks_change_nothing(
    name: str, size: int, budget: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of any size, joined and cut into chunks of any size, give what one image at a time gives."""
    if budget:
        monkeypatch.setattr("contlearn.sweep._BUDGET", budget)
    case = CASES[name]
    images, labels = case.data(torch.float64)
    batches = list(zip(images.split(size), labels.split(size), strict=True))
    for estimator in ("exact", "empirical"):
        assert_close(fisher_of(case.model(torch.float64), batches, estimator), case.oracle(estimator), 1e-12)


@pytest.mark.parametrize(
    "name", ["step by step", "tokens as batch", "sequence first", "gru", "learned query", "conv1d"]
)
@pytest.mark.parametrize("lengths", [(1, 4, 4, 2), (4, 1), (3, 3, 5)], ids=str)
@pytest.mark.parametrize("size", [1, 4])
def test_sequences_of_several_lengths(name: str, lengths: tuple[int, ...], size: int) -> None:
    """What holds for the first batch need not hold for the next: with one token a layer is called once."""
    if name == "conv1d":
        case = Case(lambda: Wired(lambda m, x: m.body(x).sum(2), body=nn.Conv1d(4, CLASSES, 3, padding=1)), (4,))
    else:
        case = CASES[name]
    torch.manual_seed(5)
    shapes = [(4,) if name == "learned query" else (4, t) if name == "conv1d" else (t, 4) for t in lengths]
    batches = [(torch.randn(size, *shape, dtype=torch.float64), torch.randint(CLASSES, (size,))) for shape in shapes]
    images, labels = [x for xs, _ in batches for x in xs], [y for _, ys in batches for y in ys]
    expected = oracles.fisher(case.model(torch.float64), images, labels, "exact")
    assert_close(fisher_of(case.model(torch.float64), batches), expected, 1e-12)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_is_not_mistaken_for_zeros(mode: str) -> None:
    """The first images have empty borders, like digits; only the later ones show how the border is continued."""
    torch.manual_seed(0)
    model = classifier(nn.Conv2d(1, 2, 3, padding=1, padding_mode=mode), nn.Tanh(), features=72).double()
    images, labels = torch.randn(8, 1, 6, 6, dtype=torch.float64), torch.arange(8) % CLASSES
    inside = torch.zeros(6, 6, dtype=torch.float64)
    inside[2:4, 2:4] = 1
    images[:4] *= inside
    assert_close(fisher_of(model, [(images, labels)]), oracles.fisher(model, images, labels, "exact"), 1e-12)


def test_empty_batches_are_passed_over() -> None:
    case = CASES["mlp"]
    images, labels = case.data(torch.float64)
    batches = [(images[:0], labels[:0]), (images, labels), (images[:0], labels[:0])]
    assert_close(fisher_of(case.model(torch.float64), batches), case.oracle("exact"), 1e-12)


@pytest.mark.parametrize("budget", [None, 4 * 2 * 25])
@pytest.mark.parametrize("images", [9, 12])
def test_a_shared_tensor_as_long_as_a_part_of_the_batch(
    images: int, budget: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is looked at, and measured, a few images at a time; a tensor of that length is still shared."""
    if budget:
        monkeypatch.setattr(contlearn.sweep, "_BUDGET", budget)
    torch.manual_seed(0)
    model = Wired(
        lambda m, x: m.head(x * m.scale), head=nn.Linear(4, CLASSES), scale=nn.Parameter(torch.ones(4))
    ).double()
    x, shared = torch.randn(images, 4).double(), torch.tensor([0.5, 1, 2, 3]).double()
    batch = {"x": x, "shared": shared, "y": torch.zeros(images, dtype=torch.int64)}
    found = fisher_of(model, [batch], forward=lambda m, b: (m(b["x"] * b["shared"]), b["y"]))
    assert_close(found, oracles.fisher(model, x * shared, batch["y"].tolist(), "exact"), 1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_that_forward_shortens(tied: bool) -> None:
    """max_norm shortens a row when its token comes: too late for images before, if they see all rows."""
    torch.manual_seed(0)
    model = Wired(
        lambda m, x: torch.nn.functional.linear(m.embed(x).tanh().mean(1), m.embed.weight if tied else m.head),
        embed=nn.Embedding(6, 3, max_norm=0.5), head=nn.Parameter(torch.randn(6, 3)).requires_grad_(not tied),
    ).double()  # fmt: skip
    x, y = torch.randint(3, (10, 2)), torch.zeros(10, dtype=torch.int64)
    loader = [(x[:5], y[:5], 1), (x[5:] + 3, y[5:], 2)]  # the number keeps them apart
    measure = partial(fisher_of, forward=lambda m, batch: (m(batch[0]), batch[1]))
    if tied:
        with pytest.raises(ValueError, match=r"max_norm.*run the model once over all the data"):
            measure(model, loader)  # which runs it over all of them
    found = measure(model, loader)
    assert_close(found, oracles.fisher(model, torch.cat([batch[0] for batch in loader]), y.tolist(), "exact"), 1e-12)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Images and labels one by one, how many nobody knows."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.images, self.labels, strict=True)


def test_a_loader_that_does_not_know_its_length() -> None:
    case = CASES["mlp"]
    found = fisher_of(case.model(torch.float64), DataLoader(Stream(*case.data(torch.float64)), batch_size=2))
    assert_close(found, case.oracle("exact"), 1e-12)


def test_inference_mode_is_named_and_its_images_are_taken() -> None:
    case = CASES["mlp"]
    with torch.inference_mode():
        data = case.data(torch.float64)
        with pytest.raises(ValueError, match=r"inference_mode\(\) forbids: measure it outside"):
            fisher_of(case.model(torch.float64), [data])
    assert_close(fisher_of(case.model(torch.float64), [data]), case.oracle("exact"), 1e-12)


@pytest.mark.parametrize("mixes", [False, True])
def test_a_forward_that_leaves_torch_before_the_first_layer(mixes: bool) -> None:
    """Inputs are compared by their values alone then; an error of its own stays its own."""

    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        features = torch.from_numpy(x.numpy() ** 2)
        return m.head(features - features.mean(0) if mixes else features)

    torch.manual_seed(0)
    model, x = Wired(wiring, head=nn.Linear(4, CLASSES)).double(), torch.randn(9, 4).double()
    if mixes:
        with pytest.raises(ValueError, match="depend on the other images"):
            fisher_of(model, [(x, torch.zeros(9, dtype=torch.int64))])
        return
    expected = oracles.fisher(model, x, [0] * 9, "exact")
    assert_close(fisher_of(model, [(x, torch.zeros(9, dtype=torch.int64))]), expected, 1e-12)


@pytest.mark.parametrize("fisher", [diagonal_fisher, kronecker_fisher])
def test_autocast_around_the_call_is_for_forward_alone(fisher: Callable[..., Any]) -> None:
    """A model that switches it off has the F that it has without: no product of the closed forms is rounded."""

    class Full(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(2, 3, 3), nn.Linear(27, CLASSES)
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            with torch.autocast("cpu", enabled=False):
                logits: Tensor = self.head((self.body(x) * self.scale).tanh().flatten(1))
            return logits

    seen: list[bool] = []
    torch.manual_seed(0)
    model, batch = Full(), (torch.randn(20, 2, 5, 5), torch.zeros(20, dtype=torch.int64))
    expected = fisher(model, [batch], progress=False)
    assert not any(seen)
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        found = fisher(model, [batch], progress=False)
    assert all(seen)
    for plain, cast in zip(tree_leaves(expected), tree_leaves(found), strict=True):
        if isinstance(plain, Tensor):
            torch.testing.assert_close(cast, plain)


def test_the_same_call_twice_gives_the_same_answer() -> None:
    case = CASES["batch norm of a convolution"]
    model = case.model()
    assert_close(fisher_of(model, [case.data()]), fisher_of(model, [case.data()]), 0)


def test_other_labels_change_empirical_alone() -> None:
    case = CASES["mlp"]
    images, labels = case.data()
    for estimator in ("exact", "predicted", "empirical"):
        one, other = (fisher_of(case.model(), [(images, y)], estimator) for y in (labels, (labels + 1) % CLASSES))
        assert torch.equal(one["3.weight"], other["3.weight"]) == (estimator != "empirical")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8], ids=str)
def test_labels_may_be_integers_of_any_width(dtype: torch.dtype) -> None:
    case = CASES["mlp"]
    images, labels = case.data()
    found = fisher_of(case.model(), [(images, labels.to(dtype))], "empirical")
    assert_close(found, case.oracle("empirical"), 1e-5)


@pytest.mark.parametrize(
    ("progress", "variable", "shown"), [(True, None, True), (False, None, False), (True, "1", False)]
)
def test_progress_is_shown_unless_someone_objects(
    progress: bool, variable: str | None, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller, or the environment variable that tqdm itself heeds."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    if variable:
        monkeypatch.setenv("TQDM_DISABLE", variable)
    settings = {}
    real = contlearn.sweep.tqdm
    monkeypatch.setattr("contlearn.sweep.tqdm", lambda **options: settings.update(options) or real(**options))
    diagonal_fisher(CASES["mlp"].model(), [CASES["mlp"].data()], progress=progress)
    assert settings["disable"] != shown
    assert settings["delay"] == 2  # seconds: a quick measurement shows nothing


# Memory


def test_a_thousand_classes_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of softmax regression F is the mean of p_c (1 − p_c) x_i²; no tensor is much larger than the budget."""
    monkeypatch.setattr("contlearn.sweep._BUDGET", 2**21)
    torch.manual_seed(0)
    model, images = nn.Linear(5, 1000).double(), torch.randn(6, 5, dtype=torch.float64)
    with oracles.Watch() as watch:
        found = fisher_of(model, [(images, torch.arange(6))])
    p = model(images).softmax(1).detach()
    expected = (p * (1 - p)).T @ images**2 / 6
    torch.testing.assert_close(found["weight"], expected, rtol=1e-10, atol=1e-15)
    assert watch.largest <= 2 * 2**21


@pytest.mark.parametrize("size", [1, None])
@pytest.mark.parametrize(
    "name",
    [
        "mlp",
        "conv2d, everything",
        "conv1d",
        "tokens",
        "few wide tokens",
        "embedding",
        "layer norm",
        "module called twice",
    ],
)
def test_no_tensor_is_larger_than_the_budget(name: str, size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many images as just fit, one by one or in one batch: what is made of them must be made in several parts."""
    monkeypatch.setattr("contlearn.sweep._BUDGET", budget := 3000)
    case = CASES[name]
    images, labels = case.data(images=budget // math.prod(case.shape))
    batches = list(zip(images.split(size or len(images)), labels.split(size or len(images)), strict=True))
    with oracles.Watch() as watch:
        fisher_of(case.model(), batches)
    assert budget / 32 < watch.largest <= budget  # the budget is for all activations, patches and gradients together


# The model is left as it was found


def snapshot(model: nn.Module) -> dict[str, object]:
    """All that could have changed: objects, values, modes, gradients and hooks."""
    return {
        "parameters": [(name, id(p), p.requires_grad, p.tolist()) for name, p in model.named_parameters()],
        "places": [name for name, _ in model.named_parameters(remove_duplicate=False)],
        "types": [type(p) for _, p in model.named_parameters(remove_duplicate=False)],
        "buffers": [(name, id(b), b.tolist()) for name, b in model.named_buffers()],
        "modes": [module.training for module in model.modules()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
    }


def prepared(case: Case) -> nn.Module:
    """Part of it in eval() mode, and some gradients present: what a training loop may have left behind."""
    model = case.model()
    list(model.modules())[-1].eval()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    return model


@every(CASES)
def test_model_is_left_as_it_was_found(case: Case) -> None:
    model = prepared(case)
    before = snapshot(model)
    for estimator in ESTIMATORS:
        fisher_of(model, [case.data()], estimator)
    assert snapshot(model) == before
    model(case.data()[0]).sum().backward()  # and it still trains


@pytest.mark.parametrize("name", ["mlp", "batch norm", "tied weights", "gru"])
@pytest.mark.parametrize("after", [0, 1])
def test_model_is_left_as_it_was_found_when_the_loader_fails(name: str, after: int) -> None:
    case = CASES[name]

    def broken():
        yield from [case.data()] * after
        raise KeyError("the disk is gone")

    model = prepared(case)
    before = snapshot(model)
    with pytest.raises(KeyError, match="the disk is gone"):
        fisher_of(model, broken())
    assert snapshot(model) == before


@pytest.mark.parametrize("call", [1, 2, 3, 5])
def test_model_is_left_as_it_was_found_when_it_fails_itself(call: int) -> None:
    """In the probe, in the pass through all layers, or when one image is differentiated by itself."""
    calls = 0

    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyError("no such key")
        return m.head(m.norm(m.body(x)))

    case = Case(
        lambda: Wired(wiring, body=nn.Linear(5, 6), norm=nn.LayerNorm(6), head=nn.Linear(6, CLASSES)), (5,), images=2
    )
    model = prepared(case)
    before = snapshot(model)
    with pytest.raises(KeyError, match="no such key"):
        fisher_of(model, [(x[None], y[None]) for x, y in zip(*case.data(), strict=True)] + [case.data(images=2000)])
    assert snapshot(model) == before


def test_dropout_and_batch_statistics_are_off() -> None:
    """In training mode every call would give another answer; and running statistics would drift."""
    case = CASES["batch norm"]
    model = case.model()
    assert model.training
    assert_close(fisher_of(model, [case.data()]), case.oracle("exact"), 1e-5)
    assert model.training
    assert_close(fisher_of(model.eval(), [case.data()]), case.oracle("exact"), 1e-5)
    assert not model.training


def test_works_under_no_grad() -> None:
    case = CASES["layer norm"]
    with torch.no_grad():
        found = fisher_of(case.model(), [case.data()])
    assert_close(found, case.oracle("exact"), 1e-5)
    assert not any(f.requires_grad for f in found.values())


# Which parameters


@pytest.mark.parametrize("name", ["mlp", "conv2d", "batch norm", "tied weights", "weight norm", "gru"])
@pytest.mark.parametrize("frozen", ["first", "all but the first", "all but the last", "weights", "biases"])
def test_frozen_parameters_are_left_out_and_change_nothing_else(name: str, frozen: str) -> None:
    case = CASES[name]
    model = case.model()
    names = [n for n, _ in model.named_parameters()]
    chosen = {
        "first": names[:1],
        "all but the first": names[1:],
        "all but the last": names[:-1],
        "weights": [n for n in names if "weight" in n],
        "biases": [n for n in names if "bias" in n],
    }[frozen]
    for parameter, p in model.named_parameters():
        p.requires_grad_(parameter not in chosen)
    expected = {n: f for n, f in case.oracle("exact").items() if n not in chosen}
    assert_close(fisher_of(model, [case.data()]), expected, 1e-5)


def test_an_unused_parameter_gets_zeros() -> None:
    found = fisher_of(CASES["unused layer"].model(), [CASES["unused layer"].data()])
    assert not found["unused.weight"].any()
    assert found["unused.weight"].shape == (2, 2)


def test_half_precision_gives_single_precision() -> None:
    case = CASES["mlp"]
    found = fisher_of(case.model(torch.bfloat16), [case.data(torch.bfloat16)])
    assert {f.dtype for f in found.values()} == {torch.float32}
    assert_close(found, case.oracle("exact"), 0.1)


# Mistakes are named


def nan_weights() -> nn.Module:
    model = CASES["mlp"].model()
    nn.init.constant_(next(model.parameters()), math.nan)
    return model


def all_frozen() -> nn.Module:
    return CASES["mlp"].model().requires_grad_(False)


IMAGES, LABELS = CASES["mlp"].data()


@pytest.mark.parametrize(
    ("error", "message", "model", "loader"),
    [
        (ValueError, "the loader is empty", None, []),
        (ValueError, "the loader is empty", None, [(IMAGES[:0], LABELS[:0])]),
        (ValueError, "no trainable parameter", all_frozen, [(IMAGES, LABELS)]),
        (ValueError, "no trainable parameter", nn.Flatten, [(IMAGES, LABELS)]),
        (FloatingPointError, "not finite", nan_weights, [(IMAGES, LABELS)]),
        (FloatingPointError, "not finite", None, [(IMAGES, LABELS), (IMAGES * math.inf, LABELS)]),
        (ValueError, r"shape \(5,\).*\(5, 4\)", None, [(IMAGES, torch.eye(4, dtype=torch.int64)[LABELS])]),
        (ValueError, "integers.*float32", None, [(IMAGES, LABELS.float())]),
        (ValueError, r"shape \(5,\).*\(4,\)", None, [(IMAGES, LABELS[1:])]),
        (TypeError, "got dict; F is measured.*forward=", None, [{"image": IMAGES, "label": LABELS}]),
        (TypeError, "got Tensor", None, [IMAGES]),
        (TypeError, "got tuple", None, [(IMAGES, LABELS, LABELS)]),
        (TypeError, "got list", None, [[IMAGES, LABELS.tolist()]]),
        (ValueError, r"\(5, classes\).*got \(5, 2, 5\)", lambda: nn.Linear(3, 5), [(IMAGES, LABELS)]),
        (ValueError, r"classes\), got tuple", lambda: nn.GRU(3, 4, batch_first=True), [(IMAGES, LABELS)]),
        (ValueError, r"\(5, classes\).*got \(5,\)", lambda: Wired(lambda m, x: m.a(x).sum((1, 2)), a=nn.Linear(3, 1)),
         [(IMAGES, LABELS)]),
    ],
)  # fmt: skip
def test_mistakes_are_named_and_leave_the_model_alone(
    error: type[Exception], message: str, model: Callable[[], nn.Module] | None, loader: list[object]
) -> None:
    built = model() if model else CASES["mlp"].model()
    modes = [module.training for module in built.modules()]
    with pytest.raises(error, match=message):
        fisher_of(built, loader)
    assert [module.training for module in built.modules()] == modes


@pytest.mark.parametrize("last", [4, -1])
def test_only_empirical_looks_at_the_labels(last: int) -> None:
    model, wrong = CASES["mlp"].model(), [(IMAGES, LABELS), (IMAGES, torch.tensor([0, 1, 2, 3, last]))]
    for estimator in ("exact", "sample", "predicted"):
        fisher_of(model, wrong, estimator)
    with pytest.raises(ValueError, match=f"from {min(0, last)} to {max(3, last)}.*0 to 3"):
        fisher_of(model, wrong, "empirical")


def test_an_unknown_estimator_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'exakt'.*'exact', 'sample', 'empirical', 'predicted'"):
        fisher_of(CASES["mlp"].model(), [CASES["mlp"].data()], "exakt")  # type: ignore[arg-type]


@pytest.mark.parametrize("fisher", [diagonal_fisher, kronecker_fisher])
def test_images_that_change_each_others_logits(fisher) -> None:
    """Normalised by the batch's own statistics, an image has no F of its own: a number would be meaningless."""
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    batch = torch.rand(6, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    with pytest.raises(ValueError, match="depend on the other images"):
        fisher(model, [batch])


# What the proof of a closed form rests on


def test_a_layer_without_a_path_is_wrong_where_its_closed_form_is_not_zero() -> None:
    """Autograd finds nothing for it, so g aᵀ must be nothing, too."""
    model = nn.Linear(3, 2)
    layer = candidates(model, dict(model.named_parameters()))[0]
    layer.listening = True
    model.register_forward_hook(layer.record, with_kwargs=True)
    model(torch.ones(4, 3))
    nothing = dict.fromkeys(layer.names.values())
    assert agrees(layer, torch.zeros(4, 2), 1, nothing)
    assert not agrees(layer, torch.ones(4, 2), 1, nothing)


@pytest.mark.filterwarnings("error")
def test_two_images_exchanged_inside_a_layer_are_found() -> None:
    """None of those that are looked at one by one."""

    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        order = torch.arange(len(x))
        if len(x) > 5:
            order[[1, 2]] = order[[2, 1]]
        return m.head(m.body(x[order]).tanh()[order])

    torch.manual_seed(1)
    model = Wired(wiring, body=nn.Linear(4, 5), head=nn.Linear(5, CLASSES)).double()
    images, labels = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % CLASSES
    first = categorical(model(images), None, "exact", 1, None)[0]
    assert int(first.abs().amax(1).argmax()) not in (1, 2)
    with pytest.warns(UserWarning, match="the closed form of body.weight, body.bias differs from autograd"):
        found = fisher_of(model, [(images, labels)])
    assert_close(found, oracles.fisher(model, images, labels.tolist(), "exact"), 1e-12)


def test_a_little_mixing_is_found_though_the_logits_add_up_to_nothing() -> None:
    """In single precision the values of the logits would not show it."""

    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        z = m.head(x + 1e-5 * x.mean(0))
        return z - z.mean(1, keepdim=True)

    model = Wired(wiring, head=nn.Linear(4, CLASSES))
    with pytest.raises(ValueError, match="depend on the other images"):
        fisher_of(model, [(torch.randn(6, 4), torch.arange(6) % CLASSES)])


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(5, 1000),
        Wired(lambda m, x: m.head(x.repeat(1, 800).cos().view(-1, 800, 5).mean(1)), head=nn.Linear(5, 4)),
    ],
    ids=["classes", "activations"],
)
def test_images_are_taken_as_memory_allows(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand classes are p, v, the logits and their gradient; what forward makes on its way counts as well."""
    monkeypatch.setattr("contlearn.sweep._BUDGET", 40_000)
    seen = []
    model.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    fisher_of(model, [(torch.randn(50, 5), torch.zeros(50, dtype=torch.int64))], "predicted")
    assert 1 < max(seen) <= 5


def test_an_error_in_forward_is_no_reason_to_go_on_slowly() -> None:
    """What forward raises under vmap is the reader's, unless it says that vmap is to blame."""

    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        if torch._C._functorch.is_batchedtensor(x):
            raise KeyError("no such key")
        return m.head(x * m.scale)

    model = Wired(wiring, head=nn.Linear(5, CLASSES), scale=nn.Parameter(torch.ones(5)))
    with pytest.raises(KeyError, match="no such key"):
        fisher_of(model, [(torch.randn(20, 5), torch.zeros(20, dtype=torch.int64))])


@pytest.mark.parametrize("factor", [1.1, 1.0001])
def test_a_hook_of_all_modules_that_scales_its_output_is_found(factor: float) -> None:
    """All paths lead through z, but z is not W a + b: such a hook comes before ours. In float64 a little shows."""
    case = CASES["mlp"]
    model = case.model(torch.float64)

    def scale(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
        return factor * output if module is model[1] else None

    hook = nn.modules.module.register_module_forward_hook(scale)
    try:
        with pytest.warns(UserWarning, match="the closed form of 1.weight, 1.bias differs from autograd"):
            found = fisher_of(model, [case.data(torch.float64)])
        x, y = case.data(torch.float64)
        assert_close(found, oracles.fisher(model, x, y.tolist(), "exact"), 1e-12)
    finally:
        hook.remove()


def test_vmap_is_compared_with_autograd_before_it_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator with a wrong rule for batches, here vmap itself, is found out: a loop takes its place."""
    real = contlearn.per_image.vmap
    monkeypatch.setattr("contlearn.per_image.vmap", lambda f: lambda *args: 2 * real(f)(*args))
    case = Case(
        lambda: Wired(lambda m, x: m.head(x * m.scale), head=nn.Linear(5, CLASSES), scale=nn.Parameter(torch.ones(5))),
        (5,), images=20,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="vmap cannot differentiate scale image by image .it disagrees"):
        found = fisher_of(case.model(torch.float64), [case.data(torch.float64)])
    assert_close(found, case.oracle("exact"), 1e-12)


class OnTheEdge(nn.Module):
    """The first unit of image `edge` is a hair above zero in a batch and a hair below alone: ReLU opens or shuts."""

    def __init__(self, edge: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.edge, self.first, self.second = edge, nn.Linear(5, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        hair = 1e-12 if len(x) > 1 else -1e-12
        there = (x[:, 0] >= self.edge).to(z.dtype)
        z = torch.cat(
            (z[:, :1] * (1 - there[:, None]) + there[:, None] * (z[:, :1] - z[:, :1].detach() + hair), z[:, 1:]), 1
        )
        return self.second(z.relu())


@pytest.mark.parametrize("structure", [diagonal_fisher, kronecker_fisher])
def test_an_image_on_the_edge_of_a_relu_is_no_reason_for_distrust(structure: Callable[..., Any]) -> None:
    """Its gradient has one value in a batch and another alone, by rounding; before, a warning and a slow loop."""
    torch.manual_seed(1)
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.zeros(20, dtype=torch.long)
    x[0, 0] = 9.0  # the first image is among those that are compared
    model = OnTheEdge(edge=8).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        structure(model, [(x, y)], "empirical", progress=False)


def test_an_edge_in_every_image_is_distrusted() -> None:
    """Where single images disagree one after the other, it is no accident of rounding."""
    torch.manual_seed(1)
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.zeros(20, dtype=torch.long)
    with pytest.warns(UserWarning, match="differs from autograd"):
        diagonal_fisher(OnTheEdge(edge=-99).double(), [(x, y)], "empirical", progress=False)


def test_several_draws_of_each_image_are_averaged() -> None:
    case = CASES["mlp"]
    found = fisher_of(
        case.model(), [case.data()], "sample", samples=3000, generator=torch.Generator().manual_seed(0)
    )  # fmt: skip
    assert_close(found, case.oracle("exact"), 0.05)


def test_a_second_use_of_a_weight_that_comes_late_is_seen() -> None:
    """Behind the layer's back, and for one image in the second batch only."""

    def wiring(m: nn.Module, x: Tensor) -> Tensor:
        z, large = m.body(x).tanh(), x[:, :1] > 5
        return m.head(torch.where(large, x @ m.body.weight, z) if bool(large.any()) else z)

    torch.manual_seed(0)
    model = Wired(wiring, body=nn.Linear(4, 4), head=nn.Linear(4, CLASSES)).double()
    images, labels = torch.randn(1500, 4, dtype=torch.float64), torch.arange(1500) % CLASSES
    images[1400, 0] = 6
    batches = [(images[:1100], labels[:1100]), (images[1100:], labels[1100:])]
    with pytest.warns(UserWarning, match="vmap cannot differentiate"):
        found = fisher_of(model, batches, "empirical")
    assert_close(found, oracles.fisher(model, images, labels.tolist(), "empirical"), 1e-12)


def test_mixing_without_a_derivative_is_refused() -> None:
    """Only the first four rows get what an expert adds: who else is in the batch decides, though nothing flows."""
    model = Wired(
        lambda m, x: m.head(x.index_add(0, torch.arange(min(4, len(x))), m.expert(x[:4]))),
        expert=nn.Linear(5, 5), head=nn.Linear(5, CLASSES),
    )  # fmt: skip
    with pytest.raises(ValueError, match="depend on the other images"):
        fisher_of(model, [(torch.randn(9, 5), torch.zeros(9, dtype=torch.int64))])
