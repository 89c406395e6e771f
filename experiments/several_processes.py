"""The three acts on one, two and four processes: writes files/results/several_processes.json, for docs/scale.md.

    python experiments/several_processes.py            about ten minutes on two cores; what the file holds is kept

Each number of processes is one call of `torchrun --nproc-per-node N -m contlearn`. The processes share each batch, so
the steps are as many and as long; rounding and the order of the images differ, as between seeds. How far seeds lie
apart on one process is in three_acts.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import results

from contlearn.__main__ import ROWS

PAGE, ALONE = Path(__file__).parent.parent / "docs" / "scale.md", results.FOLDER / "three_acts.json"
PROCESSES = (1, 2, 4)


def main() -> None:
    """Every run that the file lacks, then the page's table."""
    asked = results.asked(str(__doc__), [0])
    runs = results.Runs("several_processes", asked.again)
    for seed in asked.seeds:
        for processes in PROCESSES:
            runs.once({"processes": processes, "seed": seed}, partial(acts, processes, seed))
    page = PAGE.read_text("utf-8")
    made = table(runs.read(), json.loads(ALONE.read_text("utf-8")))
    PAGE.write_text(results.filled(page, "acts", made), encoding="utf-8")


def acts(processes: int, seed: int) -> dict[str, Any]:
    """Final accuracies of the acts, fractions: of each row those of MNIST and of Fashion-MNIST."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        acts = ["-m", "contlearn", "--seeds", str(seed), "--output", folder]
        quiet = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        subprocess.run([*launcher, *acts], check=True, env=os.environ | quiet, stdout=subprocess.DEVNULL)
        (written,) = Path(folder).glob("*/results.json")
        (run,) = json.loads(written.read_text("utf-8"))["runs"]
    return final(run)


def final(run: dict[str, Any]) -> dict[str, list[float]]:
    """By row the accuracies after the last epoch."""
    return {row: [curve[-1] for curve in run["histories"][row]["accuracy"].values()] for row in ROWS}


def table(held: dict[str, Any], one_process: dict[str, Any]) -> str:
    """For docs/scale.md: each number of processes, beside five seeds on one."""
    seeds = [final(run) for run in one_process["runs"]]
    runs = sorted(held["runs"], key=lambda run: (run["seed"], run["processes"]))
    heads = [f"{run['processes']} process{'es' * (run['processes'] > 1)}, seed {run['seed']}" for run in runs]
    lines = [f"| MNIST / Fashion-MNIST, % | {' | '.join(heads)} | seeds 0 to 4 on one: lowest to highest |"]
    lines.append("|" + "---|" * (len(runs) + 2))
    for row, name in ROWS.items():
        cells = [" / ".join(f"{100 * value:.1f}" for value in run[row]) for run in runs]
        spread = [f"{100 * min(of):.1f}–{100 * max(of):.1f}" for of in zip(*(s[row] for s in seeds), strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} | {' / '.join(spread)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
