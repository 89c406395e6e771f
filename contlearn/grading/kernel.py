"""The program of a student's process: run the cells of a notebook, then give its answers to whatever is asked.

It is started as `python kernel.py FOLDER MEMORY` by `supervise`; standard input and output are the channel to the
grader. The cells run in IPython where there is one. The checks that they call only note what they are given: nothing in
this process knows a right answer, and nothing that it prints or sends is taken for a verdict.
"""

import io
import os
import signal
import sys
import traceback
import types
from pathlib import Path
from typing import Any, BinaryIO


def main(folder: Path, memory: int) -> None:
    """Serve one notebook until the grader closes the channel."""
    from contlearn.grading.confine import confine, die_with_parent

    signal.signal(signal.SIGINT, signal.default_int_handler)
    die_with_parent()
    source, sink = _take_channel()
    from contlearn.grading import messages

    answers = record_answers()
    run = _shell()
    messages.write(sink, {"missing": confine(folder, memory)})
    cells, _ = messages.read(source)
    errors = []
    for number, cell in cells:
        if problem := run(cell):
            errors.append([number, problem])
    sys.stdout.flush()
    messages.write(sink, {"answers": _kinds(answers), "errors": errors[:100]})
    while True:
        try:
            request, data = messages.read(source, longest=2**40)
        except EOFError:
            return
        answer(request, data, answers, source, sink)


def record_answers() -> dict[str, Any]:
    """Put a module in the place of `contlearn.exercises` whose checks judge nothing; return the dict that they fill."""
    import contlearn

    answers: dict[str, Any] = {}

    class Checks(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if not name.startswith("check_"):
                raise AttributeError(f"contlearn.exercises has no {name!r}")

            def check(answer: Any) -> None:
                answers[name.removeprefix("check_")] = answer
                print("noted for grading")

            return check

    checks = Checks("contlearn.exercises")
    checks.__path__ = []
    sys.modules["contlearn.exercises"] = checks
    contlearn.exercises = checks  # type: ignore[attr-defined]
    return answers


def answer(request: Any, data: bytearray, answers: dict[str, Any], source: BinaryIO, sink: BinaryIO) -> None:
    """Answer one request of the grader: the value of an answer, or what the function that it is returns."""
    from contlearn.grading import messages

    arguments: tuple[Any, ...] = ()
    try:
        given = answers[request["answer"]]
        counted: dict[str, Any] = {}
        if request["call"]:

            def ask_back(k: int) -> Any:
                def stand_in(*asked: Any) -> Any:
                    tree, bytes_ = messages.pack(asked)
                    messages.write(sink, {"ask_back": k, "arguments": tree}, bytes_)
                    reply, more = messages.read(source, longest=2**40)
                    if "raised" in reply:
                        raise RuntimeError(reply["raised"])
                    return messages.unpack(reply["value"], more)

                return stand_in

            arguments = messages.receive_arguments(data, ask_back)
            given, counted = _call(given, arguments, request["count"])
        else:
            import torch

            if isinstance(given, torch.Tensor):
                given = given.detach()
        value, bytes_ = messages.pack(given, arguments)
        states, more = messages.pack(messages.state(arguments))
        reply = {"value": value, "bytes": len(bytes_), "state": states, **counted}
        messages.write(sink, reply, bytes_ + more)
    except BaseException as error:
        messages.write(sink, {"raised": [type(error).__name__, _words(error)]})


def _call(function: Any, arguments: tuple[Any, ...], count: bool) -> tuple[Any, dict[str, Any]]:
    if not count:
        return function(*arguments), {}
    from torch.overrides import TorchFunctionMode

    class Calls(TorchFunctionMode):
        names: set[str] = set()  # noqa: RUF012
        total = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.add(str(getattr(function, "__name__", "")))
            self.total += 1
            return function(*args, **(kwargs or {}))

    with Calls() as calls:
        found = function(*arguments)
    return found, {"names": sorted(calls.names)[:1000], "count": calls.total}


def _words(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except Exception:
        return "(no words)"


def _kinds(answers: dict[str, Any]) -> dict[str, str]:
    return {name: "function" if callable(value) else "value" for name, value in answers.items()}


def _take_channel() -> tuple[BinaryIO, BinaryIO]:
    """Keep standard input and output for the grader; what the cells print goes where errors go."""
    if os.name == "nt":
        import msvcrt

        for descriptor in (0, 1):
            msvcrt.setmode(descriptor, os.O_BINARY)  # type: ignore[attr-defined]
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.stdin = io.StringIO()
    return source, sink


def _shell() -> Any:
    """A function that runs a cell and returns what it raised, in a line, or an empty string."""
    try:
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config
    except ImportError:
        names: dict[str, Any] = {"__name__": "__main__"}

        def run(cell: str) -> str:
            try:
                exec(compile(cell, "<cell>", "exec"), names)
            except BaseException as error:
                traceback.print_exc()
                return f"{type(error).__name__}: {_words(error)}"
            return ""

        return run
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    shell = InteractiveShell.instance(config=config)

    def run_in_ipython(cell: str) -> str:
        try:
            result = shell.run_cell(cell)  # type: ignore[no-untyped-call]
        except BaseException as error:  # exit() and the like
            return f"{type(error).__name__}: {_words(error)}"
        raised = result.error_before_exec or result.error_in_exec
        return f"{type(raised).__name__}: {_words(raised)}" if raised else ""

    return run_in_ipython


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
