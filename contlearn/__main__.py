"""The three acts in one command: `python -m contlearn`."""

import argparse
import contextlib
import copy
import io
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contlearn import plots, ranks
from contlearn.data import Task, joint, load_fashion_mnist, load_mnist
from contlearn.ewc import EWC
from contlearn.fisher import diagonal_fisher, uniform
from contlearn.likelihoods import Estimator
from contlearn.models import MLP, load_checkpoint, save_checkpoint
from contlearn.training import History, train

ROWS = {
    "A": "after MNIST",
    "unprotected": "then Fashion-MNIST, unprotected",
    "L2": "with L2 of equal mean strength",
    "EWC": "with EWC",
    "Kronecker": "with EWC, Kronecker factors",
    "joint": "both at once, in as many steps",
}
ACTS = {"A": "act 1", "unprotected": "act 2", "EWC": "act 3", "Kronecker": "act 3, Kronecker", "joint": "both at once"}

_EVERY = 10  # steps between two closed-form steps

DESCRIPTION = """\
Catastrophic forgetting and its cure, in three acts, on the complete MNIST and
Fashion-MNIST.

  1  train a multilayer perceptron on MNIST;
  2  go on training it on Fashion-MNIST: MNIST is forgotten;
  3  do that again with Elastic Weight Consolidation, which adds to the loss
        1/2 * importance * sum_i F_i (theta_i - theta*_i)^2
     so that the weights with a large Fisher information F_i stay near theta*,
     where act 1 left them: MNIST survives. Kronecker factors, which also hold
     how the weights of a layer act together, keep nearly all of it.

For comparison: L2, which replaces each F_i by their mean, and training on both
sets at once, in as many steps as acts 1 and 2 take together.
"""

