"""Models that have no F, or one that no gradient finds, and what they are told.

`sweep` asks here before it believes the first batch of a kind: whatever way the gradients are taken, they must be
there, belong to one image each, and be linear in what is sent backwards.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from contlearn import ranks
from contlearn.layers import connected
from contlearn.models import device_of
from contlearn.per_image import Batch, Classifier, gradients, same, tolerance

if TYPE_CHECKING:
    from contlearn.sweep import Step

MIXED = (
    "the logits of an image depend on the other images of its batch, or change from call to call, so that it has no F "
    "of its own; normalise with running statistics (track_running_stats=True), or by GroupNorm or LayerNorm, put "
    "images along the first dimension (batch_first=True), and switch off what is random in eval() mode"
)
MOVED = (
    "the logits of the first images are no longer what they were: forward changes weights in place, as an embedding's "
    "max_norm does, or state that it keeps, or the loader changes the model: run the model once over all the data, "
    "then measure; what differs between batches belongs into the batch"
)
WRITTEN = (
    "forward writes to weights in eval() mode: run the model once as you train it, and measure again. If this comes "
    "back, its weights differ between train() and eval(), as those of RWKV that rescales its layers, and F would be "
    "that of weights which you do not train: switch that off"
)
SET_BY_LOADER = (
    "the loader changes the model between two batches, but small batches are joined before the model sees them: put "
    "what differs, such as the number of the task, into the batch, and let forward take it from there"
)


def refuse_unmeasurable(model: nn.Module) -> None:
    """Parameters must be here, as numbers, whole, and open to autograd."""
    if torch.is_inference_mode_enabled():
        raise ValueError("F needs gradients, which torch.inference_mode() forbids: measure it outside of that")
    if not any(p.requires_grad and p.numel() for p in model.parameters()):
        raise ValueError("the model has no trainable parameter: set requires_grad=True on those that EWC shall protect")
    if any(map(ranks.sharded, model.parameters())):
        raise ValueError(
            "the model's parameters are in shards, whose gradients are averaged over the ranks' images before F "
            "could square them: measure F on a copy that is whole, with the weights of get_model_state_dict("
            "model, options=StateDictOptions(full_state_dict=True)); what is consolidated there protects this one"
        )
    if any(p.is_meta for p in model.parameters()):
        raise ValueError("the model is on the meta device, its weights hold no numbers: load them first")
    if any(p.is_inference() for p in model.parameters()):
        raise ValueError(
            "the model's parameters were made under torch.inference_mode(), so that they have no gradients: build "
            "or load it outside of that"
        )


def refuse_mixing(classifier: Classifier, batch: Batch) -> None:
    """No image's logits may have a derivative with respect to another image, however small.

    Where forward cannot take inputs that want one (`x.numpy()`), or an operation has none for its input, the comparison
    of values has to do.
    """
    leaves = [
        leaf.detach().clone().requires_grad_() if part and leaf.is_floating_point() else leaf
        for leaf, part in zip(batch.leaves, batch.parts, strict=True)
    ]
    own = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    inputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]  # forward may write to these
    numbers = [leaf for leaf, part in zip(leaves, batch.parts, strict=True) if part and not leaf.requires_grad]

    def embedded(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Integers have no gradients, but what an embedding makes of them has."""
        if any(args and args[0].shape == leaf.shape and bool((args[0] == leaf).all()) for leaf in numbers):
            own.append(output if output.requires_grad else output.requires_grad_())
        return output

    try:
        with ExitStack() as hooks:
            for module in classifier.modules():
                if isinstance(module, nn.Embedding):
                    hooks.callback(module.register_forward_hook(embedded, prepend=True).remove)
            logits = classifier(replace(batch, leaves=inputs).value())[0]
    except RuntimeError:
        classifier.quietly(batch)  # raises what has another reason
        return
    for n in range(batch.images if own and logits.requires_grad else 0):
        v = torch.zeros_like(logits)
        v[n] = torch.linspace(1, 2, v[n].numel()).view_as(v[n])
        try:
            found = torch.autograd.grad(logits, own, v, retain_graph=True, allow_unused=True)
        except Exception:  # what is wrong for the parameters, too, comes again
            return
        for g in found:
            of_others = torch.cat((g[:n], g[n + 1 :])) if g is not None else torch.zeros(())
            if bool(of_others.isnan().any()):
                raise FloatingPointError(
                    "the gradient of a logit with respect to an input is not finite: look for 0 times infinity on the "
                    "way back, as behind a square root of 0"
                )
            if bool(of_others.any()):
                raise ValueError(MIXED)


