"""The checks behind the exercises of notebook 12."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from contlearn.exercises.judging import ask, judge, numbers


def check_12_1(answer: Callable[..., Any]) -> None:
    """Judge `intelligence(work, start, end, xi)`, eq. (12.2), for one parameter tensor."""
    work = torch.tensor([0.5, 0.02, -0.1, 0.3], dtype=torch.float64)
    start = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    end = torch.tensor([1.5, -2.0, 0.9, -0.1], dtype=torch.float64)
    xi = 0.1
    positive, way = work.clamp(min=0), end - start
    judge(
        ask(answer, work.clone(), start.clone(), end.clone(), xi),
        positive / (way.square() + xi),
        "a weight that did much on a short way is worth most, and ξ keeps one that stood still finite.",
        {
            "a weight whose work was negative would be pushed away from its place: it is worth 0.": (
                work / (way.square() + xi)
            ),
            "the sign of the work is lost: what was negative is worth 0.": work.abs() / (way.square() + xi),
            "the way enters squared: else Ω is no curvature.": positive / (way.abs() + xi),
            "ξ is added to the square, not squared with the way.": positive / (way.abs() + xi).square(),
            "this is the work alone: divide it by the way squared, plus ξ.": positive,
            "end and start are places: their difference is the way.": positive / (end.square() + xi),
        },
    )


def check_12_2(answer: Callable[..., Any]) -> None:
    """Judge `synapses(x, w)`: eq. (12.3) of a linear model z = W x, x (N, I), W (O, I)."""
    x, w = numbers(5, 3), numbers(4, 3, seed=1)
    each = 2 * (x @ w.T)[:, :, None] * x[:, None, :]  # (images, outputs, inputs)
    judge(
        ask(answer, x.clone(), w.clone()),
        each.abs().mean(0),
        "no label was needed: any image will do, also one that nobody has labelled.",
        {
            "the mean was taken before the absolute value: gradients of unlike sign cancel.": each.mean(0).abs(),
            "this is squared: MAS takes the absolute value.": each.square().mean(0),
            "this is the sum over images, not the mean.": each.abs().sum(0),
            "the derivative of z² is 2z: the 2 is missing.": each.abs().mean(0) / 2,
            "this is signed: how much a weight moves the outputs has no sign.": each.mean(0),
            "this is the gradient of ‖z‖, not of its square.": (each / 2 / (x @ w.T).norm(dim=1)[:, None, None])
            .abs()
            .mean(0),
        },
    )


def check_12_3(answer: Callable[..., Any]) -> None:
    """Judge `reversed_gradient(z, y)`: the gradient of eq. (12.4) with respect to the logits z (N, C)."""
    z, y = 2 * numbers(4, 3), torch.tensor([0, 2, 1, 2])
    truth = torch.eye(3, dtype=torch.float64)[y]
    leaf = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cross_entropy(-leaf, y, reduction="sum"), leaf)
    judge(
        ask(answer, z.clone(), y.clone()),
        expected,
        "where the network is sure and right, this is about 1, and F's own gradient about 0.",
        {
            "this is the gradient of the usual cross-entropy: the logits are not reversed.": z.softmax(1) - truth,
            "the chain rule's −1 is missing: the derivative is by z, not by −z. (Squares would hide it.)": -expected,
            "1 − p is not the softmax of −z, unless there are two classes.": truth - (1 - z.softmax(1)),
            "these are squares: return the gradient.": expected.square(),
            "this is divided by the number of images: one gradient for each image is asked for.": expected / len(z),
        },
    )
