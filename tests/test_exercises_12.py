"""The checks of notebook 12 accept right answers, name the typical mistakes, and survive anything."""

import pytest
import torch
from exercise_tests import over, verdict
from torch.func import grad, vmap


def intelligence(work, start, end, xi):
    return work.clamp(min=0) / ((end - start) ** 2 + xi)


def each(x, w):
    return vmap(grad(lambda w, x: (w @ x).square().sum()), in_dims=(None, 0))(w, x)


def synapses(x, w):
    return each(x, w).abs().mean(0)


def reversed_gradient(z, y):
    return torch.eye(z.shape[1], dtype=z.dtype)[y] - (-z).softmax(1)


FUNCTIONS = {"check_12_1": intelligence, "check_12_2": synapses, "check_12_3": reversed_gradient}


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("check_12_1", lambda work, a, b, xi: torch.where(work > 0, work, 0) / ((a - b).square() + xi)),
        ("check_12_2", lambda x, w: ((2 * x @ w.T).abs().T @ x.abs()) / len(x)),
        ("check_12_3", lambda z, y: -((-z).softmax(1) - torch.nn.functional.one_hot(y, z.shape[1]))),
    ],
)
def test_other_right_answers(capsys, check, answer):
    assert verdict(capsys, check, answer).startswith("Right")


MISTAKES = [
    ("check_12_1", "pushed away", lambda w, a, b, xi: w / ((b - a) ** 2 + xi)),
    ("check_12_1", "the sign of the work is lost", lambda w, a, b, xi: w.abs() / ((b - a) ** 2 + xi)),
    ("check_12_1", "enters squared", lambda w, a, b, xi: w.clamp(min=0) / ((b - a).abs() + xi)),
    ("check_12_1", "not squared with the way", lambda w, a, b, xi: w.clamp(min=0) / ((b - a).abs() + xi) ** 2),
    ("check_12_1", "the work alone", lambda w, a, b, xi: w.clamp(min=0)),
    ("check_12_1", "their difference is the way", lambda w, a, b, xi: w.clamp(min=0) / (b**2 + xi)),
    ("check_12_1", "expected a tensor of shape (4,)", lambda w, a, b, xi: intelligence(w, a, b, xi).sum()),
    ("check_12_2", "cancel", lambda x, w: each(x, w).mean(0).abs()),
    ("check_12_2", "squared", lambda x, w: each(x, w).square().mean(0)),
    ("check_12_2", "the sum over images", lambda x, w: each(x, w).abs().sum(0)),
    ("check_12_2", "the 2 is missing", lambda x, w: synapses(x, w) / 2),
    ("check_12_2", "signed", lambda x, w: each(x, w).mean(0)),
    (
        "check_12_2",
        "not of its square",
        lambda x, w: (each(x, w) / 2 / (x @ w.T).norm(dim=1)[:, None, None]).abs().mean(0),
    ),
    ("check_12_3", "not reversed", lambda z, y: z.softmax(1) - torch.eye(3)[y]),
    ("check_12_3", "chain rule", lambda z, y: -reversed_gradient(z, y)),
    ("check_12_3", "unless there are two classes", lambda z, y: torch.eye(3)[y] - (1 - z.softmax(1))),
    ("check_12_3", "these are squares", lambda z, y: reversed_gradient(z, y).square()),
    ("check_12_3", "divided by the number", lambda z, y: reversed_gradient(z, y) / len(z)),
]

test_untouched, test_right, test_mistakes_are_named, test_an_answer_that_raises = over(FUNCTIONS, {}, MISTAKES)
