"""Published protocols, run as they were published: writes files/results/published.json, for the ledger.

    python experiments/published.py                    everything that the file lacks
    python experiments/published.py --only hsu --seeds 0 1 2

hsu: Split MNIST of Hsu et al. 2018 (arXiv:1810.12488, table 2), details and λ from the scripts that its authors
published (GT-RIPL/Continual-Learning-Benchmark, commit d78b997). Images padded to 32 × 32 and normalised; two hidden
layers of 400; batches of 128, four epochs a task; Adam with learning rate 0.001, or plain descent with 0.01; the
optimiser is not reset between tasks. Their penalties lack the ½, so λ is twice theirs here. F with the most likely
label, of all images; SI with ξ = 0.1 and its work not cut off at zero; MAS from the mean of z² over a batch of 128 and
the logits, its gradient's absolute value averaged over batches. Task-incremental, each head's Adam starts with it.

hsu_changes: Adam's count of a head's steps, and SI's work, otherwise than there; λ of SI and MAS ten times as large, or
a tenth.

van_de_ven: Split MNIST, task-incremental, of van de Ven 2025 (arXiv:2502.11756), details from the code that its author
published (GMvandeVen/continual-learning, commit e6d795a). Two hidden layers of 400, Adam with learning rate 0.001, not
reset between tasks, 2,000 steps of 128 images a task, one head a task, online EWC. The digits are dealt to the tasks
anew with each seed. In the paper λ is, for each estimator, the best of fourteen, 1 to 10¹³, by the test accuracy over
30 seeds. Here likewise by the test accuracy, but of three to six, and with fewer seeds: GRID with the first seed, of
that FINALISTS with the others.

three: Split MNIST of van de Ven and Tolias 2019 (arXiv:1904.07734), EWC in three scenarios. As van_de_ven, but each
task keeps its own anchor, F is that of the most likely label, and λ is the one of their code (commit f0b1461, of the
year of the paper). three_changes: task-incremental, a tenth of it and ten times as much.

domain: the domain-incremental 78.9 % of split_mnist.py taken apart, one change at a time: there the digits lie in their
order, a task has two epochs in batches of 64 (about 380 steps), the second at a tenth of the learning rate of plain
descent, and λ, which acts through the proximal step, goes up to a million.

avalanche: ten permutations as in the open baseline that reports 0.83 where 0.94 is expected
(ContinualAI/continual-learning-baselines, commit 4900462): one hidden layer of 512, plain descent with learning rate
0.001, batches of 256, ten epochs a task; λ = 1 without the ½, F from squared mean gradients of batches. First one task
alone, then all ten with EWC and without.

zenke: SI on ten permutations as in Zenke, Poole and Ganguli 2017 (arXiv:1703.04200): two hidden layers of 2,000, Adam
with learning rate 0.001, batches of 256, 20 epochs a task, c = 0.1. Hours on one core, so only when asked for.

Every run is written as soon as it is complete, and is not run again unless `--again` is given.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import results
import torch
from many_tasks import examination
from relatives import Part, Path, batches, learn, split_parts, test
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import TensorDataset

from contlearn import EWC, MLP, Task, diagonal_fisher, joint, load_mnist, permuted, split
from contlearn.ewc import Anchor
from contlearn.models import Masked

# Of each method: the optimiser, and reg_coef in the task-, domain- and class-incremental scripts.
HSU: dict[str, tuple[str, dict[str, float]]] = {
    "Adam": ("Adam", {}),
    "SGD": ("SGD", {}),
    "EWC": ("Adam", {"task": 100, "domain": 100, "class": 600}),
    "online EWC": ("Adam", {"task": 400, "domain": 700, "class": 100}),
    "SI": ("Adam", {"task": 300, "domain": 3000, "class": 600}),
    "MAS": ("Adam", {"task": 1, "domain": 10_000, "class": 1}),
    "offline": ("Adam", {}),
}
SCENARIOS = ("task", "domain", "class")
STEPS = 2000


def main() -> None:
    """Every run that is asked for and that the file lacks."""
    asked = arguments()
    runs = results.Runs("published", asked.again)
    mnist = load_mnist()
    for seed in asked.seeds:
        for name in asked.only:
            SETS[name](runs, mnist, seed)


def hsu(
    runs: results.Runs, mnist: Task, seed: int, scenarios: Sequence[str] = SCENARIOS, methods: Iterable[str] = HSU
) -> None:
    """All methods, one seed."""
    tasks = split(padded(mnist), 2)
    for scenario in scenarios:
        for method in methods:
            key = {"protocol": "Hsu 2018", "scenario": scenario, "method": method, "seed": seed}
            runs.once(key, timed(partial(hsu_run, tasks, scenario, method, seed)))


def hsu_changes(runs: results.Runs, mnist: Task, seed: int) -> None:
    """One change at a time, one seed."""
    tasks = split(padded(mnist), 2)
    for change, (how, cases) in HSU_CHANGES.items():
        for scenario, method in cases:
            key = {"protocol": "Hsu 2018, changed", "change": change, "scenario": scenario, "method": method}
            runs.once(key | {"seed": seed}, timed(partial(hsu_run, tasks, scenario, method, seed, **how)))


HSU_CHANGES: dict[str, tuple[dict[str, Any], tuple[tuple[str, str], ...]]] = {
    "one output layer": ({"own_heads": False}, tuple(("task", m) for m in ("Adam", "EWC", "online EWC", "SI", "MAS"))),
    "work clamped at zero": ({"clamped": True}, (("task", "SI"), ("domain", "SI"), ("class", "SI"))),
    "both": ({"own_heads": False, "clamped": True}, (("task", "SI"),)),
    "a tenth of λ": ({"share": 0.1}, (("task", "SI"),)),
    "ten times λ": ({"share": 10}, (("task", "SI"), ("class", "MAS"))),
}


def padded(task: Task) -> Task:
    """Images of 32 × 32, normalised by the mean and standard deviation of the padded training images."""

    def change(part: TensorDataset) -> TensorDataset:
        images, labels = part.tensors
        return TensorDataset(((pad(images, (2, 2, 2, 2)) - 0.1) / 0.2752).flatten(1), labels)

    return Task(task.name, task.classes, change(task.train), change(task.test))


def hsu_run(
    tasks: list[Task],
    scenario: str,
    method: str,
    seed: int,
    own_heads: bool = True,
    clamped: bool = False,
    share: float = 1,
) -> dict[str, Any]:
    """The whole sequence with one method.

    `own_heads`: the heads of a task-incremental network are parameters of their own. `clamped`: work against the loss
    counts as none in SI, as in its paper. The authors' code has the one and not the other. `share`: of the published λ.
    """
    torch.manual_seed(seed)
    parts = split_parts(tasks, scenario)
    model = MLP(400, 2, inputs=1024, classes=2 if scenario == "domain" else 10)
    kind, coefficients = HSU[method]
    if own_heads and scenario == "task" and kind == "Adam" and method != "offline":
        model.output = Heads(400, len(parts))
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
        if kind == "SGD"
        else torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
    )
    rates = [0.01 if kind == "SGD" else 0.001] * 4
    if method == "offline":
        return offline(model, parts, scenario, optimizer, rates, seed)
    strength = share * coefficients.get(scenario, 0)
    penalty: Any = EWC(2 * strength, anchor="optima" if method == "EWC" else "latest")
    if method == "SI" and not clamped:
        penalty = Signed(strength)
    learnt = []
    for t, part in enumerate(parts):
        path = Path(model, damping=0.1) if method == "SI" else None
        if isinstance(model.output, Heads):
            model.output.begin(optimizer, t, bool(coefficients))
        order = batches(len(part.task.train), 128, rates, 100 * seed + t)
        learn(model, part, order, optimizer, penalty if coefficients else None, path=path)
        learnt.append(test(model, part))
        if method in ("EWC", "online EWC"):
            penalty.consolidate(Masked(model, part.active), part.loader, "predicted", progress=False)
        elif path:
            penalty.add(path.importance(clamped), dict(model.named_parameters()))
        elif method == "MAS":
            penalty.add(batch_mas(model, part), dict(model.named_parameters()))
    return measured(model, parts) | {"learnt": learnt}


class Heads(nn.Module):
    """The output layers of all tasks, two logits each, side by side: (N, inputs) → (N, 2 · tasks)."""

    def __init__(self, inputs: int, tasks: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.Linear(inputs, 2) for _ in range(tasks))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([head(hidden) for head in self.each], 1)

    def begin(self, optimizer: torch.optim.Optimizer, t: int, penalised: bool) -> None:
        """Before task t, let Adam count the steps of those heads anew that get their first gradient in it.

        That is head t, or with a penalty all but the first at once, for the penalty's gradient exists for all of them,
        zero as it is. Adam divides its averages by 1 − βⁿ; with an n that is too large a head's first steps are about
        three times as long.
        """
        first = range(1, len(self.each)) if t == 1 else ()
        for number in first if penalised else (t,):
            for parameter in self.each[number].parameters():
                optimizer.state.pop(parameter, None)


class Signed:
    """The penalty strength · Σ_i Ω_i (θ_i − θ*_i)² with the newest θ*, and with an Ω that may be negative somewhere,
    which `EWC` refuses.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    def add(self, importance: dict[str, Tensor], anchor: dict[str, nn.Parameter]) -> None:
        """Add Ω of one more task, and hold the weights as they are now."""
        self.importance = {name: new + self.importance.get(name, 0) for name, new in importance.items()}
        self.anchor = {name: parameter.detach().clone() for name, parameter in anchor.items()}

    @torch.no_grad()
    def add_gradient(self, model: nn.Module) -> None:
        """Add the penalty's gradient to the `.grad` of each parameter."""
        for name, parameter in model.named_parameters():
            if name in self.anchor and parameter.grad is not None:
                parameter.grad.addcmul_(self.importance[name], parameter - self.anchor[name], value=2 * self.strength)


