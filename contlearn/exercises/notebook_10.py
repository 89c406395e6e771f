"""The checks behind the exercises of notebook 10."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from contlearn.exercises.judging import ask, judge, numbers


def check_10_1(answer: Callable[..., Any]) -> None:
    """Judge `nats_per_letter(logits, following)`, eq. (10.1): two names of unlike length, the rest is −100."""
    logits = numbers(2, 5, 4)
    following = torch.tensor([[1, 2, 3, 2, 0], [3, 0, -100, -100, -100]])
    expected = cross_entropy(logits.flatten(0, 1), following.flatten())
    of_names = torch.stack([cross_entropy(*pair) for pair in zip(logits, following, strict=True)])
    counts = (following >= 0).sum()
    judge(
        ask(answer, logits.clone(), following.clone()),
        expected,
        "each letter counts once, whether its name is long or short.",
        {
            "this is the mean over names of their means: a letter of a short name counts more than one of a long.": (
                of_names.mean()
            ),
            "places behind the end of a name are counted: divide by the letters, not by all places.": (
                expected * counts / following.numel()
            ),
            "this is the sum: divide it by the number of letters.": expected * counts,
            "this is the sum, divided by the names: divide by the letters.": expected * counts / len(following),
            "these are bits: nats come from the natural logarithm.": expected / torch.log(torch.tensor(2.0).double()),
            "the sign is wrong: −log p is positive.": -expected,
            "−100 was taken for the last token, as an index from behind would be.": cross_entropy(
                logits.flatten(0, 1), following.clamp(min=-1).flatten() % 4
            ),
            "−100 was taken for token 0: leave these places out.": cross_entropy(
                logits.flatten(0, 1), following.clamp(min=0).flatten()
            ),
        },
    )


def check_10_2(answer: float | None) -> None:
    """Judge the backward passes that F, exact, takes for sequences of 1,000 tokens out of 50,000."""
    judge(
        answer,
        50_000_000,
        "fifty million passes for a batch that one draw for all places gives in one.",
        {
            "this is one pass a token that could follow: each place has its own.": 50_000,
            "this is one pass a place: each has 50,000 tokens that could follow.": 1_000,
            "places and tokens multiply, they do not add.": 51_000,
            "one pass is what a draw needs: exact takes each token at each place.": 1,
            "pairs of places do not enter: their cross terms vanish.": 50_000_000_000,
        },
    )


def check_10_3(answer: Callable[..., Any]) -> None:
    """Judge `merge(f_a, theta_a, f_b, theta_b)`, eq. (10.5)."""
    f_a, f_b = numbers(6).square() + 0.1, numbers(6, seed=1).square() + 0.1
    a, b = numbers(6, seed=2), numbers(6, seed=3)
    judge(
        ask(answer, f_a.clone(), a.clone(), f_b.clone(), b.clone()),
        (f_a * a + f_b * b) / (f_a + f_b),
        "each weight goes towards the model that needs it more.",
        {
            "this is the plain mean: F has no effect.": (a + b) / 2,
            "the weights are exchanged: a large F of A keeps θ of A.": (f_b * a + f_a * b) / (f_a + f_b),
            "this is not divided by the sum of both F.": f_a * a + f_b * b,
            "divide by the sum of both F, element by element, not by 2.": (f_a * a + f_b * b) / 2,
            "each weight has its own mean: do not sum over the weights.": (f_a * a + f_b * b) / (f_a + f_b).sum(),
            "the minimum has F in it, not its square root.": (f_a.sqrt() * a + f_b.sqrt() * b)
            / (f_a.sqrt() + f_b.sqrt()),
        },
    )


def check_10_4(answer: float | None) -> None:
    """Judge how many numbers an adapter of rank 4 trains beside a layer from 64 to 192."""
    judge(
        answer,
        1_024,
        "a twelfth of the 12,288 weights that it stands beside.",
        {
            "this is the layer itself: it is frozen.": 64 * 192,
            "this is D alone: U is trained as well.": 4 * 64,
            "this is U alone: D is trained as well.": 4 * 192,
            "the layer is frozen: only D and U are trained.": 64 * 192 + 1_024,
            "the two matrices are added, not multiplied: 4 × 64 numbers and 192 × 4.": 4 * 64 * 4 * 192,
            "the product U D has as many entries as the layer, but it is never stored.": 4 * 64 * 192,
        },
    )
