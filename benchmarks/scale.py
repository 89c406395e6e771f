"""What EWC costs as models grow and processes join: files/results/scale.json, files/figures/scale.png, docs/scale.md.

    python benchmarks/scale.py           1, 2 and 4 processes, 1 to 80 million parameters: about ten minutes, 10 GB;
                                         what the file holds already is kept
    python benchmarks/scale.py --draw    the figure and the page's tables anew, from the file

Multilayer perceptrons of four layers, 64 made-up images a step, shared by the processes, which talk by gloo on this one
machine. Times are seconds of processor of one process, one thread each, medians: they do not count waiting, so that a
busy machine, or four processes on two cores, disturb them little. The tables in docs/scale.md are made here, too.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from torch import multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from contlearn import EWC, MLP, plots
from contlearn.likelihoods import Estimator
from contlearn.ranks import local

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from results import filled

FILES = Path(__file__).parent.parent / "files"
PROCESSES, MILLIONS = (1, 2, 4), (1, 5, 20, 80)
KRONECKER = (1, 5)  # million parameters, also for the exact F: of more they would take minutes
IMAGES, REPETITIONS = 64, 3


def width(millions: int) -> int:
    """Of the MLP with so many parameters: 784 w + 2 w² + 10 w."""
    return round((-794 + math.sqrt(794**2 + 8e6 * millions)) / 4)


def seconds(run: Callable[[], object], repetitions: int = REPETITIONS) -> float:
    """The median, after one untimed turn."""
    found = []
    for turn in range(repetitions + 1):
        started = time.process_time()
        run()
        if turn:
            found.append(time.process_time() - started)
    return statistics.median(found)


class Traffic:
    """Counts the bytes that this process hands to `all_reduce`."""

    def __init__(self) -> None:
        self.bytes, self.real = 0, dist.all_reduce

    def __enter__(self) -> "Traffic":
        def counted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.bytes += tensor.numel() * tensor.element_size()
            return self.real(tensor, *args, **kwargs)

        dist.all_reduce = counted
        return self

    def __exit__(self, *_: object) -> None:
        dist.all_reduce = self.real


def bytes_held(ewc: EWC) -> int:
    """Bytes of S and μ that this process holds."""
    tensors = [*ewc.precision.values(), *ewc.center.values()]
    return sum(local(t).numel() * t.element_size() for t in tensors)


def one(millions: int, processes: int, rank: int) -> dict[str, Any]:
    """All that is measured for one size, on this rank."""
    torch.manual_seed(0)
    model = MLP(width(millions))
    generator = torch.Generator().manual_seed(rank)
    x = torch.rand(IMAGES // processes, 28, 28, generator=generator)
    y = torch.randint(10, (len(x),), generator=generator)
    replica = DistributedDataParallel(model, gradient_as_bucket_view=True) if processes > 1 else model
    ewc = EWC(importance=100)

    def step(ewc: EWC | None, optimizer: torch.optim.Optimizer, net: nn.Module) -> None:
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        if ewc is not None:
            ewc.add_gradient(net)
        optimizer.step()

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    found["step"] = seconds(lambda: step(None, optimizer, replica))
    estimators: tuple[Estimator, ...] = ("sample", "exact")
    for estimator in estimators if millions <= max(KRONECKER) else estimators[:1]:
        with Traffic() as traffic:
            found[f"F, {estimator}"] = seconds(
                partial(EWC(1).consolidate, model, [(x, y)], estimator, progress=False), 1
            )
        found["bytes reduced for F"] = traffic.bytes // 2  # two turns
    ewc.consolidate(model, [(x, y)], "sample", progress=False)
    found["bytes of S and μ"] = bytes_held(ewc)
    with Traffic() as traffic:
        found["add_gradient"] = seconds(lambda: ewc.add_gradient(model))
        found["proximal_step"] = seconds(lambda: ewc.proximal_step(model, 1e-6))
        found["bytes reduced for a step"] = traffic.bytes
    same = [float(p.detach().double().sum()) for p in model.parameters()]
    if processes > 1:
        every: list[Any] = [None] * processes
        dist.all_gather_object(every, same)
        found["replicas equal"] = all(other == same for other in every)
    if processes == 1 and millions in KRONECKER:
        factors = EWC(importance=1, structure="kronecker")
        found["Kronecker: F, sample"] = seconds(
            lambda: EWC(1, structure="kronecker").consolidate(model, [(x, y)], "sample", progress=False), 1
        )
        factors.consolidate(model, [(x, y)], "sample", progress=False)
        state = [t for f in factors.quadratic.factors.values() for t in (f.a, f.g)]  # type: ignore[union-attr]
        found["Kronecker: bytes of A and G"] = sum(t.numel() * t.element_size() for t in state)
        started = time.process_time()
        factors.proximal_step(model, 1e-6)
        found["Kronecker: eigenbases"] = time.process_time() - started
        found["Kronecker: proximal_step"] = seconds(lambda: factors.proximal_step(model, 1e-6), 3)
    if processes > 1:
        del replica, optimizer
        model.zero_grad()
        mesh = init_device_mesh("cpu", (processes,))
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        step(ewc, torch.optim.SGD(model.parameters(), lr=1e-6), model)
        found["shards: bytes of S and μ"] = bytes_held(ewc)
        found["shards: add_gradient"] = seconds(lambda: ewc.add_gradient(model))
        found["shards: proximal_step"] = seconds(lambda: ewc.proximal_step(model, 1e-6))
    return found


def on_rank(rank: int, processes: int, millions: tuple[int, ...], folder: str) -> None:
    """One process; rank 0 writes."""
    torch.set_num_threads(1)
    if processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=processes)
    for size in millions:
        found = {"millions": size, "processes": processes} | one(size, processes, rank)
        if rank == 0:
            print(json.dumps(found), flush=True)
            (Path(folder) / f"{size}.json").write_text(json.dumps(found), encoding="utf-8")
    if processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def line(points: list[dict[str, Any]], of: str) -> float:
    """Seconds a million parameters: the line through the origin that is nearest in logarithms."""
    return math.exp(statistics.mean(math.log(p[of] / (p["parameters"] / 1e6)) for p in points))


def transformer(wide: int = 2048, blocks: int = 20) -> dict[str, float]:
    """What the formulas give for a transformer's blocks of four linear layers each; nothing here is measured.

    A layer of O outputs and I inputs: S and μ hold a number each for a weight, A is I × I, G is O × O; their eigenbases
    are as large, and eigenvalues and θ* as large as the weight. A step in closed form multiplies O × I by these bases
    four times: 4 (O² I + O I²) operations. Forwards and backwards a token takes six a weight.
    """
    shapes = [(3 * wide, wide), (wide, wide), (4 * wide, wide), (wide, 4 * wide)] * blocks
    weights = sum(o * i for o, i in shapes)
    factors = sum(o * o + i * i for o, i in shapes)
    return {
        "parameters": weights,
        "diagonal: bytes of S and μ": 8 * weights,
        "diagonal: operations of a step": 3 * weights,
        "Kronecker: bytes": 4 * (2 * factors + 2 * weights),
        "Kronecker: operations of a proximal step": 4 * sum(o * o * i + o * i * i for o, i in shapes),
        "operations of a token, forwards and backwards": 6 * weights,
        "bytes of F, reduced once a task: diagonal": 4 * weights,
        "bytes of F, reduced once a task: Kronecker": 4 * factors,
    }


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The tables of docs/scale.md, by name."""
    slopes, large = results["seconds a million parameters"], transformer()
    head = "| million parameters | processes | a step | F, one draw | `add_gradient` | `proximal_step` | in shards |"
    rows = [head, "|" + "---|" * 7]
    for p in results["points"]:
        of = ("step", "F, sample", "add_gradient", "proximal_step", "shards: add_gradient")
        cells = [f"{1000 * p[name]:,.{0 if p[name] > 0.1 else 1}f}" if name in p else "" for name in of]
        rows.append(f"| {p['parameters'] / 1e6:.1f} | {p['processes']} | {' | '.join(cells)} |")
    line = [
        "| milliseconds a million parameters | measured, 1 to 80 million | the line at 1 billion, not measured |",
        "|---|---|---|",
        *(f"| {name} | {1000 * value:.2g} | {1000 * value:,.2g} s |" for name, value in slopes.items()),
    ]
    memory = ["| million parameters | S and μ, whole | in 2 shards | in 4 shards |", "|---|---|---|---|"]
    for millions in sorted({p["millions"] for p in results["points"]}):
        own = {p["processes"]: p for p in results["points"] if p["millions"] == millions}
        whole = own[1]["bytes of S and μ"] / 1e6
        cells = [f"{own[n]['shards: bytes of S and μ'] / 1e6:,.1f} MB" if n in own else "" for n in PROCESSES[1:]]
        memory.append(f"| {own[1]['parameters'] / 1e6:.1f} | {whole:,.1f} MB | {' | '.join(cells)} |")
    computed = ["| a transformer's 20 blocks of width 2,048 | numbers |", "|---|---|"]
    computed += [f"| {name} | {value:.3g} |" for name, value in large.items()]
    small = [p for p in results["points"] if "Kronecker: eigenbases" in p]
    kinds = ("F, sample", "Kronecker: F, sample", "Kronecker: eigenbases", "Kronecker: proximal_step", "proximal_step")
    kronecker = [f"| million parameters | {' | '.join(kinds)} |", "|" + "---|" * (1 + len(kinds))]
    kronecker += [f"| {p['parameters'] / 1e6:.1f} | {' | '.join(f'{p[k]:.2g} s' for k in kinds)} |" for p in small]
    found = {"time": rows, "line": line, "memory": memory, "computed": computed, "kronecker": kronecker}
    return {name: "\n".join(lines) for name, lines in found.items()}


