"""The checks behind the second assignment: a comparison that may be published."""

from collections.abc import Callable
from typing import Any

import torch

from contlearn.exercises.judging import ask, double, judge, numbers, shuffled, varied, worth


@worth(4)
def check_a2_1(answer: Callable[..., Any]) -> None:
    """Judge `as_one(fishers, stars)`: S, μ and the constant c of (6.1), for tasks along dimension 0."""
    f, star = numbers(3, 4, seed=1).square() + 0.1, numbers(3, 4, seed=2)
    s, mu = f.sum(0), (f * star).sum(0) / f.sum(0)
    c = (f * (star - mu).square()).sum()

    def together(s: Any, mu: Any, c: Any) -> Any:
        return torch.cat([double(s).flatten(), double(mu).flatten(), double(c).flatten()])

    def flat() -> Any:
        found = answer(f.clone(), star.clone())
        return found if found is None or found is ... else together(*found)

    mistakes = {
        "μ is the plain mean of the θ*: weigh each with its F.": together(s, star.mean(0), c),
        "μ is a sum still: divide Σ F θ* by S, element by element.": together(s, mu * s, c),
        "S is the mean of the F: their sum holds the tasks.": together(s / 3, mu, c),
        "c is zero only if all θ* are the same: put θ = μ into the sum of the springs.": together(s, mu, 0.0),
        "c is Σ F θ*², without − S μ²: what is left at θ = μ.": together(s, mu, (f * star.square()).sum()),
        "c has the wrong sign.": together(s, mu, -c),
        "c has a ½: here all three are without the ½ λ, which stands before the whole sum.": together(s, mu, c / 2),
    }
    right = "three tasks in two vectors and a number, with the value of the sum of springs at every θ."
    judge(ask(flat), together(s, mu, c), right, mistakes)


@worth(4)
def check_a2_2(answer: Callable[..., Any]) -> None:
    """Judge `search(measure)`: λ = 1, 10, 100 and on by factors of 10, until the best is no longer the last."""
    best = int(shuffled([4, 4, 5, 3], seed=3)[0])
    asked: list[float] = []

    def measure(importance: float) -> float:
        asked.append(float(importance))
        away = abs(torch.log10(torch.tensor(float(importance))).item() - best)
        return 0.9 - 0.05 * away - (0.001 if importance < 10**best else 0)

    given = ask(answer, measure)
    if given is None or given is ... or isinstance(given, Exception):
        judge(given, 0, "", {})
        return
    if len(asked) > 3 * (best + 3):
        print(f"Not yet: {len(asked)} runs were measured for a search that needs {best + 2}: each costs a training.")
        return
    if len(asked) > len(set(asked)):
        print("Not yet: the same λ was measured twice: keep what you have measured.")
        return
    mistakes = {
        "the best of 1, 10 and 100 lies at the edge of what was tried: go on while the edge is the best.": 100,
        "this was the last one tried, and it was worse: return the best.": 10 ** (best + 1),
        "λ, not its power of ten.": best,
        "return λ, not its accuracy.": 0.9,
    }
    if double(given).numel() == 1 and float(double(given)) == 10**best and max(asked) < 10 ** (best + 1):
        print("Not yet: this λ is the best, but nobody knows it: none above it was measured.")
        return
    judge(given, 10**best, "a best λ with a worse one on both sides; only now may finer steps come.", mistakes)


@worth(4)
def check_a2_3(answer: Callable[..., Any]) -> None:
    """Judge `compare(first, second)`: paired over seeds, the mean difference and its standard error."""
    first = varied([90.1, 91.4, 88.9, 92.0, 90.6], 0.4, seed=4)
    second = first - varied([0.9, 1.4, 0.7, 1.2, 1.0], 0.2, seed=5)
    d = first - second
    error = d.std() / 5**0.5

    def flat() -> Any:
        found = answer(first.clone(), second.clone())
        return found if found is None or found is ... else torch.stack([double(part) for part in found])

    unpaired = (first.var() / 5 + second.var() / 5).sqrt()
    mistakes = {
        "the difference is the wrong way round: first minus second.": torch.stack((-d.mean(), error)),
        "this is the standard deviation: divide by √n for that of the mean.": torch.stack((d.mean(), d.std())),
        "divide by √n, not by n.": torch.stack((d.mean(), d.std() / 5)),
        "the runs are paired: take the differences first, seed by seed, and their spread.": (
            torch.stack((d.mean(), unpaired))
        ),
        "divide by n − 1 in the variance: `std()` does.": torch.stack((d.mean(), d.std(correction=0) / 5**0.5)),
    }
    right = "what both methods owe to the seed drops out, so that the error tells of the difference alone."
    judge(ask(flat), torch.stack((d.mean(), error)), right, mistakes)
