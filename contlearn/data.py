"""Tasks and loaders: MNIST, Fashion-MNIST, and the permuted, split and joint tasks made from them.

Both sets are verified by SHA-256 and held in memory as float32 images in [0, 1]. They are read from `files/data/` of
this repository; where the package was installed without it, torchvision downloads them once into the user's cache.
"""

import gzip
import hashlib
import http.client
import math
import os
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

SHIPPED = Path(__file__).resolve().parent.parent / "files" / "data"

MNIST_CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

# SHA-256 of the decompressed IDX files, the widely published values; the shape that each file's header must state.
_SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
_SHA256 = {
    "mnist/train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "mnist/train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "mnist/t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "mnist/t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    "fashion-mnist/train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "fashion-mnist/train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "fashion-mnist/t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "fashion-mnist/t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True)
class Task:
    """One classification task, entirely in memory.

    Attributes:
        name: what figures and tables call it.
        classes: the name of each label that occurs in the task, keyed by the label.
        train, test: images, float32 (N, 28, 28) in [0, 1], and labels, int64 (N,).
    """

    name: str
    classes: dict[int, str]
    train: TensorDataset
    test: TensorDataset

    def train_loader(
        self, batch_size: int = 64, shuffle: bool = True, seed: int | None = None
    ) -> DataLoader[tuple[Tensor, ...]]:
        """Mini-batches of the training set: images (batch, 28, 28) and labels (batch,).

        With a `seed`, the same sequence of batches comes out whenever the loader is made anew; each pass over one
        loader is shuffled differently. Without, `torch.manual_seed` decides.
        """
        return _loader(self.train, batch_size, shuffle, seed)

    def test_loader(self, batch_size: int = 1000) -> DataLoader[tuple[Tensor, ...]]:
        """Mini-batches of the test set, always in the same order."""
        return _loader(self.test, batch_size, shuffle=False, seed=0)

    def to(self, device: torch.device | str) -> "Task":
        """The same task with all its images on `device`, moved once instead of batch by batch."""
        moved = [TensorDataset(*(t.to(device) for t in part.tensors)) for part in (self.train, self.test)]
        return Task(self.name, self.classes, *moved)


def load_mnist(root: Path | str | None = None) -> Task:
    """Handwritten digits (LeCun, Cortes, Burges): 60,000 training and 10,000 test images of ten classes.

    Args:
        root: the folder that holds `mnist/*.gz`; by default `files/data/` of this repository or, where the package was
            installed without it, a cache in the user's home that torchvision's downloader fills the first time.

    Raises:
        FileNotFoundError: an archive is missing.
        ValueError: an archive is truncated, altered or of the wrong shape.
        RuntimeError: the download failed.
    """
    return _load("MNIST", "mnist", MNIST_CLASSES, root)


def load_fashion_mnist(root: Path | str | None = None) -> Task:
    """Pictures of clothing (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747), made to be MNIST's drop-in successor.

    `root` and errors are those of `load_mnist`, with `fashion-mnist/` for the folder.
    """
    return _load("Fashion-MNIST", "fashion-mnist", FASHION_CLASSES, root)


def permuted(task: Task, seed: int) -> Task:
    """The same images with their pixels shuffled, by one fixed permutation for all: x'_i = x_π(i), eq. (1.2).

    As hard as the original for a network that does not know which pixels are neighbours, and a new task to it
    (Goodfellow et al. 2013, arXiv:1312.6211). The result holds a copy of all images, about 220 MB for MNIST.

    Args:
        seed: chooses π; the same seed gives the same task on every machine.
    """

    def shuffle(part: TensorDataset) -> TensorDataset:
        images, labels = part.tensors
        order = torch.randperm(images[0].numel(), generator=torch.Generator().manual_seed(seed)).to(images.device)
        return TensorDataset(images.flatten(1)[:, order].view_as(images), labels)

    return Task(f"{task.name} permuted {seed}", task.classes, shuffle(task.train), shuffle(task.test))


