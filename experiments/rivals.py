"""EWC beside its relatives, all with the same tuning budget: writes files/results/rivals.json, for the ledger and 12.

    python experiments/rivals.py                              everything that the file lacks: about an hour on one core
    python experiments/rivals.py --only two --seeds 0         one setting, one seed

two: MNIST, then Fashion-MNIST, in the setting of two_tasks.py: five epochs of the first, three of the second, batches
of 64, plain descent, the penalty as a proximal step every ten steps. The importances of a seed are all measured on one
and the same trained network. Beside it, how alike they are: cosine and rank correlation with F and with √F (Benzing
2022, arXiv:2006.06357, says that SI and MAS are close to √F), after plain descent and after Adam.

split: Split MNIST in three scenarios, in the setting of split_mnist.py: five tasks, two epochs each, batches of 64, the
proximal step at each step.

permuted: ten permutations of MNIST in the setting of many_tasks.py. EWC's own rows are in that script's file.

All penalties are centred on the newest weights, as SI, MAS and EWC-DR want it. Each method's numbers are
multiplied by one constant, so that their mean on the first task is that of F; then all have the same grid of λ, tried
with seed 100 on training images kept aside. Learning without forgetting has as many strengths. With the best, seeds 0
to 2 are trained on everything and tested.

Every run is written as soon as it is complete, and is not run again unless `--again` is given.
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import results
import torch
from many_tasks import SETTINGS, VALIDATION_FIRST, VALIDATION_TASKS, examination
from published import timed
from relatives import Part, Path, Teacher, batches, learn, output_gradients, split_parts, test
from torch import Tensor
from torch.utils.data import TensorDataset

from contlearn import EWC, MLP, Task, diagonal_fisher, load_fashion_mnist, load_mnist, permuted, split
from contlearn.models import Masked

ON_WEIGHTS = ("EWC", "EWC with √F", "SI", "MAS", "logits reversal")
METHODS = ("unprotected", *ON_WEIGHTS, "LwF")
GRIDS: dict[str, tuple[float, ...]] = {
    "two": (30, 100, 300, 1000, 3000),
    "task": (100, 1000, 10_000, 100_000, 1_000_000),
    "domain": (1000, 10_000, 100_000, 1_000_000, 10_000_000),
    "class": (1000, 100_000),
    "permuted": (3, 10, 30, 100),
}
STRENGTHS: dict[str, tuple[float, ...]] = {
    "two": (0.01, 0.03, 0.1, 0.3, 1),
    "task": (0.3, 1, 3, 10),
    "domain": (0.3, 1, 3, 10),
    "class": (1, 10),
}
DAMPING = {"two": 0.1, "split": 0.001, "permuted": 0.1}  # ξ of SI: of its paper for permuted and for Split MNIST
VALIDATION_SEED, HELD_OUT = 100, 10_000


def main() -> None:
    """Every run that is asked for and that the file lacks, the choice of each λ first."""
    asked = arguments()
    runs = results.Runs("rivals", asked.again, grids=GRIDS, strengths=STRENGTHS, damping=DAMPING)
    mnist, fashion = load_mnist(), load_fashion_mnist()
    for name in asked.only:
        for seed in (VALIDATION_SEED, *asked.seeds):
            data = (mnist, fashion)
            if seed == VALIDATION_SEED:
                data = held_out(mnist), held_out(fashion)
            SETS[name](runs, seed, *data)


def held_out(task: Task) -> Task:
    """The task without its test set: the last 10,000 training images take its place."""
    images, labels = task.train.tensors
    first, last = slice(None, -HELD_OUT), slice(-HELD_OUT, None)
    return Task(
        task.name, task.classes, TensorDataset(images[first], labels[first]), TensorDataset(images[last], labels[last])
    )


def values(runs: results.Runs, setting: str, method: str, seed: int) -> tuple[float, ...]:
    """The λ or strengths to run: with the validation's seed the grid, else the best of it."""
    grid = () if method == "unprotected" else (STRENGTHS if method == "LwF" else GRIDS)[setting]
    if seed == VALIDATION_SEED or not grid:
        return grid or (0,)
    key = {"setting": setting, "method": method, "seed": VALIDATION_SEED}
    tried = [run for run in runs.read().get("runs", []) if run.items() >= key.items() and run["importance"] in grid]
    return (max(tried, key=lambda run: run["mean"])["importance"],)


def measure(method: str, model: MLP, part: Part, path: Path | None) -> dict[str, Tensor]:
    """What the method says each weight is worth, after training on this task."""
    if method == "SI":
        if path is None:
            raise ValueError("synaptic intelligence is measured on the way: a path is needed")
        return path.importance()
    if method == "MAS":
        return output_gradients(model, part, 1, "outputs")
    if method == "logits reversal":
        return output_gradients(model, part, 2, "reversed")
    view = Masked(model, part.active)
    fisher = diagonal_fisher(view, part.loader, progress=False)
    root = method == "EWC with √F"
    return {name.removeprefix("model."): f.sqrt() if root else f for name, f in fisher.items()}


