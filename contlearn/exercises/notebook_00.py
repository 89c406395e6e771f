"""The checks behind the exercises of notebook 00."""

from collections.abc import Callable
from typing import Any

import torch

from contlearn.exercises.judging import ask, judge, numbers, varied


def check_0_1(answer: Callable[..., Any]) -> None:
    """One point's share of F, p (1 − p) x xᵀ: the term of eq. (0.4)."""
    theta, x = varied([[2.0, 0.5], [1.6, 1.2]], 0.2)
    p, outer = torch.sigmoid(theta @ x - 4), torch.outer(x, x)
    mistakes = {
        "this is p x xᵀ: a point counts where the model is unsure, so multiply by p (1 − p).": p * outer,
        "the 4 of (0.1) is missing in the probability.": torch.sigmoid(theta @ x) * torch.sigmoid(-(theta @ x)) * outer,
        "these are the two numbers of the diagonal only: x xᵀ has four, torch.outer(x, x).": p * (1 - p) * x * x,
        "this keeps the diagonal only: the two entries beside it say how the parameters act together.": (
            torch.diag(p * (1 - p) * x * x)
        ),
        "this is a single number: x @ x adds up what x xᵀ keeps apart.": p * (1 - p) * (x @ x),
        "this is x xᵀ alone: it lacks the factor p (1 − p).": outer,
        "p (1 − p) is squared here: it enters once.": (p * (1 - p)) ** 2 * outer,
    }
    judge(ask(answer, theta, x), p * (1 - p) * outer, "the mean of these matrices over all points is F.", mistakes)


def check_0_2(answer: Callable[..., Any]) -> None:
    """The gradient of the penalty of eq. (0.6), λ F (θ − θ*)."""
    theta, star, f = numbers(2, seed=1), numbers(2, seed=2), numbers(2, seed=3).square()
    slope = 3.0 * f * (theta - star)
    mistakes = {
        "the ½ is still there: the slope of a square brings a 2, and ½ · 2 = 1.": slope / 2,
        "this is twice the slope: ½ · 2 = 1.": 2 * slope,
        "this points downhill: the slope points away from θ*, gradient descent takes the minus.": -slope,
        "F is missing: this is the slope of equal springs.": 3.0 * (theta - star),
        "λ is missing.": f * (theta - star),
        "the two slopes are added up: return one for each parameter.": slope.sum(),
        "this is the energy of each spring, not its slope.": 1.5 * f * (theta - star) ** 2,
    }
    right = "λ F (θ − θ*): the pull grows with the distance and with what task A needs."
    judge(ask(answer, theta, star, f, 3.0), slope, right, mistakes)


def check_0_3(answer: Callable[..., Any]) -> None:
    """The penalty of eq. (0.6), with each difference squared before the sum."""
    theta, star, f = numbers(2, seed=4), numbers(2, seed=5), numbers(2, seed=6).square()
    d = theta - star
    mistakes = {
        "this is still the broken one: it adds up first and squares the sum.": 1.5 * (f * d).sum() ** 2,
        "F is squared as well: only the difference is.": 1.5 * ((f * d) ** 2).sum(),
        "nothing is squared: a spring costs energy in both directions.": 1.5 * (f * d).sum(),
        "the ½ is missing, so that λ means 2λ.": 3.0 * (f * d**2).sum(),
        "the sum is missing: the penalty is a single number.": 1.5 * f * d**2,
        "this is the mean of the two springs: their energies add up.": (1.5 * f * d**2).mean(),
        "F is missing: this is L2 with springs of stiffness 1.": 1.5 * (d**2).sum(),
    }
    right = "each difference is squared by itself, so no two can cancel."
    judge(ask(answer, theta, star, f, 3.0), (1.5 * f * d**2).sum(), right, mistakes)


def check_0_4(answer: Any) -> None:
    """At θ* the penalty has no slope: the first step is the same with and without it."""
    mistakes = {
        "a spring at rest does not pull: EWC has no reason yet to turn upwards, nor L2 to hold back.": "a",
        "a spring at rest does not pull: at θ* there is nothing yet that could shorten the step.": "c",
    }
    right = "at θ* every spring is at rest, its slope λ F (θ* − θ*) is zero; the paths part from the second step on."
    judge(answer, "b", right, mistakes)


def check_0_5(answer: Any) -> None:
    """The λ at which 0.3 (t + 1) + λ 0.2 (t − 2) = 0 holds at t = 1."""
    mistakes = {
        "this is 1/λ: the stiffer the spring must be, the larger λ.": 1 / 3,
        "F is missing: the spring's stiffness is λ F.": 0.6,
        "with this λ both pull equally hard at the same distance, and t rests half-way, at 0.5.": 1.5,
        "the slope of ½ k (t − a)² is k (t − a): the ½ was kept in the slope of the penalty.": 6.0,
        "the distances are swapped: B's place is 2 away from t = 1, A's is 1 away.": 0.75,
        "the sign is wrong: the two slopes point in opposite directions, and λ is positive.": -3.0,
    }
    judge(answer, 3.0, "B pulls with 0.3 · 2, the spring with λ · 0.2 · 1: both are 0.6.", mistakes)
