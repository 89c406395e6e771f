"""The stored notebooks keep to notebook_rules.py; nbval, in a run of its own, compares what their cells print."""

from pathlib import Path

import nbformat
import notebook_rules
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("rule", notebook_rules.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rule(path, rule):
    assert rule(nbformat.read(path, as_version=4), path) == []


def test_formulas_and_code_name_each_other():
    notebooks = {path: nbformat.read(path, as_version=4) for path in NOTEBOOKS}
    library = {path: path.read_text("utf-8") for path in sorted((ROOT / "contlearn").glob("*.py"))}
    assert notebook_rules.equations(notebooks, library if notebooks else {}) == []
