r"""Which cells and lines of code are which equation: read from notebooks and code, nothing is kept by hand.

A notebook states an equation with a tag, `\tag{4.3}`; code names it, `eq. (4.3)`, in a comment, a docstring or a cell.
"""

import ast
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
SOURCES = (
    "contlearn/*.py",
    "experiments/*.py",
    "benchmarks/*.py",
    "examples/*.py",
)  # not contlearn/exercises: they judge answers, and compute nothing

DISPLAY = re.compile(r"\$\$(.*?)\$\$", re.DOTALL)
TAG = re.compile(r"\s*\\tag\{(\d+\.\d+)\}\s*")
NUMBER = r"\((\d{1,2}\.\d{1,2})\)"
CITATION = re.compile(rf"\beqs?\.\s+{NUMBER}(?:(?:,| and| to)\s+{NUMBER})*")
ONE = re.compile(NUMBER)


class Cell(NamedTuple):
    """A code cell: its notebook's name without suffix, its id, and the line that names the equation."""

    notebook: str
    id: str
    text: str

    @property
    def url(self) -> str:
        """From the book's root."""
        return f"notebooks/{self.notebook}.html#cell-{self.id}"


class Line(NamedTuple):
    """A line of the code: file from the repository's root, its number (from 1) and its text."""

    path: str
    number: int
    text: str
    told: bool = False  # in a docstring, which names the equation and computes nothing

    @property
    def url(self) -> str:
        """From the book's root."""
        return f"code/{page(self.path)}.html#L{self.number}"


@dataclass
class Equation:
    """One numbered equation and everything that computes it."""

    number: str
    notebook: str
    tex: str
    section: str
    cells: list[Cell] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """The id of the equation on its notebook's page."""
        return "eq-" + self.number.replace(".", "-")

    @property
    def url(self) -> str:
        """From the book's root."""
        return f"notebooks/{self.notebook}.html#{self.anchor}"


def page(path: str) -> str:
    """The name of the page that shows a file: `contlearn.ewc` for contlearn/ewc.py."""
    return path.removesuffix(".py").replace("/", ".")


def notebooks(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The notebooks, by name without suffix, in reading order."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((root / "notebooks").glob("*.ipynb"))
    }


def sources(root: Path = ROOT) -> list[Path]:
    """The files whose lines are linked."""
    return [path for pattern in SOURCES for path in sorted(root.glob(pattern))]


def cited(text: str) -> list[tuple[int, str, str]]:
    """(line number, line, equation) for each equation that `text` names; a citation may go over a line's end."""
    found = []
    lines = text.splitlines()
    for citation in CITATION.finditer(text):
        for one in ONE.finditer(citation[0]):
            number = text.count("\n", 0, citation.start() + one.start()) + 1
            found.append((number, lines[number - 1].strip(), one[1]))
    return found


def docstrings(code: str) -> set[int]:
    """The numbers of the lines that docstrings take."""
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Expr)]
    texts = [node for node in found if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)]
    return {number for node in texts for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def read(root: Path = ROOT) -> dict[str, Equation]:
    """All equations by number, in the order of the notebooks; of each, the lines that compute it precede docstrings.

    Raises ValueError if code names an equation that no notebook states, or two have one number.
    """
    equations: dict[str, Equation] = {}
    all_notebooks = notebooks(root)
    for name, notebook in all_notebooks.items():
        section = ""
        for cell in notebook["cells"]:
            if cell["cell_type"] != "markdown":
                continue
            source = "".join(cell["source"])
            for part in re.finditer(r"^#+ ([^\n]+)$|\$\$(.*?)\$\$", source, re.MULTILINE | re.DOTALL):
                if part[1]:
                    section = part[1].strip()
                elif tag := TAG.search(part[2]):
                    if tag[1] in equations:
                        raise ValueError(f"equation ({tag[1]}) is stated twice: {equations[tag[1]].notebook}, {name}")
                    equations[tag[1]] = Equation(tag[1], name, TAG.sub("", part[2]).strip(), section)
    for name, notebook in all_notebooks.items():
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code" and "band" not in cell["metadata"].get("tags", []):
                for _, text, number in cited("".join(cell["source"])):
                    _stated(equations, number, f"{name}, cell {cell['id']}").cells.append(Cell(name, cell["id"], text))
    for path in sources(root):
        short = path.relative_to(root).as_posix()
        code = path.read_text(encoding="utf-8")
        told = docstrings(code)
        for line, text, number in cited(code):
            _stated(equations, number, f"{short}, line {line}").lines.append(Line(short, line, text, line in told))
    for equation in equations.values():  # a line or a cell that names it twice is one; what computes it comes first
        equation.lines = sorted(dict.fromkeys(equation.lines), key=lambda line: line.told)
        equation.cells = list({cell.id: cell for cell in equation.cells}.values())
    return equations


def _stated(equations: dict[str, Equation], number: str, where: str) -> Equation:
    if number not in equations:
        raise ValueError(f"{where} names eq. ({number}), which no notebook states")
    return equations[number]