def batch_mas(model: nn.Module, part: Part) -> dict[str, Tensor]:
    """|∂/∂θ of the mean of z² over a batch and its active logits|, averaged over batches of 128."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    chunks = part.task.train.tensors[0].split(128)
    for images in chunks:
        z = model(images)[:, part.active.start : part.active.stop]
        gradients = torch.autograd.grad((z**2).mean(), list(model.parameters()))
        for sum_, gradient in zip(total.values(), gradients, strict=True):
            sum_ += gradient.abs() / len(chunks)
    return total


def offline(
    model: nn.Module, parts: list[Part], scenario: str, optimizer: torch.optim.Optimizer, rates: list[float], seed: int
) -> dict[str, Any]:
    """All tasks at once. Task-incremental, an image is trained and judged with its own pair of logits alone."""
    everything = joint([part.task for part in parts])
    images, labels = everything.train.tensors
    for rate, rows in batches(len(labels), 128, rates, seed):
        logits, y = model(images[rows]), labels[rows]
        if scenario == "task":
            pair = (y // 2 * 2)[:, None] + torch.arange(2)
            logits, y = logits.gather(1, pair), y % 2
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(logits, y).backward()
        optimizer.step()
    return measured(model, parts)


def van_de_ven(runs: results.Runs, mnist: Task, seed: int) -> None:
    """All estimators, one seed. The first task is the same for all, and is learnt once."""
    once = VanDeVen(mnist, seed)
    for estimator in ESTIMATORS:
        for importance in (GRID if seed == FIRST_SEED else FINALISTS)[estimator]:
            key = {"protocol": "van de Ven 2025", "method": estimator, "importance": importance, "seed": seed}
            runs.once(key, timed(partial(once.run, estimator, importance)))


FIRST_SEED = 0  # of van_de_ven: all of GRID with this one, with the others FINALISTS alone
GRID: dict[str, tuple[float, ...]] = {
    "none": (0,),
    "EMPIRICAL": (1e6, 1e7, 1e8, 1e9),
    "SAMPLE": (1e6, 1e7, 1e8, 1e9),
    "BATCHED": (1e8, 1e9, 1e10),
    "EXACT": (1e2, 1e3, 1e4, 1e5, 1e6, 1e7),
    "EXACT, 500 images": (1e5, 1e6, 1e7, 1e8),
}
FINALISTS: dict[str, tuple[float, ...]] = {  # where the search began, and what was best at some point of it
    "none": (0,),
    "EMPIRICAL": (1e6, 1e7),
    "SAMPLE": (1e6, 1e7),
    "BATCHED": (1e8, 1e9),
    "EXACT": (1e3, 1e4, 1e5, 1e6),
    "EXACT, 500 images": (1e6, 1e7),
}
ESTIMATORS = tuple(GRID)
THREE = {"task": 1e7, "domain": 1e6, "class": 1e8}


def three(runs: results.Runs, mnist: Task, seed: int, scenarios: Sequence[str] = SCENARIOS) -> None:
    """EWC in the scenarios, one seed."""
    for scenario in scenarios:
        key = {"protocol": "van de Ven 2019", "scenario": scenario, "method": "EWC", "seed": seed}
        once = VanDeVen(mnist, seed, scenario, "optima")
        runs.once(key, timed(partial(once.run, "most likely label", THREE[scenario])))


THREE_CHANGES = {"ten times λ": 10, "a tenth of λ": 0.1}


def three_changes(runs: results.Runs, mnist: Task, seed: int, changes: Iterable[str] = THREE_CHANGES) -> None:
    """The task-incremental run with another λ, one seed."""
    once = VanDeVen(mnist, seed, "task", "optima")
    for change in changes:
        key = {"protocol": "van de Ven 2019, changed", "change": change, "scenario": "task", "method": "EWC"}
        importance = THREE_CHANGES[change] * THREE["task"]
        runs.once(key | {"seed": seed}, timed(partial(once.run, "most likely label", importance)))


class VanDeVen:
    """All runs of one seed: the same digits in the same tasks, from the same weights, in the same order."""

    def __init__(self, mnist: Task, seed: int, scenario: str = "task", anchor: Anchor = "latest") -> None:
        self.seed, self.mnist, self.scenario, self.anchor = seed, mnist, scenario, anchor
        self.first: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def run(self, estimator: str, importance: float) -> dict[str, Any]:
        """The whole sequence with one estimator."""
        torch.manual_seed(self.seed)
        deal = torch.randperm(10)  # digit d is class deal[d]
        tasks = split(dealt(self.mnist, deal), 2)
        parts = split_parts(tasks, self.scenario)
        model = MLP(400, 2, classes=2 if self.scenario == "domain" else 10)
        adam = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
        ewc, generator = EWC(importance, anchor=self.anchor), torch.Generator().manual_seed(self.seed)
        learnt = []
        for t, part in enumerate(parts):
            if t == 0 and self.first:
                model.load_state_dict(self.first[0])
                adam.load_state_dict(copied(self.first[1]))  # it would go on with these very tensors
            else:
                order = batches(len(part.task.train), 128, [0.001], 100 * self.seed + t, steps=STEPS)
                learn(model, part, order, adam, ewc if t and importance else None)
            if t == 0 and not self.first:
                self.first = copied(model.state_dict()), copied(adam.state_dict())
            learnt.append(test(model, part))
            if importance and t < len(parts) - 1:
                view = Masked(model, part.active)
                ewc.add(estimate(view, part, estimator, generator), dict(model.named_parameters()))
        return measured(model, parts) | {"learnt": learnt}


def copied(state: Any) -> Any:
    """A state dictionary with tensors of its own."""
    if isinstance(state, Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: copied(value) for key, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state


def dealt(task: Task, deal: Tensor) -> Task:
    """The task with digit d called deal[d]."""
    (images, labels), (test_images, test_labels) = task.train.tensors, task.test.tensors
    classes = {int(deal[digit]): name for digit, name in task.classes.items()}
    return Task(task.name, classes, TensorDataset(images, deal[labels]), TensorDataset(test_images, deal[test_labels]))


def estimate(view: Masked, part: Part, estimator: str, generator: torch.Generator) -> dict[str, Tensor]:
    """F by one of the paper's recipes, keyed by the names inside the mask."""
    loader: Iterable[Any] = part.loader
    if estimator == "BATCHED":
        fisher = batched(view, part, generator)
    else:
        if estimator == "EXACT, 500 images":
            chosen = torch.randperm(len(part.task.train), generator=generator)[:500]
            loader = [tuple(t[chosen] for t in part.task.train.tensors)]
        names = {"SAMPLE": "sample", "EMPIRICAL": "empirical", "most likely label": "predicted"}
        kind: Any = names.get(estimator, "exact")
        fisher = diagonal_fisher(view, loader, kind, generator=generator, progress=False)
    return {name.removeprefix("model."): f for name, f in fisher.items()}


