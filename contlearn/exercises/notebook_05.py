"""The checks behind the exercises of notebook 05."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from contlearn.data import load_fashion_mnist, load_mnist
from contlearn.exercises.judging import ask, judge, judge_both, numbers, same
from contlearn.models import MLP


def check_5_1(answer: Callable[..., Any]) -> None:
    """Judge `my_penalty(theta, theta_star, fisher, importance)`, eq. (5.2) for one task and one tensor."""
    theta, star, fisher = numbers(2, 3), numbers(2, 3, seed=1), numbers(2, 3, seed=2).square()
    squares = (theta - star).square()
    expected = 0.5 * 30 * (fisher * squares).sum()
    returned: list[Any] = []

    def keep(*arguments: Any) -> Any:
        returned.append(answer(*arguments))
        return returned[0]

    given = ask(keep, theta.clone().requires_grad_(), star.clone(), fisher.clone(), 30)
    attached = isinstance(given, Tensor) and (returned[0].requires_grad or returned[0].device.type != "cpu")
    if same(given, expected) and not attached:
        print(
            "Not yet: the number is right, but no gradient flows through it, so descent would not feel it: return the "
            "sum as a tensor, without .item(), float() or .detach()."
        )
        return
    judge(
        given,
        expected,
        "this is ½ λ Σ F (θ − θ*)², a single number that is zero where θ = θ*.",
        {
            "the ½ is missing: this is twice the penalty.": 2 * expected,
            "this pulls the weights towards zero: take the distance from θ*, θ − θ*.": 15 * (fisher * theta**2).sum(),
            "F enters squared: multiply the squared distance by F itself.": 15 * (fisher**2 * squares).sum(),
            "F is missing: this holds every weight with the same strength.": 15 * squares.sum(),
            "this sums first and squares then: moves in opposite directions cancel. Square each distance.": (
                15 * (fisher * (theta - star)).sum() ** 2
            ),
            "the mean over the weights is not the sum: the penalty of a large model would fade.": expected / 6,
            "λ stands inside the square: it multiplies the sum once.": expected * 30,
            "λ is missing: this is the penalty for λ = 1.": expected / 30,
            "this is zero: θ is compared with itself, not with θ*.": 0.0,
        },
    )


def check_5_2(answer: Callable[..., Any]) -> None:
    """Judge `remember(model)`: θ*, by name, must survive the training that follows and be cut off from autograd."""
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    memory = ask(answer, model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)  # the training that follows
    if isinstance(memory, Mapping):
        stored = memory
        memory = ask(lambda: torch.cat([stored[name].flatten() for name in names]))
        if same(memory, before) and _hangs_on(model, memory):
            print(
                "Not yet: the numbers are right, but the copies still hang on the model, so the penalty's gradient "
                "through them cancels the one through θ: detach() them."
            )
            return
    judge(
        memory,
        before,
        "these numbers stay where they are, whatever the model does next.",
        {
            "these are the model's own weights: they move along, θ − θ* stays zero for ever, and so does the "
            "penalty.": before + 1,
            "these are zeros: with them the penalty pulls towards zero, not towards θ*.": torch.zeros_like(before),
        },
    )


def _hangs_on(model: torch.nn.Module, memory: Tensor) -> bool:
    """Whether a gradient through `memory` reaches the model's weights; copies that merely want one are harmless."""
    if not memory.requires_grad:
        return False
    reached = torch.autograd.grad(memory.sum(), list(model.parameters()), allow_unused=True)
    return any(gradient is not None for gradient in reached)


