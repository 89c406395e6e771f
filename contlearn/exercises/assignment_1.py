"""The checks behind the first assignment: Fisher information, measured."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from contlearn.exercises.judging import ask, judge, numbers, varied, worth


def _scores(model: nn.Module, image: Tensor, label: int) -> Tensor:
    """The gradient of log p(label) for one image, all parameters in one row."""
    log_p = model(image[None]).log_softmax(1)[0, label]
    return torch.cat([g.flatten() for g in torch.autograd.grad(log_p, list(model.parameters()))])


@worth(4)
def check_a1_1(answer: Callable[..., Any]) -> None:
    """Judge `fisher(model, images)`: the exact diagonal, (4.3), one image at a time, a dict from name to tensor."""
    images, labels = numbers(5, 4, seed=1), torch.arange(5) % 3
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    for k, p in enumerate(model.parameters()):
        p.data = numbers(*p.shape, seed=2 + k)
    p = model(images).softmax(1).detach()
    scores = torch.stack([torch.stack([_scores(model, image, c) for c in range(3)]) for image in images])  # (N, C, P)
    squares, top = scores.square(), p.argmax(1)
    weighted = (p[:, :, None] * squares).sum(1)
    names = [name for name, _ in model.named_parameters()]

    def flat() -> Any:
        found = answer(model, images.clone())
        if found is None or found is ...:
            return found
        return torch.cat([torch.as_tensor(found[name]).flatten() for name in names])

    mistakes = {
        "this is the sum over the images: F is their mean, or it would grow with the data.": weighted.sum(0),
        "every label counts alike: weigh the square of each label's score with its probability.": squares.mean(1).mean(
            0
        ),
        "the labels' squares are added up unweighted: weigh each with its probability.": squares.sum(1).mean(0),
        "the square of a mean: over the labels the scores cancel. Square first, then take the mean.": (
            (p[:, :, None] * scores).sum(1).square().mean(0)
        ),
        "the probability is squared as well: it weighs the square, p s², not (p s)².": (
            (p[:, :, None] * scores).square().sum(1).mean(0)
        ),
        "this is the predicted F: one label, the most likely one. Take all, each with its probability.": (
            squares[torch.arange(5), top].mean(0)
        ),
        "this squares the mean over the images: their scores cancel. Square image by image.": (
            (p[:, :, None] * scores.mean(0).square()).sum(1).mean(0)
        ),
        "this takes labels in turn, not the model's own distribution over labels.": (
            squares[torch.arange(5), labels].mean(0)
        ),
    }
    judge(ask(flat), weighted.mean(0), "the definition, and the oracle for everything faster.", mistakes)


@worth(4)
def check_a1_2(answer: Callable[..., Any]) -> None:
    """Judge `images_needed(values, error)`: how many give their mean a standard error of that share."""
    values, error = numbers(40, seed=9).square() + 1, float(varied([0.05], 0.01))
    mean, spread = values.mean(), values.std()
    needed = math.ceil(float((spread / (error * mean)) ** 2))
    mistakes = {
        "the square is missing: four times the images halve the error.": math.ceil(float(spread / (error * mean))),
        "the error is a share of the mean: divide by the mean.": math.ceil(float((spread / error) ** 2)),
        "images come whole: round up.": float((spread / (error * mean)) ** 2),
        "round up: with one image less the error is larger than asked for.": needed - 1,
        "this takes the variance for the standard deviation.": math.ceil(float((spread**2 / (error * mean)) ** 2)),
        "the standard deviation of a sample divides by N − 1: `values.std()`.": math.ceil(
            float((values.std(correction=0) / (error * mean)) ** 2)
        ),
    }
    right = "half the error costs four times the images, and that is all that the data decide."
    judge(ask(answer, values.clone(), error), needed, right, mistakes)


@worth(4)
def check_a1_3(answer: Callable[..., Any]) -> None:
    """Judge `squares(logits, labels, estimator)`: E g² at the logits for "exact", "empirical" and "predicted"."""
    logits, labels = numbers(6, 4, seed=11), torch.tensor([0, 3, 1, 1, 2, 0])
    p, eye = logits.softmax(1), torch.eye(4, dtype=torch.float64)
    expected = {
        "exact": p * (1 - p),
        "empirical": (eye[labels] - p).square(),
        "predicted": (eye[p.argmax(1)] - p).square(),
    }
    given = {name: ask(answer, logits.clone(), labels.clone(), name) for name in expected}
    problem = next((v for v in given.values() if v is None or v is ... or isinstance(v, Exception)), False)
    if problem is not False:
        judge(problem, 0, "", {})
        return
    slopes = eye - p[:, None]  # (N, label, class)
    mistakes = {
        "exact": {
            "every label counts alike here: weigh its square with p_c.": slopes.square().mean(1),
            "Σ_c p_c (e_c − p) is zero for every image: square before the mean over labels.": torch.zeros(6, 4),
            "this is p alone: Σ_c p_c (e_c − p)_i² is p_i (1 − p_i).": p,
        },
        "empirical": {
            "empirical means the true labels; these are the most likely ones.": expected["predicted"],
            "this is the gradient: square it.": p - eye[labels],
        },
        "predicted": {
            "predicted means the most likely label; these are the true ones.": expected["empirical"],
            "this is the gradient: square it.": p - eye[p.argmax(1)],
        },
    }
    right = "one formula, three choices of the label; on a well-trained network they differ in size, less in order."
    stacked = ask(lambda: torch.stack([torch.as_tensor(value) for value in given.values()]))
    named = {
        f"{name}: {sentence}": torch.stack([value if each == name else expected[each] for each in expected])
        for name, sentences in mistakes.items()
        for sentence, value in sentences.items()
    }
    judge(stacked, torch.stack(list(expected.values())), right, named)
