"""The checks behind the exercises of notebook 08."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contlearn.exercises.judging import ask, judge, numbers, shuffled


def check_8_1(answer: Callable[..., Any]) -> None:
    """Judge `answer_within(logits, classes)`: the largest logit among the classes of the task, eq. (8.1)."""
    logits, classes = numbers(12, 10), [3, 6]
    inside, zeroed = logits[:, classes], torch.zeros_like(logits)
    zeroed[:, classes] = inside
    judge(
        ask(answer, logits.clone(), list(classes)),
        torch.tensor(classes)[inside.argmax(1)],
        "only the logits of the task are compared, and the answers are labels.",
        {
            "these are places in the list `classes`, not labels: look them up in it.": inside.argmax(1),
            "this adds the first class to the place in the list: right for neighbours such as [2, 3] only.": (
                inside.argmax(1) + classes[0]
            ),
            "this compares all ten logits: the task is not used.": logits.argmax(1),
            "zero is no mask: where both logits of the task are negative, a zero wins.": zeroed.argmax(1),
            "this takes the smallest logit: argmax, not argmin.": torch.tensor(classes)[inside.argmin(1)],
            "these are the logits themselves, not their labels.": inside.max(1).values,
        },
    )


def check_8_2(answer: Callable[..., Any]) -> None:
    """Judge `slope_of_each_class(logits, labels)`: p − one_hot(y), eq. (8.4), averaged over the images."""
    logits, labels = numbers(6, 5), torch.tensor([3, 4, 3, 3, 4, 4])
    p, target = logits.softmax(1), torch.eye(5, dtype=torch.float64)[labels]
    judge(
        ask(answer, logits.clone(), labels.clone()),
        (p - target).mean(0),
        "positive for every class that the batch lacks, so descent pushes their logits down.",
        {
            "the sign is the wrong way round: this is where descent goes, the slope is p − one_hot(y).": (
                target - p
            ).mean(0),
            "this is the sum over the images; the loss is their mean.": (p - target).sum(0),
            "this is divided by the number of images and of classes: only the images are averaged.": (
                (p - target).mean(0) / 5
            ),
            "one_hot(y) is missing: this is the mean probability.": p.mean(0),
            "the logits are no probabilities yet: softmax is missing.": (logits - target).mean(0),
            "softmax runs over the classes of one image, dimension 1, not over the images.": (
                logits.softmax(0) - target
            ).mean(0),
            "the images are still apart: add up over them, so that one number a class is left.": (p - target) / 6,
        },
    )


def check_8_3(answer: Callable[..., Any]) -> None:
    """Judge `memory_indices(labels, per_class)`: the first images of each class, sorted."""
    labels = torch.tensor(shuffled([7, 2, 2, 9, 2, 7, 9, 9, 7, 2]))
    places = [(labels == c).nonzero()[:, 0] for c in (2, 7, 9)]
    by_class = torch.cat([of_class[:2] for of_class in places])
    chosen = by_class.sort().values
    given = ask(answer, labels.clone(), 2)
    if isinstance(given, list | tuple):
        given = ask(torch.tensor, given)
    judge(
        given,
        chosen,
        "every class has the same share of the memory, however often it occurs.",
        {
            "these are the right images, class after class: sort the indices.": by_class,
            "these are the first images of all: whoever comes early fills the memory.": torch.tensor([0, 1]),
            "the memory is filled in order, whatever the class: count each class by itself.": torch.arange(6),
            "these are the last images of each class: take the first.": (
                torch.cat([of_class[-2:] for of_class in places]).sort().values
            ),
            "these are labels: return the indices of the images.": labels[by_class],
            "this is a mask with one entry an image: nonzero() turns it into indices.": (
                torch.zeros(10).index_fill(0, chosen, 1)
            ),
        },
    )


def check_8_4(answer: Callable[..., Any]) -> None:
    """Judge `is_wrong(estimate, images, labels)` by handing it right and wrong estimators of F."""
    images, labels = numbers(12, 3), torch.arange(12) % 2
    weight = numbers(2, 3, seed=1)

    def gradients(x: Tensor, y: Tensor) -> Tensor:
        slopes = (x @ weight.T).softmax(1) - torch.eye(2, dtype=torch.float64)[y]
        found = slopes[:, :, None] * x[:, None, :]  # (images, 2, 3)
        return (found * 2**20).round() / 2**20  # so few digits that every sum is exact

    def squares(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.cat([gradients(x, y) for x, y in pairs]).square().mean(0)

    def rounded(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return squares(pairs[::-1]) * (1 + 1e-7 * len(pairs[0][1]))

    def batch_means(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.stack([gradients(x, y).mean(0).square() for x, y in pairs]).mean(0)

    def whole_sum(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        g = torch.cat([gradients(x, y) for x, y in pairs])
        return g.sum(0).square() / len(g)

    def whole_mean(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.cat([gradients(x, y) for x, y in pairs]).mean(0).square()

    def scaled(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return 1000 * squares(pairs)

    estimators = [squares, rounded, scaled, batch_means, whole_sum, whole_mean]
    order = shuffled(range(len(estimators)))
    given = {k: ask(answer, estimators[k], images.clone(), labels.clone()) for k in order}
    verdicts = [given[k] for k in range(len(estimators))]
    problem = next((v for v in verdicts if v is None or v is ... or isinstance(v, Exception)), False)
    if problem is not False:
        judge(problem, True, "", {})
        return
    found = "".join(str(int(bool(v))) if isinstance(v, bool | Tensor) and _same_size(v) else "?" for v in verdicts)
    judge(
        found,
        "000111",
        "one comparison finds both mistakes, and leaves right code alone.",
        {
            "return a single True or False for each estimator.": found if "?" in found else "",
            "True and False are the wrong way round: True for wrong code.": "111000",
            "it never fires: the square of the batch mean passes as right.": "000000",
            "it fires at everything, at right code too.": "111111",
            "it finds the square of the batch mean, but not the square of the sum over all images.": "000100",
            "the squares of sums over all images are found, but not that of the batch mean.": "000011",
            "it fires at right code whose last digits differ: compare with a tolerance.": "010111",
            "it asks how large F is: right code with another scale is still right.": "001111",
            "the detector misses some wrong code or fires at right code: compare one batch of all images with the "
            "mean over batches of one.": found,
        },
    )


def _same_size(value: bool | Tensor) -> bool:
    """Whether a verdict is one value."""
    return not isinstance(value, Tensor) or value.numel() == 1


def check_8_5(answer: str | list[str] | tuple[str, ...] | None) -> None:
    """Judge three diagnoses: same weights at every λ, F that shrinks with the batch, harm though no weight moved."""
    letters = "".join(map(str, answer)) if isinstance(answer, list | tuple) else answer
    judge(
        "".join(letters.replace(",", " ").split()).lower() if isinstance(letters, str) else letters,
        "cba",
        "a λ without effect, an F that depends on the batch size, and a state that is no weight.",
        {
            "a missing ½ doubles λ, but λ still has an effect: in 1 it has none.": "dba",
            "a missing ½ is a factor of 2 whatever the batch size: in 2 it grows with the batch.": "cda",
            "3: the ½ changes how strongly weights are held, but there they did not move at all.": "cbd",
            "1 and 2 are exchanged: a penalty of zero does not ask for twice the λ.": "bca",
            "1 and 3 are exchanged: drifting statistics do not make λ useless.": "abc",
            "2 and 3 are exchanged: what changes although no weight moves?": "cab",
        },
    )
