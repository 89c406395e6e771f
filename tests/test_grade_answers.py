"""Answers that come out of another process are judged as those given here: rights, stubs, and every known mistake.

The other process is left out, so that hundreds of answers cost seconds: what would be sent is packed, unpacked and
judged on material that no reader meets. tests/test_grade.py has the processes.
"""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from contlearn import exercises, grade
from contlearn.grading import messages

MATERIALS = range(1000, 3000, 1000)
NUMBERS = [f"{number:02}" for number in range(11)]


def carried(answer: Any) -> Any:
    """An answer as the grader gets it from a student's process."""
    if not callable(answer):
        return messages.unpack(*messages.pack(answer))

    def ask(*given: Any) -> Any:
        def ask_back(k: int) -> Callable[..., Any]:
            def stand_in(*asked: Any) -> Any:
                asked = messages.unpack(*messages.pack(asked))
                return messages.unpack(*messages.pack(given[k](*asked)))

            return stand_in

        _, data = messages.send_arguments(given)
        there = messages.receive_arguments(bytes(data), ask_back)
        value, more = messages.pack(answer(*there), there)
        states = messages.unpack(*messages.pack(messages.state(there)))
        messages.apply_state(states, given)
        return messages.unpack(value, more, given)

    return ask


def tables(*names: str) -> list[tuple[str, Any, str]]:
    """(exercise, answer, words of its check) from the tables of the other files, which come in two forms."""
    found = []
    for number in NUMBERS:
        module = import_module(f"test_exercises_{number}")
        for table in (vars(module).get(name, ()) for name in names):
            entries = table.items() if isinstance(table, dict) else table
            for check, *rest in (entry for entry in entries if isinstance(entry, tuple)):
                answer, words = [*rest, ""][:2] if callable(check) else [*rest, ""][1::-1]
                if len(rest) == 1:
                    answer, words = rest[0], ""
                found.append((getattr(check, "__name__", check).removeprefix("check_"), answer, words))
    return found


RIGHT = tables("RIGHT", "FUNCTIONS", "VALUES")
RIGHT = [(name, answer, words) for name, answer, words in RIGHT if not isinstance(answer, type(...))]

# The table of exercise 6.3 answers with numbers that only readers meet; here are the same mistakes, made on any runs.
RUNS = {
    "can no longer judge it": ("test", "test", "test"),
    "flatter it": ("validation", "validation", "validation"),
    "belongs to another λ": ("validation", "test", "test"),
    "other way round": ("test", "test", "validation"),
    "largest λ": ("importance", "importance", "test"),
}


def chosen_by(choice: str, reported: str, what: str) -> Callable[[list[dict[str, float]]], tuple[float, float]]:
    def choose(runs: list[dict[str, float]]) -> tuple[float, float]:
        first, second = (max(runs, key=lambda run: run[key]) for key in (choice, reported))
        return first["importance"], second[what]

    return choose


WRONG = [
    (name, chosen_by(*RUNS[words]) if words in RUNS and name == "6_3" else answer, words)
    for name, answer, words in tables("MISTAKES", "WRONG")
    if name not in grade.LONG  # these would carry all images over; tests/test_grade.py has one
]


def verdict(name: str, answer: Any, materials: Any = MATERIALS) -> str:
    value = carried(answer)
    return grade.judged(getattr(exercises, f"check_{name}"), value, materials if callable(value) else materials[:1])


@pytest.mark.parametrize(("name", "answer", "words"), RIGHT)
def test_a_right_answer_gets_its_points(name: str, answer: Any, words: str) -> None:
    assert verdict(name, answer).startswith("Right: ")


@pytest.mark.parametrize(("name", "answer", "words"), WRONG)
def test_a_typical_mistake_is_named(name: str, answer: Any, words: str) -> None:
    said = verdict(name, answer)
    assert said.startswith("Not yet: ")
    assert without_numbers(words) in without_numbers(said)


def without_numbers(words: str) -> str:
    """An expected number differs from that of the readers' check; a shape does not."""
    return re.sub(r"(expected|got) [\d.]+", r"\1 …", words)
