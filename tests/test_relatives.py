"""EWC's relatives against plain autograd, and their loop against the library's."""

import copy

import pytest
import torch
from relatives import Part, Path, Teacher, batches, learn, output_gradients, split_parts
from relatives import test as accuracy_of
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.utils.data import TensorDataset

from contlearn import EWC, MLP, Task, train


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MLP(hidden_size=8, hidden_layers=2, inputs=16, classes=6)


@pytest.fixture
def part(toy):
    return Part(toy, range(0, 4), range(0, 4))


def one_by_one(model, part, score, power):
    """The mean over images of |∂ score / ∂θ|^power, one backward pass an image."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    images, labels = part.task.train.tensors
    for x, y in zip(images, labels, strict=True):
        z = model(x[None])[:, part.active.start : part.active.stop]
        gradients = torch.autograd.grad(score(z, y[None]), list(model.parameters()))
        for sum_, gradient in zip(total.values(), gradients, strict=True):
            sum_ += gradient.abs() ** power / len(images)
    return total


@pytest.mark.parametrize(
    ("kind", "power", "score"),
    [
        ("outputs", 1, lambda z, y: z.square().sum()),
        ("reversed", 2, lambda z, y: cross_entropy(-z, y)),
        ("labels", 2, cross_entropy),
    ],
)
def test_the_closed_form_is_autograd_image_by_image(model, part, kind, power, score):
    found = output_gradients(model, part, power, kind)
    expected = one_by_one(model, part, score, power)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-8)


def test_an_unknown_kind_is_refused(model, part):
    with pytest.raises(ValueError, match="expected 'outputs', 'reversed' or 'labels'"):
        output_gradients(model, part, 1, "logits")


def test_work_along_the_path_is_the_drop_of_the_loss(model, part):
    """Whole-batch descent in small steps: Σ_i ω_i is what the loss has lost, the path integral of its gradient."""
    images, labels = part.task.train.tensors
    path, before = Path(model, damping=0.1), cross_entropy(model(images)[:, :4], labels).item()
    sgd = torch.optim.SGD(model.parameters(), lr=0.02)
    learn(model, part, [(0.02, torch.arange(len(labels)))] * 500, sgd, path=path)
    after = cross_entropy(model(images)[:, :4], labels).item()
    work = sum(float(w.sum()) for w in path.work)
    assert before - after > 0.3
    assert work == pytest.approx(before - after, rel=0.02)


def test_importance_along_the_path(model, part):
    path = Path(model, damping=0.1)
    for w in path.work:
        w.fill_(-1)
    path.work[0].fill_(0.2)
    with torch.no_grad():
        model.hidden1.weight += 0.3
    found = path.importance()
    torch.testing.assert_close(found["hidden1.weight"], torch.full_like(model.hidden1.weight, 0.2 / (0.09 + 0.1)))
    assert not found["hidden1.bias"].any()  # negative work
    torch.testing.assert_close(path.importance(clamped=False)["hidden1.bias"], torch.full((8,), -1 / 0.1))


def test_a_teacher_wants_nothing_of_itself_and_pulls_others_back(model, part):
    images = part.task.train.tensors[0]
    groups, rows = [range(0, 2), range(2, 6)], torch.tensor([5, 2, 9])
    teacher = Teacher(model, images, groups, strength=3.0, temperature=2.0)
    assert teacher.loss(model(images[rows]), rows).item() == pytest.approx(0, abs=1e-6)

    other = MLP(hidden_size=8, hidden_layers=2, inputs=16, classes=6)
    new, old = other(images[rows]), model(images[rows])
    expected = sum(
        kl_div(log_softmax(new[:, g] / 2, 1), softmax(old[:, g] / 2, 1), reduction="sum")
        for g in (slice(0, 2), slice(2, 6))
    )
    torch.testing.assert_close(teacher.loss(new, rows), 3 * 4 * expected / len(rows))


@pytest.mark.parametrize("every", [0, 1, 3])
def test_the_loop_is_the_librarys(model, toy, every):
    """With the same batches and the same penalty, `learn` and `contlearn.train` end at the same weights."""
    whole = Part(toy, range(6), range(6))
    ewc = EWC(importance=2.0)
    ewc.add(output_gradients(model, whole, 1, "outputs"), dict(model.named_parameters()))
    other = copy.deepcopy(model)
    order = list(batches(96, 16, [0.1, 0.1], seed=3))
    images, labels = toy.train.tensors
    learn(model, whole, order, torch.optim.SGD(model.parameters(), lr=0.1), ewc, every)
    train(other, [(images[rows], labels[rows]) for _, rows in order], epochs=1, lr=0.1, ewc=ewc, proximal=every)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_epochs_and_steps():
    epochs = list(batches(10, 4, [0.1, 0.01], seed=0))
    assert [rate for rate, _ in epochs] == [0.1, 0.1, 0.1, 0.01, 0.01, 0.01]
    assert [len(rows) for _, rows in epochs] == [4, 4, 2, 4, 4, 2]
    assert sorted(torch.cat([rows for _, rows in epochs[:3]]).tolist()) == list(range(10))
    steps = list(batches(10, 4, [0.1], seed=0, steps=5))
    assert [len(rows) for _, rows in steps] == [4] * 5
    assert len({*torch.cat([rows for _, rows in steps[:2]]).tolist()}) == 8


def test_steps_need_a_whole_batch():
    with pytest.raises(ValueError, match="3 rows do not fill a batch of 4"):
        next(batches(3, 4, [0.1], seed=0, steps=1))


def test_scenarios(toy):
    four = [
        Task(
            f"{k}",
            {2 * k: "a", 2 * k + 1: "b"},
            *(TensorDataset(p.tensors[0], 2 * k + p.tensors[1] % 2) for p in (toy.train, toy.test)),
        )
        for k in range(3)
    ]
    assert [part.active for part in split_parts(four, "task")] == [range(0, 2), range(2, 4), range(4, 6)]
    assert [part.active for part in split_parts(four, "class")] == [range(0, 2), range(0, 4), range(0, 6)]
    assert {part.answers for part in split_parts(four, "class")} == {range(0, 6)}
    domain = split_parts(four, "domain")
    assert {part.active for part in domain} == {range(0, 2)}
    assert set(domain[2].task.train.tensors[1].tolist()) == {0, 1}


def test_only_those_that_may_answer_do(model, toy):
    with torch.no_grad():
        model.output.weight.zero_()
        model.output.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0, 9.0, 0.0]))
    assert accuracy_of(model, Part(toy, range(4), range(6))) == 0  # all are called 4, which is no label
    assert accuracy_of(model, Part(toy, range(4), range(4))) == 0.25  # all are called 1
