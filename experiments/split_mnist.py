"""Split MNIST in three scenarios, for notebook 08: writes files/results/split_mnist.json.

    python experiments/split_mnist.py            seeds 0, 1, 2: about a quarter of an hour on one core
    python experiments/split_mnist.py 0 1        these seeds instead

Five tasks of two digits each, one after the other: EWC with many importances λ in the task-, domain- and
class-incremental scenario of van de Ven and Tolias 2019 (arXiv:1904.07734), and, class-incremental, replay of 5 to 500
images a class; beside it a fresh network that is trained on those images alone, the baseline of Prabhu, Torr and
Dokania 2020 (10.1007/978-3-030-58536-5_31). Two hidden layers of 400, as in the first paper. Batches of 64, two epochs
a task, the second one at a tenth of the learning rate; the penalty acts through its proximal step, so that no λ can
blow up. The last 10,000 training images are not trained on: they are for choosing λ. The file is written anew after
each seed.
"""

import sys
from collections.abc import Iterator
from typing import Any

import results
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from contlearn import EWC, MLP, Masked, Task, accuracy, load_mnist, split, train

PATH = results.FOLDER / "split_mnist.json"
SCENARIOS = ("task", "domain", "class")
IMPORTANCES = (0, *(10**k for k in range(9)))
MEMORIES = (5, 10, 20, 50, 100, 200, 500)
EPOCHS, RATES, BATCH = 2, (0.05, 0.005), 64


def main(seeds: list[int]) -> None:
    """Run every scenario with every seed; keep what is complete."""
    mnist = load_mnist()
    held_out = TensorDataset(*(t[50_000:] for t in mnist.train.tensors))
    kept = TensorDataset(*(t[:50_000] for t in mnist.train.tensors))
    tasks = split(Task("MNIST", mnist.classes, kept, mnist.test), 2)
    validation = split(Task("MNIST", mnist.classes, kept, held_out), 2)  # the same, with other test images
    runs: list[dict[str, Any]] = []
    for number, seed in enumerate(seeds, 1):
        for scenario in SCENARIOS:
            for importance in IMPORTANCES:
                runs.append(ewc_run(scenario, tasks, validation, importance, seed))
        for images_per_class in MEMORIES:
            runs.append(replay_run(tasks, validation, images_per_class, seed))
            runs.append(memory_run(tasks, validation, images_per_class, seed))
        write(runs, seeds[:number])


def ewc_run(scenario: str, tasks: list[Task], validation: list[Task], importance: float, seed: int) -> dict[str, Any]:
    """All five tasks with EWC; what is measured at the end."""
    if scenario == "domain":  # the answer is 'first' or 'second digit of its pair', whatever the pair
        tasks, validation = [odd_or_even(t) for t in tasks], [odd_or_even(t) for t in validation]
    torch.manual_seed(seed)
    model = MLP(hidden_size=400, hidden_layers=2, classes=2 if scenario == "domain" else 10)
    views: list[nn.Module] = [Masked(model, task.classes) if scenario == "task" else model for task in tasks]
    ewc, learnt = EWC(importance), []
    for view, task in zip(views, tasks, strict=True):
        loader = task.train_loader(BATCH, seed=seed)
        train(view, loader, epochs=EPOCHS, lr=RATES, ewc=ewc, proximal=True)
        learnt.append(accuracy(view, task.test_loader()))
        # The parameters of a Masked model are called 'model.…' through every mask, so one EWC serves them all.
        ewc.consolidate(view, task.train_loader(1000, shuffle=False))
    return {"scenario": scenario, "method": "EWC", "importance": importance, "seed": seed, "learnt": learnt} | measure(
        scenario, model, views, tasks, validation
    )


def replay_run(tasks: list[Task], validation: list[Task], images_per_class: int, seed: int) -> dict[str, Any]:
    """All five tasks, class-incremental; from the second on, half of each batch comes from the memory."""
    torch.manual_seed(seed)
    model = MLP(hidden_size=400, hidden_layers=2)
    memory: list[tuple[Tensor, Tensor]] = []
    learnt = []
    for task in tasks:
        for rate in RATES:
            train(model, list(mixed(task, memory, seed)), epochs=1, lr=rate)
        learnt.append(accuracy(model, task.test_loader()))
        memory += first_of_each(task, images_per_class)
    result = {"scenario": "class", "method": "replay", "images_per_class": images_per_class, "seed": seed}
    return result | {"learnt": learnt} | measure("class", model, [model] * len(tasks), tasks, validation)


