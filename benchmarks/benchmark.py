"""What the claims about speed rest on: everything measured side by side in one run.

    python benchmarks/benchmark.py            (or: make bench; about five minutes on two cores)
    python benchmarks/benchmark.py --pages    the README's sentences anew, from the file

Each comparison runs its competitors in turn, several times over, and takes medians, so that a busy moment of the
machine hits all alike. Ratios come first: they carry over to other machines, seconds do not. Writes
`files/results/benchmark.json`, `files/figures/benchmark.png`, and the README's sentences about speed.
"""

import argparse
import copy
import gzip
import json
import os
import statistics
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from contlearn import EWC, MLP, Task, diagonal_fisher, load_fashion_mnist, load_mnist, plots, train
from contlearn.data import SHIPPED, _torchvision_datasets

ROOT = Path(__file__).parent.parent
FILES = ROOT / "files"
sys.path.insert(0, str(ROOT / "experiments"))
from results import filled  # noqa: E402

REPETITIONS = 5
Images = Iterable[Any]


def interleaved(competitors: dict[str, Callable[[], object]], repetitions: int = REPETITIONS) -> dict[str, float]:
    """Median seconds of each competitor; they take turns, after one untimed turn of each."""
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    for repetition in range(repetitions + 1):
        for name, run in competitors.items():
            started = time.perf_counter()
            run()
            if repetition:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


# ---- Fisher information --------------------------------------------------------------------------------------------


def forward_and_backward(model: nn.Module, images: Images) -> None:
    """The floor: what one pass over the images costs before anything is squared."""
    for x, y in images:
        model.zero_grad()
        cross_entropy(model(x), y).backward()


def products_alone(model: nn.Module, images: Images, vectors: int) -> None:
    """What no diagonal can do without: matrices multiplied forwards, backwards for each vector, and in eq. (4.10)."""
    weights = [p.detach() for p in model.parameters() if p.ndim == 2]
    for x, _ in images:
        z = [x.flatten(1)]
        for w in weights:
            z.append(z[-1] @ w.T)
        for _ in range(vectors):
            g = z[-1]
            for w in reversed(weights[1:]):
                g = g @ w
        for a, b in pairwise(z):
            b.T @ a


def fisher_one_by_one(model: nn.Module, task: Task, count: int, exact: bool) -> None:
    """The classic loop: a forward pass for each image, a backward pass for its label or for every class."""
    parameters = list(model.parameters())
    fisher = [torch.zeros_like(p) for p in parameters]
    for x, y in zip(*(t[:count] for t in task.train.tensors), strict=True):
        log_p = model(x[None]).log_softmax(1)[0]
        for c in range(len(log_p)) if exact else [int(y)]:
            weight = float(log_p[c].detach().exp()) if exact else 1.0
            for f, g in zip(fisher, torch.autograd.grad(log_p[c], parameters, retain_graph=True), strict=True):
                f += weight * g**2 / count


