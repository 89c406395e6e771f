"""The accuracy matrix of a sequence of tasks, and what is read off it.

R[i, j] is the accuracy on task j after training on tasks 0 … i, a fraction in [0, 1]; T tasks give a matrix (T, T).
Entries that were not measured are NaN. Definitions differ between libraries; each function says which one it is.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from contlearn.training import accuracy


def accuracies(model: nn.Module, loaders: Iterable[Iterable[Any]]) -> list[float]:
    """One row of the accuracy matrix: the model's accuracy on each loader in turn, in [0, 1]."""
    return [accuracy(model, loader) for loader in loaders]


def average_accuracy(matrix: Tensor | Sequence[Sequence[float]]) -> float:
    """ACC = 1/T Σ_j R[T−1, j], eq. (6.3): the mean over all tasks after the last.

    The definition of Lopez-Paz and Ranzato 2017 (arXiv:1706.08840, equation 2).
    Díaz-Rodríguez et al. 2018 (arXiv:1810.13166) average over the whole lower triangle instead.

    Raises:
        ValueError: the matrix is not square, or a needed entry was not measured.
    """
    return float(_measured(_square(matrix)[-1]).mean())


def forgetting(matrix: Tensor | Sequence[Sequence[float]]) -> float:
    """Mean over the earlier tasks j of max_{i<T−1} R[i, j] − R[T−1, j], from its best to the end: eq. (6.4).

    The definition of Chaudhry et al. 2018 (arXiv:1801.10112, equation 3), the maximum taken from i = j on, before which
    the task had not been seen. With two tasks it is the drop of the first, eq. (3.1), or −BWT; with more at least −BWT.

    Raises:
        ValueError: fewer than two tasks, the matrix is not square, or a needed entry was not measured.
    """
    r = _square(matrix, at_least=2)
    best = torch.stack([_measured(r[j:-1, j]).max() for j in range(len(r) - 1)])
    return float((best - _measured(r[-1, :-1])).mean())


def backward_transfer(matrix: Tensor | Sequence[Sequence[float]]) -> float:
    """BWT = 1/(T−1) Σ_{j<T−1} R[T−1, j] − R[j, j], eq. (6.5): negative where tasks are forgotten.

    The definition of Lopez-Paz and Ranzato 2017 (arXiv:1706.08840, equation 3).

    Raises:
        ValueError: fewer than two tasks, the matrix is not square, or a needed entry was not measured.
    """
    r = _square(matrix, at_least=2)
    return float((_measured(r[-1, :-1]) - _measured(r.diagonal()[:-1])).mean())


def forward_transfer(matrix: Tensor | Sequence[Sequence[float]], untrained: Tensor | Sequence[float]) -> float:
    """FWT = 1/(T−1) Σ_{j>0} R[j−1, j] − b_j: what earlier tasks give to later ones.

    The definition of Lopez-Paz and Ranzato 2017 (arXiv:1706.08840, equation 4).

    Args:
        untrained: b, the accuracy of a freshly initialised model on each task, (T,).

    Raises:
        ValueError: fewer than two tasks, the shapes do not fit, or a needed entry was not measured.
    """
    r = _square(matrix, at_least=2)
    b = torch.as_tensor(untrained, dtype=torch.float64)
    if b.shape != (len(r),):
        raise ValueError(f"untrained has shape {tuple(b.shape)}: expected one accuracy for each of the {len(r)} tasks")
    return float((_measured(r.diagonal(1)) - _measured(b[1:])).mean())


def _square(matrix: Tensor | Sequence[Sequence[float]], at_least: int = 1) -> Tensor:
    r = torch.as_tensor(matrix, dtype=torch.float64)
    if r.ndim != 2 or r.shape[0] != r.shape[1] or len(r) < at_least:
        raise ValueError(f"the accuracy matrix has shape {tuple(r.shape)}: expected (T, T) with T ≥ {at_least}")
    outside = r[(r < 0) | (r > 1)]
    if len(outside):
        raise ValueError(
            f"accuracies are fractions from 0 to 1, found {float(outside[0]):g}: divide percentages by 100"
        )
    return r


def _measured(values: Tensor) -> Tensor:
    if bool(values.isnan().any()):
        raise ValueError("an entry of the accuracy matrix that is needed here is NaN: measure that task at that point")
    return values