def check_5_3(answer: str | list[str] | tuple[str, ...] | None) -> None:
    """Judge the fates of one weight under plain descent at ηλF = 1.5, 0.5, 2.5 and 1.0, eq. (5.5)."""
    letters = "".join(map(str, answer)) if isinstance(answer, list | tuple) else answer
    given = "".join(letters.replace(",", " ").split()).lower() if isinstance(letters, str) else letters
    wrong = next((k for k, letter in enumerate("cadb") if not isinstance(given, str) or given[k : k + 1] != letter), 0)
    judge(
        given,
        "cadb",
        "the distance is multiplied by 1 − ηλF, and shrinks while ηλF is between 0 and 2.",
        {
            "at ηλF = 1.5 the weight overshoots but ends at −0.5 of its distance: the bound is 2, not 1.": "dadb",
            "at ηλF = 2.5 the weight ends at −1.5 of its distance, farther away than before.": "cacb",
            "at ηλF = 1.5 the factor 1 − 1.5 is negative: the weight lands on the other side.": "aadb",
            "this is what the proximal step does; plain descent multiplies the distance by 1 − ηλF.": "aaaa",
            "the ½ of the penalty is not in its gradient: the factor is 1 − ηλF, not 1 − ½ηλF.": "aaca",
            f"{given!r} is not it. Look first at ηλF = {(1.5, 0.5, 2.5, 1.0)[wrong]}: by which factor, of which sign "
            "and size, is the distance multiplied?": given if isinstance(given, str) and len(given) == 4 else None,
        },
    )


def check_5_4(answer: Callable[..., Any]) -> None:
    """Judge `my_proximal_step(theta, theta_star, fisher, strength)`, eq. (5.6), with strength ηλ."""
    theta, star, fisher = numbers(5), numbers(5, seed=1), numbers(5, seed=2).square()
    pull = 3 * fisher
    judge(
        ask(answer, theta.clone(), star.clone(), fisher.clone(), 3),
        (theta + pull * star) / (1 + pull),
        "a weighted mean of θ and θ*: it lies between the two for every λ.",
        {
            "this is a step of plain descent on the penalty, which explodes where ηλF > 2.": theta
            - pull * (theta - star),
            "this moves away from θ*: the gradient has the wrong sign.": theta + pull * (theta - star),
            "the denominator 1 + ηλF is missing, so this is no mean of θ and θ*.": theta + pull * star,
            "this pulls towards zero: ηλFθ* is missing in the numerator.": theta / (1 + pull),
            "θ and θ* have changed places: a large F must lead to θ*.": (star + pull * theta) / (1 + pull),
            "F is missing: every weight is pulled with the same strength.": (theta + 3 * star) / 4,
            "the ½ of the penalty is gone once it is differentiated: the factor is ηλF, not ½ηλF.": (
                theta + pull / 2 * star
            )
            / (1 + pull / 2),
        },
    )


def check_5_5(answer: float | None) -> None:
    """Judge the λ of eq. (5.3) that equals `lam = 400` without the ½, beside a loss summed over 64 images."""
    judge(
        answer,
        12.5,
        "of 400 beside a sum over 64 images, 6.25 stay beside the mean; without their missing ½ that is λ = 12.5.",
        {
            "the ½ went the wrong way: ½ λ must equal their factor, so λ is twice as large.": 400 / 64 / 2,
            "their code has no ½, yours has: your λ must be twice as large.": 400 / 64,
            "their cross-entropy is summed over 64 images, yours is the mean: divide their whole loss by 64.": 800,
            "the ½ went the wrong way, and their sum over 64 images is still to be divided by 64.": 200,
            "the sum over 64 images went the wrong way: divide by 64.": 400 * 64 * 2,
            "400 is their number: the ½ and the sum over 64 images both change it.": 400,
            "divide their whole loss by 64, then set the factors before the two sums equal; mind the ½.": ask(
                float, answer
            ),
        },
    )


def check_5_6(answer: Callable[..., Any]) -> None:
    """Judge `learn_both(model, digits, clothes)` by outcome: at least 82 % of both test sets."""
    torch.manual_seed(0)
    model, right = MLP(hidden_size=400, hidden_layers=1), "no image of MNIST was needed for the second half of that."
    judge_both(answer, model, (load_mnist(), load_fashion_mnist()), 0.82, right)
