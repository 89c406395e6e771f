"""The checks behind the exercises at the end of each notebook.

A check takes the reader's answer (a function, or a value) and prints one of four verdicts: `not answered yet`,
`Right: …` with what the answer shows, `Not yet: …` with the misconception behind a typical wrong answer, or
`Not yet: …` with the expected and the given value. It never raises because of an answer.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from contlearn.ewc import EWC

# ---- how every check judges ------------------------------------------------------------------------------------------


def _ask(answer: Callable[..., Any], *arguments: Any) -> Any:
    """The answer to `arguments`: what the reader's function returns, or the exception that it raised."""
    try:
        return answer(*arguments)
    except Exception as error:  # a mistake of the reader's is a verdict, not a crash
        return error


def _judge(given: Any, expected: Any, right: str, mistakes: Mapping[str, Any]) -> bool:
    """Print the verdict on one value; return whether it is right.

    Args:
        given: what the reader found; None or ... where the stub is untouched.
        expected: the right value: a number, a tensor, a string or a boolean.
        right: what the right answer shows, one sentence.
        mistakes: for each misconception, as a sentence, the value that it leads to. Values equal to `expected` are
            ignored, the first that fits is named.
    """
    if given is None or given is ...:
        print("not answered yet")
    elif isinstance(given, Exception):
        print(f"Not yet: your code stopped with {type(given).__name__}: {given}")
    elif _same(given, expected):
        print(f"Right: {right}")
        return True
    else:
        for misconception, value in mistakes.items():
            if _same(given, value):
                print(f"Not yet: {misconception}")
                return False
        print(f"Not yet: {_difference(given, expected)}")
    return False