def split(task: Task, classes_per_task: int) -> list[Task]:
    """Cut a task into several, each with some of the classes: for MNIST and 2, zero/one, two/three, and so on.

    Labels keep their values, so that all parts can share one output layer.

    Raises:
        ValueError: the number of classes is no multiple of `classes_per_task`.
    """
    labels = sorted(task.classes)
    if classes_per_task < 1 or len(labels) % classes_per_task:
        raise ValueError(
            f"classes_per_task={classes_per_task} does not divide the {len(labels)} classes of {task.name}; "
            f"choose one of {[n for n in range(1, len(labels) + 1) if len(labels) % n == 0]}"
        )

    def select(part: TensorDataset, chosen: list[int]) -> TensorDataset:
        mask = torch.isin(part.tensors[1], torch.tensor(chosen, device=part.tensors[1].device))
        return TensorDataset(*(t[mask] for t in part.tensors))

    parts = []
    for first in range(0, len(labels), classes_per_task):
        chosen = labels[first : first + classes_per_task]
        classes = {label: task.classes[label] for label in chosen}
        name = f"{task.name} {'/'.join(str(label) for label in chosen)}"
        parts.append(Task(name, classes, select(task.train, chosen), select(task.test, chosen)))
    return parts


def joint(tasks: Sequence[Task]) -> Task:
    """All images of several tasks in one: what a learner who never has to forget trains on.

    Raises:
        ValueError: `tasks` is empty.
    """
    if not tasks:
        raise ValueError("joint() needs at least one task, got none")
    classes: dict[int, str] = {}
    for task in tasks:
        for label, name in task.classes.items():
            classes[label] = name if classes.get(label, name) == name else f"{classes[label]} / {name}"

    def concatenate(parts: list[TensorDataset]) -> TensorDataset:
        return TensorDataset(*(torch.cat(tensors) for tensors in zip(*(part.tensors for part in parts), strict=True)))

    return Task(
        " + ".join(task.name for task in tasks),
        classes,
        concatenate([task.train for task in tasks]),
        concatenate([task.test for task in tasks]),
    )


