"""Build the laboratory: one HTML file, site/lab/index.html, that opens by double-click and asks for nothing else.

    python site/lab/build.py            write the page
    python site/lab/build.py --check    say whether the page is that of its sources, and write nothing

Into `index.template.html` go the style, the scripts, the images (12,800 + 1,000 of each set, two grey levels a byte,
compressed), the points of notebook 00, and what `experiments/laboratory.py` measured with the library.
"""

import argparse
import base64
import json
import re
import statistics
import sys
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PAGE = HERE / "index.html"
SCRIPTS = ("network.js", "drawing.js", "twoweights.js", "tools.js", "plane.js", "page.js")
LIMIT = 3_000_000  # bytes

sys.path.insert(0, str(ROOT / "experiments"))
import laboratory  # noqa: E402
from laboratory import load_fashion_mnist, load_mnist  # noqa: E402


def images() -> bytes:
    """The grey levels of all images, 98 bytes each, then all labels, two a byte.

    In this order: digits and clothes to train on, digits and clothes to test on.
    """
    tasks = [laboratory.small(task) for task in (load_mnist(), load_fashion_mnist())]
    parts = [task[part] for part in ("train", "test") for task in tasks]
    levels = torch.cat([levels.flatten() for levels, _ in parts])
    labels = torch.cat([labels for _, labels in parts]).to(torch.uint8)
    return packed(levels) + packed(labels)


def packed(numbers: Tensor) -> bytes:
    """Numbers from 0 to 15, two a byte, the first one in the upper half."""
    return bytes((numbers[::2] << 4 | numbers[1::2]).tolist())


def points() -> dict[str, Any]:
    """Tasks A and B of notebook 00, to six decimals."""
    tasks = {}
    for name, no, yes, spread, seed in (
        ("A", (1.0, 0.1), (3.0, 0.3), (0.3, 0.2), 0),
        ("B", (-0.5, 0.8), (-1.5, 2.4), (0.25, 0.25), 1),
    ):
        noise = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        centre = torch.tensor([no, yes], dtype=torch.float64).repeat_interleave(100, dim=0)
        x = centre + noise * torch.tensor(spread, dtype=torch.float64)
        tasks[name] = {"x": [[round(v, 6) for v in point] for point in x.tolist()], "y": [-1] * 100 + [1] * 100}
    return tasks


def measured() -> dict[str, Any]:
    """Means, and lowest and highest, in %, over the test seeds; and for each method the λ that validation chose."""
    held = json.loads((ROOT / "files/results/laboratory.json").read_text(encoding="utf-8"))
    runs: dict[str, dict[tuple[str, float | None], list[tuple[float, float]]]] = {}
    for run in held["runs"]:
        found = runs.setdefault(run["measured_on"], defaultdict(list))
        found[run["method"], run["importance"]].append((100 * run["MNIST"], 100 * run["Fashion-MNIST"]))

    def row(importance: float | None, pairs: list[tuple[float, float]]) -> dict[str, Any]:
        columns = list(zip(*pairs, strict=True))
        mean = [round(statistics.mean(column), 1) for column in columns]
        spread = [[round(min(column), 1), round(max(column), 1)] for column in columns]
        return {"lambda": importance, "mean": mean, "range": spread}

    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (method, importance), pairs in sorted(runs["test"].items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        rows[method].append(row(importance, pairs))
    chosen = {
        method: max(
            (key for key in runs["validation"] if key[0] == method),
            key=lambda key: statistics.mean(sum(pair) for pair in runs["validation"][key]),
        )[1]
        for method in ("L2", "EWC", "Kronecker")
    }
    return {"seeds": len(held["seeds"]), "rows": rows, "chosen": chosen}


def page(payload: str) -> str:
    """The whole page, around the images as base64 of compressed bytes."""
    parts = {
        "style": (HERE / "style.css").read_text(encoding="utf-8"),
        "scripts": "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "images": payload,
        "points": json.dumps(points(), separators=(",", ":")),
        "results": json.dumps(measured(), separators=(",", ":"), ensure_ascii=False),
    }
    template = (HERE / "index.template.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def payload_of(html: str) -> str:
    """The base64 text of the images in a page."""
    found = re.search(r'<script type="text/plain" id="images">([^<]*)</script>', html)
    if found is None:
        raise ValueError("the page holds no images: build it anew with python site/lab/build.py")
    return found[1].strip()


def is_current() -> bool:
    """Whether the page is what its sources make. Another zlib may compress to other bytes; the images must be equal."""
    if not PAGE.exists():
        return False
    html = PAGE.read_text(encoding="utf-8")
    payload = payload_of(html)
    return zlib.decompress(base64.b64decode(payload)) == images() and page(payload) == html


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="say whether the page is current, and write nothing")
    if parser.parse_args().check:
        if not is_current():
            sys.exit("site/lab/index.html is not that of its sources: python site/lab/build.py")
        print("site/lab/index.html is that of its sources")
        return
    html = page(base64.b64encode(zlib.compress(images(), 9)).decode())
    size = len(html.encode())
    if size > LIMIT:
        sys.exit(f"the page has {size:,} bytes, more than {LIMIT:,}: leave out images in experiments/laboratory.py")
    unfinished = PAGE.with_suffix(".unfinished")
    unfinished.write_text(html, encoding="utf-8", newline="\n")
    unfinished.replace(PAGE)
    print(f"site/lab/index.html: {size:,} bytes")


if __name__ == "__main__":
    main()
