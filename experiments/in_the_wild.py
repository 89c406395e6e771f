"""What public EWC codes compute, and how it scores, for notebook 11: writes files/results/in_the_wild.json.

    python experiments/in_the_wild.py                everything: about five minutes on one core
    python experiments/in_the_wild.py --seeds 0 1    these seeds alone; two processes may share the work

The definitions are those of `contlearn.wild`, which names project, file and commit of each. Two parts.

*One checkpoint*: files/checkpoints/mnist_mlp.pt, and the first 12,800 images of MNIST for all. For each code: cosine
and rank correlation (Spearman's) with the exact F, the ratio of the sums, and the seconds that its way takes here.

*Scores*: the protocol of two_tasks.py, MNIST and then Fashion-MNIST, but the second task has its first 6,400 images
only, so that there is time for every λ. F from the first 12,800 training images of MNIST; five epochs of MNIST with
learning rate 0.1, three of Fashion-MNIST with 0.1, 0.1 and 0.01; batches of 64. Every penalty acts through its
proximal step, every ten steps, so that nothing but the importances differs. Each code's λ is in its own units, in steps
of about √10, and is chosen by seed 100, trained on the first 50,000 images of MNIST and measured on the last
10,000 of both sets; the grid grows until its best λ does not lie on its edge. Seeds 0 to 2 train on all 60,000 images
of MNIST and are measured on the test sets, also with the λ that ships with a code, if one does. "L2" is the exact F,
replaced by its mean.

No paper has this table. The estimators of one code are compared in van de Ven 2025 (arXiv:2502.11756).
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import results
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from two_tasks import EPOCHS_A, EVERY, falling, without_test

from contlearn import EWC, MLP, Task, accuracy, diagonal_fisher, load_checkpoint, load_fashion_mnist, load_mnist, train
from contlearn.fisher import uniform
from contlearn.wild import CODES, Importances, importances

VALIDATION_SEEDS, TEST_SEEDS = (100,), (0, 1, 2)
IMAGES_F, IMAGES_B, EPOCHS_B = 12_800, 6_400, 3
CHECKPOINT = Path(__file__).parent.parent / "files" / "checkpoints" / "mnist_mlp.pt"
FREE = 64  # the batch size of the codes that leave it to the reader
STRENGTHS = range(4, 8)  # the total strength, as powers of √10: as much as λ = 100 to 3000 of the exact F
WIDEST = range(-1, 15)

Batches = list[tuple[Tensor, Tensor]]
VARIANTS: dict[str, tuple[str, int]] = {  # how a row is called: the code, and the size of its batches
    "Avalanche": ("Avalanche", FREE),
    "PyCIL": ("PyCIL", 128),
    "FACIL": ("FACIL", FREE),
    "HAT": ("HAT", 20),
    "GT-RIPL": ("GT-RIPL", 128),
    "Mammoth": ("Mammoth", FREE),
    "van de Ven": ("van de Ven", 1),
    "ewc.pytorch": ("ewc.pytorch", 1),
    "ewc.pytorch, 512 images": ("ewc.pytorch", 1),
    "pytorch-ewc": ("pytorch-ewc", 1),
    "overcoming-catastrophic": ("overcoming-catastrophic", 1),
    "Neuromatch W3D4": ("Neuromatch W3D4", 256),
    "Overcoming-Catastrophic-forgetting": ("Overcoming-Catastrophic-forgetting", 100),
}
CLOSED = {
    "ewc.pytorch": "predicted",
    "pytorch-ewc": "empirical",
    "overcoming-catastrophic": "sample",  # other draws, but as many
}


def batches(task: Task, name: str) -> Batches:
    """The images that all codes get, in batches of the size that the row named `name` has."""
    count = 512 if "512" in name else IMAGES_F
    size = VARIANTS[name][1]
    return list(zip(*(t[:count].split(size) for t in task.train.tensors), strict=True))


def measured(name: str, model: nn.Module, task: Task, exact: Importances) -> Importances:
    """Q of a row, in closed form where that is the same (the tests compare them), which saves minutes."""
    code, generator = VARIANTS[name][0], torch.Generator().manual_seed(0)
    data = batches(task, name)
    whole = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))]
    if code == "Mammoth":
        return weighted(model, whole)
    if code == "van de Ven":
        return {parameter: CODES[code].scale(IMAGES_F, 1) * f for parameter, f in exact.items()}
    if code in CLOSED:
        found = diagonal_fisher(model, whole, CLOSED[code], generator=generator, progress=False)  # type: ignore[arg-type]
        return found
    return importances(code, model, data, generator=generator)


def weighted(model: nn.Module, data: Batches) -> Importances:
    """Mammoth's Q in closed form: p_y (∂ log p_y)² is the square of ∂ 2√p_y, of an output whose residual is 1."""

    def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        x, y = batch
        root = 2 * model(x).softmax(1).gather(1, y[:, None]).sqrt()
        return root, root.detach() + 1

    return diagonal_fisher(model, data, "empirical", likelihood="gaussian", forward=forward, progress=False)