def batched(view: nn.Module, part: Part, generator: torch.Generator, size: int = 128) -> dict[str, Tensor]:
    """The square of the mean gradient of a batch with its true labels, averaged over batches."""
    images, labels = part.task.train.tensors
    total = {name: torch.zeros_like(p) for name, p in view.named_parameters()}
    chunks = torch.randperm(len(labels), generator=generator).split(size)
    for rows in chunks:
        loss = nn.functional.cross_entropy(view(images[rows]), labels[rows])
        for sum_, gradient in zip(total.values(), torch.autograd.grad(loss, list(view.parameters())), strict=True):
            sum_ += gradient**2 / len(chunks)
    return total


DOMAIN: dict[str, tuple[float, ...]] = {
    "Adam": (1e4, 1e6),
    "digits dealt anew": (1e6,),
    "learning rate not lowered": (1e6,),
    "split_mnist.py": (1e6,),
    "2,000 steps of 128": (1e6, 1e7, 1e8),
    "both": (1e4, 1e6, 1e8),
}


def domain(runs: results.Runs, mnist: Task, seed: int) -> None:
    """One change at a time, one seed."""
    for change, importances in DOMAIN.items():
        for importance in importances:
            key = {"protocol": "domain", "method": change, "importance": importance, "seed": seed}
            runs.once(key, timed(partial(domain_run, mnist, change, importance, seed)))


