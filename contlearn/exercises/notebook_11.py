"""The checks behind the exercises of notebook 11."""

from collections.abc import Callable
from typing import Any

import torch

from contlearn.exercises.judging import ask, judge, numbers, same


def check_11_1(answer: Callable[..., Any]) -> None:
    """Judge `weights(p, y, labels)`: w_c of eq. (11.1), for four kinds of labels."""
    p, y = torch.tensor([0.2, 0.1, 0.6, 0.1], dtype=torch.float64), 0
    one = torch.eye(4, dtype=torch.float64)
    expected = {"all": p, "true": one[y], "predicted": one[2], "weighted": p[y] * one[y]}
    given: dict[str, Any] = {labels: ask(answer, p.clone(), y, labels) for labels in expected}
    for each in given.values():
        if each is None or each is ... or isinstance(each, Exception):
            judge(each, p, "", {})
            return
    for labels, right in expected.items():
        if not same(given[labels], right):
            judge(
                given[labels],
                right,
                "",
                {
                    f'{labels!r}: these weigh each label with its probability, as "all" does.': p,
                    f"{labels!r}: this is 1 at the true label.": one[y],
                    f"{labels!r}: this is 1 at the most likely label.": one[2],
                    f"{labels!r}: this is the probability of the true label, there.": p[y] * one[y],
                    f"{labels!r}: this is the probability of the most likely label; take the true one.": p * one[2],
                    f"{labels!r}: one weight for each label is wanted, not a single number.": p[y],
                    f"{labels!r}: this weighs all labels alike.": torch.full_like(p, 0.25),
                },
            )
            return
    judge(given["all"], p, 'they add up to 1, but for "weighted": it is one term of the exact sum, and no average.', {})


def check_11_2(answer: Callable[..., Any]) -> None:
    """Judge `square_of_batches(g, size)`: eq. (11.2)."""
    g, size = numbers(12, 3), 4
    means = g.view(-1, size, 3).mean(1)
    judge(
        ask(answer, g.clone(), size),
        means.square().mean(0),
        "one number a parameter, and the batch size is in it.",
        {
            "this is eq. (11.1), the mean of squares: average within the batch before you square.": g.square().mean(0),
            "this squares the sum of a batch, not its mean: B² times too large.": (size * means).square().mean(0),
            "the squares of the batches are added up; their mean is wanted.": means.square().sum(0),
            "this is eq. (11.3): every batch must be squared by itself.": means.sum(0).square(),
            "this is the mean of everything, squared: every batch must be squared by itself.": g.mean(0).square(),
            "nothing is squared here.": means.mean(0),
            "the batches are still apart: average over them.": means.square(),
            "`size` is the number of images in a batch, not of batches.": g.view(size, -1, 3).mean(1).square().mean(0),
            "a batch is a run of neighbours in the loader: view(-1, size, …), not the other way round.": (
                g.view(size, -1, 3).mean(0).square().mean(0)
            ),
        },
    )


def check_11_3(answer: Callable[..., Any]) -> None:
    """Judge `your_importance(lam, half, summed, images)`: eq. (11.4)."""
    asked = [(40.0, True, False, 500), (40.0, False, False, 500), (40.0, True, True, 500), (40.0, False, True, 500)]
    given = [ask(answer, *each) for each in asked]
    for each in given:
        if each is None or each is ... or isinstance(each, Exception):
            judge(each, 0.0, "", {})
            return
    judge(
        ask(torch.tensor, [float(each) if _is_number(each) else float("nan") for each in given]),
        torch.tensor([40.0, 80.0, 20_000.0, 40_000.0]),
        "the same penalty, so the same training: only the number in front has another name.",
        {
            "without a ½ their λ counts double in yours, not half.": torch.tensor([40.0, 20.0, 20_000.0, 10_000.0]),
            "the ½ is the wrong way round: it doubles where it is missing.": (
                torch.tensor([80.0, 40.0, 40_000.0, 20_000.0])
            ),
            "a sum is larger than a mean: your λ must be larger too.": torch.tensor([40.0, 80.0, 0.08, 0.16]),
            "the sum over the images is left out.": torch.tensor([40.0, 80.0, 40.0, 80.0]),
            "the ½ is left out.": torch.tensor([40.0, 40.0, 20_000.0, 20_000.0]),
            "this copies λ.": torch.tensor([40.0, 40.0, 40.0, 40.0]),
        },
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, torch.Tensor) and value.numel() == 1)


def check_11_4(answer: str | list[str] | tuple[str, ...] | None) -> None:
    """Judge three descriptions: batches, everything, images."""
    letters = "".join(map(str, answer)) if isinstance(answer, list | tuple) else answer
    judge(
        "".join(letters.replace(",", " ").split()).lower() if isinstance(letters, str) else letters,
        "bca",
        "a factor that is multiplied and divided away changes nothing; a missing zero_grad() changes everything.",
        {
            "1: B times the square of a mean is not the square of each image; and divided by N, B cancels.": "aca",
            "1: it squares in each batch, before anything is added up.": "cca",
            "2: after zero_grad() once, the gradients of all batches add up before they are squared.": "bba",
            "2 squares once, at the end: no image and no batch by itself.": "baa",
            "3: which label is taken is another question; it loops over images.": "bcb",
            "1 and 2 are exchanged.": "cba",
        },
    )
