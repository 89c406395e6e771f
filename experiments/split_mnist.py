"""Split MNIST in three scenarios, for notebook 08: writes files/results/split_mnist.json.

    python experiments/split_mnist.py              seeds 0, 1, 2: about three quarters of an hour on one core
    python experiments/split_mnist.py --seeds 0    this seed alone; several processes may share the work

Five tasks of two digits each, one after the other: EWC with many importances λ in the task-, domain- and
class-incremental scenario of van de Ven and Tolias 2019 (arXiv:1904.07734), and, class-incremental, replay of 5 to 500
images a class; beside it a fresh network that is trained on those images alone, the baseline of Prabhu, Torr and
Dokania 2020 (10.1007/978-3-030-58536-5_31). Two hidden layers of 400, as in the first paper. Batches of 64, two epochs
a task, the second one at a tenth of the learning rate; the penalty acts through its proximal step, so that no λ can
blow up. The last 10,000 training images are not trained on: they are for choosing λ.

Class-incremental, the loss also runs over the newest pair's logits alone, which leaves the old ones be (the "labels
trick" of Zeno et al. 2018, arXiv:1803.10123).

Replay draws as many images from the memory as the task's batch has. Its loss weighs the two halves equally, or, as
if all classes had come at once, the newest of t pairs by 1/t; the latter also together with EWC.

The domain-incremental scenario also runs by the protocol of that paper (its appendix: Adam with learning rate 0.001,
2,000 steps of 128 images a task), and with as many steps of plain descent, so that one thing changes at a time.

Every run is written as soon as it is complete, and is not run again unless `--again` is given.
"""

from functools import partial
from itertools import cycle, islice
from typing import Any

import results
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from contlearn import EWC, MLP, Masked, Task, accuracy, load_mnist, split, train

SCENARIOS = ("task", "domain", "class")
IMPORTANCES = (0, *(10**k for k in range(9)))
MEMORIES = (5, 10, 20, 50, 100, 200, 500)
EPOCHS, RATES, BATCH = 2, (0.05, 0.005), 64
OWN_IMPORTANCES = (0, 100, 1000, 10_000, 100_000, 1_000_000)  # with the loss over the newest logits alone
WITH_EWC = (5, 20, 100, 500), (100, 1000, 10_000)  # memories and λ of replay together with EWC
LONG_IMPORTANCES = (0, 100, 1000, 10_000, 100_000)
LONG_STEPS, LONG_BATCH = 2000, 128  # of the published protocol
SEEDS = (0, 1, 2)


def main() -> None:
    """Run every scenario with every seed, but what the file holds."""
    asked = results.asked(__doc__ or "", SEEDS)
    content = {"epochs": EPOCHS, "learning_rates": RATES, "batch_size": BATCH, "hidden": [400, 400], "seeds": SEEDS}
    runs = results.Runs("split_mnist", asked.again, **content)
    mnist = load_mnist()
    held_out = TensorDataset(*(t[50_000:] for t in mnist.train.tensors))
    kept = TensorDataset(*(t[:50_000] for t in mnist.train.tensors))
    tasks = split(Task("MNIST", mnist.classes, kept, mnist.test), 2)
    validation = split(Task("MNIST", mnist.classes, kept, held_out), 2)  # the same, with other test images
    for seed in asked.seeds:
        for scenario in SCENARIOS:
            for importance in IMPORTANCES:
                key = {"scenario": scenario, "method": "EWC", "importance": importance, "seed": seed}
                runs.once(key, partial(ewc_run, scenario, tasks, validation, importance, seed))
        for importance in OWN_IMPORTANCES:
            key = {"scenario": "class", "method": "EWC, loss over the pair", "importance": importance, "seed": seed}
            runs.once(key, partial(ewc_run, "class", tasks, validation, importance, seed, own_logits=True))
        for size in MEMORIES:
            key = {"scenario": "class", "images_per_class": size, "seed": seed}
            runs.once(key | {"method": "replay"}, partial(replay_run, tasks, validation, size, seed))
            runs.once(key | {"method": "replay, 1/t"}, partial(replay_run, tasks, validation, size, seed, even=False))
            runs.once(key | {"method": "memory alone"}, partial(memory_run, tasks, validation, size, seed))
            for importance in WITH_EWC[1] if size in WITH_EWC[0] else ():
                make = partial(replay_run, tasks, validation, size, seed, even=False, importance=importance)
                runs.once(key | {"method": "replay, 1/t, EWC", "importance": importance}, make)
        for optimizer in ("Adam", "SGD"):
            for importance in LONG_IMPORTANCES:
                key = {"scenario": "domain", "method": f"EWC, 2,000 steps of {optimizer}", "importance": importance}
                make = partial(long_run, tasks, validation, importance, seed, optimizer)
                runs.once(key | {"seed": seed}, make)