def domain_run(mnist: Task, change: str, importance: float, seed: int) -> dict[str, Any]:
    """The whole sequence with one change."""
    torch.manual_seed(seed)
    deal = torch.randperm(10) if change == "digits dealt anew" else torch.arange(10)
    parts = split_parts(split(dealt(mnist, deal), 2), "domain")
    model, ewc, learnt = MLP(400, 2, classes=2), EWC(importance), []
    for t, part in enumerate(parts):
        count, optimizer, every = len(part.task.train), torch.optim.SGD(model.parameters(), fused=True), 1
        order = batches(count, 64, [0.05, 0.005], 100 * seed + t)
        if change == "learning rate not lowered":
            order = batches(count, 64, [0.05, 0.05], 100 * seed + t)
        elif change == "2,000 steps of 128":
            order = batches(count, 128, [0.05], 100 * seed + t, steps=STEPS)
        elif change == "Adam":
            order, every = batches(count, 64, [0.001, 0.001], 100 * seed + t), 0
        elif change == "both":
            order, every = batches(count, 128, [0.001], 100 * seed + t, steps=STEPS), 0
        adam = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)
        learn(model, part, order, adam if change in ("Adam", "both") else optimizer, ewc if t else None, every)
        learnt.append(test(model, part))
        if t < len(parts) - 1:
            ewc.consolidate(model, part.loader, progress=False)
    return measured(model, parts) | {"learnt": learnt}


