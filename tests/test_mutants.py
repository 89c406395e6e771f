"""The other tests are tested: each mistake below is made in a copy of the library, and they must notice it.

Most of the mistakes were found in public EWC code. A mutant is one replacement of a piece of text that occurs exactly
once, so a list that no longer fits the library fails, too. Each runs in a process of its own, and sees only its copy.
"""

import contextlib
import io
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

import contlearn

LIBRARY = Path(contlearn.__file__).parent
TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Mutant:
    """In `module`, `original` becomes `mistake`; `tests`, an expression for `-k`, selects who shall notice."""

    module: str
    original: str
    mistake: str
    tests: str
    file: str = ""  # without "test_" and ".py"; by default that of the module

    @property
    def test_file(self) -> str:
        return self.file or {"quadratics": "ewc"}.get(self.module, self.module)


MUTANTS = {
    "square of the mean gradient": Mutant(
        "fisher",
        """torch.einsum("ngot,ngit->goi", g2, a.square())""",
        """sum(torch.einsum("ngot,ngit->goi", g, a).square() for g in gs) / len(a)""",
        "loop and mlp and exact",
    ),
    "gradients summed over the batch, then squared": Mutant(
        "fisher",
        "(g_part @ a_part.mT).square().sum(0)",
        "(g_part @ a_part.mT).sum(0).square()",
        "loop and conv2d and exact",
    ),
    "gradients of the bias summed over the batch, then squared": Mutant(
        "fisher", "g.sum(-1).square().sum(0) for", "g.sum(-1).sum(0).square() for", "loop and conv2d and exact"
    ),
    "only the last class counted": Mutant("fisher", "g2.addcmul_(g, g)", "g2.copy_(g * g)", "loop and mlp and exact"),
    "square of each position, not of the image": Mutant(
        "fisher", "g.sum(-1).square().sum(0) for", "g.square().sum(-1).sum(0) for", "loop and conv2d and exact"
    ),
    "classes not weighted by their probability": Mutant(
        "fisher", "return p.T.sqrt()[:, :, None] * ", "return ", "loop and linear and exact"
    ),
    "every image meets every label": Mutant(
        "fisher", " - p)[None]", ".sum(0) - len(p) * p)[None]", "loop and linear and empirical"
    ),
    "most likely label called empirical": Mutant(
        "fisher", """elif estimator == "predicted":""", "else:", "loop and linear and empirical"
    ),
    "one number for a whole layer": Mutant(
        "fisher", "yield name, squares[kind].reshape(", "yield name, squares[kind].mean().expand(", "softmax and hand"
    ),
    "eval() forgotten": Mutant(
        "fisher", "mode(model, training=False)", "mode(model, training=model.training)", "dropout"
    ),
    "one image too many counted": Mutant(
        "fisher",
        "total / count for name, total in fisher",
        "total / (count + 1) for name, total in fisher",
        "softmax and hand",
    ),
    "batches counted instead of images": Mutant(
        "fisher",
        "count += len(images)\n    return {",
        "count += 1\n    return {",
        "softmax and hand",
    ),
    "last chunk only": Mutant(
        "fisher",
        "layers, logits, vectors):\n            fisher[name] += squares",
        "layers, logits, vectors):\n            fisher[name] = squares",
        "chunks and mlp",
    ),
    "activations changed in place": Mutant("fisher", "return output.clone()", "return output", "in-place and closed"),
    "½ missing": Mutant("ewc", "0.5 * importance * value", "importance * value", "half_by_hand"),
    "old F overwritten": Mutant(
        "quadratics",
        "old, total = precision[name], precision[name] + f",
        "old, total = precision[name], f",
        "tasks_by_hand",
    ),
    "old F counted twice": Mutant(
        "quadratics",
        "old, total = precision[name], precision[name] + f",
        "old = total = precision[name] + f",
        "tasks_by_hand",
    ),
    "newest anchor for all tasks": Mutant("quadratics", "center[name] + share * step", "theta", "tasks_by_hand"),
    "constant of earlier tasks lost": Mutant(
        "quadratics", "constant += float(", "constant = float(", "sum_over_tasks and 10"
    ),
    "decay of the new task": Mutant(
        "quadratics",
        "precision = {name: decay * s for name, s in self.precision.items()}",
        "precision = dict(self.precision); fisher = {n: decay * f for n, f in fisher.items()}",
        "sum_over_tasks and 2-",
    ),
    "anchor is the live weights": Mutant(
        "quadratics", "center[name] = f.clone(), theta.clone()", "center[name] = f.clone(), theta", "right_after_it"
    ),
    "weights compared with themselves": Mutant(
        "quadratics", "offsets = [p - m for p, m", "offsets = [p - p for p, m", "half_by_hand"
    ),
    "η missing in the proximal step": Mutant(
        "ewc", "lr * self.importance)", "self.importance)", "proximal_step_by_hand"
    ),
    "explicit step instead of the proximal one": Mutant(
        "quadratics", "[s / (1 + s) for s in scaled]", "scaled", "proximal_step_by_hand"
    ),
    "stale proximal step": Mutant("quadratics", "or self._weights[0] != strength", "", "forgets_what_it_had_prepared"),
    "bias left out of the factors": Mutant(
        "fisher", "a.new_ones(len(a), 1)", "a.new_zeros(len(a), 1)", "loops and mlp and exact", "kronecker"
    ),
    "both factors averaged over the places of a convolution": Mutant(
        "fisher",
        "Factors(inputs[name] / count,",
        "Factors(inputs[name] / places[name],",
        "loops and conv2d",
        "kronecker",
    ),
    "sum of the A's, sum of the G's": Mutant(
        "quadratics", "a=old.a + (new.a - old.a) / count", "a=old.a + new.a", "whole_matrix and mlp", "kronecker"
    ),
    "decay of both factors": Mutant(
        "quadratics",
        "f._replace(g=decay * f.g)",
        "f._replace(a=decay * f.a, g=decay * f.g)",
        "whole_matrix and mlp",
        "kronecker",
    ),
    "oldest anchor for all tasks": Mutant(
        "quadratics",
        "anchors[name] = theta.clone()\n",
        "anchors.setdefault(name, theta.clone())\n",
        "whole_matrix and mlp",
        "kronecker",
    ),
    "explicit step instead of the proximal one, in the eigenbases": Mutant(
        "quadratics", "/ (1 + strength * spectrum)", "* (1 - strength * spectrum)", "whole_matrix and mlp", "kronecker"
    ),
    "new rows are not free": Mutant(
        "quadratics", "torch.cat((old, old.new_zeros(", "torch.cat((old, old.new_ones(", "grow_frees"
    ),
    "other classes made unlikely only": Mutant(
        "models", "masked_fill(hidden, max(-1e9,", "masked_fill(hidden, max(-10,", "no_probability"
    ),
}


