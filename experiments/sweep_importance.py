"""Train Fashion-MNIST after MNIST with many importances λ and write files/results/importance.json, for notebook 05.

    python experiments/sweep_importance.py            seeds 0 to 4: about a quarter of an hour on two cores
    python experiments/sweep_importance.py 0 1 2      these seeds instead

The settings are those of `python -m contlearn`: five epochs of batches of 64; learning rate 0.1 for MNIST, 0.03 with a
penalty, which acts through its proximal step, so that no λ can blow up. The file is written anew after each seed.
"""

import copy
import sys
from typing import Any

import results
import torch
from torch import nn

from contlearn import EWC, MLP, Task, accuracy, diagonal_fisher, joint, load_fashion_mnist, load_mnist, train
from contlearn.fisher import uniform

PATH = results.FOLDER / "importance.json"
EPOCHS = 5
EWC_IMPORTANCES = (1, 10, 30, 100, 200, 300, 1000, 3000, 10000)
L2_IMPORTANCES = (10, 30, 100, 300, 1000, 10000)


def main(seeds: list[int]) -> None:
    """Run every method with every seed; keep what is complete."""
    mnist, fashion = load_mnist(), load_fashion_mnist()
    runs: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        runs += one_seed(mnist, fashion, seed)
        write(runs, seeds[:number])


def one_seed(mnist: Task, fashion: Task, seed: int) -> list[dict[str, Any]]:
    """Each method once: its settings and the two accuracies (fractions) at the end."""
    runs: list[dict[str, Any]] = []

    def run(
        method: str, start: nn.Module, task: Task, lr: float, importance: float | None = None, ewc: EWC | None = None
    ) -> nn.Module:
        model = copy.deepcopy(start)
        train(model, task.train_loader(64, seed=seed), epochs=EPOCHS, lr=lr, ewc=ewc, proximal=ewc is not None)
        result = {"method": method, "importance": importance, "learning_rate": lr, "seed": seed}
        result |= {task.name: accuracy(model, task.test_loader()) for task in (mnist, fashion)}
        runs.append(result)
        print(*result.values(), flush=True)
        return model

    torch.manual_seed(seed)
    fresh = MLP()
    after_a = run("MNIST alone", fresh, mnist, 0.1)
    for lr in (0.1, 0.03):
        run("unprotected", after_a, fashion, lr)
    theta_star = dict(after_a.named_parameters())
    fisher = diagonal_fisher(after_a, mnist.train_loader(1000, seed=seed))
    flat = uniform(fisher)
    for method, strengths, importances in (("EWC", fisher, EWC_IMPORTANCES), ("L2", flat, L2_IMPORTANCES)):
        for importance in importances:
            ewc = EWC(importance)
            ewc.add(strengths, theta_star)
            run(method, after_a, fashion, 0.03, importance, ewc)
    run("joint training", fresh, joint([mnist, fashion]), 0.1)
    return runs


def write(runs: list[dict[str, Any]], seeds: list[int]) -> None:
    """Keep what is complete; see `results.write`."""
    command = " ".join(["python", "experiments/sweep_importance.py", *map(str, seeds)])
    results.write(
        PATH,
        command,
        epochs=EPOCHS,
        batch_size=64,
        seeds=seeds,
        runs=runs,
    )


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or list(range(5)))
