"""A student's notebook: which one it is, its code cells, and those statements that its exercises need."""

import ast
import builtins
import json
import re
import symtable
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LARGEST_NOTEBOOK = 64 * 2**20  # bytes
_CHECK = re.compile(r"\bcheck_(a?\d+)_(\d+)\b")


@dataclass(frozen=True)
class Submission:
    """What one file holds.

    Attributes:
        path: the file, from the folder that is graded.
        notebook: "4" for notebook 04, "a1" for the first assignment; empty where no check is called.
        cells: the number and the source of each code cell, from top to bottom.
        problem: why the file cannot be graded, or nothing.
    """

    path: Path
    notebook: str = ""
    cells: tuple[tuple[int, str], ...] = field(default=(), repr=False)
    problem: str = ""


def collect(folder: Path) -> list[Submission]:
    """Every notebook below `folder`, read before any is run; Jupyter's checkpoints are no submissions.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted(
        path
        for path in folder.rglob("*.ipynb")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise FileNotFoundError(f"no notebook (*.ipynb) in {folder} or its folders")
    return [read(path, path.relative_to(folder)) for path in paths]


def read(path: Path, name: Path | None = None) -> Submission:
    """One notebook, whatever its bytes are."""
    name = name or Path(path.name)
    try:
        if not path.is_file() or path.is_symlink():
            return Submission(name, problem="not a plain file")
        if path.stat().st_size > LARGEST_NOTEBOOK:
            return Submission(name, problem=f"larger than {LARGEST_NOTEBOOK // 2**20} MB")
        found = json.loads(path.read_text("utf-8"))
        cells = tuple(
            (number, "".join(cell["source"]))
            for number, cell in enumerate(found["cells"])
            if cell["cell_type"] == "code"
        )
    except OSError as error:
        return Submission(name, problem=f"cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError, RecursionError):
        return Submission(name, problem="not a notebook: its JSON is damaged or incomplete")
    numbers = Counter(number for _, source in cells for number, _ in _CHECK.findall(source))
    if not numbers:
        return Submission(name, cells=cells, problem="no cell calls a check of contlearn.exercises")
    return Submission(name, numbers.most_common(1)[0][0], cells)


def needed(cells: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """The cells that call a check, and before them the statements that define what they use, and what these use.

    A cell that is no Python by itself (a magic, a broken line) is left as it is if it calls a check, else left out.
    """
    parsed: list[tuple[int, str, list[ast.stmt] | None]] = []
    for number, source in cells:
        try:
            parsed.append((number, source, ast.parse(source).body))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            parsed.append((number, source, None))
    wanted: set[str] = set()
    kept: list[tuple[int, str]] = []
    for number, source, body in reversed(parsed):
        if _CHECK.search(source):
            kept.append((number, source))
            wanted |= _used(body or []) | (set(re.findall(r"[^\W\d]\w*", source)) if body is None else set())
            continue
        chosen: list[ast.stmt] = []
        for statement in reversed(body or ()):
            if _defined(statement) & wanted or _is_star(statement):
                if isinstance(statement, ast.Import | ast.ImportFrom) and not _is_star(statement):
                    statement.names = [alias for alias in statement.names if _name(alias) in wanted]
                chosen.append(statement)
                wanted |= _used([statement])
        if chosen:
            kept.append((number, "\n".join(ast.unparse(statement) for statement in reversed(chosen))))
    return kept[::-1]


def _used(statements: Sequence[ast.stmt]) -> set[str]:
    """The names that statements take from the notebook: a function's own variables are no such names."""
    source = "\n".join(ast.unparse(statement) for statement in statements)
    waiting, names = [symtable.symtable(source, "<cell>", "exec")], set()
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        outermost = table.get_type() == "module"
        names |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (outermost or s.is_global())}
    return names - set(dir(builtins))


def _defined(statement: ast.stmt) -> set[str]:
    """The names of the notebook that a statement gives a value; those inside a function are its own."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(statement):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= set(map(_name, node.names))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


def _is_star(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and any(alias.name == "*" for alias in statement.names)


def _name(alias: ast.alias) -> str:
    return (alias.asname or alias.name).partition(".")[0]