EPILOG = """\
examples:
  python -m contlearn                        the defaults: a minute on two cores
  python -m contlearn --acts-only            the three acts alone
  python -m contlearn --importance 1000      hold MNIST harder
  python -m contlearn --seeds 0 1 2 3 4      five runs: mean and standard error
  python -m contlearn --penalty gradient --structure diagonal
                                             descend on the sum itself
  python -m contlearn --resume runs/2026-01-31_12-00-00
                                             go on after an interruption
  torchrun --nproc-per-node 4 -m contlearn   four processes share each batch
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the acts that the command line asks for; print the table, write the figure and `results.json`.

    Each act is kept when it is done: what ends the command later, were it SIGKILL, leaves a folder that `--resume`
    takes up, to end with the numbers of a run that nothing disturbed.

    Where `torchrun` has started several processes, each takes its share of every batch, so that steps and learning
    rates stay those of one process; the first alone prints and writes.

    Returns:
        The exit code: 0; 1 where a training diverged, or a folder cannot be read or written; 130 after a keyboard
        interrupt. Wrong arguments exit with 2.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if len(options.epochs) > 2:
        parser.error(f"--epochs takes one number or two, got {len(options.epochs)}")
    if options.penalty == "gradient" and options.structure == "kronecker":
        parser.error("--penalty gradient is stable with --structure diagonal only")
    if options.batch_size < int(os.environ.get("WORLD_SIZE", 1)):
        parser.error(
            f"--batch-size {options.batch_size} leaves nothing for some of {os.environ['WORLD_SIZE']} processes"
        )
    with ranks.launched(), contextlib.ExitStack() as stack:
        if ranks.number() > 0:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        return _run(parser, options)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    runs: list[dict[str, Any]] = []
    try:
        if options.resume is None:
            with ranks.all_or_none():
                made = _new_folder(options.output) if ranks.number() == 0 else Path()
            folder: Path = ranks.gathered(made)[0]
        else:
            if changed := [name for name, value in vars(options).items() if value != parser.get_default(name)][:-1]:
                parser.error(f"--resume takes the settings of that run: leave out --{changed[0].replace('_', '-')}")
            folder = options.resume
            runs = _read(folder, options)
        _write(folder, runs, options)
    except OSError as error:
        return _failed(_reason(error, options.output))
    except (ValueError, RuntimeError) as error:
        return _failed(str(error))
    device = ranks.own_device(options.device)
    tasks = load_mnist().to(device), load_fashion_mnist().to(device)
    code = 0
    try:
        for seed in options.seeds:
            run = next((run for run in runs if run["seed"] == seed), None)
            if run is None:
                runs.append(run := {"seed": seed, "histories": {}, "seconds": {}})
            _one_seed(*tasks, seed, options, run, folder, lambda: _write(folder, runs, options))
    except KeyboardInterrupt:
        done = sum(run["histories"].keys() >= set(_rows(options)) for run in runs)
        print(f"interrupted after {done} of {len(options.seeds)} seeds", file=sys.stderr)
        code = 130
    except FloatingPointError as error:
        code = _failed(f"{error}\nHere: a smaller --importance or --lr, or --penalty proximal, which is the default.")
    except OSError as error:
        return _failed(f"{_reason(error, folder)}\nwhat was kept before is intact; {_again(folder)}")
    if any(run["histories"] for run in runs) and ranks.number() == 0:
        try:
            path = _publish(folder, runs)
        except OSError as error:
            return _failed(f"{_reason(error, folder)}\n{_again(folder)}")
        print(f"\n{_table(runs)}\n")
        print(f"table, figure and every number: {path}")
    if code == 130:
        print(_again(folder), file=sys.stderr)
    return code


def _failed(message: str) -> int:
    if ranks.number() == 0:
        print(f"python -m contlearn: {message}", file=sys.stderr)
    return 1


def _reason(error: OSError, path: Path) -> str:
    return f"{error.strerror or error}: {error.filename or path}"


def _again(folder: Path) -> str:
    return f"go on with what is missing: python -m contlearn --resume {folder}"


def _rows(options: argparse.Namespace) -> list[str]:
    left_out = {"L2", "joint"} if options.acts_only else set()
    if options.structure == "kronecker":
        left_out |= {"L2", "EWC"}
    elif options.structure == "diagonal" or options.penalty == "gradient" or options.acts_only:
        left_out.add("Kronecker")
    return [row for row in ROWS if row not in left_out]


def _one_seed(
    mnist: Task,
    fashion: Task,
    seed: int,
    options: argparse.Namespace,
    run: dict[str, Any],
    folder: Path,
    keep: Callable[[], None],
) -> None:
    """All acts with one seed that `run` lacks, each put into it: the history of its training, and the seconds it took.

    An act depends on settings, seed and the weights after act 1 alone, so it does not matter what ran before it.
    """
    tests = {task.name: task.test_loader() for task in (mnist, fashion)}
    epochs_a, epochs_b = options.epochs[0], options.epochs[-1]

    def act(row: str, model: nn.Module, task: Task, epochs: int, ewc: EWC | None = None) -> nn.Module:
        started = time.perf_counter()
        # After act 1 the last of several epochs runs at a tenth of the learning rate: at a constant rate the accuracies
        # jump by points from epoch to epoch, and where they end is luck.
        slow = 1.0 if row == "A" or epochs == 1 else 0.1
        history = train(
            DistributedDataParallel(model) if ranks.several() else model,
            shared(task.train_loader(options.batch_size, seed=seed), even=True),
            epochs=epochs,
            lr=[options.lr] * (epochs - 1) + [slow * options.lr],
            ewc=ewc,
            proximal=_EVERY if ewc is not None and options.penalty == "proximal" else False,
            evaluate=tests,
            progress=ACTS.get(row, row) if ranks.number() == 0 else False,
        )
        if history.interrupted:
            raise KeyboardInterrupt
        history.loss = [statistics.mean(each) for each in zip(*ranks.gathered(history.loss), strict=True)]
        if row == "A" and ranks.number() == 0:
            save_checkpoint(folder / f"after_MNIST_{seed}.pt", model=model)  # before it counts as done
        run["histories"][row], run["seconds"][row] = history, time.perf_counter() - started
        keep()
        a, b = (100 * history.accuracy[name][-1] for name in tests)
        print(f"{ROWS[row]:<31} MNIST {a:5.1f} %  Fashion-MNIST {b:5.1f} %{run['seconds'][row]:7.1f} s")
        return model

    def shared(loader: Any, even: bool = False) -> Any:
        return ranks.Share(loader, even) if ranks.several() else loader

    torch.manual_seed(seed)
    device = ranks.own_device(options.device)
    fresh = MLP().to(device)
    after_a = copy.deepcopy(fresh)
    missing = [row for row in _rows(options) if row not in run["histories"]]
    if missing and len(options.seeds) > 1:
        print(f"seed {seed}")
    if "A" in missing:
        act("A", after_a, mnist, epochs_a)
    elif missing:
        load_checkpoint(folder / f"after_MNIST_{seed}.pt", model=after_a)
    if "unprotected" in missing:
        act("unprotected", copy.deepcopy(after_a), fashion, epochs_b)

    theta_star = dict(after_a.named_parameters())
    generator = torch.Generator(device)
    draws = seed * ranks.size() + ranks.number()  # each rank draws labels of its own
    if {"EWC", "L2"} & set(missing):
        started = time.perf_counter()
        loader = shared(mnist.train_loader(1000, seed=seed))
        fisher = diagonal_fisher(after_a, loader, options.estimator, generator=generator.manual_seed(draws))
        run["seconds"]["Fisher"] = time.perf_counter() - started
        for row, importances in (("EWC", fisher), ("L2", uniform(fisher))):
            if row in missing:
                ewc = EWC(options.importance)
                ewc.add(importances, theta_star)
                act(row, copy.deepcopy(after_a), fashion, epochs_b, ewc)
    if "Kronecker" in missing:
        started = time.perf_counter()
        ewc = EWC(options.importance_kronecker, structure="kronecker")
        loader = shared(mnist.train_loader(1000, seed=seed))  # anew: its first order, whatever ran before
        ewc.consolidate(after_a, loader, options.estimator, generator=generator.manual_seed(draws))
        run["seconds"]["Kronecker factors"] = time.perf_counter() - started
        act("Kronecker", copy.deepcopy(after_a), fashion, epochs_b, ewc)
    if "joint" in missing:
        both = joint([mnist, fashion])  # an epoch of it has the steps of one of each
        act("joint", copy.deepcopy(fresh), both, math.ceil((epochs_a + epochs_b) / 2))


def _table(runs: list[dict[str, Any]]) -> str:
    """Accuracy in % of each row: the mean over the seeds and, from two seeds on, ± its standard error."""
    lines = [f"{'accuracy in %':<31} {'MNIST':>13} {'Fashion-MNIST':>14} {'mean of both':>13}"]
    for row, title in ROWS.items():
        ends = [
            [values[-1] for values in run["histories"][row].accuracy.values()]
            for run in runs
            if row in run["histories"]
        ]
        if ends:
            a, b, both = (
                [100 * value for value in column] for column in zip(*((*e, sum(e) / 2) for e in ends), strict=True)
            )
            lines.append(f"{title:<31} {_mean(a):>13} {_mean(b):>14} {_mean(both):>13}")
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) / math.sqrt(len(values)):.1f}"


def _new_folder(output: Path) -> Path:
    """A folder of this run's own below `output`, named after the time; with a number where two start together."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        folder = Path(output) / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not Path(output).is_dir():
                raise
    raise AssertionError


