"""The checks behind the exercises of notebook 06."""

from collections.abc import Callable
from typing import Any

import torch

from contlearn.exercises.judging import ask, double, judge, numbers, shuffled, varied


def check_6_1(answer: Callable[..., Any]) -> None:
    """Judge `take_out(s, mu, f, star)`: S and μ of eq. (6.1) after one of the tasks is gone."""
    f, star = numbers(3, 4, seed=1).square() + 0.1, numbers(3, 4, seed=2)
    s, moment = f.sum(0), (f * star).sum(0)  # S and Sμ of all three
    rest, others = f[:2].sum(0), (f[:2] * star[:2]).sum(0)  # of the first two
    mistakes = {
        "the task went in a second time: its F and its F θ* must be subtracted.": (s + f[2], moment + f[2] * star[2]),
        "S is right, but μ is still that of all tasks.": (rest, rest * moment / s),
        "S is right, but the new Sμ must be divided by the new S, not the old one.": (rest, others * rest / s),
        "S is right, but θ* enters μ weighted by its F: subtract F θ*, not θ*.": (rest, moment - star[2]),
        "S is right; for μ subtract F θ* from Sμ, then divide by the new S.": (rest, rest * (moment / s - star[2])),
        "S is still that of all tasks: it loses this task's F.": (s, s * others / rest),
    }
    named = {sentence: torch.stack((total, m / total)) for sentence, (total, m) in mistakes.items()}
    named["these are the right two, in the wrong order: return S, then μ."] = torch.stack((others / rest, rest))
    given = ask(lambda: _pair(answer(s.clone(), moment / s, f[2].clone(), star[2].clone())))
    right = "a task can be taken out as exactly as it was put in, if its F and θ* are known."
    judge(given, torch.stack((rest, others / rest)), right, named)


def check_6_2(answer: Callable[..., Any]) -> None:
    """Judge `my_backward_transfer(matrix)`, eq. (6.5)."""
    r = varied([[98, 10, 12, 9], [91, 97, 11, 10], [93, 98, 96, 13], [86, 88, 89, 95]], 0.4) / 100
    drops = r[-1, :-1] - r.diagonal()[:-1]
    mistakes = {
        "this is positive, but tasks were forgotten here: after minus before, R[T−1, j] − R[j, j].": -drops.mean(),
        "the last task cannot change after itself: average over the T − 1 earlier ones.": drops.sum() / 4,
        "this is a sum: divide by T − 1.": drops.sum(),
        "these are the changes of the single tasks: average them.": drops,
        "this is minus the forgetting: start from R[j, j], not from the best.": -(
            torch.stack([r[j:-1, j].max() for j in range(3)]) - r[-1, :-1]
        ).mean(),
        "the first row was measured before the later tasks were learnt: start from the diagonal R[j, j].": (
            (r[-1] - r[0])[:-1].mean()
        ),
        "the diagonal is that of the next row: start from R[j, j].": (r[-1, :-1] - r.diagonal(-1)).mean(),
        "this is the average accuracy: compare it with what each task had when it was new.": r[-1].mean(),
    }
    right = "what the later tasks did to the earlier ones; here they cost nine points."
    judge(ask(answer, r.clone()), drops.mean(), right, mistakes)


def check_6_3(answer: Callable[..., Any]) -> None:
    """Judge `choose(runs)`: the λ that the validation images choose, and the accuracy that may be reported."""
    low, best, tempting, largest = (
        (int(importance + 1000 * moved), validation + moved, test - moved / 2)
        for importance, validation, test, moved in zip(
            (10, 30, 100, 300), (0.90, 0.95, 0.94, 0.91), (0.93, 0.94, 0.96, 0.92), varied([0.0] * 4, 0.004).tolist(),
            strict=True,
        )
    )  # fmt: skip
    runs = [
        dict(zip(("importance", "validation", "test"), row, strict=True))
        for row in shuffled((low, best, tempting, largest))
    ]
    judge(
        ask(lambda: _pair(answer(runs))),
        double([best[0], best[2]]),
        "the validation images choose, the test images only judge what was chosen.",
        {
            "the test images chose this λ, so they can no longer judge it: choose by validation.": (
                [tempting[0], tempting[2]]
            ),
            "the λ is right, but the images that chose it flatter it: report the test accuracy.": [best[0], best[1]],
            "the λ is right, but this accuracy belongs to another λ: report that of the chosen run.": (
                [best[0], tempting[2]]
            ),
            "the test images chose, and the validation images judge: it is the other way round.": (
                [tempting[0], tempting[1]]
            ),
            "this is the largest λ, not the best on the validation images.": [largest[0], largest[2]],
        },
    )


def check_6_4(answer: float | None) -> None:
    """Judge after how many tasks a task counts less than half with decay γ = 0.9, eq. (6.6)."""
    judge(
        answer,
        7,
        "0.9⁷ ≈ 0.48, while 0.9⁶ ≈ 0.53.",
        {
            "after 6 tasks 0.9⁶ ≈ 0.53 is left, still more than half.": 6,
            "a tenth of what is left goes each time, not a tenth of the whole: 0.9⁵ ≈ 0.59.": 5,
            "after 7 it is less than half already: 0.9⁷ ≈ 0.48.": 8,
            "10 is what all tasks together can reach, 1/(1 − γ); ask when one task's γᵏ falls below ½.": 10,
        },
    )


def check_6_5(answer: str | list[str] | tuple[str, ...] | None) -> None:
    """Judge how four costs grow with the number of tasks: c(onstant), l(inear) or q(uadratic)."""
    letters = "".join(map(str, answer)) if isinstance(answer, list | tuple) else answer
    judge(
        "".join(letters.replace(",", " ").split()).lower() if isinstance(letters, str) else letters,
        "cclq",
        "one quadratic costs the same for ever; only measuring grows.",
        {
            "S and μ are sums: however many tasks go in, two vectors come out.": "lclq",
            "a step looks at S and μ alone, and these do not grow.": "cllq",
            "S and μ do not grow, and so neither do memory nor step.": "lllq",
            "a list of springs has one more with each task, and each step computes all of them.": "cccq",
            "row i has i entries: 1 + 2 + … + T = T (T + 1) / 2.": "ccll",
            "a list of springs grows by one with each task: that is linear. It is R that has two directions.": "ccql",
        },
    )


def _pair(found: Any) -> Any:
    """An answer of two tensors or numbers as one tensor; whatever else it is, unchanged."""
    if not isinstance(found, list | tuple) or len(found) != 2 or any(part is None for part in found):
        return None if isinstance(found, list | tuple) and all(part is None for part in found) else found
    return torch.stack([double(part) for part in found])
