"""Each rule for notebooks accepts a good notebook and is seen to reject a broken one."""

import copy
import sys
from pathlib import Path

import nbformat
import notebook_rules as rules
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="

OPENING = """# 4 · Fisher information

20 minutes, and notebook 3.

## Learning objectives

- You can say what F is.
- You can compute it.

See [the one before](03_before.ipynb) and [below](#The-definition)."""

EXPLANATION = """## The definition

$$F = \\mathbb{E}\\, g^2 \\tag{4.1}$$

![A bell curve.](bell.png) The code `[is not](a link)`."""

FOLDED = """<details><summary>Hint</summary>

Twice one.
</details>
<details><summary>Solution</summary>

```python
def double(x):
    return math.ldexp(x, 1)
```
</details>"""

EXERCISES = """
def _check(answer):
    print("Exercise: not answered yet" if answer(1) is None else "Right: doubled." if answer(1) == 2 else "Not yet.")
check_4_1 = check_4_2 = check_4_3 = _check
"""


def exercise(number):
    return [
        new_markdown_cell(f"### Exercise 4.{number} Double it\n\n*Difficulty 2/5 · 5 minutes*\n\nWrite `double`."),
        new_code_cell(
            f"def double(x):\n    return None\n\nexercises.check_4_{number}(double)",
            outputs=[new_output("stream", name="stdout", text="Exercise: not answered yet\n")],
        ),
        new_markdown_cell(FOLDED),
    ]


@pytest.fixture
def path(tmp_path, monkeypatch):
    (tmp_path / "exercises_of_4.py").write_text(EXERCISES)
    (tmp_path / "03_before.ipynb").touch()
    (tmp_path / "bell.png").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "exercises_of_4", raising=False)
    return tmp_path / "04_fisher_information.ipynb"


@pytest.fixture
def good():
    """Cells: 0 opening, 1 imports, 2 explanation, 3 figure, 4 to 12 three exercises."""
    html = f'<img alt="A dot." src="data:image/png;base64,{PIXEL}">'
    figure = new_output(
        "display_data",
        data={"image/png": PIXEL, "text/plain": "A dot.", "text/html": html},
        metadata={"image/png": {"alt": "A dot."}},
    )
    notebook = new_notebook(
        cells=[
            new_markdown_cell(OPENING),
            new_code_cell("import math\nimport exercises_of_4 as exercises"),
            new_markdown_cell(EXPLANATION),
            new_code_cell("plot()  # eq. (4.1)", outputs=[figure]),
            *exercise(1), *exercise(2), *exercise(3),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}},
    )  # fmt: skip
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
    nbformat.validate(notebook)
    return notebook


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_good_notebook_keeps_every_rule(rule, good, path):
    assert rule(good, path) == []


def put(place, source):
    def change(notebook):
        notebook.cells[place].source = source

    return change


def long_cells(notebook):
    for cell in notebook.cells:
        cell.source = "\n".join(["x = 1"] * 12) if cell.cell_type == "code" else cell.source


def replace(place, old, new):
    def change(notebook):
        assert old in notebook.cells[place].source
        notebook.cells[place].source = notebook.cells[place].source.replace(old, new)

    return change


def store(output):
    def change(notebook):
        notebook.cells[3].outputs.append(copy.deepcopy(output))

    return change


def text(words):
    return store(new_output("stream", name="stdout", text=words))


def delete(*places):
    def change(notebook):
        notebook.cells = [cell for place, cell in enumerate(notebook.cells) if place not in places]

    return change


def attribute(change):
    """Let a lambda assign: from the notebook it returns a node, a key and the key's new value."""

    def apply(notebook):
        node, key, value = change(notebook)
        node[key] = value

    return apply


def figure(notebook):
    return notebook.cells[3].outputs[0]


