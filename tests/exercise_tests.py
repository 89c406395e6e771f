"""What the tests of all later exercises share: tables of answers go in, the tests over them come out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from contlearn import exercises


def verdict(capsys, check: str, answer: Any) -> str:
    """What the check says of an answer."""
    getattr(exercises, check)(answer)
    return capsys.readouterr().out.strip()


def over(functions: Mapping[str, Any], values: Mapping[str, Any], mistakes: Sequence[tuple]) -> tuple[Callable, ...]:
    """Tests that a check knows the untouched stub, the right answer and each mistake, and survives one that raises.

    Args:
        functions, values: the right answer to each check, by its name; those that are functions apart.
        mistakes: the name of the check, words that it must say, and the wrong answer.
    """

    @pytest.mark.parametrize("check", functions | values)
    def test_untouched(capsys, check):
        untouched = (lambda *arguments: None) if check in functions else None
        assert verdict(capsys, check, untouched) == "not answered yet"

    @pytest.mark.parametrize(("check", "answer"), (functions | values).items())
    def test_right(capsys, check, answer):
        assert verdict(capsys, check, answer).startswith("Right")

    @pytest.mark.parametrize(("check", "words", "answer"), mistakes)
    def test_mistakes_are_named(capsys, check, words, answer):
        said = verdict(capsys, check, answer)
        assert said.startswith("Not yet")
        assert words in said

    @pytest.mark.parametrize("check", functions)
    def test_an_answer_that_raises(capsys, check):
        assert "stopped with ZeroDivisionError" in verdict(capsys, check, lambda *arguments: 1 / 0)

    return test_untouched, test_right, test_mistakes_are_named, test_an_answer_that_raises
