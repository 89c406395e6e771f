"""EWC as thirteen public repositories define it, derived anew from their definitions; and what their λ means here.

Two questions take nearly all of them apart. *Which labels* stand in the squared gradient? *What is squared*: the
gradient of each image, the mean gradient of each batch, or one sum over all of them? What is left is a number: a ½ in
the penalty, a batch size, a count. Where only that number differs, `equivalent_importance` converts λ exactly; where
the labels differ, or what is squared, the two importances have other shapes, and no λ makes one of the other.

`CODES` names for each project the file and commit that its definition was read from. Notebook 11 compares them. All of
it holds where the batch size divides the number of images; what the projects do with a smaller last batch differs, by
at most that batch's share.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from contlearn.models import mode

Importances = dict[str, Tensor]
Batches = Sequence[tuple[Tensor, Tensor]]
Labels = Literal["all", "sample", "true", "predicted", "weighted"]
Reduction = Literal["image", "batch", "whole", "every label"]

_IN_WORDS = {
    "all": "all labels, each weighted with its probability",
    "sample": "labels drawn from the prediction",
    "true": "the true labels",
    "predicted": "the most likely labels",
    "weighted": "the true labels, each weighted with its probability",
}
_ESTIMATORS = {"all": "exact", "sample": "sample", "true": "empirical", "predicted": "predicted"}


class Code(NamedTuple):
    """How one public project computes importances Q, and its penalty `factor` · λ Σ Q (θ − θ*)².

    Attributes:
        repository: the project on GitHub.
        file: which of its files was read.
        commit: the commit at which it was read.
        labels: whose log-probability is differentiated, eq. (11.1).
        squared: what is squared: the gradient of each "image", the mean gradient of each "batch", the sum of the
            batches' mean gradients ("whole"), or that of each image with the labels of its whole batch ("every label").
        batch_size: the size of the batches where the code fixes it; None where the reader's loader says it.
        half: whether the ½ of the penalty is there.
        training: whether the model is in `train()` mode meanwhile; None where nothing sets it.
        clip: an upper bound of each importance, or None.
        scale: a further factor on Q, as a function of the number of images and the batch size, and `why` it is there.
        importance: the λ that comes with the code, or None where the reader must choose.
    """

    repository: str
    file: str
    commit: str
    labels: Labels
    squared: Reduction
    batch_size: int | None = None
    half: bool = True
    training: bool | None = False
    clip: float | None = None
    scale: Callable[[int, int], float] = lambda images, batch_size: 1.0
    why: str = ""
    importance: float | None = None


CODES: dict[str, Code] = {
    "Avalanche": Code(
        "ContinualAI/avalanche",
        "avalanche/training/plugins/ewc.py",
        "eb075be393e1f458b2c352514ff6c17b5a2c0f4e",
        labels="true",
        squared="batch",
        half=False,
    ),
    "PyCIL": Code(
        "G-U-N/PyCIL",
        "models/ewc.py",
        "87cc4110d60765dc3f64af7ef7a693efed8418ff",
        labels="true",
        squared="batch",
        batch_size=128,
        training=True,
        clip=1e-4,
        importance=1000,
    ),
    "FACIL": Code(
        "mmasana/FACIL",
        "src/approach/ewc.py",
        "e09d2c83320a1aa945a6157d4875437515824dc9",
        labels="predicted",
        squared="batch",
        training=True,
        scale=lambda images, batch_size: 0.5,
        why="the first task's Q is blended, half and half, with the zeros it starts from (alpha = 0.5)",
        importance=5000,
    ),
    "HAT": Code(
        "joansj/hat",
        "src/utils.py",
        "6fd0b9d98e089bec1f9da6cc20550916ce196829",
        labels="true",
        squared="batch",
        batch_size=20,
        training=True,
        importance=5000,
    ),
    "GT-RIPL": Code(
        "GT-RIPL/Continual-Learning-Benchmark",
        "agents/regularization.py",
        "d78b9973b6ec0059b2d2577872db355ae2489f6b",
        labels="predicted",
        squared="batch",
        half=False,
        scale=lambda images, batch_size: float(batch_size),
        why="each squared batch gradient is multiplied by the batch size",
    ),
    "Mammoth": Code(
        "aimagelab/mammoth",
        "models/ewc_on.py",
        "e75a491c69fd729edeb01431afb753d9157d9a81",
        labels="weighted",
        squared="image",
        half=False,
        training=True,
    ),
    "van de Ven": Code(
        "GMvandeVen/continual-learning",
        "models/cl/continual_learner.py",
        "e6d795aa81b9cef742b8de76cb71222d4d1ce00b",
        labels="all",
        squared="image",
        scale=lambda images, batch_size: images / (images - 1),
        why="all N images are added up, and divided by the index of the last one, N − 1",
    ),
    "ewc.pytorch": Code(
        "moskomule/ewc.pytorch",
        "utils.py",
        "c846fc6c7929963df241c402e2f3998f7f22b975",
        labels="predicted",
        squared="image",
        half=False,
        importance=1000,
    ),
    "pytorch-ewc": Code(
        "kuc2477/pytorch-ewc",
        "model.py",
        "4afaa6666d6b4f1a91a110caf69e7b77f049dc08",
        labels="true",
        squared="image",
        training=None,
        importance=40,
    ),
    "overcoming-catastrophic": Code(
        "ariseff/overcoming-catastrophic",
        "model.py",
        "cab6d866547aed44fa0e3851810e65b18f5886a4",
        labels="sample",
        squared="image",
        training=None,
        importance=15,
    ),
    "ContinualAI introduction": Code(
        "ContinualAI/colab",
        "notebooks/intro_to_continual_learning.ipynb",
        "2df255fe10365d3f2b51895be179d857c19cbdec",
        labels="true",
        squared="whole",
        batch_size=256,
        half=False,
        training=True,
        importance=0.4,
    ),
    "Neuromatch W3D4": Code(
        "NeuromatchAcademy/course-content-dl",
        "tutorials/W3D4_ContinualLearning/student/W3D4_Tutorial1.ipynb",
        "309cd12ad2354eb0e72202adef54e33a9ccceba4",
        labels="true",
        squared="whole",
        batch_size=256,
        half=False,
        training=True,
        importance=0.4,
    ),
    "Overcoming-Catastrophic-forgetting": Code(
        "shivamsaboo17/Overcoming-Catastrophic-forgetting-in-Neural-Networks",
        "elastic_weight_consolidation.py",
        "e056e6d9f07a1e866b190a053ec5ca1314b3eef5",
        labels="true",
        squared="every label",
        training=None,
        importance=1_000_000,
    ),
}


# ---- Q, from the definitions -----------------------------------------------------------------------------------------


def squares_of_images(
    model: nn.Module, batches: Batches, labels: Labels, generator: torch.Generator | None = None
) -> Importances:
    """1/N Σ_n Σ_c w_c(x_n) (∂ log p_c(x_n) / ∂θ)², eq. (11.1), one image and one label at a time.

    The weights w_c are the probabilities p_c for "all", p_y at the true label y and else 0 for "weighted"; and 1 at one
    label, else 0: a drawn one for "sample", y for "true", the most likely for "predicted".
    """
    total, count = _zeros(model), 0
    for image, y in chain.from_iterable(zip(x.split(1), y, strict=True) for x, y in batches):
        log_p = log_softmax(model(image), 1)[0]
        for c, weight in _weights(log_p.detach().exp(), y, labels, generator).items():
            _add_square(total, model, log_p[c], weight, more=True)
        count += 1
    return {name: t / count for name, t in total.items()}


def _weights(p: Tensor, y: Tensor, labels: Labels, generator: torch.Generator | None) -> dict[int, float]:
    """w_c of one image, eq. (11.1), where it is not zero; `p` are its probabilities, (C,)."""
    if labels == "all":
        return dict(enumerate(p.tolist()))
    if labels == "weighted":
        return {int(y): float(p[y])}
    if labels == "sample":
        return {int(torch.multinomial(p, 1, generator=generator)): 1.0}
    return {int(y if labels == "true" else p.argmax()): 1.0}


def squares_of_batches(
    model: nn.Module, batches: Batches, labels: Labels, generator: torch.Generator | None = None
) -> Importances:
    """1/K Σ_k (1/B Σ_n ∂ log p_y(x_n) / ∂θ)², eq. (11.2): the mean gradient of each of K batches is squared."""
    total = _zeros(model)
    for x, y in batches:
        _add_square(total, model, _log_likelihood(model, x, y, labels, generator).mean())
    return {name: t / len(batches) for name, t in total.items()}


def square_of_everything(model: nn.Module, batches: Batches) -> Importances:
    """(Σ_k 1/B Σ_n ∂ log p_y(x_n) / ∂θ)², eq. (11.3): the mean gradients of all batches are added up, then squared."""
    return _square_of_sum(model, (_log_likelihood(model, x, y, "true").mean() for x, y in batches))


def square_of_every_label(model: nn.Module, batches: Batches) -> Importances:
    """The same, but each image meets the labels of its whole batch, and the batches are averaged."""
    return _square_of_sum(model, (log_softmax(model(x), 1)[:, y].mean() / len(batches) for x, y in batches))


def importances(
    code: str,
    model: nn.Module,
    batches: Batches,
    labels: Labels | None = None,
    generator: torch.Generator | None = None,
) -> Importances:
    """What the code named `code` would multiply by (θ − θ*)², on this model and these batches.

    Nothing is fast here: each definition is followed as its project does. The model is put in the mode that the project
    puts it in, and back.

    Args:
        code: one of `CODES`.
        model: maps inputs (N, …) to logits (N, C).
        batches: pairs of inputs and labels; the size of the first is B, and the others', but for the last, too.
        labels: other labels than the code's first choice; "van de Ven" offers all but "weighted", "GT-RIPL" the true
            ones, "FACIL" true and drawn ones.
        generator: makes the draws of "sample" reproducible.

    Returns:
        A tensor for each trainable parameter, keyed and shaped like `model.named_parameters()`.

    Raises:
        ValueError: there is no such code, or it cannot take such labels.
    """
    chosen, images = _code(code), sum(len(y) for _, y in batches)
    labels = _labels(code, labels)
    with mode(model, training=model.training if chosen.training is None else chosen.training):
        if chosen.squared == "image":
            q = squares_of_images(model, batches, labels, generator)
        elif chosen.squared == "batch":
            q = squares_of_batches(model, batches, labels, generator)
        elif chosen.squared == "whole":
            q = square_of_everything(model, batches)
        else:
            q = square_of_every_label(model, batches)
    scale = chosen.scale(images, len(batches[0][1]))
    return {name: (scale * t).clamp(max=chosen.clip or math.inf) for name, t in q.items()}


def _zeros(model: nn.Module) -> Importances:
    return {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}


def _trainable(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def _log_likelihood(
    model: nn.Module, x: Tensor, y: Tensor, labels: Labels, generator: torch.Generator | None = None
) -> Tensor:
    """The log-probability of one label of each image, (N,)."""
    log_p = log_softmax(model(x), 1)
    if labels == "predicted":
        y = log_p.argmax(1)
    elif labels == "sample":
        y = torch.multinomial(log_p.detach().exp(), 1, generator=generator)[:, 0]
    return log_p.gather(1, y[:, None])[:, 0]


def _add_square(total: Importances, model: nn.Module, value: Tensor, weight: float = 1.0, more: bool = False) -> None:
    gradients = torch.autograd.grad(value, _trainable(model), retain_graph=more)
    for t, g in zip(total.values(), gradients, strict=True):
        t.add_(g.square(), alpha=weight)


def _square_of_sum(model: nn.Module, values: Iterable[Tensor]) -> Importances:
    total = _zeros(model)
    for value in values:
        for t, g in zip(total.values(), torch.autograd.grad(value, _trainable(model)), strict=True):
            t += g
    return {name: t.square() for name, t in total.items()}


# ---- λ ---------------------------------------------------------------------------------------------------------------


class Equivalent(NamedTuple):
    """What `equivalent_importance` found; printed, it is a sentence.

    Attributes:
        importance: the λ that makes the same penalty, or None where there is none.
        estimator: for contlearn, the estimator of F that it belongs to.
        roughly: where there is no equivalent, the λ that makes penalties of about the same size: for batch gradients,
            as if the mean gradient were zero, eq. (8.6).
        sentence: all of it in words.
    """

    importance: float | None
    estimator: str | None
    roughly: float | None
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def equivalent_importance(
    importance: float,
    code: str,
    *,
    batch_size: int | None = None,
    images: int | None = None,
    labels: Labels | None = None,
    to: str = "contlearn",
    to_batch_size: int | None = None,
) -> Equivalent:
    """What a λ of a public EWC code is in contlearn, or in another code: of one old task, on the same images.

    >>> print(equivalent_importance(1000, "ewc.pytorch"))
    ewc.pytorch's λ = 1,000 is contlearn's λ = 2,000 with estimator="predicted".

    Args:
        importance: their λ, not negative.
        code: one of `CODES`.
        batch_size: the size of the batches that they estimate from; needed where their loader's size decides. 1 makes
            squares of batches those of images, which have an equivalent.
        images: how many images they estimate from; needed where that number is in the result.
        labels: as for `importances`.
        to: "contlearn", where the penalty is ½ λ Σ F (θ − θ*)², or another of `CODES`, with `to_batch_size`.

    Raises:
        ValueError: an unknown code, labels that it cannot take, a number that is out of its range, or one that is
            needed and missing.
    """
    if not (math.isfinite(importance) and importance >= 0):
        raise ValueError(f"importance={importance}: λ must be finite and not negative")
    shape, factor, words = _meaning(code, batch_size, images, labels)
    named = f"{code}'s λ = {_written(importance)}"
    if to == "contlearn":
        estimator = _ESTIMATORS.get(shape[1]) if shape[0] == "image" else None
        if estimator:
            found = importance * factor
            return Equivalent(
                found, estimator, None, f'{named} is contlearn\'s λ = {_written(found)} with estimator="{estimator}".'
            )
        rough = importance * factor / shape[2] if shape[0] == "batch" and not shape[3] else None
        sentence = f"{named} has no equivalent in contlearn: it squares {words}."
        if rough is not None:
            near = _ESTIMATORS[shape[1]]
            sentence += f' As if mean gradients were zero, roughly λ = {_written(rough)} with estimator="{near}".'
        return Equivalent(None, None, rough, sentence)
    other, divisor, other_words = _meaning(to, to_batch_size, images, None)
    if shape != other:
        sentence = f"{named} has no equivalent in {to}: it squares {words}; {to} squares {other_words}."
        return Equivalent(None, None, None, sentence)
    found = importance * factor / divisor
    return Equivalent(found, None, None, f"{named} is {to}'s λ = {_written(found)}.")


def _meaning(
    code: str, batch_size: int | None, images: int | None, labels: Labels | None
) -> tuple[tuple[str, str, int, float | None], float, str]:
    """The shape of Q, what makes ½ λ' Σ (that shape) (θ − θ*)² of their λ, and in words what is squared.

    A shape is what is squared, with which labels, in batches of which size (0 where that does not matter), and clipped
    at what.
    """
    chosen, labels = _code(code), _labels(code, labels)
    for name, value, least in (("batch_size", batch_size, 1), ("images", images, 2)):
        if value is not None and value < least:
            raise ValueError(f"{name}={value}: expected a whole number, {least} or more")
    if chosen.batch_size and batch_size not in (None, chosen.batch_size):
        raise ValueError(f"batch_size={batch_size}: {code} always takes batches of {chosen.batch_size}")
    size = chosen.batch_size or batch_size
    if size is None and chosen.squared in ("batch", "every label"):
        raise ValueError(f"{code}'s importances depend on the size of its batches: give batch_size=…")
    if images is None and code == "van de Ven":
        raise ValueError(f"{code}'s importances depend on the number of images: give images=…")
    factor = (1.0 if chosen.half else 2.0) * chosen.scale(images or 2, size or 1)  # 2 h s, eq. (11.4)
    if chosen.squared == "image" or (chosen.squared == "batch" and size == 1 and chosen.clip is None):
        return ("image", labels, 0, None), factor, f"the gradient of each image, of {_IN_WORDS[labels]}"
    if chosen.squared == "batch":
        words = f"mean gradients of batches of {size}, of {_IN_WORDS[labels]}"
        words += f", and cuts at {chosen.clip:g}" if chosen.clip else ""
        return ("batch", labels, size or 0, chosen.clip), factor, words
    if chosen.squared == "whole":
        words = f"one sum of the mean gradients of batches of {size}"
        return ("whole", labels, size or 0, None), factor, words
    return ("every label", labels, size or 0, None), factor, "one gradient in which each image meets every label"


def _code(name: str) -> Code:
    if name not in CODES:
        raise ValueError(f"code={name!r}: expected one of {', '.join(map(repr, CODES))}")
    return CODES[name]


def _labels(code: str, labels: Labels | None) -> Labels:
    """These labels, or the code's own, if they can stand in what it squares: in a sum over images, one for each."""
    chosen = _code(code)
    possible = {"image": get_args(Labels), "batch": ("sample", "true", "predicted")}.get(chosen.squared, ("true",))
    labels = labels or chosen.labels
    if labels not in possible:
        raise ValueError(f"labels={labels!r}: expected one of {', '.join(map(repr, possible))} with {code}")
    return labels


def _written(value: float) -> str:
    """1,000; 0.4; 31.25."""
    return f"{value:,.6g}" if value < 1e15 else f"{value:.6g}"
