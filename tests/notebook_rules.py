"""What every notebook keeps to, as plain functions: rule(notebook, path) returns its complaints, none when all is well.

`RULES` holds the rules that look at one notebook; `equations` looks at all of them and at the library's code.
"""

import ast
import contextlib
import io
import re
import runpy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from nbconvert import HTMLExporter
from nbformat import NotebookNode

Rule = Callable[[NotebookNode, Path], list[str]]

LONGEST_CELL = 30
PREDICT = "**Predict:**"
MEDIAN_CELL = 8
FOLDED = runpy.run_path(str(Path(__file__).parents[1] / "notebooks" / "execute.py"))["FOLDED"].values()
EXERCISES = range(3, 7)
NO_DESCRIPTION = "No description has been provided for this image"  # what nbconvert puts in place of a missing alt text
WIDGET = "application/vnd.jupyter.widget-view+json"

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(`+)(?!`).+?\1")
DISPLAY_MATH = re.compile(r"\$\$.*?\$\$|\\begin\{(equation|align|gather)\*?\}.*?\\end\{\1\*?\}", re.DOTALL)
TAG = re.compile(r"\\tag\{([^}]*)\}")
CITATION = re.compile(r"\beqs?\.\s+\((\d+\.\d+)\)")
TABLE = re.compile(r"^(\|.*\|)\s*\n\|(?:\s*:?-+:?\s*\|)+\s*$", re.MULTILINE)  # its first row
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*$", re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(\s*<?([^)\s>]*)>?[^)]*\)|<a\s[^>]*href=\"([^\"]*)\"")
EXERCISE = re.compile(r"^### Exercise (\d+)\.(\d+)\b")
EFFORT = re.compile(r"\*Difficulty [1-5]/5 · \d+ minutes?\*")
HINT = re.compile(r"<details>\s*<summary>Hint</summary>.*?</details>", re.DOTALL)
SOLUTION = re.compile(
    r"<details>\s*<summary>Solution</summary>\s*\n\n```python\n(.*?)^```\s*?\n.*?</details>", re.DOTALL | re.MULTILINE
)
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|work|Users|opt|var|mnt|private|usr/(?!bin/env))\b[^\s\"']*|\b[A-Z]:\\Users\S*"
)


def runs_in_order(notebook: NotebookNode, path: Path) -> list[str]:
    """The notebook was run once, from top to bottom: code cells are counted 1, 2, 3, …"""
    complaints = []
    expected = 0
    for place, cell in _cells(notebook, "code"):
        if not cell.source.strip():
            complaints.append(f"{place} is an empty code cell: delete it")
            continue
        expected += 1
        if cell.execution_count != expected:
            complaints.append(f"{place} has execution count {cell.execution_count}, not {expected}: execute.py runs it")
    return complaints


def no_errors(notebook: NotebookNode, path: Path) -> list[str]:
    """No cell stores an error, and none stores what went to stderr (warnings, progress bars)."""
    complaints = []
    for place, output in _outputs(notebook):
        if output.output_type == "error":
            complaints.append(f"{place} stores the error {output.ename}: {output.evalue}")
        if output.get("name") == "stderr":
            complaints.append(f"{place} stores stderr: {output.text[:80]!r}")
    return complaints


def no_machine_paths(notebook: NotebookNode, path: Path) -> list[str]:
    """Nothing names a folder of the machine that ran the notebook."""
    texts = [(place, cell.source) for place, cell in _cells(notebook)]
    texts += [(place, text) for place, output in _outputs(notebook) for text in _texts(output)]
    return [f"{place} names {found[0]!r}" for place, text in texts if (found := MACHINE_PATH.search(text))]