WIDGET = {rules.WIDGET: {"model_id": "1"}}
BROKEN = {
    "never run": (rules.runs_in_order, attribute(lambda n: (n.cells[3], "execution_count", None)), "None, not 2"),
    "run twice": (rules.runs_in_order, attribute(lambda n: (n.cells[3], "execution_count", 7)), "7, not 2"),
    "empty cell": (rules.runs_in_order, put(3, " \n"), "empty code cell"),
    "error": (rules.no_errors, store(new_output("error", ename="NameError", evalue="x", traceback=[])), "NameError: x"),
    "warning": (rules.no_errors, store(new_output("stream", name="stderr", text="Warning: w")), "Warning: w"),
    "path in source": (rules.no_machine_paths, put(1, "open('/home/ada/x')"), "/home/ada/x"),
    "path in output": (rules.no_machine_paths, text("saved to /tmp/x.png"), "/tmp/x.png"),
    "path on Windows": (rules.no_machine_paths, text(r"C:\Users\ada"), r"Users"),
    "path in HTML": (
        rules.no_machine_paths,
        store(new_output("display_data", data={"text/html": "<a href='/root/x'>"})),
        "/root/x",
    ),
    "figure without text": (rules.outputs_have_text, lambda n: figure(n).data.pop("text/plain"), "without a text"),
    "widget alone": (rules.outputs_have_text, store(new_output("display_data", data=WIDGET)), "without a text"),
    "widget stored": (
        rules.outputs_have_text,
        store(new_output("display_data", data=WIDGET | {"text/plain": "a slider"})),
        "stores a widget",
    ),
    "widget state": (rules.outputs_have_text, attribute(lambda n: (n.metadata, "widgets", {})), "widget state"),
    "matplotlib's text": (rules.outputs_have_text, text("<Figure size 640x480 with 1 Axes>"), "Figure size"),
    "address": (rules.outputs_have_text, text("<generator object at 0x7f00aa12>"), "0x7f00aa12"),
    "progress bar": (rules.outputs_have_text, text("100%|███| 5/5 [00:00<00:00, 46.23it/s]"), "it/s"),
    "no alt in metadata": (
        rules.images_have_alternative_text,
        attribute(lambda n: (figure(n), "metadata", {})),
        "image/png without",
    ),
    "no alt in HTML": (
        rules.images_have_alternative_text,
        lambda n: figure(n).data.pop("text/html"),
        "alt='No description has",
    ),
    "no alt in markdown": (
        rules.images_have_alternative_text,
        replace(2, "![A bell curve.]", "![]"),
        "bell.png without alternative text",
    ),
    "column without heading": (
        rules.tables_have_headings,
        replace(2, "$$F = ", "| | label |\n|---|:-:|\n| A | 1 |\n\n$$F = "),
        "'| | label |'",
    ),
    "long cell": (rules.code_cells_are_short, put(3, "\n".join(["x = 1"] * 31)), "31 lines"),
    "assert below a print": (rules.guards_stand_apart, put(3, "print(1)\nassert 1 < 2"), "ends in an assert"),
    "long visible cells": (rules.visible_code_is_short, long_cells, "12 lines in the median"),
    "number missing": (rules.figures_are_numbered, put(3, "plots.show(figure, 'A dot.')"), "not ['4.1']"),
    "number of another": (rules.figures_are_numbered, put(3, "plots.show(figure, 'A dot.', '4.2')"), "not ['4.1']"),
    "band unfolded": (rules.stored_clean, attribute(lambda n: (n.cells[3], "id", "04-look-band")), "is to be folded"),
    "code hidden": (
        rules.stored_clean,
        attribute(lambda n: (n.cells[3].metadata, "jupyter", {"source_hidden": True})),
        "is to be folded",
    ),
    "no objectives": (rules.opening_says_what_and_how_long, replace(0, "Learning objectives", "What"), "objectives"),
    "one objective": (rules.opening_says_what_and_how_long, replace(0, "- You can compute it.\n", ""), "two or more"),
    "no minutes": (rules.opening_says_what_and_how_long, replace(0, "20 minutes", "Soon done"), "how many minutes"),
    "invented minutes": (
        rules.reading_time_is_counted,
        replace(0, "20 minutes", "90 minutes to read"),
        "minutes by README's formula, not 90",
    ),
    "forgotten appendix": (
        rules.reading_time_is_counted,
        put(2, "## Appendix: more\n\n" + "word " * 1800),
        "the appendices take 1",
    ),
    "no title": (rules.headings_form_a_tree, delete(0), "does not open"),
    "two titles": (rules.headings_form_a_tree, replace(2, "## The", "# The"), "second H1"),
    "level skipped": (rules.headings_form_a_tree, replace(2, "## The", "#### The"), "use H3"),
    "dead file": (rules.links_are_alive, replace(0, "03_before", "03_after"), "03_after.ipynb"),
    "dead image": (rules.links_are_alive, replace(2, "bell.png", "ball.png"), "ball.png"),
    "dead anchor": (rules.links_are_alive, replace(0, "#The-definition", "#A-definition"), "no heading"),
    "absolute link": (rules.links_are_alive, replace(0, "03_before.ipynb", "/03_before.ipynb"), "beside the notebook"),
    "dead HTML link": (rules.links_are_alive, put(2, '## A\n\n<a class="x" href="gone.md">a</a>'), "gone.md"),
    "prediction without answer": (
        rules.answers_are_marked,
        put(2, "## A\n\n**Predict:** how much?"),
        "cell 2 asks for a prediction: tag its output",
    ),
    "answer without prediction": (
        rules.answers_are_marked,
        attribute(lambda n: (n.cells[3].metadata, "tags", ["answer"])),
        "cell 3 is tagged answer, and answers no prediction",
    ),
    "equation in an answer": (
        rules.answers_are_marked,
        attribute(lambda n: (n.cells[2].metadata, "tags", ["answer"])),
        "split it",
    ),
    "introduced in a fold": (
        rules.answers_are_marked,
        attribute(lambda n: (n.cells[2].metadata, "tags", ["answer"])),
        "cell 2 is folded, but not the output",
    ),
    "clock times": (
        rules.stored_clean,
        attribute(lambda n: (n.cells[3].metadata, "execution", {"shell": "12:00"})),
        "'execution'",
    ),
    "interpreter": (
        rules.stored_clean,
        attribute(lambda n: (n.metadata.language_info, "version", "3.11.7")),
        "more than kernel",
    ),
    "own kernel": (rules.stored_clean, attribute(lambda n: (n.metadata.kernelspec, "name", "venv")), "python3"),
    "comparison skipped": (rules.stored_clean, put(3, "# NBVAL_IGNORE_OUTPUT\nplot()"), "opts out"),
    "tagged to skip": (rules.stored_clean, attribute(lambda n: (n.cells[3].metadata, "tags", ["nbval-skip"])), "opts"),
    "two exercises": (rules.exercises_are_complete, delete(10, 11, 12), "has 2 exercises"),
    "wrong number": (rules.exercises_are_complete, replace(7, "4.2", "4.5"), "should be '### Exercise 4.2'"),
    "no effort": (rules.exercises_are_complete, replace(4, "*Difficulty 2/5", "*Difficulty easy"), "does not state"),
    "no check": (rules.exercises_are_complete, replace(5, "check_4_1", "check_4_9"), "calls exercises.check_4_1("),
    "answered": (
        rules.exercises_are_complete,
        attribute(lambda n: (n.cells[5].outputs[0], "text", "Right.")),
        "'not answered yet'",
    ),
    "no hint": (rules.exercises_are_complete, replace(6, "Hint", "Idea"), "<summary>Hint"),
    "no solution": (rules.exercises_are_complete, replace(6, "Solution", "Answer"), "<summary>Solution"),
    "solution not fenced": (rules.exercises_are_complete, replace(6, "```python", "```"), "<summary>Solution"),
    "nothing folded": (rules.exercises_are_complete, delete(12), "exercise 4.3 has no folded <summary>Hint"),
    "code between": (rules.exercises_are_complete, lambda n: n.cells.insert(7, new_code_cell("x")), "exercise's stub"),
    "wrong solution": (rules.solutions_are_accepted, replace(6, "ldexp(x, 1)", "ldexp(x, 2)"), "'Not yet.\\n'"),
    "raising solution": (rules.solutions_are_accepted, replace(6, "ldexp(x, 1)", "nonsense(x)"), "AttributeError"),
    "other name": (rules.solutions_are_accepted, replace(6, "def double", "def twice"), "none of which the stub"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_notebook_breaks_its_rule(name, good, path):
    rule, change, complaint = BROKEN[name]
    change(good)
    assert complaint in "\n".join(rule(good, path))


def test_every_rule_is_seen_to_fail():
    assert {rule for rule, _, _ in BROKEN.values()} == set(rules.RULES)


def test_a_value_can_be_the_answer(good, path):
    module = path.with_name("exercises_of_4.py")
    module.write_text("def check_4_1(answer):\n    print('Right' if answer == 2 else 'No')")
    good.cells[5].source = "answer = None  # a number\nexercises.check_4_1(answer)"
    good.cells[6].source = FOLDED.replace("def double(x):\n    return math.ldexp(x, 1)", "answer = 2")
    good.cells = good.cells[:7]
    assert rules.solutions_are_accepted(good, path) == []


LIBRARY = {Path("fisher.py"): "# eq. (4.1)"}


def test_equations_that_code_cites_are_accepted(good, path):
    assert rules.equations({path: good}, LIBRARY) == []
    assert rules.equations({path: good}, {}) == []  # the code cell's own citation is enough


@pytest.mark.parametrize(
    ("change", "library", "complaint"),
    [
        (replace(2, "\\tag{4.1}", ""), {}, "has no \\tag{4.…}"),
        (replace(2, "\\tag{4.1}", "\\tag{3.1}"), {}, "does not start with 4."),
        (replace(2, "\\tag{4.1}", "\\tag{4.2}"), {}, "\\tag{4.2} is cited nowhere"),
        (replace(2, "\\tag{4.1}", "\\tag{4.2}"), {}, "cell 3 cites eq. (4.1), which no notebook states"),
        (replace(2, "$$F", "$$G \\tag{4.1}$$\n\n$$F"), {}, "\\tag{4.1} stands 2 times"),
        (replace(0, "# 4", "# 4"), {Path("ewc.py"): "see eq. (5.1)"}, "ewc.py cites eq. (5.1)"),
    ],
    ids=["untagged", "foreign number", "uncited", "unstated", "twice", "library"],
)
def test_equations_without_their_counterpart_are_reported(change, library, complaint, good, path):
    change(good)
    assert complaint in "\n".join(rules.equations({path: good}, library))
