"""The checks of notebook 09 accept right answers, name the typical mistakes, and survive anything."""

import pytest
import torch
from exercise_tests import over, verdict
from torch import nn
from torch.nn.functional import cross_entropy


def step_in_order(order):
    """A step whose lines stand in this order: z(ero_grad), b(ackward), a(dd_gradient), s(tep)."""

    def step(model, images, labels, optimizer, ewc):
        loss = cross_entropy(model(images), labels)
        lines = {"z": optimizer.zero_grad, "b": loss.backward, "a": lambda: ewc.add_gradient(model)}
        for letter in order:
            (lines | {"s": optimizer.step})[letter]()
        return loss

    return step


def with_penalty(model, images, labels, optimizer, ewc):
    loss = cross_entropy(model(images), labels) + ewc.penalty(model)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def twice(model, images, labels, optimizer, ewc):
    loss = cross_entropy(model(images), labels) + ewc.penalty(model)
    optimizer.zero_grad()
    loss.backward()
    ewc.add_gradient(model)
    optimizer.step()
    return loss


def keep(model, first=True, types=(nn.BatchNorm1d, nn.BatchNorm2d), last=False):
    model.train(first)
    for module in model.modules():
        if isinstance(module, types):
            module.eval()
    if last:
        model.train()
    return model


def top_only(model):
    model.train()
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    return model


def wrong_way_round(model):
    for module in model.modules():
        module.training = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return model


def one_left(model):
    model.eval()
    model[3][3].train()
    return model


def in_place_only(model):
    keep(model)


def freeze(model):
    for module in keep(model).modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.requires_grad_(False)
    return model


def rows(precision, center, weight, new=0.0):
    extra = torch.full_like(weight[3:], new)
    return torch.cat((precision, extra)), torch.cat((center, weight[3:]))


FUNCTIONS = {"check_9_1": step_in_order("zbas"), "check_9_2": keep, "check_9_3": rows}
VALUES = {"check_9_4": 10_000, "check_9_5": "cdba"}


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("check_9_1", with_penalty),
        ("check_9_1", step_in_order("zabs")),
        ("check_9_1", step_in_order("zbasz")),
        ("check_9_2", lambda model: keep(model, types=nn.modules.batchnorm._BatchNorm)),
        ("check_9_3", lambda s, m, w: [rows(s, m, w)[0], torch.cat((m, torch.zeros_like(w[3:])))]),
        ("check_9_4", 10_000.0),
        ("check_9_4", torch.tensor(1e4)),
        ("check_9_5", " CDBA\n"),
        ("check_9_5", "c, d, b, a"),
        ("check_9_5", ["c", "d", "B", "a "]),
    ],
)
def test_other_right_answers(capsys, check, answer):
    assert verdict(capsys, check, answer).startswith("Right")


