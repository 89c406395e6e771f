"""The handout holds no solution, runs as the notebooks do, and the slides show their figures, without a network."""

import ast
import html
import itertools
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import notebook_rules
import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")) + sorted((ROOT / "docs" / "assignments").glob("*.ipynb"))


@pytest.fixture(scope="module")
def handout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handout")
    subprocess.run([sys.executable, ROOT / "notebooks" / "handout.py", folder], check=True, capture_output=True)
    return folder


def text_of(path: Path) -> str:
    """Everything that stands in the file, outputs and metadata too."""
    return "\n".join(str(value) for value in strings(nbformat.read(path, as_version=4)))


def strings(node: object) -> list[str]:
    if isinstance(node, dict):
        return [text for value in node.values() for text in strings(value)]
    return [text for value in node for text in strings(value)] if isinstance(node, list) else [str(node)]


def solutions(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [match[1] for cell in cells if (match := notebook_rules.SOLUTION.search(cell.source))]


def plain(code: str) -> str:
    """Code without spaces, quotes and comments, as a search should see it."""
    return re.sub(r"[\s'\"]+", "", re.sub(r"#.*", "", code))


def test_there_is_a_copy_of_every_notebook_and_assignment(handout: Path) -> None:
    assert len(SOURCES) >= 14
    assert sorted(path.name for path in handout.iterdir()) == sorted(path.name for path in SOURCES)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_solution_is_found_by_search(handout: Path, source: Path) -> None:
    """Neither the fold nor its word, nor any solution's statements, however they are laid out."""
    text = text_of(handout / source.name)
    assert "solution</summary>" not in text.replace(" ", "").lower()
    found = solutions(source)
    assert len(found) >= 3
    searched = plain(text)
    for solution in found:
        for statement in ast.parse(solution).body:
            body = statement.body if isinstance(statement, ast.FunctionDef) else [statement]
            assert plain("\n".join(map(ast.unparse, body))) not in searched, solution
            written = "\n".join(solution.splitlines()[statement.lineno - 1 : statement.end_lineno])
            assert plain(written) not in searched, solution


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_only_solutions_and_outputs_were_taken_out(handout: Path, source: Path) -> None:
    """So it runs from top to bottom as its source does, which nbval runs; and the hints are there, folded."""
    before, after = (nbformat.read(path, as_version=4) for path in (source, handout / source.name))
    nbformat.validate(after)
    code = [[cell.source for cell in notebook.cells if cell.cell_type == "code"] for notebook in (before, after)]
    assert code[0] == code[1]
    assert all(not cell.outputs and cell.execution_count is None for cell in after.cells if cell.cell_type == "code")
    hints = [len(notebook_rules.HINT.findall(text_of(path))) for path in (source, handout / source.name)]
    assert hints[0] == hints[1] == len(solutions(source))
    removed = [cell for cell in before.cells if cell.id not in {each.id for each in after.cells}]
    assert removed == []
    for old, new in zip(before.cells, after.cells, strict=True):
        assert new.source == old.source or notebook_rules.SOLUTION.search(old.source)


def test_a_stub_stops_nothing(handout: Path) -> None:
    """Notebooks whose exercises stand alone run here; the cells before them are those that nbval runs."""
    from contlearn.grading import submission

    for path in sorted(handout.glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        names: dict[str, object] = {}
        numbered = [(k, cell.source) for k, cell in enumerate(cells) if cell.cell_type == "code"]
        for _, source in submission.needed(numbered):
            exec(compile(source, path.name, "exec"), names)


class Page(HTMLParser):
    """Counts slides and collects images and what is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.slides, self.images, self.loaded = 0, [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.slides += tag == "section"
        if tag == "img":
            self.images.append((told.get("alt"), told.get("src", "")))
        address = told.get("src") or (told.get("href") if tag == "link" else None)
        if address and not address.startswith("data:"):
            self.loaded.append(address)


def test_slides_show_the_stored_figures_and_need_no_network(tmp_path: Path) -> None:
    slides = runpy.run_path(str(ROOT / "docs" / "slides.py"))
    wanted = [slide.figure for slide in slides["SLIDES"] if slide.figure]
    slides["main"]([str(tmp_path / "slides.html")])
    text = (tmp_path / "slides.html").read_text("utf-8")
    page = Page()
    page.feed(text)
    assert page.slides == len(slides["SLIDES"]) >= 20
    assert page.loaded == []
    assert not re.search(r"url\(|@import|fetch\(|https?://(?!www\.w3\.org)", text)
    assert len(page.images) == len(wanted) >= 12
    assert all(alt and len(alt) > 30 for alt, _ in page.images)
    stored = slides["figures"]()
    assert [source.partition(",")[2] for _, source in page.images] == [stored[number][0] for number in wanted]
    formulas = [slide.formula for slide in slides["SLIDES"] if slide.formula]
    assert text.count('role="img"') == len(formulas)
    assert all(html.escape(formula.strip("$"), quote=True) in text for formula in formulas)


def test_slides_name_a_figure_that_is_missing() -> None:
    slides = runpy.run_path(str(ROOT / "docs" / "slides.py"))
    with pytest.raises(KeyError, match=r"99\.1"):
        slides["page"](slides["Slide"]("x", figure="99.1"), False, slides["figures"]())


def test_the_plans_lecture_has_slides_in_its_order() -> None:
    """The notebooks that the notes name come in the order of the plan of 90 minutes."""
    slides = runpy.run_path(str(ROOT / "docs" / "slides.py"))["SLIDES"]
    named = [number for slide in slides for number in re.findall(r"^\[(\d\d)\]", slide.notes)]
    plan = (ROOT / "docs" / "teaching.md").read_text("utf-8").split("### One lecture")[1].split("### Half")[0]
    in_plan = re.findall(r"\[(\d\d)\]", plan)
    assert named == [number for number, _ in itertools.groupby(in_plan)]
