"""Elastic Weight Consolidation: a quadratic penalty that keeps the weights which earlier tasks need."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from contlearn.fisher import Estimator, diagonal_fisher

Anchor = Literal["optima", "latest"]


class EWC:
    """The penalty Σ_k ½ λ Σ_i F_k,i (θ_i − θ*_k,i)², eq. (5.2), of all tasks k consolidated so far.

    However many tasks, it is held as one quadratic, ½ λ [Σ_i S_i (θ_i − μ_i)² + c]: with S = Σ F_k and
    μ = Σ F_k θ*_k / S (element-wise) and one number c, its value and gradient are exactly those of the sum.

    >>> ewc = EWC(importance=100)
    >>> ewc.consolidate(model, old_loader)                            # after training on the old task
    >>> loss = cross_entropy(model(x), y) + ewc.penalty(model)        # while training on the new one

    Args:
        importance: λ ≥ 0. The ½ of the formula is in the code; of two codes that differ in it, or in the estimator of
            F, the same λ means different things.
        decay: γ in [0, 1], by which S and c are multiplied before a new task is added; below 1 old tasks fade
            (online EWC, Schwarz et al. 2018, arXiv:1805.06370).
        anchor: `"optima"`: every task keeps its own θ*_k (Kirkpatrick et al. 2017, 10.1073/pnas.1611835114).
            `"latest"`: the summed S is centred on the newest θ* alone (Huszár 2018, 10.1073/pnas.1717042115).

    Attributes:
        tasks: how many tasks were consolidated.
        precision: S, keyed and shaped like the parameters.
        center: μ, likewise.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, importance: float, decay: float = 1.0, anchor: Anchor = "optima") -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: expected a number from 0 (forget earlier tasks) to 1 (keep them)")
        if anchor not in get_args(Anchor):
            raise ValueError(f"anchor={anchor!r}: expected one of {', '.join(map(repr, get_args(Anchor)))}")
        self.importance = importance
        self.decay = decay
        self.anchor = anchor
        self.tasks = 0
        self.constant = 0.0
        self.precision: dict[str, Tensor] = {}
        self.center: dict[str, Tensor] = {}
        self._pull: tuple[float, list[Tensor]] | None = None
        self._offsets: list[Tensor] = []

    @property
    def importance(self) -> float:
        """λ. It may be changed at any time."""
        return self._importance

    @importance.setter
    def importance(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"importance={value}: λ must be finite and not negative; 0 switches EWC off")
        self._importance = float(value)

    def consolidate(self, model: nn.Module, loader: Iterable[Any], estimator: Estimator = "exact") -> None:
        """Add a task: its θ* is the model's weights now, its F is `diagonal_fisher(model, loader, estimator)`.

        Call it when training on the task is over, with the task's training data. The data are not needed again.

        Raises:
            ValueError, FloatingPointError: as `diagonal_fisher`, or a parameter has changed its shape since an earlier
                task. Nothing is added then.
        """
        self.add(diagonal_fisher(model, loader, estimator), dict(model.named_parameters()))

    def add(self, fisher: Mapping[str, Tensor], anchor: Mapping[str, Tensor]) -> None:
        """Add a task of which F and θ* are known already; both keyed like `model.named_parameters()`.

        Raises:
            ValueError: F is negative or not finite somewhere, or a shape differs. Nothing is added then.
        """
        precision, center, constant = dict(self.precision), dict(self.center), self.decay * self.constant
        for name in center:
            precision[name] = self.decay * precision[name]
        for name, f in fisher.items():
            theta = anchor[name].detach().to(f.dtype)
            if theta.shape != f.shape or (name in center and center[name].shape != f.shape):
                shape = tuple(center.get(name, theta).shape)
                raise ValueError(f"{name}: F has shape {tuple(f.shape)}, but the weights have {shape}")
            if not bool(torch.isfinite(f).all() and (f >= 0).all() and torch.isfinite(theta).all()):
                raise ValueError(f"{name}: F must be finite and not negative, and θ* finite; did training diverge?")
            if name not in center:
                precision[name], center[name] = f.clone(), theta.clone()
                continue
            old, total = precision[name], precision[name] + f
            share = torch.where(total > 0, f / total, 1)  # of the new task; all of it where no task needs the weight
            step = theta - center[name]
            # S_old (θ−μ_old)² + F (θ−θ*)² = (S_old+F) (θ−μ)² + S_old·F/(S_old+F) (θ*−μ_old)²
            constant += float((old * share * step.square()).sum(dtype=torch.float64))
            precision[name], center[name] = total, center[name] + share * step
        if self.anchor == "latest":
            center.update({name: anchor[name].detach().to(f.dtype).clone() for name, f in fisher.items()})
            constant = 0.0
        self.precision, self.center, self.constant = precision, center, constant
        self.tasks += 1
        self._pull, self._offsets = None, []

    def penalty(self, model: nn.Module) -> Tensor:
        """½ λ [Σ_i S_i (θ_i − μ_i)² + c], eq. (5.2): a scalar to be added to the loss, zero before the first task.

        Its gradient λ S (θ − μ), eq. (5.4), is computed in closed form, at a cost that does not grow with the tasks.
        Gradient descent with it is stable while η·λ·max S < 2, eq. (5.5).

        Raises:
            ValueError: the model lacks parameters that were consolidated, or has them in another shape or on another
                device.
        """
        names, parameters = self._matched(model)
        if not names:
            return torch.zeros((), device=next(model.parameters()).device)
        value: Tensor = _Quadratic.apply(  # type: ignore[no-untyped-call]
            self.importance,
            self.constant,
            [self.precision[name] for name in names],
            [self.center[name] for name in names],
            *parameters,
        )
        return value

    @torch.no_grad()
    def add_gradient(self, model: nn.Module) -> None:
        """Add the penalty's gradient λ S (θ − μ), eq. (5.4), to the `.grad` of each parameter, in place.

        Between `loss.backward()` and the optimiser's step, it does what adding `penalty` to the loss does, for less.

        Raises:
            ValueError: as `penalty`.
        """
        names, parameters = self._matched(model)
        if [o.dtype for o in self._offsets] != [p.dtype for p in parameters]:
            self._offsets = [torch.empty_like(p) for p in parameters]  # kept: memory anew at each step costs as much
        for name, p, offset in zip(names, parameters, self._offsets, strict=True):
            if p.requires_grad:
                torch.sub(p, self.center[name], out=offset)  # θ − μ
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                p.grad.addcmul_(self.precision[name].to(p.dtype), offset, value=self.importance)

    @torch.no_grad()
    def proximal_step(self, model: nn.Module, lr: float) -> None:
        """θ ← argmin_θ' ½‖θ' − θ‖² + η·penalty(θ') = (θ + ηλSμ) / (1 + ηλS), eq. (5.6), in place.

        Call it after a step of the optimiser on the loss alone, with the same learning rate η; every k steps, with kη.
        It is an interpolation from θ towards μ, so it is stable for every λ (Parikh and Boyd 2014, 10.1561/2400000003,
        section 1.1).

        Raises:
            ValueError: as `penalty`, or `lr` is negative or not finite.
        """
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"lr={lr}: the learning rate must be finite and not negative")
        names, parameters = self._matched(model)
        strength = lr * self.importance
        if self._pull is None or self._pull[0] != strength:
            scaled = [strength * self.precision[name] for name in names]
            self._pull = strength, [s / (1 + s) for s in scaled]  # ηλS / (1 + ηλS), kept while η and λ stay
        for p, name, weight in zip(parameters, names, self._pull[1], strict=True):
            if p.requires_grad:
                p.lerp_(self.center[name].to(p.dtype), weight.to(p.dtype))

    def largest_stable_importance(self, lr: float) -> float:
        """The λ at which gradient descent on the penalty begins to diverge: 2 / (η · max S), eq. (5.5).

        Raises:
            ValueError: `lr` is not positive, or not finite.
        """
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr={lr}: the learning rate must be positive and finite, such as 0.1")
        curvature = max((float(s.max()) for s in self.precision.values()), default=0.0)
        return 2 / (lr * curvature) if curvature > 0 else math.inf

    def to(self, device: torch.device | str) -> "EWC":
        """Move S and μ to `device`, and return self."""
        self.precision = {name: t.to(device) for name, t in self.precision.items()}
        self.center = {name: t.to(device) for name, t in self.center.items()}
        self._pull, self._offsets = None, []
        return self

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors and plain numbers: `torch.load` reads it back with `weights_only=True`."""
        return {
            "importance": self.importance,
            "decay": self.decay,
            "anchor": self.anchor,
            "tasks": self.tasks,
            "constant": self.constant,
            "precision": {name: t.clone() for name, t in self.precision.items()},
            "center": {name: t.clone() for name, t in self.center.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what `state_dict` described; tensors stay on the device they come on.

        Raises:
            ValueError: `state` is no state of an `EWC`. Nothing is changed then.
        """
        try:
            new = EWC(state["importance"], state["decay"], state["anchor"])
            new.tasks, new.constant = int(state["tasks"]), float(state["constant"])
            new.precision = {name: t.clone() for name, t in state["precision"].items()}
            new.center = {name: t.clone() for name, t in state["center"].items()}
            matching = {k: t.shape for k, t in new.precision.items()} == {k: t.shape for k, t in new.center.items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no state_dict of an EWC: {error!r}") from error
        if not matching:
            raise ValueError("this is no state_dict of an EWC: precision and center differ in names or shapes")
        self.__dict__.update(new.__dict__)

    def _matched(self, model: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
        """The consolidated parameters of the model, in the order of `precision`."""
        own = dict(model.named_parameters())
        for name, s in self.precision.items():
            p = own.get(name)
            if p is None or p.shape != s.shape:
                found = "no such parameter" if p is None else f"shape {tuple(p.shape)}"
                raise ValueError(
                    f"the model is not the one that was consolidated: expected {name} of shape {tuple(s.shape)}, "
                    f"found {found}; the model has {', '.join(own) or 'no parameters'}"
                )
            if p.device != s.device:
                raise ValueError(f"the model is on {p.device}, EWC on {s.device}: call ewc.to({str(p.device)!r})")
        return list(self.precision), [own[name] for name in self.precision]


class _Quadratic(torch.autograd.Function):
    """½ λ [Σ S (θ − μ)² + c] of several tensors, and its gradient λ S (θ − μ)."""

    @staticmethod
    def forward(
        ctx: Any, importance: float, constant: float, precision: list[Tensor], center: list[Tensor], *theta: Tensor
    ) -> Tensor:
        offsets = [t - m for t, m in zip(theta, center, strict=True)]  # θ − μ
        ctx.pulls = [s * o for s, o in zip(precision, offsets, strict=True)]  # S (θ − μ)
        ctx.importance = importance
        products = [torch.dot(o.flatten(), s.flatten()) for o, s in zip(offsets, ctx.pulls, strict=True)]
        value: Tensor = 0.5 * importance * (torch.stack(products).sum() + constant)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *(ctx.importance * gradient * pull for pull in ctx.pulls)
