"""Our Fisher information and our training beside those of other libraries: time, memory, and distance from the truth.

    make bench-peers                      in an environment of its own, .venv-peers: twenty minutes
    python benchmarks/peers.py --pages    docs/peers.md and the README's table anew, from the file

Each library is used as its documentation shows, with the same float32 model and batches of 1,000 images; the others
also with batches of 100, which suit some of them better. Time is the processor time of one thread, after a batch that
is not counted; the competitors take turns, and the median of each one's time over ours in the same turn is what is
printed: above 1, we are faster. Memory is the highest that a process of its own rises above what it had with model and
data, after a first call on a few images, which loads what is loaded late (Linux only). The difference is from the
definition, image by image and class by class in float64: the largest error of a parameter relative to its tensor's
largest entry; of Kronecker factors, that of both in the Frobenius norm. For tokens, whatever has Kronecker factors is
trained, and all else frozen. BackPACK's KFLR adds up a convolution's gradients over its places before it multiplies
them, and curvlinops sends one vector backwards for all tokens at once: other approximations, which is what their
differences there say.
What a library cannot do is listed with its own message. Writes `files/results/peers.json`, then the pages.
"""

import argparse
import copy
import ctypes
import importlib.metadata
import json
import multiprocessing
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn.functional import cross_entropy, unfold

from contlearn import EWC, MLP, Task, diagonal_fisher, load_mnist, train
from contlearn.data import _torchvision_datasets
from contlearn.fisher import kronecker_fisher

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))
from results import filled  # noqa: E402

LIBRARIES = (
    *("torch", "backpack-for-pytorch", "curvlinops-for-pytorch", "nngeometry", "laplace-torch", "avalanche-lib"),
    "numpy",
)
SECONDS = 2.0  # of processor time for each competitor in each comparison, or one turn
TURNS = 5

Quantity = Literal["exact", "empirical", "kronecker"]
Batches = list[tuple[Tensor, Tensor]]
Result = dict[str, Tensor] | dict[str, tuple[Tensor, Tensor]]  # the diagonal, or A (without a bias) and G of each layer
Measure = Callable[[nn.Module, Batches], Result]


# ---- what is measured ----------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A model, its data, and how much of them is measured."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    few: int  # images for those who take a copy of all parameters an image
    tiny: int  # images on which the difference is measured


def some(task: Task) -> Batches:
    """A fifth of the training images: enough for predictions that are neither random nor all sure."""
    x, y = (tensor[-12_000:].split(64) for tensor in task.train.tensors)
    return list(zip(x, y, strict=True))


def mlp(width: int, images: int, few: int, tiny: int) -> Case:
    """The network of the series, trained for a while."""
    model, mnist = MLP(width), load_mnist()
    train(model, some(mnist), epochs=1, lr=0.1 if width < 1000 else 0.05, progress=False)
    return Case(model, mnist.train.tensors[0][:images], mnist.train.tensors[1][:images], few, tiny)


def convolutional() -> Case:
    """Two convolutions and a linear layer."""
    model = nn.Sequential(
        *(nn.Unflatten(1, (1, 28)), nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10)),
    )
    mnist = load_mnist()
    train(model, some(mnist), epochs=1, lr=0.05, progress=False)
    return Case(model, mnist.train.tensors[0][:2000], mnist.train.tensors[1][:2000], 100, 40)


def tokens() -> Case:
    """The language model of notebook 10 on 512 pieces of 16 letters: logits (N, 16, 31), a label for each token."""
    import language_model

    text = ".".join((language_model.NAMES / "italian.txt").read_text(encoding="utf-8").split())
    codes = torch.tensor([language_model.LETTERS.index(letter) for letter in text])
    pieces = codes[: 17 * 512].view(512, 17)
    model = language_model.Transformer()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    for part in pieces.split(64) * 25:
        optimizer.zero_grad()
        language_model.token_loss(model(part[:, :-1]), part[:, 1:]).backward()
        optimizer.step()
    return Case(model, pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous(), 16, 2)


CASES: dict[str, Callable[[], Case]] = {
    "MLP, 256 wide": partial(mlp, 256, 10_000, 100, 40),
    "MLP, 2,000 wide": partial(mlp, 2000, 1000, 8, 3),
    "convolutional": convolutional,
    "tokens": tokens,
}


