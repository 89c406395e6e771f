"""The README says about speed what the results file holds."""

import json
from pathlib import Path

import benchmark
from results import filled

ROOT = Path(__file__).parent.parent


def test_sentences_are_made_from_the_file() -> None:
    results = json.loads((ROOT / "files" / "results" / "benchmark.json").read_text("utf-8"))
    page = (ROOT / "README.md").read_text("utf-8")
    assert filled(page, "speed", benchmark.sentences(results)) == page