def fisher_vmap(model: nn.Module, task: Task, count: int) -> None:
    """The empirical diagonal through `vmap(grad)`, 100 images at once."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, p, (x[None],)), y[None])

    fisher = {name: torch.zeros_like(p) for name, p in parameters.items()}
    images, labels = (t[:count].split(100) for t in task.train.tensors)
    for x, y in zip(images, labels, strict=True):
        for name, g in vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y).items():
            fisher[name] += g.square().sum(0) / count


def measure_fisher(model: nn.Module, mnist: Task) -> dict[str, float]:
    """Seconds for all 60,000 images; the slow ones are timed on fewer and scaled."""
    images, few, some = len(mnist.train), 512, 3000
    whole = list(mnist.train_loader(1000, shuffle=False))
    seconds = interleaved({
        "forward and backward": lambda: forward_and_backward(model, whole),
        "exact": lambda: diagonal_fisher(model, whole, "exact", progress=False),
        "empirical": lambda: diagonal_fisher(model, whole, "empirical", progress=False),
        "products alone, exact": lambda: products_alone(model, whole, 9),
        "products alone, empirical": lambda: products_alone(model, whole, 1),
    }) | interleaved({
        "vmap(grad), empirical": lambda: fisher_vmap(model, mnist, some),
        "one image at a time, empirical": lambda: fisher_one_by_one(model, mnist, few, exact=False),
        "one image at a time, exact": lambda: fisher_one_by_one(model, mnist, few, exact=True),
    }, 3)  # fmt: skip
    for name in seconds:
        if "vmap" in name:
            seconds[name] *= images / some
        if "one image" in name:
            seconds[name] *= images / few
    return seconds


# ---- training ------------------------------------------------------------------------------------------------------


def with_tasks(model: nn.Module, fisher: dict[str, Tensor], count: int) -> EWC:
    """EWC after `count` tasks: the same F, optima that lie close together."""
    ewc = EWC(importance=100 / count)
    for k in range(count):
        noise = torch.Generator().manual_seed(k)
        ewc.add(
            fisher, {n: p.detach() + 0.01 * torch.randn(p.shape, generator=noise) for n, p in model.named_parameters()}
        )
    return ewc


def measure_epochs(model: nn.Module, fisher: dict[str, Tensor], fashion: Task) -> dict[str, float]:
    """Seconds of an epoch at batch size 128: without EWC, with it after 1, 10 and 50 tasks, and of loading alone."""
    loader = fashion.train_loader(128, seed=0)

    def epoch(ewc: EWC | None, proximal: bool = False) -> Callable[[], object]:
        return lambda: train(
            copy.deepcopy(model), loader, epochs=1, lr=0.03, ewc=ewc, proximal=proximal, progress=False
        )  # fmt: skip

    competitors: dict[str, Callable[[], object]] = {"without EWC": epoch(None)}
    for tasks in (1, 10, 50):
        ewc = with_tasks(model, fisher, tasks)
        competitors[f"EWC, {tasks} tasks, gradient"] = epoch(ewc)
        competitors[f"EWC, {tasks} tasks, proximal"] = epoch(ewc, proximal=True)
    competitors["loading alone"] = lambda: sum(len(labels) for _, labels in loader)
    return interleaved(competitors)


def measure_classic(model: nn.Module, fisher: dict[str, Tensor], mnist: Task) -> dict[str, float]:
    """Seconds of one epoch: the classic recipe's, and ours at the batch size of the three acts."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for archive in (SHIPPED / "mnist").glob("*.gz"):
            (raw / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))
        datasets = _torchvision_datasets()
        from torchvision.transforms import ToTensor

        per_image = DataLoader(datasets.MNIST(folder, transform=ToTensor()), batch_size=32, shuffle=True)
        anchor = {name: p.detach().clone() for name, p in model.named_parameters()}

        def classic_epoch(penalised: bool) -> None:
            learner = copy.deepcopy(model)
            optimizer = torch.optim.SGD(learner.parameters(), lr=1e-3)
            for x, y in per_image:
                loss = cross_entropy(learner(x), y)
                if penalised:
                    for name, p in learner.named_parameters():
                        loss = loss + 50 * (fisher[name] * (p - anchor[name]) ** 2).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        loader = mnist.train_loader(64, seed=0)
        ewc = with_tasks(model, fisher, 1)
        return interleaved({
            "classic epoch": lambda: classic_epoch(False),
            "classic epoch with penalty": lambda: classic_epoch(True),
            "classic loading": lambda: sum(len(y) for _, y in per_image),
            "our epoch": lambda: train(copy.deepcopy(model), loader, epochs=1, lr=0.03, progress=False),
            "our epoch with EWC": lambda: train(
                copy.deepcopy(model), loader, epochs=1, lr=0.03, ewc=ewc, progress=False
            ),
            "our loading": lambda: sum(len(y) for _, y in loader),
        }, 2)  # fmt: skip


