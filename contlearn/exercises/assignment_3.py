"""The checks behind the third assignment: a review of somebody's EWC."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from contlearn.exercises.judging import ask, judge, numbers, worth


@worth(4)
def check_a3_1(answer: Any) -> None:
    """Judge the lines of the program that are wrong, as numbers, in any order."""
    wrong = [3, 5, 8, 9, 15]
    given = ask(sorted, answer) if isinstance(answer, list | tuple | set) else answer
    names = {
        3: "3: without clone() and detach() θ* moves along with the weights.",
        5: "5: statistics of batch normalisation drift and dropout draws while F is measured in train() mode.",
        8: "8: the loss is a mean over the batch, so one squared gradient a batch is the square of a mean.",
        9: "9: this overwrites what earlier batches have added.",
        15: "15: the ½ of (5.2) is missing, so that λ means 2λ.",
    }
    if isinstance(given, list) and all(isinstance(line, int) for line in given) and given != wrong:
        extra = sorted(set(given) - set(wrong))
        missed = [line for line in wrong if line not in given]
        if extra:
            print(f"Not yet: line {extra[0]} does what it should.")
        else:
            print(f"Not yet: {len(missed)} of five are missing. Look at what each line leaves behind for the next.")
        return
    judge(given, torch.tensor(wrong), " ".join(names.values()), {})


def _small() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    for k, p in enumerate(model.parameters()):
        p.data = numbers(*p.shape, seed=20 + k)
    return model


@worth(5)
def check_a3_2(answer: Callable[..., Any]) -> None:
    """Judge `consolidate(model, batches)`: θ* and the empirical F by name; the model is left in train() mode."""
    model = _small()
    batches = [(numbers(3, 4, seed=k), torch.tensor([0, 1, 2]).roll(k)) for k in range(2)]
    model.train()
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = ask(answer, model, batches)
    if found is None or found is ... or isinstance(found, Exception):
        judge(found, 0, "", {})
        return
    if not (isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(part, Mapping) for part in found)):
        print("Not yet: return two dicts by parameter name, θ* and F.")
        return
    star, fisher = found
    if any(not torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers()):
        print("Not yet: the statistics of batch normalisation have drifted: measure F in eval() mode.")
        return
    if not model.training:
        print("Not yet: the model is left in eval() mode: put it back, or the next training runs without dropout.")
        return
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)  # the training that follows
    stored = ask(lambda: torch.cat([torch.as_tensor(star[name]).flatten() for name in before]))
    wanted = torch.cat([tensor.flatten() for tensor in before.values()])
    moved = {"θ* moves along with the weights: detach().clone().": wanted + 1}
    if isinstance(stored, Exception) or not torch.allclose(stored.detach().double(), wanted):
        judge(stored, wanted, "", moved)
        return
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(1)
    model.eval()
    per_image = torch.stack(
        [_slope(model, x[None], y[None]) for xs, ys in batches for x, y in zip(xs, ys, strict=True)]
    )
    per_batch = torch.stack([_slope(model, xs, ys) for xs, ys in batches])
    squares = per_image.square()
    given = ask(lambda: torch.cat([torch.as_tensor(fisher[name]).flatten() for name in before]))
    mistakes = {
        "this squares the mean gradient of each batch: go image by image.": per_batch.square().mean(0),
        "this squares the mean gradient of each batch, and sums: go image by image.": per_batch.square().sum(0),
        "the squares are summed: divide by the number of images.": squares.sum(0),
        "only the last batch is in it: add up over all of them.": squares[3:].mean(0),
        "only the last image is in it: add up over all of them.": squares[-1],
        "divided by the number of batches: divide by the number of images.": squares.sum(0) / 2,
    }
    judge(given, squares.mean(0), "image by image, in eval() mode, all batches, and θ* of its own.", mistakes)


def _slope(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    loss = cross_entropy(model(images), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@worth(3)
def check_a3_3(answer: Callable[..., Any]) -> None:
    """Judge `penalty(model, star, fisher, importance)`: (5.2), over the parameters that the old task knew."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    for k, p in enumerate(model.parameters()):
        p.data = numbers(*p.shape, seed=30 + k)
    old = {name: p for name, p in model.named_parameters() if name.startswith("0.")}  # the new layer came later
    star = {name: numbers(*p.shape, seed=40) for name, p in old.items()}
    fisher = {name: numbers(*p.shape, seed=50).square() for name, p in old.items()}
    springs = torch.stack([(fisher[name] * (p.detach() - star[name]).square()).sum() for name, p in old.items()]).sum()
    linear = sum((fisher[name] * (p.detach() - star[name])).sum() for name, p in old.items())
    given = ask(answer, model, star, fisher, 30)
    if isinstance(given, Tensor) and not given.requires_grad and torch.allclose(given.double(), 15 * springs):
        print("Not yet: the number is right, but no gradient flows through it.")
        return
    mistakes = {
        "the ½ is missing: this is twice the penalty.": 30 * springs,
        "λ is missing.": springs / 2,
        "nothing is squared.": 15 * linear,
        "F is missing.": 15 * sum((p.detach() - star[name]).square().sum() for name, p in old.items()),
    }
    judge(given, 15 * springs, "parameters that came later have no spring: the old task does not know them.", mistakes)
