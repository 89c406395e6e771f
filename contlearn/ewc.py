"""Elastic Weight Consolidation: a quadratic penalty that keeps the weights which earlier tasks need."""

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.amp import is_autocast_available
from torch.autograd.function import once_differentiable

from contlearn.fisher import KroneckerFisher, diagonal_fisher, kronecker_fisher
from contlearn.likelihoods import Estimator, Likelihood
from contlearn.models import Masked
from contlearn.per_image import Forward
from contlearn.quadratics import Diagonal, Kronecker
from contlearn.ranks import local, sharded, unwrapped, whole, with_shard
from contlearn.scaler import watch

Anchor = Literal["optima", "latest"]
Structure = Literal["diagonal", "kronecker"]
_WATCHED = 3  # calls of add_gradient after which the optimiser's step is looked at
_STRUCTURES: dict[str, type[Diagonal] | type[Kronecker]] = {"diagonal": Diagonal, "kronecker": Kronecker}


class EWC:
    """The penalty Σ_k ½ λ Σ_i F_k,i (θ_i − θ*_k,i)², eq. (5.2), of all tasks k consolidated so far.

    However many tasks, it is one quadratic, ½ λ [Σ_i S_i (θ_i − μ_i)² + c], eq. (6.1): with S = Σ F_k and
    μ = Σ F_k θ*_k / S (element-wise) and one number c, its value and gradient are exactly those of the sum.

    With Kronecker factors in place of the diagonal it is ½ λ Σ_l tr(ΔW_lᵀ G_l ΔW_l A_l), eq. (7.4), ΔW_l being how far
    weights and bias of layer l are from the newest θ*; of several tasks, the A are averaged and the G summed.

    >>> ewc = EWC(importance=100)
    >>> ewc.consolidate(model, old_loader)                            # after training on the old task
    >>> loss = cross_entropy(model(x), y) + ewc.penalty(model)        # while training on the new one

    Args:
        importance: λ ≥ 0. The ½ of the formula is in the code; of two codes that differ in it, or in the estimator of
            F, the same λ means different things.
        decay: γ in [0, 1], by which S and c are multiplied before a new task is added; below 1 old tasks fade,
            eq. (6.6) (online EWC, Schwarz et al. 2018, arXiv:1805.06370).
        anchor: `"optima"`: every task keeps its own θ*_k (Kirkpatrick et al. 2017, 10.1073/pnas.1611835114).
            `"latest"`: the summed S is centred on the newest θ* alone (Huszár 2018, 10.1073/pnas.1717042115).
            Beyond a few tasks it forgets less (notebook 06): prefer it. By default `"optima"` for the diagonal all the
            same, since that is what the name EWC stands for; Kronecker factors are always centred on the latest.
        structure: `"diagonal"`: each parameter by itself. `"kronecker"`: also how those of one layer hang together
            (Ritter, Botev and Barber 2018, arXiv:1805.07810). Its eigenvalues are large, so take `proximal_step`, every
            ten steps or so, rather than the gradient.

    Attributes:
        tasks: how many tasks were consolidated.
        quadratic: the form (θ−μ)ᵀ S (θ−μ) + c itself, a `Diagonal` or a `Kronecker`.

    Raises:
        ValueError: an argument is out of its range, or two do not go together.
    """

    def __init__(
        self,
        importance: float,
        decay: float = 1.0,
        anchor: Anchor | None = None,
        structure: Structure = "diagonal",
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: expected a number from 0 (forget earlier tasks) to 1 (keep them)")
        if anchor is not None and anchor not in get_args(Anchor):
            raise ValueError(f"anchor={anchor!r}: expected one of {', '.join(map(repr, get_args(Anchor)))}")
        if structure not in _STRUCTURES:
            raise ValueError(f"structure={structure!r}: expected one of {', '.join(map(repr, _STRUCTURES))}")
        if structure == "kronecker" and anchor == "optima":
            raise ValueError(
                "anchor='optima' needs structure='diagonal': a sum of Kronecker products is no such product"
            )
        self.importance = importance
        self.decay = decay
        self.structure = structure
        self.anchor: Anchor = anchor or ("optima" if structure == "diagonal" else "latest")
        self.tasks = 0
        self.quadratic: Diagonal | Kronecker = _STRUCTURES[structure]()
        self._watched = 0

    @property
    def precision(self) -> dict[str, Tensor]:
        """S, or its diagonal, keyed and shaped like the parameters."""
        return self.quadratic.precision

    @property
    def center(self) -> dict[str, Tensor]:
        """μ, keyed and shaped like the parameters."""
        return self.quadratic.center

    @property
    def importance(self) -> float:
        """λ. It may be changed at any time."""
        return self._importance

    @importance.setter
    def importance(self, value: float) -> None:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"importance={value}: λ must be finite and not negative; 0 switches EWC off")
        self._importance = float(value)

    def consolidate(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        estimator: Estimator = "exact",
        *,
        likelihood: Likelihood = "categorical",
        forward: Forward | None = None,
        samples: int = 1,
        generator: torch.Generator | None = None,
        progress: bool = True,
    ) -> None:
        """Add a task: its θ* is the model's weights now, its F is measured on all images of `loader`.

        Call it when training on the task is over, with the task's training data. The data are not needed again.
        The arguments are those of `diagonal_fisher`. Under `torch.distributed`, call it on every rank, each with images
        of its own: F is that of all of them, and the same on each.

        Parameters go by their names inside `DistributedDataParallel`, `torch.compile` and `Masked`, so that what is
        consolidated with a wrapper protects the model without it, and the other way round. So F of a model in shards
        (`fully_shard`) is measured on a copy that is whole, and protects the shards: see docs/scale.md.

        Raises:
            ValueError, FloatingPointError: as `diagonal_fisher` and `kronecker_fisher`, or a parameter has changed its
                shape since an earlier task. Nothing is added then.
        """
        model = unwrapped(model)
        measure = kronecker_fisher if self.structure == "kronecker" else diagonal_fisher
        fisher: Any = measure(
            model,
            loader,
            estimator,
            likelihood=likelihood,
            forward=forward,
            samples=samples,
            generator=generator,
            progress=progress,
        )
        inside = _inside(model)
        own = {id(p): name for name, p in inside.items()}
        name_of = {name: own.get(id(p), name) for name, p in model.named_parameters()}  # inside, of those outside
        if isinstance(fisher, KroneckerFisher):
            layers = [f._replace(parameters=tuple(name_of[n] for n in f.parameters)) for f in fisher.factors.values()]
            factors = {f.parameters[0].rpartition(".")[0]: f for f in layers}
            fisher = KroneckerFisher(factors, {name_of[name]: f for name, f in fisher.diagonal.items()})
        else:
            fisher = {name_of[name]: f for name, f in fisher.items()}
        self.add(fisher, inside)

    def add(self, fisher: Mapping[str, Tensor] | KroneckerFisher, anchor: Mapping[str, Tensor]) -> None:
        """Add a task of which F and θ* are known already.

        Args:
            fisher: F in this EWC's structure, as `diagonal_fisher` or `kronecker_fisher` returns it.
            anchor: θ*, keyed and shaped like `model.named_parameters()`.

        Raises:
            TypeError: F has the other structure.
            ValueError: F is negative or not finite somewhere, a shape differs, or a θ* is missing. Nothing is added
                then.
        """
        if isinstance(fisher, KroneckerFisher) != (self.structure == "kronecker"):
            raise TypeError(f"this EWC has structure={self.structure!r}: take F from {self.structure}_fisher()")
        # Of the quadratic's own kind. What is in shards is gathered, and cut again when it is next used.
        f: Any = fisher if isinstance(fisher, KroneckerFisher) else {name: whole(each) for name, each in fisher.items()}
        old: Any = self.quadratic.mapped(whole)
        self.quadratic = old.with_task(f, anchor, self.decay, latest=self.anchor == "latest")
        self.tasks += 1

    def penalty(self, model: nn.Module) -> Tensor:
        """½ λ [(θ−μ)ᵀ S (θ−μ) + c], eqs. (7.1), (5.2) and (7.4): a scalar to add to the loss, zero before any task.

        Its gradient λ S (θ − μ), eq. (5.4), is computed in closed form, at a cost that does not grow with the tasks.
        Gradient descent with it is stable while η·λ·max S < 2, eq. (5.5).

        Raises:
            ValueError: the model lacks parameters that were consolidated, or has them in another shape or on another
                device.
        """
        parameters = self._matched(model)
        if not parameters:
            return torch.zeros((), device=next(model.parameters()).device)
        with _in_full(parameters):
            value: Tensor = _Penalty.apply(self.importance, self.quadratic, *parameters)  # type: ignore[no-untyped-call]
        return value

    @torch.no_grad()
    def add_gradient(self, model: nn.Module, scale: float = 1.0) -> None:
        """Add the penalty's gradient λ S (θ − μ), eq. (5.4), to the `.grad` of each parameter, in place.

        Between `loss.backward()` and the optimiser's step, it does what adding `penalty` to the loss does, for less.
        With a `GradScaler`, gradients are multiplied by its scale until `scaler.unscale_(optimizer)`: call this after
        that, or give it `scale=scaler.get_scale()`. Else the penalty would be divided by the scale, and protect
        nothing: at the first steps the optimiser raises RuntimeError then, before it changes a weight.

        Raises:
            ValueError: as `penalty`, or `scale` is not positive and finite.
        """
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale={scale}: expected what the loss was multiplied by, such as scaler.get_scale()")
        parameters = self._matched(model)
        with _in_full(parameters):
            self.quadratic.add_pull(parameters, self.importance * scale)
        if scale == 1 and self._watched < _WATCHED and self.importance > 0 and watch(parameters):
            self._watched += 1

    @torch.no_grad()
    def proximal_step(self, model: nn.Module, lr: float) -> None:
        """θ ← argmin_θ' ½‖θ' − θ‖² + η·penalty(θ'), in place: for the diagonal (θ + ηλSμ) / (1 + ηλS), eq. (5.6), for
        Kronecker factors eq. (7.6).

        Call it after a step of the optimiser on the loss alone, with the same learning rate η; every k steps, with kη.
        It only ever leads from θ towards μ, so it is stable for every λ (Parikh and Boyd 2014, 10.1561/2400000003,
        section 1.1).

        Raises:
            ValueError: as `penalty`, or `lr` is negative or not finite.
        """
        if not (math.isfinite(lr) and lr >= 0):
            raise ValueError(f"lr={lr}: the learning rate must be finite and not negative")
        parameters = self._matched(model)  # may change the quadratic: it is cut as they are
        with _in_full(parameters):
            self.quadratic.step(parameters, lr * self.importance)

    def largest_stable_importance(self, lr: float) -> float:
        """The λ at which gradient descent on the penalty begins to diverge: 2 / (η · max S), eq. (5.5).

        Raises:
            ValueError: `lr` is not positive, or not finite.
        """
        if not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr={lr}: the learning rate must be positive and finite, such as 0.1")
        curvature = self.quadratic.curvature()
        return 2 / (lr * curvature) if curvature > 0 else math.inf

    def grow(self, model: nn.Module) -> None:
        """Go on with a model whose parameters have got new rows at their end, as an output layer for more classes has.

        Old rows stay protected; the new ones are free until the next `consolidate`.

        Raises:
            ValueError: the model lacks a parameter, or has it changed in another way. Nothing is changed then.
        """
        own = _inside(model)
        quadratic: Any = self.quadratic.mapped(whole)
        missing = [name for name in self.center if name not in own]
        if missing:
            raise ValueError(f"the model has no parameter {missing[0]!r}; it has {', '.join(own)}")
        self.quadratic = quadratic.grown({name: own[name].shape for name in self.center})

    def to(self, device: torch.device | str) -> "EWC":
        """Move S and μ to `device`, and return self."""
        self.quadratic = self.quadratic.mapped(lambda tensor: whole(tensor).to(device))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors and plain numbers: `torch.load` reads it back with `weights_only=True`.

        Shards are gathered, so that what one number of ranks has written another reads: with a model in shards, call it
        on every rank.
        """
        return {
            "importance": self.importance,
            "decay": self.decay,
            "anchor": self.anchor,
            "structure": self.structure,
            "tasks": self.tasks,
            **self.quadratic.mapped(lambda tensor: whole(tensor).clone()).state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what `state_dict` described; tensors stay on the device they come on.

        Raises:
            ValueError: `state` is no state of an `EWC`. Nothing is changed then.
        """
        try:
            new = EWC(state["importance"], state["decay"], state["anchor"], state["structure"])
            new.tasks = state["tasks"]
            if not (isinstance(new.tasks, int) and new.tasks >= 0):
                raise ValueError(f"tasks={new.tasks}: expected a whole number, 0 or more")
            new.quadratic = _STRUCTURES[new.structure].from_state(state).mapped(torch.clone)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this is no state_dict of an EWC: {error!r}") from error
        self.__dict__.update(new.__dict__)

    def _matched(self, model: nn.Module) -> list[nn.Parameter]:
        """The consolidated parameters of the model, in the order of `center`."""
        own = _inside(model)
        center = self.center
        if own.keys().isdisjoint(center):
            own = dict(model.named_parameters())  # F was added by hand, under the names that a wrapper gives
        for name, m in center.items():
            p = own.get(name)
            if p is None or p.shape != m.shape:
                found = "no such parameter" if p is None else f"shape {tuple(p.shape)}"
                remedy = "" if p is None else " (ewc.grow(model) accepts new rows)"
                raise ValueError(
                    f"the model is not the one that was consolidated: expected {name} of shape {tuple(m.shape)}, "
                    f"found {found}{remedy}; the model has {', '.join(own) or 'no parameters'}"
                )
            if p.device != m.device:
                raise ValueError(f"the model is on {p.device}, EWC on {m.device}: call ewc.to({str(p.device)!r})")
        parameters = [own[name] for name in center]
        if any(map(sharded, parameters)) or any(map(sharded, center.values())):
            if isinstance(self.quadratic, Kronecker):
                raise ValueError(
                    "the model's parameters are in shards, and the pull G ΔW A of Kronecker factors mixes all rows and "
                    "columns of a layer: take structure='diagonal', or keep the layers whole (DistributedDataParallel)"
                )
            self.quadratic = self.quadratic.cut(parameters)
        return parameters


