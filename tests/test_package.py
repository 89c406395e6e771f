"""What is built for PyPI works where there is no repository: both archives, each in an empty environment."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROGRAM = """
import pathlib, sys, torch, contlearn
from contlearn import EWC, MLP, diagonal_fisher, exercises, train
assert pathlib.Path(contlearn.__file__).is_relative_to(sys.prefix), contlearn.__file__
assert (pathlib.Path(contlearn.__file__).parent / "py.typed").is_file()
exercises.check_0_4(None)
batches = [(torch.rand(8, 4), torch.randint(3, (8,)))]
model, ewc = MLP(5, 1, 4, 3), EWC(10)
train(model, batches, epochs=1, lr=0.1, progress=False)
ewc.consolidate(model, batches, progress=False)
train(model, batches, epochs=1, lr=0.1, ewc=ewc, progress=False)
from contlearn.doctor import examine
assert not examine(diagonal_fisher, kind="estimator").findings
from contlearn.data import SHIPPED
assert not SHIPPED.exists(), SHIPPED
try:
    contlearn.load_mnist(root="nowhere")
except FileNotFoundError as error:
    assert "train-images" in str(error)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, of a copy of what git would ship."""
    pytest.importorskip("build", reason="needs the package 'build'")
    folder, copy = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    for path in [path for name in ("contlearn", "files", "experiments") for path in (ROOT / name).rglob("*")]:
        if path.is_file() and "__pycache__" not in path.parts:
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, copy)
    return folder


def run(*command: object, **options: object) -> str:
    found = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def test_the_wheel_holds_the_library_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "contlearn/py.typed" in names
    assert "contlearn/exercises/notebook_00.py" in names
    assert "contlearn/grading/kernel.py" in names
    assert {"contlearn/files/checkpoints/mnist_mlp.pt", "contlearn/experiments/language_model.py"} <= set(names)
    assert not [name for name in names if name.endswith("-ubyte.gz")]  # 41 MB that the loaders find or download
    assert all(name.startswith(("contlearn/", "contlearn-")) for name in names)


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_an_archive_works_outside_the_repository(kind: str, built: Path, tmp_path: Path) -> None:
    """In an environment of its own, which borrows only the packages that contlearn depends on."""
    (archive,) = built.glob(kind)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    options = {"cwd": tmp_path, "env": clean}
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", **options).strip())
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools", **options)  # some Pythons bring an old one
    borrowed = [path for path in map(Path, sys.path) if path.name == "site-packages"]
    (site / "borrowed.pth").write_text("\n".join(map(str, borrowed)))
    run(
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--ignore-installed",
        archive,
        **options,
    )
    run(python, "-c", PROGRAM, **options)
    assert "--resume" in run(python, "-m", "contlearn", "--help", **options)
