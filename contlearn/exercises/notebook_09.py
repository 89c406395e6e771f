"""The checks behind the exercises of notebook 09."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from contlearn.data import Task, load_fashion_mnist, load_mnist
from contlearn.ewc import EWC
from contlearn.exercises.judging import ask, judge, judge_both, numbers, same


def check_9_1(answer: Callable[..., Any]) -> None:
    """Judge `protected_step(model, images, labels, optimizer, ewc)` by where one step of descent leads."""
    images, labels, model, ewc = numbers(6, 4), torch.arange(6) % 3, nn.Linear(4, 3, dtype=torch.float64), EWC(2)
    parameters = dict(model.named_parameters())
    for k, p in enumerate(parameters.values()):
        p.data, p.grad = numbers(*p.shape, seed=k), torch.full_like(p, 0.5)  # of an earlier step
    stars = {name: numbers(*p.shape, seed=3) for name, p in parameters.items()}
    ewc.add({name: numbers(*p.shape, seed=5).square() for name, p in parameters.items()}, stars)
    loss, penalty = cross_entropy(model(images), labels), ewc.penalty(model)
    data, pull = (_flat(torch.autograd.grad(value, list(parameters.values()))) for value in (loss, penalty))
    before = _flat(p.detach() for p in parameters.values())
    optimizer = torch.optim.SGD(parameters.values(), lr=1)
    returned = ask(answer, model, images, labels, optimizer, ewc)
    after, expected = _flat(p.detach() for p in parameters.values()), before - data - pull
    if isinstance(returned, Exception) or (returned is None and same(after, before)):
        judge(returned, expected, "", {})
    elif same(after, expected) and not (same(returned, loss) or same(returned, loss + penalty)):
        print("Not yet: the weights are right, but what is returned is not the loss.")
    else:
        mistakes = {
            "no weight has moved: step() must come when the gradients are there, before zero_grad().": before,
            "the penalty had no effect: zero_grad() wiped it out, or add_gradient came after step().": before - data,
            "the loss had no effect: zero_grad() came after backward(), or backward() is missing.": before - pull,
            "gradients of an earlier step are still in it: zero_grad() comes before backward().": expected - 0.5,
            "gradients of an earlier step are still in it, and the penalty is not.": before - data - 0.5,
            "the penalty is in it twice: ewc.penalty or ewc.add_gradient, not both.": expected - pull,
        }
        judge(after, expected, "the loss's gradient and the penalty's meet in .grad; the step uses both.", mistakes)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of several tensors in one row."""
    return torch.cat([t.flatten() for t in tensors])


def check_9_2(answer: Callable[..., Any]) -> None:
    """Judge `train_but_keep_statistics(model)` by the layers that are in eval() mode afterwards."""
    inner = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), inner).eval()
    returned = ask(answer, model)
    layers = (model[1], model[2], inner[2], inner[3])
    resting = " ".join(type(layer).__name__ for layer in layers if not layer.training)
    if returned is None and len(resting.split()) < len(layers):
        print("Not yet: the modes have changed, but nothing is returned: return the model.")
    elif returned is None or isinstance(returned, Exception):
        judge(returned, "", "", {})
    elif returned is not model:
        print(f"Not yet: return the model that was given, changed in place, not {type(returned).__name__}.")
    elif not all(p.requires_grad for p in model.parameters()):
        print("Not yet: some weights are frozen: only the mode should change, their weights may still learn.")
    else:
        mistakes = {
            "everything is in eval() mode: begin with model.train().": "BatchNorm2d Dropout BatchNorm1d Dropout",
            "everything is in train() mode, so the statistics drift: train() comes before the loop.": "",
            "the batch-norm layer further down was missed: model.modules() goes to every depth.": "BatchNorm2d",
            "BatchNorm2d was missed: isinstance takes a tuple of both types.": "BatchNorm1d",
            "this is the wrong way round: batch-norm belongs into eval(), the others into train().": "Dropout Dropout",
            f"these layers are in eval() mode: {resting}.": resting,
        }
        right = "the statistics stay, dropout works, and EWC holds the weights."
        judge(resting, "BatchNorm2d BatchNorm1d", right, mistakes)


