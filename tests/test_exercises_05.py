"""The checks of notebook 05 accept right answers, name the typical mistakes, and survive anything."""

import copy

import pytest
import torch
from exercise_tests import over, verdict


def penalty(theta, theta_star, fisher, importance):
    return 0.5 * importance * (fisher * (theta - theta_star).square()).sum()


def remember(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def proximal(theta, theta_star, fisher, strength):
    return (theta + strength * fisher * theta_star) / (1 + strength * fisher)


FUNCTIONS = {"check_5_1": penalty, "check_5_2": remember, "check_5_4": proximal}
VALUES = {"check_5_3": "cadb", "check_5_5": 12.5}


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("check_5_1", lambda t, s, f, k: 0.5 * k * (f.flatten() @ (t - s).flatten() ** 2)),
        ("check_5_2", lambda model: {name: p.data.clone() for name, p in model.named_parameters()}),
        ("check_5_2", lambda model: {name: t.clone() for name, t in model.state_dict().items()}),
        ("check_5_2", lambda model: dict(copy.deepcopy(model).named_parameters())),
        ("check_5_2", lambda model: {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}),
        ("check_5_3", " CADB\n"),
        ("check_5_3", "c, a, d, b"),
        ("check_5_3", ["c", "A", "d", "b "]),
        ("check_5_3", tuple("cadb")),
        ("check_5_4", lambda t, s, f, k: torch.lerp(t, s, k * f / (1 + k * f))),
        ("check_5_5", 400 / 64 * 2),
        ("check_5_5", torch.tensor(12.5)),
    ],
)
def test_other_right_answers(capsys, check, answer):
    assert verdict(capsys, check, answer).startswith("Right")


MISTAKES = [
    ("check_5_1", "½ is missing", lambda t, s, f, k: k * (f * (t - s) ** 2).sum()),
    ("check_5_1", "no gradient flows", lambda t, s, f, k: penalty(t, s, f, k).item()),
    ("check_5_1", "no gradient flows", lambda t, s, f, k: penalty(t.detach(), s, f, k)),
    ("check_5_3", "Look first at ηλF = 0.5", "cddb"),
    ("check_5_3", "Look first at ηλF = 1.0", "cada"),
    ("check_5_6", "expected your trained model, got float", lambda model, digits, clothes: 0.85),
    ("check_5_6", "Both are too low", lambda model, digits, clothes: model),
    ("check_5_6", "stopped with TypeError", lambda model: model),
    ("check_5_1", "towards zero", lambda t, s, f, k: 0.5 * k * (f * t**2).sum()),
    ("check_5_1", "F enters squared", lambda t, s, f, k: 0.5 * k * (f * (t - s)).square().sum()),
    ("check_5_1", "sums first and squares then", lambda t, s, f, k: 0.5 * k * (f * (t - s)).sum() ** 2),
    ("check_5_1", "F is missing", lambda t, s, f, k: 0.5 * k * ((t - s) ** 2).sum()),
    ("check_5_1", "mean over the weights", lambda t, s, f, k: 0.5 * k * (f * (t - s) ** 2).mean()),
    ("check_5_1", "λ stands inside", lambda t, s, f, k: 0.5 * (f * (k * (t - s)) ** 2).sum()),
    ("check_5_1", "λ is missing", lambda t, s, f, k: 0.5 * (f * (t - s) ** 2).sum()),
    ("check_5_1", "compared with itself", lambda t, s, f, k: 0.5 * k * (f * (t - t) ** 2).sum()),
    ("check_5_1", "expected a single number", lambda t, s, f, k: 0.5 * k * f * (t - s) ** 2),
    ("check_5_2", "model's own weights", lambda model: dict(model.named_parameters())),
    ("check_5_2", "model's own weights", lambda model: model.state_dict()),
    ("check_5_2", "model's own weights", lambda model: {n: p.detach() for n, p in model.named_parameters()}),
    ("check_5_2", "detach()", lambda model: {n: p.clone() for n, p in model.named_parameters()}),
    ("check_5_2", "detach()", lambda model: {n: 1 * p for n, p in model.named_parameters()}),
    ("check_5_2", "these are zeros", lambda model: {n: torch.zeros_like(p) for n, p in model.named_parameters()}),
    ("check_5_2", "KeyError: 'bias'", lambda model: {"weight": model.weight.detach().clone()}),
    ("check_5_2", "AttributeError", lambda model: {"weight": 1, "bias": 2}),
    ("check_5_2", "expected a tensor of shape (8,)", lambda model: {n: torch.ones(1) for n in ("weight", "bias")}),
    ("check_5_2", "got list", lambda model: [p.detach().clone() for p in model.parameters()]),
    ("check_5_3", "the bound is 2", "dadb"),
    ("check_5_3", "farther away than before", "cacb"),
    ("check_5_3", "lands on the other side", "aadb"),
    ("check_5_3", "proximal step", "aaaa"),
    ("check_5_3", "not in its gradient", "aaca"),
    ("check_5_3", "'dddd' is not it", "dddd"),
    ("check_5_3", "'bbbb' is not it", ["b"] * 4),
    ("check_5_3", "Not yet", 3),
    ("check_5_4", "plain descent", lambda t, s, f, k: t - k * f * (t - s)),
    ("check_5_4", "wrong sign", lambda t, s, f, k: t + k * f * (t - s)),
    ("check_5_4", "denominator", lambda t, s, f, k: t + k * f * s),
    ("check_5_4", "pulls towards zero", lambda t, s, f, k: t / (1 + k * f)),
    ("check_5_4", "changed places", lambda t, s, f, k: (s + k * f * t) / (1 + k * f)),
    ("check_5_4", "F is missing", lambda t, s, f, k: (t + k * s) / (1 + k)),
    ("check_5_4", "½ηλF", lambda t, s, f, k: (t + k * f / 2 * s) / (1 + k * f / 2)),
    ("check_5_4", "a single number", lambda t, s, f, k: proximal(t, s, f, k).sum()),
    ("check_5_5", "½ λ must equal", 400 / 64 / 2),
    ("check_5_5", "must be twice as large", 6.25),
    ("check_5_5", "yours is the mean", 800),
    ("check_5_5", "still to be divided", 200),
    ("check_5_5", "went the wrong way: divide by 64", 51200.0),
    ("check_5_5", "both change it", 400),
    ("check_5_5", "divide their whole loss by 64, then", 13),
    ("check_5_5", "divide their whole loss by 64, then", torch.tensor(12.0)),
    ("check_5_5", "got str", "many"),
    ("check_5_5", "expected a single number", torch.ones(2)),
]

test_untouched, test_right, test_mistakes_are_named, test_an_answer_that_raises = over(FUNCTIONS, VALUES, MISTAKES)


@pytest.mark.parametrize("near", [12.4, 13, 12, torch.tensor(12.0)])
def test_a_near_miss_is_not_given_the_answer(capsys, near):
    assert "12.5" not in verdict(capsys, "check_5_5", near)
