"""The checks of notebook 02: each verdict is reached by the answer that deserves it."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from contlearn import MLP, exercises


def count(bias):
    """A count of parameters whose number of biases is `bias(inputs, outputs)` a layer."""
    return lambda sizes: sum(n * m + bias(n, m) for n, m in pairwise(sizes))


def mean_log(select, factor=-1.0):
    """A cross-entropy that takes other probabilities than those of the labels."""
    return lambda p, labels: factor * select(p, labels).log().mean()


def less_the_mean(z):
    powers = (z - z.mean(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


def one_maximum(logits):
    """A softmax that subtracts the largest logit of the whole batch, not of each row."""
    powers = (logits - logits.max()).exp()
    return powers / powers.sum(1, keepdim=True)


def loop(zero="before", inputs=lambda logits: logits, early=False, returns=True):
    """A training loop with one of the usual mistakes, or none."""

    def train_one_epoch(model, batches, lr):
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for images, labels in batches:
            loss = F.cross_entropy(inputs(model(images)), labels)
            if zero == "before":
                optimizer.zero_grad()
            loss.backward()
            if zero == "between":
                optimizer.zero_grad()
            optimizer.step()
            if zero == "after":
                optimizer.zero_grad()
            if early:
                return model
        return model if returns else None

    return train_one_epoch


def by_hand(model, batches, lr):
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, model.parameters()), strict=True):
            p.data -= lr * g
    return model


UNANSWERED = [
    (exercises.check_2_1, lambda sizes: None),
    (exercises.check_2_1, lambda sizes: ...),
    (exercises.check_2_2, lambda logits: ...),
    (exercises.check_2_2, lambda logits: None),
    (exercises.check_2_3, lambda probabilities, labels: ...),
    (exercises.check_2_4, lambda model, batches, lr: ...),
    (exercises.check_2_5, None),
    (exercises.check_2_5, ...),
]

RIGHT = [
    (exercises.check_2_1, count(lambda n, m: m)),
    (exercises.check_2_1, lambda s: sum(p.numel() for p in MLP(s[1], len(s) - 2, s[0], s[-1]).parameters())),
    (exercises.check_2_2, lambda z: (z - z.logsumexp(1, keepdim=True)).exp()),
    (exercises.check_2_3, lambda p, y: F.nll_loss(p.log(), y)),
    (exercises.check_2_3, lambda p, y: -sum(float(p[n, c].log()) for n, c in enumerate(y)) / len(y)),
    (exercises.check_2_4, loop()),
    (exercises.check_2_4, loop("after")),
    (exercises.check_2_4, loop(returns=False)),
    (exercises.check_2_4, loop(inputs=lambda z: z.log_softmax(1))),
    (exercises.check_2_4, by_hand),
    (exercises.check_2_5, "stays"),
    (exercises.check_2_5, " Stays "),
]

WRONG = [
    (exercises.check_2_1, count(lambda n, m: 0), "the weights only"),
    (exercises.check_2_1, count(lambda n, m: n), "not for each input"),
    (exercises.check_2_1, lambda sizes: count(lambda n, m: m)(sizes) + sizes[0], "the 784 pixels have no bias"),
    (exercises.check_2_1, lambda sizes: 335_114, "the network of the notebook"),
    (exercises.check_2_1, lambda sizes: count(lambda n, m: m)(sizes[:-1]), "the last layer is missing"),
    (exercises.check_2_1, lambda sizes: 10, "expected 478410, got 10"),
    (exercises.check_2_1, lambda sizes: sizes, "expected a single number, got a tensor of shape (4,)"),
    (exercises.check_2_2, lambda z: z.exp() / z.exp().sum(1, keepdim=True), "exp(1000) overflows"),
    (exercises.check_2_2, lambda z: z.softmax(1), "softmax is PyTorch's own"),
    (exercises.check_2_2, lambda z: z.log_softmax(1).exp(), "log_softmax is PyTorch's own"),
    (exercises.check_2_2, less_the_mean, "subtract the row's largest instead"),
    (
        exercises.check_2_1,
        lambda sizes: sum(a * b + 1 for a, b in pairwise(sizes)),
        "one bias a layer",
    ),
    (exercises.check_2_2, one_maximum, "one maximum for the whole batch"),
    (exercises.check_2_2, lambda z: z.softmax(0), "each column adds up to one"),
    (exercises.check_2_2, lambda z: z.exp(), "they still have to be divided"),
    (exercises.check_2_2, lambda z: (z - z.amax(1, keepdim=True)).exp(), "the maximum is gone"),
    (exercises.check_2_2, lambda z: z.exp() / z.exp().sum(), "each image has its own sum"),
    (exercises.check_2_2, lambda z: z.exp() / z.exp().sum(1), "another row's sum"),
    (exercises.check_2_2, lambda z: z.log_softmax(1), "the logarithm of the softmax"),
    (exercises.check_2_2, lambda z: z / z.sum(1, keepdim=True), "take e^z first"),
    (exercises.check_2_2, lambda z: z.softmax(1)[0], "expected a tensor of shape (3, 3), got a tensor of shape (3,)"),
    (exercises.check_2_2, lambda z: "softmax", "expected a tensor of shape (3, 3), got str"),
    (exercises.check_2_3, mean_log(lambda p, y: p[range(4), y], factor=1), "the minus sign is missing"),
    (exercises.check_2_3, lambda p, y: -p[range(4), y].log().sum(), "the sum over the images"),
    (exercises.check_2_3, lambda p, y: -p[range(4), y].mean().log(), "the logarithm of the mean"),
    (exercises.check_2_3, mean_log(lambda p, y: p[:, y]), "pairs every image with every label"),
    (exercises.check_2_3, mean_log(lambda p, y: p), "averages over all classes"),
    (exercises.check_2_3, mean_log(lambda p, y: p.amax(1)), "the largest probability"),
    (exercises.check_2_3, lambda p, y: -p[range(4), y].log2().mean(), "base 2"),
    (exercises.check_2_3, lambda p, y: -p[range(4), y].log10().mean(), "base 10"),
    (exercises.check_2_3, lambda p, y: -p[range(4), y].mean(), "the logarithm is missing"),
    (exercises.check_2_3, lambda p, y: F.cross_entropy(p, y), "no second softmax"),
    (exercises.check_2_3, lambda p, y: -p[range(4), y].log(), "expected a single number, got a tensor of shape (4,)"),
    (exercises.check_2_4, loop("never", lambda z: z.softmax(1)), "both mistakes are still there"),
    (exercises.check_2_4, loop("never"), "gradients of earlier batches"),
    (exercises.check_2_4, loop(inputs=lambda z: z.softmax(1)), "cross_entropy contains the softmax"),
    (exercises.check_2_4, loop("between"), "nothing has moved"),
    (exercises.check_2_4, lambda model, batches, lr: None, "nothing has moved"),
    (exercises.check_2_4, loop(early=True), "one step only"),
    (exercises.check_2_4, lambda model, batches, lr: by_hand(model, batches, -lr), "the largest difference is at"),
    (exercises.check_2_4, lambda model, batches, lr: loop(inputs=lambda z: z[0])(model, batches, lr), "stopped with"),
    (exercises.check_2_5, "rises", "without the last ReLU"),
    (exercises.check_2_5, "falls", "this one is of its own class"),
    (exercises.check_2_5, "jumps", "'jumps' is not it"),
    (exercises.check_2_5, 0.0, "0.0 is not it"),
]

RAISING = [exercises.check_2_1, exercises.check_2_2, exercises.check_2_3, exercises.check_2_4]


@pytest.mark.parametrize(("check", "answer"), UNANSWERED)
def test_an_untouched_stub_is_not_answered_yet(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out == "not answered yet\n"


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_a_right_answer_is_told_so(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(("check", "answer", "text"), WRONG)
def test_a_wrong_answer_is_told_why(check, answer, text, capsys):
    check(answer)
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet: ")
    assert text in printed


@pytest.mark.parametrize("check", RAISING)
def test_an_answer_that_raises_is_told_so(check, capsys):
    def broken(*arguments):
        raise ZeroDivisionError("division by zero")

    check(broken)
    assert capsys.readouterr().out == "Not yet: your code stopped with ZeroDivisionError: division by zero\n"
