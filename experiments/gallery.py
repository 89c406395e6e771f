"""What mistakes in EWC code cost, for notebook 08: writes files/results/gallery.json.

    python experiments/gallery.py            seeds 0, 1, 2: about half an hour on one core
    python experiments/gallery.py 0 1        these seeds instead

A part that the file holds for a seed is not made again: remove the file to run all of it.

Every variant learns MNIST (the first 50,000 images), then 12,000 images of Fashion-MNIST, from the same weights and
with the same batches. Each gets its own range of importances λ, in steps of about √10, because mistakes change the
scale of F; the last 10,000 training images of both sets are for choosing λ, never trained on. Each is also run with the
λ that suits the right code, REFERENCE: that is what copying a λ does. The penalty acts through its proximal step.
Batch normalisation is measured in the same way, with a small convolutional network. A run whose loss stops being finite
is marked "diverged": its model has the weights from before that epoch. The mistakes have the notebook's numbers.
No paper has this table; the estimators alone are compared in van de Ven 2025 (arXiv:2502.11756).
The file is written anew after each part. (The results of 2026-11-22 are older than the mark: it was set afterwards
on the runs that hold task A's weights, four of "batch norm, frozen" with seed 2.)
"""

import copy
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import results
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from contlearn import (
    EWC,
    MLP,
    Masked,
    accuracy,
    diagonal_fisher,
    load_fashion_mnist,
    load_mnist,
    permuted,
    split,
    train,
)

PATH = results.FOLDER / "gallery.json"
REFERENCE = 1000
RATES_A, RATES_B = (0.1, 0.1, 0.01), (0.05, 0.05, 0.005)
ADAM = HEADS = (100, 1000, 10_000)
DROPOUT = (30, 100, 300, 1000, 10_000)
LADDER = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 10**6, 3 * 10**6, 10**7)

Fisher = dict[str, Tensor]
Batches = list[tuple[Tensor, Tensor]]


def batches(task: Any, first: int, last: int, size: int = 64, part: str = "train") -> Batches:
    """Images `first` to `last` of a task in batches, always in the same order."""
    return list(zip(*(t[first:last].split(size) for t in getattr(task, part).tensors), strict=True))


# ---- F, and what is mistaken for it; each takes (model, batches) -----------------------------------------------------


def squares_of(loss: Tensor, model: nn.Module) -> Fisher:
    """The squared gradient of one scalar."""
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return {name: g.square() for (name, _), g in zip(model.named_parameters(), gradients, strict=True)}


def mean_of(parts: Iterable[Fisher], divisor: float | None = None) -> Fisher:
    """The sum of several F, divided by their number or by `divisor`."""
    total: Fisher = {}
    count = 0
    for part in parts:
        total = {name: total.get(name, 0) + f for name, f in part.items()}
        count += 1
    return {name: f / (count if divisor is None else divisor) for name, f in total.items()}


def square_of_batch_mean(model: nn.Module, data: Batches) -> Fisher:
    """Mistake 1: the mean gradient of each batch is squared."""
    return mean_of(squares_of(cross_entropy(model(x), y), model) for x, y in data)


def square_of_sum(model: nn.Module, data: Batches) -> Fisher:
    """Mistake 2: the gradients of all images are added up, then squared once."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in data:
        gradients = torch.autograd.grad(cross_entropy(model(x), y, reduction="sum"), list(model.parameters()))
        total = {name: t + g for (name, t), g in zip(total.items(), gradients, strict=True)}
    return {name: t.square() / sum(len(y) for _, y in data) for name, t in total.items()}


def every_label(model: nn.Module, data: Batches) -> Fisher:
    """Mistake 3: indexing by a whole batch of labels lets every image meet every label (and a mean is squared)."""
    return mean_of(squares_of(log_softmax(model(x), 1)[:, y].mean(), model) for x, y in data)


def one_number_a_layer(model: nn.Module, data: Batches) -> Fisher:
    """Mistake 5: each tensor's F is replaced by its mean."""
    return {name: torch.full_like(f, float(f.mean())) for name, f in diagonal_fisher(model, data).items()}


