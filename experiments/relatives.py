"""EWC's relatives in a few lines each, and the loop they are trained in: for rivals.py and published.py.

Each puts a number on every weight, and so fits into `ewc.add(importances, anchor)`:

- synaptic intelligence, `Path`: what a weight did for the loss on its way (Zenke, Poole and Ganguli 2017,
  arXiv:1703.04200, equations 3 to 5);
- memory-aware synapses, `output_gradients` of ‖z‖²: how much it moves the outputs (Aljundi et al. 2018,
  arXiv:1711.09601, equation 3);
- logits reversal, `reversed_squares`: F of a network whose logits have the other sign (Liu and Chang 2026,
  arXiv:2603.18596).

Learning without forgetting, `Teacher`, holds outputs instead of weights (Li and Hoiem 2016, arXiv:1606.09282).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot, softmax
from torch.utils.data import TensorDataset

from contlearn import EWC, MLP, Task, accuracy
from contlearn.models import Masked


class Part(NamedTuple):
    """One task of a sequence, and the logits that it is trained and judged with."""

    task: Task
    active: range  # the logits that enter the loss
    answers: range  # the logits that may answer in a test

    @property
    def loader(self) -> list[tuple[Tensor, Tensor]]:
        """The training images in batches of 1,000, in their order: to measure importances on."""
        images, labels = self.task.train.tensors
        return list(zip(images.split(1000), labels.split(1000), strict=True))


def split_parts(tasks: Sequence[Task], scenario: str) -> list[Part]:
    """Tasks of two classes each, in their order, in a scenario of van de Ven and Tolias 2019 (arXiv:1904.07734).

    Task t has labels 2t and 2t + 1. "task": only these two answer. "domain": the answer is which of the two.
    "class": all classes seen so far enter the loss, and all of the sequence may answer.
    """
    classes = range(2 * len(tasks))
    if scenario == "task":
        return [Part(task, range(2 * t, 2 * t + 2), range(2 * t, 2 * t + 2)) for t, task in enumerate(tasks)]
    if scenario == "class":
        return [Part(task, range(2 * t + 2), classes) for t, task in enumerate(tasks)]
    return [Part(odd_or_even(task), range(2), range(2)) for task in tasks]


def odd_or_even(task: Task) -> Task:
    """The same images with the label modulo 2, eq. (8.2)."""
    parts = [TensorDataset(part.tensors[0], part.tensors[1] % 2) for part in (task.train, task.test)]
    return Task(task.name, {0: "even", 1: "odd"}, *parts)


def test(model: nn.Module, part: Part) -> float:
    """The accuracy on the task's test images, a fraction."""
    return accuracy(Masked(model, part.answers), part.task.test_loader())