def memory_run(tasks: list[Task], validation: list[Task], images_per_class: int, seed: int) -> dict[str, Any]:
    """No sequence at all: a fresh network learns the memory's images of all ten classes, in as many steps."""
    torch.manual_seed(seed)
    model = MLP(hidden_size=400, hidden_layers=2)
    memory = [pair for task in tasks for pair in first_of_each(task, images_per_class)]
    images, labels = (torch.cat(tensors) for tensors in zip(*memory, strict=True))
    for rate in RATES:
        draws = [torch.randint(len(labels), (BATCH,)) for task in tasks for _ in task.train_loader(BATCH, seed=seed)]
        train(model, [(images[drawn], labels[drawn]) for drawn in draws], epochs=1, lr=rate)
    result = {"scenario": "class", "method": "memory alone", "images_per_class": images_per_class, "seed": seed}
    return result | measure("class", model, [model] * len(tasks), tasks, validation)


def first_of_each(task: Task, images_per_class: int) -> list[tuple[Tensor, Tensor]]:
    """The first images of each class: what goes into the memory."""
    images, labels = task.train.tensors
    chosen = [(labels == label).nonzero()[:images_per_class, 0] for label in task.classes]
    return [(images[rows], labels[rows]) for rows in chosen]


def mixed(task: Task, memory: list[tuple[Tensor, Tensor]], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The task's batches, each followed by as many images drawn from the memory."""
    old_images, old_labels = (torch.cat(tensors) for tensors in zip(*memory, strict=True)) if memory else (None, None)
    for images, labels in task.train_loader(BATCH, seed=seed):
        if old_images is not None and old_labels is not None:
            drawn = torch.randint(len(old_labels), (len(labels),))
            images, labels = torch.cat([images, old_images[drawn]]), torch.cat([labels, old_labels[drawn]])
        yield images, labels


def measure(
    scenario: str, model: nn.Module, views: list[nn.Module], tasks: list[Task], validation: list[Task]
) -> dict[str, Any]:
    """Mean accuracies (fractions) over the five tasks at the end, and what the failure looks like from inside."""
    per_task = [accuracy(view, task.test_loader()) for view, task in zip(views, tasks, strict=True)]
    checks = [accuracy(view, task.test_loader()) for view, task in zip(views, validation, strict=True)]
    mean = sum(per_task) / len(per_task)
    result: dict[str, Any] = {"validation": sum(checks) / len(checks), "test": mean, "per_task": per_task}
    if scenario == "class":
        within = [accuracy(Masked(model, task.classes), task.test_loader()) for task in tasks]
        result["within_task"] = sum(within) / len(within)  # the same model, told which two digits are possible
        images = torch.cat([task.test.tensors[0] for task in tasks])
        with torch.no_grad():
            answers = model(images).argmax(1)
        result["newest_classes"] = float((answers >= 8).double().mean())  # share of all test images called 8 or 9
    print(scenario, " ".join(f"{100 * a:.1f}" for a in per_task), f"mean {100 * mean:.1f}", flush=True)
    return result


def odd_or_even(task: Task) -> Task:
    """The same images with the label modulo 2."""
    parts = [TensorDataset(part.tensors[0], part.tensors[1] % 2) for part in (task.train, task.test)]
    return Task(task.name, {0: "even", 1: "odd"}, *parts)


def write(runs: list[dict[str, Any]], seeds: list[int]) -> None:
    """Keep what is complete; see `results.write`."""
    command = " ".join(["python", "experiments/split_mnist.py", *map(str, seeds)])
    results.write(
        PATH,
        command,
        epochs=EPOCHS,
        learning_rates=RATES,
        batch_size=BATCH,
        hidden=[400, 400],
        seeds=seeds,
        runs=runs,
    )


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [0, 1, 2])
