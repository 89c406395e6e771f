"""The scripts' sequences on a few hundred images: strength zero is no method, and what is kept is not used up."""

import published
import pytest
import rivals
import torch
from torch.utils.data import TensorDataset

from contlearn import Task, split


@pytest.fixture(scope="module")
def few(mnist):
    """Seventy training and ten test images of each digit."""

    def part(whole, count):
        images, labels = whole.tensors
        rows = torch.cat([(labels == digit).nonzero()[:count, 0] for digit in range(10)])
        return TensorDataset(images[rows], labels[rows])

    return Task("few", mnist.classes, part(mnist.train, 70), part(mnist.test, 10))


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_rivals_of_strength_zero_are_unprotected(few, scenario):
    begun = []  # the first task, shared by all
    scores = {
        method: rivals.split_run(begun, split(few, 2), scenario, method, 0.0, seed=0)["per_task"]
        for method in ("unprotected", "MAS", "SI", "LwF")
    }
    assert len({tuple(score) for score in scores.values()}) == 1
    assert len(begun) == 1
    other = rivals.split_run(begun, split(few, 2), scenario, "MAS", 1e9, seed=0)["per_task"]
    assert other != scores["MAS"]  # λ has an effect


def test_permuted_rivals_of_strength_zero_agree(few):
    begun = []
    scores = [rivals.permuted_run(begun, few, method, 0.0, seed=100)["per_task"] for method in ("SI", "MAS")]
    assert scores[0] == scores[1]
    assert len(scores[0]) == rivals.VALIDATION_TASKS
    assert rivals.permuted_run(begun, few, "MAS", 1e9, seed=100)["per_task"] != scores[0]


def test_all_importances_get_the_mean_of_f(few):
    """Whatever its unit, a method's first task has the mean that F has."""
    part = rivals.Part(few, range(10), range(10))
    torch.manual_seed(0)
    model, means = rivals.MLP(16), []
    path = rivals.Path(model, damping=0.1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    rivals.learn(model, part, rivals.batches(700, 50, [0.1], seed=0), sgd, path=path)
    for method in rivals.ON_WEIGHTS:
        guard = rivals.Guard("two", method, 1.0)
        guard.path = path
        guard.after(model, part)
        means.append(rivals.mean(guard.ewc.quadratic.precision))
    assert means == pytest.approx([means[0]] * len(means), rel=1e-4)


def test_estimators_run_and_the_first_task_is_not_used_up(few, monkeypatch):
    monkeypatch.setattr(published, "STEPS", 6)
    once = published.VanDeVen(few, seed=1)
    unprotected = once.run("none", 0)
    for estimator in published.ESTIMATORS[1:]:
        assert once.run(estimator, 1e9) != unprotected
    assert once.run("none", 0) == unprotected


@pytest.mark.parametrize(("method", "scenario"), list(zip(published.HSU, published.SCENARIOS * 3, strict=False)))
def test_published_methods_run(few, scenario, method):
    scores = published.hsu_run(split(published.padded(few), 2), scenario, method, seed=0)
    assert len(scores["per_task"]) == 5
    assert scores["mean"] == pytest.approx(sum(scores["per_task"]) / 5)


@pytest.mark.parametrize("change", published.HSU_CHANGES)
def test_each_change_runs(few, change):
    how, cases = published.HSU_CHANGES[change]
    scores = published.hsu_run(split(published.padded(few), 2), *cases[0], seed=0, **how)
    assert len(scores["per_task"]) == 5


@pytest.mark.parametrize(
    ("t", "penalised", "anew"), [(1, False, [1]), (1, True, [1, 2]), (2, True, []), (2, False, [2])]
)
def test_adam_counts_the_steps_of_a_head_from_its_first_gradient(t, penalised, anew):
    """A first step of Adam is as long as the learning rate; after many steps without gradient it is 3.16 times that."""
    torch.manual_seed(0)
    heads = published.Heads(4, tasks=3)
    adam = torch.optim.Adam(heads.parameters(), lr=0.001)
    hidden = torch.ones(1, 4)
    for _ in range(3000):
        adam.zero_grad(set_to_none=False)
        heads(hidden)[:, :2].sum().backward()
        adam.step()
    before = [head.bias.detach().clone() for head in heads.each]
    heads.begin(adam, t, penalised)
    adam.zero_grad(set_to_none=False)
    heads(hidden)[:, 2:].sum().backward()
    adam.step()
    for number in (1, 2):
        step = (before[number] - heads.each[number].bias).detach()
        length = 0.001 if number in anew else 0.001 * 0.1 / 0.001**0.5
        torch.testing.assert_close(step, torch.full((2,), length), rtol=0.06, atol=0)


def test_a_penalty_of_either_sign_is_its_loss(few):
    torch.manual_seed(0)
    model = rivals.MLP(4)
    penalty = published.Signed(3.0)
    first, second = ({name: torch.randn_like(p) for name, p in model.named_parameters()} for _ in range(2))
    penalty.add(first, dict(model.named_parameters()))
    for p in model.parameters():
        p.data.add_(torch.randn_like(p))
    penalty.add(second, dict(model.named_parameters()))
    anchor = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.data.add_(torch.randn_like(p))
        p.grad = torch.ones_like(p)
    sums = [first[name] + second[name] for name in first]
    loss = sum((o * (p - a) ** 2).sum() for o, p, a in zip(sums, model.parameters(), anchor, strict=True))
    expected = torch.autograd.grad(3.0 * loss, list(model.parameters()))
    penalty.add_gradient(model)
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, 1 + gradient)


def test_batches_of_mas(few):
    """For one batch that holds everything: the absolute gradient of the mean square."""
    part = published.Part(few, range(2, 5), range(10))
    model = rivals.MLP(16)
    images = few.train.tensors[0][:100]
    small = published.Part(Task("", {}, TensorDataset(images, few.train.tensors[1][:100]), few.test), *part[1:])
    gradients = torch.autograd.grad(model(images)[:, 2:5].square().mean(), list(model.parameters()))
    for found, gradient in zip(published.batch_mas(model, small).values(), gradients, strict=True):
        torch.testing.assert_close(found, gradient.abs())


def test_avalanche_and_domain_run(few, monkeypatch):
    monkeypatch.setattr(published, "STEPS", 3)
    short = published.AVALANCHE._replace(epochs=1)
    assert len(published.permuted_run(few, short, 2, seed=0)["per_task"]) == 2
    assert len(published.permuted_run(few, short._replace(method="SI"), 2, seed=0)["per_task"]) == 2
    for change in published.DOMAIN:
        assert len(published.domain_run(few, change, 1e6, seed=0)["per_task"]) == 5