def ewc_run(
    scenario: str, tasks: list[Task], validation: list[Task], importance: float, seed: int, own_logits: bool = False
) -> dict[str, Any]:
    """All five tasks with EWC; what is measured at the end. With `own_logits` the loss, and F, see the task's alone."""
    if scenario == "domain":  # the answer is 'first' or 'second digit of its pair', whatever the pair
        tasks, validation = [odd_or_even(t) for t in tasks], [odd_or_even(t) for t in validation]
    torch.manual_seed(seed)
    model = MLP(hidden_size=400, hidden_layers=2, classes=2 if scenario == "domain" else 10)
    masked = [Masked(model, task.classes) if scenario == "task" or own_logits else model for task in tasks]
    views: list[nn.Module] = [model] * len(tasks) if own_logits else [*masked]  # through which it is measured
    ewc, learnt = EWC(importance), []
    for learner, view, task in zip(masked, views, tasks, strict=True):
        loader = task.train_loader(BATCH, seed=seed)
        train(learner, loader, epochs=EPOCHS, lr=RATES, ewc=ewc, proximal=True, progress=False)
        learnt.append(accuracy(view, task.test_loader()))
        # The parameters of a Masked model are called 'model.…' through every mask, so one EWC serves them all.
        ewc.consolidate(learner, task.train_loader(1000, shuffle=False), progress=False)
    return {"learnt": learnt} | measure(scenario, model, views, tasks, validation)


def long_run(tasks: list[Task], validation: list[Task], importance: float, seed: int, optimizer: str) -> dict[str, Any]:
    """Domain-incremental, by the published protocol, or the same with plain descent."""
    tasks, validation = [odd_or_even(t) for t in tasks], [odd_or_even(t) for t in validation]
    torch.manual_seed(seed)
    model, ewc, learnt = MLP(hidden_size=400, hidden_layers=2, classes=2), EWC(importance), []
    for task in tasks:
        adam = torch.optim.Adam(model.parameters(), lr=0.001)  # new for each task, so that nothing is carried over
        sgd = torch.optim.SGD(model.parameters(), lr=RATES[0])
        chosen: torch.optim.Optimizer = adam if optimizer == "Adam" else sgd
        loader = task.train_loader(LONG_BATCH, seed=seed)
        for images, labels in islice((batch for again in cycle([loader]) for batch in again), LONG_STEPS):
            chosen.zero_grad()
            cross_entropy(model(images), labels).backward()
            if optimizer == "Adam":
                ewc.add_gradient(model)
            chosen.step()
            if optimizer == "SGD":
                ewc.proximal_step(model, RATES[0])
        learnt.append(accuracy(model, task.test_loader()))
        ewc.consolidate(model, task.train_loader(1000, shuffle=False), progress=False)
    return {"learnt": learnt} | measure("domain", model, [model] * len(tasks), tasks, validation)


def replay_run(
    tasks: list[Task], validation: list[Task], size: int, seed: int, even: bool = True, importance: float | None = None
) -> dict[str, Any]:
    """All five tasks, class-incremental; from the second on, each batch is followed by as many images of the memory.

    Both count the same where `even`, eq. (8.5); otherwise the newest of t pairs counts 1/t.
    """
    torch.manual_seed(seed)
    model, ewc = MLP(hidden_size=400, hidden_layers=2), EWC(importance or 0)
    memory: list[tuple[Tensor, Tensor]] = []
    learnt = []
    for t, task in enumerate(tasks, 1):
        optimizer = torch.optim.SGD(model.parameters())
        old_images, old_labels = (
            (torch.cat(tensors) for tensors in zip(*memory, strict=True)) if memory else (None, None)
        )
        for rate in RATES:
            optimizer.param_groups[0]["lr"] = rate
            for images, labels in task.train_loader(BATCH, seed=seed):
                loss = cross_entropy(model(images), labels)
                if old_images is not None and old_labels is not None:
                    drawn = torch.randint(len(old_labels), (len(labels),))
                    weight = 0.5 if even else 1 / t
                    loss = weight * loss + (1 - weight) * cross_entropy(model(old_images[drawn]), old_labels[drawn])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if importance is not None:
                    ewc.proximal_step(model, rate)
        learnt.append(accuracy(model, task.test_loader()))
        memory += first_of_each(task, size)
        if importance is not None:
            ewc.consolidate(model, task.train_loader(1000, shuffle=False), progress=False)
    return {"learnt": learnt} | measure("class", model, [model] * len(tasks), tasks, validation)


def memory_run(tasks: list[Task], validation: list[Task], size: int, seed: int) -> dict[str, Any]:
    """No sequence at all: a fresh network learns the memory's images of all ten classes, in as many steps."""
    torch.manual_seed(seed)
    model = MLP(hidden_size=400, hidden_layers=2)
    memory = [pair for task in tasks for pair in first_of_each(task, size)]
    images, labels = (torch.cat(tensors) for tensors in zip(*memory, strict=True))
    for rate in RATES:
        draws = [torch.randint(len(labels), (BATCH,)) for task in tasks for _ in task.train_loader(BATCH, seed=seed)]
        train(model, [(images[drawn], labels[drawn]) for drawn in draws], epochs=1, lr=rate)
    return measure("class", model, [model] * len(tasks), tasks, validation)


def first_of_each(task: Task, images_per_class: int) -> list[tuple[Tensor, Tensor]]:
    """The first images of each class: what goes into the memory."""
    images, labels = task.train.tensors
    chosen = [(labels == label).nonzero()[:images_per_class, 0] for label in task.classes]
    return [(images[rows], labels[rows]) for rows in chosen]


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
            answers = model(images).argmax(1)  # of all classes, eq. (8.3)
        result["newest_classes"] = float((answers >= 8).double().mean())  # share of all test images called 8 or 9
    return result


def odd_or_even(task: Task) -> Task:
    """The same images with the label modulo 2, eq. (8.2)."""
    parts = [TensorDataset(part.tensors[0], part.tensors[1] % 2) for part in (task.train, task.test)]
    return Task(task.name, {0: "even", 1: "odd"}, *parts)


if __name__ == "__main__":
    main()
