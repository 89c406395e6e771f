"""Notebooks are graded in processes of their own: rights, stubs, and what means harm, at the cost of its own row."""

import csv
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import notebook_rules
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from torch import nn
from torch.utils.data import TensorDataset

import contlearn
from contlearn import MLP, Task, exercises, grade, train
from contlearn.exercises import judging
from contlearn.grading import messages, submission
from contlearn.grading.supervise import Kernel

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
ASSIGNMENTS = sorted((ROOT / "docs" / "assignments").glob("*.ipynb"))
CHECKS = {name.removeprefix("check_"): getattr(exercises, name) for name in dir(exercises)}
GIB = 2**30


def cells_of(path: Path, solved: bool) -> list[tuple[int, str]]:
    """The code cells of a notebook, with its folded solutions in place of the stubs, or without."""
    cells = nbformat.read(path, as_version=4).cells
    for stub, folded in itertools.pairwise(cells):
        if solved and (solution := notebook_rules.SOLUTION.search(folded.source)):
            call = re.search(r"^exercises\.check_.*$", stub.source, re.MULTILINE)
            stub.source = f"{solution[1]}\n{call[0]}"
    return [(k, cell.source) for k, cell in enumerate(cells) if cell.cell_type == "code"]


def graded_together(solved: bool) -> dict[str, str]:
    """What is said of the exercises of all notebooks, run in one process, without those that train for long."""
    cells = [cell for path in [*NOTEBOOKS, *ASSIGNMENTS] for cell in submission.needed(cells_of(path, solved))]
    names = [name for name in CHECKS if name not in grade.LONG]
    with Kernel(4 * GIB, 120) as kernel:
        assert kernel.run(cells) == []
        assert kernel.answers.keys() >= set(names)
        return {name: grade.judged(CHECKS[name], kernel.answer(name), range(1, 3001, 1000)) for name in names}


def test_reference_solutions_get_full_marks() -> None:
    said = graded_together(solved=True)
    assert len(said) >= 60
    assert {name: words for name, words in said.items() if not words.startswith("Right: ")} == {}


def test_untouched_stubs_get_nothing() -> None:
    assert set(graded_together(solved=False).values()) == {"not answered yet"}


def test_a_reference_solution_that_trains_gets_full_marks() -> None:
    """One of the three, all the way: the images go over, the weights come back, the accuracy is measured here."""
    (path,) = (path for path in NOTEBOOKS if path.name.startswith("05"))
    with Kernel(4 * GIB, 1800) as kernel:
        kernel.run(submission.needed(cells_of(path, solved=True)))
        assert grade.judged(CHECKS["5_6"], kernel.answer("5_6"), [1000]).startswith("Right: ")


def test_the_long_exercises_are_those_judged_by_outcome() -> None:
    assert set(grade.LONG) == {name for name, check in CHECKS.items() if "judge_both" in check.__code__.co_names}


SETUP = "import os, signal, shutil, sys, time\nfrom pathlib import Path\nimport torch\nfrom contlearn import exercises"
RIGHT_ANSWERS = """
def slope(theta, star, f, lam):
    return lam * f * (theta - star)

exercises.check_0_2(slope)
exercises.check_0_4("b")
"""

HANGS_AT_CALL = """
def slope(theta, star, f, lam):
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass

exercises.check_0_2(slope)
"""
FORGES_FRAMES = """
import struct
print("Right: all of it", flush=True)
text = b'{"value": {"is": "value", "value": "Right: everything"}, "verdict": "Right: ", "points": 5}'
for descriptor in range(1, 20):
    try:
        os.write(descriptor, b"Right: full marks\\n" + struct.pack(">QQ", len(text), 2**50) + text)
    except OSError:
        pass
"""
EDITS_CHECKS = """
import contlearn, contlearn.exercises
contlearn.exercises.check_0_2 = lambda answer: print("Right: ")
for place in sys.path + [PACKAGE]:
    for path in Path(place).glob("**/judging.py"):
        try:
            path.write_text("def judge(*a): print('Right: ')")
        except OSError:
            pass
sys.modules["contlearn.grading.messages"].pack = lambda *a: ({"is": "value", "value": "Right: "}, bytearray())
"""
KILLS = """
for name in (str(os.getppid()), *os.listdir("/proc")):
    try:
        if name.isdigit() and "contlearn" in Path("/proc", name, "cmdline").read_text() and int(name) != os.getpid():
            os.kill(int(name), signal.SIGKILL)
    except OSError:
        pass
os.kill(os.getppid(), signal.SIGKILL)
"""
DELETES = """
for place in (FOLDER, PACKAGE, "."):
    shutil.rmtree(place, ignore_errors=True)
"""
TAKES_MEMORY = """
kept = []
while True:
    kept.append(torch.empty(2**28, dtype=torch.uint8))
"""
TALKS = """
with open("large", "wb") as file:
    file.seek(2**33)
    file.write(b"x")
    file.flush()
"""
FORKS = """
for _ in range(90):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
time.sleep(600)
"""
ODD_OBJECTS = """
class Liar(torch.Tensor):
    def __eq__(self, other): return True
    def __reduce__(self): return (os.system, ("touch forged",))

nested = []
nested.append(nested)
exercises.check_0_1(lambda theta, x: nested)
exercises.check_0_2(lambda *a: Liar(torch.zeros(2)))
exercises.check_0_3(lambda *a: {"a": object(), 3: [float("nan")] * 50_000})
exercises.check_0_4(type("b", (str,), {"casefold": lambda self: "b", "strip": lambda self: self})("no"))
exercises.check_0_5(10**5000)
"""
LEAVES = "exercises.check_0_2(lambda *a: sys.exit('Right: '))\nexercises.check_0_4(KeyboardInterrupt)"

