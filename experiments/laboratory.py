"""What the page `site/lab/` shows, measured with the library: files/results/laboratory.json.

    python experiments/laboratory.py                everything: about a quarter of an hour on one core
    python experiments/laboratory.py --seeds 0 1    these seeds alone; two processes may share the work

A page that anyone opens cannot carry 140,000 images of 28 × 28 pixels. It carries 12,800 training and 1,000 test images
of each set, averaged to 14 × 14 pixels of 16 grey levels, and a network 196 → 64 → 10. This script makes those images
and trains that network on them with `contlearn`; the page trains its own, in JavaScript, and shows these numbers beside
what it found.

A pixel of grey level v, 0 to 15, goes into the network as v / 5. Batches of 32, learning rate 0.1 throughout; five
epochs of digits, 2,000 steps; three of clothes, 1,200 steps. Every penalty acts through its proximal step, every ten
steps. Joint training takes as many steps as both together.

Nothing is chosen by test images. Seeds 100 to 102 are for validation: the same training images, measured on 2,000
others from the end of the training set. Of each method the λ with the best mean of both accuracies over these seeds is
the one that the page begins with. Seeds 0 to 4 are measured on the page's test images: every tenth of the test set.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import results
import torch
from torch import Tensor
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

VALIDATION_SEEDS, TEST_SEEDS = (100, 101, 102), (0, 1, 2, 3, 4)
SIDE, LEVELS, HIDDEN = 14, 15, 64
TRAIN_IMAGES, VALIDATION_IMAGES, EVERY_TEST_IMAGE = 12_800, 2_000, 10
BATCH, RATE, EPOCHS_A, EPOCHS_B, EVERY = 32, 0.1, 5, 3, 10
UNIT = 5  # a grey level v goes in as v / 5: from 0 to 3
IMPORTANCES = (1, 3, 10, 30, 100, 300, 1000)


def shrunk(images: Tensor) -> Tensor:
    """Each 2 × 2 square of pixels as one of 16 grey levels: float32 (N, 28, 28) in [0, 1] to uint8 (N, 14, 14).

    Computed in whole numbers, halves upwards, so that every machine makes the same images.
    """
    squares = (images * 255).round().long().reshape(-1, SIDE, 2, SIDE, 2)
    levels: Tensor = (squares.sum((2, 4)) * 2 * LEVELS + 1020) // 2040  # of sums from 0 to 1020
    return levels.to(torch.uint8)


def small(task: Task) -> dict[str, tuple[Tensor, Tensor]]:
    """Grey levels (N, 14, 14) and labels (N,) of the page's parts: train, validation and test."""
    images, labels = task.train.tensors
    test_images, test_labels = task.test.tensors
    parts = {
        "train": (images[:TRAIN_IMAGES], labels[:TRAIN_IMAGES]),
        "validation": (images[-VALIDATION_IMAGES:], labels[-VALIDATION_IMAGES:]),
        "test": (test_images[::EVERY_TEST_IMAGE], test_labels[::EVERY_TEST_IMAGE]),
    }
    return {name: (shrunk(x), y) for name, (x, y) in parts.items()}


def page_task(task: Task, measured_on: str) -> Task:
    """The task as the page's network sees it, measured on the part called `measured_on`."""
    parts = {name: TensorDataset(levels.float() / UNIT, labels) for name, (levels, labels) in small(task).items()}
    return Task(task.name, task.classes, parts["train"], parts[measured_on])


def main() -> None:
    """Every run of every seed that the file lacks."""
    asked = results.asked(__doc__ or "", [*VALIDATION_SEEDS, *TEST_SEEDS])
    runs = results.Runs(
        "laboratory",
        asked.again,
        images={"train": TRAIN_IMAGES, "validation": VALIDATION_IMAGES, "test": 10_000 // EVERY_TEST_IMAGE},
        side=SIDE,
        hidden=HIDDEN,
        batch_size=BATCH,
        learning_rate=RATE,
        epochs=[EPOCHS_A, EPOCHS_B],
        every=EVERY,
        seeds=TEST_SEEDS,
        validation_seeds=VALIDATION_SEEDS,
    )
    both = load_mnist(), load_fashion_mnist()
    for seed in asked.seeds:
        part = "validation" if seed in VALIDATION_SEEDS else "test"
        digits, clothes = (page_task(task, part) for task in both)
        one_seed(seed, part, digits, clothes, runs)


def one_seed(seed: int, part: str, digits: Task, clothes: Task, runs: results.Runs) -> None:
    """All runs that start from the same weights: accuracies are fractions, on the test or the validation images."""
    torch.manual_seed(seed)
    fresh = MLP(HIDDEN, 1, SIDE * SIDE)

    def trained(start: MLP, task: Task, epochs: int, ewc: EWC | None = None) -> MLP:
        model, loader = copy.deepcopy(start), task.train_loader(BATCH, seed=seed)
        train(model, loader, epochs=epochs, lr=RATE, ewc=ewc, proximal=EVERY if ewc else False, progress=False)
        return model

    def keep(method: str, make: Callable[[], MLP], importance: float | None = None) -> None:
        def measured() -> dict[str, Any]:
            model = make()
            return {task.name: accuracy(model, task.test_loader()) for task in (digits, clothes)}

        runs.once({"measured_on": part, "seed": seed, "method": method, "importance": importance}, measured)

    after_a = trained(fresh, digits, EPOCHS_A)
    keep("digits alone", lambda: after_a)
    keep("unprotected", lambda: trained(after_a, clothes, EPOCHS_B))
    keep("joint training", lambda: trained(fresh, joint([digits, clothes]), (EPOCHS_A + EPOCHS_B) // 2))

    theta_star, loader = dict(after_a.named_parameters()), digits.train_loader(1000, shuffle=False)
    diagonal = diagonal_fisher(after_a, loader, progress=False)
    held: dict[str, tuple[EWC, Any]] = {
        "L2": (EWC(0), uniform(diagonal)),
        "EWC": (EWC(0), diagonal),
        "Kronecker": (EWC(0, structure="kronecker"), kronecker_fisher(after_a, loader, progress=False)),
    }
    for method, (ewc, fisher) in held.items():
        ewc.add(fisher, theta_star)
        for importance in IMPORTANCES:
            ewc.importance = importance
            keep(method, partial(trained, after_a, clothes, EPOCHS_B, ewc), importance)


if __name__ == "__main__":
    main()