FILES = sorted({mutant.test_file for mutant in MUTANTS.values()})


def copy_of_everything(folder: Path) -> None:
    """The library and its tests in `folder`, with settings for pytest that need no plugin."""
    shutil.copytree(LIBRARY, folder / "contlearn", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("oracles", *(f"test_{file}" for file in FILES)):
        shutil.copy(TESTS / f"{name}.py", folder)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")


def run(folder: Path, files: list[str], tests: str) -> tuple[int, str, Path]:
    """In a fresh process: pytest's exit code and output in `folder`, and which library it has imported."""
    os.chdir(folder)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # importing those takes longer than the tests
    here = {TESTS, TESTS.parent, LIBRARY.parent, Path()}
    sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry) not in here)]
    for name in [name for name in sys.modules if name.split(".")[0] in ("contlearn", "conftest", "oracles")]:
        del sys.modules[name]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = pytest.main(
            ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-k", tests, *(f"test_{file}.py" for file in files)]
        )
    return int(code), output.getvalue(), Path(sys.modules["contlearn"].__file__ or "")


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, tuple[Path, Future[tuple[int, str, Path]]]]]:
    """All mutants, and one healthy copy, two at a time; torch is imported once, and each process starts from there."""
    unix = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if unix else "spawn")
    if unix:
        context.set_forkserver_preload(["torch", "pytest"])
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as pool:
        started = {}
        for number, (name, mutant) in enumerate([*MUTANTS.items(), ("healthy", None)]):
            copy_of_everything(folder := tmp_path_factory.mktemp(f"mutant{number}"))
            if mutant:
                file = folder / "contlearn" / f"{mutant.module}.py"
                text = file.read_text(encoding="utf-8")
                file.write_text(text.replace(mutant.original, mutant.mistake), encoding="utf-8")
            files = [mutant.test_file] if mutant else FILES
            tests = mutant.tests if mutant else " or ".join(f"({m.tests})" for m in MUTANTS.values())
            started[name] = folder, pool.submit(run, folder, files, tests)
        yield started


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutant_replaces_something_that_is_there_exactly_once(mutant: Mutant) -> None:
    assert (LIBRARY / f"{mutant.module}.py").read_text(encoding="utf-8").count(mutant.original) == 1


@pytest.mark.parametrize("name", MUTANTS)
def test_mistake_is_noticed(name: str, running: dict[str, tuple[Path, Future[tuple[int, str, Path]]]]) -> None:
    """By a test that fails: not by an error in collecting the tests, nor in importing the library."""
    folder, future = running[name]
    code, output, imported = future.result()
    assert imported.is_relative_to(folder)
    assert code == pytest.ExitCode.TESTS_FAILED, output
    assert "1 failed" in output
    assert not any(accident in output for accident in ("SyntaxError", "NameError", "AttributeError")), output


def test_healthy_copy_passes(running: dict[str, tuple[Path, Future[tuple[int, str, Path]]]]) -> None:
    """Otherwise the mutants may have been noticed for another reason."""
    folder, future = running["healthy"]
    code, output, imported = future.result()
    assert imported.is_relative_to(folder)
    assert code == pytest.ExitCode.OK, output