def batches(loader: Iterable[Any], device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    """The (inputs, labels) pairs of anyone's loader, on `device`, with the two commonest mistakes caught.

    Raises:
        TypeError: the loader yields something else than a pair of tensors.
        ValueError: the loader is empty, or labels are not integers of shape (batch,).
    """
    for inputs, labels in pairs(loader, device):
        if labels.ndim != 1 or labels.is_floating_point():
            raise ValueError(
                f"labels must be integers of shape ({len(inputs)},), one for each input, "
                f"got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        yield inputs, labels.to(torch.int64)


def pairs(loader: Iterable[Any], device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    """The (inputs, targets) of anyone's loader on `device`, empty batches left out.

    Raises:
        TypeError: the loader yields something else than a pair of tensors.
        ValueError: the loader is empty, or there are not as many targets as inputs.
    """
    empty = True
    for batch in loader:
        if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(t, Tensor) for t in batch)):
            raise TypeError(
                f"the loader must yield pairs of tensors (inputs, labels), got {type(batch).__name__}; F is measured "
                "on any other with forward=lambda model, batch: (logits, labels)"
            )
        inputs, labels = batch
        if labels.ndim == 0 or len(labels) != len(inputs):
            raise ValueError(
                f"labels must be integers of shape ({len(inputs)},), one for each input, "
                f"got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if len(labels) == 0:
            continue
        empty = False
        yield inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    if empty:
        raise ValueError(
            "the loader is empty: it yields no images, so there is nothing to train or measure on "
            "(a generator passes once only: use a list or a DataLoader)"
        )


def _loader(dataset: TensorDataset, batch_size: int, shuffle: bool, seed: int | None) -> DataLoader[tuple[Tensor, ...]]:
    # A sampler of whole batches slices the tensors once a batch, instead of collecting image by image.
    # A loader draws a seed from its generator at each pass; with its own it leaves torch's global one alone.
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    return DataLoader(
        dataset, sampler=BatchSampler(sampler, batch_size, drop_last=False), batch_size=None, generator=generator
    )


def _load(name: str, folder: str, classes: Sequence[str], root: Path | str | None) -> Task:
    if root is None:
        root = SHIPPED if (SHIPPED / folder).is_dir() else _download(name, folder)
    with ThreadPoolExecutor() as pool:  # decompressing and hashing let other threads run
        found = pool.map(lambda part: torch.from_numpy(_read(Path(root), f"{folder}/{part}")), _SHAPES)
        train_images, train_labels, test_images, test_labels = found
    return Task(
        name,
        dict(enumerate(classes)),
        TensorDataset(train_images.float() / 255, train_labels.long()),  # x = v / 255, eq. (1.1)
        TensorDataset(test_images.float() / 255, test_labels.long()),
    )


def _read(root: Path, key: str) -> NDArray[np.uint8]:
    """One IDX archive (http://yann.lecun.com/exdb/mnist, 'file formats') as uint8, after checking every byte of it."""
    path, shape = root / f"{key}.gz", _SHAPES[key.split("/")[1]]
    remedy = (
        f"Restore it (in a checkout of contlearn: git checkout -- {path.name} in that folder) or delete its folder."
    )
    try:
        raw = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: expected the gzipped IDX file of {shape[0]:,} entries. "
            f"{remedy if root == SHIPPED else 'Put it there, or call without root to use the copy that comes along.'}"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        found = f"{path.stat().st_size:,} bytes that do not decompress ({error})"
        raise ValueError(f"{path} is truncated or damaged: expected a gzip archive, found {found}. {remedy}") from error
    header = np.frombuffer(raw[: 4 + 4 * len(shape)].ljust(4 + 4 * len(shape), b"\0"), ">u4")
    found_shape, size = tuple(int(n) for n in header[1:]), max(0, len(raw) - header.nbytes)
    if header[0] != 0x0800 + len(shape) or found_shape != shape or size != math.prod(shape):
        raise ValueError(
            f"{path} has the wrong shape: expected an IDX file of unsigned bytes {shape}, "
            f"found {found_shape} with magic number {header[0]:#06x} and {size:,} bytes of data. {remedy}"
        )
    digest = hashlib.sha256(raw).hexdigest()
    if digest != _SHA256[key]:
        raise ValueError(f"{path} was altered: expected SHA-256 {_SHA256[key]}, found {digest}. {remedy}")
    return np.frombuffer(bytearray(raw), np.uint8, offset=header.nbytes).reshape(
        shape
    )  # bytearray: writable, for torch


def _download(name: str, folder: str) -> Path:
    """Fetch one set with torchvision into the user's cache, unless it is there already; return the cache's root."""
    root = platformdirs.user_cache_path("contlearn")
    names = [f"{part}.gz" for part in _SHAPES]
    if all((root / folder / archive).is_file() for archive in names):
        return root
    dataset = getattr(_torchvision_datasets(), name.replace("-", ""))
    (root / folder).mkdir(parents=True, exist_ok=True)
    # Each process downloads into a folder of its own and moves finished, verified files only: whoever comes second
    # replaces a file by an identical one.
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        try:
            raw = Path(dataset(scratch, download=True).raw_folder)
            verified = Path(scratch) / "verified"  # not beside MNIST/, which is mnist/ where names ignore case
            verified.mkdir()
            raw.rename(verified / folder)
            for part in _SHAPES:
                _read(verified, f"{folder}/{part}")
        except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
            raise RuntimeError(
                f"{name} could not be downloaded: {error}\nCheck the connection (a proxy?) and try again, or put the "
                f"four archives {', '.join(names)} into {root / folder} yourself."
            ) from error
        for archive in names:
            os.replace(verified / folder / archive, root / folder / archive)
    return root


def _torchvision_datasets() -> Any:
    """`torchvision.datasets`, also where a torchvision built for CUDA stands beside a CPU-only torch.

    There, the import stops because the compiled image operators are not registered. The data sets need none of them, so
    declaring the two names is enough.
    """
    try:
        import torchvision.datasets
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        _DECLARED.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision.datasets
    return torchvision.datasets


_DECLARED = torch.library.Library("torchvision", "FRAGMENT")  # module-level: the names live as long as this object
