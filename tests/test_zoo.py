"""F of architectures as people have them, against loops over single images; and those that must be refused."""

import warnings
from typing import Any

import pytest
import torch
import zoo
from torch import Tensor, nn
from torch.nn.functional import conv3d, unfold
from zoo import ANIMALS, REFUSED, Animal

from contlearn import diagonal_fisher, kronecker_fisher, likelihoods

ESTIMATORS = ["exact", "sample", "empirical", "predicted"]
every = pytest.mark.parametrize("animal", ANIMALS.values(), ids=ANIMALS)


def pair(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    return model(batch[0]), batch[1]


def oracle(
    model: nn.Module, animal: Animal, estimator: str, drawn: list[int], layers: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """In float64, image by image and class by class: the diagonal, and E[a aᵀ] and E[g gᵀ] of the layers."""
    model.eval()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    modules = {name: model.get_submodule(name) for name in layers}
    diagonal = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in trainable.items()}
    a = {name: torch.zeros((), dtype=torch.float64) for name in layers}
    g = {name: torch.zeros((), dtype=torch.float64) for name in layers}
    places = dict.fromkeys(layers, 0)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Any:
        return lambda _, args, out: seen.update({name: (args[0], out)}) or out.clone()

    hooks = [module.register_forward_hook(watch(name), prepend=True) for name, module in modules.items()]
    count = 0
    for batch in animal.data():
        for one in zoo.slices(batch):
            seen.clear()
            logits, label = (animal.forward or pair)(model, one)
            log_p = logits[0].log_softmax(0)
            p = log_p.exp().tolist()
            weights = dict(enumerate(p)) if estimator == "exact" else {p.index(max(p)): 1.0}
            if estimator in ("sample", "empirical"):
                weights = {drawn[count] if estimator == "sample" else int(label): 1.0}
            used = dict(seen)
            for name in used:
                rows = patches(modules[name], used[name][0].detach())
                if modules[name].bias is not None and modules[name].bias.requires_grad:
                    rows = torch.cat((rows, torch.ones(len(rows), 1, dtype=rows.dtype)), 1)
                a[name] = a[name] + rows.T @ rows
                places[name] += len(rows)
            for c, weight in weights.items():
                if weight == 0:  # a class that is masked out
                    continue
                wanted = [*trainable.values(), *(used[name][1] for name in used)]
                found = torch.autograd.grad(log_p[c], wanted, retain_graph=True, allow_unused=True)
                for name, gradient in zip(trainable, found, strict=False):
                    if gradient is not None:
                        diagonal[name] += weight * gradient.abs() ** 2
                for name, gradient in zip(used, found[len(trainable) :], strict=True):
                    channels = 1 if isinstance(modules[name], nn.Conv1d | nn.Conv2d | nn.Conv3d) else -1
                    rows = gradient.movedim(channels, -1).flatten(0, -2)
                    g[name] = g[name] + weight * rows.T @ rows
            count += 1
    for hook in hooks:
        hook.remove()
    return (
        {name: total / count for name, total in diagonal.items()},
        {name: (a[name] / count, g[name] / places[name]) for name in layers if places[name]},
    )


def patches(layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer multiplies its weight with, one row a position."""
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    if isinstance(layer, nn.Conv3d):  # by kernels that pick one number each
        size = layer.weight[0].numel()
        kernels = torch.eye(size, dtype=inputs.dtype).view(size, *layer.weight.shape[1:])
        return conv3d(inputs, kernels, None, layer.stride, layer.padding, layer.dilation).flatten(2).mT.flatten(0, 1)
    return unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT.flatten(0, 1)


def measure(fisher: Any, model: nn.Module, animal: Animal, estimator: str, monkeypatch: Any, dtype: torch.dtype) -> Any:
    """F, and the labels that were drawn on the way; a warning exactly where one is due."""
    drawn: list[int] = []
    real = torch.multinomial

    def draw(*args: Any, **options: Any) -> Tensor:
        labels = real(*args, **options)
        drawn.extend(labels[:, 0].tolist())
        return labels

    monkeypatch.setattr(likelihoods.torch, "multinomial", draw)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fisher(model, iter(animal.data(dtype)), estimator, forward=animal.forward, progress=False)
    said = [str(warning.message) for warning in caught]
    allowed = ("cannot differentiate", "differs from autograd")
    assert all(any(words in text for words in allowed) for text in said), said
    assert len([text for text in said if allowed[0] in text]) <= 1
    return found, drawn, said


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """To `tolerance` of each tensor's largest entry; where the gradient is rounding only, of the largest of all."""
    assert found.keys() == wanted.keys()
    largest = max((float(each.abs().max()) for each in wanted.values()), default=0.0)
    for name, each in wanted.items():
        error = float((found[name].double() - each).abs().max())
        rounding = (100 * torch.finfo(found[name].dtype).eps) ** 2 * largest
        assert error <= max(tolerance * float(each.abs().max()), rounding), f"{name} is off by {error:.3g}"


@every
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_diagonal_equals_a_loop_in_double_precision(animal: Animal, estimator: str, monkeypatch: Any) -> None:
    found, drawn, said = measure(diagonal_fisher, animal.model(), animal, estimator, monkeypatch, torch.float64)
    close(found, oracle(animal.model(), animal, estimator, drawn)[0], 1e-10)
    assert bool(said) == bool(animal.slow), said


@every
def test_diagonal_equals_a_loop_in_single_precision(animal: Animal, monkeypatch: Any) -> None:
    """The oracle has the weights and images that single precision has."""
    model = animal.model(torch.float32)
    if any(p.is_complex() for p in model.parameters()):
        pytest.skip("complex weights are tested in double precision")
    found, _, _ = measure(diagonal_fisher, model, animal, "exact", monkeypatch, torch.float32)
    close(found, oracle(animal.model(), animal, "exact", [])[0], 1e-5)
    assert {f.dtype for f in found.values()} == {torch.float32}


@every
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_factors_and_the_rest_equal_loops(animal: Animal, estimator: str, monkeypatch: Any) -> None:
    """Each parameter once: in the factors of its layer, or with its diagonal."""
    if animal.batches is zoo.late_and_large:
        with pytest.raises(ValueError, match="structure='diagonal' takes both"):
            measure(kronecker_fisher, animal.model(), animal, estimator, monkeypatch, torch.float64)
        return
    found, drawn, _ = measure(kronecker_fisher, animal.model(), animal, estimator, monkeypatch, torch.float64)
    assert len(found.factors) == animal.layers, list(found.factors)
    diagonal, factors = oracle(animal.model(), animal, estimator, drawn, tuple(found.factors))
    named = [name for f in found.factors.values() for name in f.parameters]
    assert sorted([*named, *found.diagonal]) == sorted(diagonal)
    close(found.diagonal, {name: f for name, f in diagonal.items() if name not in named}, 1e-10)
    for layer, (a, g) in factors.items():
        close({"A": found.factors[layer].a, "G": found.factors[layer].g}, {"A": a, "G": g}, 1e-10)


@pytest.mark.parametrize("fisher", [diagonal_fisher, kronecker_fisher])
@pytest.mark.parametrize(("animal", "error", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_refused(animal: Animal, error: type[Exception], words: str, fisher: Any) -> None:
    meta = "meta" in words
    model = animal.build() if meta else animal.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=words):
        fisher(model, animal.data(), progress=False)
    if not meta:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


HALF = ["ViT", "ConvNeXt", "encoder with padding", "attention by parts", "PReLU", "GRU, two layers", "RMS norm"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", HALF)
def test_half_precision_is_near_the_truth(name: str, dtype: torch.dtype, monkeypatch: Any) -> None:
    """Of the rounded weights; each F_i is a mean of squares, in which roundings of a few per cent average out."""
    animal = ANIMALS[name]
    model = animal.model(dtype)
    truth, found = animal.model(), measure(diagonal_fisher, model, animal, "exact", monkeypatch, dtype)[0]
    truth.load_state_dict({key: value.double() for key, value in model.state_dict().items()})
    wanted = oracle(truth, animal, "exact", [])[0]
    assert {f.dtype for f in found.values()} == {torch.float32}
    total = sum(float(f.sum()) for f in found.values())
    assert total == pytest.approx(sum(float(f.sum()) for f in wanted.values()), rel=0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_transformers_in_half_precision_are_not_refused(dtype: torch.dtype) -> None:
    """Their rounding is no sign of images that mix."""
    for seed in range(20):
        torch.manual_seed(seed)
        body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.Sequential(body, nn.Flatten(), nn.Linear(40, 4)).to(dtype)
        batch = torch.randn(6, 5, 8).to(dtype), torch.randint(4, (6,))
        assert len(kronecker_fisher(model, [batch], progress=False).factors) == 3


def test_sums_in_half_precision_do_not_stall_or_overflow() -> None:
    """A thousand images add up; squares of large gradients are no infinity."""
    torch.manual_seed(0)
    gru = zoo.recurrent(nn.GRU).bfloat16()
    images, labels = torch.randn(30, 3, 4).bfloat16(), torch.randint(zoo.CLASSES, (30,))
    few, many = (diagonal_fisher(gru, [(images, labels)] * k, progress=False) for k in (1, 40))
    for name, f in few.items():
        torch.testing.assert_close(many[name], f, rtol=1e-4, atol=0)
    steep = nn.Linear(2, 3).half()
    found = diagonal_fisher(steep, [(torch.full((4, 2), 1000.0).half(), torch.zeros(4, dtype=torch.int64))])
    assert all(bool(f.isfinite().all()) for f in found.values())


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_inside_forward(autocast: torch.dtype) -> None:
    class Mixed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", autocast):
                return super().forward(x)

    torch.manual_seed(0)
    model = Mixed(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    batch = torch.randn(20, 6), torch.randint(3, (20,))
    found = diagonal_fisher(model, [batch], progress=False)
    wanted = diagonal_fisher(nn.Sequential(*model), [batch], progress=False)
    for name, f in wanted.items():
        torch.testing.assert_close(found[name], f, rtol=0, atol=0.05 * float(f.max()))


def test_samples_average_over_draws() -> None:
    """Many draws of each image come close to the expectation; one draw, repeated as often, is the same estimator."""
    animal = ANIMALS["batches of one"]
    exact = diagonal_fisher(animal.model(), animal.data(), progress=False)
    drawn = diagonal_fisher(
        animal.model(),
        animal.data(),
        "sample",
        samples=4000,
        generator=torch.Generator().manual_seed(0),
        progress=False,
    )
    for name, f in exact.items():
        torch.testing.assert_close(drawn[name], f, rtol=0, atol=0.05 * float(f.max()))


@pytest.mark.parametrize(("estimator", "samples"), [("exact", 2), ("empirical", 0), ("sample", 0)])
def test_samples_out_of_range(estimator: Any, samples: int) -> None:
    animal = ANIMALS["compiled"]
    with pytest.raises(ValueError, match=f"samples={samples}"):
        diagonal_fisher(animal.model(), animal.data(), estimator, samples=samples)


def test_buffers_that_forward_updates_are_put_back() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("replaced", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.replaced = self.replaced + 1
            return super().forward(x)

    model = Counting()
    buffers = dict(model.named_buffers())
    diagonal_fisher(model, [(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))], progress=False)
    assert {name: float(b) for name, b in model.named_buffers()} == {"calls": 0, "replaced": 0}
    assert all(b is buffers[name] for name, b in model.named_buffers())
