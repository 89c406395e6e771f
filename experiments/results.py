"""Where the measurements are kept: files/results/, one JSON file a script."""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent.parent / "files" / "results"


def write(path: Path, command: str, compact: bool = False, **content: Any) -> None:
    """The command, date, torch and threads, then `content`; all of it or nothing: a complete file replaces the old."""
    header = {
        "command": command,
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    text = json.dumps(header | content, indent=None if compact else 1, separators=(",", ":") if compact else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")  # of its own, where two processes share the work
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def filled(page: str, name: str, text: str) -> str:
    """The page with the text between its two comments of that name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


class Runs:
    """A file of runs, each under the key that it was made with; a run that is there is not made again.

    So an interruption loses one run, and several processes may share the work. `content` stands before the runs.
    """

    def __init__(self, name: str, again: bool = False, **content: Any) -> None:
        self.path, self.again, self.content = FOLDER / f"{name}.json", again, content
        self.command = f"python experiments/{name}.py"

    def read(self) -> dict[str, Any]:
        """What the file holds."""
        held: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        return held

    def once(self, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The run with this key: from the file, or made now and written to it."""
        found: list[dict[str, Any]] = [run for run in self.read().get("runs", []) if run.items() >= key.items()]
        if found and not self.again:
            return found[0]
        run = key | make()
        print(*(value for value in run.values() if not isinstance(value, list)), flush=True)
        others = [other for other in self.read().get("runs", []) if not other.items() >= key.items()]
        self.write(runs=sorted([*others, run], key=lambda run: json.dumps(run)))
        return run

    def write(self, **new: Any) -> None:
        """Put something in its place."""
        held = {name: value for name, value in self.read().items() if name in ("runs", "seconds")} | new
        write(self.path, self.command, compact=True, **self.content, **held)


def asked(description: str, seeds: Sequence[int]) -> argparse.Namespace:
    """What the command line asks for: `seeds`, and whether to run also what the file holds."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds), metavar="SEED")
    parser.add_argument("--again", action="store_true", help="run also what the file holds already")
    return parser.parse_args()
