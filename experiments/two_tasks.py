"""MNIST, then Fashion-MNIST, with every method and many λ: files/results/two_tasks.json, for notebooks 03, 05 and 07.

    python experiments/two_tasks.py                everything: about an hour on one core
    python experiments/two_tasks.py --seeds 0 1    these seeds alone; two processes may share the work

The settings are those of `python -m contlearn`: batches of 64; five epochs of MNIST with learning rate 0.1; three of
Fashion-MNIST, the last one at a tenth of the rate, whatever the method. Every penalty acts through its proximal step,
every ten steps. Joint training takes as many steps as the two tasks together: four epochs of both sets.

Nothing is chosen by test images. Seeds 100 to 102 are for validation: trained on the first 50,000 images of each set,
measured on the last 10,000, for every method the same grid of importances λ and learning rates η, for joint training
the same number of η as the others have of both together, as far as that makes sense. Seeds 0 to 4 train on all
60,000 images and are measured on the test sets.

Kronecker factors for EWC are those of Ritter, Botev and Barber 2018 (arXiv:1805.07810). "rescaled" keeps their
eigenvectors, and measures the curvature along each (EK-FAC; George et al. 2018, arXiv:1806.03884, equation 10).

The same the other way round, clothes first, runs with seeds 0 to 2.

What a method costs is measured by itself: one epoch of each in turn, three times, in seconds of processor time. Every
run is written as soon as it is complete, and is not run again unless `--again` is given.
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import results
import torch
from torch import Tensor, nn
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
from contlearn.fisher import KroneckerFisher, uniform

VALIDATION_SEEDS, TEST_SEEDS = (100, 101, 102), (0, 1, 2, 3, 4)
EPOCHS_A, EPOCHS_B, EVERY = 5, 3, 10
IMPORTANCES = (3, 10, 30, 100, 300, 1000, 3000)
RATES = (0.03, 0.1)
JOINT_RATES = (0.03, 0.05, 0.1, 0.2)
REVERSED_SEEDS = (0, 1, 2)
WIDER = (1, 10_000, 100_000)  # λ beyond the grid, for the figures
ROUNDS = 3  # of the timing


def main() -> None:
    """Every run of every seed that the file lacks, then the timing."""
    asked = results.asked(__doc__ or "", [*VALIDATION_SEEDS, *TEST_SEEDS])
    runs = results.Runs(
        "two_tasks",
        asked.again,
        batch_size=64,
        epochs=[EPOCHS_A, EPOCHS_B],
        every=EVERY,
        seeds=TEST_SEEDS,
        validation={"seeds": VALIDATION_SEEDS, "images": 10_000},
    )
    mnist, fashion = load_mnist(), load_fashion_mnist()
    for seed in asked.seeds:
        tasks = (without_test(mnist), without_test(fashion)) if seed in VALIDATION_SEEDS else (mnist, fashion)
        one = Seed(seed, *tasks, runs)
        one.run()
        if seed in REVERSED_SEEDS:
            one.reversed()
    if "seconds" not in runs.read() or asked.again:
        runs.write(seconds=timing(mnist, fashion))


def without_test(task: Task) -> Task:
    """The task without its test set: the last 10,000 training images take its place."""
    images, labels = task.train.tensors
    first, last = slice(None, -10_000), slice(-10_000, None)
    return Task(
        task.name, task.classes, TensorDataset(images[first], labels[first]), TensorDataset(images[last], labels[last])
    )


def falling(lr: float, epochs: int) -> list[float]:
    """A learning rate for each epoch: `lr`, and a tenth of it in the last."""
    return [lr] * (epochs - 1) + [lr / 10]


class Seed:
    """All runs that start from the same weights."""

    def __init__(self, seed: int, mnist: Task, fashion: Task, runs: results.Runs) -> None:
        self.seed, self.mnist, self.fashion, self.runs = seed, mnist, fashion, runs
        self.measured_on = "validation" if seed in VALIDATION_SEEDS else "test"
        torch.manual_seed(seed)
        self.fresh = MLP()
        self.after_a = copy.deepcopy(self.fresh)
        train(self.after_a, mnist.train_loader(64, seed=seed), epochs=EPOCHS_A, lr=0.1, progress=False)
        self.once("MNIST alone", lambda: self.after_a, lr=0.1, epochs=EPOCHS_A)

    def run(self) -> None:
        """The grid; on the test sets also what only the figures and the controls need."""
        theta_star = dict(self.after_a.named_parameters())
        loader = self.mnist.train_loader(1000, shuffle=False)
        diagonal = diagonal_fisher(self.after_a, loader, progress=False)
        factors = kronecker_fisher(self.after_a, loader, progress=False)
        held: dict[str, Any] = {"EWC": EWC(0), "L2": EWC(0), "Kronecker": EWC(0, structure="kronecker")}
        held["EWC"].add(diagonal, theta_star)
        held["L2"].add(uniform(diagonal), theta_star)
        held["Kronecker"].add(factors, theta_star)
        held["Kronecker, rescaled"] = Rescaled(self.after_a, factors, loader)

        for lr in RATES:
            self.second("unprotected", None, lr)
            for method, ewc in held.items():
                if method in ("EWC", "L2", "Kronecker") or lr == 0.1:
                    for importance in IMPORTANCES:
                        self.second(method, ewc, lr, importance)
        for lr in JOINT_RATES:
            self.joint(lr, (EPOCHS_A + EPOCHS_B) // 2)
        for epochs in (EPOCHS_B + 2,):  # two epochs more, for those whose distance is of interest
            for importance in (10, 30, 100):
                self.second("Kronecker", held["Kronecker"], 0.1, importance, epochs=epochs)
            for lr in JOINT_RATES:
                self.joint(lr, (EPOCHS_A + epochs) // 2)
        if self.measured_on == "test":
            for importance in WIDER:
                self.second("EWC", held["EWC"], 0.1, importance)
            self.second("EWC", held["EWC"], 0.1, 300, every=1)
            for every in (1, 3, 30):
                self.second("Kronecker", held["Kronecker"], 0.1, 30, every=every)
            rates = falling(0.1, EPOCHS_B)
            alone = partial(self.trained, self.fresh, self.fashion, rates)
            self.once("Fashion-MNIST alone", alone, lr=0.1, epochs=EPOCHS_B)

    def reversed(self) -> None:
        """Clothes first, three epochs, then digits, three epochs: kept under "test, reversed"."""
        self.measured_on = "test, reversed"
        rates = falling(0.1, EPOCHS_B)
        after_b = self.trained(self.fresh, self.fashion, rates)
        self.once("Fashion-MNIST alone", lambda: after_b, 0.1, EPOCHS_B)
        held: dict[str, Any] = {"EWC": EWC(0), "Kronecker": EWC(0, structure="kronecker")}
        for ewc in held.values():
            ewc.consolidate(after_b, self.fashion.train_loader(1000, shuffle=False), progress=False)
        self.once("unprotected", lambda: self.trained(after_b, self.mnist, rates), 0.1, EPOCHS_B)
        for method, ewc in held.items():
            for importance in IMPORTANCES:
                ewc.importance = importance
                make = partial(self.trained, after_b, self.mnist, rates, ewc, EVERY)
                self.once(method, make, 0.1, EPOCHS_B, importance, EVERY)

    def second(
        self,
        method: str,
        ewc: Any,
        lr: float,
        importance: float | None = None,
        every: int = EVERY,
        epochs: int = EPOCHS_B,
    ) -> None:
        """Fashion-MNIST, after MNIST."""
        if ewc:
            ewc.importance = importance
        make = partial(self.trained, self.after_a, self.fashion, falling(lr, epochs), ewc, every if ewc else False)
        self.once(method, make, lr, epochs, importance, every if ewc else None)

    def joint(self, lr: float, epochs: int) -> None:
        """Both sets at once."""
        both = partial(joint, [self.mnist, self.fashion])
        self.once("joint training", lambda: self.trained(self.fresh, both(), falling(lr, epochs)), lr, epochs)

    def trained(
        self, start: nn.Module, task: Task, rates: list[float], ewc: Any = None, every: int | bool = False
    ) -> nn.Module:
        """A copy of `start` that has learnt `task`."""
        model, loader = copy.deepcopy(start), task.train_loader(64, seed=self.seed)
        train(model, loader, epochs=len(rates), lr=rates, ewc=ewc, proximal=every, progress=False)
        return model

    def once(
        self,
        method: str,
        make: Callable[[], nn.Module],
        lr: float,
        epochs: int,
        importance: float | None = None,
        every: int | None = None,
    ) -> None:
        """Keep the two accuracies (fractions) of the model that `make` trains."""

        def measured() -> dict[str, Any]:
            model = make()
            return {task.name: accuracy(model, task.test_loader()) for task in (self.mnist, self.fashion)}

        key: dict[str, Any] = {"measured_on": self.measured_on, "seed": self.seed, "method": method}
        key |= {"learning_rate": lr, "epochs": epochs, "importance": importance, "every": every}
        self.runs.once(key, measured)


class Rescaled:
    """EWC in the eigenbases of the Kronecker factors, with the curvature measured along each pair of eigenvectors.

    For a layer with inputs a (a one for the bias at their end), gradients g at its outputs, and the eigenvectors U of
    E[a aᵀ] and V of E[g gᵀ]: s = E[(Vᵀ g aᵀ U)²], which the plain factors replace by the product of eigenvalues.
    """

    tasks, importance = 1, 0.0

    def __init__(self, model: nn.Module, factors: KroneckerFisher, loader: Any) -> None:
        self.layers = {name: model.get_submodule(name) for name in factors.factors}
        self.bases = {
            name: (torch.linalg.eigh(f.a)[1], torch.linalg.eigh(f.g)[1]) for name, f in factors.factors.items()
        }
        self.anchor = {name: self.matrix(layer) for name, layer in self.layers.items()}
        self.s = {name: torch.zeros_like(anchor) for name, anchor in self.anchor.items()}
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        hooks = [
            layer.register_forward_hook(lambda _, a, z, name=name: seen.update({name: (a[0].detach(), z)}))
            for name, layer in self.layers.items()
        ]
        count = 0
        for images, _ in loader:
            logits = model(images)
            p = logits.detach().softmax(1)
            count += len(images)
            for c in range(p.shape[1]):
                v = -p * p[:, c, None].sqrt()
                v[:, c] += p[:, c].sqrt()  # √p_c (e_c − p), eq. (4.3)
                found = torch.autograd.grad(logits, [z for _, z in seen.values()], v, retain_graph=True)
                for (name, (a, _)), g in zip(seen.items(), found, strict=True):
                    u, w = self.bases[name]
                    a = torch.cat((a, a.new_ones(len(a), 1)), 1)
                    self.s[name] += (g @ w).square().T @ (a @ u).square()
        for hook in hooks:
            hook.remove()
        self.s = {name: s / count for name, s in self.s.items()}

    @staticmethod
    def matrix(layer: nn.Module) -> Tensor:
        """Weight and bias, (O, I + 1)."""
        return torch.cat((layer.weight, layer.bias[:, None]), 1).detach().clone()  # type: ignore[arg-type,index]

    def rotated(self, model: nn.Module, name: str) -> Tensor:
        """The way from θ*, in the eigenbases."""
        u, w = self.bases[name]
        way: Tensor = w.T @ (self.matrix(model.get_submodule(name)) - self.anchor[name]) @ u
        return way

    def penalty(self, model: nn.Module) -> Tensor:
        """½ λ Σ s d²."""
        terms = [(s * self.rotated(model, name).square()).sum() for name, s in self.s.items()]
        return 0.5 * self.importance * torch.stack(terms).sum()

    @torch.no_grad()
    def proximal_step(self, model: nn.Module, lr: float) -> None:
        """The closed form, eq. (5.6), in the eigenbases."""
        for name, s in self.s.items():
            u, w = self.bases[name]
            d = self.rotated(model, name) / (1 + lr * self.importance * s)
            whole = self.anchor[name] + w @ d @ u.T
            layer = model.get_submodule(name)
            layer.weight.copy_(whole[:, :-1])  # type: ignore[operator]
            layer.bias.copy_(whole[:, -1])  # type: ignore[operator]


def timing(mnist: Task, fashion: Task) -> dict[str, list[float]]:
    """Processor seconds of one epoch of Fashion-MNIST with each method, all in turn, and of measuring F."""
    torch.manual_seed(VALIDATION_SEEDS[0])
    after_a = MLP()
    train(after_a, mnist.train_loader(64, seed=0), epochs=1, lr=0.1, progress=False)
    seconds: dict[str, list[float]] = {}

    def measure(name: str, ewc: EWC | None, every: int) -> None:
        model, loader = copy.deepcopy(after_a), fashion.train_loader(64, seed=0)
        started = time.process_time()
        train(model, loader, epochs=1, lr=0.03, ewc=ewc, proximal=every, progress=False)
        seconds.setdefault(name, []).append(round(time.process_time() - started, 3))

    for _ in range(ROUNDS):
        held: dict[str, EWC] = {}
        for structure in ("diagonal", "kronecker"):
            held[structure] = EWC(100, structure="kronecker" if structure == "kronecker" else "diagonal")
            started = time.process_time()
            held[structure].consolidate(after_a, mnist.train_loader(1000, seed=0), progress=False)
            held[structure].proximal_step(after_a, 0.03)  # at θ* it moves nothing, but finds the eigenbases
            seconds.setdefault(f"consolidate {structure}", []).append(round(time.process_time() - started, 3))
        measure("plain", None, 0)
        measure("diagonal, every step", held["diagonal"], 1)
        measure("Kronecker, every 10 steps", held["kronecker"], EVERY)
        measure("Kronecker, every step", held["kronecker"], 1)
    print(seconds, flush=True)
    return seconds


if __name__ == "__main__":
    main()
