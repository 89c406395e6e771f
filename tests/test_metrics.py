"""The metrics against numbers worked out by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from contlearn.metrics import accuracies, average_accuracy, backward_transfer, forgetting, forward_transfer

NAN = math.nan

# After task 0, 1, 2 (rows), on task 0, 1, 2 (columns).
THREE = [
    [0.9, 0.2, 0.1],
    [0.7, 0.8, 0.3],
    [0.8, 0.5, 0.6],
]
LOWER = [[r if j <= i else NAN for j, r in enumerate(row)] for i, row in enumerate(THREE)]
RISING = [[0.5, 0.0, 0.0], [0.9, 0.5, 0.0], [0.6, 0.7, 0.5]]  # the best on task 0 comes in the middle


@pytest.mark.parametrize("matrix", [THREE, LOWER, torch.tensor(THREE), torch.tensor(LOWER).half()])
def test_three_tasks_by_hand(matrix: Any) -> None:
    """Last row's mean; (0.9 − 0.8 + 0.8 − 0.5) / 2; its opposite. What lies above the diagonal is not asked for."""
    assert average_accuracy(matrix) == pytest.approx((0.8 + 0.5 + 0.6) / 3, rel=1e-3)
    assert forgetting(matrix) == pytest.approx(0.2, rel=1e-2)
    assert backward_transfer(matrix) == pytest.approx(-0.2, rel=1e-2)


def test_forgetting_counts_from_the_best_and_backward_transfer_from_the_first() -> None:
    """Task 0 went 0.5, 0.9, 0.6 and task 1 went 0.5, 0.7."""
    assert forgetting(RISING) == pytest.approx((0.3 - 0.2) / 2)
    assert backward_transfer(RISING) == pytest.approx((0.1 + 0.2) / 2)


def test_forgetting_ignores_what_came_before_a_task_was_learned() -> None:
    """Task 1 stood at 0.9 by luck before it was seen; counted from 0.6, it lost 0.1."""
    assert forgetting([[0.8, 0.9, NAN], [0.8, 0.6, NAN], [0.8, 0.5, 0.7]]) == pytest.approx(0.05)


def test_forward_transfer_by_hand() -> None:
    """Just before each is learned: task 1 stands at 0.2, task 2 at 0.3; fresh networks at 0.1 and 0.25."""
    assert forward_transfer(THREE, untrained=[0.1, 0.1, 0.25]) == pytest.approx((0.1 + 0.05) / 2)
    assert forward_transfer(THREE, untrained=torch.tensor([NAN, 0.1, 0.25])) == pytest.approx(0.075)
    below_unneeded = [[NAN, 0.2, NAN], [NAN, NAN, 0.3], [NAN, NAN, NAN]]
    assert forward_transfer(below_unneeded, untrained=[0.1, 0.1, 0.25]) == pytest.approx(0.075)


def test_two_tasks_by_hand() -> None:
    """MNIST from 0.97 to 0.33, as in the third notebook: the drop of the first task is all there is."""
    matrix = [[0.97, 0.09], [0.33, 0.86]]
    assert forgetting(matrix) == pytest.approx(0.64)
    assert backward_transfer(matrix) == pytest.approx(-0.64)
    assert average_accuracy(matrix) == pytest.approx(0.595)


def test_all_and_nothing_are_accuracies() -> None:
    """From 1 to 0 and back again."""
    assert forgetting([[1, 0], [0, 1]]) == 1
    assert backward_transfer([[0, 1], [1, 0]]) == 1


def test_one_task_has_an_average_only() -> None:
    assert average_accuracy([[0.9]]) == pytest.approx(0.9)


@pytest.mark.parametrize("metric", [forgetting, backward_transfer, lambda r: forward_transfer(r, [0.1])])
def test_one_task_forgets_nothing_yet(metric: Callable[[Any], float]) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 1\).*T ≥ 2"):
        metric([[0.9]])


@pytest.mark.parametrize(
    "metric", [average_accuracy, forgetting, backward_transfer, lambda r: forward_transfer(r, [0.1, 0.1, 0.1])]
)
@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3]], r"shape \(2, 3\)"),
        ([0.9, 0.8], r"shape \(2,\)"),
        ([], r"shape \(0,\)"),
        ([[90.0, 20.0], [70.0, 80.0]], "found 90: divide"),
        ([[1.01, 0.2], [0.7, 0.8]], "found 1.01"),
        ([[0.9, -0.1], [0.7, 0.8]], "found -0.1"),
        ([[NAN] * 3] * 3, "is NaN: measure that task"),
    ],
)
def test_wrong_matrices_are_refused(metric: Callable[[Any], float], matrix: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(matrix)


@pytest.mark.parametrize(
    ("metric", "row", "column"),
    [
        (average_accuracy, 2, 0), (average_accuracy, 2, 2), (forgetting, 2, 1), (forgetting, 1, 0), (forgetting, 1, 1),
        (backward_transfer, 2, 0), (backward_transfer, 0, 0), (backward_transfer, 1, 1),
    ],
)  # fmt: skip
def test_an_entry_that_is_needed_must_be_there(metric: Callable[[Any], float], row: int, column: int) -> None:
    matrix = torch.tensor(LOWER)
    matrix[row, column] = NAN
    with pytest.raises(ValueError, match="is NaN: measure that task"):
        metric(matrix)


@pytest.mark.parametrize(
    ("untrained", "message"), [([0.1, 0.1], r"shape \(2,\).*3 tasks"), ([0.1, NAN, 0.1], "is NaN")]
)
def test_forward_transfer_wants_every_untrained_accuracy(untrained: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forward_transfer(THREE, untrained)


def test_accuracies_is_one_row_by_hand() -> None:
    """The model answers with the larger of two numbers: right on all, on half and on one in four of the images."""
    images = torch.tensor([[1.0, 0], [0, 1.0], [1.0, 0], [0, 1.0]])
    model = nn.Linear(2, 2, bias=False)
    nn.init.eye_(model.weight)
    answers = [[0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 1, 1]]
    loaders = [[(images[:3], torch.tensor(y)[:3]), (images[3:], torch.tensor(y)[3:])] for y in answers]
    assert accuracies(model, loaders) == [1, 0.5, 0.25]
