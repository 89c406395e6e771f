"""The checks of notebook 08 accept right answers, name the typical mistakes, and survive anything."""

import pytest
import torch
from exercise_tests import over, verdict
from torch.nn.functional import one_hot


def within(logits, classes):
    return torch.tensor(classes)[logits[:, classes].argmax(1)]


def masked(logits, classes, value):
    hidden = torch.full_like(logits, value)
    hidden[:, classes] = logits[:, classes]
    return hidden.argmax(1)


def slope(logits, labels):
    return (logits.softmax(1) - one_hot(labels, logits.shape[1])).mean(0)


def memory(labels, per_class):
    return torch.cat([(labels == c).nonzero()[:per_class, 0] for c in labels.unique()]).sort().values


def singly(estimate, images, labels):
    parts = [estimate([pair]) for pair in zip(images.split(1), labels.split(1), strict=True)]
    return torch.stack(parts).mean(0)


def detector(estimate, images, labels):
    return not torch.allclose(estimate([(images, labels)]), singly(estimate, images, labels), rtol=1e-3)


def pairs(images, labels, size):
    return list(zip(images.split(size), labels.split(size), strict=True))


def by_batch_size(estimate, images, labels):
    return not torch.allclose(estimate(pairs(images, labels, 12)), estimate(pairs(images, labels, 1)))


def by_halves(estimate, images, labels):
    halves = estimate(pairs(images[:6], labels[:6], 3)) + estimate(pairs(images[6:], labels[6:], 3))
    return not torch.allclose(estimate(pairs(images, labels, 3)), halves / 2)


def by_identity(estimate, images, labels):
    return not torch.equal(estimate([(images, labels)]), singly(estimate, images, labels)) and not by_scale(
        estimate, images, labels
    )


def by_scale(estimate, images, labels):
    return bool(estimate([(images, labels)]).sum() > 100)


FUNCTIONS = {"check_8_1": within, "check_8_2": slope, "check_8_3": memory, "check_8_4": detector}
VALUES = {"check_8_5": "cba"}


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("check_8_1", lambda z, c: masked(z, c, -1e9)),
        ("check_8_1", lambda z, c: masked(z, c, float("-inf"))),
        ("check_8_1", lambda z, c: [c[k] for k in z[:, c].argmax(1).tolist()]),
        ("check_8_2", lambda z, y: z.softmax(1).mean(0) - y.bincount(minlength=z.shape[1]) / len(y)),
        ("check_8_3", lambda y, n: memory(y, n).tolist()),
        ("check_8_3", lambda y, n: [k for k in range(len(y)) if (y[:k] == y[k]).sum() < n]),
        ("check_8_4", lambda e, x, y: torch.tensor(detector(e, x, y))),
        ("check_8_4", lambda e, x, y: by_batch_size(e, x, y) or by_halves(e, x, y)),
        ("check_8_5", " CBA\n"),
        ("check_8_5", ["c", "b", "a"]),
        ("check_8_5", "c, b, a"),
    ],
)
def test_other_right_answers(capsys, check, answer):
    assert verdict(capsys, check, answer).startswith("Right")


MISTAKES = [
    ("check_8_1", "places in the list", lambda z, c: z[:, c].argmax(1)),
    ("check_8_1", "adds the first class", lambda z, c: z[:, c].argmax(1) + c[0]),
    ("check_8_1", "all ten logits", lambda z, c: z.argmax(1)),
    ("check_8_1", "zero is no mask", lambda z, c: masked(z, c, 0.0)),
    ("check_8_1", "smallest logit", lambda z, c: torch.tensor(c)[z[:, c].argmin(1)]),
    ("check_8_1", "logits themselves", lambda z, c: z[:, c].amax(1)),
    ("check_8_1", "expected a tensor of shape (12,)", lambda z, c: z[:, c]),
    ("check_8_1", "got str", lambda z, c: "zero"),
    ("check_8_2", "sign is the wrong way", lambda z, y: -slope(z, y)),
    ("check_8_2", "sum over the images", lambda z, y: len(y) * slope(z, y)),
    ("check_8_2", "of images and of classes", lambda z, y: slope(z, y) / z.shape[1]),
    ("check_8_2", "one_hot(y) is missing", lambda z, y: z.softmax(1).mean(0)),
    ("check_8_2", "softmax is missing", lambda z, y: (z - one_hot(y, z.shape[1])).mean(0)),
    ("check_8_2", "dimension 1", lambda z, y: (z.softmax(0) - one_hot(y, z.shape[1])).mean(0)),
    ("check_8_2", "still apart", lambda z, y: (z.softmax(1) - one_hot(y, z.shape[1])) / len(y)),
    ("check_8_2", "expected a tensor of shape (5,)", lambda z, y: slope(z, y).sum()),
    ("check_8_3", "sort the indices", lambda y, n: torch.cat([(y == c).nonzero()[:n, 0] for c in y.unique()])),
    ("check_8_3", "whoever comes early", lambda y, n: torch.arange(n)),
    ("check_8_3", "count each class by itself", lambda y, n: torch.arange(n * len(y.unique()))),
    (
        "check_8_3",
        "the last images",
        lambda y, n: torch.cat([(y == c).nonzero()[-n:, 0] for c in y.unique()]).sort().values,
    ),
    ("check_8_3", "these are labels", lambda y, n: y.unique().repeat_interleave(n)),
    ("check_8_3", "a mask", lambda y, n: torch.zeros(len(y), dtype=torch.bool).index_fill_(0, memory(y, n), True)),
    ("check_8_3", "expected a tensor of shape (6,)", lambda y, n: memory(y, 1)),
    ("check_8_3", "got dict", lambda y, n: {"7": [0, 5]}),
    ("check_8_4", "single True or False", lambda e, x, y: torch.tensor([True, False])),
    ("check_8_4", "single True or False", lambda e, x, y: "wrong"),
    ("check_8_4", "wrong way round", lambda e, x, y: not detector(e, x, y)),
    ("check_8_4", "never fires", lambda e, x, y: False),
    ("check_8_4", "fires at everything", lambda e, x, y: True),
    ("check_8_4", "but not the square of the sum", by_batch_size),
    ("check_8_4", "but not that of the batch mean", by_halves),
    ("check_8_4", "compare with a tolerance", by_identity),
    ("check_8_4", "how large F is", lambda e, x, y: detector(e, x, y) or by_scale(e, x, y)),
    ("check_8_4", "misses some wrong code", lambda e, x, y: by_scale(e, x, y)),
    ("check_8_5", "doubles λ, but", "dba"),
    ("check_8_5", "whatever the batch size", "cda"),
    ("check_8_5", "did not move at all", "cbd"),
    ("check_8_5", "1 and 2 are exchanged", "bca"),
    ("check_8_5", "1 and 3 are exchanged", "abc"),
    ("check_8_5", "2 and 3 are exchanged", "cab"),
    ("check_8_5", "'ddd' is not it", "ddd"),
    ("check_8_5", "Not yet", 3),
]

test_untouched, test_right, test_mistakes_are_named, test_an_answer_that_raises = over(FUNCTIONS, VALUES, MISTAKES)