def off_by_one(model: nn.Module, data: Batches) -> Fisher:
    """Mistake 11: it stops after 200 images, and divides by 199."""
    return {name: f * 200 / 199 for name, f in diagonal_fisher(model, cut(data)).items()}


def thawed(model: nn.Module, data: Batches) -> Fisher:
    """Mistake 10: the first layer was frozen while F was measured; the code gives it no spring."""
    return {
        name: torch.zeros_like(f) if name.startswith("hidden1") else f
        for name, f in diagonal_fisher(model, data).items()
    }


def cut(data: Batches) -> Batches:
    return [(torch.cat([x for x, _ in data[:4]])[:200], torch.cat([y for _, y in data[:4]])[:200])]


FISHERS: dict[str, tuple[Callable[[nn.Module, Batches], Fisher], int, int]] = {  # how, smallest and largest λ
    "exact": (diagonal_fisher, 30, 30_000),
    "empirical": (lambda m, d: diagonal_fisher(m, d, "empirical"), 30, 30_000),
    "exact, 200 images": (lambda m, d: diagonal_fisher(m, cut(d)), 30, 30_000),
    "square of the batch mean": (square_of_batch_mean, 1000, 3 * 10**6),
    "square of the sum": (square_of_sum, 10, 10**6),
    "every label": (every_label, 10, 10**6),
    "one number a layer": (one_number_a_layer, 30, 100_000),
    "most likely label": (lambda m, d: diagonal_fisher(m, d, "predicted"), 100, 100_000),
    "no half": (lambda m, d: {name: 2 * f for name, f in diagonal_fisher(m, d).items()}, 10, 10_000),
    "penalty is zero": (lambda m, d: {name: 0 * f for name, f in diagonal_fisher(m, d).items()}, 1000, 1000),
    "layer was frozen": (thawed, 30, 100_000),
    "off by one": (off_by_one, 30, 30_000),
}


def grid(smallest: int, largest: int) -> list[int]:
    """The steps of the ladder from `smallest` to `largest`, and the λ of the right code."""
    return sorted({step for step in LADDER if smallest <= step <= largest} | {REFERENCE})


# ---- the runs --------------------------------------------------------------------------------------------------------


class Bench:
    """The data, cut once, and the list of runs."""

    def __init__(self) -> None:
        mnist, fashion = load_mnist(), load_fashion_mnist()
        self.a = batches(mnist, 0, 50_000)
        self.few_a, self.few_b = batches(mnist, 0, 12_000), batches(fashion, 0, 12_000)
        self.validation = [batches(t, 50_000, 60_000, 1000) for t in (mnist, fashion)]
        self.test = [batches(t, 0, 10_000, 1000, "test") for t in (mnist, fashion)]
        self.held_back = [
            (x, y) for x, y in batches(mnist, 50_000, 60_000, 1000)
        ]  # for the pairs of digits: each pair's own images are picked out of these
        orders = [mnist, *(permuted(mnist, k) for k in range(1, 5))]
        self.permutations = [
            (batches(t, 0, 12_000), batches(t, 50_000, 60_000, 1000), batches(t, 0, 10_000, 1000, "test"))
            for t in orders
        ]
        self.pairs = [
            (
                task.classes,
                [(x, y) for x, y in task.train_loader(64, seed=0)][:100],
                batches(task, 0, 10_000, 1000, "test"),
            )
            for task in split(mnist, 2)
        ]
        self.runs: list[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))["runs"] if PATH.exists() else []

    def note(
        self,
        variant: str,
        importance: float,
        seed: int,
        model: nn.Module,
        diverged: bool = False,
        validation_sets: list[Batches] | None = None,
        test_sets: list[Batches] | None = None,
    ) -> None:
        """Measure a model on all its tasks, MNIST and Fashion-MNIST unless others are given, and keep the result."""
        validation = [accuracy(model, loader) for loader in validation_sets or self.validation]
        test = [accuracy(model, loader) for loader in test_sets or self.test]
        run = {"variant": variant, "importance": importance, "seed": seed, "diverged": diverged}
        self.runs.append(run | {"validation": validation, "test": test})
        print(variant, importance, *(f"{100 * a:.1f}" for a in test), flush=True)

    def has(self, variant: str, importance: float, seed: int) -> bool:
        """Whether this run has been made."""
        key = {"variant": variant, "importance": importance, "seed": seed}
        return any(run.items() >= key.items() for run in self.runs)

    def second(self, start: nn.Module, fisher: Fisher, importance: float) -> tuple[nn.Module, bool]:
        """Train a copy of `start` on Fashion-MNIST, held by `fisher`; and whether that diverged."""
        model, ewc = copy.deepcopy(start), EWC(importance)
        ewc.add(fisher, dict(start.named_parameters()))
        try:
            train(model, self.few_b, epochs=len(RATES_B), lr=RATES_B, ewc=ewc, proximal=True)
        except FloatingPointError:  # frozen batch norm with a small λ: `train` gives back the weights from before
            return model, True
        return model, False


