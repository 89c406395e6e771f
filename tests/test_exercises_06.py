"""The checks of notebook 06 accept right answers, name the typical mistakes, and survive anything."""

import pytest
import torch
from exercise_tests import over, verdict

from contlearn import metrics


def take_out(s, mu, f, star):
    return s - f, (s * mu - f * star) / (s - f)


def backward_transfer(matrix):
    return (matrix[-1, :-1] - matrix.diagonal()[:-1]).mean()


def choose(runs):
    best = max(runs, key=lambda run: run["validation"])
    return best["importance"], best["test"]


FUNCTIONS = {"check_6_1": take_out, "check_6_2": backward_transfer, "check_6_3": choose}
VALUES = {"check_6_4": 7, "check_6_5": "cclq"}


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("check_6_1", lambda s, mu, f, star: (s - f, mu - f / (s - f) * (star - mu))),
        ("check_6_1", lambda s, mu, f, star: list(take_out(s, mu, f, star))),
        ("check_6_1", lambda s, mu, f, star: torch.stack(take_out(s, mu, f, star))),
        ("check_6_2", metrics.backward_transfer),
        ("check_6_2", lambda m: float((m[-1] - m.diagonal()).sum() / (len(m) - 1))),
        ("check_6_3", lambda runs: torch.tensor(choose(runs))),
        ("check_6_3", lambda runs: [float(value) for value in choose(runs)]),
        ("check_6_4", torch.tensor(7)),
        ("check_6_4", 7.0),
        ("check_6_5", " CCLQ\n"),
        ("check_6_5", "c, c, l, q"),
        ("check_6_5", ["c", "C", "l", "q "]),
        ("check_6_5", tuple("cclq")),
    ],
)
def test_other_right_answers(capsys, check, answer):
    assert verdict(capsys, check, answer).startswith("Right")


MISTAKES = [
    ("check_6_1", "a second time", lambda s, mu, f, star: (s + f, (s * mu + f * star) / (s + f))),
    ("check_6_1", "still that of all tasks", lambda s, mu, f, star: (s - f, mu)),
    ("check_6_1", "not the old one", lambda s, mu, f, star: (s - f, (s * mu - f * star) / s)),
    ("check_6_1", "subtract F θ*, not θ*", lambda s, mu, f, star: (s - f, (s * mu - star) / (s - f))),
    ("check_6_1", "then divide by the new S", lambda s, mu, f, star: (s - f, mu - star)),
    ("check_6_1", "it loses this task's F", lambda s, mu, f, star: (s, (s * mu - f * star) / (s - f))),
    ("check_6_1", "wrong order", lambda s, mu, f, star: take_out(s, mu, f, star)[::-1]),
    ("check_6_1", "got a tensor of shape (4,)", lambda s, mu, f, star: s - f),
    ("check_6_1", "got tuple", lambda s, mu, f, star: (s, mu, f)),
    ("check_6_1", "got tuple", lambda s, mu, f, star: (s - f, None)),
    ("check_6_1", "RuntimeError", lambda s, mu, f, star: (s - f, mu[:2])),
    ("check_6_2", "after minus before", lambda m: -backward_transfer(m)),
    ("check_6_2", "average over the T − 1", lambda m: (m[-1] - m.diagonal()).mean()),
    ("check_6_2", "this is a sum", lambda m: (m[-1] - m.diagonal()).sum()),
    ("check_6_2", "average them", lambda m: m[-1, :-1] - m.diagonal()[:-1]),
    ("check_6_2", "not from the best", lambda m: -metrics.forgetting(m)),
    ("check_6_2", "first row", lambda m: (m[-1, :-1] - m[0, :-1]).mean()),
    ("check_6_2", "next row", lambda m: (m[-1, :-1] - m.diagonal(-1)).mean()),
    ("check_6_2", "average accuracy", metrics.average_accuracy),
    ("check_6_2", "got a tensor of shape (4, 4)", lambda m: m),
    ("check_6_3", "can no longer judge it", lambda runs: (100, 0.96)),
    ("check_6_3", "flatter it", lambda runs: (30, 0.95)),
    ("check_6_3", "belongs to another λ", lambda runs: (30, 0.96)),
    ("check_6_3", "other way round", lambda runs: (100, 0.94)),
    ("check_6_3", "largest λ", lambda runs: (300, 0.92)),
    ("check_6_3", "got dict", lambda runs: runs[1]),
    ("check_6_3", "got a single number", lambda runs: 30),
    ("check_6_4", "still more than half", 6),
    ("check_6_4", "not a tenth of the whole", 5),
    ("check_6_4", "less than half already", 8),
    ("check_6_4", "1/(1 − γ)", 10),
    ("check_6_4", "got str", "seven"),
    ("check_6_4", "expected a single number", torch.ones(2)),
    ("check_6_5", "two vectors come out", "lclq"),
    ("check_6_5", "these do not grow", "cllq"),
    ("check_6_5", "neither do memory nor step", "lllq"),
    ("check_6_5", "one more with each task", "cccq"),
    ("check_6_5", "T (T + 1) / 2", "ccll"),
    ("check_6_5", "two directions", "ccql"),
    ("check_6_5", "'qqqq' is not it", "qqqq"),
    ("check_6_5", "Not yet", 3),
]

test_untouched, test_right, test_mistakes_are_named, test_an_answer_that_raises = over(FUNCTIONS, VALUES, MISTAKES)