MISTAKES = [
    ("check_9_1", "no weight has moved", step_in_order("zba")),
    ("check_9_1", "no weight has moved", step_in_order("bazs")),
    ("check_9_1", "the penalty had no effect", step_in_order("zbs")),
    ("check_9_1", "the penalty had no effect", step_in_order("azbs")),
    ("check_9_1", "the penalty had no effect", step_in_order("zbsa")),
    ("check_9_1", "the loss had no effect", step_in_order("bzas")),
    ("check_9_1", "the loss had no effect", step_in_order("zas")),
    ("check_9_1", "earlier step are still in it: zero_grad()", step_in_order("bas")),
    ("check_9_1", "earlier step are still in it, and", step_in_order("bs")),
    ("check_9_1", "in it twice", twice),
    ("check_9_1", "not the loss", lambda *arguments: step_in_order("zbas")(*arguments) and None),
    ("check_9_1", "not the loss", lambda *arguments: step_in_order("zbas")(*arguments) * 0),
    ("check_9_1", "the largest difference", step_in_order("zbass")),
    ("check_9_2", "begin with model.train()", lambda model: model.eval()),
    ("check_9_2", "statistics drift", lambda model: model.train()),
    ("check_9_2", "statistics drift", lambda model: keep(model, last=True)),
    ("check_9_2", "was missed: model.modules()", top_only),
    ("check_9_2", "was missed: model.modules()", lambda model: keep(model, types=nn.BatchNorm2d)),
    ("check_9_2", "BatchNorm2d was missed", lambda model: keep(model, types=nn.BatchNorm1d)),
    ("check_9_2", "wrong way round", wrong_way_round),
    ("check_9_2", "are frozen", freeze),
    ("check_9_2", "return the model", in_place_only),
    ("check_9_2", "not list", lambda model: [keep(model)]),
    ("check_9_2", "in eval() mode: BatchNorm2d Dropout BatchNorm1d.", one_left),
    ("check_9_3", "a row for each row", lambda s, m, w: (s, m)),
    ("check_9_3", "held with S = 1", lambda s, m, w: rows(s, m, w, 1.0)),
    ("check_9_3", "the mean of the old ones", lambda s, m, w: (torch.cat((s, s.mean(0).expand(2, 4))), w)),
    ("check_9_3", "first in S", lambda s, m, w: (torch.cat((torch.zeros_like(w[3:]), s)), w)),
    ("check_9_3", "lost their S", lambda s, m, w: (torch.zeros_like(w), w)),
    ("check_9_3", "exchanged", lambda s, m, w: rows(s, m, w)[::-1]),
    ("check_9_3", "μ has too few rows", lambda s, m, w: (rows(s, m, w)[0], m)),
    ("check_9_3", "not the weights as they are now", lambda s, m, w: (rows(s, m, w)[0], w)),
    ("check_9_3", "first in μ", lambda s, m, w: (rows(s, m, w)[0], torch.cat((w[3:], m)))),
    ("check_9_3", "towards zero", lambda s, m, w: (rows(s, m, w)[0], torch.zeros_like(w))),
    ("check_9_3", "not Tensor", lambda s, m, w: rows(s, m, w)[0]),
    ("check_9_3", "got a tensor of shape (2, 2)", lambda s, m, w: (torch.ones(2, 2), m)),
    ("check_9_3", "RuntimeError", lambda s, m, w: (rows(s, m, w)[0], object())),
    ("check_9_3", "got str", lambda s, m, w: ("S", "μ")),
    ("check_9_4", "factors of 3 come later", 3_000),
    ("check_9_4", "too early", 300.0),
    ("check_9_4", "the largest that was tried", 1_000),
    ("check_9_4", "go on in the direction", 100),
    ("check_9_4", "10 has been tried", 10),
    ("check_9_4", "1 has been tried", 1),
    ("check_9_4", "this leaps", 100_000),
    ("check_9_4", "compute the mean of each row", 42),
    ("check_9_4", "got str", "more"),
    ("check_9_4", "a single number", torch.ones(2)),
    ("check_9_5", "1 and 2 are exchanged", "dcba"),
    ("check_9_5", "the old task would stay", "adbc"),
    ("check_9_5", "3 and 4 are exchanged", "cdab"),
    ("check_9_5", "2: θ* that moves along", "ccba"),
    ("check_9_5", "4: new classes", "cdbb"),
    ("check_9_5", "3: a λ that is too large", "cdaa"),
    ("check_9_5", "'dddd' is not it", ["d"] * 4),
    ("check_9_5", "Not yet", 3),
]

test_untouched, test_right, test_mistakes_are_named, test_an_answer_that_raises = over(FUNCTIONS, VALUES, MISTAKES)


@pytest.mark.parametrize("near", [9_999, 12_000, torch.tensor(9000.0)])
def test_a_near_miss_is_not_given_the_answer(capsys, near):
    assert "10000" not in verdict(capsys, "check_9_4", near).replace(",", "")