def _same(given: Any, expected: Any) -> bool:
    if isinstance(expected, str) and isinstance(given, str):
        return given.strip().casefold() == expected.strip().casefold()
    if isinstance(expected, str | bool) or isinstance(given, str | bool):
        return bool(given == expected) if type(given) is type(expected) else False
    try:
        a = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
        b = torch.as_tensor(expected, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return False
    return a.shape == b.shape and torch.allclose(
        a, b, rtol=1e-5, atol=1e-9 * float(b.abs().max()) if b.numel() else 0.0
    )


def _difference(given: Any, expected: Any) -> str:
    if isinstance(expected, str | bool):
        return f"{given!r} is not it."
    try:
        a = torch.as_tensor(given, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return f"expected {_kind(expected)}, got {type(given).__name__}."
    b = torch.as_tensor(expected, dtype=torch.float64).cpu()
    if a.shape != b.shape:
        return f"expected {_kind(b)}, got {_kind(a)}."
    if a.ndim == 0:
        return f"expected {float(b):.6g}, got {float(a):.6g}."
    worst = tuple(int(i) for i in torch.unravel_index((a - b).abs().argmax(), a.shape))
    return f"the largest difference is at {list(worst)}: expected {float(b[worst]):.6g}, got {float(a[worst]):.6g}."


def _kind(value: Any) -> str:
    shape = tuple(torch.as_tensor(value).shape)
    return f"a tensor of shape {shape}" if shape else "a single number"


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed float64 numbers, the same on every machine: the material of the checks."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---- notebook 00 -----------------------------------------------------------------------------------------------------


def check_0_1(answer: Callable[..., Any]) -> None:
    """One point's share of F, p (1 − p) x xᵀ: the term of eq. (0.4)."""
    theta, x = torch.tensor([[2.0, 0.5], [1.6, 1.2]], dtype=torch.float64)
    p, outer = torch.sigmoid(theta @ x - 4), torch.outer(x, x)
    mistakes = {
        "this is p x xᵀ: a point counts where the model is unsure, so multiply by p (1 − p).": p * outer,
        "the 4 of (0.1) is missing in the probability.": torch.sigmoid(theta @ x) * torch.sigmoid(-(theta @ x)) * outer,
        "these are the two numbers of the diagonal only: x xᵀ has four, torch.outer(x, x).": p * (1 - p) * x * x,
        "this is a single number: x @ x adds up what x xᵀ keeps apart.": p * (1 - p) * (x @ x),
        "this is x xᵀ alone: it lacks the factor p (1 − p).": outer,
        "p (1 − p) is squared here: it enters once.": (p * (1 - p)) ** 2 * outer,
    }
    _judge(_ask(answer, theta, x), p * (1 - p) * outer, "the mean of these matrices over all points is F.", mistakes)


def check_0_2(answer: Callable[..., Any]) -> None:
    """The gradient of the penalty of eq. (0.6), λ F (θ − θ*)."""
    theta, star, f = _numbers(2, seed=1), _numbers(2, seed=2), _numbers(2, seed=3).square()
    slope = 3.0 * f * (theta - star)
    mistakes = {
        "the ½ is still there: the slope of a square brings a 2, and ½ · 2 = 1.": slope / 2,
        "this is twice the slope: ½ · 2 = 1.": 2 * slope,
        "this points downhill: the slope points away from θ*, gradient descent takes the minus.": -slope,
        "F is missing: this is the slope of equal springs.": 3.0 * (theta - star),
        "λ is missing.": f * (theta - star),
        "the two slopes are added up: return one for each parameter.": slope.sum(),
        "this is the energy of each spring, not its slope.": 1.5 * f * (theta - star) ** 2,
    }
    right = "λ F (θ − θ*): the pull grows with the distance and with what task A needs."
    _judge(_ask(answer, theta, star, f, 3.0), slope, right, mistakes)


def check_0_3(answer: Callable[..., Any]) -> None:
    """The penalty of eq. (0.6), with each difference squared before the sum."""
    theta, star, f = _numbers(2, seed=4), _numbers(2, seed=5), _numbers(2, seed=6).square()
    d = theta - star
    mistakes = {
        "this is still the broken one: it adds up first and squares the sum.": 1.5 * (f * d).sum() ** 2,
        "F is squared as well: only the difference is.": 1.5 * ((f * d) ** 2).sum(),
        "nothing is squared: a spring costs energy in both directions.": 1.5 * (f * d).sum(),
        "the ½ is missing, so that λ means 2λ.": 3.0 * (f * d**2).sum(),
        "the sum is missing: the penalty is a single number.": 1.5 * f * d**2,
        "F is missing: this is L2 with springs of stiffness 1.": 1.5 * (d**2).sum(),
    }
    right = "each difference is squared by itself, so no two can cancel."
    _judge(_ask(answer, theta, star, f, 3.0), (1.5 * f * d**2).sum(), right, mistakes)


def check_0_4(answer: Any) -> None:
    """At θ* the penalty has no slope: the first step is the same with and without it."""
    mistakes = {
        "a spring at rest does not pull: EWC has no reason yet to turn upwards, nor L2 to hold back.": "a",
        "a spring at rest does not pull: at θ* there is nothing yet that could shorten the step.": "c",
    }
    right = "at θ* every spring is at rest, its slope λ F (θ* − θ*) is zero; the paths part from the second step on."
    _judge(answer, "b", right, mistakes)


def check_0_5(answer: Any) -> None:
    """The λ at which 0.3 (t + 1) + λ 0.2 (t − 2) = 0 holds at t = 1."""
    mistakes = {
        "this is 1/λ: the stiffer the spring must be, the larger λ.": 1 / 3,
        "F is missing: the spring's stiffness is λ F.": 0.6,
        "with this λ both pull equally hard at the same distance, and t rests half-way, at 0.5.": 1.5,
        "the slope of ½ k (t − a)² is k (t − a): the ½ was kept in the slope of the penalty.": 6.0,
        "the distances are swapped: B's place is 2 away from t = 1, A's is 1 away.": 0.75,
        "the sign is wrong: the two slopes point in opposite directions, and λ is positive.": -3.0,
    }
    _judge(answer, 3.0, "B pulls with 0.3 · 2, the spring with λ · 0.2 · 1: both are 0.6.", mistakes)


# ---- notebook 01 -----------------------------------------------------------------------------------------------------


def check_1_1(answer: Any) -> None:
    """Judge the number of steps in five epochs of 60,000 images in batches of 64."""
    mistakes = {
        "that is one epoch: there are five.": 938,
        "this leaves out the last batch of each epoch: its 32 images are a batch, too.": 5 * 937,
        "this lets a batch run on into the next epoch, and drops what is left at the end.": 5 * 60_000 // 64,
        "this lets a batch run on into the next epoch: each epoch ends with a batch of 32.": 4688,
        "a step is a whole batch: the last one of each epoch counts, though it has only 32 images.": 5 * 60_000 / 64,
        "these are images: one step takes a batch of 64 of them.": 5 * 60_000,
    }
    _judge(answer, 5 * 938, "five times 938 batches, 937 of 64 images and one of 32.", mistakes)


def check_1_2(answer: Callable[[Tensor], Any]) -> None:
    """Judge a function that counts the places that are zero in every image."""
    images = (_numbers(6, 28, 28) - 0.2).clamp(min=0) / 5
    images[:, :2] = 0
    zero = images == 0
    mistakes = {
        "this counts places that are 0 in at least one image: it should be all of them.": zero.any(0).sum(),
        "these are the places that are inked somewhere: you want the others.": (~zero.all(0)).sum(),
        "this counts the zeros of all images together: a place counts once, if it is 0 in every image.": zero.sum(),
        "this is a share: count the places.": zero.all(0).double().mean(),
        "this marks the places, shape (28, 28): now count them.": zero.all(0),
    }
    right = (
        "67 of MNIST's 784 places are 0 in all 60,000 training images, none of Fashion-MNIST's. "
        "The weights behind those 67 stay as they were drawn while MNIST is learnt."
    )
    _judge(_ask(answer, images), zero.all(0).sum(), right, mistakes)


def check_1_3(answer: Callable[[Tensor], Any]) -> None:
    """Judge a conversion of bytes to floats in [0, 1], eq. (1.1)."""
    raw = (_numbers(4, 28, 28).abs() * 50).clamp(max=200).to(torch.uint8)
    raw[0, 0, 0] = 255
    raw[1:, 0, 0] = 201
    floor, exact = (raw // 255).double(), raw.double()
    highest = (1, 2)
    mistakes = {
        "both mistakes are still in it: // leaves only 0 and 1, and an image of zeros is then divided by 0.":
            torch.nan_to_num(floor / floor.amax(highest, keepdim=True), -1),
        "// divides whole numbers and rounds down, so all but 255 becomes 0: use /.": floor,
        "each image is divided by its own maximum, so pale and dark ones look alike: divide all by 255.":
            exact / exact.amax(highest, keepdim=True),
        "the largest byte is 255, not 256: full ink would stay below 1.": exact / 256,
        "the numbers still run to 255: divide.": exact,
    }  # fmt: skip
    given = _ask(answer, raw.clone())
    if isinstance(given, Tensor) and given.is_floating_point():
        given = torch.nan_to_num(given, -1)
    _judge(given, exact / 255, "every byte divided by 255, the same for all images.", mistakes)


def check_1_4(answer: Any) -> None:
    """Judge a list of three scenarios: for the apples, the letters and the dictation."""
    parts = answer if isinstance(answer, list | tuple) else [answer]
    if any(part is None or part is ... for part in parts):
        print("not answered yet")
        return
    if len(parts) != 3 or not all(isinstance(part, str) for part in parts):
        print(f'Not yet: expected three strings such as ["task", "task", "task"], got {answer!r}.')
        return
    expected = {"the apples": "domain", "the letters": "class", "the dictation": "task"}
    mistakes = {
        "the apples": {"class": "no answer is added: good and bad stay the only two, and only the light changes.",
                       "task": "nobody tells the camera which light it is, nor does it need to know."},
        "the letters": {"domain": "Greek letters are new answers: the same ten units cannot mean both.",
                        "task": "nobody says which alphabet a letter comes from: the program must tell that as well."},
        "the dictation": {"domain": "Danish words are new answers, not the German ones in other sounds.",
                          "class": "the user says which language it is: the program chooses among its words only."},
    }  # fmt: skip
    for given, (situation, scenario) in zip(parts, expected.items(), strict=True):
        name = given.strip().casefold().removesuffix("-incremental")
        if name != scenario:
            print(f"Not yet: {situation}: {mistakes[situation].get(name, f'{given!r} is none of the three names.')}")
            return
    print("Right: same answers, then all answers untold, then the task told.")


def check_1_5(answer: Callable[[Tensor, Tensor], Any]) -> None:
    """Judge a first layer rewired for permuted pixels: W' x' = W x with x'_i = x_π(i), eq. (1.2)."""
    weight, order = _numbers(12, 12, seed=1), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    mistakes = {
        "this moves the columns the opposite way: column i must meet pixel π(i).": weight[:, order.argsort()],
        "this moves the rows, which are the layer's units: the pixels are the columns.": weight[order],
        "this moves the rows, and the opposite way: the pixels are the columns.": weight[order.argsort()],
        "the matrix is as it was: column i still waits for the old pixel i.": weight,
        "this is transposed: rows stay units, columns stay pixels.": weight[:, order].T,
    }
    right = "W'_ji = W_jπ(i). The permuted task has a network just as good, so it is new, but not harder."
    _judge(_ask(answer, weight.clone(), order.clone()), weight[:, order], right, mistakes)


# ---- notebook 02 -----------------------------------------------------------------------------------------------------


def check_2_1(answer: Callable[..., Any]) -> None:
    """`answer(sizes)` counts the weights and biases of an MLP with these layer sizes, such as [784, 256, 10]."""
    sizes = [784, 400, 400, 10]
    weights = 784 * 400 + 400 * 400 + 400 * 10
    _judge(
        _ask(answer, list(sizes)),
        weights + 400 + 400 + 10,
        "478,410 for 784 → 400 → 400 → 10, and two thirds of them belong to the first layer.",
        {
            "this counts the weights only: each layer also has a bias for each of its outputs.": weights,
            "a layer has one bias for each output, not for each input.": weights + 784 + 400 + 400,
            "the 784 pixels have no bias: biases belong to the layers behind them.": weights + sum(sizes),
            "this is the network of the notebook: count from `sizes` instead.": 335_114,
            "the last layer is missing: there are three layers between four sizes.": weights - 4000 + 400 + 400,
        },
    )


def check_2_2(answer: Callable[..., Any]) -> None:
    """`answer(logits)` is the softmax, eq. (2.2), of each row of logits (N, C), however large they are."""
    logits = _numbers(3, 3)
    powers, expected = logits.exp(), logits.softmax(1)
    given, large = _ask(answer, logits.clone()), _ask(answer, logits + 1000)
    if _same(given, expected) and not _same(large, expected):
        print("Not yet: right for small logits, but exp(1000) overflows: subtract the largest logit of each row first.")
        return
    apart = logits + torch.tensor([[0.0], [1000.0], [-1000.0]], dtype=logits.dtype)
    if _same(given, expected) and not _same(_ask(answer, apart), expected):
        print("Not yet: one maximum for the whole batch: small rows underflow to 0/0; take each row's own (dim=1).")
        return
    _judge(
        given,
        expected,
        "adding one number to all logits of an image changes nothing, so you may choose the largest to be 0.",
        {
            "each column adds up to one: sum over the classes, dimension 1, not over images.": logits.softmax(0),
            "these are the e^z: they still have to be divided by their sum.": powers,
            "the maximum is gone, but e^z still has to be divided by its sum.": (logits - logits.amax(1, True)).exp(),
            "this divides by the sum over all images: each image has its own sum.": powers / powers.sum(),
            "each e^z is divided by another row's sum: write sum(1, keepdim=True).": powers / powers.sum(1),
            "this is the logarithm of the softmax.": expected.log(),
            "this divides the logits themselves: take e^z first.": logits / logits.sum(1, keepdim=True),
        },
    )


def check_2_3(answer: Callable[..., Any]) -> None:
    """`answer(probabilities, labels)` is the cross-entropy, eq. (2.3), of probabilities (N, C) and labels (N,)."""
    p, labels = _numbers(4, 3).softmax(1), torch.tensor([2, 0, 1, 1])
    true = p[range(4), labels]
    _judge(
        _ask(answer, p.clone(), labels.clone()),
        -true.log().mean(),
        "only the true class counts, and an image costs more the less its label was expected.",
        {
            "the minus sign is missing: the loss must fall as the network learns.": true.log().mean(),
            "this is the sum over the images: (2.3) is their mean.": -true.log().sum(),
            "this is the logarithm of the mean: take the logarithm of each, then average.": -true.mean().log(),
            "`p[:, labels]` pairs every image with every label: give the rows as well.": -p[:, labels].log().mean(),
            "this averages over all classes: only the true one counts.": -p.log().mean(),
            "this takes the largest probability, whosever it is: use the label's.": -p.amax(1).log().mean(),
            "this is the logarithm to base 2: nats need the natural one.": -true.log2().mean(),
            "this is the logarithm to base 10: nats need the natural one.": -true.log10().mean(),
            "the logarithm is missing.": -true.mean(),
            "these are probabilities already: no second softmax.": -p.softmax(1)[range(4), labels].log().mean(),
        },
    )


def check_2_4(answer: Callable[..., Any]) -> None:
    """`answer(model, batches, lr)` trains `model` for one epoch by stochastic gradient descent, eq. (2.4)."""
    batches = [(_numbers(8, 4, seed=k), torch.arange(8).roll(k) % 3) for k in range(3)]

    def descend(model: nn.Module, steps: int, zero: bool = True, twice: bool = False) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for images, labels in batches[:steps]:
            logits = model(images)
            if zero:
                optimizer.zero_grad()
            cross_entropy(logits.softmax(1) if twice else logits, labels).backward()
            optimizer.step()

    def trained(train: Callable[..., Any], *arguments: Any) -> Any:
        model = nn.Linear(4, 3, dtype=torch.float64)
        model.load_state_dict({"weight": _numbers(3, 4, seed=3), "bias": _numbers(3, seed=4)})
        result = _ask(train, model, *arguments)
        failed = isinstance(result, Exception) or result is ...
        return result if failed else nn.utils.parameters_to_vector(model.parameters()).detach()

    _judge(
        trained(answer, batches, 0.5),
        trained(descend, 3),
        "the gradients start from zero for every batch, and cross_entropy gets the raw logits.",
        {
            "nothing has moved: do backward() and step() both run, with zero_grad() before them?": trained(descend, 0),
            "both mistakes are still there.": trained(descend, 3, False, True),
            "gradients of earlier batches are still added: call zero_grad() for each.": trained(descend, 3, False),
            "cross_entropy contains the softmax: give it the raw logits.": trained(descend, 3, True, True),
            "this is one step only: `return` must stand behind the loop, not in it.": trained(descend, 1),
        },
    )


def check_2_5(answer: str | None) -> None:
    """`answer` says what the third bias does: "rises", "falls" or "stays"."""
    _judge(
        answer,
        "stays",
        "an image of its own class should raise it, but the last ReLU multiplies that pull by zero.",
        {
            "so it would be without the last ReLU. What is [z > 0] in (2.6) at z = -1?": "rises",
            "only images of other classes push a logit down; this one is of its own class.": "falls",
        },
    )


# ---- notebook 03 -----------------------------------------------------------------------------------------------------


def check_3_1(answer: Callable[..., Any]) -> None:
    """Forgetting of four tasks: the mean over all but the last of the best accuracy before minus that at the end."""
    rows = [[0.9, 0.1, 0.2, 0.1], [0.94, 0.8, 0.1, 0.2], [0.7, 0.85, 0.9, 0.1], [0.5, 0.88, 0.8, 0.95]]
    r = torch.tensor(rows, dtype=torch.float64)
    drop = r[:-1, :-1].max(dim=0).values - r[-1, :-1]
    _judge(
        _ask(answer, r.clone()),
        drop.mean(),
        "with two tasks this is eq. (3.1). What a task once reached counts, whenever that was.",
        {
            "the sign is turned round: forgetting is the best accuracy minus the last one.": -drop.mean(),
            "you took each task right after it was learnt, but a task may improve later: its best is asked for.": (
                r.diagonal()[:-1] - r[-1, :-1]
            ).mean(),
            "you let the last row compete for the best: take the best before the last training.": (
                (r.max(dim=0).values - r[-1])[:-1].mean()
            ),
            "the last task is in your mean: it had no time to be forgotten, so leave its column out.": (
                (r.max(dim=0).values - r[-1]).mean()
            ),
            "you subtract for the last task too, what it gained in learning: leave its column out.": (
                (r[:-1].max(dim=0).values - r[-1]).mean()
            ),
            "this is the sum over the tasks: divide by how many there are.": drop.sum(),
            "these are the drops task by task: now take their mean.": drop,
        },
    )


def check_3_2(answer: float | None) -> None:
    """Backward transfer of three tasks: the mean of the end minus right after learning."""
    _judge(
        answer,
        -0.305,
        "both earlier tasks ended lower than they began, so backward transfer is negative.",
        {
            "the sign is turned round: what was lost counts as negative here.": 0.305,
            "you started from the best accuracy, 0.94: here the one right after learning counts, 0.90.": -0.325,
            "nearly: this is rounded, give three decimals.": -0.31,
            "for task 1 you started from the first row, before it was learnt: right after it stood at 0.86.": 0.075,
            "this is task 0 alone: take the mean with task 1.": -0.35,
            "this is task 1 alone: take the mean with task 0.": -0.26,
            "this is forgetting: take 0.90 instead of the best, 0.94, and the end minus the beginning.": 0.325,
            "this is the sum: divide by the two tasks that could change.": -0.61,
            "you divided by three, but the last task is no part of the mean: only two could change.": -0.61 / 3,
            "these are percentage points: divide by 100, for the table holds fractions.": -30.5,
        },
    )


def check_3_3(answer: Callable[..., Any]) -> None:
    """The mean accuracy over all tasks at the end, on a make-believe network that forgets by a known table."""
    r = torch.tensor([[0.9, 0.2, 0.1], [0.6, 0.8, 0.15], [0.3, 0.5, 0.7]], dtype=torch.float64)
    learnt: list[int] = []
    untrained = 0.125
    given = _ask(answer, [0, 1, 2], learnt.append, lambda task: float(r[learnt[-1], task]) if learnt else untrained)
    _judge(
        given,
        r[-1].mean(),
        "the last row of the matrix: every task, measured on the network that you are left with.",
        {
            "each task is still measured right after it was learnt, before anything could be forgotten.": (
                r.diagonal().mean()
            ),
            "only the task learnt last is in it: the earlier ones are what may be forgotten.": r[-1, -1],
            "only the task learnt first is in it: average over all of them.": r[-1, 0],
            "this is the average over all moments: measure only once the last task is learnt.": r.mean(),
            "the network was measured before it had learnt anything.": untrained,
            "this is the sum: divide by the number of tasks.": r[-1].sum(),
        },
    )


def check_3_4(answer: float | None) -> None:
    """How many steps at a fifth of the learning rate lead to the same place."""
    _judge(
        answer,
        1500,
        "a fifth of the learning rate, five times the steps: the same path, walked more slowly.",
        {
            "as many steps, each five times smaller, lead only a fifth of the way.": 300,
            "that is the wrong way round: smaller steps need to be more.": 60,
            "these are the steps on top of the 300: the new run starts again from the beginning.": 1200,
            "this is learning rate times steps, how far along the path you are: divide it by 0.002.": 3,
        },
    )


def check_3_5(answer: str | None) -> None:
    """Which experiment refutes that the network is too small for both tasks."""
    _judge(
        answer.strip().lower() if isinstance(answer, str) else answer,
        "joint",
        "one set of weights does both tasks well, so there is room for both.",
        {
            "in none of the swapped networks did both tasks do well, so this one cannot show that there is room.": (
                "swap"
            ),
            "this shows that most changes do no harm to digits, but no network in it does both tasks well.": "shuffle",
            "no point on those paths was good at both tasks, so they cannot show that such weights exist.": "slow",
        },
    )


# ---- notebook 04 -----------------------------------------------------------------------------------------------------


def check_4_1(answer: Callable[..., Any]) -> None:
    """Exercise 4.1: the gradient e_c − p of log p_c at the logits."""
    z, c = _numbers(5, seed=41), 2
    p, e = z.softmax(0), torch.eye(5, dtype=torch.float64)[c]
    _judge(
        _ask(answer, z.clone(), c),
        e - p,
        "what leaves the logits is 1 − p_c at the label and −p at all others; the entries add up to zero.",
        {
            "this is the gradient of the loss −log p_c; the score is that of log p_c: turn the sign.": p - e,
            "log p_c depends on every logit, for softmax divides by the sum of all: subtract p.": e,
            "the logit of the label itself raises log p_c: add 1 in its place.": -p,
            "this is the gradient of p_c; that of log p_c is divided by p_c.": p[c] * (e - p),
        },
    )


def check_4_2(answer: Callable[..., Any]) -> None:
    """Exercise 4.2: the exact F of softmax regression, for one image."""
    weight, x, y = _numbers(4, 6, seed=42), _numbers(6, seed=43), 1
    p = (weight @ x).softmax(0)
    scores = (torch.eye(4, dtype=torch.float64) - p)[:, :, None] * x
    g2 = (p[:, None] * (torch.eye(4, dtype=torch.float64) - p).square()).sum(0)
    given = _ask(answer, weight.clone(), x.clone(), y)
    if isinstance(given, Tensor) and given.is_floating_point():
        given = given.round(decimals=15)  # the square of the mean score is zero only up to rounding
    _judge(
        given,
        (p[:, None, None] * scores.square()).sum(0),
        "each entry is Σ_c p_c (e_c − p)_i² x_j²: no label from the data is needed, only the model's own prediction.",
        {
            "every label counts as much as any other here: weigh each square with its p_c.": scores.square().sum(0),
            "this is the plain mean over labels: weigh each square with its p_c instead.": scores.square().mean(0),
            "this is the square of the mean score, which is zero for every image: square first, then average.": 0
            * weight,
            "this takes the true label, the empirical F: take the mean over all labels, each with its p_c.": scores[
                y
            ].square(),
            "this takes the most likely label, the predicted F: take the mean over all labels.": scores[
                int(p.argmax())
            ].square(),
            "x is missing: a weight's score is (e_c − p)_i x_j, so multiply by x_j².": g2[:, None].expand(4, 6),
            "this is F at the logits, without x: a weight's score is (e_c − p)_i x_j, so multiply by x_j².": g2,
            "x is not squared yet: the square of (e_c − p)_i x_j holds x_j².": torch.outer(g2, x),
            "p_c belongs outside the square: p_c s_c², not (p_c s_c)².": (p[:, None, None] * scores).square().sum(0),
        },
    )


def check_4_3(answer: Callable[..., Any]) -> None:
    """Exercise 4.3: the mean of the squares, in place of the square of the mean."""
    scores = _numbers(7, 5, seed=44) + 0.3
    squares = scores.square()
    _judge(
        _ask(answer, scores.clone()),
        squares.mean(0),
        "square each image's score, then average: nothing cancels.",
        {
            "this is the square of the mean gradient: square first, then average.": scores.mean(0).square(),
            "this sums over the images and then squares: square first, then average.": scores.sum(0).square(),
            "the squares are summed: divide by the number of images, or F grows with the data set.": squares.sum(0),
            "this is one number for all parameters: average over the images only, dim 0.": squares.mean(),
            "the average runs over the parameters: average over the images, dim 0.": squares.mean(1),
            "this is the mean size of the scores: square them.": scores.abs().mean(0),
        },
    )


def check_4_4(answer: Any) -> None:
    """Exercise 4.4: the empirical Fisher information takes the true labels."""
    _judge(
        answer.strip().upper() if isinstance(answer, str) else answer,
        "C",
        "empirical means the true labels, as they come with the data.",
        {
            "A takes the label that the model finds most likely: that is the predicted F, often called empirical.": "A",
            "B draws the label from the model's own prediction: that is the sample estimate of the exact F.": "B",
            "D draws every label equally often: that estimates neither the exact nor the empirical F.": "D",
        },
    )


def check_4_5(answer: Callable[..., Any]) -> None:
    """Exercise 4.5: the closed form (G⊙G)ᵀ(A⊙A)/N of a linear layer."""
    g, a = _numbers(6, 3, seed=45), _numbers(6, 4, seed=46)
    g2, a2 = g.square(), a.square()
    _judge(
        _ask(answer, g.clone(), a.clone()),
        g2.T @ a2 / 6,
        "one matrix product holds the squared gradients of all images, and none of them was ever built.",
        {
            "this is the square of the mean gradient: square G and A before the product.": (g.T @ a / 6).square(),
            "this adds up the gradients, then squares: square G and A before the product.": (g.T @ a).square(),
            "this squares the summed gradient and divides by N: square G and A before.": (g.T @ a).square() / 6,
            "divide by the number of images N, or F grows with the data set.": g2.T @ a2,
            "this is the mean gradient itself: square G and A, entry by entry, before the product.": g.T @ a / 6,
            "the result is transposed: a weight has a row for each output and a column for each input.": a2.T @ g2 / 6,
            "this is one number for the whole layer: every weight has its own.": (g2.T @ a2 / 6).mean(),
        },
    )


# ---- notebook 05 -----------------------------------------------------------------------------------------------------


def check_5_1(answer: Callable[..., Any]) -> None:
    """Judge `my_penalty(theta, theta_star, fisher, importance)`, eq. (5.2) for one task and one tensor."""
    theta, star, fisher = _numbers(2, 3), _numbers(2, 3, seed=1), _numbers(2, 3, seed=2).square()
    squares = (theta - star).square()
    expected = 0.5 * 30 * (fisher * squares).sum()
    _judge(
        _ask(answer, theta.clone(), star.clone(), fisher.clone(), 30),
        expected,
        "this is ½ λ Σ F (θ − θ*)², a single number that is zero where θ = θ*.",
        {
            "the ½ is missing: this is twice the penalty.": 2 * expected,
            "this pulls the weights towards zero: take the distance from θ*, θ − θ*.": 15 * (fisher * theta**2).sum(),
            "F enters squared: multiply the squared distance by F itself.": 15 * (fisher**2 * squares).sum(),
            "F is missing: this holds every weight with the same strength.": 15 * squares.sum(),
            "this sums first and squares then: moves in opposite directions cancel. Square each distance.": (
                15 * (fisher * (theta - star)).sum() ** 2
            ),
            "the mean over the weights is not the sum: the penalty of a large model would fade.": expected / 6,
            "λ stands inside the square: it multiplies the sum once.": expected * 30,
            "λ is missing: this is the penalty for λ = 1.": expected / 30,
            "this is zero: θ is compared with itself, not with θ*.": 0.0,
        },
    )


def check_5_2(answer: Callable[..., Any]) -> None:
    """Judge `remember(model)`: θ*, by name, must survive the training that follows and be cut off from autograd."""
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    memory = _ask(answer, model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)  # the training that follows
    if isinstance(memory, Mapping):
        stored = memory
        memory = _ask(lambda: torch.cat([stored[name].flatten() for name in names]))
        if _same(memory, before) and _hangs_on(model, memory):
            print(
                "Not yet: the numbers are right, but the copies still hang on the model, so the penalty's gradient "
                "through them cancels the one through θ: detach() them."
            )
            return
    _judge(
        memory,
        before,
        "these numbers stay where they are, whatever the model does next.",
        {
            "these are the model's own weights: they move along, θ − θ* stays zero for ever, and so does the "
            "penalty.": before + 1,
            "these are zeros: with them the penalty pulls towards zero, not towards θ*.": torch.zeros_like(before),
        },
    )


def _hangs_on(model: torch.nn.Module, memory: Tensor) -> bool:
    """Whether a gradient through `memory` reaches the model's weights; copies that merely want one are harmless."""
    if not memory.requires_grad:
        return False
    reached = torch.autograd.grad(memory.sum(), list(model.parameters()), allow_unused=True)
    return any(gradient is not None for gradient in reached)


def check_5_3(answer: str | list[str] | tuple[str, ...] | None) -> None:
    """Judge the fates of one weight under plain descent at ηλF = 1.5, 0.5, 2.5 and 1.0, eq. (5.5)."""
    letters = "".join(map(str, answer)) if isinstance(answer, list | tuple) else answer
    _judge(
        "".join(letters.replace(",", " ").split()).lower() if isinstance(letters, str) else letters,
        "cadb",
        "the distance is multiplied by 1 − ηλF, and shrinks while ηλF is between 0 and 2.",
        {
            "at ηλF = 1.5 the weight overshoots but ends at −0.5 of its distance: the bound is 2, not 1.": "dadb",
            "at ηλF = 2.5 the weight ends at −1.5 of its distance, farther away than before.": "cacb",
            "at ηλF = 1.5 the factor 1 − 1.5 is negative: the weight lands on the other side.": "aadb",
            "this is what the proximal step does; plain descent multiplies the distance by 1 − ηλF.": "aaaa",
            "the ½ of the penalty is not in its gradient: the factor is 1 − ηλF, not 1 − ½ηλF.": "aaca",
        },
    )


def check_5_4(answer: Callable[..., Any]) -> None:
    """Judge `my_proximal_step(theta, theta_star, fisher, strength)`, eq. (5.6), with strength ηλ."""
    theta, star, fisher = _numbers(5), _numbers(5, seed=1), _numbers(5, seed=2).square()
    pull = 3 * fisher
    _judge(
        _ask(answer, theta.clone(), star.clone(), fisher.clone(), 3),
        (theta + pull * star) / (1 + pull),
        "a weighted mean of θ and θ*: it lies between the two for every λ.",
        {
            "this is a step of plain descent on the penalty, which explodes where ηλF > 2.": theta
            - pull * (theta - star),
            "this moves away from θ*: the gradient has the wrong sign.": theta + pull * (theta - star),
            "the denominator 1 + ηλF is missing, so this is no mean of θ and θ*.": theta + pull * star,
            "this pulls towards zero: ηλFθ* is missing in the numerator.": theta / (1 + pull),
            "θ and θ* have changed places: a large F must lead to θ*.": (star + pull * theta) / (1 + pull),
            "F is missing: every weight is pulled with the same strength.": (theta + 3 * star) / 4,
            "the ½ of the penalty is gone once it is differentiated: the factor is ηλF, not ½ηλF.": (
                theta + pull / 2 * star
            )
            / (1 + pull / 2),
        },
    )


def check_5_5(answer: float | None) -> None:
    """Judge the λ of eq. (5.3) that equals `lam = 400` without the ½, beside a loss summed over 64 images."""
    _judge(
        answer,
        12.5,
        "of 400 beside a sum over 64 images, 6.25 stay beside the mean; without their missing ½ that is λ = 12.5.",
        {
            "the ½ went the wrong way: ½ λ must equal their factor, so λ is twice as large.": 400 / 64 / 2,
            "their code has no ½, yours has: your λ must be twice as large.": 400 / 64,
            "their cross-entropy is summed over 64 images, yours is the mean: divide their whole loss by 64.": 800,
            "the ½ went the wrong way, and their sum over 64 images is still to be divided by 64.": 200,
            "the sum over 64 images went the wrong way: divide by 64.": 400 * 64 * 2,
            "400 is their number: the ½ and the sum over 64 images both change it.": 400,
            "divide their whole loss by 64, then set the factors before the two sums equal; mind the ½.": _ask(
                float, answer
            ),
        },
    )


# ---- notebook 06 -----------------------------------------------------------------------------------------------------


def check_6_1(answer: Callable[..., Any]) -> None:
    """Judge `take_out(s, mu, f, star)`: S and μ of eq. (6.1) after one of the tasks is gone."""
    f, star = _numbers(3, 4, seed=1).square() + 0.1, _numbers(3, 4, seed=2)
    s, moment = f.sum(0), (f * star).sum(0)  # S and Sμ of all three
    rest, others = f[:2].sum(0), (f[:2] * star[:2]).sum(0)  # of the first two
    mistakes = {
        "the task went in a second time: its F and its F θ* must be subtracted.": (s + f[2], moment + f[2] * star[2]),
        "S is right, but μ is still that of all tasks.": (rest, rest * moment / s),
        "S is right, but the new Sμ must be divided by the new S, not the old one.": (rest, others * rest / s),
        "S is right, but θ* enters μ weighted by its F: subtract F θ*, not θ*.": (rest, moment - star[2]),
        "S is right; for μ subtract F θ* from Sμ, then divide by the new S.": (rest, rest * (moment / s - star[2])),
        "S is still that of all tasks: it loses this task's F.": (s, s * others / rest),
    }
    named = {sentence: torch.stack((total, m / total)) for sentence, (total, m) in mistakes.items()}
    named["these are the right two, in the wrong order: return S, then μ."] = torch.stack((others / rest, rest))
    given = _ask(lambda: _pair(answer(s.clone(), moment / s, f[2].clone(), star[2].clone())))
    right = "a task can be taken out as exactly as it was put in, if its F and θ* are known."
    _judge(given, torch.stack((rest, others / rest)), right, named)


def check_6_2(answer: Callable[..., Any]) -> None:
    """Judge `my_backward_transfer(matrix)`, eq. (6.5)."""
    r = torch.tensor([[98, 10, 12, 9], [91, 97, 11, 10], [93, 98, 96, 13], [86, 88, 89, 95]], dtype=torch.float64) / 100
    drops = r[-1, :-1] - r.diagonal()[:-1]
    mistakes = {
        "this is positive, but tasks were forgotten here: after minus before, R[T−1, j] − R[j, j].": -drops.mean(),
        "the last task cannot change after itself: average over the T − 1 earlier ones.": drops.sum() / 4,
        "this is a sum: divide by T − 1.": drops.sum(),
        "these are the changes of the single tasks: average them.": drops,
        "this is minus the forgetting: start from R[j, j], not from the best.": -(
            torch.stack([r[j:-1, j].max() for j in range(3)]) - r[-1, :-1]
        ).mean(),
        "the first row was measured before the later tasks were learnt: start from the diagonal R[j, j].": (
            (r[-1] - r[0])[:-1].mean()
        ),
        "the diagonal is that of the next row: start from R[j, j].": (r[-1, :-1] - r.diagonal(-1)).mean(),
        "this is the average accuracy: compare it with what each task had when it was new.": r[-1].mean(),
    }
    right = "what the later tasks did to the earlier ones; here they cost nine points."
    _judge(_ask(answer, r.clone()), drops.mean(), right, mistakes)


def check_6_3(answer: Callable[..., Any]) -> None:
    """Judge `choose(runs)`: the λ that the validation images choose, and the accuracy that may be reported."""
    rows = ((10, 0.90, 0.93), (30, 0.95, 0.94), (100, 0.94, 0.96), (300, 0.91, 0.92))
    runs = [dict(zip(("importance", "validation", "test"), row, strict=True)) for row in rows]
    _judge(
        _ask(lambda: _pair(answer(runs))),
        torch.tensor([30, 0.94]),
        "the validation images choose, the test images only judge what was chosen.",
        {
            "the test images chose this λ, so they can no longer judge it: choose by validation.": [100, 0.96],
            "the λ is right, but the images that chose it flatter it: report the test accuracy.": [30, 0.95],
            "the λ is right, but this accuracy belongs to another λ: report that of the chosen run.": [30, 0.96],
            "the test images chose, and the validation images judge: it is the other way round.": [100, 0.94],
            "this is the largest λ, not the best on the validation images.": [300, 0.92],
        },
    )


def check_6_4(answer: float | None) -> None:
    """Judge after how many tasks a task counts less than half with decay γ = 0.9, eq. (6.6)."""
    _judge(
        answer,
        7,
        "0.9⁷ ≈ 0.48, while 0.9⁶ ≈ 0.53.",
        {
            "after 6 tasks 0.9⁶ ≈ 0.53 is left, still more than half.": 6,
            "a tenth of what is left goes each time, not a tenth of the whole: 0.9⁵ ≈ 0.59.": 5,
            "after 7 it is less than half already: 0.9⁷ ≈ 0.48.": 8,
            "10 is what all tasks together can reach, 1/(1 − γ); ask when one task's γᵏ falls below ½.": 10,
        },
    )


def check_6_5(answer: str | list[str] | tuple[str, ...] | None) -> None:
    """Judge how four costs grow with the number of tasks: c(onstant), l(inear) or q(uadratic)."""
    letters = "".join(map(str, answer)) if isinstance(answer, list | tuple) else answer
    _judge(
        "".join(letters.replace(",", " ").split()).lower() if isinstance(letters, str) else letters,
        "cclq",
        "one quadratic costs the same for ever; only measuring grows.",
        {
            "S and μ are sums: however many tasks go in, two vectors come out.": "lclq",
            "a step looks at S and μ alone, and these do not grow.": "cllq",
            "S and μ do not grow, and so neither do memory nor step.": "lllq",
            "a list of springs has one more with each task, and each step computes all of them.": "cccq",
            "row i has i entries: 1 + 2 + … + T = T (T + 1) / 2.": "ccll",
            "a list of springs grows by one with each task: that is linear. It is R that has two directions.": "ccql",
        },
    )


def _pair(found: Any) -> Any:
    """An answer of two tensors or numbers as one tensor; whatever else it is, unchanged."""
    if not isinstance(found, list | tuple) or len(found) != 2 or any(part is None for part in found):
        return None if isinstance(found, list | tuple) and all(part is None for part in found) else found
    return torch.stack([torch.as_tensor(part, dtype=torch.float64) for part in found])


# ---- notebook 07 -----------------------------------------------------------------------------------------------------


def check_7_1(answer: tuple[float, float] | list[float] | None) -> None:
    """Judge how stiff F = [[2, 1.8], [1.8, 2]] is along (1, 1) and along (1, −1), over what its diagonal says."""
    right = "along (1, 1) the diagonal is nearly half too soft, along (1, −1) ten times too stiff."
    mistakes = {
        "the two moves are swapped: along (1, 1) both mixed terms add 1.8.": [0.1, 1.9],
        "this is dᵀ F d itself: divide by what the diagonal alone gives, 4 in both cases.": [7.6, 0.4],
        "this is the diagonal's over F's: turn the fractions round.": [1 / 1.9, 10],
        "the mixed term counts once here: F₁₂ and F₂₁ both stand in the sum.": [1.45, 0.55],
        "half of dᵀ F d over all of the diagonal's 4: the ½ stands in both, and cancels.": [0.95, 0.05],
        "this is the diagonal against itself: the mixed terms F₁₂ d₁ d₂ are missing.": [1, 1],
    }
    _judge(answer, [1.9, 0.1], right, mistakes)


def check_7_2(answer: Callable[..., Any]) -> None:
    """Judge `kronecker_block(a, g)`: for one image, the outer product of its flattened gradient g aᵀ, eq. (7.2)."""
    a, g = _numbers(3), _numbers(2, seed=1)
    flat = torch.outer(g, a).flatten()
    mistakes = {
        "this is in the order of columns: W.flatten() runs along the rows, so G comes first, torch.kron(G, A).": (
            torch.kron(torch.outer(a, a), torch.outer(g, g))
        ),
        "this is the gradient g aᵀ itself: the block has a number for each pair of weights.": torch.outer(g, a),
        "this is the flattened gradient: the block is its outer product with itself.": flat,
        "this is the diagonal of the block only.": flat.square(),
        "all but the diagonal is zero here.": flat.square().diag(),
    }
    right = "for one image the block is exactly (g gᵀ) ⊗ (a aᵀ); only the mean over images makes it approximate."
    _judge(_ask(answer, a.clone(), g.clone()), torch.outer(flat, flat), right, mistakes)


def check_7_3(answer: Callable[..., Any]) -> None:
    """Judge `factors(a, g)`, eq. (7.3): a is (N, I+1); g is (C, N, O), with √p_c in it."""
    a, g = _numbers(4, 3), _numbers(2, 4, 2, seed=1)
    given = _ask(answer, a.clone(), g.clone())
    if isinstance(given, tuple | list) and len(given) == 2:
        pair = given
        given = _ask(lambda: torch.cat([torch.as_tensor(factor).flatten() for factor in pair]))

    def both(a_factor: Tensor, g_factor: Tensor) -> Tensor:
        return torch.cat((a_factor.flatten(), g_factor.flatten()))

    mean_a, each_g = a.T @ a / 4, torch.einsum("cno,cnp->op", g, g)
    outer_a, outer_g = torch.outer(a.mean(0), a.mean(0)), torch.outer(g.sum(0).mean(0), g.sum(0).mean(0))
    mistakes = {
        "these are outer products of the means: take the outer product image by image, then the mean.": (
            both(outer_a, outer_g)
        ),
        "A is still the outer product of the mean input.": both(outer_a, each_g / 4),
        "G is still the outer product of the mean gradient.": both(mean_a, outer_g),
        "G is divided by the number of labels as well: √p_c has weighted them already.": both(mean_a, each_g / 8),
        "G adds up the labels before it multiplies: each label has an outer product of its own.": (
            both(mean_a, torch.einsum("no,np->op", g.sum(0), g.sum(0)) / 4)
        ),
        "these are sums: divide both by the number of images.": both(4 * mean_a, each_g),
        "A is a sum: divide it by the number of images too.": both(4 * mean_a, each_g / 4),
        "G is a sum: divide it by the number of images too.": both(mean_a, each_g),
        "A and G have changed places: return A, then G.": both(each_g / 4, mean_a),
    }
    _judge(given, both(mean_a, each_g / 4), "products first, then the mean: the same order as for F itself.", mistakes)


def check_7_4(answer: Callable[..., Any]) -> None:
    """Judge `my_penalty(delta, A, G, importance)`, eq. (7.4) for one layer."""
    delta, a, g = _numbers(2, 3), _numbers(5, 3, seed=1), _numbers(5, 2, seed=2)
    A, G = a.T @ a / 5, g.T @ g / 5
    expected = 15 * (delta * (G @ delta @ A)).sum()
    mistakes = {
        "the ½ is missing: this is twice the penalty.": 2 * expected,
        "λ is missing: this is the penalty for λ = 1.": expected / 30,
        "this is the diagonal's penalty: all pairs of different weights are missing.": (
            15 * (torch.outer(G.diagonal(), A.diagonal()) * delta**2).sum()
        ),
        "A is missing: the inputs count as much as the gradients.": 15 * (delta * (G @ delta)).sum(),
        "G is missing: the gradients count as much as the inputs.": 15 * (delta * (delta @ A)).sum(),
        "the sum is missing: the penalty is a single number.": 15 * delta * (G @ delta @ A),
        "this squares G ΔW A: multiply it by ΔW and add up.": 15 * (G @ delta @ A).square().sum(),
        "this is the gradient λ G ΔW A: the penalty is a single number.": 30 * G @ delta @ A,
    }
    right = "½ λ tr(ΔWᵀ G ΔW A), without ever multiplying the factors out."
    _judge(_ask(answer, delta.clone(), A.clone(), G.clone(), 30), expected, right, mistakes)


def check_7_5(answer: Callable[..., Any]) -> None:
    """Judge `my_step(delta, A, G, strength)`, eq. (7.6): the new distance from θ*, strength being ηλ."""
    delta, a, g = _numbers(2, 3), _numbers(5, 3, seed=1), _numbers(5, 2, seed=2)
    A, G = a.T @ a / 5, g.T @ g / 5
    (values_a, q_a), (values_g, q_g) = torch.linalg.eigh(A), torch.linalg.eigh(G)
    inside = q_g.T @ delta @ q_a
    spectrum = torch.outer(values_g, values_a)
    shrunk = inside / (1 + 4 * spectrum)
    mistakes = {
        "this is a step of plain descent: it explodes where ηλ times the largest eigenvalue exceeds 2.": (
            delta - 4 * G @ delta @ A
        ),
        "this is still in the eigenbases: turn it back, Q_G … Q_Aᵀ.": shrunk,
        "the 1 in the denominator is missing: with ηλ = 0 nothing may move.": q_g @ (inside / (4 * spectrum)) @ q_a.T,
        "the eigenvalues of a Kronecker product are products g_i a_j, not sums.": (
            q_g @ (inside / (1 + 4 * (values_g[:, None] + values_a))) @ q_a.T
        ),
        "this is the diagonal's step, (5.6): pairs of different weights are missing.": (
            delta / (1 + 4 * torch.outer(G.diagonal(), A.diagonal()))
        ),
        "this divides by the eigenvalues without turning into the eigenbases first.": delta / (1 + 4 * spectrum),
        "the turning is the wrong way round: Q_Gᵀ … Q_A goes in, Q_G … Q_Aᵀ comes out.": (
            q_g.T @ ((q_g @ delta @ q_a.T) / (1 + 4 * spectrum)) @ q_a
        ),
        "the strength is missing: multiply the eigenvalues by ηλ.": q_g @ (inside / (1 + spectrum)) @ q_a.T,
    }
    right = "each eigen-direction shrinks by its own factor between 0 and 1, for every λ."
    expected = q_g @ shrunk @ q_a.T
    _judge(_ask(answer, delta.clone(), A.clone(), G.clone(), 4), expected, right, mistakes)


# ---- notebook 08 -----------------------------------------------------------------------------------------------------


def check_8_1(answer: Callable[..., Any]) -> None:
    """Judge `answer_within(logits, classes)`: the largest logit among the classes of the task, eq. (8.1)."""
    logits, classes = _numbers(12, 10), [3, 6]
    inside, zeroed = logits[:, classes], torch.zeros_like(logits)
    zeroed[:, classes] = inside
    _judge(
        _ask(answer, logits.clone(), list(classes)),
        torch.tensor(classes)[inside.argmax(1)],
        "only the logits of the task are compared, and the answers are labels.",
        {
            "these are places in the list `classes`, not labels: look them up in it.": inside.argmax(1),
            "this adds the first class to the place in the list: right for neighbours such as [2, 3] only.": (
                inside.argmax(1) + classes[0]
            ),
            "this compares all ten logits: the task is not used.": logits.argmax(1),
            "zero is no mask: where both logits of the task are negative, a zero wins.": zeroed.argmax(1),
            "this takes the smallest logit: argmax, not argmin.": torch.tensor(classes)[inside.argmin(1)],
            "these are the logits themselves, not their labels.": inside.max(1).values,
        },
    )


def check_8_2(answer: Callable[..., Any]) -> None:
    """Judge `slope_of_each_class(logits, labels)`: p − one_hot(y), eq. (8.4), averaged over the images."""
    logits, labels = _numbers(6, 5), torch.tensor([3, 4, 3, 3, 4, 4])
    p, target = logits.softmax(1), torch.eye(5, dtype=torch.float64)[labels]
    _judge(
        _ask(answer, logits.clone(), labels.clone()),
        (p - target).mean(0),
        "positive for every class that the batch lacks, so descent pushes their logits down.",
        {
            "the sign is the wrong way round: this is where descent goes, the slope is p − one_hot(y).": (
                target - p
            ).mean(0),
            "this is the sum over the images; the loss is their mean.": (p - target).sum(0),
            "this is divided by the number of images and of classes: only the images are averaged.": (
                (p - target).mean(0) / 5
            ),
            "one_hot(y) is missing: this is the mean probability.": p.mean(0),
            "the logits are no probabilities yet: softmax is missing.": (logits - target).mean(0),
            "softmax runs over the classes of one image, dimension 1, not over the images.": (
                logits.softmax(0) - target
            ).mean(0),
            "the images are still apart: add up over them, so that one number a class is left.": (p - target) / 6,
        },
    )


def check_8_3(answer: Callable[..., Any]) -> None:
    """Judge `memory_indices(labels, per_class)`: the first images of each class, sorted."""
    labels = torch.tensor([7, 2, 2, 9, 2, 7, 9, 9, 7, 2])
    given = _ask(answer, labels.clone(), 2)
    if isinstance(given, list | tuple):
        given = _ask(torch.tensor, given)
    _judge(
        given,
        torch.tensor([0, 1, 2, 3, 5, 6]),
        "every class has the same share of the memory, however often it occurs.",
        {
            "these are the right images, class after class: sort the indices.": torch.tensor([1, 2, 0, 5, 3, 6]),
            "these are the first images of all: whoever comes early fills the memory.": torch.tensor([0, 1]),
            "the memory is filled in order, whatever the class: count each class by itself.": torch.arange(6),
            "these are the last images of each class: take the first.": torch.tensor([4, 5, 6, 7, 8, 9]),
            "these are labels: return the indices of the images.": torch.tensor([2, 2, 7, 7, 9, 9]),
            "this is a mask with one entry an image: nonzero() turns it into indices.": (
                torch.tensor([1, 1, 1, 1, 0, 1, 1, 0, 0, 0])
            ),
        },
    )


def check_8_4(answer: Callable[..., Any]) -> None:
    """Judge `is_wrong(estimate, images, labels)` by handing it right and wrong estimators of F."""
    images, labels = _numbers(12, 3), torch.arange(12) % 2
    weight = _numbers(2, 3, seed=1)

    def gradients(x: Tensor, y: Tensor) -> Tensor:
        slopes = (x @ weight.T).softmax(1) - torch.eye(2, dtype=torch.float64)[y]
        return slopes[:, :, None] * x[:, None, :]  # (images, 2, 3)

    def squares(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.cat([gradients(x, y) for x, y in pairs]).square().mean(0)

    def rounded(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return squares(pairs[::-1]) * (1 + 1e-7 * len(pairs[0][1]))

    def batch_means(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.stack([gradients(x, y).mean(0).square() for x, y in pairs]).mean(0)

    def whole_sum(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        g = torch.cat([gradients(x, y) for x, y in pairs])
        return g.sum(0).square() / len(g)

    def whole_mean(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.cat([gradients(x, y) for x, y in pairs]).mean(0).square()

    def scaled(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        return 1000 * squares(pairs)

    estimators = [squares, rounded, scaled, batch_means, whole_sum, whole_mean]
    verdicts = [_ask(answer, estimate, images.clone(), labels.clone()) for estimate in estimators]
    problem = next((v for v in verdicts if v is None or v is ... or isinstance(v, Exception)), False)
    if problem is not False:
        _judge(problem, True, "", {})
        return
    found = "".join(str(int(bool(v))) if isinstance(v, bool | Tensor) and _same_size(v) else "?" for v in verdicts)
    _judge(
        found,
        "000111",
        "one comparison finds both mistakes, and leaves right code alone.",
        {
            "return a single True or False for each estimator.": found if "?" in found else "",
            "True and False are the wrong way round: True for wrong code.": "111000",
            "it never fires: the square of the batch mean passes as right.": "000000",
            "it fires at everything, at right code too.": "111111",
            "it finds the square of the batch mean, but not the square of the sum over all images.": "000100",
            "the squares of sums over all images are found, but not that of the batch mean.": "000011",
            "it fires at right code whose last digits differ: compare with a tolerance.": "010111",
            "it asks how large F is: right code with another scale is still right.": "001111",
            "the detector misses some wrong code or fires at right code: compare one batch of all images with the "
            "mean over batches of one.": found,
        },
    )


def _same_size(value: bool | Tensor) -> bool:
    """Whether a verdict is one value."""
    return not isinstance(value, Tensor) or value.numel() == 1


def check_8_5(answer: str | list[str] | tuple[str, ...] | None) -> None:
    """Judge three diagnoses: same weights at every λ, F that shrinks with the batch, harm though no weight moved."""
    letters = "".join(map(str, answer)) if isinstance(answer, list | tuple) else answer
    _judge(
        "".join(letters.replace(",", " ").split()).lower() if isinstance(letters, str) else letters,
        "cba",
        "a λ without effect, an F that depends on the batch size, and a state that is no weight.",
        {
            "a missing ½ doubles λ, but λ still has an effect: in 1 it has none.": "dba",
            "a missing ½ is a factor of 2 whatever the batch size: in 2 it grows with the batch.": "cda",
            "3: the ½ changes how strongly weights are held, but there they did not move at all.": "cbd",
            "1 and 2 are exchanged: a penalty of zero does not ask for twice the λ.": "bca",
            "1 and 3 are exchanged: drifting statistics do not make λ useless.": "abc",
            "2 and 3 are exchanged: what changes although no weight moves?": "cab",
        },
    )


# ---- notebook 09 -----------------------------------------------------------------------------------------------------


def check_9_1(answer: Callable[..., Any]) -> None:
    """Judge `protected_step(model, images, labels, optimizer, ewc)` by where one step of descent leads."""
    images, labels, model, ewc = _numbers(6, 4), torch.arange(6) % 3, nn.Linear(4, 3, dtype=torch.float64), EWC(2)
    parameters = dict(model.named_parameters())
    for k, p in enumerate(parameters.values()):
        p.data, p.grad = _numbers(*p.shape, seed=k), torch.full_like(p, 0.5)  # of an earlier step
    stars = {name: _numbers(*p.shape, seed=3) for name, p in parameters.items()}
    ewc.add({name: _numbers(*p.shape, seed=5).square() for name, p in parameters.items()}, stars)
    loss, penalty = cross_entropy(model(images), labels), ewc.penalty(model)
    data, pull = (_flat(torch.autograd.grad(value, list(parameters.values()))) for value in (loss, penalty))
    before = _flat(p.detach() for p in parameters.values())
    optimizer = torch.optim.SGD(parameters.values(), lr=1)
    returned = _ask(answer, model, images, labels, optimizer, ewc)
    after, expected = _flat(p.detach() for p in parameters.values()), before - data - pull
    if isinstance(returned, Exception) or (returned is None and _same(after, before)):
        _judge(returned, expected, "", {})
    elif _same(after, expected) and not (_same(returned, loss) or _same(returned, loss + penalty)):
        print("Not yet: the weights are right, but what is returned is not the loss.")
    else:
        mistakes = {
            "no weight has moved: step() must come when the gradients are there, before zero_grad().": before,
            "the penalty had no effect: zero_grad() wiped it out, or add_gradient came after step().": before - data,
            "the loss had no effect: zero_grad() came after backward(), or backward() is missing.": before - pull,
            "gradients of an earlier step are still in it: zero_grad() comes before backward().": expected - 0.5,
            "gradients of an earlier step are still in it, and the penalty is not.": before - data - 0.5,
            "the penalty is in it twice: ewc.penalty or ewc.add_gradient, not both.": expected - pull,
        }
        _judge(after, expected, "the loss's gradient and the penalty's meet in .grad; the step uses both.", mistakes)


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """All numbers of several tensors in one row."""
    return torch.cat([t.flatten() for t in tensors])


def check_9_2(answer: Callable[..., Any]) -> None:
    """Judge `train_but_keep_statistics(model)` by the layers that are in eval() mode afterwards."""
    inner = nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), inner).eval()
    returned = _ask(answer, model)
    layers = (model[1], model[2], inner[2], inner[3])
    resting = " ".join(type(layer).__name__ for layer in layers if not layer.training)
    if returned is None and len(resting.split()) < len(layers):
        print("Not yet: the modes have changed, but nothing is returned: return the model.")
    elif returned is None or isinstance(returned, Exception):
        _judge(returned, "", "", {})
    elif returned is not model:
        print(f"Not yet: return the model that was given, changed in place, not {type(returned).__name__}.")
    elif not all(p.requires_grad for p in model.parameters()):
        print("Not yet: some weights are frozen: only the mode should change, their weights may still learn.")
    else:
        mistakes = {
            "everything is in eval() mode: begin with model.train().": "BatchNorm2d Dropout BatchNorm1d Dropout",
            "everything is in train() mode, so the statistics drift: train() comes before the loop.": "",
            "the batch-norm layer further down was missed: model.modules() goes to every depth.": "BatchNorm2d",
            "BatchNorm2d was missed: isinstance takes a tuple of both types.": "BatchNorm1d",
            "this is the wrong way round: batch-norm belongs into eval(), the others into train().": "Dropout Dropout",
            f"these layers are in eval() mode: {resting}.": resting,
        }
        right = "the statistics stay, dropout works, and EWC holds the weights."
        _judge(resting, "BatchNorm2d BatchNorm1d", right, mistakes)


def check_9_3(answer: Callable[..., Any]) -> None:
    """Judge `grow_rows(precision, center, weight)`, eq. (9.4): three rows become five. μ may end in anything."""
    precision, center, weight = _numbers(3, 4).square(), _numbers(3, 4, seed=1), _numbers(5, 4, seed=2)
    found = _ask(answer, precision.clone(), center.clone(), weight.clone())
    if found is None or found is ... or isinstance(found, Exception):
        _judge(found, 0, "", {})
        return
    if not isinstance(found, tuple | list) or len(found) != 2:
        print(f"Not yet: return two tensors, S and μ, not {type(found).__name__}.")
        return
    zeros, ones = torch.zeros(2, 4), torch.ones(2, 4)
    expected, mistakes = (
        torch.cat((precision, zeros)),
        {
            "this is S as it was: it needs a row for each row of the larger layer.": precision,
            "the new rows are held with S = 1: A does not know them, so their S is 0.": torch.cat((precision, ones)),
            "the new rows are held like the mean of the old ones: A does not know them, so their S is 0.": torch.cat(
                (precision, precision.mean(0).expand(2, 4))
            ),
            "the new rows come first in S: they stand below the old ones.": torch.cat((zeros, precision)),
            "the old rows have lost their S, so the old classes would be free.": torch.zeros(5, 4),
            "S and μ are exchanged: return S first.": torch.cat((center, weight[3:])),
        },
    )
    given = found[0]
    if _same(given, expected):
        given, expected = _ask(lambda: torch.as_tensor(found[1])), torch.cat((center, weight[3:]))
        mistakes = {
            "μ has too few rows: it needs one for each row of the larger layer.": center,
            "μ of the old rows is θ*, not the weights as they are now.": weight,
            "the new rows come first in μ: they stand below the old ones.": torch.cat(
                (weight[3:], center[:1], weight[3:])
            ),
            "μ of the old rows is lost, so they would be pulled towards zero.": torch.cat((0 * center, weight[3:])),
        }
        if isinstance(given, Tensor) and given.shape == weight.shape and bool(given[3:].isfinite().all()):
            given = torch.cat((given[:3], weight[3:]))  # at S = 0 any μ is right
    _judge(given, expected, "the old rows keep their springs; a spring of strength 0 may end anywhere.", mistakes)


def check_9_4(answer: float | None) -> None:
    """Judge the λ to try after 1, 10, 100 and 1,000, where the last had the best mean."""
    _judge(
        answer,
        10_000,
        "the best so far lies at the edge, so nobody knows yet whether the next is better.",
        {
            "factors of 3 come later: first find a best λ with a worse one on both sides.": 3_000,
            "between 100 and 1,000 is too early: the mean still rises at the edge of the table.": 300,
            "1,000 has the best mean, but it is the largest that was tried: is the next one better still?": 1_000,
            "100 has a mean of 82.5 %, 1,000 has 87.5 %: go on in the direction that improves.": 100,
            "10 has been tried: its mean is 71.5 %, far from the best.": 10,
            "1 has been tried: its mean is 64.5 %, the worst.": 1,
            "this leaps: go on by the same factor as before.": 100_000,
            "compute the mean of each row, and look where the best one stands.": _ask(float, answer),
        },
    )


def check_9_5(answer: str | list[str] | tuple[str, ...] | None) -> None:
    """Judge four diagnoses: penalty 0.0, statistics that drift, competing classes, λ too large under Adam."""
    letters = "".join(map(str, answer)) if isinstance(answer, list | tuple) else answer
    _judge(
        "".join(letters.replace(",", " ").split()).lower() if isinstance(letters, str) else letters,
        "cdba",
        "look at the penalty first: it says whether weights moved, and whether anybody noticed.",
        {
            "1 and 2 are exchanged: with drifting statistics λ has an effect on the weights, but not on the harm.": (
                "dcba"
            ),
            "1: with a λ far too large the old task would stay; here it is lost.": "adbc",
            "3 and 4 are exchanged: only with several classes in one output can masking help.": "cdab",
            "2: θ* that moves along makes the penalty zero, and λ = 10⁹ would not keep the weights in place.": "ccba",
            "4: new classes in a shared output cost the old ones, but the new task itself is learnt.": "cdbb",
            "3: a λ that is too large keeps the new classes from being learnt; here only they are predicted.": "cdaa",
        },
    )
