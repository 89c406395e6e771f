"""The checks of notebook 10 accept right answers, name the typical mistakes, and survive anything."""

import math

import pytest
import torch
from exercise_tests import over, verdict
from torch.nn.functional import cross_entropy


def nats(logits, following, reduction="mean"):
    return cross_entropy(logits.flatten(0, 1), following.flatten(), reduction=reduction)


def by_names(logits, following):
    return torch.stack([cross_entropy(*pair) for pair in zip(logits, following, strict=True)]).mean()


def merge(f_a, a, f_b, b):
    return (f_a * a + f_b * b) / (f_a + f_b)


FUNCTIONS = {"check_10_1": nats, "check_10_3": merge}
VALUES = {"check_10_2": 50_000_000, "check_10_4": 1_024}


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("check_10_1", lambda z, y: nats(z, y).item()),
        ("check_10_1", lambda z, y: -z.log_softmax(-1)[y >= 0].gather(1, y[y >= 0][:, None]).mean()),
        ("check_10_2", 5e7),
        ("check_10_3", lambda f, a, g, b: a + g / (f + g) * (b - a)),
        ("check_10_4", torch.tensor(1024)),
    ],
)
def test_other_right_answers(capsys, check, answer):
    assert verdict(capsys, check, answer).startswith("Right")


MISTAKES = [
    ("check_10_1", "mean over names of their means", by_names),
    ("check_10_1", "not by all places", lambda z, y: nats(z, y, "sum") / y.numel()),
    ("check_10_1", "this is the sum: divide it", lambda z, y: nats(z, y, "sum")),
    ("check_10_1", "divided by the names", lambda z, y: nats(z, y, "sum") / len(y)),
    ("check_10_1", "these are bits", lambda z, y: nats(z, y) / math.log(2)),
    ("check_10_1", "sign is wrong", lambda z, y: -nats(z, y)),
    ("check_10_1", "last token", lambda z, y: -z.log_softmax(-1).gather(2, (y.clamp(min=-1) % 4)[..., None]).mean()),
    ("check_10_1", "taken for token 0", lambda z, y: nats(z, y.clamp(min=0))),
    ("check_10_1", "expected a single number", lambda z, y: nats(z, y, "none")),
    ("check_10_2", "each place has its own", 50_000),
    ("check_10_2", "50,000 tokens that could follow", 1_000),
    ("check_10_2", "multiply", 51_000),
    ("check_10_2", "what a draw needs", 1),
    ("check_10_2", "cross terms vanish", 50_000_000_000),
    ("check_10_3", "plain mean", lambda f, a, g, b: (a + b) / 2),
    ("check_10_3", "exchanged", lambda f, a, g, b: merge(g, a, f, b)),
    ("check_10_3", "not divided", lambda f, a, g, b: f * a + g * b),
    ("check_10_3", "not by 2", lambda f, a, g, b: (f * a + g * b) / 2),
    ("check_10_3", "do not sum", lambda f, a, g, b: (f * a + g * b) / (f + g).sum()),
    ("check_10_3", "not its square root", lambda f, a, g, b: merge(f.sqrt(), a, g.sqrt(), b)),
    ("check_10_3", "expected a tensor of shape (6,)", lambda f, a, g, b: merge(f, a, g, b).mean()),
    ("check_10_4", "it is frozen", 12_288),
    ("check_10_4", "D alone", 256),
    ("check_10_4", "U alone", 768),
    ("check_10_4", "only D and U", 13_312),
    ("check_10_4", "not multiplied", 196_608),
    ("check_10_4", "never stored", 49_152),
]

test_untouched, test_right, test_mistakes_are_named, test_an_answer_that_raises = over(FUNCTIONS, VALUES, MISTAKES)
