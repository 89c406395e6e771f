"""The book's page of results: every run in files/results, averaged over its seeds. Nothing is typed by hand."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

Run = dict[str, Any]


class Table(NamedTuple):
    """What a table shows of a file of runs: which runs, grouped by which keys, and which numbers, in percent."""

    title: str
    told: str
    file: str
    keys: dict[str, str]  # key of a run to heading
    numbers: dict[str, Callable[[Run], float | None]]  # heading to a number of a run
    wanted: Callable[[Run], bool] = lambda run: True
    scale: float = 100


def _last(run: Run, place: int, kind: str = "test") -> float | None:
    values = run[kind]
    return values[place] if place < len(values) else None


def _acts(content: dict[str, Any]) -> list[Run]:
    """The runs of `python -m contlearn`, one for each seed and act, with its last accuracies."""
    told = {
        "A": "after MNIST",
        "unprotected": "then Fashion-MNIST, unprotected",
        "L2": "the same with L2 of equal mean strength",
        "EWC": "the same with EWC",
        "Kronecker": "the same with EWC, Kronecker factors",
        "joint": "both at once, in as many steps",
    }
    return [
        {"act": told.get(act, act), "seed": run["seed"]} | {name: a[-1] for name, a in history["accuracy"].items()}
        for run in content["runs"]
        for act, history in run["histories"].items()
    ]


BOTH: dict[str, Callable[[Run], float | None]] = {
    "MNIST": lambda run: run["MNIST"],
    "Fashion-MNIST": lambda run: run["Fashion-MNIST"],
    "mean": lambda run: (run["MNIST"] + run["Fashion-MNIST"]) / 2,
}
RATE = {"method": "method", "epochs": "epochs", "learning_rate": "η", "importance": "λ"}
TABLES = [
    Table(
        "The three acts",
        "MNIST, then Fashion-MNIST. [03](notebooks/03_catastrophic_forgetting.ipynb) and "
        "[05](notebooks/05_elastic_weight_consolidation.ipynb) tell the story.",
        "three_acts",
        {"act": "act"},
        BOTH,
    ),
    Table(
        "Two tasks, every λ",
        "MNIST for five epochs, then Fashion-MNIST for three, the last of each slow; the proximal step every ten "
        "steps. [05](notebooks/05_elastic_weight_consolidation.ipynb) and [07](notebooks/07_beyond_the_diagonal.ipynb) "
        "draw it.",
        "two_tasks",
        RATE,
        BOTH,
        lambda run: run["measured_on"] == "test" and run["every"] in (10, None),
    ),
    Table(
        "The other way round",
        "Fashion-MNIST first, then MNIST: [07](notebooks/07_beyond_the_diagonal.ipynb).",
        "two_tasks",
        RATE,
        BOTH,
        lambda run: run["measured_on"] == "test, reversed",
    ),
    Table(
        "Ten and fifty tasks",
        "Permuted MNIST, mean over all tasks at the end: [06](notebooks/06_many_tasks.ipynb) and "
        "[07](notebooks/07_beyond_the_diagonal.ipynb).",
        "many_tasks",
        {"tasks": "tasks", "method": "method", "importance": "λ"},
        {"mean over the tasks": lambda run: run["mean"]},
    ),
    Table(
        "Split MNIST",
        "Five pairs of digits, one after the other; the scenario says what is asked at the end: "
        "[08](notebooks/08_where_ewc_fails.ipynb).",
        "split_mnist",
        {"scenario": "scenario", "method": "method", "images_per_class": "images kept a class", "importance": "λ"},
        {"all tasks": lambda run: run["test"]},
    ),
    Table(
        "Your own model",
        "A convolutional network with Adam: [09](notebooks/09_your_own_model.ipynb).",
        "own_model",
        {"norm": "norm", "method": "method", "learning_rate": "η", "importance": "λ"},
        BOTH,
    ),
    Table(
        "A language model",
        "Nats a letter on names of each language, so less is better: [10](notebooks/10_a_language_model.ipynb).",
        "language_model",
        {"tasks": "languages", "method": "method", "importance": "λ"},
        {name: lambda run, k=k: _last(run, k) for k, name in enumerate(("Italian", "Turkish", "Finnish", "Irish"))},
        scale=1,
    ),
    Table(
        "Common mistakes",
        "EWC with each mistake that [08](notebooks/08_where_ewc_fails.ipynb) names: MNIST, then a second task.",
        "gallery",
        {"variant": "variant", "importance": "λ"},
        {"first task": lambda run: _last(run, 0), "second task": lambda run: _last(run, 1)},
    ),
]
LONG = 12


def page(folder: Path) -> str:
    """The page, in Markdown, from the files of `folder`."""
    parts = [
        "# Tables of results\n",
        "Test accuracy in %, mean ± standard error over the seeds, unless a table says otherwise. Each table is made "
        "from the file below it, and each file by the script that it names.\n",
    ]
    for table in TABLES:
        content = json.loads((folder / f"{table.file}.json").read_text(encoding="utf-8"))
        runs = _acts(content) if table.file == "three_acts" else content["runs"]
        parts.append(f"## {table.title}\n\n{table.told}\n")
        rows = [*_rows(table, [run for run in runs if table.wanted(run)])]
        body = "\n".join(rows)
        if len(rows) > LONG + 2:
            body = f"<details><summary>Show all {len(rows) - 2} rows</summary>\n\n{body}\n\n</details>"
        link = f"[files/results/{table.file}.json](files/results/{table.file}.json)"
        parts.append(f"{body}\n\nFrom {link}, made by `{content['command']}` on {content['date'][:10]}.\n")
    return "\n".join(parts)


def _rows(table: Table, runs: Sequence[Run]) -> Iterable[str]:
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.get(key) for key in table.keys), []).append(run)
    keys = list(groups)
    if table.file != "three_acts":
        keys.sort(key=lambda key: [(value is not None, isinstance(value, str), value or 0) for value in key])
    shown = [place for place, name in enumerate(table.keys) if any(key[place] is not None for key in keys)]
    headings = list(table.keys.values())
    yield "| " + " | ".join([*(headings[place] for place in shown), *table.numbers, "seeds"]) + " |"
    numeric = [all(isinstance(key[place], int | float | None) for key in keys) for place in shown]
    yield "|" + "".join("--:|" if right else "---|" for right in [*numeric, *([True] * (len(table.numbers) + 1))])
    for key in keys:
        group = groups[key]
        cells = ["" if key[place] is None else _plain(key[place]) for place in shown]
        for number in table.numbers.values():
            values = [table.scale * value for run in group if (value := number(run)) is not None]
            cells.append(_mean(values, 1 if table.scale == 100 else 3))
        yield "| " + " | ".join([*cells, str(len({run["seed"] for run in group}))]) + " |"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _mean(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    error = f" ± {stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{error}"