def shuffled(data: Batches, seed: int) -> Batches:
    """The batches in the order of this seed, which also seeds what is made next."""
    torch.manual_seed(seed)
    return [data[k] for k in torch.randperm(len(data)).tolist()]


def two_tasks(bench: Bench, seed: int) -> None:
    """Mistakes in F and in the penalty, with every λ."""
    data = shuffled(bench.a, seed)
    model = MLP()
    with_relu = nn.Sequential(copy.deepcopy(model), nn.ReLU())
    train(model, data, epochs=len(RATES_A), lr=RATES_A)
    bench.note("task A alone", 0, seed, model)
    for variant, (estimate, smallest, largest) in FISHERS.items():
        fisher = estimate(model, bench.few_a)
        for importance in grid(smallest, largest):
            bench.note(variant, importance, seed, *bench.second(model, fisher, importance))

    train(
        with_relu, data, epochs=len(RATES_A), lr=RATES_A
    )  # no mistake of EWC, but in the recipe that this project began with
    bench.note("task A alone, ReLU on the logits", 0, seed, with_relu)
    fisher = diagonal_fisher(with_relu, bench.few_a)
    for importance in grid(30, 30_000):
        bench.note("ReLU on the logits", importance, seed, *bench.second(with_relu, fisher, importance))


def five_tasks(bench: Bench, seed: int) -> None:
    """Mistake 8: five permutations of MNIST, with the F of all earlier tasks, and all anchors or the newest, or only
    the F and the anchor of the last.
    """
    for importance in grid(3, 1000):
        for variant in ("five tasks", "five tasks, newest anchor", "old F overwritten"):
            torch.manual_seed(seed)
            model, ewc = MLP(), EWC(importance, anchor="latest" if "anchor" in variant else "optima")
            for number, (data, _, _) in enumerate(bench.permutations):
                rates = RATES_B if number else RATES_A
                train(model, data, epochs=len(rates), lr=rates, ewc=ewc, proximal=True)
                if variant == "old F overwritten":
                    ewc = EWC(importance)
                ewc.consolidate(model, data)
            _, validation, test = (list(parts) for parts in zip(*bench.permutations, strict=True))
            bench.note(variant, importance, seed, model, validation_sets=validation, test_sets=test)


# ---- mistakes beside F ----------------------------------------------------------------------------------------------


def with_dropout(bench: Bench, seed: int) -> None:
    """Mistake 9: dropout is on while F is measured. The network has it, and F is measured with it and without."""
    data = shuffled(bench.a, seed)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10),
    )  # fmt: skip
    train(model, data, epochs=len(RATES_A), lr=RATES_A)
    for variant, mode in (("dropout, F in eval() mode", False), ("F with dropout on", True)):
        fisher = empirical(copy.deepcopy(model).train(mode), bench.few_a)
        for importance in DROPOUT:
            if not bench.has(variant, importance, seed):
                bench.note(variant, importance, seed, *bench.second(model, fisher, importance))


