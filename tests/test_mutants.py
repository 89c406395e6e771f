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
        usual = {"quadratics": "ewc"} | dict.fromkeys(("layers", "per_image", "refusals", "sweep"), "fisher")
        return self.file or usual.get(self.module, self.module)


MUTANTS = {
    "square of the mean gradient": Mutant(
        "layers", "g_part, a_part.square())", "g_part, a_part).square() / len(g2)", "loop and mlp and exact"
    ),
    "gradients summed over the batch, then squared": Mutant(
        "layers",
        "(g_part @ a_part.mT).square_().sum(0)",
        "(g_part @ a_part.mT).sum(0).square()",
        "loop and conv2d and exact",
    ),
    "gradients of the bias summed over the batch, then squared": Mutant(
        "layers",
        """self._add("bias", g.sum(-1).square().sum(0))
        some""",
        """self._add("bias", g.sum(-1).sum(0).square())
        some""",
        "loop and conv2d and exact",
    ),
    "only the last class counted": Mutant(
        "layers",
        """self._sums["g²"].addcmul_(g, g)""",
        """self._sums["g²"].copy_(g * g)""",
        "loop and mlp and exact",
    ),
    "square of each position, not of the image": Mutant(
        "layers",
        """self._add("bias", g.sum(-1).square().sum(0))
        some""",
        """self._add("bias", g.square().sum(-1).sum(0))
        some""",
        "loop and conv2d and exact",
    ),
    "square of each position of a norm, not of the image": Mutant(
        "layers",
        "(g * self.patches()).sum(-1).square().sum(0)",
        "(g * self.patches()).square().sum(-1).sum(0)",
        "loop and convolution and exact",
    ),
    "classes not weighted by their probability": Mutant(
        "likelihoods", "ranked.sqrt() *", "torch.ones_like(ranked) *", "loop and linear and exact", "fisher"
    ),
    "several draws added up": Mutant("likelihoods", "v /= len(drawn) ** 0.5", "pass", "several_draws", "fisher"),
    "every image meets every label": Mutant(
        "likelihoods",
        "v.scatter_(-1, y, -v.sum(-1, keepdim=True))  # e_y − p, eq. (4.8)\n        if",
        "v = -p[images] * len(y) + torch.nn.functional.one_hot(y[:, 0], p.shape[1]).sum(0)\n        if",
        "loop and linear and empirical",
        "fisher",
    ),
    "most likely label called empirical": Mutant(
        "likelihoods",
        """elif estimator == "predicted":
        drawn = p.argmax(-1)""",
        """elif True:
        drawn = p.argmax(-1)""",
        "loop and linear and empirical",
        "fisher",
    ),
    "averaged over sequences, not tokens": Mutant(
        "likelihoods", "units = int(used.sum())\n", "units = len(outputs)\n", "observed and cat"
    ),
    "tokens left out are counted": Mutant(
        "likelihoods", "            v *= left_out[images, ..., None]\n", "            pass\n", "observed and cat"
    ),
    "one vector for all tokens": Mutant(
        "likelihoods",
        "return Vectors((classes - 1) * positions, make",
        "return Vectors(classes - 1, make",
        "observed and cat",
    ),
    "padding among the samples of A": Mutant(
        "layers", """a = a[:, self._sums["counted"]]""", "pass", "padding", "likelihoods"
    ),
    "what the first vector does not reach is no sample": Mutant(
        "layers",
        """self._sums.get("counted", counted) | counted""",
        """self._sums.get("counted", counted)""",
        "prompt",
        "likelihoods",
    ),
    "1 − p is a difference": Mutant(
        "likelihoods", "precise(-outputs).sigmoid()", "1 - precise(outputs).sigmoid()", "sure_model", "likelihoods"
    ),
    "bytes are compared with −100": Mutant(
        "likelihoods", "labels.long() != _LEFT_OUT", "labels != _LEFT_OUT", "in_bytes", "likelihoods"
    ),
    "the proof looks at the least likely class": Mutant(
        "likelihoods",
        "each[images, :, rank + 1 : rank + 2]",
        "each[images, :, classes - 1 - rank : classes - rank]",
        "masked_out",
        "likelihoods",
    ),
    "rows keep their places": Mutant(
        "layers", "reorders = any(", "reorders = False and any(", "later_batch", "likelihoods"
    ),
    "z is what a hook has made of it": Mutant("sweep", "record, prepend=True", "record", "clamps", "adversaries"),
    "a layer's weight may have hooks": Mutant(
        "layers",
        "trainable[n].is_floating_point() and not trainable[n]._backward_hooks for",
        "True for",
        "masks_rows",
        "adversaries",
    ),
    "vmap is believed for the images that nobody looks at": Mutant(
        "sweep", "if self._add_up(totals, truth, sums):", "if True:", "right_for_all_images", "adversaries"
    ),
    "adapters may merge": Mutant(
        "refusals", "_refuse_merged(classifier, hidden, batch)\n    before", "before", "training_alone", "adversaries"
    ),
    "adapters stay merged": Mutant("models", "model.train(before[model])", "pass", "training_alone", "adversaries"),
    "gradients may be clipped": Mutant("sweep", "refuse_bent_gradients(step)\n", "pass\n", "clipped", "adversaries"),
    "an empty tensor makes all proofs coarse": Mutant(
        "sweep", " and each.numel() > 0", "", "scales_its_output", "fisher"
    ),
    "one long sum over images": Mutant("per_image", "_GROUP = 32", "_GROUP = 10**9", "long_sums", "adversaries"),
    "one long sum over batches": Mutant("fisher", "self.times % 64 == 0", "False", "long_sums", "adversaries"),
    "a task's number is no part of its kind": Mutant(
        "per_image",
        "*(repr(each.tolist()) for each in numbers if each.numel() <= _FEW)",
        "",
        "second_task",
        "adversaries",
    ),
    "F may be infinite": Mutant(
        "fisher", "if not bool(mean.isfinite().all()):", "if False:", "not_finite", "adversaries"
    ),
    "a divided penalty passes unseen": Mutant(
        "scaler", "if scale >= _SMALLEST:", "if scale >= 1e9:", "scaler_divides", "distributed"
    ),
    "a mask hides tokens": Mutant("models", "hidden[self.classes] = False", "pass", "mask_of_classes", "likelihoods"),
    "each rank for itself": Mutant("ranks", "        dist.all_reduce(tensor)\n", "", "every_rank and 2", "distributed"),
    "variance for the standard deviation": Mutant(
        "likelihoods", "_exact_independent((p * rest).sqrt()", "_exact_independent(p * rest", "observed and bern"
    ),
    "a Gaussian's noise around the output": Mutant(
        "likelihoods", "n: noise[k, n], outputs", "n: noise[k, n] - z[n], outputs", "sample_has and gauss"
    ),
    "draws of a Bernoulli always yes": Mutant(
        "likelihoods", "torch.bernoulli(p, generator=generator)", "torch.ones_like(p)", "sample_has and bern"
    ),
    "one number for a whole layer": Mutant(
        "layers", "self._sums[kind].reshape(", "self._sums[kind].mean().expand(", "softmax and hand"
    ),
    "eval() forgotten": Mutant(
        "models",
        "with mode(model, training=False):  # dropout",
        "with mode(model, training=model.training):  # dropout",
        "dropout",
        "fisher",
    ),
    "one image too many counted": Mutant(
        "fisher",
        "ranks.total(squares).div_(count)) for name, squares in sums",
        "ranks.total(squares).div_(count + 1)) for name, squares in sums",
        "softmax and hand",
    ),
    "batches counted instead of images": Mutant(
        "fisher",
        "            count += step.vectors.units\n    count = _units(count)\n    return {",
        "            count += 1\n    count = _units(count)\n    return {",
        "softmax and hand",
    ),
    "last chunk only": Mutant("fisher", "add(self.newest, name, term)", "self.newest[name] = term", "chunks and mlp"),
    "activations changed in place": Mutant(
        "layers", "output.clone() if output._is_view() else output", "output", "in-place and closed"
    ),
    "square of each place where a token stands": Mutant(
        "layers",
        "index_add_(0, self._place, g.flatten(0, 1))",
        "index_add_(0, self._place, g.flatten(0, 1).square()).sqrt_()",
        "loop and padding and exact",
    ),
    "padding has a gradient": Mutant(
        "layers", "return g if padding is None else", "return g if True else", "closed and padding"
    ),
    "a reflection that keeps no lengths": Mutant(
        "likelihoods", "/ (1 + root[..., :1])", "/ (1 + p)", "loop and linear and exact", "fisher"
    ),
    "half of a symmetric matrix": Mutant(
        "layers", "total[end:, start:end] = total[start:end, end:].T", "pass", "wide", "kronecker"
    ),
    "a closed form off by a tenth is trusted": Mutant(
        "per_image", "return float(torch.finfo(dtype).eps ** 0.5)", "return 0.3", "scales_its_output"
    ),
    "rows that are not images are trusted": Mutant(
        "layers",
        "len(self.inputs) == self.shape[0] == images",
        "len(self.inputs) == self.shape[0]",
        "loop and tokens and batch and exact",
    ),
    "any path to the parameters will do": Mutant("layers", "if len(above) != 1:", "if not above:", "comes_late"),
    "rows of other images are trusted": Mutant(
        "sweep", "self._distrust(step, self._mixing_layers(step))", "pass", "exchanged"
    ),
    "what logits add up to, instead of each": Mutant(
        "refusals", "v[n] = torch.linspace(1, 2, v[n].numel()).view_as(v[n])", "v[n] = 1", "add_up_to_nothing"
    ),
    "a layer that autograd does not reach is believed": Mutant(
        "layers",
        "        true = torch.zeros_like(getattr(layer.module, kind)) if true is None else true",
        """        if true is None:
            continue""",
        "without_a_path",
    ),
    "every error under vmap is swallowed": Mutant(
        "sweep", "except RuntimeError as error:", "except Exception as error:", "no_reason_to_go_on"
    ),
    "vmap is believed": Mutant("sweep", "if differs(n) and any(", "if False and any(", "vmap_is_compared"),
    "images are not compared with themselves elsewhere": Mutant(
        "sweep",
        "self._compare(logits, step.logits[images], step.vectors.says[images], MIXED)",
        "pass",
        "without_a_derivative",
    ),
    "classes do not count in the memory": Mutant(
        "sweep", "for layer in self.layers) + 4 * logits.numel()", "for layer in self.layers)", "as_memory_allows"
    ),
    "activations do not count in the memory": Mutant(
        "sweep", "numbers = watch.numbers + ", "numbers = ", "as_memory_allows"
    ),
    "eigenbases in single precision": Mutant(
        "quadratics", "torch.linalg.eigh(factor.cpu().double())", "torch.linalg.eigh(factor.cpu())", "eigenbases"
    ),
    "an anchor is forgotten where a task needs nothing": Mutant(
        "quadratics", "if name in self.rest.precision or bool(f.any())}", "if bool(f.any())}", "does_not_need"
    ),
    "F in the precision of the weights": Mutant(
        "quadratics",
        "torch.promote_types(p.dtype, s.dtype) for p, s in zip",
        "p.dtype for p, s in zip",
        "half_precision_cannot",
    ),
    "autocast rounds the sums": Mutant(
        "sweep", "torch.autocast(device.type, enabled=False),", "torch.enable_grad(),", "autocast_around"
    ),
    "memory of another precision": Mutant(
        "quadratics",
        "if [(o.dtype, o.shape) for o in self._offsets] != wanted:",
        "if not self._offsets:",
        "another_precision",
    ),
    "constant summed in single precision": Mutant(
        "quadratics", ".sum(dtype=torch.float64))", ".sum())", "constant_is_summed"
    ),
    "twice differentiable": Mutant("ewc", "    @once_differentiable\n", "", "second_derivative"),
    "the last learning rate for all steps that are owed": Mutant(
        "training",
        "ewc.proximal_step(model, sum(owed))  # eq. (5.6)",
        "ewc.proximal_step(model, rate * len(owed))",
        "sum_of_the_learning_rates",
    ),
    "no floor for half precision": Mutant(
        "models", "max(-1e9, torch.finfo(logits.dtype).min)", "-1e9", "finite_in_half"
    ),
    "parts of a checkpoint": Mutant("models", "part.load_state_dict(before[name])", "pass", "unless_all_are"),
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
        "quadratics", "offsets = [local(p) - local(m)", "offsets = [local(p) - local(p)", "half_by_hand"
    ),
    "η missing in the proximal step": Mutant(
        "ewc", "lr * self.importance)", "self.importance)", "proximal_step_by_hand"
    ),
    "explicit step instead of the proximal one": Mutant(
        "quadratics", "[s / (1 + s) for s in scaled]", "scaled", "proximal_step_by_hand"
    ),
    "stale proximal step": Mutant("quadratics", "or self._weights[0] != strength", "", "forgets_what_it_had_prepared"),
    "bias left out of the factors": Mutant(
        "layers",
        "whole[inputs, :inputs] = whole[:inputs, inputs] = a.sum(1)",
        "pass",
        "loops and mlp and exact",
        "kronecker",
    ),
    "both factors averaged over the places of a convolution": Mutant(
        "fisher",
        """ranks.total(sums[f"{name} A"]).div_(count)),""",
        """ranks.total(sums[f"{name} A"]).div_(sum(ranks.gathered(places[name])))),""",
        "loops and conv2d",
        "kronecker",
    ),
    "sum of the A's, sum of the G's": Mutant(
        "quadratics",
        "factors[layer].a + (new.a - factors[layer].a) / counts[layer]",
        "factors[layer].a + new.a",
        "whole_matrix and mlp",
        "kronecker",
    ),
    "an image on a kink is distrusted": Mutant(
        "sweep", "if wrong and not self._on_a_kink(step, n, wrong):", "if wrong:", "edge_of_a_relu"
    ),
    "every quarrel is a kink": Mutant(
        "sweep",
        "return not any(self._differing(step, wrong, m, self._alone(step, m)) for m in",
        "return True or any(m for m in",
        "edge_in_every",
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
        "self.anchors | {name: theta.clone() for name, theta in thetas.items()}",
        "{name: theta.clone() for name, theta in thetas.items()} | self.anchors",
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
    """One healthy copy, which takes longest, and all mutants, two at a time.

    Torch is imported once, and each process starts from there.
    """
    unix = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if unix else "spawn")
    if unix:
        context.set_forkserver_preload(["torch", "pytest"])
    with ProcessPoolExecutor(2, mp_context=context, max_tasks_per_child=1) as pool:
        started = {}
        for number, (name, mutant) in enumerate([("healthy", None), *MUTANTS.items()]):
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
