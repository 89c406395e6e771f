"""The checks of notebook 11 accept right answers, name the typical mistakes, and survive anything."""

import pytest
import torch
from exercise_tests import over, verdict


def weights(p, y, labels):
    if labels == "all":
        return p
    one = torch.eye(len(p), dtype=p.dtype)[p.argmax() if labels == "predicted" else y]
    return p * one if labels == "weighted" else one


def instead(labels, value):
    """Right but for one kind of labels."""
    return lambda p, y, asked: value(p, y) if asked == labels else weights(p, y, asked)


def batches(g, size):
    return g.view(-1, size, g.shape[1]).mean(1).square().mean(0)


def importance(lam, half, summed, images):
    return lam * (1 if half else 2) * (images if summed else 1)


FUNCTIONS = {"check_11_1": weights, "check_11_2": batches, "check_11_3": importance}
VALUES = {"check_11_4": "bca"}


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("check_11_1", lambda p, y, labels: weights(p, y, labels).tolist()),
        ("check_11_1", lambda p, y, labels: weights(p.float(), y, labels)),
        ("check_11_2", lambda g, size: sum(part.mean(0) ** 2 for part in g.split(size)) / (len(g) // size)),
        ("check_11_3", lambda *a: torch.tensor(importance(*a))),
        ("check_11_4", " B, c, A\n"),
        ("check_11_4", ["b", "c", "a"]),
    ],
)
def test_other_right_answers(capsys, check, answer):
    assert verdict(capsys, check, answer).startswith("Right")


MISTAKES = [
    ("check_11_1", "'true': these weigh each label", instead("true", lambda p, y: p)),
    ("check_11_1", "'predicted': this is 1 at the true label", instead("predicted", lambda p, y: torch.eye(4)[y])),
    ("check_11_1", "'true': this is 1 at the most likely", instead("true", lambda p, y: torch.eye(4)[p.argmax()])),
    ("check_11_1", "'true': this is the probability of the true", instead("true", lambda p, y: p * torch.eye(4)[y])),
    ("check_11_1", "'weighted': this is 1 at the true label", instead("weighted", lambda p, y: torch.eye(4)[y])),
    (
        "check_11_1",
        "take the true one",
        instead("weighted", lambda p, y: p * torch.eye(4, dtype=p.dtype)[p.argmax()]),
    ),
    ("check_11_1", "not a single number", instead("weighted", lambda p, y: p[y])),
    ("check_11_1", "weighs all labels alike", instead("all", lambda p, y: torch.full_like(p, 1 / 4))),
    ("check_11_1", "got str", instead("all", lambda p, y: "p")),
    ("check_11_2", "mean of squares", lambda g, size: g.square().mean(0)),
    ("check_11_2", "the sum of a batch", lambda g, size: g.view(-1, size, 3).sum(1).square().mean(0)),
    ("check_11_2", "their mean is wanted", lambda g, size: g.view(-1, size, 3).mean(1).square().sum(0)),
    ("check_11_2", "eq. (11.3)", lambda g, size: g.view(-1, size, 3).mean(1).sum(0).square()),
    ("check_11_2", "mean of everything", lambda g, size: g.mean(0).square()),
    ("check_11_2", "nothing is squared", lambda g, size: g.view(-1, size, 3).mean(1).mean(0)),
    ("check_11_2", "still apart", lambda g, size: g.view(-1, size, 3).mean(1).square()),
    ("check_11_2", "not of batches", lambda g, size: g.view(size, -1, 3).mean(1).square().mean(0)),
    ("check_11_2", "run of neighbours", lambda g, size: g.view(size, -1, 3).mean(0).square().mean(0)),
    ("check_11_3", "counts double", lambda lam, half, summed, n: importance(lam, half, summed, n) / (1 if half else 4)),
    ("check_11_3", "wrong way round", lambda lam, half, summed, n: importance(lam, not half, summed, n)),
    ("check_11_3", "must be larger too", lambda lam, half, summed, n: importance(lam, half, summed, 1 / n)),
    ("check_11_3", "sum over the images", lambda lam, half, summed, n: importance(lam, half, False, n)),
    ("check_11_3", "the ½ is left out", lambda lam, half, summed, n: importance(lam, True, summed, n)),
    ("check_11_3", "copies λ", lambda lam, half, summed, n: lam),
    ("check_11_3", "Not yet", lambda lam, half, summed, n: "many"),
    ("check_11_4", "B cancels", "aca"),
    ("check_11_4", "before anything is added up", "cca"),
    ("check_11_4", "add up before", "bba"),
    ("check_11_4", "squares once", "baa"),
    ("check_11_4", "another question", "bcb"),
    ("check_11_4", "1 and 2 are exchanged", "cba"),
    ("check_11_4", "'aaa' is not it", "aaa"),
    ("check_11_4", "Not yet", 3),
]

test_untouched, test_right, test_mistakes_are_named, test_an_answer_that_raises = over(FUNCTIONS, VALUES, MISTAKES)
