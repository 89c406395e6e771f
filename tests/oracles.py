"""What the fast code is compared with: the formulas again, one image, one class and one task at a time, in float64.

Nothing here calls the library. A closed form and these loops agree only if both are right.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Tensors = dict[str, Tensor]


def fisher(model: nn.Module, images: Iterable[Tensor], labels: Iterable[int], estimator: str) -> Tensors:
    """1/N Σ_n Σ_c w_c (∂ log p_c(x_n) / ∂θ)²: w_c = p_c for "exact", otherwise 1 for one class and 0 for the others.

    That class is the given label, also for "sample", whose labels the test draws itself; or the most likely one.
    The model must be in float64; it is put in `eval()` mode.
    """
    model.eval()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    count = 0
    for image, label in zip(images, labels, strict=True):
        log_p = model(image[None])[0].log_softmax(0)
        p = log_p.exp().tolist()
        weights = {"exact": dict(enumerate(p)), "predicted": {p.index(max(p)): 1.0}}.get(estimator, {int(label): 1.0})
        for c, weight in weights.items():
            gradients = torch.autograd.grad(log_p[c], list(parameters.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    sums[name] += weight * gradient**2
        count += 1
    return {name: total / count for name, total in sums.items()}


def penalty(
    importance: float,
    tasks: Sequence[tuple[Tensors, Tensors]],
    theta: Mapping[str, Tensor],
    decay: float = 1.0,
    anchor: str = "optima",
) -> Tensor:
    """Σ_k ½ λ γ^(K−k) Σ_i F_k,i (θ_i − θ*_k,i)², task by task; `anchor="latest"` takes θ*_K for every θ*_k."""
    total = torch.zeros((), dtype=torch.float64)
    for age, (precision, own_anchor) in enumerate(reversed(tasks)):
        reference = tasks[-1][1] if anchor == "latest" else own_anchor
        for name, f in precision.items():
            offset = theta[name].double() - reference[name].double()
            total = total + 0.5 * importance * decay**age * (f.double() * offset**2).sum()
    return total


def assert_close(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Same names in the same order, same shapes; no entry is off by more than `tolerance` of its tensor's largest."""
    assert list(actual) == list(expected)
    for name in expected:
        found, wanted = (tensors[name].detach().double() for tensors in (actual, expected))
        assert found.shape == wanted.shape, name
        worst = float((found - wanted).abs().max())
        assert worst <= tolerance * float(wanted.abs().max()), f"{name} is off by {worst:.3g}"


class Watch(TorchDispatchMode):
    """Counts the operations that torch runs, and the numbers in the largest tensor that one of them returns."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.largest = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, having looked at it."""
        result = operation(*args, **(kwargs or {}))
        self.operations += 1
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                self.largest = max(self.largest, each.numel())
        return result