def empirical(model: nn.Module, data: Batches) -> Fisher:
    """The mean squared gradient, image by image, true labels, in the mode that the model is in."""

    def loss(parameters: Fisher, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="different")
    return mean_of({name: g.square().mean(0) for name, g in each(parameters, x, y).items()} for x, y in data)


def with_adam(bench: Bench, seed: int) -> None:
    """Mistake 12: Adam is taken over from task A, its running means and all; the right code begins with a new one."""
    model = MLP()
    data = shuffled(bench.a, seed)
    optimizer = torch.optim.Adam(model.parameters())
    adam(model, data, optimizer, None)
    fisher = diagonal_fisher(model, bench.few_a)
    for variant in ("new Adam", "Adam carried over"):
        for importance in ADAM:
            if bench.has(variant, importance, seed):
                continue
            student, ewc = copy.deepcopy(model), EWC(importance)
            ewc.add(fisher, dict(model.named_parameters()))
            second = torch.optim.Adam(student.parameters())
            if variant == "Adam carried over":
                second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            adam(student, bench.few_b, second, ewc)
            bench.note(variant, importance, seed, student)


def adam(model: nn.Module, data: Batches, optimizer: torch.optim.Optimizer, ewc: EWC | None) -> None:
    """Three epochs at 1e-3, 1e-3 and 1e-4; the penalty acts through its gradient."""
    model.train()
    for rate in (1e-3, 1e-3, 1e-4):
        optimizer.param_groups[0]["lr"] = rate
        for x, y in data:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            if ewc is not None:
                ewc.add_gradient(model)
            optimizer.step()


def several_heads(bench: Bench, seed: int) -> None:
    """Mistake 14: five pairs of digits, each with its own two logits; F over all ten, or over the two."""
    for variant in ("two logits a task", "F over all heads"):
        for importance in HEADS:
            if bench.has(variant, importance, seed):
                continue
            torch.manual_seed(seed)
            model, ewc = MLP(), EWC(importance)
            for classes, data, _ in bench.pairs:
                view = Masked(model, classes)
                train(view, data, epochs=2, lr=(0.05, 0.005), ewc=ewc, proximal=True)
                ewc.consolidate(view if variant == "two logits a task" else model, data)
            validation, test = (
                [
                    accuracy(Masked(model, classes), loader)
                    for (classes, _, _), loader in zip(bench.pairs, sets, strict=True)
                ]
                for sets in (
                    [picked(bench.held_back, classes) for classes, _, _ in bench.pairs],
                    [t for _, _, t in bench.pairs],
                )
            )
            run = {"variant": variant, "importance": importance, "seed": seed, "diverged": False}
            bench.runs.append(run | {"validation": validation, "test": test})
            print(variant, importance, *(f"{100 * a:.1f}" for a in test), flush=True)


def picked(data: Batches, classes: Iterable[int]) -> Batches:
    """The images of these classes."""
    wanted = torch.tensor(list(classes))
    return [(x[torch.isin(y, wanted)], y[torch.isin(y, wanted)]) for x, y in data]


# ---- batch normalisation ---------------------------------------------------------------------------------------------


def small_cnn(norm: Callable[[int], nn.Module]) -> nn.Sequential:
    """Two convolutions, each followed by a normalisation, and a linear output: about 6,000 weights."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28)),
        nn.Conv2d(1, 8, 5, stride=2), norm(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2), norm(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(400, 10),
    )  # fmt: skip


def freeze_norms(model: nn.Module) -> None:
    """Batch-norm layers keep their statistics, whatever mode the model is put into."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
            layer.train = lambda mode=True, layer=layer: layer  # type: ignore[method-assign,misc]


def group_norm(channels: int) -> nn.Module:
    """Statistics of each image by itself: nothing to drift."""
    return nn.GroupNorm(4, channels)