def _in_full(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
    """Without the reader's autocast, which would round the factors' products, and with them the weights."""
    device = parameters[0].device.type if parameters else "cpu"
    return torch.autocast(device, enabled=False) if is_autocast_available(device) else nullcontext()


def _inside(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by the names that they have inside all wrappers."""
    model = unwrapped(model)
    while isinstance(model, Masked):
        model = unwrapped(model.model)
    own = dict(model.named_parameters())
    if any(map(sharded, own.values())) and not all(map(sharded, own.values())):
        for module in model.modules():  # between forward and backward some parameters are whole for a while
            if callable(reshard := getattr(module, "reshard", None)):
                reshard()
        own = dict(model.named_parameters())
    return own


class _Penalty(torch.autograd.Function):
    """½ λ [(θ−μ)ᵀ S (θ−μ) + c], and its gradient λ S (θ − μ)."""

    @staticmethod
    def forward(ctx: Any, importance: float, quadratic: Diagonal | Kronecker, *theta: Tensor) -> Tensor:
        value, ctx.pulls = quadratic.pull(theta)
        ctx.importance = importance
        return 0.5 * importance * value  # eq. (5.2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale = ctx.importance * gradient
        return None, None, *(with_shard(scale * local(pull), pull) for pull in ctx.pulls)
