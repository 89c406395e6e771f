"""The checks of notebook 01: each verdict is reached by the answer that deserves it."""

import pytest
import torch

from contlearn import exercises, load_fashion_mnist, load_mnist

UNANSWERED = [
    (exercises.check_1_1, ...),
    (exercises.check_1_1, None),
    (exercises.check_1_2, lambda images: None),
    (exercises.check_1_3, lambda raw: None),
    (exercises.check_1_4, [..., ..., ...]),
    (exercises.check_1_4, ["domain", None, "task"]),
    (exercises.check_1_4, None),
    (exercises.check_1_5, lambda weight, order: None),
]

RIGHT = [
    (exercises.check_1_1, 4690),
    (exercises.check_1_1, torch.tensor(4690)),
    (exercises.check_1_2, lambda images: int((images == 0).all(dim=0).sum())),
    (exercises.check_1_2, lambda images: (images.amax(0) == 0).sum()),
    (exercises.check_1_3, lambda raw: raw.float() / 255),
    (exercises.check_1_3, lambda raw: raw / 255),
    (exercises.check_1_4, ["domain", "class", "task"]),
    (exercises.check_1_4, ("Domain-incremental", "class-incremental", " TASK ")),
    (exercises.check_1_5, lambda weight, order: weight[:, order]),
    (exercises.check_1_5, lambda weight, order: torch.stack([row[order] for row in weight])),
]

WRONG = [
    (exercises.check_1_1, 938, "that is one epoch"),
    (exercises.check_1_1, 4685, "leaves out the last batch"),
    (exercises.check_1_1, 4687, "drops what is left at the end"),
    (exercises.check_1_1, 4688, "run on into the next epoch: each epoch ends"),
    (exercises.check_1_1, 300_000, "these are images"),
    (exercises.check_1_1, 4000, "expected 4690, got 4000"),
    (exercises.check_1_2, lambda images: (images == 0).any(dim=0).sum(), "in at least one image"),
    (exercises.check_1_2, lambda images: (images.std(0) == 0).sum(), "places that never change"),
    (exercises.check_1_3, lambda raw: raw / raw.max(), "largest byte of the batch"),
    (exercises.check_1_2, lambda images: (images > 0).any(dim=0).sum(), "inked somewhere"),
    (exercises.check_1_2, lambda images: (images == 0).sum(), "zeros of all images together"),
    (exercises.check_1_2, lambda images: (images == 0).all(dim=0).float().mean(), "this is a share"),
    (exercises.check_1_2, lambda images: (images == 0).all(dim=0), "marks the places"),
    (exercises.check_1_2, lambda images: torch.zeros(3), "expected a single number, got a tensor of shape (3,)"),
    (
        exercises.check_1_3,
        lambda raw: (raw // 255) / (raw // 255).amax(dim=(1, 2), keepdim=True),
        "both mistakes are still in it",
    ),
    (exercises.check_1_3, lambda raw: (raw // 255).float(), "rounds down"),
    (exercises.check_1_3, lambda raw: raw // 255, "rounds down"),
    (exercises.check_1_3, lambda raw: raw / raw.amax(dim=(1, 2), keepdim=True), "its own maximum"),
    (exercises.check_1_3, lambda raw: raw / 256, "255, not 256"),
    (exercises.check_1_3, lambda raw: raw.float(), "still run to 255"),
    (exercises.check_1_3, lambda raw: raw[0] / 255, "expected a tensor of shape (4, 28, 28), got a tensor of shape"),
    (exercises.check_1_1, 5 * 60_000 / 64, "though it has only 32 images"),
    (exercises.check_1_4, ["class", "class", "task"], "the apples: no answer is added"),
    (exercises.check_1_4, ["task", "class", "task"], "the apples: nobody tells the camera"),
    (exercises.check_1_4, ["domain", "domain", "task"], "the letters: Greek letters are new"),
    (exercises.check_1_4, ["domain", "task", "task"], "the letters: nobody says which alphabet"),
    (exercises.check_1_4, ["domain", "class", "domain"], "the dictation: Danish words are new"),
    (exercises.check_1_4, ["domain", "class", "class"], "the dictation: the user says"),
    (exercises.check_1_4, ["domain", "klass", "task"], "'klass' is none of the three names"),
    (exercises.check_1_4, "domain", "expected three strings"),
    (exercises.check_1_4, ["domain", "class"], "expected three strings"),
    (exercises.check_1_4, [torch.zeros(2), "class", "task"], "expected three strings"),
    (exercises.check_1_5, lambda weight, order: weight[:, order.argsort()], "the opposite way: column i"),
    (exercises.check_1_5, lambda weight, order: weight[order], "this moves the rows, which"),
    (exercises.check_1_5, lambda weight, order: weight[order.argsort()], "the rows, and the opposite way"),
    (exercises.check_1_5, lambda weight, order: weight, "the matrix is as it was"),
    (exercises.check_1_5, lambda weight, order: weight[:, order].T, "this is transposed"),
    (exercises.check_1_5, lambda weight, order: weight[0], "expected a tensor of shape (12, 12), got a tensor"),
]

RAISING = [exercises.check_1_2, exercises.check_1_3, exercises.check_1_5]


@pytest.mark.parametrize(("check", "answer"), UNANSWERED)
def test_an_untouched_stub_is_not_answered_yet(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out == "not answered yet\n"


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_a_right_answer_is_told_so(check, answer, capsys):
    check(answer)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize(("check", "answer", "verdict"), WRONG)
def test_a_wrong_answer_is_told_its_misconception(check, answer, verdict, capsys):
    check(answer)
    printed = capsys.readouterr().out
    assert printed.startswith("Not yet: ")
    assert verdict in printed


@pytest.mark.parametrize("check", RAISING)
def test_an_answer_that_raises_is_no_crash(check, capsys):
    def answer(*arguments):
        raise IndexError("out of range")

    check(answer)
    assert capsys.readouterr().out == "Not yet: your code stopped with IndexError: out of range\n"


def test_the_numbers_that_the_second_verdict_states_are_true():
    never_lit = [int((task.train.tensors[0] == 0).all(0).sum()) for task in (load_mnist(), load_fashion_mnist())]
    assert never_lit == [67, 0]
