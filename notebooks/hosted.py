"""Make the edition for Colab and Kaggle: python notebooks/hosted.py [FOLDER], by default hosted/ beside notebooks/.

Each notebook gets a first cell that installs the published package and finds the data; with it, it needs no repository.
Given GITHUB_REPOSITORY, as in the workflow that publishes them, a README.md links each of them to Colab and Kaggle.
"""

import os
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parent.parent
FIRST = """# On Colab, on Kaggle or elsewhere, run this first: it installs contlearn and finds the data, once.
%pip install --quiet contlearn=={version}
from contlearn import hosted

hosted.prepare()"""


def with_first_cell(notebook: nbformat.NotebookNode, version: str, repository: str = "") -> nbformat.NotebookNode:
    """`notebook`, changed in place: the cell follows the title, no output is stored, links lead to the repository."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        elif repository:
            cell.source = cell.source.replace("](../", f"](https://github.com/{repository}/blob/main/")
    notebook.cells.insert(1, new_code_cell(FIRST.format(version=version), id="first-cell"))
    return notebook


def main(arguments: list[str]) -> None:
    """Write the edition."""
    folder = Path(arguments[0]) if arguments else ROOT / "hosted"
    folder.mkdir(parents=True, exist_ok=True)
    repository = os.environ.get("GITHUB_REPOSITORY", "")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    paths = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for path in paths:
        edition = with_first_cell(nbformat.read(path, as_version=4), version, repository)
        nbformat.write(edition, folder / path.name)
    if repository:
        lines = ["# contlearn on Colab and Kaggle", "", f"For contlearn {version}; the first cell installs it.", ""]
        for path in paths:
            file = f"{repository}/blob/hosted/{path.name}"
            colab = f"[Colab](https://colab.research.google.com/github/{file})"
            kaggle = f"[Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/{file})"
            lines.append(f"- {path.stem.replace('_', ' ')}: {colab}, {kaggle}")
        (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(paths)} notebooks in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