def outputs_have_text(notebook: NotebookNode, path: Path) -> list[str]:
    """Whatever is displayed has a text that says something and is the same on every run; no widget is stored."""
    complaints = []
    if "widgets" in notebook.metadata:
        complaints.append("the notebook stores widget state: execute.py leaves it out")
    for place, output in _outputs(notebook):
        if "data" in output and not output.data.get("text/plain", "").strip():
            complaints.append(f"{place} displays {sorted(output.data)} without a text: use plots.show(figure, alt)")
        if WIDGET in output.get("data", {}):
            complaints.append(f"{place} stores a widget, which nobody else can see: execute.py leaves it out")
        for text in _texts(output):
            if found := re.search(r"<Figure size[^>]*>|\bat 0x[0-9a-fA-F]{6,}|\d(?:it|s)/(?:it|s)\]", text):
                complaints.append(f"{place} prints {found[0]!r}, which tells a reader nothing")
    return complaints


def images_have_alternative_text(notebook: NotebookNode, path: Path) -> list[str]:
    """Each image has alternative text: in its output's metadata, in markdown, and in the HTML export."""
    complaints = []
    for place, output in _outputs(notebook):
        for kind in output.get("data", {}):
            if kind.startswith("image/") and not str(output.metadata.get(kind, {}).get("alt", "")).strip():
                complaints.append(f"{place} has {kind} without alternative text: use plots.show(figure, alt)")
    for place, cell in _cells(notebook, "markdown"):
        for image, alt, target, _ in LINK.findall(_prose(cell)):
            if image and not alt.strip():
                complaints.append(f"{place} shows {target} without alternative text: ![what it shows]({target})")
    html, _ = HTMLExporter().from_notebook_node(notebook)
    parser = _Images()
    parser.feed(html)
    for alt in parser.alternatives:
        if not alt.strip() or alt == NO_DESCRIPTION:
            complaints.append(f"the HTML export has an image with alt={alt!r}")
    return complaints


def code_cells_are_short(notebook: NotebookNode, path: Path) -> list[str]:
    """No code cell has more than 30 lines."""
    lengths = [(place, len(cell.source.splitlines())) for place, cell in _cells(notebook, "code")]
    return [f"{place} has {n} lines: at most {LONGEST_CELL}" for place, n in lengths if n > LONGEST_CELL]


def guards_stand_apart(notebook: NotebookNode, path: Path) -> list[str]:
    """A cell that prints or draws does not end in asserts: the bands stand in the cell below it, named …-band."""
    complaints = []
    for place, cell in _cells(notebook, "code"):
        body = ast.parse(cell.source).body
        shows = any(word in cell.source for word in ("print(", "plots.")) and not cell.id.endswith("-band")
        if shows and isinstance(body[-1], ast.Assert):
            complaints.append(f"{place} ends in an assert: move it to a cell {cell.id}-band, which stays folded")
    return complaints


