"""The notebooks on Colab, on Kaggle, or in any Jupyter without the repository: the first cell calls `prepare`.

The published package carries the checkpoint, the stored results and the experiments that the notebooks read; the two
image sets are looked for among what was uploaded or attached, and downloaded if they are not there.
"""

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from contlearn import data

PACKAGE = Path(__file__).resolve().parent
ATTACHED = Path("/kaggle/input")  # where Kaggle puts the data sets of a notebook


def prepare(folder: Path | str = "contlearn", search: Iterable[Path | str] | None = None) -> Path:
    """Lay out `folder` as the repository is, and go into its `notebooks/`; return the folder.

    Args:
        folder: is made if it is not there; the notebooks then read `../files/…` and `../experiments/…` from it.
        search: where the image sets may lie, under any name, compressed or not: by default the current folder and
            what is attached on Kaggle. They are recognised by their SHA-256.

    Raises:
        RuntimeError: an image set was not found and could not be downloaded.
    """
    folder = Path(folder).resolve()
    places = [Path.cwd(), ATTACHED] if search is None else [Path(place) for place in search]
    for name in ("files", "experiments"):
        inside, beside = PACKAGE / name, PACKAGE.parent / name
        shutil.copytree(inside if inside.is_dir() else beside, folder / name, dirs_exist_ok=True, ignore=_leave_images)
    found = find_images(places)
    for name, short in (("MNIST", "mnist"), ("Fashion-MNIST", "fashion-mnist")):
        source = data.SHIPPED if (data.SHIPPED / short).is_dir() else data._download(name, short)
        target = folder / "files" / "data" / short
        target.mkdir(parents=True, exist_ok=True)
        for archive in (source / short).glob("*.gz"):
            shutil.copy(archive, target)
    (folder / "notebooks").mkdir(exist_ok=True)
    os.chdir(folder / "notebooks")
    print(f"contlearn is ready{f', with images from {found}' if found else ''}.")
    return folder


def find_images(places: Iterable[Path]) -> str:
    """Copy the image sets' files that lie below `places` into the cache that the loaders read; say where they lay."""
    cache = platformdirs.user_cache_path("contlearn")
    sizes = {16 + 60_000 * 784, 16 + 10_000 * 784, 8 + 60_000, 8 + 10_000}
    wanted = {digest: key for key, digest in data._SHA256.items() if not (cache / f"{key}.gz").is_file()}
    lay: set[str] = set()
    for path in (path for place in places if place.is_dir() for path in sorted(place.rglob("*"))):
        if not wanted:
            break
        try:
            if not path.is_file() or ("idx" not in path.name and path.suffix != ".gz"):
                continue
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        except (OSError, EOFError):  # gzip.BadGzipFile is an OSError
            continue
        key = wanted.pop(hashlib.sha256(raw).hexdigest(), None) if len(raw) in sizes else None
        if key:
            target = cache / f"{key}.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f".{target.name}.{os.getpid()}")
            unfinished.write_bytes(gzip.compress(raw, 1, mtime=0))
            unfinished.replace(target)
            lay.add(str(path.parent))
    return ", ".join(sorted(lay))


def _leave_images(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "__pycache__" or name.endswith("-ubyte.gz")]
