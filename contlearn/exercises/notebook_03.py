"""The checks behind the exercises of notebook 03."""

from collections.abc import Callable
from typing import Any

from contlearn.exercises.judging import ask, judge, varied


def check_3_1(answer: Callable[..., Any]) -> None:
    """Forgetting of four tasks: the mean over all but the last of the best accuracy before minus that at the end."""
    rows = [[0.9, 0.1, 0.2, 0.1], [0.94, 0.8, 0.1, 0.2], [0.7, 0.85, 0.9, 0.1], [0.5, 0.88, 0.8, 0.95]]
    r = varied(rows, 0.009)
    drop = r[:-1, :-1].max(dim=0).values - r[-1, :-1]
    judge(
        ask(answer, r.clone()),
        drop.mean(),
        "with two tasks this is eq. (3.1). What a task once reached counts, whenever that was.",
        {
            "the sign is turned round: forgetting is the best accuracy minus the last one.": -drop.mean(),
            "you took each task right after it was learnt, but a task may improve later: its best is asked for.": (
                r.diagonal()[:-1] - r[-1, :-1]
            ).mean(),
            "you let the last row compete for the best: take the best before the last training.": (
                (r.max(dim=0).values - r[-1])[:-1].mean()
            ),
            "the last task is in your mean: it had no time to be forgotten, so leave its column out.": (
                (r.max(dim=0).values - r[-1]).mean()
            ),
            "you subtract for the last task too, what it gained in learning: leave its column out.": (
                (r[:-1].max(dim=0).values - r[-1]).mean()
            ),
            "this reads the matrix by its columns: a row is a moment, a column a task.": (
                (r.T[:-1, :-1].max(dim=0).values - r.T[-1, :-1]).mean()
            ),
            "you divided by all tasks, but the last one is no part of the mean.": drop.sum() / 4,
            "this is the sum over the tasks: divide by how many there are.": drop.sum(),
            "these are the drops task by task: now take their mean.": drop,
        },
    )


def check_3_2(answer: float | None) -> None:
    """Backward transfer of three tasks: the mean of the end minus right after learning."""
    judge(
        answer,
        -0.305,
        "both earlier tasks ended lower than they began, so backward transfer is negative.",
        {
            "the sign is turned round: what was lost counts as negative here.": 0.305,
            "you started from the best accuracy, 0.94: here the one right after learning counts, 0.90.": -0.325,
            "nearly: this is rounded, give three decimals.": -0.31,
            "for task 1 you started from the first row, before it was learnt: right after it stood at 0.86.": 0.075,
            "this is task 0 alone: take the mean with task 1.": -0.35,
            "this is task 1 alone: take the mean with task 0.": -0.26,
            "this is forgetting: take 0.90 instead of the best, 0.94, and the end minus the beginning.": 0.325,
            "this is the sum: divide by the two tasks that could change.": -0.61,
            "you divided by three, but the last task is no part of the mean: only two could change.": -0.61 / 3,
            "these are percentage points: divide by 100, for the table holds fractions.": -30.5,
        },
    )


def check_3_3(answer: Callable[..., Any]) -> None:
    """The mean accuracy over all tasks at the end, on a make-believe network that forgets by a known table."""
    r = varied([[0.9, 0.2, 0.1], [0.6, 0.8, 0.15], [0.3, 0.5, 0.7]], 0.009)
    learnt: list[int] = []
    untrained = 0.125
    given = ask(answer, [0, 1, 2], learnt.append, lambda task: float(r[learnt[-1], task]) if learnt else untrained)
    judge(
        given,
        r[-1].mean(),
        "the last row of the matrix: every task, measured on the network that you are left with.",
        {
            "each task is still measured right after it was learnt, before anything could be forgotten.": (
                r.diagonal().mean()
            ),
            "only the task learnt last is in it: the earlier ones are what may be forgotten.": r[-1, -1],
            "only the task learnt first is in it: average over all of them.": r[-1, 0],
            "this is the average over all moments: measure only once the last task is learnt.": r.mean(),
            "the network was measured before it had learnt anything.": untrained,
            "this is the sum: divide by the number of tasks.": r[-1].sum(),
        },
    )


def check_3_4(answer: float | None) -> None:
    """How many steps at a fifth of the learning rate lead to the same place."""
    near = isinstance(answer, int | float) and abs(answer - 1500) <= 75  # the question says "about"
    judge(
        1500 if near else answer,
        1500,
        "a fifth of the learning rate, five times the steps, 1500: the same path, walked more slowly.",
        {
            "as many steps, each five times smaller, lead only a fifth of the way.": 300,
            "that is the wrong way round: smaller steps need to be more.": 60,
            "these are the steps on top of the 300: the new run starts again from the beginning.": 1200,
            "this is learning rate times steps, how far along the path you are: divide it by 0.002.": 3,
        },
    )


def check_3_5(answer: str | None) -> None:
    """Which experiment refutes that the network is too small for both tasks."""
    judge(
        answer.strip().lower() if isinstance(answer, str) else answer,
        "joint",
        "one set of weights does both tasks well, so there is room for both.",
        {
            "in none of the swapped networks did both tasks do well, so this one cannot show that there is room.": (
                "swap"
            ),
            "this shows that most changes do no harm to digits, but no network in it does both tasks well.": "shuffle",
            "no point on those paths was good at both tasks, so they cannot show that such weights exist.": "slow",
        },
    )
