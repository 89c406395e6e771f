"""What docs/teaching.md says is so: exercises exist, minutes are the README's, the words of checks are theirs."""

import ast
import re
from pathlib import Path

import nbformat
import notebook_rules
import pytest

from contlearn import exercises

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "teaching.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
TAUGHT = [path for path in NOTEBOOKS if f"\n### {path.name[:2]} " in TEXT]
SECTIONS = dict(re.findall(r"^### (.+)\n((?:(?!^##).*\n)*)", TEXT, re.MULTILINE))


def section(path: Path) -> str:
    return next(text for title, text in SECTIONS.items() if title.startswith(path.name[:2]))


def said_by(number: str) -> str:
    """All text in the checks of a notebook, as it is after Python has joined it."""
    source = (ROOT / "contlearn" / "exercises" / f"notebook_{number}.py").read_text("utf-8")
    return "\n".join(
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def test_every_notebook_with_checks_is_taught() -> None:
    with_checks = {name.split("_")[1] for name in dir(exercises) if not name.startswith("check_a")}
    assert {str(int(path.name[:2])) for path in TAUGHT} == with_checks


@pytest.mark.parametrize("path", TAUGHT, ids=lambda path: path.stem)
def test_minutes_are_those_of_the_readme_and_of_the_notebook(path: Path) -> None:
    reading, working = re.search(r"^(\d+) \+ (\d+) minutes", section(path), re.MULTILINE).groups()
    (row,) = [line for line in README.splitlines() if line.startswith("|") and f"notebooks/{path.name}" in line]
    assert f"| {reading} + {working} min |" in row
    opening = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells[:3])
    appendices = r"(, \d+ more for the append\w+)?"
    assert re.search(rf"{reading} minutes to read{appendices}, {working} for the exercises", opening)


@pytest.mark.parametrize("path", TAUGHT, ids=lambda path: path.stem)
def test_each_exercise_stands_in_its_table_once(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    there = [match.groups() for cell in cells if (match := notebook_rules.EXERCISE.match(cell.source))]
    assert re.findall(r"^\| (\d+)\.(\d+) \|", section(path), re.MULTILINE) == there


@pytest.mark.parametrize("path", TAUGHT, ids=lambda path: path.stem)
def test_misconceptions_are_in_the_words_of_the_checks(path: Path) -> None:
    quoted = re.findall(r"“(.+?)”", section(path))
    assert len(quoted) >= 4
    assert [words for words in quoted if words not in said_by(path.name[:2])] == []


@pytest.mark.parametrize("path", TAUGHT, ids=lambda path: path.stem)
def test_there_are_questions_for_the_room_with_answers(path: Path) -> None:
    questions = re.findall(r"^\*[^*|].*?\?\* *\S", section(path).replace("θ*", "θ"), re.MULTILINE | re.DOTALL)
    assert len(questions) >= 2


def test_exercises_that_the_text_names_exist() -> None:
    named = re.findall(r"[Ee]xercises? ((?:\d+\.\d+(?:, | and | to )?)+)", TEXT)
    numbers = [number for each in named for number in re.findall(r"\d+\.\d+", each)]
    assert len(numbers) >= 20
    assert [number for number in numbers if not hasattr(exercises, f"check_{number.replace('.', '_')}")] == []


def test_headings_that_plans_name_exist() -> None:
    plans = TEXT.split("## Plans")[1].split("## Notebook by notebook")[0]
    for line in plans.splitlines():
        if (number := re.search(r"\[(\d\d)\]", line)) and (titles := re.findall(r'"([^"]+)"', line)):
            (path,) = (ROOT / "notebooks").glob(f"{number[1]}_*.ipynb")
            source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
            headings = [heading for _, heading in notebook_rules.HEADING.findall(source)]
            assert [title for title in titles if not any(title.strip(",.") in each for each in headings)] == [], line


@pytest.mark.parametrize("title", [title for title in SECTIONS if re.search(r": \d+ minutes$", title)])
def test_minutes_of_a_plan_add_up(title: str) -> None:
    minutes = [int(n) for n in re.findall(r"^\| (\d+) \|", SECTIONS[title], re.MULTILINE)]
    assert sum(minutes) == int(re.search(r"(\d+) minutes$", title)[1])


def test_there_are_four_plans() -> None:
    assert sum(bool(re.search(r": \d+ minutes$", title)) for title in SECTIONS) == 4


@pytest.mark.parametrize("k", [1, 2, 3])
def test_an_assignments_points_are_those_of_its_checks_and_rubric(k: int) -> None:
    text = next(text for title, text in SECTIONS.items() if title.startswith(f"Assignment {k}:"))
    total = int(re.search(r"(\d+) points\.", text)[1])
    checks = [getattr(exercises, name) for name in dir(exercises) if name.startswith(f"check_a{k}_")]
    rubric = [int(points) for points in re.findall(rf"^\| A{k}\.\d.*?, (\d+) points? \|", text, re.MULTILINE)]
    assert sum(check.points for check in checks) + sum(rubric) == total
    notebook = nbformat.read(ROOT / "docs" / "assignments" / f"assignment_{k}.ipynb", as_version=4)
    marked = re.findall(r"\*(\d+) points?, by the (check|rubric)\*", "\n".join(cell.source for cell in notebook.cells))
    assert sum(int(points) for points, _ in marked) == total
    assert sum(int(points) for points, by in marked if by == "check") == sum(check.points for check in checks)
    assert f"{total} points: " in notebook.cells[0].source
