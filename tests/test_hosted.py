"""The edition for Colab and Kaggle needs the published package alone: run here without the repository."""

import gzip
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pytest
from test_package import built, run  # noqa: F401  (a fixture)

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
notebook.cells = notebook.cells[: int(sys.argv[2])]
notebook.cells.append(nbformat.v4.new_code_cell(sys.argv[3]))
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
print("".join(output.get("text", "") for output in notebook.cells[-1].outputs))
"""
PROBE = """
import pathlib, sys, contlearn
from contlearn import load_fashion_mnist, load_mnist
assert pathlib.Path(contlearn.__file__).is_relative_to(sys.prefix), contlearn.__file__
assert not contlearn.data.SHIPPED.exists()
for path in {paths}:
    assert pathlib.Path(path).exists(), path
sys.path.append("../experiments")
import language_model
print(len(load_mnist().train), len(load_fashion_mnist().test), pathlib.Path.cwd().name)
"""


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosted")
    environment = os.environ | {"GITHUB_REPOSITORY": "somebody/contlearn"}
    subprocess.run(
        [sys.executable, ROOT / "notebooks" / "hosted.py", folder], check=True, capture_output=True, env=environment
    )
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_gets_its_first_cell(hosted: Path, path: Path) -> None:
    before, after = (nbformat.read(p, as_version=4) for p in (path, hosted / path.name))
    nbformat.validate(after)
    assert [cell.source for cell in before.cells if cell.cell_type == "code"] == [
        cell.source for cell in after.cells if cell.cell_type == "code"
    ][1:]
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]
    assert f"%pip install --quiet contlearn=={version}" in after.cells[1].source
    assert "hosted.prepare()" in after.cells[1].source
    assert "](../" not in "\n".join(cell.source for cell in after.cells if cell.cell_type == "markdown")
    assert f"somebody/contlearn/blob/hosted/{path.name}" in (hosted / "README.md").read_text("utf-8")


def test_the_first_cell_installs_and_finds_everything(built: Path, hosted: Path, tmp_path: Path) -> None:  # noqa: F811
    """In an empty environment that borrows the dependencies, with the images attached under other names."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "GITHUB_REPOSITORY")}
    home = str(tmp_path / "home")
    (tmp_path / "home").mkdir()
    clean |= {"HOME": home, "USERPROFILE": home, "LOCALAPPDATA": home, "XDG_CACHE_HOME": f"{home}/cache"}
    clean |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(built), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    clean |= {"PIP_IGNORE_INSTALLED": "1", "PIP_NO_DEPS": "1"}  # what is borrowed counts as installed, a contlearn too
    options = {"cwd": tmp_path / "empty", "env": clean}
    for kind in ("mnist", "fashion-mnist"):  # uncompressed, as some data sets on Kaggle are, and compressed
        (tmp_path / "empty" / "attached" / kind).mkdir(parents=True)
        for archive in (ROOT / "files" / "data" / kind).glob("*.gz"):
            raw = archive.read_bytes() if kind == "mnist" else gzip.decompress(archive.read_bytes())
            name = archive.name if kind == "mnist" else archive.stem.replace("-idx", ".idx")
            (tmp_path / "empty" / "attached" / kind / name).write_bytes(raw)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", **options).strip())
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools", **options)  # some Pythons bring an old one
    borrowed = [path for path in map(Path, sys.path) if path.name == "site-packages"]
    (site / "borrowed.pth").write_text("\n".join(map(str, borrowed)))
    paths = {path for each in NOTEBOOKS for path in re.findall(r"\.\./files/[\w./-]+\w", each.read_text("utf-8"))}
    assert len(paths) >= 8
    for name, cells in (("00_start_here.ipynb", 6), ("10_a_language_model.ipynb", 8)):
        printed = run(python, "-c", RUN, hosted / name, cells, PROBE.format(paths=sorted(paths)), **options)
        assert printed.split() == ["60000", "10000", "notebooks"]