def mean(importances: dict[str, Tensor]) -> float:
    """The mean over all weights."""
    return sum(float(f.sum()) for f in importances.values()) / sum(f.numel() for f in importances.values())


class Guard:
    """A method on its way through a sequence: what it has to do before and after each task."""

    def __init__(self, setting: str, method: str, importance: float) -> None:
        self.setting, self.method = setting, method
        self.importance, self.scale = importance, 0.0
        self.ewc = EWC(importance, anchor="latest") if method in ON_WEIGHTS else None
        self.path: Path | None = None

    def before(self, model: MLP) -> Path | None:
        """Start to follow the weights, where the method wants it."""
        self.path = Path(model, DAMPING[self.setting]) if self.method == "SI" else None
        return self.path

    def teacher(self, model: MLP, part: Part, groups: list[range]) -> Teacher | None:
        """The old network's answers to the new images, where the method wants them."""
        return Teacher(model, part.task.train.tensors[0], groups, self.importance) if self.method == "LwF" else None

    def after(self, model: MLP, part: Part, known: dict[str, dict[str, Tensor]] | None = None) -> None:
        """Measure, and hold. Of the first task, what others measured on the same network is `known`."""
        if self.ewc:
            known = {} if known is None else known
            for method in (self.method, "EWC") if not self.scale else (self.method,):
                if method not in known:
                    known[method] = measure(method, model, part, self.path)
            found = known[self.method]
            if not self.scale:
                self.scale = mean(known["EWC"]) / mean(found)
            anchor = dict(model.named_parameters())
            self.ewc.add({name: self.scale * f for name, f in found.items()}, anchor)


def two(runs: results.Runs, seed: int, mnist: Task, fashion: Task) -> None:
    """MNIST once with plain descent and once with Adam, what each method measures there; then Fashion-MNIST."""
    first, second = (Part(task, range(10), range(10)) for task in (mnist, fashion))
    trained: list[tuple[MLP, Path]] = []
    known: dict[str, dict[str, Tensor]] = {}

    def ready(adam: bool) -> tuple[MLP, Path]:
        torch.manual_seed(seed)
        model = MLP()
        path = Path(model, DAMPING["two"])
        kind: Any = torch.optim.Adam if adam else torch.optim.SGD
        optimizer = kind(model.parameters(), fused=True)
        rates = [0.001] * 2 if adam else [0.1] * 5
        learn(model, first, batches(len(mnist.train), 64, rates, 100 * seed), optimizer, path=path)
        return model, path

    for method in METHODS:
        for importance in values(runs, "two", method, seed):
            key = {"setting": "two", "method": method, "importance": importance, "seed": seed}

            def make(method: str = method, importance: float = importance) -> dict[str, Any]:
                if not trained:
                    trained.append(ready(adam=False))
                model, path = trained[0]
                return two_run(model, path, known, first, second, method, importance, seed)

            runs.once(key, timed(make))
    for kind in ("SGD", "Adam") if seed != VALIDATION_SEED else ():

        def look(kind: str = kind) -> dict[str, Any]:
            if kind == "Adam" or not trained:
                return compare(*ready(adam=kind == "Adam"), first)
            return compare(*trained[0], first)

        runs.once({"setting": "alike", "method": "all", "optimizer": kind, "seed": seed}, timed(look))


def two_run(
    model: MLP,
    path: Path,
    known: dict[str, dict[str, Tensor]],
    first: Part,
    second: Part,
    method: str,
    importance: float,
    seed: int,
) -> dict[str, Any]:
    """Fashion-MNIST after MNIST with one method."""
    guard = Guard("two", method, importance)
    guard.path = path
    guard.after(model, first, known)
    student = copy.deepcopy(model)
    sgd = torch.optim.SGD(student.parameters(), lr=0.1, fused=True)
    order = batches(len(second.task.train), 64, [0.1, 0.1, 0.01], 100 * seed + 1)
    learn(student, second, order, sgd, guard.ewc, 10, teacher=guard.teacher(model, second, [range(10)]))
    scores = [test(student, part) for part in (first, second)]
    return {"mean": sum(scores) / 2, "per_task": scores}


def compare(model: MLP, path: Path, part: Part) -> dict[str, Any]:
    """Cosine and rank correlation of each method's numbers with F and √F, over all weights that F is not zero for."""
    flat = {m: torch.cat([f.flatten() for f in measure(m, model, part, path).values()]) for m in ON_WEIGHTS}
    used = flat["EWC"] > 0
    flat = {method: f[used].double() for method, f in flat.items()}
    ranks = {method: f.argsort().argsort().double() for method, f in flat.items()}
    centred = {method: r - r.mean() for method, r in ranks.items()}
    cosine = torch.nn.functional.cosine_similarity
    return {
        "mean": test(model, part),
        "weights": int(used.sum()),
        "cosine": {
            m: {"F": float(cosine(f, flat["EWC"], 0)), "√F": float(cosine(f, flat["EWC with √F"], 0))}
            for m, f in flat.items()
        },
        "rank": {method: float(cosine(r, centred["EWC"], 0)) for method, r in centred.items()},
    }


