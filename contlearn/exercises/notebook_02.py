"""The checks behind the exercises of notebook 02."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from contlearn.exercises.judging import Calls, ask, judge, numbers, same, varied


def check_2_1(answer: Callable[..., Any]) -> None:
    """`answer(sizes)` counts the weights and biases of an MLP with these layer sizes, such as [784, 256, 10]."""
    pixels, hidden, classes = varied([784, 400, 10], 8).round().int().tolist()
    sizes, first, second = [pixels, hidden, hidden, classes], hidden, hidden
    weights = pixels * first + first * second + second * classes
    judge(
        ask(answer, list(sizes)),
        weights + first + second + classes,
        "478,410 for 784 → 400 → 400 → 10, and two thirds of them belong to the first layer.",
        {
            "this counts the weights only, or one bias a layer: a layer has one for each of its outputs.": weights,
            "a layer has one bias for each output, not for each input.": weights + pixels + first + second,
            "the 784 pixels have no bias: biases belong to the layers behind them.": weights + sum(sizes),
            "this is the network of the notebook: count from `sizes` instead.": 335_114,
            "the last layer is missing: there are three layers between four sizes.": (
                weights - second * classes + first + second
            ),
        },
    )


def check_2_2(answer: Callable[..., Any]) -> None:
    """`answer(logits)` is the softmax, eq. (2.2), of each row of logits (N, C), however large they are."""
    logits = numbers(3, 3)
    powers, expected = logits.exp(), logits.softmax(1)
    with Calls() as calls:
        given = ask(answer, logits.clone())
    large = ask(answer, logits + 1000)
    if same(given, expected) and (forbidden := calls.names & {"softmax", "log_softmax"}):
        print(f"Not yet: {forbidden.pop()} is PyTorch's own: write (2.2) with exp, sum and a division.")
        return
    if same(given, expected) and not same(large, expected):
        print("Not yet: right for small logits, but exp(1000) overflows: subtract the largest logit of each row first.")
        return
    apart = logits + torch.tensor([[0.0], [1000.0], [-1000.0]], dtype=logits.dtype)
    if same(given, expected) and not same(ask(answer, apart), expected):
        print("Not yet: one maximum for the whole batch: small rows underflow to 0/0; take each row's own (dim=1).")
        return
    wide = logits.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(3000.0, dtype=logits.dtype))
    if same(given, expected) and same(large, expected) and not same(ask(answer, wide.clone()), wide.softmax(1)):
        print("Not yet: a logit far above the mean of its row still overflows: subtract the row's largest instead.")
        return
    judge(
        given,
        expected,
        "adding one number to all logits of an image changes nothing, so you may choose the largest to be 0.",
        {
            "each column adds up to one: sum over the classes, dimension 1, not over images.": logits.softmax(0),
            "these are the e^z: they still have to be divided by their sum.": powers,
            "the maximum is gone, but e^z still has to be divided by its sum.": (logits - logits.amax(1, True)).exp(),
            "this divides by the sum over all images: each image has its own sum.": powers / powers.sum(),
            "each e^z is divided by another row's sum: write sum(1, keepdim=True).": powers / powers.sum(1),
            "this is the logarithm of the softmax.": expected.log(),
            "this divides the logits themselves: take e^z first.": logits / logits.sum(1, keepdim=True),
        },
    )


def check_2_3(answer: Callable[..., Any]) -> None:
    """`answer(probabilities, labels)` is the cross-entropy, eq. (2.3), of probabilities (N, C) and labels (N,)."""
    p, labels = numbers(4, 3).softmax(1), torch.tensor([2, 0, 1, 1])
    true = p[range(4), labels]
    judge(
        ask(answer, p.clone(), labels.clone()),
        -true.log().mean(),
        "only the true class counts, and an image costs more the less its label was expected.",
        {
            "the minus sign is missing: the loss must fall as the network learns.": true.log().mean(),
            "this is the sum over the images: (2.3) is their mean.": -true.log().sum(),
            "this is the logarithm of the mean: take the logarithm of each, then average.": -true.mean().log(),
            "`p[:, labels]` pairs every image with every label: give the rows as well.": -p[:, labels].log().mean(),
            "this averages over all classes: only the true one counts.": -p.log().mean(),
            "this takes the largest probability, whosever it is: use the label's.": -p.amax(1).log().mean(),
            "this is the logarithm to base 2: nats need the natural one.": -true.log2().mean(),
            "this is the logarithm to base 10: nats need the natural one.": -true.log10().mean(),
            "the logarithm is missing.": -true.mean(),
            "these are probabilities already: no second softmax.": -p.softmax(1)[range(4), labels].log().mean(),
        },
    )


def check_2_4(answer: Callable[..., Any]) -> None:
    """`answer(model, batches, lr)` trains `model` for one epoch by stochastic gradient descent, eq. (2.4)."""
    batches = [(numbers(8, 4, seed=k), torch.arange(8).roll(k) % 3) for k in range(3)]

    def descend(model: nn.Module, steps: int, zero: bool = True, twice: bool = False) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for images, labels in batches[:steps]:
            logits = model(images)
            if zero:
                optimizer.zero_grad()
            cross_entropy(logits.softmax(1) if twice else logits, labels).backward()
            optimizer.step()

    def trained(train: Callable[..., Any], *arguments: Any) -> Any:
        model = nn.Linear(4, 3, dtype=torch.float64)
        model.load_state_dict({"weight": numbers(3, 4, seed=3), "bias": numbers(3, seed=4)})
        result = ask(train, model, *arguments)
        failed = isinstance(result, Exception) or result is ...
        return result if failed else nn.utils.parameters_to_vector(model.parameters()).detach()

    judge(
        trained(answer, batches, 0.5),
        trained(descend, 3),
        "the gradients start from zero for every batch, and cross_entropy gets the raw logits.",
        {
            "nothing has moved: do backward() and step() both run, with zero_grad() before them?": trained(descend, 0),
            "both mistakes are still there.": trained(descend, 3, False, True),
            "gradients of earlier batches are still added: call zero_grad() for each.": trained(descend, 3, False),
            "cross_entropy contains the softmax: give it the raw logits.": trained(descend, 3, True, True),
            "this is one step only: `return` must stand behind the loop, not in it.": trained(descend, 1),
        },
    )


def check_2_5(answer: str | None) -> None:
    """`answer` says what the third bias does: "rises", "falls" or "stays"."""
    judge(
        answer,
        "stays",
        "an image of its own class should raise it, but the last ReLU multiplies that pull by zero.",
        {
            "so it would be without the last ReLU. What is [z > 0] in (2.6) at z = -1?": "rises",
            "only images of other classes push a logit down; this one is of its own class.": "falls",
        },
    )