def _read(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What a run has kept; `options` becomes its settings."""
    try:
        kept = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        known = {name: kept["settings"][name] for name in vars(options) if name not in ("output", "resume")}
        runs = [
            run | {"histories": {row: History(**history) for row, history in run["histories"].items()}}
            for run in kept["runs"]
        ]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / 'results.json'} is damaged, or of another version: {error!r}") from error
    vars(options).update(known)
    return runs


def _write(folder: Path, runs: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """`results.json` in `folder`: all that is done, or, should this be interrupted, all that was done before."""
    if ranks.number() > 0:
        return
    results = {
        "command": "python -m contlearn",
        "date": folder.name,
        "torch": torch.__version__,
        "processes": ranks.size(),
        "settings": {name: value for name, value in vars(options).items() if name not in ("output", "resume")},
        "runs": [
            run | {"histories": {row: json.loads(history.to_json()) for row, history in run["histories"].items()}}
            for run in runs
            if run["histories"]
        ],
    }
    unfinished = folder / f".results.{os.getpid()}"
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(json.dumps(results, indent=1))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(folder / "results.json")
    finally:
        unfinished.unlink(missing_ok=True)


def _publish(folder: Path, runs: list[dict[str, Any]]) -> Path:
    """`table.txt` and, where all acts are there, `three_acts.png`."""
    (folder / "table.txt").write_text(_table(runs) + "\n", encoding="utf-8")
    whole = [run["histories"] for run in runs if {"A", "unprotected", "EWC"} <= run["histories"].keys()]
    if whole:
        a, unprotected, ewc = (_mean_history([run[row] for run in whole]) for row in ("A", "unprotected", "EWC"))
        kept = [100 * history.accuracy["MNIST"][-1] for history in (a, unprotected, ewc)]
        alt = f"Accuracy on MNIST: {kept[0]:.0f} % after act 1, {kept[1]:.0f} % after act 2, {kept[2]:.0f} % with EWC."
        plots.save(plots.three_acts(a, unprotected, ewc), folder / "three_acts.png", alt)
    return folder


def _mean_history(histories: list[History]) -> History:
    """The accuracies of several runs, averaged epoch by epoch."""
    names = histories[0].accuracy
    return History({
        name: [statistics.mean(epoch) for epoch in zip(*(h.accuracy[name] for h in histories), strict=True)]
        for name in names
    })  # fmt: skip


def _number(kind: Callable[[str], Any], valid: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not valid(value):
            raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
        return value

    return parse


def _device(text: str) -> str:
    try:
        torch.zeros(1, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return text


def _parser() -> argparse.ArgumentParser:
    count = _number(int, lambda n: n >= 1, "a whole number, at least 1")
    rate = _number(float, lambda x: math.isfinite(x) and x > 0, "a positive number, such as 0.1")
    parser = argparse.ArgumentParser(
        "python -m contlearn",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    strength = _number(float, lambda x: math.isfinite(x) and x >= 0, "a number, 0 or more, such as 100")
    add(
        "--structure",
        choices=("diagonal", "kronecker", "both"),
        default="both",
        help="what is kept of the Fisher information: its diagonal, two small matrices a layer, or first the one and "
        "then the other (default: %(default)s)",
    )
    add(
        "--importance",
        type=strength,
        default=300.0,
        metavar="LAMBDA",
        help="the strength of the penalty; 0 protects nothing, too much leaves no room to learn (default: %(default)g)",
    )
    add(
        "--importance-kronecker",
        type=strength,
        default=10.0,
        metavar="LAMBDA",
        help="the same for Kronecker factors, which hold more directions (default: %(default)g)",
    )
    add(
        "--estimator",
        choices=get_args(Estimator),
        default="exact",
        help="how F is computed: in expectation over the model's own prediction (exact), with one label drawn from it "
        "(sample), with the true label (empirical), or with the most likely one (predicted) (default: %(default)s)",
    )
    add(
        "--epochs",
        type=count,
        nargs="+",
        default=[5, 3],
        metavar="N",
        help="passes over MNIST, then over Fashion-MNIST; one number serves both (default: 5 3)",
    )
    add("--batch-size", type=count, default=64, help="images a step (default: %(default)s)")
    add(
        "--lr",
        type=rate,
        default=0.1,
        help="learning rate; after act 1 every last epoch runs at a tenth (default: %(default)g)",
    )
    add(
        "--penalty",
        choices=("proximal", "gradient"),
        default="proximal",
        help=f"proximal: a closed-form step after every {_EVERY} steps on the loss, stable for every importance; "
        "gradient: descend on loss plus penalty, stable while learning rate * importance * max F < 2; leaves out the "
        "Kronecker factors (default: %(default)s)",
    )
    seed = _number(int, lambda n: 0 <= n < 2**63, "a whole number, 0 or more")
    add("--seeds", type=seed, nargs="+", default=[0], metavar="SEED", help="one run each (default: 0)")
    add("--device", type=_device, default="cpu", help="such as cpu, cuda or mps (default: %(default)s)")
    add("--acts-only", action="store_true", help="leave out Kronecker factors, L2 and joint training")
    add("--output", type=Path, default=Path("runs"), help="where the folder with the results goes (default: runs)")
    add("--resume", type=Path, metavar="RUN", help="go on with the run in this folder, with its settings")
    return parser


if __name__ == "__main__":
    sys.exit(main())
