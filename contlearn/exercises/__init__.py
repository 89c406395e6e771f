"""The checks behind the exercises at the end of each notebook.

A check takes the reader's answer (a function, or a value) and prints one of four verdicts: `not answered yet`,
`Right: …` with what the answer shows, `Not yet: …` with the misconception behind a typical wrong answer, or
`Not yet: …` with the expected and the given value. It never raises because of an answer.

The checks of notebook NN stand in `notebook_NN.py`, those of an assignment, such as `check_a1_1`, in `assignment_1.py`;
a module is imported when the first of its checks is asked for.
"""

import re
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def __getattr__(name: str) -> Any:
    """`check_4_1` from `notebook_04`, and so on."""
    if name == "__all__":
        return __dir__()
    found = re.fullmatch(r"check_(a?)(\d+)_\d+", name)
    module = "" if not found else f"assignment_{found[2]}" if found[1] else f"notebook_{int(found[2]):02}"
    if module in _modules() and name in vars(checks := import_module(f"{__name__}.{module}")):
        return getattr(checks, name)
    raise AttributeError(f"contlearn.exercises has no {name!r}: the check of exercise 4.1 is called check_4_1")


def __dir__() -> list[str]:
    """All checks, for completion by the Tab key and for `import *`."""
    modules = (import_module(f"{__name__}.{module}") for module in _modules())
    return sorted(name for module in modules for name in vars(module) if name.startswith("check_"))


def _modules() -> list[str]:
    return [module.name for module in iter_modules(__path__) if module.name.startswith(("notebook_", "assignment_"))]