def check_9_3(answer: Callable[..., Any]) -> None:
    """Judge `grow_rows(precision, center, weight)`, eq. (9.4): three rows become five. μ may end in anything."""
    precision, center, weight = numbers(3, 4).square(), numbers(3, 4, seed=1), numbers(5, 4, seed=2)
    found = ask(answer, precision.clone(), center.clone(), weight.clone())
    if found is None or found is ... or isinstance(found, Exception):
        judge(found, 0, "", {})
        return
    if not isinstance(found, tuple | list) or len(found) != 2:
        print(f"Not yet: return two tensors, S and μ, not {type(found).__name__}.")
        return
    zeros, ones = torch.zeros(2, 4), torch.ones(2, 4)
    expected, mistakes = (
        torch.cat((precision, zeros)),
        {
            "this is S as it was: it needs a row for each row of the larger layer.": precision,
            "the new rows are held with S = 1: A does not know them, so their S is 0.": torch.cat((precision, ones)),
            "the new rows are held like the mean of the old ones: A does not know them, so their S is 0.": torch.cat(
                (precision, precision.mean(0).expand(2, 4))
            ),
            "the new rows come first in S: they stand below the old ones.": torch.cat((zeros, precision)),
            "the old rows have lost their S, so the old classes would be free.": torch.zeros(5, 4),
            "S and μ are exchanged: return S first.": torch.cat((center, weight[3:])),
        },
    )
    given = found[0]
    if same(given, expected):
        given, expected = ask(lambda: torch.as_tensor(found[1])), torch.cat((center, weight[3:]))
        mistakes = {
            "μ has too few rows: it needs one for each row of the larger layer.": center,
            "μ of the old rows is θ*, not the weights as they are now.": weight,
            "the new rows come first in μ: they stand below the old ones.": torch.cat(
                (weight[3:], center[:1], weight[3:])
            ),
            "μ of the old rows is lost, so they would be pulled towards zero.": torch.cat((0 * center, weight[3:])),
        }
        if isinstance(given, Tensor) and given.shape == weight.shape and bool(given[3:].isfinite().all()):
            given = torch.cat((given[:3], weight[3:]))  # at S = 0 any μ is right
    judge(given, expected, "the old rows keep their springs; a spring of strength 0 may end anywhere.", mistakes)


def check_9_4(answer: float | None) -> None:
    """Judge the λ to try after 1, 10, 100 and 1,000, where the last had the best mean."""
    judge(
        answer,
        10_000,
        "the best so far lies at the edge, so nobody knows yet whether the next is better.",
        {
            "factors of 3 come later: first find a best λ with a worse one on both sides.": 3_000,
            "between 100 and 1,000 is too early: the mean still rises at the edge of the table.": 300,
            "1,000 has the best mean, but it is the largest that was tried: is the next one better still?": 1_000,
            "100 has a mean of 82.5 %, 1,000 has 87.5 %: go on in the direction that improves.": 100,
            "10 has been tried: its mean is 71.5 %, far from the best.": 10,
            "1 has been tried: its mean is 64.5 %, the worst.": 1,
            "this leaps: go on by the same factor as before.": 100_000,
            "compute the mean of each row, and look where the best one stands.": ask(float, answer),
        },
    )


def check_9_5(answer: str | list[str] | tuple[str, ...] | None) -> None:
    """Judge four diagnoses: penalty 0.0, statistics that drift, competing classes, λ too large under Adam."""
    letters = "".join(map(str, answer)) if isinstance(answer, list | tuple) else answer
    judge(
        "".join(letters.replace(",", " ").split()).lower() if isinstance(letters, str) else letters,
        "cdba",
        "look at the penalty first: it says whether weights moved, and whether anybody noticed.",
        {
            "1 and 2 are exchanged: with drifting statistics λ has an effect on the weights, but not on the harm.": (
                "dcba"
            ),
            "1: with a λ far too large the old task would stay; here it is lost.": "adbc",
            "3 and 4 are exchanged: only with several classes in one output can masking help.": "cdab",
            "2: θ* that moves along makes the penalty zero, and λ = 10⁹ would not keep the weights in place.": "ccba",
            "4: new classes in a shared output cost the old ones, but the new task itself is learnt.": "cdbb",
            "3: a λ that is too large keeps the new classes from being learnt; here only they are predicted.": "cdaa",
        },
    )


def check_9_6(answer: Callable[..., Any]) -> None:
    """Judge `learn_both(model, digits, clothes)` by outcome, on the notebook's network: at least 81 % of both."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    tasks = [_few(load_mnist()), _few(load_fashion_mnist())]
    judge_both(answer, model, tasks, 0.81, "your loop, and a few lines for EWC.")


def _few(task: Task) -> Task:
    """12,000 training images, with a channel, centred and scaled as in the notebook."""
    train, test = ((part.tensors[0][:12_000], part.tensors[1][:12_000]) for part in (task.train, task.test))
    scaled = [TensorDataset((images[:, None] - 0.2) / 0.33, labels) for images, labels in (train, test)]
    return Task(task.name, task.classes, *scaled)
