"""How every check judges an answer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.data import TensorDataset

from contlearn.data import Task
from contlearn.training import accuracy


def ask(answer: Callable[..., Any], *arguments: Any) -> Any:
    """The answer to `arguments`: what the reader's function returns, moved to the CPU, or the exception it raised."""
    try:
        return tree_map_only(Tensor, Tensor.cpu, answer(*arguments))
    except Exception as error:  # a mistake of the reader's is a verdict, not a crash
        return error


def judge(given: Any, expected: Any, right: str, mistakes: Mapping[str, Any]) -> bool:
    """Print the verdict on one value; return whether it is right.

    Args:
        given: what the reader found; None or ... where the stub is untouched.
        expected: the right value: a number, a tensor, a string or a boolean.
        right: what the right answer shows, one sentence.
        mistakes: for each misconception, as a sentence, the value that it leads to. Values equal to `expected` are
            ignored, the first that fits is named.
    """
    if given is None or given is ...:
        print("not answered yet")
    elif isinstance(given, Exception):
        print(f"Not yet: your code stopped with {type(given).__name__}: {given}")
    elif same(given, expected):
        print(f"Right: {right}")
        return True
    else:
        for misconception, value in mistakes.items():
            if same(given, value):
                print(f"Not yet: {misconception}")
                return False
        print(f"Not yet: {difference(given, expected)}")
    return False


class Calls(TorchFunctionMode):
    """Notes which functions of PyTorch are called while it is active, and how often any is."""

    active: ClassVar[list["Calls"]] = []  # an answer that runs in another process reports its calls to these

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.count = 0

    def __enter__(self) -> "Calls":
        Calls.active.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        Calls.active.remove(self)
        super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(function, "__name__", ""))
        self.count += 1
        return function(*args, **(kwargs or {}))


def judge_both(
    answer: Callable[..., Any], model: torch.nn.Module, tasks: Sequence[Task], floor: float, right: str
) -> None:
    """Print the verdict on `answer(model, first, second)`, which returns the model with both tasks learnt.

    Args:
        floor: the fraction of each test set that must be classified correctly.
        right: what the right answer shows, one sentence.
    """
    student = ask(answer, model, *(_hidden(task) for task in tasks))
    if _material:  # what passed the reader's check must not fail by the luck of other labels
        tasks, floor = [_relabelled(task) for task in tasks], floor - 0.02
    if student is None or student is ...:
        print("not answered yet")
    elif isinstance(student, Exception):
        print(f"Not yet: your code stopped with {type(student).__name__}: {student}")
    elif not isinstance(student, torch.nn.Module):
        print(f"Not yet: expected your trained model, got {type(student).__name__}.")
    else:
        first, second = (accuracy(student, task.test_loader()) for task in tasks)
        told = f"{tasks[0].name} {100 * first:.1f} %, {tasks[1].name} {100 * second:.1f} %"
        if min(first, second) >= floor:
            print(f"Right: {told}. {right}")
        elif max(first, second) < floor:
            print(f"Not yet: {told}. Both are too low: learn the first task, remember it, then learn the second.")
        elif first < floor:
            print(f"Not yet: {told}. The first task is forgotten: a larger λ, or F and θ* from before the second task.")
        else:
            print(f"Not yet: {told}. The second task is not learnt: a smaller λ, or more steps.")


def same(given: Any, expected: Any) -> bool:
    if isinstance(expected, str) and isinstance(given, str):
        return given.strip().casefold() == expected.strip().casefold()
    if isinstance(expected, str | bool) or isinstance(given, str | bool):
        return bool(given == expected) if type(given) is type(expected) else False
    try:
        a, b = double(given), double(expected)
    except (TypeError, ValueError, RuntimeError):
        return False
    return a.shape == b.shape and torch.allclose(
        a, b, rtol=1e-5, atol=1e-9 * float(b.abs().max()) if b.numel() else 0.0
    )


def difference(given: Any, expected: Any) -> str:
    if isinstance(expected, str | bool):
        return f"{given!r} is not it."
    try:
        a = double(given)
    except (TypeError, ValueError, RuntimeError):
        return f"expected {kind(expected)}, got {type(given).__name__}."
    b = double(expected)
    if a.shape != b.shape:
        return f"expected {kind(b)}, got {kind(a)}."
    if a.ndim == 0:
        return f"expected {float(b):.6g}, got {float(a):.6g}."
    worst = tuple(int(i) for i in torch.unravel_index((a - b).abs().argmax(), a.shape))
    return f"the largest difference is at {list(worst)}: expected {float(b[worst]):.6g}, got {float(a[worst]):.6g}."


def double(value: Any) -> Tensor:
    """A number or tensor in double precision, and so on the CPU: Apple's GPUs know no float64."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    return tensor.detach().cpu().double()


def kind(value: Any) -> str:
    shape = tuple(torch.as_tensor(value).shape)
    return f"a tensor of shape {shape}" if shape else "a single number"


def worth(points: int) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Say how many points a part of an assignment is worth; an exercise of a notebook is worth one."""

    def mark(check: Callable[[Any], None]) -> Callable[[Any], None]:
        check.points = points  # type: ignore[attr-defined]
        return check

    return mark


_material = 0  # the readers' checks; a grading run draws another number, and with it all material


@contextmanager
def unseen(material: int) -> Iterator[None]:
    """Within this block every check has other inputs than those that readers meet; `material` > 0 says which."""
    global _material
    before, _material = _material, material
    try:
        yield
    finally:
        _material = before


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed float64 numbers, the same on every machine: the material of the checks."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + _material))


def varied(table: Any, by: float, seed: int = 0) -> Tensor:
    """`table` as float64; for unseen material each number is moved by up to `by`, so that nobody can know it."""
    known = torch.as_tensor(table, dtype=torch.float64)
    return known + by * torch.tanh(numbers(*known.shape, seed=seed)) if _material else known.clone()


def shuffled(items: Sequence[Any], seed: int = 0) -> list[Any]:
    """`items` in the order that readers meet, or for unseen material in another."""
    order = numbers(len(items), seed=seed).argsort().tolist() if _material else range(len(items))
    return [items[k] for k in order]


def _relabelled(task: Task) -> Task:
    """The same images; for unseen material the ten labels have changed places, lest finished weights be handed in."""
    order = torch.tensor(shuffled(range(10), seed=10))
    parts = [TensorDataset(images, order[labels]) for images, labels in (task.train.tensors, task.test.tensors)]
    return Task(task.name, {int(order[label]): name for label, name in task.classes.items()}, *parts)


def _hidden(task: Task) -> Task:
    """What the answer gets: for unseen material the labels exchanged, and training images in place of the test's."""
    if not _material:
        return task
    task, count = _relabelled(task), len(task.test)
    return Task(task.name, task.classes, task.train, TensorDataset(*(t[:count].clone() for t in task.train.tensors)))
