"""Grade notebooks of students: python -m contlearn.grade FOLDER

Each notebook (*.ipynb) below FOLDER is run in a fresh process with limits of time and memory. Points come from checks
that run in the grader, on inputs drawn for this run: what a notebook prints, stores or does to the checks counts for
nothing. A notebook that crashes, hangs or misbehaves costs its own row. Written are grades.csv and grades.txt.
"""

import argparse
import contextlib
import csv
import io
import re
import secrets
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from contlearn import data, exercises
from contlearn.exercises.judging import unseen
from contlearn.grading.submission import Submission, collect, needed
from contlearn.grading.supervise import PACKAGE, Gone, Kernel

DRAWS = 3  # inputs for each answer that is a function: a mistake may be right on one by chance
LONG = ("5_6", "7_6", "9_6")  # judged by the accuracy of a trained network: one draw
MOST_WORDS = 300
_DETAIL = re.compile(r"expected |the largest difference is|your code stopped with |.* is not it\.$|.* is none of the")


@dataclass
class Row:
    """What became of one notebook.

    Attributes:
        points: for each exercise, such as "4_1", the points that it got; nothing where it was not judged.
        said: for each exercise the words of its check.
        problem: what went wrong with the notebook as a whole, or nothing.
    """

    submission: Submission
    of: dict[str, int] = field(default_factory=dict)
    points: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    def misconceptions(self) -> dict[str, str]:
        """The mistakes that the checks know, by exercise; other wrong answers have no name."""
        wrong = {name: said.removeprefix("Not yet: ") for name, said in self.said.items() if said.startswith("Not yet")}
        return {name: said for name, said in wrong.items() if not _DETAIL.match(said)}


def checks_of(notebook: str) -> dict[str, Callable[[Any], None]]:
    """The checks of a notebook by the number of their exercise, such as "4_1"; empty if there is no such notebook."""
    names = [name for name in dir(exercises) if name.startswith(f"check_{notebook}_")]
    names.sort(key=lambda name: int(name.rpartition("_")[2]))
    return {name.removeprefix("check_"): getattr(exercises, name) for name in names}


def judged(check: Callable[[Any], None], answer: Any, materials: Iterable[int]) -> str:
    """The verdict of a check: "Right…" only if the answer is right on all materials, else the commonest other."""
    said: list[str] = []
    for material in materials:
        heard = io.StringIO()
        with unseen(material), contextlib.redirect_stdout(heard):
            try:
                check(answer)
            except Exception as error:  # no answer may end the run
                print(f"Not yet: expected another kind of answer ({type(error).__name__} in the check).")
        said.append(_line(heard.getvalue()))
    wrong = [words for words in said if not words.startswith("Right: ")]
    return Counter(wrong).most_common(1)[0][0] if wrong else said[0]


