"""What can be checked here of the workflows that run elsewhere: their syntax, and that what they call exists."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


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
    elif command[0] == "git":
        assert command[1:3] == ["-C", "build/hosted"], where  # a folder made by the step before, never the repository
    elif command[1].endswith(".py"):
        assert command[0] == "python", where
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


def test_issue_templates_are_what_the_form_expects() -> None:
    """Each has a name and a description; each field a known type, an id of its own, and a label."""
    assert [path.name for path in TEMPLATES] == ["config.yml", "idea.yml", "unclear.yml", "wrong.yml"]
    for path in TEMPLATES[1:]:
        form = load(path)
        assert form.keys() == {"name", "description", "body"}, path
        assert len({field["id"] for field in form["body"]}) == len(form["body"]), path
        for field in form["body"]:
            assert field["type"] in ("input", "textarea", "dropdown"), path
            assert field["attributes"]["label"].strip(), path


def test_dependabot_leaves_alone_what_the_stored_outputs_hang_on() -> None:
    updates = {each["package-ecosystem"]: each for each in load(ROOT / ".github" / "dependabot.yml")["updates"]}
    assert updates.keys() == {"pip", "github-actions"}
    assert {each["dependency-name"] for each in updates["pip"]["ignore"]} == {"torch", "torchvision", "numpy"}


def test_the_devcontainer_makes_the_environment_that_the_readme_names() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    program, target = container["postCreateCommand"].split()
    assert program == "make"
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert "3.11" in container["image"]


def test_the_citation_has_the_version_and_licence_of_the_package() -> None:
    citation = load(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"].startswith(project["name"])
    assert all(citation.get(key) for key in ("message", "authors", "type"))


def test_contributing_takes_three_commands_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    block = text.split("```sh\n")[1].split("```")[0].splitlines()
    assert len(block) == 3
    for line in block:
        target = line.split("#")[0].split()[1]
        assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE), line
    for link in re.findall(r"\]\(([^):]+)\)", text):
        assert (ROOT / link).exists(), link
