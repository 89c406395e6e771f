"""The checks of notebook 00: what they say to an untouched stub, a right answer, each named mistake, and nonsense."""

import pytest
import torch

from contlearn import exercises


def fisher(theta, x):
    p = torch.sigmoid(theta @ x - 4)
    return p * (1 - p) * torch.outer(x, x)


def slope(theta, star, f, lam):
    return lam * f * (theta - star)


def penalty(theta, star, f, lam):
    return 0.5 * lam * (f * (theta - star) ** 2).sum()


RIGHT = {
    exercises.check_0_1: fisher,
    exercises.check_0_2: slope,
    exercises.check_0_3: penalty,
    exercises.check_0_4: "b",
    exercises.check_0_5: 0.3 * (1 + 1) / (0.2 * (2 - 1)),
}

FUNCTIONS = [exercises.check_0_1, exercises.check_0_2, exercises.check_0_3]


def unsure(theta, x, threshold=4):
    p = torch.sigmoid(theta @ x - threshold)
    return p * (1 - p)


MISTAKES = [
    (exercises.check_0_1, lambda t, x: torch.sigmoid(t @ x - 4) * torch.outer(x, x), "this is p x xᵀ"),
    (exercises.check_0_1, lambda t, x: torch.diag(torch.diag(fisher(t, x))), "keeps the diagonal only"),
    (exercises.check_0_3, lambda t, s, f, k: 0.5 * k * (f * (t - s) ** 2).mean(), "their energies add up"),
    (exercises.check_0_1, lambda t, x: unsure(t, x, 0) * torch.outer(x, x), "the 4 of (0.1) is missing"),
    (exercises.check_0_1, lambda t, x: unsure(t, x) * x**2, "the diagonal only"),
    (exercises.check_0_1, lambda t, x: unsure(t, x) * x @ x, "a single number"),
    (exercises.check_0_1, lambda t, x: torch.outer(x, x), "it lacks the factor p (1 − p)"),
    (exercises.check_0_1, lambda t, x: unsure(t, x) ** 2 * torch.outer(x, x), "is squared here"),
    (exercises.check_0_2, lambda t, s, f, lam: slope(t, s, f, lam) / 2, "the ½ is still there"),
    (exercises.check_0_2, lambda t, s, f, lam: 2 * slope(t, s, f, lam), "twice the slope"),
    (exercises.check_0_2, lambda t, s, f, lam: lam * f * (s - t), "points downhill"),
    (exercises.check_0_2, lambda t, s, f, lam: lam * (t - s), "F is missing"),
    (exercises.check_0_2, lambda t, s, f, lam: f * (t - s), "λ is missing"),
    (exercises.check_0_2, lambda t, s, f, lam: slope(t, s, f, lam).sum(), "return one for each parameter"),
    (exercises.check_0_2, lambda t, s, f, lam: 0.5 * lam * f * (t - s) ** 2, "the energy of each spring"),
    (exercises.check_0_3, lambda t, s, f, lam: 0.5 * lam * (f * (t - s)).sum() ** 2, "still the broken one"),
    (exercises.check_0_3, lambda t, s, f, lam: 0.5 * lam * ((f * (t - s)) ** 2).sum(), "F is squared as well"),
    (exercises.check_0_3, lambda t, s, f, lam: 0.5 * lam * (f * (t - s)).sum(), "nothing is squared"),
    (exercises.check_0_3, lambda t, s, f, lam: 2 * penalty(t, s, f, lam), "λ means 2λ"),
    (exercises.check_0_3, lambda t, s, f, lam: 0.5 * lam * f * (t - s) ** 2, "the sum is missing"),
    (exercises.check_0_3, lambda t, s, f, lam: 0.5 * lam * ((t - s) ** 2).sum(), "F is missing"),
    (exercises.check_0_4, "a", "EWC has no reason yet to turn upwards"),
    (exercises.check_0_4, "c", "nothing yet that could shorten the step"),
    (exercises.check_0_5, 1 / 3, "this is 1/λ"),
    (exercises.check_0_5, 0.6, "F is missing"),
    (exercises.check_0_5, 1.5, "t rests half-way, at 0.5"),
    (exercises.check_0_5, 6, "the ½ was kept in the slope of the penalty"),
    (exercises.check_0_5, 0.75, "the distances are swapped"),
    (exercises.check_0_5, -3.0, "the sign is wrong"),
]


@pytest.mark.parametrize("check", RIGHT)
def test_untouched_stub_is_not_answered_yet(check, capsys):
    check((lambda *arguments: ...) if check in FUNCTIONS else ...)
    assert capsys.readouterr().out == "not answered yet\n"


@pytest.mark.parametrize("check", RIGHT)
def test_right_answer_is_accepted(check, capsys):
    check(RIGHT[check])
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(
    ("answer", "verdict"), [("B", "Right: "), (" b ", "Right: "), ("A", "Not yet: a spring at rest")]
)
def test_case_and_spaces_around_a_word_do_not_matter(answer, verdict, capsys):
    exercises.check_0_4(answer)
    assert capsys.readouterr().out.startswith(verdict)


@pytest.mark.parametrize(("check", "answer", "verdict"), MISTAKES)
def test_typical_mistake_is_named(check, answer, verdict, capsys):
    check(answer)
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet: ")
    assert verdict in printed


@pytest.mark.parametrize("check", FUNCTIONS)
def test_answer_that_raises_gets_a_verdict(check, capsys):
    check(lambda *arguments: 1 / 0)
    assert capsys.readouterr().out == "Not yet: your code stopped with ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize("check", RIGHT)
@pytest.mark.parametrize("nonsense", [torch.zeros(3, 4), torch.tensor(123.0), "z", [], object()])
def test_nonsense_gets_a_verdict(check, nonsense, capsys):
    check((lambda *arguments: nonsense) if check in FUNCTIONS else nonsense)
    assert capsys.readouterr().out.startswith("Not yet: ")
