"""What the book is made of, without building it: the map of equations, the sliders' frames, what the pages claim."""

import base64
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from notebook_rules import without_heading

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
sys.path.insert(0, str(SITE))

import book  # noqa: E402
import equations as eq  # noqa: E402
import frames  # noqa: E402
import tables  # noqa: E402

EQUATIONS = eq.read()


def test_the_map_holds_every_equation_and_each_leads_to_code() -> None:
    tagged = {
        number
        for notebook in eq.notebooks().values()
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown"
        for number in re.findall(r"\\tag\{([\d.]+)\}", "".join(cell["source"]))
    }
    assert tagged == EQUATIONS.keys()
    assert len(tagged) >= 60
    assert not [equation.number for equation in EQUATIONS.values() if not equation.cells + equation.lines]


@pytest.mark.parametrize("number", EQUATIONS)
def test_cells_and_lines_of_the_map_name_their_equation(number: str) -> None:
    for line in EQUATIONS[number].lines:
        text = (ROOT / line.path).read_text(encoding="utf-8").splitlines()[line.number - 1]
        assert f"({number})" in text
    for cell in EQUATIONS[number].cells:
        notebook = json.loads((ROOT / "notebooks" / f"{cell.notebook}.ipynb").read_text(encoding="utf-8"))
        (found,) = (each for each in notebook["cells"] if each["id"] == cell.id)
        assert f"({number})" in "".join(found["source"])


def test_what_computes_an_equation_comes_before_what_tells_of_it() -> None:
    first, *others = EQUATIONS["5.2"].lines
    assert (first.path, first.text.split("  #")[0]) == ("contlearn/ewc.py", "return 0.5 * importance * value")
    assert any(line.told for line in others)
    for equation in EQUATIONS.values():
        assert [line.told for line in equation.lines] == sorted(line.told for line in equation.lines)
    assert eq.docstrings('"""One.\n\nTwo."""\nx = 1  # eq. (1.1)\n') == {1, 2, 3}


@pytest.mark.parametrize("number", EQUATIONS)
def test_the_cell_below_is_the_cell_below(number: str) -> None:
    pytest.importorskip("docutils", reason="make test-site runs it")
    import hooks

    equation = EQUATIONS[number]
    cells = eq.notebooks()[equation.notebook]["cells"]
    (place,) = (k for k, cell in enumerate(cells) if f"\\tag{{{number}}}" in "".join(cell["source"]))
    shown = [cell["id"] for cell in cells[place:] if cell["cell_type"] == "code" and not cell["id"].endswith("-band")]
    told = hooks.places(equation, "", hooks._next_cell(equation))
    named = next((cell.id for cell in equation.cells if cell.notebook == equation.notebook), None)
    assert ("the cell below" in told) == (named == shown[0])
    assert ("a cell further down" in told) == (named in shown[1:])


def test_citations_are_found_where_they_stand() -> None:
    text = "a = 1\nb = 2  # eq. (5.2)\n# eqs. (4.5), (4.6) and (4.7); not (4.8)\n"
    assert [(number, equation) for number, _, equation in eq.cited(text)] == [
        (2, "5.2"), (3, "4.5"), (3, "4.6"), (3, "4.7"),
    ]  # fmt: skip


def test_an_equation_that_no_notebook_states_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "contlearn").mkdir()
    (tmp_path / "contlearn" / "wrong.py").write_text("x = 1  # eq. (9.9)\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"contlearn/wrong.py, line 1 names eq. \(9.9\)"):
        eq.read(tmp_path)


@pytest.mark.parametrize("cell", frames.SLIDERS)
def test_frames_are_those_of_the_notebook(cell: str) -> None:
    held = json.loads((frames.FOLDER / "frames.json").read_text(encoding="utf-8"))[cell]
    made = frames.digest(frames.code_of(eq.notebooks()[frames.SLIDERS[cell]], cell))
    assert held["code"] == made, f"the notebook has changed: python site/frames.py {cell}"
    for frame in held["frames"]:
        assert (frames.FOLDER / frame["file"]).read_bytes().startswith(b"\x89PNG")
        assert frame["alt"].endswith(f"Shown: {held['label']} = {frame['value']}.")


@pytest.mark.parametrize("name", eq.notebooks())
def test_the_book_shows_each_picture_of_the_notebooks(tmp_path: Path, name: str) -> None:
    pytest.importorskip("docutils", reason="make test-site runs it")
    notebook = eq.notebooks()[name]
    shown = book.woven(name, notebook, {}, tmp_path)
    files: list[str] = []
    ids: list[str] = []
    for before, after in zip(notebook["cells"], shown["cells"], strict=True):
        for own, other in zip(before.get("outputs", []), after.get("outputs", []), strict=True):
            markup = "".join(own.get("data", {}).get("text/html", ""))
            pictures = [base64.b64decode(each) for each in re.findall(r'src="data:image/png;base64,([^"]+)"', markup)]
            if pictures:
                told = other["data"]["text/html"]
                named = re.findall(r'src="(figures/[^"]+)"', told)
                assert [(tmp_path / file).read_bytes() for file in named] == pictures
                files += named
                ids += re.findall(r'id="([^"]+)"', told)
    assert files
    assert len(set(files)) == len(files)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted(SITE.glob("pages/*.md"))],
    ids=lambda path: path.name,
)
def test_columns_have_headings(path: Path) -> None:
    assert not without_heading(path.read_text(encoding="utf-8"))


def test_the_tables_hold_what_the_files_hold() -> None:
    page = tables.page(ROOT / "files" / "results")
    runs = json.loads((ROOT / "files" / "results" / "three_acts.json").read_text(encoding="utf-8"))["runs"]
    kept = [run["histories"]["EWC"]["accuracy"]["MNIST"][-1] for run in runs]
    row = next(line for line in page.splitlines() if line.startswith("| the same with EWC |"))
    assert f"| {100 * sum(kept) / len(kept):.1f} ± " in row
    assert row.endswith(f" {len(runs)} |")


def _references() -> list[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((SITE / "pages").glob("*.md")))
    return sorted(set(re.findall(r"\{py:\w+\}`(?:[^`<]*<)?([\w.]+)>?`", text)))


@pytest.mark.parametrize("name", _references())
def test_what_the_pages_say_is_in_the_code_is_there(name: str) -> None:
    module, found = name, None
    while found is None:
        try:
            found = import_module(module)
        except ModuleNotFoundError:
            module = module.rpartition(".")[0]
    value: Any = found
    for part in name.removeprefix(module).strip(".").split("."):
        value = getattr(value, part) if part else value
    assert value is not None


def test_glossary_is_in_order() -> None:
    text = (SITE / "pages" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(\w.*)\n  \S", text, re.MULTILINE)
    assert len(terms) >= 20
    assert terms == sorted(terms, key=str.lower)