def split_mnist(runs: results.Runs, seed: int, mnist: Task, _: Task) -> None:
    """Five tasks in three scenarios. The first task is the same for all methods, and is learnt once."""
    tasks = split(mnist, 2)
    for scenario in ("task", "domain", "class"):
        begun: list[tuple[MLP, Path]] = []
        for method in METHODS:
            if method == "EWC with √F":
                continue
            for importance in values(runs, scenario, method, seed):
                key = {"setting": scenario, "method": method, "importance": importance, "seed": seed}
                runs.once(key, timed(partial(split_run, begun, tasks, scenario, method, importance, seed)))


def split_run(
    begun: list[tuple[MLP, Path]], tasks: list[Task], scenario: str, method: str, importance: float, seed: int
) -> dict[str, Any]:
    """The whole sequence with one method."""
    parts = split_parts(tasks, scenario)

    def on_task(t: int, model: MLP, guard: "Guard", path: Path | None) -> None:
        groups = {"task": [earlier.active for earlier in parts[:t]], "domain": [range(2)], "class": [range(2 * t)]}
        sgd = torch.optim.SGD(model.parameters(), fused=True)
        order = batches(len(parts[t].task.train), 64, [0.05, 0.005], 100 * seed + t)
        teacher = guard.teacher(model, parts[t], groups[scenario]) if t else None
        learn(model, parts[t], order, sgd, guard.ewc if t else None, 1, path, teacher)

    if not begun:
        torch.manual_seed(seed)
        model = MLP(400, 2, classes=2 if scenario == "domain" else 10)
        path = Path(model, DAMPING["split"])
        on_task(0, model, Guard("split", "unprotected", 0), path)
        begun.append((model, path))
    guard = Guard("split", method, importance)
    first, guard.path = begun[0]
    guard.after(first, parts[0])
    model = copy.deepcopy(first)
    for t in range(1, len(parts)):
        on_task(t, model, guard, guard.before(model))
        if t < len(parts) - 1:
            guard.after(model, parts[t])
    per_task = [test(model, part) for part in parts]
    return {"mean": sum(per_task) / len(per_task), "per_task": per_task}


def permutations(runs: results.Runs, seed: int, mnist: Task, _: Task) -> None:
    """Ten tasks, or five others to choose λ with, for the methods that many_tasks.py does not have."""
    begun: list[tuple[MLP, Path]] = []
    for method in ("SI", "MAS", "logits reversal"):
        for importance in values(runs, "permuted", method, seed):
            key = {"setting": "permuted", "method": method, "importance": importance, "seed": seed}
            runs.once(key, timed(partial(permuted_run, begun, mnist, method, importance, seed)))


def permuted_run(
    begun: list[tuple[MLP, Path]], mnist: Task, method: str, importance: float, seed: int
) -> dict[str, Any]:
    """The whole sequence with one method."""
    setting = SETTINGS[10]
    first, count = (VALIDATION_FIRST, VALIDATION_TASKS) if seed == VALIDATION_SEED else (1, 10)

    def on_task(number: int, part: Part, model: MLP, ewc: EWC | None, path: Path | None) -> None:
        sgd = torch.optim.SGD(model.parameters(), fused=True)
        order = batches(len(part.task.train), setting.batch_size, setting.rates, 1000 * seed + number)
        learn(model, part, order, sgd, ewc, setting.proximal, path)

    part = Part(permuted(mnist, first), range(10), range(10))
    if not begun:
        torch.manual_seed(seed)
        model = MLP(setting.hidden_size, setting.hidden_layers)
        path = Path(model, DAMPING["permuted"])
        on_task(first, part, model, None, path)
        begun.append((model, path))
    guard = Guard("permuted", method, importance)
    start, guard.path = begun[0]
    guard.after(start, part)
    model = copy.deepcopy(start)
    for number in range(first + 1, first + count):
        part = Part(permuted(mnist, number), range(10), range(10))
        on_task(number, part, model, guard.ewc, guard.before(model))
        if number < first + count - 1:
            guard.after(model, part)
    exams = [Part(examination(mnist, number), range(10), range(10)) for number in range(first, first + count)]
    per_task = [test(model, part) for part in exams]
    return {"mean": sum(per_task) / count, "per_task": per_task}


SETS: dict[str, Callable[[results.Runs, int, Task, Task], None]] = {
    "two": two,
    "split": split_mnist,
    "permuted": permutations,
}


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="EWC beside its relatives; see the top of this file.")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS), help="these settings alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--again", action="store_true", help="run also what the file holds already")
    return parser.parse_args()


if __name__ == "__main__":
    main()
