"""Permutations of MNIST one after the other, with every method: writes files/results/many_tasks.json, for notebook 06.

    python experiments/many_tasks.py                           choose each λ, then ten tasks with seeds 0, 1, 2: an hour
    python experiments/many_tasks.py --tasks 50                fifty tasks with Kronecker factors: half an hour
    python experiments/many_tasks.py --methods EWC --seeds 3   these methods and seeds instead

The setting is that of Goodfellow et al. 2013 (arXiv:1312.6211): task k is MNIST with its pixels in an order of its own,
`permuted(mnist, seed=k)`. A seed decides initial weights and the order of the images; the permutations stay. All
methods share one network, one number of epochs and one learning rate.

λ is chosen on neither the test images nor the permutations that are reported: train on the first 50,000 training images
of five others (ten would take twice as long), numbers 101 to 105, with seed 100, and take the λ with the best mean
accuracy on the last 10,000. Then everything is trained anew on all 60,000. Fifty take the λ of ten (Ritter, Botev and
Barber 2018, arXiv:1805.07810, report above 90 % there), and F from the first 20,000 images of each.

Every run is written as soon as it is complete, and one that the file holds already is not run again unless `--again` is
given; so an interruption loses one run, and two processes may share the work. On one core a run of ten tasks takes
about a minute and a quarter, one of fifty eight minutes.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial
from typing import Any, NamedTuple

import results
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from contlearn import EWC, MLP, Task, accuracy, diagonal_fisher, load_mnist, permuted, train
from contlearn.fisher import uniform

PATH = results.FOLDER / "many_tasks.json"
VALIDATION_TASKS, VALIDATION_SEED, HELD_OUT = 5, 100, 10_000
VALIDATION_FIRST = 101  # permutation


class Setting(NamedTuple):
    """What all methods share."""

    hidden_size: int = 256
    hidden_layers: int = 2
    batch_size: int = 64
    rates: tuple[float, ...] = (0.1, 0.1, 0.01)  # η of each epoch of a task
    proximal: int = 10  # the closed-form step every so many steps
    fisher_images: int = 60_000  # of each task, for F
    test_every: int = 1  # all tasks seen so far are tested after every so many tasks


class Method(NamedTuple):
    """How a method builds its EWC, and the λ that it is tried with."""

    build: Callable[[float], EWC] | None = None
    importances: tuple[float, ...] = ()
    flat: bool = False  # F replaced by its mean: L2


SETTINGS = {10: Setting(), 50: Setting(fisher_images=20_000, test_every=5)}
METHODS = {
    "unprotected": Method(),
    "L2": Method(EWC, (1, 3, 10, 30, 100), flat=True),
    "L2, newest anchor": Method(partial(EWC, anchor="latest"), (3, 10, 30, 100), flat=True),
    "EWC": Method(EWC, (3, 10, 30, 100)),
    "EWC, newest anchor": Method(partial(EWC, anchor="latest"), (3, 10, 30, 100)),
    "EWC, online": Method(partial(EWC, anchor="latest", decay=0.9), (3, 10, 30, 100)),
    "Kronecker": Method(partial(EWC, structure="kronecker"), (3, 10, 30)),
    "joint training": Method(),
}


def main() -> None:
    """Choose λ for each method, then run all methods with one seed after the other."""
    asked = arguments()
    mnist = load_mnist()
    chosen = {name: choose(name, mnist, asked.again) for name in asked.methods}
    for seed in asked.seeds:
        for name in asked.methods:
            key = {"method": name, "importance": chosen[name], "seed": seed, "tasks": asked.tasks}
            once("runs", key, asked.again, lambda k=key: one_run(k, SETTINGS[asked.tasks], mnist))


def choose(name: str, mnist: Task, again: bool) -> float | None:
    """The λ with the best mean accuracy on held-out training images; None for a method without."""
    kept, held_out = (
        TensorDataset(*(t[part] for t in mnist.train.tensors))
        for part in (slice(None, -HELD_OUT), slice(-HELD_OUT, None))
    )
    data = Task("MNIST", mnist.classes, kept, held_out)
    scores = {}
    for importance in METHODS[name].importances:
        key = {"method": name, "importance": importance, "seed": VALIDATION_SEED, "tasks": VALIDATION_TASKS}
        key["first"] = VALIDATION_FIRST
        scores[importance] = once("validation", key, again, lambda k=key: one_run(k, SETTINGS[10], data))["mean"]
    return (
        max(scores, key=lambda importance: (scores[importance], importance)) if scores else None
    )  # of equals, the larger


def one_run(key: dict[str, Any], setting: Setting, data: Task) -> dict[str, Any]:
    """All tasks once. Row i of the matrix: accuracy on tasks 0 … i after task i, empty where they were not tested;
    of joint training there is the last row only.
    """
    began, tasks, joint = time.perf_counter(), key["tasks"], key["method"] == "joint training"
    method = METHODS[key["method"]]
    torch.manual_seed(key["seed"])
    model = MLP(setting.hidden_size, setting.hidden_layers)
    ewc = method.build(key["importance"]) if method.build else None
    matrix: list[list[float]] = []
    seconds: list[float] = []
    memory: list[int] = []
    first = key.get("first", 1)  # permutation
    for number in [tasks] if joint else range(1, tasks + 1):
        task = permuted(data, first + number - 1)
        batch_seed = 1000 * key["seed"] + number
        loader: Iterable[Any] = task.train_loader(setting.batch_size, seed=batch_seed)
        if joint:
            loader = Mixture(data, tasks, setting.batch_size, batch_seed)
        begin = time.perf_counter()
        train(
            model, loader, epochs=len(setting.rates), lr=setting.rates,
            ewc=ewc, proximal=setting.proximal if ewc else False, progress=False,
        )  # fmt: skip
        seconds.append(round(time.perf_counter() - begin, 2))
        if ewc:
            remember(ewc, model, task, setting.fisher_images, method.flat)
            memory.append(size(ewc.state_dict()))
        seen = range(1, number + 1) if number in (1, tasks) or number % setting.test_every == 0 else ()
        matrix.append([accuracy(model, examination(data, first + k - 1).test_loader()) for k in seen])
    return {
        "mean": sum(matrix[-1]) / tasks,
        "matrix": [[round(a, 4) for a in row] for row in matrix],
        "training_seconds": seconds,
        "bytes": memory,
        "seconds": round(time.perf_counter() - began),
    }


def remember(ewc: EWC, model: nn.Module, task: Task, images: int, flat: bool) -> None:
    """Consolidate the task with its first training images; for L2 with F replaced by its mean over all weights."""
    first = TensorDataset(*(t[:images] for t in task.train.tensors))
    loader = Task(task.name, task.classes, first, task.test).train_loader(1000, shuffle=False)
    if not flat:
        ewc.consolidate(model, loader)
        return
    fisher = diagonal_fisher(model, loader)
    ewc.add(uniform(fisher), dict(model.named_parameters()))


def examination(data: Task, number: int) -> Task:
    """Task `number` with its test images alone: permuted anew each time, so that fifty tasks fit into memory."""
    return permuted(
        Task(data.name, data.classes, TensorDataset(*(t[:1] for t in data.train.tensors)), data.test), number
    )


def size(state: Any) -> int:
    """The bytes of all tensors in a state dictionary."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    return sum(size(part) for part in state.values()) if isinstance(state, dict) else 0


