"""Elastic Weight Consolidation, small enough to read in one sitting: the companion library of the notebooks."""

from contlearn.data import Task, joint, load_fashion_mnist, load_mnist, permuted, split
from contlearn.ewc import EWC
from contlearn.fisher import diagonal_fisher, kronecker_fisher
from contlearn.models import MLP, Masked, load_checkpoint, save_checkpoint
from contlearn.training import History, accuracy, train

__all__ = [
    "EWC",
    "MLP",
    "History",
    "Masked",
    "Task",
    "accuracy",
    "diagonal_fisher",
    "joint",
    "kronecker_fisher",
    "load_checkpoint",
    "load_fashion_mnist",
    "load_mnist",
    "permuted",
    "save_checkpoint",
    "split",
    "train",
]