def batches(
    count: int, size: int, rates: Sequence[float], seed: int, steps: int | None = None
) -> Iterator[tuple[float, Tensor]]:
    """Learning rates and rows: one epoch a rate, or as many steps as asked for, with the last short batch left out.

    Raises:
        ValueError: `steps` are asked for, and there are fewer rows than one batch takes.
    """
    if steps is not None and count < size:
        raise ValueError(f"{count} rows do not fill a batch of {size}: take smaller batches, or whole epochs")
    generator = torch.Generator().manual_seed(seed)
    if steps is None:
        for rate in rates:
            for rows in torch.randperm(count, generator=generator).split(size):
                yield rate, rows
        return
    while steps > 0:
        for rows in torch.randperm(count, generator=generator)[: count // size * size].split(size)[:steps]:
            yield rates[0], rows
            steps -= 1


class Path:
    """Synaptic intelligence: ω_i = −Σ_steps g_i Δθ_i, what weight i took off the loss along its way, eq. 3.

    Divided by (θ_i(end) − θ_i(start))² + ξ, it is the curvature of a parabola that would have dropped as far, eq. 5.
    """

    def __init__(self, model: nn.Module, damping: float) -> None:
        self.damping = damping
        self.parameters = dict(model.named_parameters())
        self.start = [p.detach().clone() for p in self.parameters.values()]
        self.work = [torch.zeros_like(p) for p in self.parameters.values()]

    @torch.no_grad()
    def before(self) -> None:
        """Between the backward pass of the loss alone and the optimiser's step."""
        self.gradients = [p.grad.clone() for p in self.parameters.values() if p.grad is not None]
        self.old = [p.clone() for p in self.parameters.values()]

    @torch.no_grad()
    def after(self) -> None:
        """After the step, whatever it was made of."""
        for w, g, p, old in zip(self.work, self.gradients, self.parameters.values(), self.old, strict=True):
            w.addcmul_(g, old.sub_(p))  # −g Δθ, eq. (12.1)

    @torch.no_grad()
    def importance(self, clamped: bool = True) -> dict[str, Tensor]:
        """Ω of the way so far, eq. (12.2); where a weight's work was negative, zero, or negative if not `clamped`."""
        return {
            name: (w.clamp(min=0) if clamped else w) / ((p - start) ** 2 + self.damping)
            for (name, p), start, w in zip(self.parameters.items(), self.start, self.work, strict=True)
        }


class Teacher:
    """Learning without forgetting: what the old network says of the new images is to stay.

    The loss added is strength · T² · KL(old ‖ new) at temperature T, eq. (12.5), over each of the groups of logits by
    itself (the heads of a task-incremental network).
    """

    def __init__(
        self, model: nn.Module, images: Tensor, groups: Sequence[range], strength: float, temperature: float = 2.0
    ) -> None:
        self.groups, self.strength, self.temperature = groups, strength, temperature
        with torch.no_grad():
            logits = torch.cat([model(chunk) for chunk in images.split(1000)])
            self.targets = [softmax(logits[:, g.start : g.stop] / temperature, 1) for g in groups]

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The distillation loss of a batch, these rows of the images."""
        terms = [
            kl_div(log_softmax(logits[:, g.start : g.stop] / self.temperature, 1), target[rows], reduction="batchmean")
            for g, target in zip(self.groups, self.targets, strict=True)
        ]
        return self.strength * self.temperature**2 * torch.stack(terms).sum()


def learn(
    model: nn.Module,
    part: Part,
    order: Iterable[tuple[float, Tensor]],
    optimizer: torch.optim.Optimizer,
    ewc: EWC | None = None,
    every: int = 0,
    path: Path | None = None,
    teacher: Teacher | None = None,
) -> None:
    """Train on one task. The penalty acts through its gradient or, every so many steps, through its proximal step."""
    images, labels = part.task.train.tensors
    active, owed = part.active, 0.0
    for step, (rate, rows) in enumerate(order, 1):
        optimizer.param_groups[0]["lr"] = rate
        logits = model(images[rows])
        loss = cross_entropy(logits[:, active.start : active.stop], labels[rows] - active.start)
        if teacher:
            loss = loss + teacher.loss(logits, rows)
        # Gradients become zeros rather than None: Adam goes on moving the heads of other tasks by its momentum.
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        if path:
            path.before()
        if ewc and not every:
            ewc.add_gradient(model)
        optimizer.step()
        owed += rate
        if ewc and every and step % every == 0:
            ewc.proximal_step(model, owed)
            owed = 0.0
        if path:
            path.after()
    if ewc and every:
        ewc.proximal_step(model, owed)


@torch.no_grad()
def output_gradients(model: MLP, part: Part, power: int, kind: str) -> dict[str, Tensor]:
    """The mean over all training images of |∂s/∂θ_i|^power, in closed form for an MLP.

    A linear layer's gradient for one image is an outer product g aᵀ, so its powers, summed over images, are one matrix
    product of powers. `kind` is what s is:

    "outputs": s = ‖z‖², so that ∂s/∂z = 2z, with power 1: memory-aware synapses, eq. (12.3);
    "reversed": the cross-entropy of the true label under the logits −z, ∂s/∂z = e_y − softmax(−z), with power 2:
    logits reversal;
    "labels": the cross-entropy of the true label, with power 2: the empirical F, a check on the closed form.
    """
    layers = [module for module in model if isinstance(module, nn.Linear)]
    names = [name for name, module in model.named_children() if isinstance(module, nn.Linear)]
    weights = [torch.zeros_like(layer.weight) for layer in layers]
    biases = [torch.zeros_like(layer.bias) for layer in layers]
    count, active = 0, slice(part.active.start, part.active.stop)
    for images, labels in part.loader:
        inputs = [images.flatten(1)]
        for layer in layers[:-1]:
            inputs.append(layer(inputs[-1]).relu())
        z = layers[-1](inputs[-1])
        truth = one_hot(labels - part.active.start, len(part.active)).to(z.dtype)
        g = torch.zeros_like(z)
        if kind == "outputs":
            g[:, active] = 2 * z[:, active]
        elif kind == "reversed":
            g[:, active] = truth - softmax(-z[:, active], 1)  # eq. (12.4)
        elif kind == "labels":
            g[:, active] = softmax(z[:, active], 1) - truth  # eq. (8.4)
        else:
            raise ValueError(f"kind={kind!r}: expected 'outputs', 'reversed' or 'labels'")
        for k in reversed(range(len(layers))):
            powered = g.abs() ** power
            weights[k] += powered.T @ inputs[k].abs() ** power
            biases[k] += powered.sum(0)
            g = (g @ layers[k].weight) * (inputs[k] > 0)
        count += len(images)
    return {f"{n}.weight": w / count for n, w in zip(names, weights, strict=True)} | {
        f"{n}.bias": b / count for n, b in zip(names, biases, strict=True)
    }