class Mixture:
    """Batches of all tasks' training images in random order, permuted on the way: no copy of them is held."""

    def __init__(self, data: Task, tasks: int, batch_size: int, seed: int) -> None:
        self.images, self.labels = data.train.tensors
        self.batch_size, self.generator = batch_size, torch.Generator().manual_seed(seed)
        pixels = torch.arange(784.0).view(1, 28, 28)  # where each pixel goes shows on an image of pixel numbers
        numbers = TensorDataset(pixels, torch.zeros(1, dtype=torch.int64))
        places = Task("pixel numbers", data.classes, numbers, numbers)
        self.orders = torch.stack([permuted(places, k).train.tensors[0].flatten() for k in range(1, tasks + 1)]).long()

    def __len__(self) -> int:
        return -(-len(self.labels) * len(self.orders) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        everything = torch.randperm(len(self.labels) * len(self.orders), generator=self.generator)
        for chosen in everything.split(self.batch_size):
            image, task = chosen % len(self.labels), chosen // len(self.labels)
            yield self.images[image].flatten(1).gather(1, self.orders[task]), self.labels[image]


def once(section: str, key: dict[str, Any], again: bool, make: Any) -> dict[str, Any]:
    """The run with this key: from the file, or made now and written to it."""
    found: list[dict[str, Any]] = [run for run in read().get(section, []) if run.items() >= key.items()]
    if found and not again:
        return found[0]
    run: dict[str, Any] = key | make() | {"date": date.today().isoformat()}
    write(section, key, run)
    print(section, *key.values(), f"{100 * run['mean']:.2f} %", f"{run['seconds']} s", flush=True)
    return run


def read() -> dict[str, Any]:
    """What the file holds."""
    held: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
    return held


def write(section: str, key: dict[str, Any], run: dict[str, Any]) -> None:
    """Put one run in its place: all of it or nothing."""
    held = read()  # another process may have written meanwhile
    place = {name: value for name, value in key.items() if section == "validation" or name != "importance"}
    place.pop("first", None)  # a validation on other permutations takes the place of the old one
    others = [other for other in held.get(section, []) if not other.items() >= place.items()]
    sections = {"validation": held.get("validation", []), "runs": held.get("runs", [])}
    sections[section] = sorted([*others, run], key=lambda r: (r["tasks"], r["seed"], order(r), r["importance"] or 0))
    results.write(
        PATH,
        "python experiments/many_tasks.py; python experiments/many_tasks.py --tasks 50",
        compact=True,
        validation_tasks=VALIDATION_TASKS,
        settings={str(tasks): setting._asdict() for tasks, setting in SETTINGS.items()},
        held_out=HELD_OUT,
        **sections,
    )


def order(run: dict[str, Any]) -> int:
    """The place of a run's method in the table."""
    return list(METHODS).index(run["method"])


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="Permutations of MNIST; see the top of this file.")
    parser.add_argument("--tasks", type=int, choices=SETTINGS, default=10, help="how many permutations")
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", help=f"of {', '.join(METHODS)}; default: all, Kronecker for 50"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--again", action="store_true", help="run also what the file holds already")
    asked = parser.parse_args()
    asked.methods = asked.methods or (list(METHODS) if asked.tasks == 10 else ["Kronecker"])
    unknown = [name for name in asked.methods if name not in METHODS]
    if unknown:
        parser.error(f"unknown method {unknown[0]!r}: there are {', '.join(METHODS)}")
    return asked


if __name__ == "__main__":
    main()
