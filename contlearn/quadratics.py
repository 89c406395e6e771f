"""The two structures in which the quadratic of EWC is held: a diagonal, or Kronecker factors for each layer.

Both stand for one form (θ−μ)ᵀ S (θ−μ) + c over the parameters of a model, however many tasks went into it, and answer
the same questions: what is the form after one more task, what are its value and its pull S (θ−μ), and where does its
proximal step lead. A form never changes: a new task makes a new one. λ and the ½ are the business of `EWC`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from contlearn.fisher import Factors, KroneckerFisher
from contlearn.likelihoods import precise
from contlearn.per_image import square
from contlearn.ranks import cut, gathered, local, sharded, sum_over_shards, whole, with_shard


class Diagonal:
    """Σ_i S_i (θ_i − μ_i)² + c, eq. (6.1), with S and μ keyed and shaped like the parameters."""

    def __init__(
        self,
        precision: Mapping[str, Tensor] | None = None,
        center: Mapping[str, Tensor] | None = None,
        constant: float = 0,
    ) -> None:
        self.precision, self.center, self.constant = dict(precision or {}), dict(center or {}), float(constant)
        if self.precision.keys() != self.center.keys():
            raise ValueError("precision and center differ in names")
        self._weights: tuple[float, list[Tensor]] | None = None
        self._offsets: list[Tensor] = []

    def with_task(
        self, fisher: Mapping[str, Tensor], anchor: Mapping[str, Tensor], decay: float, latest: bool
    ) -> "Diagonal":
        """γS + F, eq. (6.6), centred where the sum has its minimum, eq. (6.2), or, if `latest`, on the new θ*."""
        own = {name: precise(f) for name, f in fisher.items()}
        new = Diagonal(own, {name: _theta(name, anchor, f) for name, f in own.items()}).checked()
        for name in own:
            if name in self.center and own[name].shape != self.center[name].shape:
                raise ValueError(f"{name} has changed its shape since an earlier task; see EWC.grow")
        precision = {name: decay * s for name, s in self.precision.items()}
        center, constant = dict(self.center), decay * self.constant
        for name, f in own.items():
            theta = new.center[name]
            if name not in center:
                precision[name], center[name] = f.clone(), theta.clone()
                continue
            old, total = precision[name], precision[name] + f
            share = torch.where(total > 0, f / total, 1)  # of the new task; all of it where no task needs the weight
            step = theta - center[name]
            # S_old (θ−μ_old)² + F (θ−θ*)² = (S_old+F) (θ−μ)² + S_old·F/(S_old+F) (θ*−μ_old)², eq. (6.2)
            constant += float((old * share * square(step)).sum(dtype=torch.float64))
            precision[name], center[name] = total, theta.clone() if latest else center[name] + share * step
        return Diagonal(precision, center, 0 if latest else constant)

    def pull(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The form's value, a scalar, and S (θ − μ) for each parameter, half its gradient."""
        offsets = [local(p) - local(m) for p, m in zip(parameters, self.center.values(), strict=True)]  # θ − μ
        pulls = [local(s) * o for s, o in zip(self.precision.values(), offsets, strict=True)]  # S (θ − μ)
        products = [torch.vdot(o.flatten(), s.flatten()).real for o, s in zip(offsets, pulls, strict=True)]
        if any(map(sharded, parameters)):
            value = sum_over_shards(products, parameters)
            pulls = [with_shard(pull, p) for pull, p in zip(pulls, parameters, strict=True)]
        else:
            value = torch.stack(products).sum()
        return value + self.constant, pulls

    def add_pull(self, parameters: Sequence[nn.Parameter], strength: float) -> None:
        """Add strength · S (θ − μ) to each parameter's `.grad`."""
        own = [local(p) for p in parameters]
        # At least as precise as S, which may be too small, or too large, a number for half precision.
        dtypes = [torch.promote_types(p.dtype, s.dtype) for p, s in zip(own, self.precision.values(), strict=True)]
        wanted = [(dtype, p.shape) for p, dtype in zip(own, dtypes, strict=True)]
        if [(o.dtype, o.shape) for o in self._offsets] != wanted:  # kept: memory anew at each step costs as much
            self._offsets = [torch.empty_like(p, dtype=dtype) for p, dtype in zip(own, dtypes, strict=True)]
        for p, theta, s, m, offset in zip(
            parameters, own, self.precision.values(), self.center.values(), self._offsets, strict=True
        ):
            if p.requires_grad:
                torch.sub(theta, local(m), out=offset)  # θ − μ
                local(_gradient(p)).addcmul_(local(s).to(offset.dtype), offset, value=strength)

    def step(self, parameters: Sequence[nn.Parameter], strength: float) -> None:
        """θ ← (θ + κSμ) / (1 + κS) with κ = strength, eq. (5.6): from θ towards μ, the further the larger S."""
        if self._weights is None or self._weights[0] != strength:
            scaled = [strength * local(s) for s in self.precision.values()]
            self._weights = strength, [s / (1 + s) for s in scaled]  # kept while κ stays
        for p, m, weight in zip(parameters, self.center.values(), self._weights[1], strict=True):
            if p.requires_grad:
                local(p).lerp_(local(m).to(p.dtype), weight.to(p.dtype))

    def curvature(self) -> float:
        """The largest eigenvalue of S."""
        largest = max((float(local(s).max()) for s in self.precision.values() if local(s).numel()), default=0.0)
        return max(gathered(largest)) if any(map(sharded, self.precision.values())) else largest

    def cut(self, parameters: Sequence[Tensor]) -> "Diagonal":
        """The same form with S and μ in shards where the parameters are, and whole where they are."""
        precision = {n: cut(s, p) for (n, s), p in zip(self.precision.items(), parameters, strict=True)}
        center = {n: cut(m, p) for (n, m), p in zip(self.center.items(), parameters, strict=True)}
        changed = any(precision[n] is not self.precision[n] or center[n] is not self.center[n] for n in center)
        return Diagonal(precision, center, self.constant) if changed else self

    def grown(self, shapes: Mapping[str, torch.Size]) -> "Diagonal":
        """The same form over parameters that have more rows: S is zero in the new ones, eq. (9.4)."""
        precision = {name: _with_rows(name, s, shapes[name]) for name, s in self.precision.items()}
        center = {name: _with_rows(name, m, shapes[name]) for name, m in self.center.items()}
        return Diagonal(precision, center, self.constant)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Diagonal":
        """The same form with `change` made to each tensor: moved to a device, or cloned."""
        precision = {name: change(s) for name, s in self.precision.items()}
        return Diagonal(precision, {name: change(m) for name, m in self.center.items()}, self.constant)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers."""
        return {"precision": self.precision, "center": self.center, "constant": self.constant}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Diagonal":
        """What `state_dict` described."""
        return cls(state["precision"], state["center"], state["constant"]).checked()

    def checked(self) -> "Diagonal":
        """Itself, after a look at every number.

        Raises:
            ValueError: S or the constant is negative or not finite, μ not finite, or their shapes differ.
        """
        for name, f in self.precision.items():
            theta = self.center[name]
            if theta.shape != f.shape:
                raise ValueError(f"{name}: F has shape {tuple(f.shape)}, but the weights have {tuple(theta.shape)}")
            if not bool(torch.isfinite(f).all() and (f >= 0).all() and torch.isfinite(theta).all()):
                raise ValueError(f"{name}: F must be finite and not negative, and θ* finite; did training diverge?")
        if not 0 <= self.constant < math.inf:
            raise ValueError(f"the constant {self.constant} must be finite and not negative")
        return self


class Kronecker:
    """Σ_l tr(ΔW_lᵀ G_l ΔW_l A_l), eq. (7.4), with ΔW = [W b] − [W* b*]; a diagonal for what has no factors.

    A sum of Kronecker products has no closed form to step with, so the sum over the tasks is approximated by one
    product, mean of the A's times sum of the G's, about the newest θ*.
    """

    def __init__(
        self,
        factors: Mapping[str, Factors] | None = None,
        counts: Mapping[str, float] | None = None,
        anchors: Mapping[str, Tensor] | None = None,
        rest: Diagonal | None = None,
    ) -> None:
        self.factors, self.anchors = dict(factors or {}), dict(anchors or {})
        self.counts = {layer: float(count) for layer, count in (counts or {}).items()}
        self.rest = rest or Diagonal()
        named = {name for f in self.factors.values() for name in f.parameters}
        if self.factors.keys() != self.counts.keys() or named != self.anchors.keys():
            raise ValueError("factors, counts and anchors differ in names")
        for layer, f in self.factors.items():
            shapes = [self.anchors[name].shape for name in f.parameters]
            outputs, inputs = shapes[0][0], sum(shape[1:].numel() for shape in shapes)
            if (f.g.shape, f.a.shape) != ((outputs, outputs), (inputs, inputs)):
                found = f"A {tuple(f.a.shape)} and G {tuple(f.g.shape)}"
                raise ValueError(f"{layer}: {found} do not fit weights of shape {[tuple(shape) for shape in shapes]}")
        self._eigen: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def center(self) -> dict[str, Tensor]:
        """θ* of the newest task, keyed and shaped like the parameters."""
        return self.anchors | self.rest.center

    @property
    def precision(self) -> dict[str, Tensor]:
        """The diagonal of S, keyed and shaped like the parameters."""
        found: dict[str, Tensor] = {}
        for f in self.factors.values():
            found |= self._split(f, f.g.diagonal()[:, None] * f.a.diagonal())
        return found | self.rest.precision

    def with_task(
        self, fisher: KroneckerFisher, anchor: Mapping[str, Tensor], decay: float, latest: bool
    ) -> "Kronecker":
        """The mean of the A's, the sum of the G's, tasks fading by γ, about the new θ*; `latest` is always true."""
        # A layer that this task does not use has no factors, and zeros for its diagonal: nothing to add.
        diagonal = {name: f for name, f in fisher.diagonal.items() if name in self.rest.precision or bool(f.any())}
        factored = {name: layer for layer, f in fisher.factors.items() for name in f.parameters}
        for name in sorted(factored.keys() & self.rest.precision.keys()):
            raise ValueError(f"{name} had no Kronecker factors in an earlier task: structure='diagonal' fits")
        for name in sorted(diagonal.keys() & self.anchors.keys()):
            raise ValueError(f"{name} had Kronecker factors in an earlier task: structure='diagonal' fits")
        for layer, new in fisher.factors.items():
            old = self.factors.get(layer, new)
            if (old.a.shape, old.g.shape) != (new.a.shape, new.g.shape):
                raise ValueError(f"{layer} has changed its shape since an earlier task; see EWC.grow")
        thetas = {name: _theta(name, anchor, fisher.factors[layer].g) for name, layer in factored.items()}
        Kronecker(fisher.factors, dict.fromkeys(fisher.factors, 1.0), thetas).checked()
        rest = self.rest.with_task(diagonal, anchor, decay, latest)

        factors = {layer: f._replace(g=decay * f.g) for layer, f in self.factors.items()}
        counts = {layer: decay * count for layer, count in self.counts.items()}
        for layer, new in fisher.factors.items():
            counts[layer] = counts.get(layer, 0.0) + 1
            if layer in factors:
                mean = factors[layer].a + (new.a - factors[layer].a) / counts[layer]
                factors[layer] = new._replace(a=mean, g=factors[layer].g + new.g)
            else:
                factors[layer] = new._replace(a=new.a.clone(), g=new.g.clone())
        anchors = self.anchors | {name: theta.clone() for name, theta in thetas.items()}
        return Kronecker(factors, counts, anchors, rest)

    def pull(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The form's value, a scalar, and S (θ − μ) = G ΔW A, eq. (7.5), for each parameter, half its gradient."""
        own = dict(zip(self.center, parameters, strict=True))
        value, pulls = self.rest.pull([own[name] for name in self.rest.center]) if self.rest.center else (0.0, [])
        found = dict(zip(self.rest.center, pulls, strict=True))
        for f in self.factors.values():
            offset = self._offset(f, own)  # ΔW
            pulled = f.g @ offset @ f.a  # G ΔW A
            value = value + (offset * pulled).sum()  # tr(ΔWᵀ G ΔW A)
            found |= self._split(f, pulled)
        return torch.as_tensor(value), [found[name] for name in own]

    def add_pull(self, parameters: Sequence[nn.Parameter], strength: float) -> None:
        """Add strength · S (θ − μ) to each parameter's `.grad`."""
        for p, pull in zip(parameters, self.pull(parameters)[1], strict=True):
            if p.requires_grad:
                _gradient(p).add_(pull, alpha=strength)

    def step(self, parameters: Sequence[nn.Parameter], strength: float) -> None:
        """ΔW ← Q_G [(Q_Gᵀ ΔW Q_A) / (1 + κ g aᵀ)] Q_Aᵀ with κ = strength, eq. (7.6): in the eigenbases of A and G."""
        if strength == 0:
            return
        own = dict(zip(self.center, parameters, strict=True))
        self.rest.step([own[name] for name in self.rest.center], strength)
        for layer, f in self.factors.items():
            q_a, q_g, spectrum = self._eigenbases(layer)
            offset = q_g @ ((q_g.T @ self._offset(f, own) @ q_a) / (1 + strength * spectrum)) @ q_a.T
            for name, part in self._split(f, offset).items():
                if own[name].requires_grad:
                    own[name].copy_(self.anchors[name] + part)  # W* + ΔW

    def curvature(self) -> float:
        """The largest eigenvalue of S."""
        return max([float(self._eigenbases(layer)[2].max()) for layer in self.factors] + [self.rest.curvature()])

    def grown(self, shapes: Mapping[str, torch.Size]) -> "Kronecker":
        """The same form over parameters that have more rows: G is zero for the new ones."""
        factors = {}
        for layer, f in self.factors.items():
            rows = shapes[f.parameters[0]][0]
            g = _with_rows(layer, f.g, torch.Size((rows, f.g.shape[1])))
            factors[layer] = f._replace(g=pad(g, (0, rows - f.g.shape[1])))
        anchors = {name: _with_rows(name, m, shapes[name]) for name, m in self.anchors.items()}
        return Kronecker(factors, self.counts, anchors, self.rest.grown(shapes))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Kronecker":
        """The same form with `change` made to each tensor: moved to a device, or cloned."""
        factors = {layer: f._replace(a=change(f.a), g=change(f.g)) for layer, f in self.factors.items()}
        anchors = {name: change(m) for name, m in self.anchors.items()}
        return Kronecker(factors, self.counts, anchors, self.rest.mapped(change))

    def state_dict(self) -> dict[str, Any]:
        """Tensors, names and plain numbers."""
        factors = {layer: f._asdict() for layer, f in self.factors.items()}
        return {"factors": factors, "counts": self.counts, "anchors": self.anchors, "rest": self.rest.state_dict()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Kronecker":
        """What `state_dict` described."""
        factors = {layer: Factors(**f) for layer, f in state["factors"].items()}
        return cls(factors, state["counts"], state["anchors"], Diagonal.from_state(state["rest"])).checked()

    def checked(self) -> "Kronecker":
        """Itself, after a look at every number.

        Raises:
            ValueError: a factor, θ* or count is not finite, or negative where it cannot be.
        """
        for layer, f in self.factors.items():
            for factor in (f.a, f.g):
                if not bool(torch.isfinite(factor).all() and (factor.diagonal() >= 0).all()):
                    raise ValueError(f"{layer}: A and G must be finite, with nothing negative on their diagonals")
            if not (0 <= self.counts[layer] < math.inf and all(self.anchors[n].isfinite().all() for n in f.parameters)):
                raise ValueError(f"{layer}: θ* must be finite, and the number of tasks finite and not negative")
        return self

    def _offset(self, f: Factors, own: Mapping[str, Tensor]) -> Tensor:
        """ΔW = [W b] − [W* b*], (O, I+1)."""
        parts = [(own[name] - self.anchors[name]).to(f.g.dtype) for name in f.parameters]
        return torch.cat([part.reshape(len(f.g), -1) for part in parts], 1)

    def _split(self, f: Factors, joined: Tensor) -> dict[str, Tensor]:
        """A matrix (O, I+1) as weight and bias."""
        shapes = {name: self.anchors[name].shape for name in f.parameters}
        parts = joined.split([shape[1:].numel() for shape in shapes.values()], 1)
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def _eigenbases(self, layer: str) -> tuple[Tensor, Tensor, Tensor]:
        """Q_A, Q_G and the eigenvalues g aᵀ of A ⊗ G, (O, I+1)."""
        if layer not in self._eigen:
            f = self.factors[layer]
            # Once a task, in double precision, and so on the CPU: Apple's GPUs know no float64.
            (a, q_a), (g, q_g) = (torch.linalg.eigh(factor.cpu().double()) for factor in (f.a, f.g))
            spectrum = g.clamp(min=0)[:, None] * a.clamp(min=0)  # rounding may make a zero slightly negative
            self._eigen[layer] = (q_a.to(f.a), q_g.to(f.a), spectrum.to(f.a))
        return self._eigen[layer]


def _gradient(p: nn.Parameter) -> Tensor:
    """Its `.grad`, zeros where there is none yet; dense, as it is where autograd adds the penalty's to a sparse one."""
    if p.grad is None:
        p.grad = torch.zeros_like(p)
    elif p.grad.is_sparse:
        p.grad = p.grad.to_dense()
    return p.grad


def _theta(name: str, anchor: Mapping[str, Tensor], f: Tensor) -> Tensor:
    """θ* of a parameter, in the precision of its F."""
    if name not in anchor:
        raise ValueError(f"there is an F for {name!r}, but no such θ*; there is one for {', '.join(anchor) or 'none'}")
    theta = whole(anchor[name].detach())
    return theta.to(f.dtype.to_complex() if theta.is_complex() else f.dtype)


def _with_rows(name: str, old: Tensor, shape: torch.Size) -> Tensor:
    """`old` with rows of zeros below it, until it has `shape`."""
    if old.shape == shape:
        return old
    if old.shape[1:] != shape[1:] or len(old) > shape[0]:
        raise ValueError(f"{name}: shape {tuple(old.shape)} cannot grow to {tuple(shape)}; only new rows may be added")
    return torch.cat((old, old.new_zeros(shape[0] - len(old), *old.shape[1:])))