def batches(inputs: Tensor, labels: Tensor, size: int) -> Batches:
    """In order."""
    return list(zip(inputs.split(size), labels.split(size), strict=True))


# ---- the truth -----------------------------------------------------------------------------------------------------


def truth(model: nn.Module, x: Tensor, y: Tensor, quantity: Quantity) -> Result:
    """From the definition, image by image and class by class, in float64."""
    model = copy.deepcopy(model).double().eval()
    if quantity == "kronecker":
        return factors_from_definition(model, x, y)
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for image, label in zip(x, y, strict=True):
        log_p = model(_double(image[None]))[0].log_softmax(-1)
        log_p = log_p.view(-1, log_p.shape[-1])
        if quantity == "empirical":
            terms = [(log_p.gather(1, label.view(-1, 1)).sum(), 1.0)]
        else:
            terms = [(each, float(each.exp())) for each in log_p.flatten()]
        for each, weight in terms:
            found = torch.autograd.grad(each, list(parameters.values()), retain_graph=True)
            for total, g in zip(sums.values(), found, strict=True):
                total += weight * g.square() / y.numel()
    return sums


def factors_from_definition(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """A = Σ a aᵀ / units and G = Σ g gᵀ / positions of each linear and convolutional layer, eq. (7.3)."""
    layers: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Any:
        return lambda layer, inputs, output: seen.update({name: (inputs[0].detach(), output)})

    handles = [layer.register_forward_hook(note(name)) for name, layer in layers.items()]
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for image in x:
        log_p = model(_double(image[None]))[0].log_softmax(-1)
        of_image = dict(seen)
        rows = {
            name: a.flatten(0, -2)
            if a.ndim < 4
            else unfold(a, layers[name].kernel_size, 1, layers[name].padding, layers[name].stride)[0].T
            for name, (a, _) in of_image.items()
        }
        for name, a in rows.items():
            old = found.get(name, (torch.zeros((), dtype=torch.float64),) * 2)
            found[name] = old[0] + a.T @ a / y.numel(), old[1]
        for each in log_p.flatten():
            outputs = [z for _, z in of_image.values()]
            for name, g in zip(of_image, torch.autograd.grad(each, outputs, retain_graph=True), strict=True):
                g = (g[0].flatten(1).T if g.ndim == 4 else g.flatten(0, -2)) * each.detach().exp().sqrt()
                a, old_g = found[name]
                found[name] = a, old_g + g.T @ g / (len(x) * len(g))
    for handle in handles:
        handle.remove()
    return found


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def difference(found: Result, true: Result) -> float:
    """Relative to the largest entry of each tensor; of factors in the Frobenius norm, however their scale is shared."""
    if found.keys() != true.keys():
        raise ValueError(f"has {', '.join(found)}, not {', '.join(true)}")
    worst = 0.0
    for name, wanted in true.items():
        value: Any = found[name]
        if isinstance(wanted, Tensor):
            worst = max(worst, float((value.double() - wanted).abs().max() / wanted.abs().max()))
        else:
            (a, g), (true_a, true_g) = (each.double() for each in value), wanted
            scale = true_a.norm() / a.norm()
            error = (scale * a - true_a).norm() / true_a.norm() + (g / scale - true_g).norm() / true_g.norm()
            worst = max(worst, float(error))
    return worst


# ---- the competitors -----------------------------------------------------------------------------------------------


def ours(quantity: Quantity, model: nn.Module, data: Batches) -> Result:
    """This library."""
    if quantity != "kronecker":
        return diagonal_fisher(model, data, quantity, progress=False)
    found = kronecker_fisher(model, data, progress=False)
    return {n: (f.a[: len(f.a) - len(f.parameters) + 1][:, : len(f.a) - len(f.parameters) + 1], f.g)
            for n, f in found.factors.items()}  # fmt: skip


def with_backpack(quantity: Quantity, model: nn.Module, data: Batches) -> Result:
    """BackPACK's extensions: DiagGGNExact, SumGradSquared, KFLR."""
    from backpack import backpack, extend
    from backpack.extensions import KFLR, DiagGGNExact, SumGradSquared

    model, loss = extend(copy.deepcopy(model)), extend(nn.CrossEntropyLoss(reduction="sum"))
    extension, attribute = {
        "exact": (DiagGGNExact(), "diag_ggn_exact"),
        "empirical": (SumGradSquared(), "sum_grad_squared"),
        "kronecker": (KFLR(), "kflr"),
    }[quantity]
    units = sum(y.numel() for _, y in data)
    sums: dict[str, Any] = {}
    for x, y in data:
        model.zero_grad()
        with backpack(extension):
            loss(model(x).flatten(0, -2), y.flatten()).backward()
        for name, p in model.named_parameters():
            value = getattr(p, attribute)
            if quantity != "kronecker":
                sums[name] = sums.get(name, 0) + value / units
            elif name.endswith("weight"):
                old = sums.get(name.removesuffix(".weight"), (0, 0))
                sums[name.removesuffix(".weight")] = (
                    old[0] + value[1] * (len(x) / units), old[1] + value[0] / units
                )  # fmt: skip
    return sums


def with_laplace(quantity: Quantity, model: nn.Module, data: Batches) -> Result:
    """What laplace-torch accumulates in `fit`: its backends on BackPACK, for Kronecker factors on curvlinops."""
    from laplace.curvature import BackPackEF, BackPackGGN, CurvlinopsGGN

    model = copy.deepcopy(model)
    kinds = {"exact": BackPackGGN, "empirical": BackPackEF, "kronecker": CurvlinopsGGN}
    backend = kinds[quantity](model, "classification")
    units = sum(y.numel() for _, y in data)
    if quantity != "kronecker":
        diagonal = sum(backend.diag(x, y)[1].detach() for x, y in data) / units
        parts = diagonal.split([p.numel() for p in model.parameters()])
        return {n: part.view_as(p) for (n, p), part in zip(model.named_parameters(), parts, strict=True)}
    total = sum((backend.kron(x, y, N=units)[1] for x, y in data[1:]), start=backend.kron(*data[0], N=units)[1])
    weights = [name.removesuffix(".weight") for name, _ in model.named_parameters() if name.endswith(".weight")]
    pairs = [pair for pair in total.kfacs if len(pair) == 2]
    return {name: (a, g / units) for name, (g, a) in zip(weights, pairs, strict=True)}


def with_nngeometry(quantity: Quantity, model: nn.Module, data: Batches) -> Result:
    """FIM as PMatDiag and PMatKFAC."""
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatDiag, PMatKFAC
    from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

    if quantity == "empirical":
        raise NotImplementedError("no variant of FIM takes the true labels")
    x, y = (torch.cat(each) for each in zip(*data, strict=True))

    class Rows(SequentialSampler):  # whole batches at once, and still as long as the images
        def __iter__(self) -> Any:
            return iter(BatchSampler(range(len(x)), len(data[0][0]), drop_last=False))

    loader = DataLoader(TensorDataset(x, y), batch_size=None, sampler=Rows(x))
    representation = PMatDiag if quantity == "exact" else PMatKFAC
    found = FIM(model, loader, representation, variant="classif_logits")
    if quantity == "kronecker":
        return {name: (a[:-1, :-1] if len(a) > 1 else a, g) for name, (a, g) in found.data.items()}
    parts = found.get_diag().split([p.numel() for p in model.parameters()])
    return {n: part.view_as(p) for (n, p), part in zip(model.named_parameters(), parts, strict=True)}


def with_curvlinops(quantity: Quantity, model: nn.Module, data: Batches) -> Result:
    """KFACLinearOperator, "type-2"."""
    from curvlinops import KFACLinearOperator

    if quantity != "kronecker":
        raise NotImplementedError("no diagonal but stochastic estimates (hutchinson_diag, xdiag)")
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    images = sum(len(x) for x, _ in data)
    operator = KFACLinearOperator(
        model if data[0][1].ndim == 1 else ClassesSecond(model),
        nn.CrossEntropyLoss(),
        [p for layer in layers for p in layer.parameters()],
        data,
        fisher_type="type-2",
        separate_weight_and_bias=False,
        check_deterministic=False,
        num_data=images,
        num_per_example_loss_terms=data[0][1][0].numel(),
    )
    operator.compute_kronecker_factors()
    a, g = operator._input_covariances, operator._gradient_covariances
    return {name.removeprefix("model."): (a[name][:-1, :-1], g[name]) for name in a}


class ClassesSecond(nn.Module):
    """Logits (N, C, T), as torch's own cross-entropy takes them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Tokens last."""
        z: Tensor = self.model(x).mT
        return z


def with_torch_func(quantity: Quantity, model: nn.Module, data: Batches) -> Result:
    """`vmap(grad)` or `vmap(jacrev)`, in chunks of about 64 MiB of gradients."""
    if quantity == "kronecker":
        raise NotImplementedError("per-image gradients of the weights do not hold the factors")
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    numbers = sum(p.numel() for p in parameters.values())
    units = sum(y.numel() for _, y in data)

    def loss(p: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, p, (x[None],))[0].view(-1, classes), y.view(-1), reduction="sum")

    def rooted(p: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        log_p = functional_call(model, p, (x[None],))[0].log_softmax(-1).flatten()
        root: Tensor = log_p * log_p.detach().exp().sqrt()
        return root

    classes = model(data[0][0][:1]).shape[-1]
    outputs = classes * data[0][1][0].numel() if quantity == "exact" else 1
    derivative = vmap(grad(loss) if quantity == "empirical" else jacrev(rooted), in_dims=(None, 0, 0))
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    some = max(1, 2**24 // (numbers * outputs))
    for x, y in data:
        for x_part, y_part in zip(x.split(some), y.split(some), strict=True):
            for name, g in derivative(parameters, x_part, y_part).items():
                sums[name] += g.square().flatten(0, -1 - sums[name].ndim).sum(0) / units
    return sums


COMPETITORS: dict[str, Callable[[Quantity, nn.Module, Batches], Result]] = {
    "ours": ours,
    "BackPACK": with_backpack,
    "curvlinops": with_curvlinops,
    "nngeometry": with_nngeometry,
    "laplace-torch": with_laplace,
    "torch.func": with_torch_func,
}


# ---- measuring -----------------------------------------------------------------------------------------------------


def in_its_own_process(run: Callable[..., Any], *args: Any) -> Any:
    """What `run` returns, or its error, from a fork of this process, which has done nothing but import."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def report() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sender.send(run(*args))
        except Exception as error:
            text = (str(error).strip().splitlines() or [""])[0]
            sender.send(f"{type(error).__name__}: {text[:160]}")

    process = context.Process(target=report)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return "the process was ended from outside"
    finally:
        process.join()


def prepared(case: str, quantity: Quantity) -> Case:
    """From the file that the first process wrote; of Kronecker factors for tokens, only linear layers are trained."""
    model, *rest = torch.load(SCRATCH / f"{case}.pt", weights_only=False)
    if quantity == "kronecker":
        for layer in model.modules():
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                for p in layer.parameters(recurse=False):
                    p.requires_grad_(False)
    return Case(model, *rest)


def prepare(case: str) -> None:
    """Train the model of a case, and find the truth."""
    torch.manual_seed(0)
    made = CASES[case]()
    torch.save(tuple(made), SCRATCH / f"{case}.pt")
    for quantity in ("exact", "empirical", "kronecker"):
        true = truth(made.model, made.inputs[: made.tiny], made.labels[: made.tiny], quantity)
        torch.save(true, SCRATCH / f"{case} {quantity}.pt")


def examine(case: str, quantity: Quantity, who: str) -> float:
    """The difference from the truth."""
    made = prepared(case, quantity)
    tiny = batches(made.inputs[: made.tiny], made.labels[: made.tiny], made.tiny)
    true: Result = torch.load(SCRATCH / f"{case} {quantity}.pt")
    return difference(COMPETITORS[who](quantity, made.model, tiny), true)


def peak(case: str, quantity: Quantity, who: str, size: int) -> float | None:
    """MiB above those with everything loaded."""
    if sys.platform != "linux":
        return None
    made = prepared(case, quantity)
    images = made.few if who == "torch.func" else min(4000, len(made.inputs))  # ours joins two batches of 1,000
    data = batches(made.inputs[:images], made.labels[:images], size)
    COMPETITORS[who](quantity, made.model, batches(made.inputs[:16], made.labels[:16], 16))  # loads what it loads late
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives back what that has left, which would not count
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = status("VmRSS")
    COMPETITORS[who](quantity, made.model, data)
    return status("VmHWM") - before


def status(key: str) -> float:
    """MiB of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def processor_time(run: Callable[[], object]) -> float:
    """Seconds of this process."""
    started = time.process_time()
    run()
    return time.process_time() - started


def take_turns(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Processor time of each, turn by turn; who has had `seconds` sits out."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS):
        for name, run in runs.items():
            if turn == 0 or name == "ours" or sum(taken[name]) * (1 + 1 / turn) < seconds:
                taken[name].append(processor_time(run))
    return taken


def timed(case: str, quantity: Quantity, sizes: dict[str, int], seconds: float) -> dict[str, list[float]]:
    """Seconds of each turn, scaled to all images."""
    made = prepared(case, quantity)
    scale: dict[str, float] = {}
    runs: dict[str, Callable[[], object]] = {}
    for name, size in sizes.items():
        who = name.split(",")[0]
        images = made.few if who == "torch.func" else len(made.inputs)
        scale[name] = len(made.inputs) / images
        data, model = batches(made.inputs[:images], made.labels[:images], size), copy.deepcopy(made.model)
        COMPETITORS[who](quantity, model, data[:1])  # what is done once is not counted
        runs[name] = partial(COMPETITORS[who], quantity, model, data)
    taken = take_turns(runs, seconds)
    return {name: [t * scale[name] for t in each] for name, each in taken.items()}


def compare(case: str, quantity: Quantity, seconds: float) -> dict[str, dict[str, Any]]:
    """All competitors, one after the other, then in turns."""
    rows: dict[str, dict[str, Any]] = {}
    sizes: dict[str, int] = {}
    whole = len(prepared(case, quantity).inputs)
    for who in COMPETITORS:
        found = in_its_own_process(examine, case, quantity, who)
        if isinstance(found, str):
            rows[who] = {"message": found}
            continue
        rows[who], sizes[who] = {"difference": found}, min(1000, whole)
        if whole >= 1000 and who not in ("ours", "torch.func"):
            rows[f"{who}, batches of 100"], sizes[f"{who}, batches of 100"] = {"difference": found}, 100
    for name, size in sizes.items():
        rows[name]["peak MiB"] = in_its_own_process(peak, case, quantity, name.split(",")[0], size)
    taken = in_its_own_process(timed, case, quantity, sizes, seconds)
    for name, each in taken.items():
        rows[name]["seconds"] = statistics.median(each)
        rows[name]["time / ours"] = statistics.median(t / o for t, o in zip(each, taken["ours"], strict=False))
        rows[name]["turns"] = len(each)
    return rows


# ---- training ------------------------------------------------------------------------------------------------------


def penalised(tasks: int, seconds: float) -> dict[str, dict[str, Any]]:
    """A step of training at batch size 128: without a penalty, with ours, a loop over parameters, Avalanche's plugin.

    The plugin is called in our loop, without its framework, with our F and our θ*; its λ is ours / 2, for it has no ½.
    """
    from avalanche.training.plugins.ewc import EWCPlugin, ParamData

    made = prepared("MLP, 256 wide", "exact")
    x, y, model = made.inputs[:128], made.labels[:128], made.model
    fisher = diagonal_fisher(model, batches(made.inputs, made.labels, 1000), progress=False)
    ewc, plugin = EWC(importance=100), EWCPlugin(ewc_lambda=50, mode="separate")
    anchors = []
    for k in range(tasks):
        noise = torch.Generator().manual_seed(k)
        anchors.append(
            {n: p.detach() + 0.01 * torch.randn(p.shape, generator=noise) for n, p in model.named_parameters()}
        )
        ewc.add(fisher, anchors[-1])
        for store, values in ((plugin.saved_params, anchors[-1]), (plugin.importances, fisher)):
            store[k] = {n: ParamData(n, v.shape, init_tensor=v.clone()) for n, v in values.items()}

    def loop(loss: Tensor) -> Tensor:
        for anchor in anchors:
            for name, p in model.named_parameters():
                loss = loss + 50 * (fisher[name] * (p - anchor[name]) ** 2).sum()
        return loss

    def avalanche(loss: Tensor) -> Tensor:
        strategy = SimpleNamespace(
            clock=SimpleNamespace(train_exp_counter=tasks), device="cpu", model=model, loss=loss
        )  # fmt: skip
        plugin.before_backward(strategy)
        total: Tensor = strategy.loss
        return total

    def step(penalty: Callable[[Tensor], Tensor] | None, in_place: bool = False) -> None:
        model.zero_grad()
        loss = cross_entropy(model(x), y)
        (penalty(loss) if penalty else loss).backward()
        if in_place:
            ewc.add_gradient(model)

    ways: dict[str, Callable[[], None]] = {
        "ours": partial(step, None, True),
        "ours, penalty in the loss": partial(step, lambda loss: loss + ewc.penalty(model)),
        "no penalty": partial(step, None),
        "loop over parameters": partial(step, loop),
        "Avalanche's plugin": partial(step, avalanche),
    }

    def gradient_of(way: Callable[[], None]) -> list[Tensor]:
        way()
        return [p.grad.double() for p in model.parameters() if p.grad is not None]

    plain = gradient_of(ways["no penalty"])
    wanted = [
        100 * torch.stack([fisher[n].double() * (p.detach().double() - a[n].double()) for a in anchors]).sum(0)
        for n, p in model.named_parameters()
    ]
    rows: dict[str, dict[str, Any]] = {name: {} for name in ways}
    for name, way in ways.items():
        pulls = [g - g0 for g, g0 in zip(gradient_of(way), plain, strict=True)]
        if name != "no penalty":
            errors = [float((p - w).abs().max() / w.abs().max()) for p, w in zip(pulls, wanted, strict=True)]
            rows[name]["difference"] = max(errors)
    rows["ours"]["MiB of tensors"] = megabytes([*ewc.precision.values(), *ewc.center.values()])
    for name, held in (
        ("loop over parameters", [*fisher.values(), *(t for anchor in anchors for t in anchor.values())]),
        ("Avalanche's plugin", [p.data for s in (plugin.saved_params, plugin.importances)
                                for task in s.values() for p in task.values()]),
    ):  # fmt: skip
        rows[name]["MiB of tensors"] = megabytes(held)
    for way in ways.values():
        way()
    taken = take_turns({name: lambda way=way: [way() for _ in range(20)] for name, way in ways.items()}, seconds)  # type: ignore[misc]
    for name, each in taken.items():
        rows[name]["seconds"] = statistics.median(each) / 20
        rows[name]["time / ours"] = statistics.median(t / o for t, o in zip(each, taken["ours"], strict=False))
        rows[name]["turns"] = len(each)
    return rows


def megabytes(tensors: list[Tensor]) -> float:
    """MiB that tensors hold."""
    return sum(t.numel() * t.element_size() for t in tensors) / 2**20


# ---- telling -------------------------------------------------------------------------------------------------------


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Lines of Markdown."""
    lines = ["| library | time / ours | MiB | difference |", "|---|---|---|---|"]
    for who, row in rows.items():
        if "message" in row:
            lines.append(f"| {who} | `{row['message'].replace('|', '/')}` | | |")
            continue
        memory, error = row.get("peak MiB", row.get("MiB of tensors")), row.get("difference")
        lines.append(
            f"| {who} | {row['time / ours']:.2f} | {'' if memory is None else format(memory, '.0f')} | "
            f"{'' if error is None else format(error, '.0e')} |"
        )
    return "\n".join(lines)


RIGHT = 1e-3  # a difference up to this is rounding; above, something else was computed


def summary(results: dict[str, Any]) -> str:
    """The README's table: beside ours the fastest and the leanest that compute the same."""
    columns = ("fastest other: its time / ours", "leanest others: their memory / ours", "largest error: ours, theirs")
    lines = [f"| case | {' | '.join(columns)} |", "|---|---|---|---|"]
    for title, rows in results["comparisons"].items():
        ours = rows["ours"]
        same = {who: r for who, r in rows.items() if not who.startswith("ours") and r.get("difference", 1) <= RIGHT}
        memory = "peak MiB" if "peak MiB" in ours else "MiB of tensors"
        lean = sorted((row[memory] / ours[memory], who) for who, row in same.items() if row.get(memory))
        cells = ["none", "none"]
        if same:
            fast = min(same, key=lambda who: same[who]["time / ours"])
            cells[0] = f"{fast}: {same[fast]['time / ours']:.2f}"
        if lean:  # the first of all and, if its batches are smaller, the first of those with ours
            equal = next(((ratio, who) for ratio, who in lean if "batches of" not in who), lean[0])
            cells[1] = "; ".join(f"{who}: {ratio:.2f}" for ratio, who in dict.fromkeys((equal, lean[0])))
        error = max((row["difference"] for row in same.values()), default=None)
        theirs = "" if error is None else f", {error:.0e}"
        lines.append(f"| {title} | {cells[0]} | {cells[1]} | {ours['difference']:.0e}{theirs} |")
    return "\n".join(lines)


def conditions(results: dict[str, Any]) -> str:
    """Date, processor and versions, in a sentence."""
    listed = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return f"{results['date']}, {results['processor']}, one thread, Python {results['python']}, {listed}."


def pages(results: dict[str, Any]) -> dict[Path, str]:
    """What docs/peers.md and the README say between two comments."""
    whole = [f"## {title[0].upper()}{title[1:]}\n\n{table(rows)}" for title, rows in results["comparisons"].items()]
    return {
        ROOT / "docs" / "peers.md": "\n\n".join([conditions(results), *whole]),
        ROOT / "README.md": f"{summary(results)}\n\n{conditions(results)}",
    }


def write_pages(results: dict[str, Any]) -> None:
    """Put it there."""
    for path, text in pages(results).items():
        path.write_text(filled(path.read_text("utf-8"), "peers", text), encoding="utf-8")


def processor() -> str:
    """Its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of all libraries; "not installed" where one is missing."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found


def load_libraries() -> None:
    """Import all there are, so that the forks need not; who is missing says so in its own row."""
    _torchvision_datasets()
    for module in ("backpack.extensions", "curvlinops", "nngeometry.metrics", "laplace.curvature",
                   "avalanche.training.plugins.ewc"):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                importlib.import_module(module)
            except Exception as error:
                print(f"{module} cannot be imported: {error}")


SCRATCH = Path()


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "training"], default=[*CASES, "training"])
    parser.add_argument("--quantities", nargs="+", default=["exact", "empirical", "kronecker"])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each competitor in each comparison")
    parser.add_argument("--dry", action="store_true", help="print only")
    parser.add_argument("--pages", action="store_true", help="write the pages from the file, measure nothing")
    options = parser.parse_args()
    file = ROOT / "files" / "results" / "peers.json"
    if options.pages:
        write_pages(json.loads(file.read_text(encoding="utf-8")))
        return
    torch.set_num_threads(1)
    load_libraries()
    results: dict[str, Any] = {
        "command": "python benchmarks/peers.py",
        "date": date.today().isoformat(),
        "processor": processor(),
        "python": platform.python_version(),
        "versions": versions(),
        "measured": "processor time of one thread, competitors in turns, medians; peak memory and difference in a "
        "process of its own; see benchmarks/peers.py",
        "comparisons": {},
    }

    def tell(title: str, rows: dict[str, dict[str, Any]]) -> None:
        results["comparisons"][title] = rows
        print(f"\n**{title}**\n\n{table(rows)}", flush=True)
        if not options.dry:
            file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    global SCRATCH
    with tempfile.TemporaryDirectory() as folder:
        SCRATCH = Path(folder)
        for case in options.cases:
            started = time.perf_counter()
            if case == "training":
                in_its_own_process(prepare, "MLP, 256 wide") if "MLP, 256 wide" not in options.cases else None
                for tasks in (1, 10):
                    rows = in_its_own_process(penalised, tasks, options.seconds)
                    if isinstance(rows, str):
                        rows = {"all": {"message": rows}}
                    tell(f"a step of training, {tasks} task{'s' * (tasks > 1)}", rows)
                continue
            failed = in_its_own_process(prepare, case)
            if failed:
                raise RuntimeError(failed)
            for quantity in options.quantities:
                rows = compare(case, quantity, options.seconds)
                tell(f"{case}, {quantity}", rows)
            print(f"\n({time.perf_counter() - started:.0f} s)")
    if not options.dry:
        write_pages(results)


if __name__ == "__main__":
    main()