class Permuted(NamedTuple):
    """A protocol on permutations of MNIST."""

    hidden_size: int
    hidden_layers: int
    optimizer: str
    rate: float
    batch_size: int
    epochs: int
    importance: float
    method: str


AVALANCHE = Permuted(512, 1, "SGD", 0.001, 256, 10, 2.0, "EWC")
ZENKE = Permuted(2000, 2, "Adam", 0.001, 256, 20, 0.2, "SI")


def avalanche(runs: results.Runs, mnist: Task, seed: int) -> None:
    """One task alone; then ten, with EWC and without."""
    for tasks, method in ((1, "none"), (10, "EWC"), (10, "none")):
        key = {"protocol": "Avalanche baseline", "method": method, "tasks": tasks, "seed": seed}
        runs.once(key, timed(partial(permuted_run, mnist, AVALANCHE._replace(method=method), tasks, seed)))


def zenke(runs: results.Runs, mnist: Task, seed: int) -> None:
    """Ten permutations with SI."""
    key = {"protocol": "Zenke 2017", "method": "SI", "tasks": 10, "seed": seed}
    runs.once(key, timed(partial(permuted_run, mnist, ZENKE, 10, seed)))


def permuted_run(mnist: Task, protocol: Permuted, tasks: int, seed: int) -> dict[str, Any]:
    """All tasks once; permutation 1 and so on, the images normalised."""
    torch.manual_seed(seed)
    model, learnt = MLP(protocol.hidden_size, protocol.hidden_layers), []
    kind: Any = torch.optim.Adam if protocol.optimizer == "Adam" else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=protocol.rate, fused=True)
    ewc = EWC(protocol.importance, anchor="latest" if protocol.method == "SI" else "optima")
    for number in range(1, tasks + 1):
        part = Part(permuted(normalised(mnist), number), range(10), range(10))
        path = Path(model, damping=0.1) if protocol.method == "SI" else None
        order = batches(len(mnist.train), protocol.batch_size, [protocol.rate] * protocol.epochs, 100 * seed + number)
        learn(model, part, order, optimizer, ewc if number > 1 else None, path=path)
        learnt.append(test(model, part))
        if path:
            ewc.add(path.importance(), dict(model.named_parameters()))
        elif protocol.method == "EWC" and number < tasks:
            generator = torch.Generator().manual_seed(number)
            ewc.add(batched(model, part, generator, protocol.batch_size), dict(model.named_parameters()))
    exams = [Part(examination(normalised(mnist), number), range(10), range(10)) for number in range(1, tasks + 1)]
    return measured(model, exams) | {"learnt": learnt}


