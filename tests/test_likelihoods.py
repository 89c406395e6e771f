"""Tokens, multi-label models and regressions: F against sums over all possible targets, Hessians and many draws."""

import copy
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import oracles
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from contlearn import EWC, Masked, diagonal_fisher, kronecker_fisher
from contlearn.likelihoods import Estimator, Likelihood, categorical

N, T, C, K = 5, 3, 3, 3
LIKELIHOODS: list[Likelihood] = ["categorical", "bernoulli", "gaussian"]
GENERATOR = torch.Generator().manual_seed(0)
WORDS = torch.randint(0, 7, (N, T), generator=GENERATOR)
IMAGES = torch.randn(N, 4, generator=GENERATOR, dtype=torch.float64)


class Language(nn.Module):
    """A causal model of T words: embedding, attention over what came before, norm, linear layers."""

    def __init__(self, classes: int = C) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, classes)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        x = self.norm(x + self.attention(x, x, x, attn_mask=later, need_weights=False)[0])
        logits: Tensor = self.head(self.mix(x).tanh())
        return logits


def built(model: nn.Module) -> nn.Module:
    """In float64, with weights that are the same in every test, and none of them zero."""
    generator = torch.Generator().manual_seed(1)
    model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.7 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def mlp(outputs: int = K) -> nn.Module:
    return built(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, outputs)))


def case(likelihood: Likelihood) -> tuple[nn.Module, Tensor, Tensor]:
    """Model, inputs, and the targets that the data have: with tokens, some are left out."""
    generator = torch.Generator().manual_seed(2)
    if likelihood == "categorical":
        labels = torch.randint(0, C, (N, T), generator=generator)
        labels[0, 1] = labels[3, 0] = labels[3, 2] = -100
        return built(Language()), WORDS, labels
    y = torch.randn(N, K, generator=generator, dtype=torch.float64)
    return mlp(), IMAGES, (y > 0).double() if likelihood == "bernoulli" else y


def law(likelihood: Likelihood, z: Tensor) -> Distribution:
    if likelihood == "categorical":
        return Categorical(logits=z)
    return Bernoulli(logits=z) if likelihood == "bernoulli" else Normal(z, 1.0)


def possible(likelihood: Likelihood, z: Tensor, labels: Tensor, estimator: Estimator) -> Iterator[tuple[float, Tensor]]:
    """Weight and target of everything that could have been observed for one image; whole sequences, for tokens."""
    if estimator == "empirical":
        yield 1.0, labels
    elif estimator == "predicted":
        yield 1.0, z.argmax(-1) if likelihood == "categorical" else (z > 0).to(z)
    elif likelihood == "gaussian":  # z ± √K e_k, each with weight 1/2K, has the mean and covariance of the Gaussian
        for k, sign in itertools.product(range(K), (-1, 1)):
            yield 1 / (2 * K), z + sign * K**0.5 * torch.eye(K, dtype=z.dtype)[k]
    else:
        for values in itertools.product(range(z.shape[-1] if likelihood == "categorical" else 2), repeat=len(labels)):
            y = torch.tensor(values).to(labels)
            yield float(law(likelihood, z).log_prob(y).sum().exp()), y


def oracle(likelihood: Likelihood, estimator: Estimator) -> dict[str, Tensor]:
    """1/units Σ_n Σ_y p(y) (∂ log p(y) / ∂θ)² over all y, one at a time."""
    model, inputs, targets = case(likelihood)
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for x, own in zip(inputs, targets, strict=True):
        z = model(x[None])[0]
        for weight, y in possible(likelihood, z.detach(), own, estimator):
            kept = own != -100
            log_p = law(likelihood, z).log_prob(y.where(kept, 0))[kept].sum()
            if not log_p.requires_grad or not kept.any():
                continue
            found = torch.autograd.grad(log_p, [*parameters.values()], retain_graph=True)
            for name, g in zip(sums, found, strict=True):
                sums[name] += weight * g**2
    units = int((targets != -100).sum()) if likelihood == "categorical" else N
    return {name: total / units for name, total in sums.items()}


