"""Train Fashion-MNIST after MNIST with L2, diagonal EWC and Kronecker EWC: files/results/kronecker.json, notebook 07.

    python experiments/kronecker.py            seeds 0 to 2: about twenty minutes on one core
    python experiments/kronecker.py 0 1        these seeds instead

The settings are those of `python -m contlearn`: batches of 64, five epochs a task, learning rate 0.1 for MNIST; for
Fashion-MNIST the last epoch runs at a tenth of the rate. Every penalty acts through its proximal step. The Kronecker
factors of F are those of Ritter, Botev and Barber 2018 (arXiv:1805.07810).

λ is to be chosen in the runs called "validation": one seed that is reported nowhere else, trained on the first 50,000
images of each training set, measured on the last 10,000. The runs called "test" train on all 60,000 images and are
measured on the test sets. What a method costs is measured by itself: one epoch of each in turn, three times, in seconds
of processor time, which do not count what the machine does besides. The file is written anew after each seed.
"""

import copy
import sys
import time
from typing import Any

import results
import torch
from torch import nn
from torch.utils.data import TensorDataset

from contlearn import (
    EWC,
    MLP,
    Task,
    accuracy,
    diagonal_fisher,
    joint,
    kronecker_fisher,
    load_fashion_mnist,
    load_mnist,
    train,
)
from contlearn.fisher import uniform

PATH = results.FOLDER / "kronecker.json"
EPOCHS = 5
VALIDATION_SEED = 100
L2_IMPORTANCES = (100, 300, 1000)
DIAGONAL_IMPORTANCES = (100, 300, 1000)
KRONECKER_IMPORTANCES = (1, 10, 30, 100, 300)
FASTER: dict[str, tuple[int, ...]] = {
    "L2": (),
    "EWC": (100, 300),
    "Kronecker": (30, 100),
}  # λ that also run at learning rate 0.1
ROUNDS = 3  # of the timing


def main(seeds: list[int]) -> None:
    """Run the validation, then every method with every seed; keep what is complete."""
    mnist, fashion = load_mnist(), load_fashion_mnist()
    runs = one_seed(without_test(mnist), without_test(fashion), VALIDATION_SEED, "validation")
    seconds = timing(mnist, fashion)
    for number, seed in enumerate(seeds, 1):
        runs += one_seed(mnist, fashion, seed, "test")
        write(runs, seconds, seeds[:number])


def without_test(task: Task) -> Task:
    """The task without its test set: the last 10,000 training images take its place."""
    images, labels = task.train.tensors
    first, last = slice(None, -10_000), slice(-10_000, None)
    return Task(
        task.name, task.classes, TensorDataset(images[first], labels[first]), TensorDataset(images[last], labels[last])
    )


def one_seed(mnist: Task, fashion: Task, seed: int, measured_on: str) -> list[dict[str, Any]]:
    """Each method once: its settings, and the two accuracies (fractions) at the end."""
    runs: list[dict[str, Any]] = []

    def run(
        method: str,
        start: nn.Module,
        task: Task,
        lr: float,
        ewc: EWC | None = None,
        every: int | None = None,
        batch_size: int = 64,
    ) -> nn.Module:
        model = copy.deepcopy(start)
        rates = [lr] * EPOCHS if task is mnist else [lr] * (EPOCHS - 1) + [lr / 10]
        loader = task.train_loader(batch_size, seed=seed)
        train(model, loader, epochs=EPOCHS, lr=rates, ewc=ewc, proximal=every or False)
        result = {"method": method, "importance": ewc and ewc.importance, "learning_rate": lr, "every": every}
        result |= {"measured_on": measured_on, "seed": seed}
        result |= {task.name: accuracy(model, task.test_loader()) for task in (mnist, fashion)}
        runs.append(result)
        print(*result.values(), flush=True)
        return model

    torch.manual_seed(seed)
    fresh = MLP()
    after_a = run("MNIST alone", fresh, mnist, 0.1)
    theta_star = dict(after_a.named_parameters())
    diagonal = diagonal_fisher(after_a, mnist.train_loader(1000, seed=seed))
    flat = uniform(diagonal)
    for method, strengths, importances in (
        ("L2", flat, L2_IMPORTANCES),
        ("EWC", diagonal, DIAGONAL_IMPORTANCES),
    ):
        for importance in importances:
            ewc = EWC(importance)
            ewc.add(strengths, theta_star)
            run(method, after_a, fashion, 0.03, ewc, every=1)
            if importance in FASTER[method]:
                run(method, after_a, fashion, 0.1, ewc, every=1)

    ewc = EWC(0, structure="kronecker")
    ewc.add(kronecker_fisher(after_a, mnist.train_loader(1000, seed=seed)), theta_star)
    for importance in KRONECKER_IMPORTANCES:
        ewc.importance = importance
        run("Kronecker", after_a, fashion, 0.03, ewc, every=10)
        if importance in FASTER["Kronecker"]:
            run("Kronecker", after_a, fashion, 0.1, ewc, every=10)
    if measured_on == "test":
        ewc.importance = 100
        run("Kronecker", after_a, fashion, 0.03, ewc, every=1)
        run("unprotected", after_a, fashion, 0.1)
        run("joint training", fresh, joint([mnist, fashion]), 0.1, batch_size=128)
    return runs


def timing(mnist: Task, fashion: Task) -> dict[str, list[float]]:
    """Processor seconds of one epoch of Fashion-MNIST with each method, all in turn, and of measuring F."""
    torch.manual_seed(VALIDATION_SEED)
    after_a = MLP()
    train(after_a, mnist.train_loader(64, seed=0), epochs=1, lr=0.1)
    seconds: dict[str, list[float]] = {}

    def measure(name: str, lr: float, ewc: EWC | None, every: int) -> None:
        model, loader = copy.deepcopy(after_a), fashion.train_loader(64, seed=0)
        started = time.process_time()
        train(model, loader, epochs=1, lr=lr, ewc=ewc, proximal=every)
        seconds.setdefault(name, []).append(round(time.process_time() - started, 3))

    for _ in range(ROUNDS):
        held: dict[str, EWC] = {}
        for structure in ("diagonal", "kronecker"):
            held[structure] = EWC(100, structure="kronecker" if structure == "kronecker" else "diagonal")
            started = time.process_time()
            held[structure].consolidate(after_a, mnist.train_loader(1000, seed=0))
            held[structure].proximal_step(after_a, 0.03)  # at θ* it moves nothing, but finds the eigenbases
            seconds.setdefault(f"consolidate {structure}", []).append(round(time.process_time() - started, 3))
        measure("plain", 0.03, None, 0)
        measure("diagonal, every step", 0.03, held["diagonal"], 1)
        measure("Kronecker, every 10 steps", 0.03, held["kronecker"], 10)
        measure("Kronecker, every step", 0.03, held["kronecker"], 1)
    print(seconds, flush=True)
    return seconds


def write(runs: list[dict[str, Any]], seconds: dict[str, list[float]], seeds: list[int]) -> None:
    """Keep what is complete; see `results.write`."""
    command = " ".join(["python", "experiments/kronecker.py", *map(str, seeds)])
    results.write(
        PATH,
        command,
        epochs=EPOCHS,
        batch_size=64,
        seeds=seeds,
        validation={"seed": VALIDATION_SEED, "images": 10_000},
        seconds=seconds,
        runs=runs,
    )


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or list(range(3)))
