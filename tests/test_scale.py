"""The page about large models says what its results file holds."""

import json
from pathlib import Path

import scale
import several_processes
from results import filled

ROOT = Path(__file__).parent.parent


def test_tables_of_the_page_are_made_from_the_file() -> None:
    results = json.loads((ROOT / "files" / "results" / "scale.json").read_text("utf-8"))
    page = (ROOT / "docs" / "scale.md").read_text("utf-8")
    assert scale.fill(page, scale.tables(results)) == page
    for processes in (1, 2, 4):
        assert [p["millions"] for p in results["points"] if p["processes"] == processes] == [1, 5, 20, 80]
    for point in results["points"]:
        assert point["bytes of S and μ"] == 8 * point["parameters"]
        assert point["bytes reduced for a step"] == 0
        assert point["bytes reduced for F"] == (4 * point["parameters"] if point["processes"] > 1 else 0)
        assert point.get("replicas equal", True)


def test_the_acts_on_several_processes_end_where_seeds_do() -> None:
    """The page's table is that of the files; no accuracy lies farther outside than the seeds lie apart."""
    held = json.loads((ROOT / "files" / "results" / "several_processes.json").read_text("utf-8"))
    alone = json.loads(several_processes.ALONE.read_text("utf-8"))
    page = several_processes.PAGE.read_text("utf-8")
    assert filled(page, "acts", several_processes.table(held, alone)) == page
    assert [run["processes"] for run in held["runs"] if run["seed"] == 0] == [1, 2, 4]
    seeds = [several_processes.final(run) for run in alone["runs"]]
    for run in held["runs"]:
        for row in several_processes.ROWS:
            for own, of in zip(run[row], zip(*(seed[row] for seed in seeds), strict=True), strict=True):
                apart = max(of) - min(of)
                assert min(of) - apart <= own <= max(of) + apart, (run["processes"], row)


def test_the_formulas_are_those_of_the_library() -> None:
    """On blocks small enough to build: bytes of what an EWC of each structure holds."""
    import torch
    from torch import nn

    from contlearn import EWC

    wide, blocks = 4, 2
    layers = [
        nn.Linear(i, o, bias=False)
        for o, i in [(3 * wide, wide), (wide, wide), (4 * wide, wide), (wide, 4 * wide)] * blocks
    ]

    class Apart(nn.Module):
        """All layers beside each other."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([layer(x[:, : layer.in_features]) for layer in self.layers], 1)

    model, computed = Apart(), scale.transformer(wide, blocks)
    x, y = torch.randn(3, 4 * wide), torch.tensor([0, 1, 2])
    assert computed["parameters"] == sum(p.numel() for p in model.parameters())
    diagonal, kronecker = EWC(1), EWC(1, structure="kronecker")
    diagonal.consolidate(model, [(x, y)])
    kronecker.consolidate(model, [(x, y)])
    assert scale.bytes_held(diagonal) == computed["diagonal: bytes of S and μ"]
    kronecker.proximal_step(model, 0.1)
    quadratic = kronecker.quadratic
    held = [t for f in quadratic.factors.values() for t in (f.a, f.g)]
    assert 4 * sum(t.numel() for t in held) == computed["bytes of F, reduced once a task: Kronecker"]
    held += [t for layer in quadratic.factors for t in quadratic._eigenbases(layer)] + [*quadratic.anchors.values()]
    assert 4 * sum(t.numel() for t in held) == computed["Kronecker: bytes"]
