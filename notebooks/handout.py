"""Make the edition for a class: python notebooks/handout.py [FOLDER], by default handout/ beside notebooks/.

The notebooks without their solutions and without outputs; hints stay, folded. What is left runs from top to bottom as
before, for only text was taken out. The folder must lie beside `files/` and `experiments/`, which the cells read.
"""

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOLUTION = re.compile(r"\n*<details>\s*<summary>\s*Solution\s*</summary>.*?</details>\n*", re.DOTALL | re.IGNORECASE)


def stripped(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`notebook`, changed in place: no solution, no output, no count."""
    kept = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = SOLUTION.sub("\n", cell.source)
            if text != cell.source and not text.strip():
                continue
            cell.source = text.strip("\n") if text != cell.source else cell.source
        else:
            cell.outputs, cell.execution_count = [], None
        kept.append(cell)
    notebook.cells = kept
    return notebook


def main(arguments: list[str]) -> None:
    """Write each notebook anew; others that are in the folder stay."""
    folder = Path(arguments[0]) if arguments else ROOT / "handout"
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    paths += sorted((ROOT / "docs" / "assignments").glob("assignment_*.ipynb"))
    for path in paths:
        nbformat.write(stripped(nbformat.read(path, as_version=4)), folder / path.name)
    print(f"{len(paths)} notebooks in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