def normalised(task: Task) -> Task:
    """Images less their mean, over their standard deviation, as torchvision's examples have them."""

    def change(part: TensorDataset) -> TensorDataset:
        images, labels = part.tensors
        return TensorDataset((images - 0.1307) / 0.3081, labels)

    return Task(task.name, task.classes, change(task.train), change(task.test))


def measured(model: nn.Module, parts: list[Part]) -> dict[str, Any]:
    """The accuracies at the end, fractions, and their mean over the tasks."""
    per_task = [test(model, part) for part in parts]
    return {"mean": sum(per_task) / len(per_task), "per_task": per_task}


def timed(make: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The same with the seconds that it took, on the clock and of the processor."""

    def run() -> dict[str, Any]:
        began, processor = time.perf_counter(), time.process_time()
        made = make()
        return made | {
            "seconds": round(time.perf_counter() - began),
            "processor_seconds": round(time.process_time() - processor),
        }

    return run


SETS: dict[str, Callable[[results.Runs, Task, int], None]] = {
    "hsu": hsu,
    "hsu_baselines": partial(hsu, scenarios=["task", "domain"], methods=["Adam", "SGD"]),
    "hsu_task": partial(hsu, scenarios=["task"]),
    "hsu_domain": partial(hsu, scenarios=["domain"]),
    "hsu_changes": hsu_changes,
    "three_domain": partial(three, scenarios=["domain"]),
    "van_de_ven": van_de_ven,
    "three": three,
    "three_changes": three_changes,
    "domain": domain,
    "avalanche": avalanche,
    "zenke": zenke,
}


DEFAULT = ["hsu", "hsu_changes", "van_de_ven", "three", "three_changes", "domain", "avalanche"]  # not what takes hours


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="Published protocols; see the top of this file.")
    parser.add_argument("--only", nargs="+", choices=SETS, default=DEFAULT)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--again", action="store_true", help="run also what the file holds already")
    return parser.parse_args()


if __name__ == "__main__":
    main()
