"""What can be checked here of the workflows that run elsewhere: their syntax, and that what they call exists."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps() -> list[tuple[str, Any]]:
    return [
        (f"{path.name}: {name}", step)
        for path in WORKFLOWS
        for name, job in load(path)["jobs"].items()
        for step in job["steps"]
    ]


def test_there_are_workflows() -> None:
    assert [path.name for path in WORKFLOWS] == ["release.yml", "tests.yml"]


@pytest.mark.parametrize(("where", "step"), steps(), ids=str)
def test_each_step_calls_what_exists(where: str, step: dict[str, Any]) -> None:
    """Make targets, modules of the project, files; an action has a version."""
    assert ("uses" in step) != ("run" in step), where
    if "uses" in step:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"]), where
        return
    targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    command = shlex.split(re.sub(r"\$\{\{.*?\}\}", "X", step["run"]))
    if command[0] == "make":
        assert set(command[1:]) <= set(targets), where
    else:
        assert command[0] in ("python", ".venv/bin/python"), where
        assert command[1:3] in (["-m", "pip"], ["-m", "pytest"], ["-m", "build"]), where
    for word in command[1:]:
        path = word.removeprefix("--ignore=")
        if path.startswith(("tests", "notebooks")):
            assert (ROOT / path).exists(), f"{where}: {path}"


def test_versions_are_those_that_the_project_admits() -> None:
    """The pinned ones, the oldest of pyproject.toml, and each Python between."""
    matrix = load(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["anywhere"]["strategy"]["matrix"]
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    oldest = dict(re.findall(r'"(torch|torchvision)>=([\d.]+)"', project))
    found = {entry["torch"] for entry in matrix["include"]} | set(matrix["torch"])
    assert found == {pins["torch"], oldest["torch"] + ".0"}
    assert {e["torchvision"] for e in matrix["include"] if "torchvision" in e} == {oldest["torchvision"] + ".0"}
    assert set(matrix["os"]) == {"ubuntu-latest", "macos-latest", "windows-latest"}
    pythons = set(matrix["python"]) | {entry["python"] for entry in matrix["include"]}
    assert pythons == {f"3.{minor}" for minor in range(11, 15)}
    assert 'requires-python = ">=3.11"' in project


def test_ci_runs_the_readmes_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("make")] == ["make test", "make test-machines", "make test-site"]
    assert "make test\n" in (ROOT / "README.md").read_text("utf-8")
