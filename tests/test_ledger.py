"""The ledger is what its script writes, its arithmetic is right, and its commands exist."""

import re
import shlex
from pathlib import Path

import ledger
import published
import pytest
import rivals
from ledger import Row, counts, distance, verdict

ROOT = Path(__file__).parent.parent


def test_the_page_is_what_the_script_writes():
    assert (ROOT / "docs" / "ledger.md").read_text(encoding="utf-8") == ledger.page()


@pytest.mark.parametrize(
    ("row", "far", "word"),
    [
        # mean 10.6, standard error 0.1/√3 = 0.0577; √(0.3² + 0.0577²) = 0.3055; 0.6/0.3055 = 1.964
        (Row("", 10.0, 0.30, [10.5, 10.6, 10.7], 0), 1.964, "agrees"),
        (Row("", 10.0, 0.29, [10.5, 10.6, 10.7], 0), 2.029, "differs, not explained"),
        (Row("", 10.0, 0.29, [10.5, 10.6, 10.7], 0, reason="Noise"), 2.029, "differs. Noise"),
        (Row("", 10.0, 0.29, [10.5, 10.6, 10.7], 0, hint="Luck"), 2.029, "differs, not explained. Luck"),
        (Row("", 10.0, None, [10.5, 10.6, 10.7], 0), 10.392, "differs, not explained"),
        (Row("", 10.0, 0.3, [11.0], 0, spread=0.4), 2.0, "agrees"),  # one run, judged by the published spread
        (Row("", 10.0, 0.3, [], 0), None, "not run"),
        (Row("", 90.0, None, [93.0, 94.0], 0, above=True), None, "agrees"),
        (Row("", 90.0, None, [88.0, 89.0], 0, above=True, reason="Fewer steps"), None, "differs. Fewer steps"),
    ],
)
def test_distance_and_verdict(row, far, word):
    assert verdict(row) == word
    if far is not None:
        assert distance(row) == pytest.approx(far, abs=1e-3)


def test_rows_are_counted_once():
    rows = [
        Row("", 10.0, 0.3, [10.1], 0, 0.4),
        Row("", 1.0, 0.1, [9.0], 0, 0.1),
        Row("", 1.0, 0.1, [9.0], 0, 0.1, reason="x"),
    ]
    assert counts([*rows, Row("", 1.0, 0.1, [], 0)]) == (1, 1, 1, 1)
    assert counts([rows[1]._replace(hint="with another λ it would agree")]) == (0, 0, 1, 0)


def test_six_rows_agree_or_carry_a_tested_explanation():
    rows = [row for section in ledger.sections() for row in section.rows]
    agree, explained, _, _ = counts(rows)
    assert agree + explained >= 6


def test_each_command_names_a_script_and_its_options():
    commands = [command for section in ledger.sections() for command in section.command.split("; ")]
    commands += re.findall(r"`(python experiments/[^`]+)`", ledger.page())
    for command in commands:
        for single in command.split("; "):
            python, script, *options = shlex.split(single)
            assert python == "python"
            assert (ROOT / script).is_file(), single
            if "--only" in options:
                known = {"published.py": published.SETS, "rivals.py": rivals.SETS}[Path(script).name]
                assert set(options[options.index("--only") + 1 :]) <= set(known), single


def test_the_tables_hold_every_method_of_the_experiments():
    assert set(ledger.HSU_TABLE) == set(published.HSU)
    assert set(ledger.VAN_DE_VEN_2025) == set(published.ESTIMATORS)