def normalised(bench: Bench, seed: int) -> None:
    """What drifting statistics cost, and what three remedies give back."""
    for kind, norm in (("batch norm", nn.BatchNorm2d), ("group norm", group_norm)):
        torch.manual_seed(seed)
        model = small_cnn(norm)
        train(model, bench.few_a, epochs=len(RATES_A), lr=RATES_A)
        bench.note(f"{kind}: task A alone", 0, seed, model)
        if kind == "batch norm":
            images_only(bench, model, seed)
        fisher = diagonal_fisher(model, bench.few_a)
        for importance in grid(1, 30_000):
            student, diverged = bench.second(model, fisher, importance)
            bench.note(kind, importance, seed, student, diverged)
            if kind == "batch norm":
                restored(bench, model, student, importance, seed, diverged)
                frozen = copy.deepcopy(model)
                freeze_norms(frozen)
                bench.note("batch norm, frozen", importance, seed, *bench.second(frozen, fisher, importance))
        if kind == "batch norm":
            for mode in ("eval", "train"):  # with eval(), and without
                fisher = one_by_one(copy.deepcopy(model).train(mode == "train"), bench.few_a)
                for importance in grid(1, 30_000):
                    variant = f"batch norm, F in {mode}() mode"
                    bench.note(variant, importance, seed, *bench.second(model, fisher, importance))


def one_by_one(model: nn.Module, data: Batches) -> Fisher:
    """The empirical F of 200 images, a batch of one after the other, in the mode that the model is in."""
    (images, labels) = cut(data)[0]
    pairs = zip(images.split(1), labels.split(1), strict=True)
    return mean_of(squares_of(cross_entropy(model(x), y), model) for x, y in pairs)


def images_only(bench: Bench, model: nn.Module, seed: int) -> None:
    """Batches go through the model in train() mode; no weight changes."""
    single = [(x[:1], y[:1]) for x, y in bench.few_a]
    for variant, data in (("only looked at B", bench.few_b), ("F in train() mode, one by one", single)):
        student = copy.deepcopy(model).train()
        with torch.no_grad():
            for x, _ in data:
                student(x)
        bench.note(f"batch norm: {variant}", 0, seed, student)


def restored(bench: Bench, model: nn.Module, student: nn.Module, importance: float, seed: int, diverged: bool) -> None:
    """MNIST is judged with MNIST's statistics, Fashion-MNIST with its own: the task must be known."""
    old = copy.deepcopy(student)
    for name, buffer in old.named_buffers():
        buffer.copy_(dict(model.named_buffers())[name])
    validation = [accuracy(m, loader) for m, loader in zip((old, student), bench.validation, strict=True)]
    test = [accuracy(m, loader) for m, loader in zip((old, student), bench.test, strict=True)]
    run = {"variant": "batch norm, restored", "importance": importance, "seed": seed, "diverged": diverged}
    bench.runs.append(run | {"validation": validation, "test": test})


PARTS = {  # by the last run of each part, which tells whether the file has it
    ("off by one", 30_000): two_tasks,
    ("old F overwritten", 1000): five_tasks,
    ("group norm", 30_000): normalised,
    ("F with dropout on", DROPOUT[0]): with_dropout,
    ("Adam carried over", ADAM[-1]): with_adam,
    ("F over all heads", HEADS[-1]): several_heads,
}


def main(seeds: list[int]) -> None:
    """Run everything with every seed that the file does not hold; keep what is complete."""
    bench = Bench()
    for (variant, importance), part in PARTS.items():
        for seed in seeds:
            if not bench.has(variant, importance, seed):
                part(bench, seed)
                write(bench.runs, sorted({run["seed"] for run in bench.runs}))


def write(runs: list[dict[str, Any]], seeds: list[int]) -> None:
    """Keep what is complete; see `results.write`."""
    command = " ".join(["python", "experiments/gallery.py", *map(str, seeds)])
    results.write(
        PATH,
        command,
        images={"MNIST": 50_000, "F": 12_000, "Fashion-MNIST": 12_000, "permuted MNIST": 12_000},
        learning_rates={"task A": RATES_A, "later": RATES_B},
        batch_size=64,
        reference_importance=REFERENCE,
        seeds=seeds,
        runs=runs,
    )


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