HOSTILE = {
    "aborts": ("os.abort()", "ended by itself"),
    "hangs": ("while True: pass", "too slow"),
    "hangs_at_call": (HANGS_AT_CALL, "too slow"),
    "forges": (FORGES_FRAMES, ""),
    "edits_checks": (EDITS_CHECKS, ""),
    "kills": (KILLS, ""),
    "deletes": (DELETES, ""),
    "takes_memory": (TAKES_MEMORY, "memory"),
    "writes_much": (TALKS, "OSError"),
    "forks": (FORKS, "more than 64 processes"),
    "leaves_at_once": ("os._exit(0)", "ended by itself"),
    "shouts": ("while True: print('Right: ' * 10_000)", ""),
    "odd_objects": (ODD_OBJECTS, ""),
    "leaves": (LEAVES, ""),
    "raises": ("1 / 0", "ZeroDivisionError"),
}
POSSIBLE_POINTS = {"deletes": 2, "kills": 2, "takes_memory": 2, "writes_much": 2, "raises": 2}


def store(path: Path, *sources: str) -> None:
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, str]]]:
    """A class of which most mean harm, graded by the command, with a grader whose own files are copies."""
    if sys.platform != "linux":
        pytest.skip("what is not Linux cannot hold back all of these")
    folder, output = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("grades")
    paths = f"FOLDER, PACKAGE = {str(folder)!r}, {str(Path(contlearn.__file__).parent / 'exercises')!r}"
    for name in ("anna", "zoe"):
        store(folder / f"{name}.ipynb", SETUP, RIGHT_ANSWERS)
    for name, (harm, _) in HOSTILE.items():
        alone = name in ("odd_objects", "leaves")
        store(folder / f"h_{name}.ipynb", SETUP, paths, *([] if alone else ["exercises.check_0_4('b')"]), harm,
              *([] if alone or name == "hangs_at_call" else [RIGHT_ANSWERS]))  # fmt: skip
    (folder / "h_torn.ipynb").write_text('{"cells": [{"cell_')
    (folder / "h_bytes.ipynb").write_bytes(bytes(range(256)) * 9)
    (folder / "h_deep.ipynb").write_text("[" * 100_000)
    (folder / "h_folder.ipynb").mkdir()
    (folder / "h_link.ipynb").symlink_to("/dev/zero")
    before = {path: path.read_bytes() for path in folder.glob("*.ipynb") if path.is_file() and not path.is_symlink()}
    command = [sys.executable, "-m", "contlearn.grade", folder, "--output", output, "--seconds", "8", "--memory", "3"]
    (scratch := output / "scratch").mkdir()
    environment = os.environ | {"TMPDIR": str(scratch)}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.read_bytes() for path in before} == before
    with open(output / "grades.csv", encoding="utf-8", newline="") as file:
        return folder, scratch, list(csv.DictReader(file))


def test_hostile_notebooks_cost_their_rows_and_nothing_else(hostile_run: Any) -> None:
    folder, _, rows = hostile_run
    assert [row["file"] for row in rows] == sorted(path.name for path in folder.glob("*.ipynb"))
    by_name = {row["file"].removesuffix(".ipynb"): row for row in rows}
    for name in ("anna", "zoe"):
        assert (by_name[name]["points"], by_name[name]["of"], by_name[name]["problem"]) == ("2", "5", "")
    for name, (_, problem) in HOSTILE.items():
        row = by_name[f"h_{name}"]
        assert problem in row["problem"], row
        assert int(row["points"]) <= POSSIBLE_POINTS.get(name, 2), row
    for name in ("hangs", "aborts", "forks", "leaves_at_once", "odd_objects", "leaves"):
        assert by_name[f"h_{name}"]["points"] == "0"
    for name in ("torn", "bytes", "deep", "folder", "link"):
        assert by_name[f"h_{name}"]["problem"].startswith("not a")


def test_nothing_that_they_started_is_left(hostile_run: Any) -> None:
    """The forked processes slept for ten minutes in sessions of their own."""
    _, scratch, _ = hostile_run
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if bytes(scratch) in _read(path)] == []
    assert list(scratch.iterdir()) == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def tiny(name: str, seed: int) -> Task:
    """A task that a linear model learns in a moment: the brightest row tells the class."""
    generator = torch.Generator().manual_seed(seed)

    def part(count: int) -> TensorDataset:
        labels = torch.arange(count) % 10
        images = 0.3 * torch.rand(count, 28, 28, generator=generator)
        images[torch.arange(count), labels] += 1
        return TensorDataset(images, labels)

    return Task(name, dict(enumerate("abcdefghij")), part(300), part(200))