def fill(page: str, made: dict[str, str]) -> str:
    """The page with each table in its place, between two comments of its name."""
    for name, table in made.items():
        page = filled(page, name, table)
    return page


def draw(results: dict[str, Any]) -> Figure:
    """Seconds, and bytes, against parameters."""
    points = results["points"]
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(9.5, 3.6))
        times, memory = figure.subplots(1, 2)
        alone = [p for p in points if p["processes"] == 1]
        ends = (0.8e6, 1.2e9)
        for of, colour, marker, words in (
            ("step", plots.BLACK, "X", "a step without EWC"),
            ("F, sample", plots.PURPLE, "*", "F, one draw"),
            ("add_gradient", plots.GREEN, "o", "add_gradient"),
        ):
            times.plot([p["parameters"] for p in alone], [p[of] for p in alone], marker, color=colour, label=words)
            slope = results["seconds a million parameters"][of]
            times.plot(ends, [slope * e / 1e6 for e in ends], "-", color=colour, lw=0.8)
        times.set(title="seconds of one process, 64 images", ylabel="seconds")
        times.legend(frameon=False, fontsize=9)
        for processes, marker in zip(PROCESSES, "osD", strict=True):
            own = [p for p in points if p["processes"] == processes]
            of = "bytes of S and μ" if processes == 1 else "shards: bytes of S and μ"
            words = "whole" if processes == 1 else f"in shards of {processes}"
            memory.plot([p["parameters"] for p in own], [p[of] for p in own], marker, color=plots.GREEN, label=words)
            memory.plot(ends, [8 * e / processes for e in ends], "-", color=plots.GREEN, lw=0.8)
        memory.set(title="S and μ on one process", ylabel="bytes")
        memory.legend(frameon=False, fontsize=9)
        for axes in (times, memory):
            axes.set(xscale="log", yscale="log", xlabel="parameters", xlim=ends)
            axes.axvspan(max(p["parameters"] for p in points) * 1.15, ends[1], color=plots.GREY, alpha=0.12, lw=0)
        memory.text(0.97, 0.05, "grey: not measured", transform=memory.transAxes, ha="right", color=plots.GREY)
    return figure


