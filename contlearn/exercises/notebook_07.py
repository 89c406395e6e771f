"""The checks behind the exercises of notebook 07."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contlearn.data import load_fashion_mnist, load_mnist
from contlearn.exercises.judging import ask, judge, judge_both, numbers
from contlearn.models import MLP


def check_7_1(answer: tuple[float, float] | list[float] | None) -> None:
    """Judge how stiff F = [[2, 1.8], [1.8, 2]] is along (1, 1) and along (1, −1), over what its diagonal says."""
    right = "along (1, 1) the diagonal is nearly half too soft, along (1, −1) ten times too stiff."
    mistakes = {
        "the two moves are swapped: along (1, 1) both mixed terms add 1.8.": [0.1, 1.9],
        "this is dᵀ F d itself: divide by what the diagonal alone gives, 4 in both cases.": [7.6, 0.4],
        "this is the diagonal's over F's: turn the fractions round.": [1 / 1.9, 10],
        "the mixed term counts once here: F₁₂ and F₂₁ both stand in the sum.": [1.45, 0.55],
        "half of dᵀ F d over all of the diagonal's 4: the ½ stands in both, and cancels.": [0.95, 0.05],
        "this is the diagonal against itself: the mixed terms F₁₂ d₁ d₂ are missing.": [1, 1],
    }
    judge(answer, [1.9, 0.1], right, mistakes)


def check_7_2(answer: Callable[..., Any]) -> None:
    """Judge `kronecker_block(a, g)`: for one image, the outer product of its flattened gradient g aᵀ, eq. (7.2)."""
    a, g = numbers(3), numbers(2, seed=1)
    flat = torch.outer(g, a).flatten()
    mistakes = {
        "this is in the order of columns: W.flatten() runs along the rows, so G comes first, torch.kron(G, A).": (
            torch.kron(torch.outer(a, a), torch.outer(g, g))
        ),
        "this is the gradient g aᵀ itself: the block has a number for each pair of weights.": torch.outer(g, a),
        "this is the flattened gradient: the block is its outer product with itself.": flat,
        "this is the diagonal of the block only.": flat.square(),
        "all but the diagonal is zero here.": flat.square().diag(),
    }
    right = "for one image the block is exactly (g gᵀ) ⊗ (a aᵀ); only the mean over images makes it approximate."
    judge(ask(answer, a.clone(), g.clone()), torch.outer(flat, flat), right, mistakes)


def check_7_3(answer: Callable[..., Any]) -> None:
    """Judge `factors(a, g)`, eq. (7.3): a is (N, I+1); g is (C, N, O), with √p_c in it."""
    a, g = numbers(4, 3), numbers(2, 4, 2, seed=1)
    given = ask(answer, a.clone(), g.clone())
    if isinstance(given, tuple | list) and len(given) == 2:
        pair = given
        given = ask(lambda: torch.cat([torch.as_tensor(factor).flatten() for factor in pair]))

    def both(a_factor: Tensor, g_factor: Tensor) -> Tensor:
        return torch.cat((a_factor.flatten(), g_factor.flatten()))

    mean_a, each_g = a.T @ a / 4, torch.einsum("cno,cnp->op", g, g)
    outer_a, outer_g = torch.outer(a.mean(0), a.mean(0)), torch.outer(g.sum(0).mean(0), g.sum(0).mean(0))
    mistakes = {
        "these are outer products of the means: take the outer product image by image, then the mean.": (
            both(outer_a, outer_g)
        ),
        "A is still the outer product of the mean input.": both(outer_a, each_g / 4),
        "G is still the outer product of the mean gradient.": both(mean_a, outer_g),
        "G is divided by the number of labels as well: √p_c has weighted them already.": both(mean_a, each_g / 8),
        "G adds up the labels before it multiplies: each label has an outer product of its own.": (
            both(mean_a, torch.einsum("no,np->op", g.sum(0), g.sum(0)) / 4)
        ),
        "these are sums: divide both by the number of images.": both(4 * mean_a, each_g),
        "A is a sum: divide it by the number of images too.": both(4 * mean_a, each_g / 4),
        "G is a sum: divide it by the number of images too.": both(mean_a, each_g),
        "A and G have changed places: return A, then G.": both(each_g / 4, mean_a),
    }
    judge(given, both(mean_a, each_g / 4), "products first, then the mean: the same order as for F itself.", mistakes)


def check_7_4(answer: Callable[..., Any]) -> None:
    """Judge `my_penalty(delta, A, G, importance)`, eq. (7.4) for one layer."""
    delta, a, g = numbers(2, 3), numbers(5, 3, seed=1), numbers(5, 2, seed=2)
    A, G = a.T @ a / 5, g.T @ g / 5
    expected = 15 * (delta * (G @ delta @ A)).sum()
    mistakes = {
        "the ½ is missing: this is twice the penalty.": 2 * expected,
        "λ is missing: this is the penalty for λ = 1.": expected / 30,
        "this is the diagonal's penalty: all pairs of different weights are missing.": (
            15 * (torch.outer(G.diagonal(), A.diagonal()) * delta**2).sum()
        ),
        "A is missing: the inputs count as much as the gradients.": 15 * (delta * (G @ delta)).sum(),
        "G is missing: the gradients count as much as the inputs.": 15 * (delta * (delta @ A)).sum(),
        "the sum is missing: the penalty is a single number.": 15 * delta * (G @ delta @ A),
        "this squares G ΔW A: multiply it by ΔW and add up.": 15 * (G @ delta @ A).square().sum(),
        "this is the gradient λ G ΔW A: the penalty is a single number.": 30 * G @ delta @ A,
    }
    right = "½ λ tr(ΔWᵀ G ΔW A), without ever multiplying the factors out."
    judge(ask(answer, delta.clone(), A.clone(), G.clone(), 30), expected, right, mistakes)


def check_7_5(answer: Callable[..., Any]) -> None:
    """Judge `my_step(delta, A, G, strength)`, eq. (7.6): the new distance from θ*, strength being ηλ."""
    delta, a, g = numbers(2, 3), numbers(5, 3, seed=1), numbers(5, 2, seed=2)
    A, G = a.T @ a / 5, g.T @ g / 5
    (values_a, q_a), (values_g, q_g) = torch.linalg.eigh(A), torch.linalg.eigh(G)
    inside = q_g.T @ delta @ q_a
    spectrum = torch.outer(values_g, values_a)
    shrunk = inside / (1 + 4 * spectrum)
    mistakes = {
        "this is a step of plain descent: it explodes where ηλ times the largest eigenvalue exceeds 2.": (
            delta - 4 * G @ delta @ A
        ),
        "this is still in the eigenbases: turn it back, Q_G … Q_Aᵀ.": shrunk,
        "the 1 in the denominator is missing: with ηλ = 0 nothing may move.": q_g @ (inside / (4 * spectrum)) @ q_a.T,
        "the eigenvalues of a Kronecker product are products g_i a_j, not sums.": (
            q_g @ (inside / (1 + 4 * (values_g[:, None] + values_a))) @ q_a.T
        ),
        "this is the diagonal's step, (5.6): pairs of different weights are missing.": (
            delta / (1 + 4 * torch.outer(G.diagonal(), A.diagonal()))
        ),
        "this divides by the eigenvalues without turning into the eigenbases first.": delta / (1 + 4 * spectrum),
        "the turning is the wrong way round: Q_Gᵀ … Q_A goes in, Q_G … Q_Aᵀ comes out.": (
            q_g.T @ ((q_g @ delta @ q_a.T) / (1 + 4 * spectrum)) @ q_a
        ),
        "the strength is missing: multiply the eigenvalues by ηλ.": q_g @ (inside / (1 + spectrum)) @ q_a.T,
    }
    right = "each eigen-direction shrinks by its own factor between 0 and 1, for every λ."
    expected = q_g @ shrunk @ q_a.T
    judge(ask(answer, delta.clone(), A.clone(), G.clone(), 4), expected, right, mistakes)


def check_7_6(answer: Callable[..., Any]) -> None:
    """Judge `learn_both(model, clothes, digits)` by outcome: at least 78 % of both test sets, clothes first."""
    torch.manual_seed(0)
    right = "clothes first is the harder order: the diagonal of F was seen to fail here at every λ."
    judge_both(answer, MLP(), (load_fashion_mnist(), load_mnist()), 0.78, right)