@pytest.mark.parametrize(
    ("likelihood", "estimator"),
    [
        (of, by)
        for of in LIKELIHOODS
        for by in ("exact", "empirical", "predicted")
        if (of, by) != ("gaussian", "predicted")
    ],
)
def test_diagonal_is_the_sum_over_all_that_could_be_observed(likelihood: Likelihood, estimator: Estimator) -> None:
    """For tokens over all C^T sequences: the products of different tokens' scores are in that sum, and vanish."""
    model, inputs, targets = case(likelihood)
    loader = [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])]
    found = diagonal_fisher(model, loader, estimator, likelihood=likelihood)
    oracles.assert_close(found, oracle(likelihood, estimator), 1e-10)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_sample_has_the_expectation_of_exact(likelihood: Likelihood) -> None:
    """Over 1,500 copies of each image, with two draws, each for all tokens of a sequence."""
    model, inputs, targets = case(likelihood)
    exact = diagonal_fisher(model, [(inputs, targets)], likelihood=likelihood)
    loader = [(inputs.repeat(1500, 1), targets.repeat(1500, 1))]
    generator = torch.Generator().manual_seed(3)
    found = diagonal_fisher(model, loader, "sample", likelihood=likelihood, samples=2, generator=generator)
    for name, f in exact.items():
        error = float((found[name] - f).abs().max() / f.abs().max())
        assert error < 0.1, f"{name}: {error:.3f}"


def test_cross_terms_of_tokens_vanish_over_many_draws() -> None:
    """Of (Σ_t s_t)² for one sequence: their mean falls as 1/√draws, where that of the squares stays; and with the true
    labels, which are no draws, they do not vanish.
    """
    model, words, _ = case("categorical")
    weight = model.head.weight
    logits = model(words[:1])[0]
    p = logits.softmax(-1).detach()
    unit = torch.eye(T * C, dtype=torch.float64).view(T * C, T, C)
    jacobian = torch.stack([torch.autograd.grad(logits, weight, each, retain_graph=True)[0] for each in unit])
    scores = jacobian.view(T, C, -1)
    scores = scores - torch.einsum("tc,tcw->tw", p, scores)[:, None]  # (T, C, weights): ∇ log p_t(c)

    def terms(draws: Tensor) -> tuple[Tensor, Tensor]:
        """Means over draws (D, T) of the cross terms, and of the squares."""
        s = scores[torch.arange(T), draws]  # (D, T, weights)
        squares = s.square().sum(1)
        return (s.sum(1).square() - squares).mean(0), squares.mean(0)

    generator = torch.Generator().manual_seed(7)
    size = []
    for number in (100, 1_000, 10_000, 100_000):
        draws = torch.stack([torch.multinomial(row, number, True, generator=generator) for row in p], 1)
        cross, squares = terms(draws)
        size.append(float(cross.norm() / squares.norm()))
    assert all(rest < 4 / number**0.5 for rest, number in zip(size, (100, 1_000, 10_000, 100_000), strict=True)), size
    expected = torch.einsum("tc,tcw->w", p, scores.square())
    assert torch.allclose(squares, expected, rtol=0.05, atol=0.02 * float(expected.max()))
    every = torch.tensor(list(itertools.product(range(C), repeat=T)))
    weights = p[torch.arange(T), every].prod(1)
    s = scores[torch.arange(T), every].sum(1)
    assert torch.allclose(weights @ s.square(), expected, atol=1e-14)  # over all sequences the cross terms are zero
    cross, squares = terms(p.argmin(-1)[None])
    assert float(cross.norm() / squares.norm()) > 0.1


