"""The package of checks: one module a notebook, imported on demand; answers from a GPU that knows no float64."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from exercise_tests import verdict
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from contlearn import exercises
from contlearn.exercises import judging


class OnApple(Tensor):
    """A tensor that claims to be on Apple's GPU and does as one there: no float64, and no company from the CPU."""

    @staticmethod
    def __new__(cls, inside: Tensor) -> "OnApple":
        made = Tensor._make_wrapper_subclass(cls, inside.shape, dtype=inside.dtype, device=torch.device("mps"))
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        if any(t.ndim and not isinstance(t, cls) for t in given):
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices")
        leaves = (kwargs.pop("device", None) or torch.device("mps")).type == "cpu"
        args, kwargs = tree_map_only(cls, lambda t: t.inside, (args, kwargs))
        found = operator(*args, **kwargs)
        if isinstance(found, Tensor) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype: the MPS framework doesn't support float64")
        return found if leaves else tree_map_only(Tensor, cls, found)


def moved(answer: Any) -> Any:
    """What the reader's code returns, with every tensor on that GPU, in single precision where it had double."""
    return tree_map_only(Tensor, lambda t: OnApple((t.float() if t.dtype == torch.float64 else t).detach()), answer)


def right_answers() -> list[tuple[str, Callable[..., Any]]]:
    """Each function that the other files hold for right."""
    found = []
    for module in map(import_module, (f"test_exercises_{number:02}" for number in range(10))):
        table = getattr(module, "RIGHT", None) or module.FUNCTIONS
        found += table.items() if isinstance(table, dict) else table
    return [(getattr(check, "__name__", check), answer) for check, answer in found if callable(answer)]


CASTS = [Tensor.double, lambda t: t.to(torch.float64), lambda t: t.to("cpu", torch.float64)]


@pytest.mark.parametrize("convert", CASTS)
def test_the_stand_in_refuses_what_such_a_gpu_refuses(convert: Callable[[Tensor], Tensor]) -> None:
    """Copying and casting at once is refused too, lest a check rely on their order."""
    with pytest.raises(TypeError, match="doesn't support float64"):
        convert(OnApple(torch.ones(2)))
    with pytest.raises(RuntimeError, match="same device"):
        OnApple(torch.ones(2)) + torch.ones(2)


def test_a_number_is_doubled_on_the_cpu() -> None:
    there = OnApple(torch.tensor([1.5, 2.0]))
    assert (there + there).sum().item() == 7
    here = judging.double(there)
    assert here.device.type == "cpu"
    assert here.dtype == torch.float64
    assert here.tolist() == [1.5, 2]


@pytest.mark.parametrize(("check", "answer"), right_answers())
def test_a_right_answer_from_such_a_gpu_is_right(capsys, check: str, answer: Callable[..., Any]) -> None:
    assert verdict(capsys, check, lambda *arguments: moved(answer(*arguments))).startswith("Right")


@pytest.mark.parametrize("check", sorted({check for check, _ in right_answers()}))
def test_a_wrong_answer_from_such_a_gpu_gets_its_verdict(capsys, check: str) -> None:
    for wrong in (torch.zeros(3, 4), (torch.zeros(5, 4), torch.zeros(5, 4)), torch.tensor(0.123)):
        said = verdict(capsys, check, lambda *arguments, wrong=wrong: moved(wrong))
        assert said == verdict(capsys, check, lambda *arguments, wrong=wrong: wrong)
        assert said.startswith("Not yet")


def test_a_module_is_imported_when_its_first_check_is_asked_for(start_python) -> None:
    program = """
import sys, contlearn.exercises
loaded = lambda: sorted(name for name in sys.modules if ".exercises.notebook" in name)
print(loaded())
from contlearn.exercises import check_8_4
print(check_8_4.__module__, loaded())
"""
    output, errors = start_python(program).communicate(timeout=120)
    assert not errors
    assert output.splitlines() == ["[]", "contlearn.exercises.notebook_08 ['contlearn.exercises.notebook_08']"]


def test_the_package_lists_its_checks_and_nothing_else() -> None:
    """To completion, and to `from contlearn.exercises import *`."""
    everything: dict[str, Any] = {}
    exec("from contlearn.exercises import *", everything)
    del everything["__builtins__"]
    assert sorted(everything) == dir(exercises)
    assert {name.rsplit("_", 1)[0] for name in everything} == {
        f"check_{number}" for number in [*range(13), "a1", "a2", "a3"]
    }
    assert all(callable(check) for check in everything.values())


@pytest.mark.parametrize("name", ["check_4_9", "check_99_1", "check_4", "judge", "chek_4_1"])
def test_a_check_that_does_not_exist_is_told_so(name: str) -> None:
    with pytest.raises(AttributeError, match=f"no '{name}': the check of exercise 4.1 is called check_4_1"):
        getattr(exercises, name)