def visible_code_is_short(notebook: NotebookNode, path: Path) -> list[str]:
    """Of the code that is not folded (execute.py folds it), half of the cells have at most 8 lines."""
    visible = [
        cell for _, cell in _cells(notebook, "code") if not cell.metadata.get("jupyter", {}).get("source_hidden")
    ]
    lengths = sorted(len(cell.source.splitlines()) for cell in visible)
    median = lengths[len(lengths) // 2] if lengths else 0
    return (
        [f"the visible code cells have {median} lines in the median, not {MEDIAN_CELL}"] if median > MEDIAN_CELL else []
    )


def figures_are_numbered(notebook: NotebookNode, path: Path) -> list[str]:
    """The figures of notebook 05 are 5.1, 5.2, … from top to bottom: by `plots.show`, `slider`, `animate`."""
    numbers = []
    for _, cell in _cells(notebook, "code"):
        for node in sorted(ast.walk(ast.parse(cell.source)), key=lambda node: getattr(node, "lineno", 0)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "plots.show",
                "plots.slider",
                "plots.animate",
            ):
                given = [*node.args, *(each.value for each in node.keywords)][-1]
                numbers.append(given.value if isinstance(given, ast.Constant) else None)
    expected = [f"{int(path.name[:2])}.{k}" for k in range(1, len(numbers) + 1)]
    return [] if numbers == expected else [f"the figures are numbered {numbers}, not {expected}"]


def opening_says_what_and_how_long(notebook: NotebookNode, path: Path) -> list[str]:
    """The first three cells list two or more learning objectives and say how many minutes the notebook takes."""
    opening = "\n\n".join(_prose(cell) for _, cell in list(_cells(notebook))[:3] if cell.cell_type == "markdown")
    complaints = []
    objectives = re.split(r"learning objectives", opening, maxsplit=1, flags=re.IGNORECASE)
    if len(objectives) < 2 or len(re.findall(r"^\s*(?:[-*]|\d+\.)\s+\S", objectives[1], re.MULTILINE)) < 2:
        complaints.append("the first three cells have no 'Learning objectives' followed by a list of two or more")
    if not re.search(r"\d+ minutes?\b", opening):
        complaints.append("the first three cells do not say how many minutes the notebook takes ('20 minutes')")
    return complaints


def reading_time_is_counted(notebook: NotebookNode, path: Path) -> list[str]:
    """'40 minutes to read, 15 more for the appendices' is what README's formula gives, rounded to 5 minutes or so.

    Words / 180, visible lines of code / 15, ¾ a formula, ½ a figure; exercises and references are not counted.
    """
    counted = {"text": 0.0, "appendices": 0.0, "": 0.0}
    part = "text"
    for _, cell in _cells(notebook):
        for marks, title in HEADING.findall(_prose(cell)) if cell.cell_type == "markdown" else []:
            if len(marks) <= 2:
                part = "text"
                if title.startswith("Appendix"):
                    part = "appendices"
                elif title in ("Exercises", "References"):
                    part = ""
        if cell.cell_type == "markdown":
            words = DISPLAY_MATH.sub("", cell.source).split()
            counted[part] += len(words) / 180 + 0.75 * len(TAG.findall(cell.source))
            continue
        if not cell.metadata.get("jupyter", {}).get("source_hidden"):
            counted[part] += sum(bool(line.strip()) for line in cell.source.splitlines()) / 15
        counted[part] += 0.5 * sum("image/png" in output.get("data", {}) for output in cell.outputs)
    opening = " ".join(cell.source for cell in notebook.cells[:3])
    asked = {"text": r"(\d+) minutes to read", "appendices": r"(\d+) more for the appendi"}
    complaints = []
    for part, words in asked.items():
        found = re.search(words, opening)
        stated = float(found[1]) if found else 0.0
        if abs(stated - counted[part]) > 5:
            complaints.append(f"the {part} take {counted[part]:.0f} minutes by README's formula, not {stated:.0f}")
    return complaints


def headings_form_a_tree(notebook: NotebookNode, path: Path) -> list[str]:
    """The first cell opens with the only H1, and no heading skips a level."""
    complaints = []
    if not notebook.cells or not notebook.cells[0].source.lstrip().startswith("# "):
        complaints.append("the notebook does not open with a markdown cell '# Title'")
    level = 0
    for place, cell in _cells(notebook, "markdown"):
        for marks, title in HEADING.findall(_prose(cell)):
            if len(marks) > level + 1:
                complaints.append(f"{place}: {title!r} is H{len(marks)} below H{level}: use H{level + 1}")
            if len(marks) == 1 and level:
                complaints.append(f"{place}: {title!r} is a second H1: use H2")
            level = len(marks)
    return complaints


def tables_have_headings(notebook: NotebookNode, path: Path) -> list[str]:
    """Each column of a table has a heading: a screen reader says it before each cell."""
    return [
        f"{place} has a table with a column without heading: {head!r}"
        for place, cell in _cells(notebook, "markdown")
        for head in without_heading(_prose(cell))
    ]


def without_heading(markdown: str) -> list[str]:
    """The first rows of those tables that leave a cell of it empty."""
    heads = [found[1].strip() for found in TABLE.finditer(markdown)]
    return [head for head in heads if not all(cell.strip() for cell in head.strip("|").split("|"))]


def links_are_alive(notebook: NotebookNode, path: Path) -> list[str]:
    """Relative links in markdown lead to files that exist, and #anchors in this notebook to its headings."""
    complaints = []
    headings = [title for _, cell in _cells(notebook, "markdown") for _, title in HEADING.findall(_prose(cell))]
    anchors = {re.sub(r"\s+", "-", title) for title in headings}
    for place, cell in _cells(notebook, "markdown"):
        for _, _, markdown, html in LINK.findall(_prose(cell)):
            target = markdown or html
            if re.match(r"[a-z]+:", target):  # https:, mailto:, attachment:
                continue
            file, _, anchor = unquote(target).partition("#")
            if Path(file).is_absolute() or not (path.parent / file).exists():
                complaints.append(f"{place} links to {target!r}, which does not exist beside the notebook")
            elif not file and anchor not in anchors:
                complaints.append(f"{place} links to {target!r}, but no heading of the notebook is called that")
    return complaints


def answers_are_marked(notebook: NotebookNode, path: Path) -> list[str]:
    """Each prediction has an answer, which the book folds: cells tagged `answer` before the next prediction or heading.

    A text that is folded states no equation, and does not introduce the output of a cell that stays open.
    """
    complaints = []
    asked = ""  # the prediction that waits for its answer
    open_for_answers = False
    cells = list(_cells(notebook))
    for k, (place, cell) in enumerate(cells):
        tagged = "answer" in cell.metadata.get("tags", [])
        if tagged and not open_for_answers:
            complaints.append(f"{place} is tagged answer, and answers no prediction of its section")
        if cell.cell_type == "code":
            asked = "" if tagged and cell.outputs else asked
            continue
        prose = _prose(cell)
        marks = [found[0] for found in re.finditer(rf"^#+ .+$|{re.escape(PREDICT)}", prose, re.MULTILINE)]
        if tagged and (marks or TAG.search(cell.source)):
            complaints.append(f"{place} is tagged answer, and holds a heading, a prediction or an equation: split it")
        for mark in marks:
            if asked:
                complaints.append(f"{asked} asks for a prediction: tag its output, and what tells it, as answer")
            asked, open_for_answers = (place, True) if mark == PREDICT else ("", False)
        shown = next((each for _, each in cells[k + 1 :] if each.cell_type == "markdown" or each.outputs), None)
        if tagged and shown and shown.cell_type == "code" and "answer" not in shown.metadata.get("tags", []):
            complaints.append(f"{place} is folded, but not the output that it introduces, of {shown.id}")
    return [*complaints, f"{asked} asks for a prediction: nothing answers it"] if asked else complaints


def stored_clean(notebook: NotebookNode, path: Path) -> list[str]:
    """The notebook was stored by execute.py: no clock times or versions; and every output is compared by nbval."""
    complaints = []
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        complaints.append("the kernel is not called python3")
    language = set(notebook.metadata.get("language_info", {}))
    if set(notebook.metadata) - {"kernelspec", "language_info"} or language - {"name"}:
        complaints.append("the notebook's metadata holds more than kernel and language: store it with execute.py")
    for place, cell in _cells(notebook):
        folded = cell.cell_type == "code" and any(name.search(cell.id) for name in FOLDED)
        if cell.metadata.get("jupyter", {}) != ({"source_hidden": True} if folded else {}):
            complaints.append(f"{place} is to be folded if, and only if, its name says so: store it with execute.py")
        if set(cell.metadata) - {"tags", "jupyter"}:
            complaints.append(f"{place} has metadata {sorted(cell.metadata)}: store the notebook with execute.py")
        marks = f"{cell.source} {cell.metadata.get('tags')}" if cell.cell_type == "code" else ""
        if re.search(r"nbval[_-]|raises-exception", marks, re.IGNORECASE):
            complaints.append(f"{place} opts out of nbval: print measured numbers as nbval_sanitize.cfg says instead")
    return complaints


def exercises_are_complete(notebook: NotebookNode, path: Path) -> list[str]:
    """Three to six exercises close the notebook: task, stub that is not answered yet, folded hint and solution."""
    cells = notebook.cells
    starts = [k for k, cell in enumerate(cells) if cell.cell_type == "markdown" and EXERCISE.match(cell.source)]
    complaints = []
    if len(starts) not in EXERCISES:
        complaints.append(f"the notebook has {len(starts)} exercises ('### Exercise 4.1'), not 3 to 6")
    for count, start in enumerate(starts, 1):
        name = f"{_number(path)}.{count}"
        task, stub, folded = [*cells[start : start + 3], *[NotebookNode(cell_type="none", source="")] * 3][:3]
        if not task.source.startswith(f"### Exercise {name}"):
            complaints.append(f"{task.source.splitlines()[0]!r} should be '### Exercise {name}'")
        if not EFFORT.search(task.source):
            complaints.append(f"exercise {name} does not state '*Difficulty 2/5 · 5 minutes*'")
        check = f"exercises.check_{name.replace('.', '_')}("
        if stub.cell_type != "code" or check not in stub.source:
            complaints.append(f"exercise {name} is not followed by a code cell that calls {check}…)")
        elif "not answered yet" not in "".join(text for output in stub.outputs for text in _texts(output)):
            complaints.append(f"exercise {name}: the stub's stored output does not say 'not answered yet'")
        if folded.cell_type != "markdown" or not HINT.search(folded.source):
            complaints.append(f"exercise {name} has no folded <summary>Hint</summary> in the cell after its stub")
        if folded.cell_type != "markdown" or len(SOLUTION.findall(folded.source)) != 1:
            complaints.append(f"exercise {name} has no folded <summary>Solution</summary>, blank line, ```python block")
    if starts:
        rest = [k for k in range(starts[0], len(cells)) if cells[k].cell_type == "code" and k - 1 not in starts]
        complaints += [f"cell {k} is code among the exercises that is no exercise's stub" for k in rest]
    return complaints


def solutions_are_accepted(notebook: NotebookNode, path: Path) -> list[str]:
    """Each folded solution, put in place of its stub, is accepted by the exercise's own check ('Right …')."""
    complaints = []
    imports = [
        ast.unparse(statement)
        for _, cell in _cells(notebook, "code")
        for statement in ast.parse(cell.source).body
        if isinstance(statement, ast.Import | ast.ImportFrom)
    ]
    for task, stub, folded in zip(notebook.cells, notebook.cells[1:], notebook.cells[2:], strict=False):
        solution = SOLUTION.search(folded.source)
        if not EXERCISE.match(task.source) or not solution or stub.cell_type != "code":
            continue
        name = task.source.splitlines()[0].removeprefix("### ")
        answer, question = ast.parse(solution[1]), ast.parse(stub.source)
        names = set().union(*map(_defines, answer.body))
        if not names & set().union(*map(_defines, question.body)):
            complaints.append(f"{name}: the solution defines {sorted(names)}, none of which the stub asks for")
        question.body = [statement for statement in question.body if not _defines(statement) & names]
        program = "\n".join([*imports, ast.unparse(answer), ast.unparse(question)])
        printed = io.StringIO()
        try:
            with contextlib.chdir(path.parent), contextlib.redirect_stdout(printed):
                exec(compile(program, f"<{name}>", "exec"), {"__name__": "__main__"})
        except Exception as error:
            complaints.append(f"{name}: the solution raises {type(error).__name__}: {error}")
        else:
            if not printed.getvalue().startswith("Right"):
                complaints.append(f"{name}: the check does not accept the solution: {printed.getvalue()!r}")
    return complaints


RULES: list[Rule] = [
    runs_in_order,
    no_errors,
    no_machine_paths,
    outputs_have_text,
    images_have_alternative_text,
    code_cells_are_short,
    guards_stand_apart,
    visible_code_is_short,
    figures_are_numbered,
    opening_says_what_and_how_long,
    reading_time_is_counted,
    headings_form_a_tree,
    tables_have_headings,
    links_are_alive,
    answers_are_marked,
    stored_clean,
    exercises_are_complete,
    solutions_are_accepted,
]


def equations(notebooks: Mapping[Path, NotebookNode], library: Mapping[Path, str]) -> list[str]:
    r"""Formulas and code lines name each other: \tag{4.3} in one notebook, `eq. (4.3)` in code.

    Every displayed equation has a tag, tags are unique and start with their notebook's number, every tag is cited in
    the library or in a code cell, and every citation in code has its equation. `library` maps files to their text.
    """
    complaints = []
    tags: Counter[str] = Counter()
    cited: dict[str, str] = {}
    for file, text in library.items():
        cited |= dict.fromkeys(CITATION.findall(text), file.name)
    for path, notebook in notebooks.items():
        for place, cell in _cells(notebook, "code"):
            cited |= dict.fromkeys(CITATION.findall(cell.source), f"{path.name}, {place}")
        for place, cell in _cells(notebook, "markdown"):
            prose = _prose(cell)
            for formula in DISPLAY_MATH.finditer(prose):
                if not TAG.search(formula[0]):
                    complaints.append(f"{path.name}, {place}: {formula[0][:60]!r} has no \\tag{{{_number(path)}.…}}")
            for tag in TAG.findall(prose):
                tags[tag] += 1
                if not re.fullmatch(rf"{_number(path)}\.\d+", tag):
                    complaints.append(f"{path.name}, {place}: \\tag{{{tag}}} does not start with {_number(path)}.")
    complaints += [f"\\tag{{{tag}}} stands {count} times: once is right" for tag, count in tags.items() if count > 1]
    uncited, unstated = sorted(tags.keys() - cited), sorted(cited.keys() - tags)
    complaints += [f"\\tag{{{tag}}} is cited nowhere in code: write eq. ({tag}) at its line" for tag in uncited]
    complaints += [f"{cited[tag]} cites eq. ({tag}), which no notebook states" for tag in unstated]
    return complaints


class _Images(HTMLParser):
    """Collect the alternative texts of all images."""

    def __init__(self) -> None:
        super().__init__()
        self.alternatives: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.alternatives.append(dict(attrs).get("alt") or "")


def _cells(notebook: NotebookNode, kind: str | None = None) -> Iterable[tuple[str, NotebookNode]]:
    for number, cell in enumerate(notebook.cells):
        if kind in (None, cell.cell_type):
            yield f"cell {number}", cell


def _outputs(notebook: NotebookNode) -> Iterable[tuple[str, NotebookNode]]:
    for place, cell in _cells(notebook, "code"):
        for output in cell.outputs:
            yield place, output


def _texts(output: NotebookNode) -> list[str]:
    """All text of an output, without the pictures in it."""
    texts = [output.get("text", ""), *output.get("traceback", [])]
    texts += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return [re.sub(r"data:image/\w+;base64,[A-Za-z0-9+/=]+", "", text) for text in texts]


def _prose(cell: NotebookNode) -> str:
    """Markdown without its code."""
    return CODE_SPAN.sub("", FENCE.sub("", cell.source)) if cell.cell_type == "markdown" else ""


def _number(path: Path) -> str:
    """'4' for 04_fisher_information.ipynb."""
    return str(int(path.name.split("_")[0]))


def _defines(statement: ast.stmt) -> set[str]:
    """The names that a def, a class or an assignment gives a meaning."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
