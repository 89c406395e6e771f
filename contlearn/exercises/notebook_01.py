"""The checks behind the exercises of notebook 01."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from contlearn.exercises.judging import ask, judge, numbers, same


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
    judge(answer, 5 * 938, "five times 938 batches, 937 of 64 images and one of 32.", mistakes)


def check_1_2(answer: Callable[[Tensor], Any]) -> None:
    """Judge a function that counts the places that are zero in every image."""
    images = (numbers(6, 28, 28) - 0.2).clamp(min=0) / 5
    images[:, :2] = 0
    images[:, 2] = 0.25  # never changes, but is no zero
    zero = images == 0
    mistakes = {
        "this counts places that are 0 in at least one image: it should be all of them.": zero.any(0).sum(),
        "this counts the places that never change: they may be inked in every image.": (images.std(0) == 0).sum(),
        "these are the places that are inked somewhere: you want the others.": (~zero.all(0)).sum(),
        "this counts the zeros of all images together: a place counts once, if it is 0 in every image.": zero.sum(),
        "this is a share: count the places.": zero.all(0).double().mean(),
        "this marks the places, shape (28, 28): now count them.": zero.all(0),
    }
    right = (
        "67 of MNIST's 784 places are 0 in all 60,000 training images, none of Fashion-MNIST's. "
        "The weights behind those 67 stay as they were drawn while MNIST is learnt."
    )
    judge(ask(answer, images), zero.all(0).sum(), right, mistakes)


def check_1_3(answer: Callable[[Tensor], Any]) -> None:
    """Judge a conversion of bytes to floats in [0, 1], eq. (1.1)."""
    raw = (numbers(4, 28, 28).abs() * 50).clamp(max=200).to(torch.uint8)
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
    given = ask(answer, raw.clone())
    if isinstance(given, Tensor) and given.is_floating_point():
        given = torch.nan_to_num(given, -1)
    pale = raw.clamp(max=200)  # a batch without a full byte
    if same(given, exact / 255) and not same(ask(answer, pale.clone()), pale.double() / 255):
        print("Not yet: this divides by the largest byte of the batch, so what a byte means changes: take 255.")
        return
    judge(given, exact / 255, "every byte divided by 255, the same for all images.", mistakes)


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
    weight, order = numbers(12, 12, seed=1), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    mistakes = {
        "this moves the columns the opposite way: column i must meet pixel π(i).": weight[:, order.argsort()],
        "this moves the rows, which are the layer's units: the pixels are the columns.": weight[order],
        "this moves the rows, and the opposite way: the pixels are the columns.": weight[order.argsort()],
        "the matrix is as it was: column i still waits for the old pixel i.": weight,
        "this is transposed: rows stay units, columns stay pixels.": weight[:, order].T,
    }
    right = "W'_ji = W_jπ(i). The permuted task has a network just as good, so it is new, but not harder."
    judge(ask(answer, weight.clone(), order.clone()), weight[:, order], right, mistakes)