def refuse_bent_gradients(step: "Step") -> None:
    """Where vectors stand for several labels, gradients must be linear in them: that of −4 v is −4 times that of v.

    One that is clipped on its way back is not. (Nor is one in float16, where the small ones vanish.)
    """
    sweep = step.sweep
    if (sweep.estimator != "exact" and sweep.samples == 1) or sweep.coarsest is torch.float16:
        return
    n = step.loudest
    logits, v = sweep.elsewhere(step, torch.tensor([n])), step.v[n : n + 1]
    once, turned = (gradients(logits, sweep.trainable, factor * v) for factor in (1, -4))
    straight = same({n: -4 * g for n, g in once.items() if g is not None}, turned, sweep.coarsest)
    for layer, g in step.backward(step.layers, -4 * step.v).items():
        rounding = tolerance(sweep.coarsest) * g.abs().max() + torch.finfo(g.dtype).tiny  # below, digits are missing
        straight &= bool((g + 4 * step.first[layer]).abs().max() <= rounding)
    if not straight:
        raise ValueError(
            "gradients are changed on their way back, by a hook or a function that clips them or is not linear in "
            f"another way, so that vectors cannot stand for several labels, as with estimator={sweep.estimator!r}: "
            "switch that off, or take 'empirical'"
        )


@torch.no_grad()
def refuse_hidden_parameters(classifier: Classifier, hidden: Mapping[str, Tensor], batch: Batch) -> None:
    """Parameters that are not in autograd's graph must not matter: moved a little, they must change no logit."""
    if not hidden:
        return
    _refuse_merged(classifier, hidden, batch)
    before, logits = {name: p.data for name, p in hidden.items()}, classifier.quietly(batch)
    try:
        for p in hidden.values():
            wave = torch.arange(p.numel(), device=p.device).add(1).cos().view_as(p).to(p.dtype)
            p.data = p.data * (1 + 1e-3 * wave) + 1e-3 * wave * p.data.abs().mean()
        moved = not torch.equal(classifier.quietly(batch), logits)
    finally:
        for name, p in hidden.items():
            p.data = before[name]
    if moved and torch.equal(classifier.quietly(batch), logits):
        raise ValueError(
            f"the logits depend on {', '.join(hidden)}, or on some of them, but no gradient reaches them: forward "
            "runs them under no_grad or inference_mode, detaches what they make, or checkpoints them with "
            "use_reentrant=True. Freeze them with requires_grad_(False), or checkpoint with use_reentrant=False"
        )


@torch.enable_grad()
def _refuse_merged(classifier: Classifier, hidden: Mapping[str, Tensor], batch: Batch) -> None:
    """Nor may it be that `train()` brings into the graph what `eval()` leaves out."""
    own = {id(p) for p in hidden.values()}
    owners = [
        module
        for module in classifier.modules()
        if own & {id(p) for p in module._parameters.values()} and not hasattr(module, "running_mean")
    ]
    copies = {name: b.clone() for name, b in classifier.named_buffers()}  # batch norm writes to them
    device = device_of(classifier.model)
    try:
        for module in owners:
            module.train()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # for dropout draws
            logits = functional_call(classifier, copies, (batch.value(),))[0]
        _, used, _ = connected([], logits, batch.images, hidden)
    except Exception:  # what does not run in train(), or returns a tuple there, does not hide in eval()
        return
    finally:
        for module in owners:
            module.eval()
    if used:
        raise ValueError(
            f"{', '.join(used)} take part in train() mode, but not in eval() mode, in which F is measured: "
            "adapters that merge into other weights are like that, and weights kept from an earlier pass. "
            "Switch it off, or freeze them with requires_grad_(False)"
        )
