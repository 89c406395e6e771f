"""The pictures behind the sliders of the book, drawn by the notebooks' own cells: python site/frames.py [CELL ...]

The cells of a notebook are run up to its slider, in one process; the slider's function draws one picture for each
value. They are kept in site/frames, with the text that describes each, and the code that made them as a digest, so that
a test can tell when a notebook has changed. Nothing of this runs while the book is built.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
os.environ["TQDM_DISABLE"] = "1"

import equations as eq
from matplotlib.figure import Figure
from PIL import Image

from contlearn import plots

FOLDER = Path(__file__).parent / "frames"
SLIDERS = {
    "00-lambda-slider": "00_start_here",
    "05-try-slider": "05_elastic_weight_consolidation",
    "06-three-picture": "06_many_tasks",
}


def code_of(notebook: dict[str, Any], cell: str) -> list[str]:
    """The code cells of a notebook up to the one with the slider."""
    sources = []
    for each in notebook["cells"]:
        if each["cell_type"] == "code":
            sources.append("".join(each["source"]))
            if each["id"] == cell:
                return sources
    raise ValueError(f"the notebook has no cell {cell!r}")


def digest(sources: Sequence[str]) -> str:
    """What tells whether the code has changed."""
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()


def record(cell: str) -> dict[str, Any]:
    """Run the notebook up to the slider, and keep a picture for each of its values."""
    sources = code_of(eq.notebooks()[SLIDERS[cell]], cell)
    recorded: dict[str, Any] = {}

    def keep(
        draw: Callable[[float], Figure], values: Sequence[float], label: str, alt: str, start: int = 0, number: str = ""
    ) -> None:
        shown = []
        for value in values:
            figure = draw(value)
            file = FOLDER / f"{cell}-{value:g}.png"
            figure.savefig(file)
            with Image.open(file) as picture:
                picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(file, optimize=True)
            shown.append({"value": f"{value:g}", "file": file.name, "alt": f"{alt} Shown: {label} = {value:g}."})
        recorded.update(label=label, start=start, number=number, frames=shown, code=digest(sources))

    real, plots.slider = plots.slider, keep
    try:
        with chdir(eq.ROOT / "notebooks"):
            names: dict[str, Any] = {"__name__": "__main__"}
            for source in sources:
                exec(compile(source, f"<{cell}>", "exec"), names)
    finally:
        plots.slider = real
    return recorded


def main(arguments: list[str]) -> None:
    """Record the sliders that are named, or all of them."""
    FOLDER.mkdir(exist_ok=True)
    index = FOLDER / "frames.json"
    held = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    for cell in arguments or SLIDERS:
        held[cell] = record(cell)
        text = json.dumps(held, indent=1, ensure_ascii=False, sort_keys=True)
        index.write_text(text + "\n", encoding="utf-8", newline="\n")
        print(cell, len(held[cell]["frames"]), "frames")


if __name__ == "__main__":
    main(sys.argv[1:])