# ---- how cost grows ------------------------------------------------------------------------------------------------


def measure_growth(model: nn.Module, fisher: dict[str, Tensor], mnist: Task) -> dict[str, list[tuple[float, float]]]:
    """(images, seconds), (parameters, seconds) for the exact diagonal, and (tasks, seconds) for a step's penalty."""
    batch = list(mnist.train_loader(1000, shuffle=False))

    def exact(network: nn.Module, images: Images) -> Callable[[], object]:
        return lambda: diagonal_fisher(network, images, progress=False)

    by_images = interleaved({str(1000 * n): exact(model, batch[:n]) for n in (5, 15, 30, 45, 60)}, 3)
    networks = {sum(p.numel() for p in m.parameters()): m for m in (MLP(width) for width in (64, 128, 256, 512, 1024))}
    by_parameters = interleaved({str(count): exact(network, batch[:10]) for count, network in networks.items()}, 3)

    def steps(penalties: list[EWC]) -> Callable[[], object]:
        def run() -> None:
            for _ in range(20):
                model.zero_grad()
                sum((ewc.penalty(model) for ewc in penalties), start=torch.zeros(())).backward()

        return run

    counts = (1, 5, 10, 20, 50)
    one = with_tasks(model, fisher, 1)
    merged = interleaved({str(n): steps([with_tasks(model, fisher, n)]) for n in counts}, 3)
    separate = interleaved({str(n): steps([one] * n) for n in counts}, 3)
    found = {
        "images": by_images,
        "parameters": by_parameters,
        "tasks, merged": {n: t / 20 for n, t in merged.items()},
        "tasks, separate": {n: t / 20 for n, t in separate.items()},
    }
    return {name: [(float(n), t) for n, t in curve.items()] for name, curve in found.items()}


def draw_growth(growth: dict[str, list[tuple[float, float]]]) -> Figure:
    """Three panels: seconds against images, against parameters, and milliseconds against tasks."""
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.5, 3.1))
        images, parameters, tasks = figure.subplots(1, 3)
        for axes, name in ((images, "images"), (parameters, "parameters")):
            axes.plot(*zip(*growth[name], strict=True), marker="o", color=plots.GREEN)
            axes.set(xlabel=name, ylabel="seconds", ylim=(0, None), xlim=(0, None))
            axes.xaxis.set_major_formatter(
                lambda v, _: f"{v / 1e6:g} M" if v >= 1e6 else f"{v / 1e3:g} k" if v else "0"
            )
        images.set_title("exact Fisher diagonal")
        parameters.set_title("the same, 10,000 images")
        for name, colour in (("merged", plots.GREEN), ("separate", plots.GREY)):
            x, y = zip(*growth[f"tasks, {name}"], strict=True)
            tasks.plot(x, [1000 * t for t in y], marker="o", color=colour, label=name)
        tasks.set(xlabel="tasks", ylabel="milliseconds", ylim=(0, None), xlim=(0, 50), title="penalty and its gradient")
        plots.label_ends(tasks)
    return figure


# ---- telling -------------------------------------------------------------------------------------------------------


def sentences(results: dict[str, Any]) -> str:
    """What the README says about speed."""
    r = results["ratios"]
    exact, empirical = (r[f"{kind} Fisher / forward and backward"] for kind in ("exact", "empirical"))
    exact_floor, empirical_floor = (
        r[f"{kind} Fisher, the products of matrices alone / forward and backward"] for kind in ("exact", "empirical")
    )
    exact_loop, empirical_loop = (r[f"{kind}: one image at a time / closed form"] for kind in ("exact", "empirical"))
    one, fifty = (r[f"EWC, {tasks} tasks, gradient / epoch without EWC, batch 128"] for tasks in (1, 50))
    recipe = r["three acts: classic recipe, Fisher on 512 images / ours, on 60,000"]
    text = (
        f"The exact diagonal of *F* over 60,000 images takes {exact:.1f} plain forward and backward passes, of which "
        f"the products of matrices that it is made of take {exact_floor:.1f}; the empirical one {empirical:.1f}, and "
        f"{empirical_floor:.1f} of them. A loop over single images, timed on 512, takes {exact_loop:.0f} and "
        f"{empirical_loop:.0f} times as long. An epoch with EWC takes {one:.2f} of one without after 1 task, "
        f"{fifty:.2f} after 50. The usual recipe for the three acts (25 epochs an act, images converted one by one, a "
        f"loop for *F*) takes {recipe:.0f} times as long as ours."
    )
    return textwrap.fill(text, 140, break_long_words=False, break_on_hyphens=False)


