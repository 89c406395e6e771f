"""Train a convolutional network with Adam on two tasks and write files/results/own_model.json, for notebook 09.

    python experiments/own_model.py            seeds 0 to 4: about five minutes on one core
    python experiments/own_model.py 0 1 2      these seeds instead

Notebook 09's network and settings: 12,000 images of each set, three epochs of MNIST, then two of Fashion-MNIST,
batches of 64, F from all 12,000 images of MNIST, Adam (Kingma and Ba 2015, arXiv:1412.6980) with learning rate 0.001.
The penalty joins the gradient or follows as a proximal step, as L2 and decoupled weight decay do in Loshchilov and
Hutter 2019 (arXiv:1711.05101). λ is chosen on images that neither training nor testing uses: the accuracies on these
are stored as well. At the end clothing becomes ten new classes of a growing output layer. The file is written anew
after each seed.
"""

import copy
import sys
from typing import Any

import results
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from contlearn import EWC, Masked, Task, accuracy, joint, load_fashion_mnist, load_mnist

PATH = results.FOLDER / "own_model.json"
TRAINING, VALIDATION = 12_000, 5_000  # images: the first and the last
EPOCHS_A, EPOCHS_B, RATE = 3, 2, 0.001
GRADIENT = (30, 100, 300, 1_000, 3_000, 10_000)
PROXIMAL = (3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
BATCH_NORM = (300, 1_000)
SLOW = 0.0003  # a learning rate that forgets less by itself


def main(seeds: list[int]) -> None:
    """Run every method with every seed; keep what is complete."""
    mnist, fashion = part(load_mnist()), part(load_fashion_mnist())
    runs: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        runs += one_seed(mnist, fashion, seed)
        write(runs, seeds[:number])


def part(task: Task) -> tuple[Task, Task]:
    """The task with few training images, scaled as in the notebook; and one whose test images are for validation."""
    images, labels = task.train.tensors

    def scaled(images: torch.Tensor, labels: torch.Tensor) -> TensorDataset:
        return TensorDataset((images[:, None] - 0.2) / 0.33, labels)

    training, test = scaled(images[:TRAINING], labels[:TRAINING]), scaled(*task.test.tensors)
    validation = scaled(images[-VALIDATION:], labels[-VALIDATION:])
    return Task(task.name, task.classes, training, test), Task(task.name, task.classes, training, validation)


def network(norm: str) -> nn.Sequential:
    """Two convolutions, one hidden layer, each normalised; 1 × 28 × 28 to ten logits."""

    def normalise(channels: int) -> nn.Module:
        return nn.GroupNorm(4, channels) if norm == "group" else nn.BatchNorm2d(channels)

    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), normalise(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), normalise(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def learn(
    model: nn.Module, task: Task, epochs: int, seed: int, ewc: EWC | None = None, how: str = "", rate: float = RATE
) -> None:
    """The loop of the notebook; "frozen" in `how` keeps the statistics of batch normalisation as they are."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for module in model.modules():
        if "frozen" in how and isinstance(module, nn.BatchNorm2d):
            module.eval()
    loader = task.train_loader(64, seed=seed)
    for _ in range(epochs):
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            if ewc is not None and "gradient" in how:
                ewc.add_gradient(model)
            optimizer.step()
            if ewc is not None and "proximal" in how:
                ewc.proximal_step(model, rate)


def one_seed(mnist: tuple[Task, Task], fashion: tuple[Task, Task], seed: int) -> list[dict[str, Any]]:
    """Each method once: its settings and the accuracies (fractions) at the end, on test and validation images."""
    runs: list[dict[str, Any]] = []

    def measure(method: str, model: nn.Module, norm: str, importance: float | None = None, rate: float = RATE) -> None:
        result: dict[str, Any] = {"method": method, "norm": norm, "importance": importance, "learning_rate": rate}
        result["seed"] = seed
        for test, validation in (mnist, fashion):
            result[test.name] = accuracy(model, test.test_loader())
            result[f"{test.name} validation"] = accuracy(model, validation.test_loader())
        runs.append(result)
        print(*result.values(), flush=True)

    for norm in ("group", "batch"):
        torch.manual_seed(seed)
        fresh = network(norm)
        start = copy.deepcopy(fresh)
        learn(start, mnist[0], EPOCHS_A, seed)
        measure("MNIST alone", start, norm)
        ewc = EWC(importance=0)
        ewc.consolidate(start, mnist[0].train_loader(200, seed=seed), progress=False)
        settings: list[tuple[str, float | None, float]] = [("unprotected", None, RATE)]
        if norm == "group":
            settings += [("gradient", importance, RATE) for importance in GRADIENT]
            settings += [("proximal", importance, RATE) for importance in PROXIMAL]
            settings += [("unprotected", None, SLOW), ("gradient", 300, SLOW)]
        else:
            settings += [
                (how, importance, RATE) for importance in BATCH_NORM for how in ("gradient", "gradient frozen")
            ]
        for how, importance, rate in settings:
            ewc.importance = importance or 0
            model = copy.deepcopy(start)
            learn(model, fashion[0], EPOCHS_B, seed, ewc, how, rate)
            measure(how, model, norm, importance, rate)
        if norm == "group":
            runs += growing(start, ewc, mnist[0], fashion[0], seed)
            learn(fresh, joint([mnist[0], fashion[0]]), EPOCHS_A, seed)
            measure("joint training", fresh, norm)
    return runs


def growing(start: nn.Sequential, ewc: EWC, mnist: Task, fashion: Task, seed: int) -> list[dict[str, Any]]:
    """Clothing as classes 10 to 19 of an output layer that grows, one epoch: with the loss over all 20 logits or over
    the new ones alone, without EWC and with it; accuracies (fractions) among all 20 classes, and when told the task.
    """
    runs = []
    torch.manual_seed(seed)
    larger, head = copy.deepcopy(start), nn.Linear(128, 20)
    with torch.no_grad():
        for new, old in zip(head.parameters(), start[-1].parameters(), strict=True):
            new[:10] = old
    larger[-1] = head
    wide = copy.deepcopy(ewc)
    wide.grow(larger)
    images, labels = fashion.train.tensors
    moved = Task("Fashion-MNIST", fashion.classes, TensorDataset(images, labels + 10), fashion.test)
    tests = {"MNIST": list(mnist.test_loader()), "Fashion-MNIST": [(x, y + 10) for x, y in fashion.test_loader()]}
    for logits in ("all", "new"):
        for importance in (0, 1_000):
            wide.importance = importance
            model = copy.deepcopy(larger)
            view = Masked(model, range(10, 20)) if logits == "new" else model
            optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
            for x, y in moved.train_loader(64, seed=seed):
                optimizer.zero_grad()
                cross_entropy(view(x), y).backward()
                wide.add_gradient(model)
                optimizer.step()
            told = (Masked(model, range(10)), Masked(model, range(10, 20)))
            key: dict[str, Any] = {"method": f"20 classes, loss over {logits} logits", "norm": "group"}
            key |= {"importance": importance, "learning_rate": RATE, "seed": seed}
            key |= {name: accuracy(model, test) for name, test in tests.items()}
            key |= {f"{name} told": accuracy(m, t) for m, (name, t) in zip(told, tests.items(), strict=True)}
            runs.append(key)
            print(*key.values(), flush=True)
    return runs


def write(runs: list[dict[str, Any]], seeds: list[int]) -> None:
    """Keep what is complete; see `results.write`."""
    command = " ".join(["python", "experiments/own_model.py", *map(str, seeds)])
    results.write(
        PATH,
        command,
        images={"training": TRAINING, "validation": VALIDATION, "fisher": TRAINING},
        epochs=[EPOCHS_A, EPOCHS_B],
        batch_size=64,
        seeds=seeds,
        runs=runs,
    )


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or list(range(5)))
