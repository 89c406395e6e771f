"""Once through a loader: each batch forwards, with the proof, on its images, of what is fast.

One principle: nothing is believed that was not compared with plain autograd, one image at a time; and what the
comparison relied on is looked at again in every pass. What fails it is done more slowly; what cannot be right, refused.
"""

import operator
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from operator import length_hint
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from contlearn.data import pairs
from contlearn.layers import Layer, agrees, candidates, connected
from contlearn.likelihoods import Estimator, Likelihood, Vectors, check_choices, vectors
from contlearn.models import device_of, fingerprint, undisturbed
from contlearn.per_image import (
    Batch,
    Classifier,
    Forward,
    add,
    batched,
    gradients,
    one_at_a_time,
    same,
    square,
    tolerance,
)
from contlearn.refusals import (
    MIXED,
    MOVED,
    SET_BY_LOADER,
    WRITTEN,
    refuse_bent_gradients,
    refuse_hidden_parameters,
    refuse_mixing,
    refuse_unmeasurable,
)

_BUDGET = 2**24  # numbers that an intermediate result may hold: 64 MiB in single precision
_WORTH_BATCHING = 8  # images: for fewer, a loop is as fast as vmap


class Step:
    """One forward pass: its images, the vectors to send backwards, and the layers whose closed form holds in it."""

    def __init__(self, sweep: "Sweep", batch: Batch, logits: Tensor, vectors: Vectors) -> None:
        self.sweep, self.batch, self.logits, self.vectors = sweep, batch, logits, vectors
        self.layers, self.used, self.reorders = connected(sweep.layers, logits, batch.images, sweep.trainable)
        self.v = vectors[0]
        self.loudest = int(self.v.abs().reshape(batch.images, -1).amax(1).argmax())  # image
        self.first: dict[Layer, Tensor] = {}  # ∂/∂z for this first vector, which the proof needs before all others

    def backward(self, layers: list[Layer], v: Tensor) -> dict[Layer, Tensor]:
        """∂(v · logits)/∂z of each layer."""
        if not layers:
            return {}
        edges = [layer.edge for layer in layers if layer.edge is not None]  # all of them: see `connected`
        found = torch.autograd.grad(self.logits, edges, v, retain_graph=True)
        return dict(zip(layers, found, strict=True))

    def squares(self, plain: list[Layer], factored: Iterable[Layer] = ()) -> Iterator[tuple[str, Tensor]]:
        """Σ_n Σ_v (∂/∂θ)² of all but the `factored` layers, which take in ∂/∂z for their factors. Works once."""
        for k in range(len(self.vectors)):
            found = self.backward(self.layers, self.vectors[k]) if k else self.first
            for layer in plain:
                layer.add_squares(found.pop(layer), _BUDGET)
            for layer in factored:
                layer.add_products(found.pop(layer), self.vectors.used)
            found.clear()
        self.logits = self.logits.detach()  # autograd's graph has served, and its memory is wanted
        for layer in plain:
            yield from layer.squares().items()
            layer.forget()
        yield from self.sweep.others(self)