def main() -> None:
    """Measure what is asked for, and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draw", action="store_true", help="draw the figure from the file")
    path = FILES / "results" / "scale.json"
    if not parser.parse_args().draw:
        points = json.loads(path.read_text(encoding="utf-8"))["points"] if path.exists() else []
        held = {(p["processes"], p["millions"]) for p in points}
        for processes in PROCESSES:
            missing = tuple(m for m in MILLIONS if (processes, m) not in held)
            with tempfile.TemporaryDirectory() as folder:
                if missing:
                    multiprocessing.spawn(on_rank, (processes, missing, folder), processes)  # type: ignore
                points += [json.loads((Path(folder) / f"{m}.json").read_text("utf-8")) for m in missing]
        alone = [p for p in points if p["processes"] == 1]
        points.sort(key=lambda p: (p["processes"], p["millions"]))
        results = {
            "command": "python benchmarks/scale.py",
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "cores": os.cpu_count(),
            "images a step": IMAGES,
            "seconds a million parameters": {
                of: line(alone, of) for of in ("step", "F, sample", "add_gradient", "proximal_step")
            },
            "points": points,
        }
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    results = json.loads(path.read_text(encoding="utf-8"))
    slopes = results["seconds a million parameters"]
    alt = (
        "Time and memory grow in proportion to the parameters, from 1 to 80 million: add_gradient takes "
        f"{100 * slopes['add_gradient'] / slopes['step']:.0f} % of a step's time, S and μ take 8 bytes a parameter "
        "divided by the number of shards."
    )
    plots.save(draw(results), FILES / "figures" / "scale.png", alt)
    page = FILES.parent / "docs" / "scale.md"
    page.write_text(fill(page.read_text(encoding="utf-8"), tables(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
