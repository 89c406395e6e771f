"""The checks of notebook 03: every verdict a reader can get."""

import pytest
import torch

from contlearn import exercises, metrics


def best_minus_last(matrix):
    return matrix[:-1, :-1].max(dim=0).values - matrix[-1, :-1]


def learn_then_measure(tasks, learn, measure):
    for task in tasks:
        learn(task)
    return sum(measure(task) for task in tasks) / len(tasks)


def measure_while_learning(tasks, learn, measure):
    accuracies = []
    for task in tasks:
        learn(task)
        accuracies.append(measure(task))
    return sum(accuracies) / len(accuracies)


def measure_all_the_time(tasks, learn, measure):
    accuracies = []
    for task in tasks:
        learn(task)
        accuracies += [measure(each) for each in tasks]
    return sum(accuracies) / len(accuracies)


def one_of(index):
    def answer(tasks, learn, measure):
        for task in tasks:
            learn(task)
        return measure(tasks[index])

    return answer


def total(tasks, learn, measure):
    return len(tasks) * learn_then_measure(tasks, learn, measure)


def only_measure(tasks, learn, measure):
    return sum(measure(task) for task in tasks) / len(tasks)


def raises(*arguments):
    raise ZeroDivisionError("of all things")


UNTOUCHED = [
    (exercises.check_3_1, lambda matrix: ...),
    (exercises.check_3_1, lambda matrix: None),
    (exercises.check_3_2, None),
    (exercises.check_3_3, lambda tasks, learn, measure: None),
    (exercises.check_3_4, None),
    (exercises.check_3_5, None),
]
RIGHT = [
    (exercises.check_3_1, lambda matrix: best_minus_last(matrix).mean()),
    (exercises.check_3_1, metrics.forgetting),
    (exercises.check_3_2, ((0.55 - 0.90) + (0.60 - 0.86)) / 2),
    (exercises.check_3_2, metrics.backward_transfer([[0.9, 0.1, 0.1], [0.94, 0.86, 0.12], [0.55, 0.6, 0.9]])),
    (exercises.check_3_3, learn_then_measure),
    (exercises.check_3_4, 1500),
    (exercises.check_3_4, 300 * 0.01 / 0.002),
    (exercises.check_3_4, 1490),
    (exercises.check_3_5, "joint"),
    (exercises.check_3_5, " Joint "),
]
WRONG = [
    (exercises.check_3_1, lambda matrix: -best_minus_last(matrix).mean(), "the sign is turned round"),
    (exercises.check_3_1, lambda matrix: -metrics.backward_transfer(matrix), "a task may improve later"),
    (exercises.check_3_1, lambda matrix: (matrix.max(0).values - matrix[-1]).mean(), "the last task is in your mean"),
    (exercises.check_3_1, lambda matrix: (matrix[:-1].max(0).values - matrix[-1]).mean(), "for the last task too"),
    (exercises.check_3_1, lambda matrix: (matrix.max(0).values - matrix[-1])[:-1].mean(), "let the last row compete"),
    (exercises.check_3_1, lambda matrix: best_minus_last(matrix).sum(), "this is the sum"),
    (exercises.check_3_1, lambda matrix: best_minus_last(matrix).sum() / len(matrix), "no part of the mean"),
    (exercises.check_3_1, lambda matrix: best_minus_last(matrix.T).mean(), "by its columns"),
    (exercises.check_3_1, best_minus_last, "now take their mean"),
    (exercises.check_3_1, lambda matrix: 0.123, "expected 0.17, got 0.123"),
    (exercises.check_3_1, lambda matrix: torch.zeros(2, 5), "expected a single number, got a tensor of shape (2, 5)"),
    (exercises.check_3_1, raises, "your code stopped with ZeroDivisionError: of all things"),
    (exercises.check_3_2, 0.305, "what was lost counts as negative"),
    (exercises.check_3_2, -0.325, "you started from the best accuracy"),
    (exercises.check_3_2, 0.325, "this is forgetting"),
    (exercises.check_3_2, -0.61, "this is the sum"),
    (exercises.check_3_2, -0.61 / 3, "you divided by three"),
    (exercises.check_3_2, -0.31, "rounded, give three decimals"),
    (exercises.check_3_2, ((0.55 - 0.90) + (0.60 - 0.10)) / 2, "you started from the first row"),
    (exercises.check_3_2, 0.55 - 0.90, "task 0 alone"),
    (exercises.check_3_2, 0.60 - 0.86, "task 1 alone"),
    (exercises.check_3_2, -30.5, "percentage points"),
    (exercises.check_3_2, torch.zeros(3), "expected a single number"),
    (exercises.check_3_2, "negative", "expected a single number, got str"),
    (exercises.check_3_3, measure_while_learning, "right after it was learnt"),
    (exercises.check_3_3, one_of(-1), "only the task learnt last"),
    (exercises.check_3_3, one_of(0), "only the task learnt first"),
    (exercises.check_3_3, measure_all_the_time, "average over all moments"),
    (exercises.check_3_3, only_measure, "before it had learnt anything"),
    (exercises.check_3_3, total, "this is the sum"),
    (exercises.check_3_3, lambda tasks, learn, measure: [0.1, 0.2], "expected a single number"),
    (exercises.check_3_3, raises, "your code stopped with ZeroDivisionError: of all things"),
    (exercises.check_3_4, 300, "only a fifth of the way"),
    (exercises.check_3_4, 60, "the wrong way round"),
    (exercises.check_3_4, 1200, "on top of the 300"),
    (exercises.check_3_4, 300 * 0.01, "how far along the path"),
    (exercises.check_3_4, [1, 2], "expected a single number"),
    (exercises.check_3_5, "swap", "in none of the swapped networks"),
    (exercises.check_3_5, "shuffle", "most changes do no harm"),
    (exercises.check_3_5, "slow", "no point on those paths"),
    (exercises.check_3_5, "luck", "'luck' is not it."),
    (exercises.check_3_5, 4, "4 is not it."),
]


@pytest.mark.parametrize(("check", "answer"), UNTOUCHED)
def test_an_untouched_stub_is_not_answered_yet(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out == "not answered yet\n"


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_a_right_answer_is_told_what_it_shows(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(("check", "answer", "verdict"), WRONG)
def test_a_wrong_answer_is_told_its_misconception(check, answer, verdict, capsys):
    check(answer)
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet: ")
    assert verdict in printed
    assert printed.count("\n") == 1
