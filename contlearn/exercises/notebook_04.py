"""The checks behind the exercises of notebook 04."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contlearn.exercises.judging import Calls, ask, judge, numbers, same


def check_4_1(answer: Callable[..., Any]) -> None:
    """Exercise 4.1: the gradient e_c − p of log p_c at the logits."""
    z, c = numbers(5, seed=41), 2
    p, e = z.softmax(0), torch.eye(5, dtype=torch.float64)[c]
    judge(
        ask(answer, z.clone(), c),
        e - p,
        "what leaves the logits is 1 − p_c at the label and −p at all others; the entries add up to zero.",
        {
            "this is the gradient of the loss −log p_c; the score is that of log p_c: turn the sign.": p - e,
            "log p_c depends on every logit, for softmax divides by the sum of all: subtract p.": e,
            "the logit of the label itself raises log p_c: add 1 in its place.": -p,
            "this is the gradient of p_c; that of log p_c is divided by p_c.": p[c] * (e - p),
        },
    )


def check_4_2(answer: Callable[..., Any]) -> None:
    """Exercise 4.2: the exact F of softmax regression, for one image."""
    weight, x, y = numbers(4, 6, seed=42), numbers(6, seed=43), 1
    p = (weight @ x).softmax(0)
    scores = (torch.eye(4, dtype=torch.float64) - p)[:, :, None] * x
    g2 = (p[:, None] * (torch.eye(4, dtype=torch.float64) - p).square()).sum(0)
    given = ask(answer, weight.clone(), x.clone(), y)
    if isinstance(given, Tensor) and given.is_floating_point():
        given = given.round(decimals=15)  # the square of the mean score is zero only up to rounding
    judge(
        given,
        (p[:, None, None] * scores.square()).sum(0),
        "each entry is Σ_c p_c (e_c − p)_i² x_j²: no label from the data is needed, only the model's own prediction.",
        {
            "every label counts as much as any other here: weigh each square with its p_c.": scores.square().sum(0),
            "this is the plain mean over labels: weigh each square with its p_c instead.": scores.square().mean(0),
            "this is the square of the mean score, which is zero for every image: square first, then average.": 0
            * weight,
            "this takes the true label, the empirical F: take the mean over all labels, each with its p_c.": scores[
                y
            ].square(),
            "this takes the most likely label, the predicted F: take the mean over all labels.": scores[
                int(p.argmax())
            ].square(),
            "x is missing: a weight's score is (e_c − p)_i x_j, so multiply by x_j².": g2[:, None].expand(4, 6),
            "this is F at the logits, without x: a weight's score is (e_c − p)_i x_j, so multiply by x_j².": g2,
            "x is not squared yet: the square of (e_c − p)_i x_j holds x_j².": torch.outer(g2, x),
            "p_c belongs outside the square: p_c s_c², not (p_c s_c)².": (p[:, None, None] * scores).square().sum(0),
        },
    )


def check_4_3(answer: Callable[..., Any]) -> None:
    """Exercise 4.3: the mean of the squares, in place of the square of the mean."""
    scores = numbers(7, 5, seed=44) + 0.3
    squares = scores.square()
    judge(
        ask(answer, scores.clone()),
        squares.mean(0),
        "square each image's score, then average: nothing cancels.",
        {
            "this is the square of the mean gradient: square first, then average.": scores.mean(0).square(),
            "this sums over the images and then squares: square first, then average.": scores.sum(0).square(),
            "the squares are summed: divide by the number of images, or F grows with the data set.": squares.sum(0),
            "this is one number for all parameters: average over the images only, dim 0.": squares.mean(),
            "the average runs over the parameters: average over the images, dim 0.": squares.mean(1),
            "this is the variance: it takes the mean score off, but F keeps it.": scores.var(0, correction=0),
            "this is the variance, over N − 1: F keeps the mean score, and divides by N.": scores.var(0),
            "this is the root of F: leave the squares as they are.": squares.mean(0).sqrt(),
            "this is the mean size of the scores: square them.": scores.abs().mean(0),
        },
    )


def check_4_4(answer: Any) -> None:
    """Exercise 4.4: the empirical Fisher information takes the true labels."""
    judge(
        answer.strip().upper() if isinstance(answer, str) else answer,
        "C",
        "empirical means the true labels, as they come with the data.",
        {
            "A takes the label that the model finds most likely: that is the predicted F, often called empirical.": "A",
            "B draws the label from the model's own prediction: that is the sample estimate of the exact F.": "B",
            "D draws every label equally often: that estimates neither the exact nor the empirical F.": "D",
        },
    )


def check_4_5(answer: Callable[..., Any]) -> None:
    """Exercise 4.5: the closed form (G⊙G)ᵀ(A⊙A)/N of a linear layer."""
    g, a = numbers(6, 3, seed=45), numbers(6, 4, seed=46)
    g2, a2 = g.square(), a.square()
    with Calls() as calls:
        given = ask(answer, g.clone(), a.clone())
    with Calls() as more:
        ask(answer, numbers(60, 3), numbers(60, 4))
    if same(given, g2.T @ a2 / 6) and more.count > calls.count:
        print("Not yet: the numbers are right, but a loop runs over the images: one matrix product does it.")
        return
    judge(
        given,
        g2.T @ a2 / 6,
        "one matrix product holds the squared gradients of all images, and none of them was ever built.",
        {
            "this is the square of the mean gradient: square G and A before the product.": (g.T @ a / 6).square(),
            "this adds up the gradients, then squares: square G and A before the product.": (g.T @ a).square(),
            "this squares the summed gradient and divides by N: square G and A before.": (g.T @ a).square() / 6,
            "divide by the number of images N, or F grows with the data set.": g2.T @ a2,
            "A is not squared: the square of g_i a_j holds a_j².": g2.T @ a / 6,
            "G is not squared: the square of g_i a_j holds g_i².": g.T @ a2 / 6,
            "this is the mean gradient itself: square G and A, entry by entry, before the product.": g.T @ a / 6,
            "the result is transposed: a weight has a row for each output and a column for each input.": a2.T @ g2 / 6,
            "this is one number for the whole layer: every weight has its own.": (g2.T @ a2 / 6).mean(),
        },
    )
