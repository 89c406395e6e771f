"""Run notebooks from top to bottom in fresh kernels and store what they print: python notebooks/execute.py [FILE ...]

Without files, every notebook of this folder is run. What is stored depends on the notebook alone: no clock times, no
widget identifiers, no interpreter version, no progress bars. So running a notebook again changes only results that
changed. A notebook that fails is left as it was.
"""

import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

WIDGET = "application/vnd.jupyter.widget-view+json"


# By the end of a cell's id: why its code stays folded until a reader opens it.
FOLDED = {
    "band": re.compile(r"-band$"),  # it guards a measured number
    "drawing": re.compile(r"-figure|-slider$|^00-(grid|regions|landscape-a)$"),
    "plumbing": re.compile(r"-(imports|read|results|results-file|check-software|check-data|setup|load)$"),
}


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drop from `notebook`, in place, whatever differs from run to run or from machine to machine."""
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    })  # fmt: skip
    for cell in notebook.cells:
        tags = [tag for tag in cell.metadata.get("tags", []) if tag not in FOLDED]
        kept: dict[str, Any] = {}
        reasons = [reason for reason, name in FOLDED.items() if cell.cell_type == "code" and name.search(cell.id)]
        if reasons:
            kept["jupyter"], tags = {"source_hidden": True}, tags + reasons
        if tags:
            kept["tags"] = tags
        cell.metadata = nbformat.from_dict(kept)
        for output in cell.get("outputs", []):
            # A widget lives only while its kernel does; its static image and text stay.
            output.get("data", {}).pop(WIDGET, None)


def execute(path: Path) -> None:
    """Run the notebook at `path` in its own folder and store it, cleaned.

    Raises nbclient's CellExecutionError, and leaves the file alone, if a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    clean(notebook)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    nbformat.write(notebook, unfinished)
    unfinished.replace(path)


def main(arguments: list[str]) -> int:
    """Execute the named notebooks, or all of them; return the number that failed."""
    os.environ["TQDM_DISABLE"] = "1"
    failed = 0
    for path in [Path(name) for name in arguments] or sorted(Path(__file__).parent.glob("*.ipynb")):
        start = time.perf_counter()
        try:
            execute(path.resolve())
        except CellExecutionError as error:
            failed += 1
            print(f"{path}: failed, left as it was\n{error}", file=sys.stderr)
        else:
            print(f"{path}: {time.perf_counter() - start:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