class Sweep:
    """What is known of a model while it goes through a loader: which layers may be believed, and how far."""

    def __init__(
        self,
        model: nn.Module,
        estimator: Estimator,
        likelihood: Likelihood,
        forward: Forward | None,
        samples: int,
        generator: torch.Generator | None,
    ) -> None:
        check_choices(likelihood, estimator, samples)
        if isinstance(model, DistributedDataParallel | DataParallel):  # whose forward waits for others, or copies
            model = model.module
        refuse_unmeasurable(model)
        self.model, self.estimator, self.likelihood = model, estimator, likelihood
        self.samples, self.generator = samples, generator
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.trainable = {name: p for name, p in self.parameters.items() if p.numel()}  # those of rank 0 hold nothing
        self.pairs = forward is None
        self.classifier = Classifier(
            model, forward or (lambda model, batch: (model(batch[0]), batch[1])), device_of(model).type
        )
        self.layers = candidates(model, self.trainable)
        self.attributes = [vars(module) for module in model.modules()]
        self.sizes: dict[str, int] = {}
        self.coarsest = torch.float64  # of the dtypes that forward computes in: what rounding may explain
        self.known: set[tuple[Any, ...]] = set()  # kinds of batches for which the full proof was made
        self.passes = 0
        self.recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        self.by_loop = self.recurrent  # for torch.func has no rule for those
        self.unequal = 0  # how often vmap's gradients did not add up

    def over(self, loader: Iterable[Any], progress: bool) -> Iterator[Step]:
        device = device_of(self.model)
        with (
            undisturbed(self.model),
            torch.autocast(device.type, enabled=False),  # that of the reader is for forward alone
            _plain_kernels(self.recurrent),
            self._listening(),
            torch.enable_grad(),
            tqdm(
                desc="Fisher information",
                unit="batch",
                total=length_hint(loader) or None,  # 0 also for a DataLoader of an IterableDataset
                disable=not progress or "TQDM_DISABLE" in os.environ,
                delay=2,
                leave=False,
            ) as bar,
        ):
            weights = fingerprint(self.model)  # in eval() mode, for which adapters may have merged
            first: tuple[Batch, Tensor, Tensor] | None = None  # some images, their logits, and which of these matter
            for batch in self._regrouped(self._stream(loader, device, bar)):
                step = self._step(batch)
                if step is not None:
                    first = first or (batch[:16], step.logits[:16].detach(), step.vectors.says[:16])
                    yield step
            if first is not None:
                with torch.no_grad():
                    self._compare(self.classifier.quietly(first[0]), *first[1:], MOVED)
            shortened = any(getattr(module, "max_norm", None) for module in self.model.modules())
            if weights != fingerprint(self.model) and not shortened:
                raise ValueError(WRITTEN)

    def _stream(self, loader: Iterable[Any], device: torch.device, bar: Any) -> Iterator[Batch]:
        empty = True
        shared: set[tuple[Any, int]] = set()  # which leaves were not cut into images, and cannot be by chance later on
        for value in pairs(loader, device) if self.pairs else loader:
            batch = Batch.of(value, device)
            places = [(str(batch.form), k) for k in range(len(batch.leaves))]
            shared.update(place for place, part in zip(places, batch.parts, strict=True) if not part)
            batch = replace(batch, parts=[place not in shared for place in places])
            if batch.images:
                empty = False
                yield batch
            bar.update()
        if empty:
            raise ValueError("the loader is empty: it yields no images, so there is nothing to measure F on")

    def _regrouped(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        """The same images in groups that fit the budget: small batches joined where they fit, large ones cut."""
        held: Batch | None = None  # small batches, copied one behind the other: a loader may fill its memory again
        filled = size = 0
        before: tuple[list[Any], list[int]] = [], []
        for batch in chain(stream, [None]):
            if held is not None and not _unchanged(before, self._kept()):
                raise ValueError(SET_BY_LOADER)
            if batch is None:
                break
            if held is not None and not (held.fits(batch) and filled + batch.images <= size):
                yield held[:filled]
                held = None
            if held is None:
                size = self._images_at_once(batch)
                if 2 * batch.images > size or not batch.fits(batch):
                    parts = -(-batch.images // size)
                    even = -(-batch.images // parts)  # for each part costs a proof
                    yield from (batch[start : start + even] for start in range(0, batch.images, even))
                    continue
                held, filled, before = batch.room(size), 0, self._kept()
            held.put(batch, filled)
            filled += batch.images
        if held is not None:
            yield held[:filled]

    def _kept(self) -> tuple[list[Any], list[int]]:
        """All that the model holds, and how often its tensors were written to: a loader may set something there."""
        values: list[Any] = []
        tensors: list[Tensor | None] = []
        for own in self.attributes:
            values += own.values()
            tensors += [*own["_parameters"].values(), *own["_buffers"].values()]
        return values + tensors, [each._version for each in tensors if each is not None and not each.is_inference()]

    def _images_at_once(self, batch: Batch) -> int:
        """As many as fit the budget with activations, patches and gradients; counted on one image."""
        key = str(batch.shapes())
        if key not in self.sizes:
            try:
                with Allocations() as watch:
                    logits = self._logits(batch[:1])[0]
            except ValueError as error:  # batch norm in one image alone finds nothing to normalise by
                if "more than 1 value per channel" in str(error):
                    raise ValueError(MIXED) from error
                raise
            self.coarsest = max(self.coarsest, watch.coarsest, key=lambda dtype: torch.finfo(dtype).eps)
            numbers = watch.numbers + sum(layer.numbers for layer in self.layers) + 4 * logits.numel()
            self.sizes[key] = max(1, min(2048, _BUDGET // max(1, numbers)))
        return self.sizes[key]

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """A forward pass that the layers record."""
        for layer in self.layers:
            layer.forget()
            layer.listening = True
        versions = [leaf._version for leaf in batch.leaves if isinstance(leaf, Tensor)]
        returned = self.classifier(batch.value())
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError(
                f"forward must return outputs and labels (or None for them), got {type(returned).__name__}"
            )
        logits, labels = returned
        for layer in self.layers:
            layer.listening = False
        if versions != [leaf._version for leaf in batch.leaves if isinstance(leaf, Tensor)]:
            raise ValueError("forward changes its inputs in place, so that no image can be looked at twice: clone them")
        if not isinstance(logits, Tensor) or logits.ndim == 0 or len(logits) != batch.images:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            inside = ": take its .logits, in forward" if hasattr(logits, "logits") else ""
            raise ValueError(f"the model must return logits of shape ({batch.images}, classes), got {found}{inside}")
        return logits, labels

    def _step(self, batch: Batch) -> Step | None:
        logits, labels = self._logits(batch)
        sent = vectors(self.likelihood, logits, labels, self.estimator, self.samples, self.generator)
        if sent.units == 0:  # all is left out: nothing to add, and nothing that could prove anything
            return None
        step = Step(self, batch, logits, sent)
        self.passes += 1
        new = batch.kind() not in self.known
        if new:
            self.known.add(batch.kind())
            with torch.no_grad():
                for half in torch.arange(batch.images).flip(0).chunk(2):
                    self.elsewhere(step, half)
            hidden = {name: p for name, p in self.trainable.items() if name not in step.used}
            refuse_hidden_parameters(self.classifier, hidden, batch[:16])
            if logits.grad_fn is None:
                raise ValueError("the logits depend on no trainable parameter, so there is nothing to measure")
            refuse_mixing(self.classifier, batch[-4:])
        else:
            with torch.no_grad():
                every = max(16, batch.images // 64)
                self.elsewhere(step, torch.arange(self.passes % min(every, batch.images), batch.images, every).flip(0))
        step.first = step.backward(step.layers, step.v)
        if new:
            refuse_bent_gradients(step)
        if new or step.reorders:
            self._distrust(step, self._mixing_layers(step))
        for n in sorted({0, batch.images // 2, batch.images - 1, step.loudest}) if new else [step.loudest]:
            wrong = self._differing(step, step.layers, n, self._alone(step, n))
            if wrong and not self._on_a_kink(step, n, wrong):
                self._distrust(step, wrong)
        return step

    def _alone(self, step: Step, n: int) -> dict[str, Tensor | None]:
        """The gradients of image n by plain autograd, with that image alone."""
        return gradients(self.elsewhere(step, torch.tensor([n])), self.trainable, step.v[n : n + 1])

    def _differing(self, step: Step, layers: list[Layer], n: int, truth: Mapping[str, Tensor | None]) -> list[Layer]:
        return [layer for layer in layers if not agrees(layer, step.first[layer], n, truth, self.coarsest)]

    def _on_a_kink(self, step: Step, n: int, wrong: list[Layer]) -> bool:
        """Whether image n lies on the edge of a ReLU: rounding moves it to one side in a batch, to the other alone.

        Then its gradient is what autograd finds in the pass at hand, and other images have no such quarrel.
        """
        v = torch.zeros_like(step.logits)
        v[n] = step.v[n]
        if self._differing(step, wrong, n, gradients(step.logits, self.trainable, v)):
            return False
        return not any(self._differing(step, wrong, m, self._alone(step, m)) for m in _others(n, step.batch.images))

    def elsewhere(self, step: Step, images: Tensor) -> Tensor:
        """The logits of some of the images in a batch of their own, which must be those that they have in this one."""
        logits = self.classifier.quietly(step.batch.take(images))
        images = images.to(logits.device)
        if logits.shape[1:] != step.logits.shape[1:]:
            raise ValueError(
                f"an image has logits of shape {tuple(step.logits.shape[1:])}, but {tuple(logits.shape[1:])} among "
                "fewer images: they must not depend on the others of its batch, so compare no image with another, "
                "and leave padding in place, or take off as much whatever the batch"
            )
        self._compare(logits, step.logits[images], step.vectors.says[images], MIXED)
        return logits

    def _compare(self, logits: Tensor, others: Tensor, possible: Tensor, complaint: str) -> None:
        """Up to rounding, where they say something: a masked logit says nothing, and may be huge."""
        logits, others, silent = (each.reshape(len(each), -1) for each in (logits, others, ~possible))
        size = others.masked_fill(silent, 0).abs().amax(1, keepdim=True)
        if not bool(((logits - others).abs() <= 4 * tolerance(self.coarsest) * size).logical_or(silent).all()):
            raise ValueError(complaint)

    def _mixing_layers(self, step: Step) -> list[Layer]:
        """Those in which a row of ∂/∂z is not of the image of that number alone: it must change its sign with it."""
        v = step.v
        signs = torch.rand(len(v), generator=_generator(), device="cpu").sub(0.5).sign().to(v)
        turned = step.backward(step.layers, v * signs.view(-1, *[1] * (v.ndim - 1)))
        return [
            layer
            for layer, g in step.first.items()
            if bool((turned[layer] * signs.view(-1, *[1] * (g.ndim - 1)) - g).abs().max() > 1e-4 * g.abs().max())
        ]

    def _distrust(self, step: Step, wrong: list[Layer]) -> None:
        if wrong:
            names = [name for layer in wrong for name in layer.names.values()]
            warnings.warn(
                f"the closed form of {', '.join(names)} differs from autograd, so they are differentiated image by "
                "image: as right, but slower",
                stacklevel=6,
            )
            self.layers = [layer for layer in self.layers if layer not in wrong]
            step.layers = [layer for layer in step.layers if layer not in wrong]

    def others(self, step: Step) -> Iterator[tuple[str, Tensor]]:
        """Σ_n Σ_v (∂/∂θ)² of the parameters that matter in this pass and have no closed form in it."""
        by_layer = {name for layer in step.layers for name in layer.names.values()}
        parameters = {name: p for name, p in self.trainable.items() if name in step.used - by_layer}
        if not parameters:
            return
        some = max(1, _BUDGET // (2 * sum(p.numel() for p in parameters.values())))
        for start in range(0, step.batch.images, some):
            part, vectors = step.batch[start : start + some], step.vectors.of(slice(start, start + some))
            sums: dict[str, Tensor] | None = None
            # torch.func does not run the hooks of a parameter's gradient.
            hooked = any(p._backward_hooks for p in parameters.values())
            if not (self.by_loop or hooked) and part.images >= _WORTH_BATCHING:
                sums = self._batched(parameters, part, vectors)
            if sums is None:
                sums = one_at_a_time(self.classifier, parameters, part, vectors)
            yield from sums.items()

    def _batched(self, parameters: dict[str, nn.Parameter], part: Batch, vectors: Vectors) -> dict[str, Tensor] | None:
        """Σ_n Σ_v (∂/∂θ)², or None where vmap fails or disagrees with autograd, on single images or on their sum."""
        sums: dict[str, Tensor] = {}
        totals: dict[str, Tensor] = {}  # Σ_n Σ_v ± ∂/∂θ, in which every image and every vector counts
        signs = [2 * int(bit) - 1 for bit in torch.randint(2, (len(vectors),), generator=_generator(), device="cpu")]
        try:
            for k, found in enumerate(batched(self.classifier, parameters, part, vectors)):
                if k == 0:

                    def differs(n: int, found: dict[str, Tensor] = found) -> bool:
                        logits = self.classifier(part[n : n + 1].value())[0]
                        truth = gradients(logits, parameters, vectors[0][n : n + 1])
                        return not same({name: g[n] for name, g in found.items()}, truth, self.coarsest)

                    for n in {int(vectors[0].abs().reshape(part.images, -1).amax(1).argmax()), part.images - 1}:
                        # One image alone that differs lies on the edge of a ReLU; see `_on_a_kink`.
                        if differs(n) and any(differs(m) for m in _others(n, part.images)):
                            raise RuntimeError("it disagrees with autograd")
                for name, g in found.items():
                    add(sums, name, square(g).sum(0))
                    add(totals, name, signs[k] * g.sum(0, dtype=torch.promote_types(g.dtype, torch.float32)))
        except RuntimeError as error:
            self.by_loop = True
            warnings.warn(
                f"torch.func.vmap cannot differentiate {', '.join(parameters)} image by image ({error}), so a loop "
                "does: as right, but it takes a forward pass for each image, and a backward pass for each vector",
                stacklevel=6,
            )
            return None
        v = torch.zeros_like(vectors[0])
        for k, sign in enumerate(signs):  # one at a time: there is never a stack
            v += sign * vectors[k]
        truth = gradients(self.classifier(part.value())[0], parameters, v)
        if self._add_up(totals, truth, sums):
            return sums
        self.unequal += 1
        if self.unequal == 2:  # once it may be an image on the edge of a ReLU
            warnings.warn(
                f"for some images torch.func.vmap finds other gradients of {', '.join(parameters)} than autograd, so a "
                "loop does what was batched with them: as right, but slower",
                stacklevel=6,
            )
        return None

    def _add_up(
        self, totals: Mapping[str, Tensor], truth: Mapping[str, Tensor | None], squares: Mapping[str, Tensor]
    ) -> bool:
        """Whether sums over images are what autograd finds for all of them, up to the rounding of such terms."""
        largest = max(float(each.max()) for each in squares.values()) ** 0.5
        for name, found in totals.items():
            true = truth[name]
            error = found if true is None else found - true
            size = max(float(squares[name].max()) ** 0.5, 0.0 if true is None else float(true.abs().max()))
            bound = max(tolerance(self.coarsest) * size, 32 * torch.finfo(self.coarsest).eps * largest)
            if not float(error.abs().max()) <= bound:
                return False
        return True

    @contextmanager
    def _listening(self) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in self.layers:
                stack.callback(layer.module.register_forward_hook(layer.record, prepend=True, with_kwargs=True).remove)
            yield


class Allocations(TorchDispatchMode):
    """Counts the numbers in all tensors that operations make while it is active; keeps the coarsest of their dtypes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers, self.coarsest = 0, torch.float64

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # yes, as by default, would import the whole of it: 40 MiB, a second
        return False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = {leaf.untyped_storage().data_ptr() for leaf in tensors if leaf.layout is torch.strided}
        for each in tree_leaves(result):
            if not isinstance(each, Tensor) or each.layout is not torch.strided:
                continue
            if each.untyped_storage().data_ptr() not in given:  # no view, not in place
                self.numbers += each.numel()
                floating = each.is_floating_point() and each.numel() > 0
                if floating and torch.finfo(each.dtype).eps > torch.finfo(self.coarsest).eps:
                    self.coarsest = each.dtype
        return result


@contextmanager
def _plain_kernels(recurrent: bool) -> Iterator[None]:
    """Without cuDNN for recurrent layers, which it does not differentiate in eval() mode, and without torch.compile.

    Nor with attention's fast path, which knows no gradients, and is taken where vmap hides that they are wanted.
    """
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        if recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if "torch._dynamo" in sys.modules:  # otherwise nothing can have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _unchanged(before: tuple[list[Any], list[int]], now: tuple[list[Any], list[int]]) -> bool:
    """Whether the same objects are there, written to as often."""
    return len(before[0]) == len(now[0]) and all(map(operator.is_, before[0], now[0])) and before[1] == now[1]


def _generator() -> torch.Generator:
    """Of its own, so that nobody's random numbers change."""
    return torch.Generator().manual_seed(0)


def _others(n: int, images: int) -> list[int]:
    """Up to three images besides n, spread over the batch."""
    return sorted({(n + k * max(1, images // 4)) % images for k in (1, 2, 3)} - {n})