def learn(model: nn.Module, *tasks: Task) -> nn.Module:
    train(model, [batch for task in tasks for batch in task.train_loader(50)], epochs=15, lr=0.1, progress=False)
    return model


def test_finished_weights_are_worth_nothing_and_a_trained_network_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Labels change places from run to run, and the test images stay here."""
    tasks = (tiny("first", 1), tiny("second", 2))
    finished = learn(MLP(32, 1), *tasks)

    def told(answer: Any, material: int = 1000) -> str:
        torch.manual_seed(0)
        with judging.unseen(material):
            judging.judge_both(answer, MLP(32, 1), tasks, 0.9, "so it is.")
        return capsys.readouterr().out

    assert told(learn).startswith("Right: ")
    assert told(lambda *given: finished).startswith("Not yet: ")
    assert told(lambda *given: finished, material=0).startswith("Right: ")  # what a reader's check cannot know
    seen: list[torch.Tensor] = []
    told(lambda model, first, second: seen.extend((first.test.tensors[0], second.test.tensors[0])) or model)
    for images, task in zip(seen, tasks, strict=True):
        assert not any(torch.equal(image, each) for image in images[:5] for each in task.test.tensors[0])


def test_needed_statements_are_kept_and_others_left_out() -> None:
    cells = [
        (1, "import math, os\nfrom pathlib import Path"),
        (2, "factor = math.pi\ndef helper(x):\n    return factor * x"),
        (3, "while True: pass"),
        (4, "%timeit broken"),
        (5, "def area(r):\n    x = r * r\n    return helper(x)\nexercises.check_0_1(area)"),
        (6, "x = 3\nprint(x)"),
    ]
    kept = submission.needed(cells)
    assert [number for number, _ in kept] == [1, 2, 5]
    assert kept[0][1] == "import math"
    names: dict[str, Any] = {"exercises": type("Checks", (), {"check_0_1": staticmethod(lambda answer: None)})}
    for _, source in kept:
        exec(source, names)
    assert names["area"](2) == pytest.approx(12.566370614359172)


def test_a_table_holds_no_formula_and_no_line_break(tmp_path: Path) -> None:
    row = grade.Row(
        submission.Submission(Path("=cmd.ipynb"), "0"),
        {"0_1": 1},
        {"0_1": 0},
        {"0_1": "Not yet: this is p x xᵀ: a point counts."},
        "+cell 1 stopped\nwith\x1b[31m",
    )
    grade.write([row], tmp_path)
    with open(tmp_path / "grades.csv", encoding="utf-8", newline="") as file:
        (read,) = csv.DictReader(file)
    assert read["file"] == "'=cmd.ipynb"
    assert read["problem"] == "'+cell 1 stopped with [31m"
    assert read["misconceptions"] == "0.1: this is p x xᵀ: a point counts."
    text = (tmp_path / "grades.txt").read_text("utf-8")
    assert "1 × 0.1 this is p x xᵀ: a point counts." in text
    assert "\x1b" not in text


def test_a_wrong_answer_without_a_name_is_no_misconception() -> None:
    said = {"1_1": "Not yet: expected 3, got 4.", "1_2": "Not yet: your code stopped with X: y", "1_3": "Right: yes."}
    assert grade.Row(submission.Submission(Path("a.ipynb")), said=said).misconceptions() == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["."], "no notebook"),
        ([".", "--seconds", "0"], "must be positive"),
        ([".", "--seed", "-1"], "expected a number from 0"),
    ],
)
def test_a_wrong_call_is_told(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        grade.main(arguments)
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


FORGED = [
    {"is": "argument", "which": 7},
    {"is": "tensor", "dtype": "torch.float64", "shape": [10**9], "at": 0, "wants_gradient": False, "alias": None},
    {"is": "tensor", "dtype": "torch.float64", "shape": [-1], "at": 0, "wants_gradient": False, "alias": None},
    {"is": "tensor", "dtype": "object", "shape": [], "at": 0, "wants_gradient": False, "alias": None},
    {"is": "pickle", "data": "..."},
    {"is": "value", "value": {"a": 1}},
    {"is": "list", "items": 3},
    "Right: ",
    None,
]


@pytest.mark.parametrize("told", FORGED, ids=str)
def test_a_forged_message_is_refused(told: Any) -> None:
    with pytest.raises(messages.Malformed):
        messages.unpack(told, bytearray(64))


def test_only_data_comes_over() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (exit, ())

    there = messages.unpack(*messages.pack({"a": [Trap(), (1, 2.5, "x", None, ...)], "t": torch.eye(2)}))
    assert type(there["a"][0]).__mro__[1] is messages.Unknown
    assert there["a"][1] == (1, 2.5, "x", None, ...)
    assert torch.equal(there["t"], torch.eye(2))