def factor(name: str) -> float:
    """What makes ½ λ' Σ Q (θ − θ*)² of the code's λ and Q."""
    return 1.0 if name == "L2" or CODES[VARIANTS[name][0]].half else 2.0


# ---- one checkpoint --------------------------------------------------------------------------------------------------


def on_one_checkpoint(mnist: Task) -> list[dict[str, Any]]:
    """Likeness to the exact F, and seconds, of each row."""
    model = MLP()
    load_checkpoint(CHECKPOINT, model=model)
    large = [(x, y) for x, y in zip(*(t[:IMAGES_F].split(1280) for t in mnist.train.tensors), strict=True)]
    started = time.process_time()
    exact = flat(diagonal_fisher(model, large, progress=False))
    closed = time.process_time() - started
    rows = [{"name": "contlearn", **likeness(exact, exact), "seconds": round(closed, 3)}]
    for name, (code, _) in VARIANTS.items():
        started = time.process_time()
        generator = torch.Generator().manual_seed(0)
        q = flat(importances(code, model, batches(mnist, name), generator=generator))
        seconds = time.process_time() - started
        row: dict[str, Any] = {"name": name, **likeness(q, exact), "seconds": round(seconds, 3)}
        if CODES[code].clip:
            row["clipped"] = float((q >= 0.999 * CODES[code].clip).double().mean())  # type: ignore[operator]
        print(row, flush=True)
        rows.append(row)
    return rows


def flat(q: Importances) -> Tensor:
    """All importances in one vector."""
    return torch.cat([t.flatten() for t in q.values()]).double()


def likeness(q: Tensor, exact: Tensor) -> dict[str, float]:
    """Cosine, Spearman's rank correlation, and the ratio of the sums."""
    ranks = torch.corrcoef(torch.stack((ranked(q), ranked(exact))))[0, 1]
    found = {"cosine": q @ exact / (q.norm() * exact.norm()), "rank": ranks, "scale": q.sum() / exact.sum()}
    return {name: float(f"{float(value):.6g}") for name, value in found.items()}


def ranked(values: Tensor) -> Tensor:
    """The rank of each value; equal values share the mean of their ranks."""
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0)
    rank: Tensor = (last.double() - (count.double() - 1) / 2)[place]
    return rank


# ---- scores ----------------------------------------------------------------------------------------------------------


class Seed:
    """All runs that start from the same weights."""

    def __init__(self, seed: int, mnist: Task, fashion: Task, runs: results.Runs) -> None:
        self.seed, self.mnist, self.fashion, self.runs = seed, mnist, fashion, runs
        torch.manual_seed(seed)
        self.after_a = MLP()
        train(self.after_a, mnist.train_loader(64, seed=seed), epochs=EPOCHS_A, lr=0.1, progress=False)
        self.once("MNIST alone", lambda: self.after_a)
        self.once("unprotected", self.trained)
        self.exact = diagonal_fisher(self.after_a, batches_of(mnist), progress=False)
        self.held: dict[str, EWC] = {}

    def ewc(self, name: str) -> EWC:
        """The penalty of a row: ½ λ' Σ Q (θ − θ*)²."""
        if name not in self.held:
            self.held[name] = EWC(0)
            q = uniform(self.exact) if name == "L2" else measured(name, self.after_a, self.mnist, self.exact)
            self.held[name].add(q, dict(self.after_a.named_parameters()))
        return self.held[name]

    def run(self, name: str, importance: float) -> float:
        """The mean of both accuracies, as a fraction, with a λ in the code's own units."""
        return self.once(name, lambda: self.trained(self.prepared(name, importance)), importance)

    def prepared(self, name: str, importance: float) -> EWC:
        """The penalty of a row, with its λ."""
        ewc = self.ewc(name)
        ewc.importance = factor(name) * importance
        return ewc

    def trained(self, ewc: EWC | None = None) -> nn.Module:
        """A copy that has learnt the second task."""
        model, loader = copy.deepcopy(self.after_a), self.fashion.train_loader(64, seed=self.seed)
        rates = falling(0.1, EPOCHS_B)
        every = EVERY if ewc else False
        train(model, loader, epochs=EPOCHS_B, lr=rates, ewc=ewc, proximal=every, progress=False)
        return model

    def once(self, name: str, make: Callable[[], nn.Module], importance: float | None = None) -> float:
        """Keep the two accuracies (fractions) of the model that `make` trains; return their mean."""

        def accuracies() -> dict[str, Any]:
            model = make()
            return {task.name: accuracy(model, task.test_loader()) for task in (self.mnist, self.fashion)}

        key = {"seed": self.seed, "name": name, "importance": importance}
        run = self.runs.once(key, accuracies)
        return float(run[self.mnist.name] + run[self.fashion.name]) / 2