def grade(
    submission: Submission,
    *,
    seconds: float = 300,
    memory: float = 4,
    exercises_only: bool = False,
    without_training: bool = False,
    seed: int | None = None,
) -> Row:
    """Run one notebook and judge its answers.

    Args:
        seconds: how long its cells may take, and how long each answer.
        memory: in GiB.
        exercises_only: run no more of it than its exercises need.
        without_training: leave out the exercises that train a network on all images.
        seed: draws the material; by default nobody knows it.
    """
    row = Row(submission, problem=submission.problem)
    checks = checks_of(submission.notebook) if submission.notebook else {}
    if without_training:
        checks = {name: check for name, check in checks.items() if name not in LONG}
    row.of = {name: getattr(check, "points", 1) for name, check in checks.items()}
    row.points = dict.fromkeys(checks, 0)
    if not checks and not row.problem:
        row.problem = f"there is no notebook {submission.notebook}"
    if row.problem:
        return row
    draw = (secrets.randbelow(2**40) if seed is None else 2**20 * (seed + 1)) + 1000
    cells = needed(submission.cells) if exercises_only else submission.cells
    with Kernel(int(memory * 2**30), seconds, {} if exercises_only else _beside()) as kernel:
        try:
            errors = kernel.run(cells)
            if errors:
                number, problem = errors[0]
                more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
                row.problem = _line(f"cell {number} stopped with {problem}{more}")
            for name, check in checks.items():
                if name not in kernel.answers:
                    row.said[name] = "no answer was given to its check"
                    continue
                value = kernel.answer(name)
                draws = DRAWS if callable(value) and name not in LONG else 1
                row.said[name] = judged(check, value, range(draw, draw + 1000 * draws, 1000))
                if row.said[name].startswith("Right: "):
                    row.points[name] = row.of[name]
        except Gone as gone:
            row.problem = str(gone)
    return row


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write grades.csv, a line a notebook, and grades.txt, the same to be read."""
    folder.mkdir(parents=True, exist_ok=True)
    places = sorted({int(name.rpartition("_")[2]) for row in rows for name in row.of})
    with io.StringIO(newline="") as text:
        table = csv.writer(text)
        heads = [f"exercise {k}" for k in places]
        table.writerow(["file", "notebook", "points", "of", *heads, "misconceptions", "problem"])
        for row in rows:
            by_place = {int(name.rpartition("_")[2]): points for name, points in row.points.items()}
            met = "; ".join(f"{name.replace('_', '.')}: {said}" for name, said in row.misconceptions().items())
            table.writerow(
                map(
                    _cell,
                    [
                        row.submission.path.as_posix(),
                        row.submission.notebook,
                        sum(row.points.values()),
                        sum(row.of.values()),
                        *(by_place.get(k, "") for k in places),
                        met,
                        row.problem,
                    ],
                )
            )
        _replace(folder / "grades.csv", text.getvalue())
    _replace(folder / "grades.txt", as_text(rows))


def as_text(rows: Sequence[Row]) -> str:
    """The table for people: a line a notebook, what is to be said of it below, the misconceptions of all at the end."""
    width = max([len(row.submission.path.as_posix()) for row in rows] + [4])
    lines = [f"{'file':<{width}}  points  by exercise"]
    for row in rows:
        marks = " ".join(f"{name.replace('_', '.')}:{points}" for name, points in row.points.items()) or "–"
        total = f"{sum(row.points.values())}/{sum(row.of.values())}"
        lines.append(f"{_line(row.submission.path.as_posix()):<{width}}  {total:>6}  {marks}")
        notes = [row.problem] if row.problem else []
        notes += [
            f"{name.replace('_', '.')} {said.removeprefix('Not yet: ')}"
            for name, said in row.said.items()
            if not said.startswith("Right: ")
        ]
        for note in notes:
            lines += textwrap.wrap(_line(note), 110, initial_indent="    - ", subsequent_indent="      ")
    met = Counter((name, said) for row in rows for name, said in row.misconceptions().items())
    if met:
        lines += ["", "Misconceptions, by how many met them"]
        for (name, said), count in met.most_common():
            told = f"{count} × {name.replace('_', '.')} {said}"
            lines += textwrap.wrap(told, 110, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(lines) + "\n"


def _beside() -> dict[str, Path]:
    """What cells read from `../files/…` and `../experiments/…`, by the name of its folder: as `hosted` lays it out."""
    places = PACKAGE if (PACKAGE / "files").is_dir() else PACKAGE.parent  # the published package, or the repository
    found = {name: places / name for name in ("files", "experiments")}
    if not data.SHIPPED.is_dir():
        cache = platformdirs.user_cache_path("contlearn")
        found |= {f"files/data/{name}": cache / name for name in ("mnist", "fashion-mnist")}
    return {name: place for name, place in found.items() if place.is_dir()}


def _line(words: str) -> str:
    """Words on one line, without control characters, of bounded length."""
    plain = "".join(c if c.isprintable() else " " for c in words[: 4 * MOST_WORDS])
    plain = " ".join(plain.split())
    return plain if len(plain) <= MOST_WORDS else plain[: MOST_WORDS - 1] + "…"


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    text = _line(value) if isinstance(value, str) and len(value) < 4 * MOST_WORDS else value
    return f"'{text}" if isinstance(text, str) and text[:1] in ("=", "+", "-", "@") else text


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    unfinished.write_text(text, encoding="utf-8", newline="")
    unfinished.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Grade a folder; return 0 if every notebook has its row, whatever stands in it."""
    parser = argparse.ArgumentParser(
        prog="python -m contlearn.grade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the notebooks are; folders in it are searched too")
    parser.add_argument("--output", type=Path, default=Path("."), help="where the two tables go (default: here)")
    parser.add_argument("--seconds", type=float, default=300, help="for a notebook's cells, and for an answer (300)")
    parser.add_argument("--memory", type=float, default=4, help="GiB for a notebook and what it starts (4)")
    parser.add_argument("--exercises-only", action="store_true", help="run the exercises and what they need: seconds")
    parser.add_argument("--without-training", action="store_true", help="leave out exercises 5.6, 7.6 and 9.6")
    parser.add_argument("--seed", type=int, help="draw the same inputs again (default: inputs that nobody knows)")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder: give the one that holds the students' notebooks")
    if options.seconds <= 0 or options.memory <= 0:
        parser.error("--seconds and --memory must be positive")
    if options.seed is not None and not 0 <= options.seed < 2**30:
        parser.error(f"--seed {options.seed}: expected a number from 0 to {2**30 - 1}")
    try:
        submissions = collect(options.folder)
    except FileNotFoundError as error:
        parser.error(str(error))
    dir(exercises)  # the checks are in memory before a student's line runs
    rows: list[Row] = []
    for submission in submissions:
        start = time.perf_counter()
        row = grade(
            submission,
            seconds=options.seconds,
            memory=options.memory,
            exercises_only=options.exercises_only,
            without_training=options.without_training,
            seed=options.seed,
        )
        rows.append(row)
        total = f"{sum(row.points.values())}/{sum(row.of.values())}"
        print(f"{submission.path}: {total} in {time.perf_counter() - start:.0f} s {row.problem}".rstrip(), flush=True)
        write(rows, options.output)
    print(f"\n{as_text(rows)}")
    print(f"written: {options.output / 'grades.csv'} and {options.output / 'grades.txt'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
