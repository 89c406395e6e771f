"""The checks of notebook 04 accept the right answer, and name the misconception behind each typical wrong one."""

import pytest
import torch

from contlearn import exercises


def verdict(capsys, check, answer):
    check(answer)
    return capsys.readouterr().out.strip()


def untouched(*_):
    """What the stubs do: nothing."""


def raising(*_):
    raise RuntimeError("no idea")


def score_at_logits(z, c):
    return torch.eye(len(z), dtype=z.dtype)[c] - z.softmax(0)


def scores_of(weight, x):
    """p, and the score of the weight for each label."""
    p = (weight @ x).softmax(0)
    return p[:, None, None], (torch.eye(len(p), dtype=p.dtype) - p)[:, :, None] * x


def fisher_of_one_image(weight, x, y):
    p, s = scores_of(weight, x)
    return (p * s**2).sum(0)


def diagonal_of(scores):
    return (scores**2).mean(0)


def fisher_of_weight(g, a):
    return torch.einsum("no,ni->oi", g**2, a**2) / len(g)


FUNCTIONS = [
    (exercises.check_4_1, score_at_logits),
    (exercises.check_4_2, fisher_of_one_image),
    (exercises.check_4_3, diagonal_of),
    (exercises.check_4_5, fisher_of_weight),
]


def one_after_the_other(g, a):
    return sum(torch.outer(row, inputs).square() for row, inputs in zip(g, a, strict=True)) / len(g)


MISTAKES = [
    (exercises.check_4_1, lambda z, c: -score_at_logits(z, c), "turn the sign"),
    (exercises.check_4_1, lambda z, c: torch.eye(5)[c], "subtract p"),
    (exercises.check_4_1, lambda z, c: -z.softmax(0), "add 1 in its place"),
    (exercises.check_4_1, lambda z, c: z.softmax(0)[c] * score_at_logits(z, c), "this is the gradient of p_c"),
    (exercises.check_4_2, lambda w, x, y: (scores_of(w, x)[1] ** 2).sum(0), "every label counts as much"),
    (exercises.check_4_2, lambda w, x, y: (scores_of(w, x)[1] ** 2).mean(0), "the plain mean over labels"),
    (exercises.check_4_2, lambda w, x, y: torch.mul(*scores_of(w, x)).sum(0) ** 2, "the square of the mean score"),
    (exercises.check_4_2, lambda w, x, y: scores_of(w, x)[1][y] ** 2, "the empirical F"),
    (exercises.check_4_2, lambda w, x, y: scores_of(w, x)[1][(w @ x).argmax()] ** 2, "the predicted F"),
    (exercises.check_4_2, lambda w, x, y: fisher_of_one_image(w, x, y) / x**2, "x is missing"),
    (exercises.check_4_2, lambda w, x, y: (fisher_of_one_image(w, x, y) / x**2)[:, 0], "F at the logits, without x"),
    (exercises.check_4_2, lambda w, x, y: fisher_of_one_image(w, x, y) / x, "x is not squared yet"),
    (exercises.check_4_2, lambda w, x, y: (torch.mul(*scores_of(w, x)) ** 2).sum(0), "p_c belongs outside the square"),
    (exercises.check_4_3, lambda s: s.mean(0) ** 2, "the square of the mean gradient: square first, then average"),
    (exercises.check_4_3, lambda s: s.sum(0) ** 2, "sums over the images and then squares"),
    (exercises.check_4_3, lambda s: (s**2).sum(0), "divide by the number of images"),
    (exercises.check_4_3, lambda s: (s**2).mean(), "one number for all parameters"),
    (exercises.check_4_3, lambda s: (s**2).mean(1), "the average runs over the parameters"),
    (exercises.check_4_3, lambda s: s.abs().mean(0), "the mean size of the scores"),
    (exercises.check_4_4, "A", "that is the predicted F"),
    (exercises.check_4_4, "B", "the sample estimate"),
    (exercises.check_4_4, "D", "neither the exact nor the empirical"),
    (exercises.check_4_3, lambda s: s.var(0, correction=0), "it takes the mean score off"),
    (exercises.check_4_3, lambda s: s.var(0), "over N − 1"),
    (exercises.check_4_3, lambda s: s.square().mean(0).sqrt(), "the root of F"),
    (exercises.check_4_5, lambda g, a: g.square().T @ a / len(g), "A is not squared"),
    (exercises.check_4_5, lambda g, a: g.T @ a.square() / len(g), "G is not squared"),
    (exercises.check_4_5, one_after_the_other, "a loop runs over the images"),
    (exercises.check_4_5, lambda g, a: (g.T @ a / len(g)) ** 2, "the square of the mean gradient"),
    (exercises.check_4_5, lambda g, a: (g.T @ a) ** 2, "adds up the gradients, then squares"),
    (exercises.check_4_5, lambda g, a: (g.T @ a) ** 2 / len(g), "squares the summed gradient"),
    (exercises.check_4_5, lambda g, a: (g**2).T @ a**2, "divide by the number of images N"),
    (exercises.check_4_5, lambda g, a: g.T @ a / len(g), "the mean gradient itself"),
    (exercises.check_4_5, lambda g, a: (a**2).T @ g**2 / len(g), "transposed"),
    (exercises.check_4_5, lambda g, a: fisher_of_weight(g, a).mean(), "one number for the whole layer"),
]


@pytest.mark.parametrize(("check", "right"), [*FUNCTIONS, (exercises.check_4_4, "C"), (exercises.check_4_4, " c ")])
def test_the_right_answer_is_right(capsys, check, right):
    assert verdict(capsys, check, right).startswith("Right: ")


@pytest.mark.parametrize("check", [check for check, _ in FUNCTIONS])
def test_an_untouched_stub_is_not_answered_yet(capsys, check):
    assert verdict(capsys, check, untouched) == "not answered yet"
    assert verdict(capsys, check, lambda *_: ...) == "not answered yet"


def test_an_untouched_choice_is_not_answered_yet(capsys):
    assert verdict(capsys, exercises.check_4_4, ...) == "not answered yet"


@pytest.mark.parametrize(
    ("check", "wrong", "misconception"), MISTAKES, ids=lambda value: getattr(value, "__name__", str(value)[:40])
)
def test_a_typical_mistake_is_named(capsys, check, wrong, misconception):
    said = verdict(capsys, check, wrong)
    assert said.startswith("Not yet: ")
    assert misconception in said


@pytest.mark.parametrize("check", [check for check, _ in FUNCTIONS])
def test_other_answers_get_a_verdict_too(capsys, check):
    assert "RuntimeError: no idea" in verdict(capsys, check, raising)
    assert "expected a tensor of shape" in verdict(capsys, check, lambda *_: torch.zeros(9, 9))
    for odd in ("F", [], {}, [[1], [2, 3]], 1, torch.tensor(True), torch.tensor(float("nan")), 2j):
        assert verdict(capsys, check, lambda *_, odd=odd: odd).startswith("Not yet: ")


@pytest.mark.parametrize("odd", [3, "E", "", ["C"], True, torch.zeros(2), score_at_logits])
def test_other_choices_get_a_verdict_too(capsys, odd):
    assert verdict(capsys, exercises.check_4_4, odd).startswith("Not yet: ")