def batches_of(task: Task) -> Batches:
    """The images for F, in large batches."""
    return list(zip(*(t[:IMAGES_F].split(1280) for t in task.train.tensors), strict=True))


def rounded(value: float) -> float:
    """The next of …, 0.3, 1, 3, 10, …"""
    steps = [base * 10.0**power for power in range(-12, 13) for base in (1, 3)]
    return min(steps, key=lambda step: abs(torch.tensor(step / value).log()))


def steps_of(name: str, first: Seed) -> Callable[[int], float]:
    """λ in the code's own units, as a function of the power of √10 that its total strength is to have."""
    total = sum(float(s.sum()) for s in first.ewc(name).precision.values()) * factor(name)
    exact = sum(float(f.sum()) for f in first.exact.values())
    middle = rounded(300 * exact / total)
    ladder = [base * 10.0**power for power in range(-14, 15) for base in (1, 3)]
    place = min(range(len(ladder)), key=lambda k: abs(ladder[k] - middle))
    return lambda power: float(f"{ladder[place + power - 5]:.3g}")


def chosen(name: str, seeds: list[Seed]) -> float:
    """The best λ on the validation images, eq. (9.3): not on the edge of what was tried."""
    at = steps_of(name, seeds[0])
    tried = {power: mean(name, at(power), seeds) for power in STRENGTHS}
    while True:
        best = max(tried, key=lambda power: tried[power])
        edges = [power for power in (best - 1, best + 1) if power not in tried and power in WIDEST]
        if not edges:
            return at(best)
        tried |= {power: mean(name, at(power), seeds) for power in edges}


def mean(name: str, importance: float, seeds: list[Seed]) -> float:
    """Over both tasks and the seeds."""
    return sum(seed.run(name, importance) for seed in seeds) / len(seeds)


def main() -> None:
    """Whatever the file lacks: the checkpoint, the grids, and the tests with the λ that they chose."""
    asked = results.asked(__doc__ or "", [*VALIDATION_SEEDS, *TEST_SEEDS])
    runs = results.Runs(
        "in_the_wild",
        asked.again,
        images={"F": IMAGES_F, "Fashion-MNIST": IMAGES_B},
        batch_size=64,
        epochs=[EPOCHS_A, EPOCHS_B],
        every=EVERY,
        seeds=TEST_SEEDS,
        validation={"seeds": VALIDATION_SEEDS, "images": 10_000},
    )
    mnist, fashion = load_mnist(), load_fashion_mnist()
    few = partial(TensorDataset, *(t[:IMAGES_B] for t in fashion.train.tensors))
    kept = {} if asked.again else runs.read()
    runs.content["checkpoint"] = kept.get("checkpoint") or on_one_checkpoint(mnist)
    runs.write()
    validation = [
        Seed(seed, without_test(mnist), Task("Fashion-MNIST", fashion.classes, few(), without_test(fashion).test), runs)
        for seed in VALIDATION_SEEDS
    ]
    best = {name: chosen(name, validation) for name in [*VARIANTS, "L2"]}
    exact = sum(float(f.sum()) for f in validation[0].exact.values())
    total = {
        name: factor(name) * sum(float(s.sum()) for s in validation[0].ewc(name).precision.values()) for name in best
    }
    runs.content["chosen"] = best
    runs.content["strength"] = {name: float(f"{value / exact:.6g}") for name, value in total.items()}  # of λ = 1
    runs.write()
    for number in (seed for seed in asked.seeds if seed in TEST_SEEDS):
        one = Seed(number, mnist, Task("Fashion-MNIST", fashion.classes, few(), fashion.test), runs)
        for name, importance in best.items():
            one.run(name, importance)
            if name in VARIANTS and (shipped := CODES[VARIANTS[name][0]].importance) is not None:
                one.run(name, shipped)


if __name__ == "__main__":
    main()