def write_pages(results: dict[str, Any]) -> None:
    """Put it there."""
    page = ROOT / "README.md"
    page.write_text(filled(page.read_text("utf-8"), "speed", sentences(results)), encoding="utf-8")


def main() -> None:
    """Measure, print the ratios, and write the results, the figure, and the README's sentences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pages", action="store_true", help="write the README's sentences from the file, measure nothing"
    )
    file = FILES / "results" / "benchmark.json"
    if parser.parse_args().pages:
        write_pages(json.loads(file.read_text("utf-8")))
        return
    mnist, fashion = load_mnist(), load_fashion_mnist()
    torch.manual_seed(0)
    model = MLP()
    train(model, mnist.train_loader(seed=0), epochs=1, lr=0.1)
    fisher = diagonal_fisher(model, mnist.train_loader(1000))

    t = measure_fisher(model, mnist)
    floor, slow = t["forward and backward"], "one image at a time"
    ratios = {
        "exact Fisher / forward and backward": t["exact"] / floor,
        "empirical Fisher / forward and backward": t["empirical"] / floor,
        "exact Fisher, the products of matrices alone / forward and backward": t["products alone, exact"] / floor,
        "empirical Fisher, the products of matrices alone / forward and backward": t["products alone, empirical"]
        / floor,
        "exact: one image at a time / closed form": t[f"{slow}, exact"] / t["exact"],
        "empirical: one image at a time / closed form": t[f"{slow}, empirical"] / t["empirical"],
        "empirical: vmap(grad) / closed form": t["vmap(grad), empirical"] / t["empirical"],
    }
    e = measure_epochs(model, fisher, fashion)
    for name, seconds in e.items():
        if name != "without EWC":
            ratios[f"{name} / epoch without EWC, batch 128"] = seconds / e["without EWC"]
    c = measure_classic(model, fisher, mnist)
    ratios["our loading / our epoch, batch 64"] = c["our loading"] / c["our epoch"]
    ours = 10 * c["our epoch"] + t["exact"] + 5 * c["our epoch with EWC"]
    for count, scale in (("512", 512 / 60_000), ("60,000", 1.0)):
        classic = 50 * c["classic epoch"] + 25 * c["classic epoch with penalty"] + scale * t[f"{slow}, empirical"]
        ratios[f"three acts: classic recipe, Fisher on {count} images / ours, on 60,000"] = classic / ours

    growth = measure_growth(model, fisher, mnist)
    for name, ratio in ratios.items():
        print(f"{ratio:8.2f}×  {name}")
    results = {
        "command": "python benchmarks/benchmark.py",
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "ratios": ratios,
        "seconds": {"fisher": t, "epoch at batch 128": e, "epoch, classic and ours": c},
        "growth": growth,
    }
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_pages(results)
    grown = (
        f"{curve[-1][1] / curve[0][1]:.1f} times from {curve[0][0]:,.0f} to {curve[-1][0]:,.0f} {name}"
        for name, curve in growth.items()
    )
    alt = f"How the time grows, for the exact Fisher diagonal and for the penalty of a step: {'; '.join(grown)}."
    plots.save(draw_growth(growth), FILES / "figures" / "benchmark.png", alt)


if __name__ == "__main__":
    main()