@pytest.mark.parametrize("outputs", [1, 2])
def test_one_linear_layer_is_bayes_with_its_factors(outputs: int) -> None:
    """Bayesian linear regression: with A's whole matrix B ends at the posterior mean of both; with its diagonal not."""
    generator = torch.Generator().manual_seed(8)
    tasks = []
    for shift in (-1, 1):
        x = torch.randn(40, 3, generator=generator, dtype=torch.float64) + shift
        tasks.append((x, x @ torch.randn(3, outputs, generator=generator, dtype=torch.float64) + 1))
    rows = [torch.cat((x, torch.ones(40, 1, dtype=torch.float64)), 1) for x, _ in tasks]
    both = torch.linalg.solve(sum(r.T @ r for r in rows), sum(r.T @ y for r, (_, y) in zip(rows, tasks, strict=True)))

    def fit(model: nn.Linear, task: tuple[Tensor, Tensor], ewc: EWC) -> Tensor:
        """The minimum of ½ Σ (y − z)² / N plus the penalty, from its gradient, which is affine."""

        def gradient(theta: Tensor) -> Tensor:
            nn.utils.vector_to_parameters(theta, model.parameters())
            loss = 0.5 * (model(task[0]) - task[1]).square().sum() / 40 + ewc.penalty(model)
            return nn.utils.parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))

        unit = torch.eye(4 * outputs, dtype=torch.float64)
        at_zero = gradient(0 * unit[0])
        hessian = torch.stack([gradient(each) - at_zero for each in unit], 1)
        nn.utils.vector_to_parameters(torch.linalg.solve(hessian, -at_zero), model.parameters())
        return torch.cat((model.weight, model.bias[:, None]), 1).detach().T

    ends = {}
    for structure in ("kronecker", "diagonal"):
        model = nn.Linear(3, outputs).double()
        ewc = EWC(importance=1, structure=structure)
        fit(model, tasks[0], ewc)
        ewc.consolidate(model, [tasks[0]], likelihood="gaussian")
        ends[structure] = fit(model, tasks[1], ewc)
    assert float((ends["kronecker"] - both).abs().max()) < 1e-8
    assert float((ends["diagonal"] - both).abs().max()) > 0.05


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_linear_in_its_parameters_f_is_the_hessian(likelihood: Likelihood) -> None:
    """The diagonal of autograd's Hessian of the mean loss, whatever the targets are."""
    model = built(nn.Linear(4, K))
    x = torch.randn(N, T, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    y = torch.ones(N, T, dtype=torch.int64) if likelihood == "categorical" else torch.ones(N, T, K, dtype=torch.float64)

    def loss(weight: Tensor, bias: Tensor) -> Tensor:
        nll = -law(likelihood, x @ weight.T + bias).log_prob(y).sum()
        return nll / (N * T if likelihood == "categorical" else N)

    weight, bias = (p.detach() for p in model.parameters())
    hessian = torch.autograd.functional.hessian(loss, (weight, bias))
    found = diagonal_fisher(model, [(x, y)], likelihood=likelihood)
    blocks = {"weight": hessian[0][0], "bias": hessian[1][1]}
    expected = {
        name: h.reshape(p.numel(), p.numel()).diagonal().view_as(p)
        for (name, h), p in zip(blocks.items(), (weight, bias), strict=True)
    }
    oracles.assert_close(found, expected, 1e-10)
    if likelihood == "gaussian":  # G is the unit matrix for every token, so the factors are the whole block
        factors = kronecker_fisher(model, [(x, y)], likelihood=likelihood).factors[""]
        block = torch.kron(factors.g, factors.a[:-1, :-1].contiguous())
        assert torch.allclose(block, hessian[0][0].reshape(4 * K, 4 * K), atol=1e-10)


def test_factors_of_tokens_are_exact_where_all_tokens_have_one_g() -> None:
    """*Expand*: one linear layer with p the same everywhere; also when tokens are left out of the average."""
    model = nn.Linear(4, C).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    x = torch.randn(N, T, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    y = torch.zeros(N, T, dtype=torch.int64)
    factors = kronecker_fisher(model, [(x, y)]).factors[""]
    inputs = torch.cat((x, torch.ones(N, T, 1, dtype=torch.float64)), 2).flatten(0, 1)
    p = torch.full((C,), 1 / C, dtype=torch.float64)
    assert torch.allclose(
        torch.kron(factors.g, factors.a), torch.kron(p.diag() - p.outer(p), inputs.T @ inputs / (N * T)), atol=1e-12
    )


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
def test_padding_changes_no_factor(estimator: Estimator) -> None:
    """Sequences of different lengths, padded, give what they give one by one and cut to their lengths."""
    model, words, labels = case("categorical")
    lengths = [3, 1, 2, 3, 2]
    behind = torch.arange(T) >= torch.tensor(lengths)[:, None]
    padded = labels.clamp(min=0).masked_fill(behind, -100)
    found = kronecker_fisher(model, [(words, padded)], estimator)
    cut = [(words[i : i + 1, :n], padded[i : i + 1, :n]) for i, n in enumerate(lengths)]
    expected = kronecker_fisher(model, cut, estimator)
    assert list(found.factors) == list(expected.factors) == ["mix", "head"]
    for name, factors in expected.factors.items():
        assert torch.allclose(found.factors[name].a, factors.a, atol=1e-12)
        assert torch.allclose(found.factors[name].g, factors.g, atol=1e-12)
    oracles.assert_close(found.diagonal, expected.diagonal, 1e-10)


def test_one_token_is_one_image() -> None:
    """(N, 1, C) gives what (N, C) gives; and two logits give what the sigmoid of their difference gives."""
    model = built(nn.Linear(4, C))
    labels = torch.arange(N) % C
    for estimator in ("exact", "empirical", "predicted"):
        flat = diagonal_fisher(model, [(IMAGES, labels)], estimator)
        oracles.assert_close(diagonal_fisher(model, [(IMAGES[:, None], labels[:, None])], estimator), flat, 1e-12)
    two, one = built(nn.Linear(4, 2)), nn.Linear(4, 1).double()
    with torch.no_grad():
        one.weight.copy_(two.weight[1:] - two.weight[:1])
        one.bias.copy_(two.bias[1:] - two.bias[:1])
    both = diagonal_fisher(two, [(IMAGES, labels % 2)])
    found = diagonal_fisher(one, [(IMAGES, (labels % 2)[:, None].double())], likelihood="bernoulli")
    oracles.assert_close(found, {name: f[1:] for name, f in both.items()}, 1e-12)


def test_outputs_may_have_any_shape() -> None:
    """(N,) and (N, 2, 3) give what the same numbers give as (N, 1) and (N, 6)."""
    for likelihood in ("bernoulli", "gaussian"):
        y = torch.ones(N, dtype=torch.float64)
        one = built(nn.Linear(4, 1))
        for estimator in ("exact", "empirical"):
            flat = diagonal_fisher(
                one, [(IMAGES, y)], estimator, likelihood=likelihood, forward=lambda m, b: (m(b[0])[:, 0], b[1])
            )
            oracles.assert_close(
                flat, diagonal_fisher(one, [(IMAGES, y[:, None])], estimator, likelihood=likelihood), 1e-12
            )
            six = built(nn.Linear(4, 6))
            many = diagonal_fisher(six, [(IMAGES, y[:, None].expand(N, 6))], estimator, likelihood=likelihood)
            shaped = nn.Sequential(six, nn.Unflatten(1, (2, 3)))
            found = diagonal_fisher(
                shaped, [(IMAGES, y[:, None, None].expand(N, 2, 3))], estimator, likelihood=likelihood
            )
            oracles.assert_close({name[2:]: f for name, f in found.items()}, many, 1e-12)


@pytest.mark.parametrize("structure", ["diagonal", "kronecker"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_consolidate_takes_the_likelihood(likelihood: Likelihood, structure: str) -> None:
    model, inputs, targets = case(likelihood)
    ewc = EWC(importance=1.0, structure=structure)
    ewc.consolidate(model, [(inputs, targets)], likelihood=likelihood)
    fisher = (kronecker_fisher if structure == "kronecker" else diagonal_fisher)(
        model, [(inputs, targets)], likelihood=likelihood
    )
    twin = EWC(importance=1.0, structure=structure)
    twin.add(fisher, dict(model.named_parameters()))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    assert ewc.penalty(model).item() == pytest.approx(twin.penalty(model).item()) != 0


def test_a_token_that_is_left_out_does_not_matter() -> None:
    """Neither its word nor a logit there that is not finite; its sequence may be left out as a whole."""
    model, words, labels = case("categorical")
    labels = labels.clone()
    labels[:, -1] = -100  # nothing before the last word can see it
    labels[4] = -100
    other = words.clone()
    other[:, -1] = (other[:, -1] + 1) % 7
    found = [diagonal_fisher(model, [(x, labels)], "empirical") for x in (words, other)]
    assert torch.allclose(found[1]["head.weight"], found[0]["head.weight"], atol=1e-12)
    shorter = diagonal_fisher(model, [(words[:4], labels[:4])], "empirical")
    oracles.assert_close(shorter, found[0], 1e-12)


def test_the_exact_expectation_takes_up_to_4096_passes_for_the_tokens_of_an_image() -> None:
    """One pass fewer for each token than there are classes; classes without tokens have no limit."""

    def passes(*shape: int) -> int:
        return len(categorical(torch.zeros(1, *shape), None, "exact", 1, None))

    assert passes(64, 65) == 4096
    assert passes(5000) == 4999
    with pytest.raises(ValueError, match="each of 64 tokens × 66 classes but one"):
        passes(64, 66)


@pytest.mark.parametrize(
    ("error", "message", "outputs", "targets", "options"),
    [
        (ValueError, "take 'sample'", (2, 50, 100), torch.zeros(2, 50, dtype=torch.int64), {}),
        (ValueError, "take 'sample'", (2, 5000), torch.zeros(2, 5000), {"likelihood": "gaussian"}),
        (ValueError, r"transpose\(1, 2\)", (2, 5, 3), torch.zeros(2, 3, dtype=torch.int64), {}),
        (ValueError, "everything in the loader", (2, 5, 3), torch.full((2, 5), -100), {}),
        (ValueError, "labels run from -1", (2, 5, 3), torch.full((2, 5), -1), {"estimator": "empirical"}),
        (ValueError, "of 'categorical', 'bernoulli', 'gaussian'", (2, 3), torch.zeros(2), {"likelihood": "poisson"}),
        (ValueError, "would be zero", (2, 3), torch.zeros(2, 3), {"likelihood": "gaussian", "estimator": "predicted"}),
        (ValueError, r"shape \(2, 3\), got \(2,\)", (2, 3), torch.zeros(2),
         {"likelihood": "gaussian", "estimator": "empirical"}),
        (ValueError, "between 0", (2, 3), 2 * torch.ones(2, 3), {"likelihood": "bernoulli", "estimator": "empirical"}),
        (FloatingPointError, "target", (2, 3), torch.full((2, 3), torch.nan),
         {"likelihood": "gaussian", "estimator": "empirical"}),
        (ValueError, "likelihood='bernoulli'", (2, 1), torch.zeros(2, dtype=torch.int64), {}),
        (ValueError, "returned None", (2, 3), None, {"likelihood": "bernoulli", "estimator": "empirical"}),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(error, message, outputs, targets, options) -> None:  # type: ignore[no-untyped-def]
    size = torch.Size(outputs)
    model = nn.Sequential(nn.Linear(1, size[1:].numel()), nn.Unflatten(1, size[1:]))
    forward = (lambda m, x: (m(x), None)) if targets is None else None
    x = torch.ones(2, 1)
    with pytest.raises(error, match=message):
        diagonal_fisher(model, [x if targets is None else (x, targets)], forward=forward, **options)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("estimator", ["exact", "sample", "empirical"])
def test_sequences_without_a_token_are_refused(likelihood: Likelihood, estimator: Estimator) -> None:
    model, inputs, targets = case("categorical")
    with pytest.raises(ValueError, match=r"returns nothing for an input, its outputs have shape \(5, 0, 3\)"):
        diagonal_fisher(model, [(inputs[:, :0], targets[:, :0])], estimator, likelihood=likelihood)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_outputs_that_are_not_finite_are_refused(likelihood: Likelihood) -> None:
    with pytest.raises(FloatingPointError, match="an output is not finite"):
        diagonal_fisher(nn.Linear(4, 2), [(IMAGES.float() * torch.inf, torch.zeros(N, 2))], likelihood=likelihood)


class Experts(nn.Module):
    """Of each image's two tokens, the first number says to which expert a token goes."""

    def __init__(self, possible: Tensor) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.possible = possible

    def forward(self, tokens: Tensor) -> Tensor:
        right = tokens[..., 0] > 0
        z = torch.zeros_like(tokens)
        z = z.index_put((right,), self.experts[0](tokens[right]).tanh())
        z = z.index_put((~right,), self.experts[1](tokens[~right]).tanh())
        return z.sum(1).masked_fill(~self.possible, -torch.inf)


def routed(signs: Tensor) -> Tensor:
    """Tokens (N, 2, 4) that go where these signs (N, 2) say."""
    tokens = torch.randn(*signs.shape, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    tokens[..., 0] = tokens[..., 0].abs() * signs
    return tokens


@pytest.mark.filterwarnings("ignore:the closed form of")
@pytest.mark.parametrize("estimator", ["exact", "empirical"])
def test_a_class_that_is_masked_out_hides_no_mistake(estimator: Estimator) -> None:
    """The vector of the first class is zero here. Each expert has as many rows as there are images, not one each."""
    possible = torch.tensor([False, True, True, True])
    model = built(Experts(possible))
    x, y = routed(torch.tensor([[1, 1], [-1, -1], [1, -1]])), torch.tensor([1, 2, 3])
    expected = oracles.fisher(model, x, y.tolist(), estimator)
    oracles.assert_close(diagonal_fisher(model, [(x, y)], estimator), expected, 1e-10)


@pytest.mark.filterwarnings("ignore:the closed form of", "ignore:torch.func.vmap cannot")
def test_rows_that_change_places_in_a_later_batch_only() -> None:
    """In the first batch each image sends one token to each expert; in the second, two images send both to one."""
    model = built(Experts(torch.ones(4, dtype=torch.bool)))
    signs = torch.tensor([1, -1]).repeat(2048 + 64, 1)  # two thousand are the most that are looked at together
    signs[2000] = torch.tensor([1, 1])
    signs[2050] = torch.tensor([-1, -1])
    x, y = routed(signs), torch.zeros(len(signs), dtype=torch.int64)
    expected = oracles.fisher(model, x, y.tolist(), "empirical")
    oracles.assert_close(diagonal_fisher(model, [(x, y)], "empirical"), expected, 1e-10)


def test_a_task_that_runs_without_gradients_is_refused_when_it_comes_second() -> None:
    """What is no tensor, such as the number of a task, tells one kind of batch from another."""
    model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)]).double()

    def forward(model: nn.ModuleList, batch: tuple[Tensor, int]) -> tuple[Tensor, None]:
        x, task = batch
        with torch.set_grad_enabled(task == 0):
            z = model[task](x)
        return z + 0 * model[0](x), None

    with pytest.raises(ValueError, match=r"the logits depend on 1\.weight"):
        diagonal_fisher(model, [(IMAGES, 0), (IMAGES, 1)], forward=forward)


def test_forward_may_hook_its_activations_and_multiply_by_sparse_matrices() -> None:
    """Both are ordinary; a graph network has its neighbours in a sparse matrix."""
    links = torch.eye(4, dtype=torch.float64).to_sparse()

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.a(x)
            z.register_hook(lambda g: g)
            logits: Tensor = self.b(torch.sparse.mm(links, z.T).T.tanh())
            return logits

    model = built(Graph())
    y = [0, 1, 2, 0, 1]
    expected = oracles.fisher(model, IMAGES, y, "exact")
    oracles.assert_close(diagonal_fisher(model, [(IMAGES, torch.tensor(y))]), expected, 1e-10)


@pytest.mark.parametrize(
    ("message", "model", "options"),
    [
        ("outputs and labels", nn.Linear(4, 3), {"forward": lambda m, b: (m(b[0]), b[1], 1)}),
        ("depend on no trainable", nn.Linear(4, 3), {"forward": lambda m, b: (m(b[0]).detach() * 0, None)}),
        ("real numbers", nn.Linear(4, 3), {"forward": lambda m, b: (m(b[0]).long(), None)}),
        ("samples=1.5", nn.Linear(4, 3), {"estimator": "sample", "samples": 1.5}),
    ],
)
def test_forwards_that_are_no_models(message: str, model: nn.Module, options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        diagonal_fisher(model.double(), [(IMAGES, torch.zeros(N, dtype=torch.int64))], **options)


def of_each(model: nn.Module, x: Tensor, log_p: Any) -> dict[str, Tensor]:
    """Σ_n Σ w (∂ log p / ∂θ)² / N in float64; `log_p` takes the outputs of an image, and gives the w and log p."""
    model = copy.deepcopy(model).double()
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for each in x.double():
        for weight, value in log_p(model(each[None])[0]):
            found = torch.autograd.grad(value, [*parameters.values()], retain_graph=True)
            for f, g in zip(sums.values(), found, strict=True):
                f += weight * g**2
    return {name: f / len(x) for name, f in sums.items()}


def sure(outputs: int) -> nn.Module:
    """Its outputs are 25, and 0 for the second of two: 1 − p is 1e-11, below what single precision knows near 1."""
    model = nn.Linear(4, outputs)
    with torch.no_grad():
        model.weight.mul_(0.1)
        model.bias.copy_(torch.tensor([25.0, 0.0])[:outputs])
    return model


@pytest.mark.parametrize("estimator", ["exact", "empirical", "predicted"])
@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli"])
def test_a_sure_model_in_single_precision(likelihood: Likelihood, estimator: Estimator) -> None:
    """1 − p is not formed as a difference: half of its digits, or all, would be rounding."""
    x = IMAGES.float()
    if likelihood == "bernoulli":
        model, y = sure(1), torch.ones(N, 1)

        def log_p(z: Tensor) -> list[tuple[float, Tensor]]:
            yes, no = z.sigmoid().item(), (-z).sigmoid().item()
            both = [(yes, -torch.nn.functional.softplus(-z)[0]), (no, -torch.nn.functional.softplus(z)[0])]
            return both if estimator == "exact" else [(1.0, both[0][1])]
    else:
        model, y = sure(2), torch.zeros(N, dtype=torch.int64)

        def log_p(z: Tensor) -> list[tuple[float, Tensor]]:
            of_all = z.log_softmax(0)
            if estimator == "exact":
                return [(of_all[c].exp().item(), of_all[c]) for c in range(2)]
            return [(1.0, of_all[0])]

    expected = of_each(model, x, log_p)
    oracles.assert_close(diagonal_fisher(model, [(x, y)], estimator, likelihood=likelihood), expected, 1e-4)


def test_labels_in_bytes_leave_no_class_out() -> None:
    """A language model of bytes: in them, −100 is written like 156."""
    model, words, _ = case("categorical")
    model.head = built(nn.Linear(4, 256))
    labels = torch.tensor([[156, 7, 156], [1, 156, 255]])
    expected = diagonal_fisher(model, [(words[:2], labels)], "empirical")
    oracles.assert_close(diagonal_fisher(model, [(words[:2], labels.to(torch.uint8))], "empirical"), expected, 0)


@pytest.mark.parametrize("kind", ["mlp", "convolution"])
@pytest.mark.parametrize("estimator", ["exact", "empirical", "predicted"])
def test_an_image_labelled_minus_100_is_left_out(estimator: Estimator, kind: str) -> None:
    """By each estimator, of diagonal and factors, as `cross_entropy` does; also where a whole batch is."""
    model = mlp()
    x = IMAGES
    if kind == "convolution":
        model = built(nn.Sequential(nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3)))
        x = x[:, None]
    labels = torch.tensor([0, -100, 2, 1, -100])
    kept = labels >= 0
    expected = diagonal_fisher(model, [(x[kept], labels[kept])], estimator)
    for cuts in ([5], [1, 1, 3], [4, 1]):
        loader = list(zip(x.split(cuts), labels.split(cuts), strict=True))
        oracles.assert_close(diagonal_fisher(model, loader, estimator), expected, 1e-12)
        found = kronecker_fisher(model, loader, estimator)
        for name, factors in kronecker_fisher(model, [(x[kept], labels[kept])], estimator).factors.items():
            assert torch.allclose(found.factors[name].a, factors.a, atol=1e-12)
            assert torch.allclose(found.factors[name].g, factors.g, atol=1e-12)


def test_a_prompt_that_only_a_middle_token_sees_is_a_sample() -> None:
    """It is left out of the loss, but its weights act; the vector that is sent back first does not reach it."""

    class Local(nn.Module):
        """Each token sees itself and the one before it."""

        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.Linear(4, 4), nn.Linear(4, C)

        def forward(self, x: Tensor) -> Tensor:
            x = self.mix(x).tanh()
            logits: Tensor = self.head(x + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])
            return logits

    model = built(Local())
    x = torch.randn(N, T, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    labels = torch.tensor([[-100, 1, 2]]).expand(N, T)
    rows = torch.cat((x, torch.ones(N, T, 1, dtype=torch.float64)), 2).flatten(0, 1)
    a = kronecker_fisher(model, [(x, labels)]).factors["mix"].a
    assert torch.allclose(a, rows.T @ rows / (2 * N), atol=1e-12)


def test_a_mask_of_classes_leaves_tokens_alone() -> None:
    """`Masked` hides columns of the last dimension, also of logits (N, T, C)."""
    model, words, labels = case("categorical")
    z = model(words)
    masked = Masked(model, [0, 2])(words)
    assert torch.equal(masked[..., [0, 2]], z[..., [0, 2]])
    assert bool((masked[..., 1] < -1e8).all())
    found = diagonal_fisher(Masked(model, [0, 2]), [(words, labels)])
    assert float(found["model.head.bias"][1]) == 0 < float(found["model.head.bias"][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("estimator", ["exact", "empirical"])
def test_half_precision_is_that_of_its_weights(likelihood: Likelihood, estimator: Estimator, dtype: Any) -> None:
    """Up to rounding, F of the same weights in float64; sums are in single precision."""
    model, inputs, targets = case(likelihood)
    low = copy.deepcopy(model).to(dtype)
    x = inputs.to(dtype) if inputs.is_floating_point() else inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vmap may be given up
        found = diagonal_fisher(low, [(x, targets)], estimator, likelihood=likelihood)
    same = copy.deepcopy(low).double()
    back = x.double() if x.is_floating_point() else x
    expected = diagonal_fisher(same, [(back, targets)], estimator, likelihood=likelihood)
    assert all(f.dtype == torch.float32 for f in found.values())
    oracles.assert_close(found, expected, 0.1)
