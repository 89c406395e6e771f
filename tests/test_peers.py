"""The pages about other libraries say what their results file holds."""

import json
from pathlib import Path

import peers
import pytest
from results import filled

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def results() -> dict[str, object]:
    """What was measured last."""
    found: dict[str, object] = json.loads((ROOT / "files" / "results" / "peers.json").read_text("utf-8"))
    return found


def test_pages_are_made_from_the_file(results: dict[str, object]) -> None:
    for path, text in peers.pages(results).items():
        page = path.read_text("utf-8")
        assert filled(page, "peers", text) == page, path


def test_every_case_and_every_library_is_there(results: dict[str, dict[str, dict[str, object]]]) -> None:
    wanted = {f"{case}, {quantity}" for case in peers.CASES for quantity in ("exact", "empirical", "kronecker")}
    rows = results["comparisons"]
    assert wanted | {"a step of training, 1 task", "a step of training, 10 tasks"} == set(rows)
    for title in wanted:
        assert set(peers.COMPETITORS) <= set(rows[title])
    # Ours is right everywhere, to what single precision leaves.
    assert all(row["ours"]["difference"] < 1e-4 for row in rows.values())


def test_who_computes_something_else_is_neither_fastest_nor_leanest() -> None:
    rows = {
        "ours": {"difference": 1e-6, "time / ours": 1.0, "peak MiB": 10.0},
        "wrong": {"difference": 0.5, "time / ours": 0.1, "peak MiB": 1.0},
        "right": {"difference": 1e-6, "time / ours": 2.0, "peak MiB": 15.0},
        "cannot": {"message": "NotImplementedError: no"},
    }
    said = peers.summary({"comparisons": {"a case": rows}})
    assert said.splitlines()[-1] == "| a case | right: 2.00 | right: 1.50 | 1e-06, 1e-06 |"
