"""The training loop against a textbook one written out by hand, and what it does when something goes wrong."""

import copy
import json
import math
import re
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from contlearn import EWC, MLP, History, accuracy, train

LR, IMPORTANCE = 0.2, 30.0


def small_model(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return MLP(hidden_size=6, hidden_layers=1, inputs=5, classes=3).to(dtype)


def make_batches(count=7, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    sizes = [8] * (count - 1) + [5]
    return [
        (torch.rand(n, 5, generator=generator).to(dtype), torch.randint(0, 3, (n,), generator=generator)) for n in sizes
    ]


def two_tasks(model):
    """F and θ* of two tasks, made up at random; some weights matter to neither."""
    generator = torch.Generator().manual_seed(2)

    def random(scale):
        return {
            name: scale * torch.rand(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
            for name, p in model.named_parameters()
        }

    tasks = [(random(0.2), random(1)) for _ in range(2)]
    for fisher, _ in tasks:
        fisher["output.bias"].zero_()
    return tasks


def protected(model, importance=IMPORTANCE):
    ewc = EWC(importance)
    for fisher, anchor in two_tasks(model):
        ewc.add(fisher, anchor)
    return ewc


def quadratic(tasks, theta):
    """Σ_k ½ λ Σ_i F_k,i (θ_i − θ*_k,i)², as the formula stands, one sum a task."""
    return sum(
        0.5 * IMPORTANCE * (f[name] * (theta[name] - anchor[name]) ** 2).sum() for f, anchor in tasks for name in theta
    )


def textbook(model, loader, epochs, tasks=(), every=None):
    """SGD in plain autograd: −log softmax by hand, θ ← θ − η ∇, and every k steps the minimiser of a parabola."""
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    steps, losses = 0, []
    for _ in range(epochs):
        losses.append([])
        for x, y in loader:
            h = (x @ theta["hidden1.weight"].T + theta["hidden1.bias"]).clamp(min=0)
            z = h @ theta["output.weight"].T + theta["output.bias"]
            loss = (z.exp().sum(1).log() - z[torch.arange(len(y)), y]).mean()
            losses[-1].append(loss.item())
            objective = loss if every else loss + quadratic(tasks, theta)
            for p, g in zip(theta.values(), torch.autograd.grad(objective, list(theta.values())), strict=True):
                p.data -= LR * g
            steps += 1
            last = steps == epochs * len(loader)
            if every and (steps % every == 0 or last):
                # the θ' where (θ' − θ) / (kη) + λ Σ_k F_k (θ' − θ*_k) = 0
                strength = LR * IMPORTANCE * (steps % every or every)
                for name, p in theta.items():
                    pulled = p.data + strength * sum(f[name] * anchor[name] for f, anchor in tasks)
                    p.data = pulled / (1 + strength * sum(f[name] for f, _ in tasks))
    return theta, [sum(each) / len(each) for each in losses]


def assert_close(model, theta):
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.detach().numpy(), theta[name].detach().numpy(), rtol=0, atol=1e-12, err_msg=name)


def state(model):
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


# ---------------------------------------------------------------------------------------- the loop is the textbook's


def test_plain_training_is_the_textbooks():
    """Weights after 21 steps, and the mean loss of each epoch, in float64 to 1e-12."""
    model, loader = small_model(), make_batches()
    theta, losses = textbook(model, loader, epochs=3)
    history = train(model, loader, epochs=3, lr=LR, progress=False)
    assert_close(model, theta)
    assert history.loss == pytest.approx(losses, abs=1e-12)
    assert history.penalty == []
    assert not history.interrupted


def test_training_with_the_penalty_is_the_textbooks():
    """The gradient of two separate quadratics; the penalty in the history is their sum."""
    model, loader = small_model(), make_batches()
    tasks = two_tasks(model)
    theta, losses = textbook(model, loader, epochs=2, tasks=tasks)
    start = quadratic(tasks, dict(model.named_parameters())).item()
    history = train(model, loader, epochs=2, lr=LR, ewc=protected(model), progress=False)
    assert_close(model, theta)
    assert history.loss == pytest.approx(losses, abs=1e-12)  # without the penalty
    assert len(history.penalty) == 3
    assert history.penalty[0] == pytest.approx(start, rel=1e-12)
    assert history.penalty[-1] == pytest.approx(quadratic(tasks, theta).item(), rel=1e-12)


@pytest.mark.parametrize("every", [True, 1, 2, 3, 7, 14, 100])
def test_proximal_training_is_the_textbooks(every):
    """The closed-form step follows every k of 14 steps with kη, the rest at the end; True is one."""
    model, loader = small_model(), make_batches()
    theta, losses = textbook(model, loader, epochs=2, tasks=two_tasks(model), every=int(every))
    history = train(model, loader, epochs=2, lr=LR, ewc=protected(model), proximal=every, progress=False)
    assert_close(model, theta)
    assert history.loss == pytest.approx(losses, abs=1e-12)


def test_the_closed_form_step_takes_the_sum_of_the_learning_rates_since_the_last():
    """Every third of seven steps an epoch, at another rate in the second epoch: the third takes one of the first."""
    model, loader = small_model(), make_batches()
    student, ewc = copy.deepcopy(model), protected(model)
    optimizer, owed = torch.optim.SGD(student.parameters(), lr=1), 0.0
    for step, rate in enumerate([LR] * 7 + [LR / 10] * 7, start=1):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        x, y = list(loader)[(step - 1) % 7]
        nn.functional.cross_entropy(student(x), y).backward()
        optimizer.step()
        owed += rate
        if step % 3 == 0 or step == 14:
            ewc.proximal_step(student, owed)
            owed = 0.0
    train(model, loader, epochs=2, lr=[LR, LR / 10], ewc=ewc, proximal=3, progress=False)
    assert_close(model, dict(student.named_parameters()))


@pytest.mark.parametrize("rate", [np.float32(0.05), np.float64(0.05), np.full(1, 0.05)], ids=["32", "64", "array"])
def test_the_learning_rate_may_be_numpys(rate):
    model, other, loader = small_model(), small_model(), make_batches()
    train(model, loader, epochs=1, lr=rate, progress=False)
    train(other, loader, epochs=1, lr=float(np.ravel(rate)[0]), progress=False)
    assert_close(model, dict(other.named_parameters()))


@pytest.mark.parametrize("proximal", [False, True, 3])
def test_an_ewc_without_a_task_changes_nothing(proximal):
    """Bit for bit the plain training."""
    plain, model, loader = small_model(), small_model(), make_batches()
    train(plain, loader, epochs=2, lr=LR, progress=False)
    history = train(model, loader, epochs=2, lr=LR, ewc=EWC(IMPORTANCE), proximal=proximal, progress=False)
    assert torch.equal(state(model), state(plain))
    assert history.penalty == [0, 0, 0]


def test_the_same_seed_gives_the_same_training(toy):
    """Weights and history, bit for bit; another order of the images gives others."""
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        model = MLP(8, 1, 16, 4)
        history = train(
            model,
            toy.train_loader(16, seed=seed),
            epochs=2,
            lr=0.5,
            evaluate={"toy": toy.test_loader()},
            progress=False,
        )
        results.append((state(model).tolist(), history))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_evaluating_does_not_alter_the_training(toy):
    """With an unseeded training loader and dropout, which both follow the global generator."""
    found = []
    for evaluate in ({}, {"toy": toy.test_loader(7)}):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 4))
        train(model, toy.train_loader(16), epochs=2, lr=0.5, evaluate=evaluate, progress=False)
        found.append(state(model))
    assert torch.equal(*found)


def test_frozen_parameters_stay_untouched():
    """Also where EWC would pull them: they were frozen away from their anchor, after it was taken."""
    for proximal in (False, True, 3):
        model = small_model()
        ewc = protected(model)
        model.hidden1.requires_grad_(False)
        weight, bias = model.hidden1.weight.clone(), model.hidden1.bias.clone()
        free = model.output.weight.clone()
        train(model, make_batches(), epochs=1, lr=LR, ewc=ewc, proximal=proximal, progress=False)
        assert torch.equal(model.hidden1.weight, weight)
        assert torch.equal(model.hidden1.bias, bias)
        assert not torch.equal(model.output.weight, free)


def test_real_images_are_learnt(mnist):
    """One pass over 6,000 digits: from chance to far above it, loss from ln 10 downwards."""
    torch.manual_seed(0)
    model = MLP(hidden_size=32, hidden_layers=1)
    part = TensorDataset(*(t[:6000] for t in mnist.train.tensors))
    history = train(
        model,
        DataLoader(part, batch_size=60),
        epochs=1,
        lr=0.2,
        evaluate={"MNIST": mnist.test_loader()},
        progress=False,
    )
    assert history.accuracy["MNIST"][0] < 0.3
    assert history.accuracy["MNIST"][1] > 0.8
    assert history.loss[0] < math.log(10)


# -------------------------------------------------------------------------------------------- anyone's loaders


def test_every_kind_of_loader_gives_the_same_training():
    """A list, torch's collating DataLoader, and a generator without a length for one epoch."""
    data = TensorDataset(torch.rand(20, 5), torch.arange(20) % 3)
    by_hand = [(data.tensors[0][n : n + 8], data.tensors[1][n : n + 8]) for n in (0, 8, 16)]
    found = []
    for loader in (by_hand, DataLoader(data, batch_size=8), (batch for batch in by_hand)):
        model = small_model(dtype=torch.float32)
        train(model, loader, epochs=1, lr=LR, progress=False)
        found.append(state(model))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_of_any_integer_type_will_do(dtype):
    """The same training as with int64."""
    plain, model, loader = small_model(), small_model(), make_batches()
    train(plain, loader, epochs=1, lr=LR, progress=False)
    train(model, [(x, y.to(dtype)) for x, y in loader], epochs=1, lr=LR, progress=False)
    assert torch.equal(state(model), state(plain))


def test_a_used_up_generator_is_not_a_second_epoch():
    """A generator is empty after its first pass."""
    with pytest.raises(ValueError, match="the loader is empty"):
        train(small_model(), (batch for batch in make_batches()), epochs=2, lr=LR, progress=False)


def test_a_device_moves_the_model():
    """To the device of that name, batches included."""
    model = small_model()
    train(model, make_batches(), epochs=1, lr=LR, device="cpu", progress=False)
    assert {p.device.type for p in model.parameters()} == {"cpu"}


# ------------------------------------------------------------------------------------------ accuracy and history


def test_accuracy_is_numpys_count():
    """The argmax of numpy logits against labels, over batches of unequal size."""
    model, loader = small_model(), make_batches()
    hits = count = 0
    for x, y in loader:
        h = np.maximum(0, x.numpy() @ model.hidden1.weight.detach().numpy().T + model.hidden1.bias.detach().numpy())
        z = h @ model.output.weight.detach().numpy().T + model.output.bias.detach().numpy()
        hits += int((z.argmax(1) == y.numpy()).sum())
        count += len(y)
    assert count == 53
    assert accuracy(model, loader) == hits / count
    assert 0 < hits < count


def test_accuracy_is_measured_without_dropout():
    """In `eval()` mode dropout is the identity: the same accuracy as of the layers without it."""
    torch.manual_seed(0)
    linear = nn.Linear(5, 3).double()
    dropped = nn.Sequential(nn.Dropout(0.9), linear).train()
    assert accuracy(dropped, make_batches()) == accuracy(linear, make_batches())


def test_history_has_an_entry_before_training_and_one_an_epoch(toy):
    """Its accuracies are those that `accuracy` finds at these moments."""
    torch.manual_seed(0)
    model = MLP(8, 1, 16, 4)
    again = MLP(8, 1, 16, 4)
    again.load_state_dict(model.state_dict())
    evaluate = {"train": toy.train_loader(shuffle=False), "test": toy.test_loader()}
    history = train(model, toy.train_loader(16, seed=0), epochs=9, lr=0.5, evaluate=evaluate, progress=False)
    loader = toy.train_loader(16, seed=0)
    expected = {name: [accuracy(again, test)] for name, test in evaluate.items()}
    for _ in range(9):
        train(again, loader, epochs=1, lr=0.5, progress=False)
        for name, test in evaluate.items():
            expected[name].append(accuracy(again, test))
    assert history.accuracy == expected
    assert len(history.loss) == 9
    assert history.accuracy["test"][-1] > 0.9 > history.accuracy["test"][0]


def test_history_survives_json():
    """What comes back equals what went in, and any JSON reader sees its fields."""
    history = train(
        small_model(), make_batches(), epochs=2, lr=LR, ewc=EWC(1), evaluate={"A": make_batches()}, progress=False
    )
    assert History.from_json(history.to_json()) == history
    fields = json.loads(history.to_json())
    assert fields["accuracy"] == {"A": history.accuracy["A"]}
    assert fields["interrupted"] is False


@pytest.mark.parametrize("training", [True, False])
def test_every_modules_mode_is_restored(training):
    """Also that of a layer whose mode differs from the model's: a frozen batch norm stays frozen."""
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3)).double().train(training)
    model[0].train(not training)
    modes = [module.training for module in model.modules()]
    accuracy(model, make_batches())
    assert [module.training for module in model.modules()] == modes
    train(model, make_batches(), epochs=1, lr=LR, progress=False)
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(ValueError, match="the loader is empty"):
        accuracy(model, [])
    assert [module.training for module in model.modules()] == modes


def test_training_is_done_in_training_mode_and_measuring_is_not():
    """A layer that notes its mode at each call, whatever the mode before."""
    seen = []

    class Noting(nn.Linear):
        def forward(self, x):
            seen.append((len(x), self.training))
            return super().forward(x)

    x, y = torch.rand(4, 5), torch.arange(4) % 3
    train(Noting(5, 3).eval(), [(x, y)], epochs=2, lr=LR, evaluate={"A": [(x[:2], y[:2])]}, progress=False)
    assert seen == [(2, False), (4, True), (2, False), (4, True), (2, False)]


# ------------------------------------------------------------------------------------------------- interruptions


class Interrupted:
    """A loader that Ctrl-C stops: in pass number `when`, after `after` batches."""

    def __init__(self, loader, when, after=0):
        self.loader, self.when, self.after, self.passes = loader, when, after, 0

    def __iter__(self):
        self.passes += 1
        for n, batch in enumerate(self.loader):
            if self.passes == self.when and n == self.after:
                raise KeyboardInterrupt
            yield batch


def test_an_interrupt_keeps_weights_and_history():
    """Stopped after three batches of the second epoch: ten textbook steps, one full epoch in the history."""
    model, loader = small_model(), make_batches()
    theta, _ = textbook(model, [*loader, *loader[:3]], epochs=1)
    evaluate = {"A": make_batches(seed=5)}
    history = train(model, Interrupted(loader, 2, 3), epochs=5, lr=LR, evaluate=evaluate, progress=False)
    assert history.interrupted
    assert_close(model, theta)
    assert (len(history.loss), len(history.accuracy["A"])) == (1, 2)
    assert model.training


@pytest.mark.parametrize("which", ["A", "B"])
def test_an_interrupt_while_measuring_keeps_the_history_even(which):
    """Every list describes the same epochs, wherever in the measurement Ctrl-C comes."""
    evaluate = {"A": make_batches(), "B": make_batches()}
    evaluate[which] = Interrupted(evaluate[which], when=3)
    model = small_model()
    history = train(model, make_batches(), epochs=5, lr=LR, ewc=protected(model), evaluate=evaluate, progress=False)
    assert history.interrupted
    assert {name: len(values) for name, values in history.accuracy.items()} == {"A": 2, "B": 2}
    assert len(history.penalty) == 2
    assert len(history.loss) == 1


def test_an_interrupt_before_the_first_epoch_leaves_the_model_alone():
    """Nothing measured, nothing trained."""
    model = small_model()
    before = state(model)
    history = train(model, make_batches(), epochs=1, lr=LR, evaluate={"A": Interrupted([None], 1)}, progress=False)
    assert history == History({"A": []}, interrupted=True)
    assert torch.equal(state(model), before)


# ------------------------------------------------------------------------------------------------------ explosions


def exploding(model, factor=4.0, offset=1.0):
    """An EWC whose penalty has η·λ·max S = `factor`, with anchors `offset` away from the model's weights."""
    ewc = EWC(IMPORTANCE)
    names = dict(model.named_parameters())
    fisher = {name: torch.full_like(p, factor / (LR * IMPORTANCE)) for name, p in names.items()}
    ewc.add(fisher, {name: p.detach() + offset for name, p in names.items()})
    return ewc


def test_an_explosion_is_explained_and_undone():
    """Epoch, step, η, λ, η·λ·max S and the largest stable λ are in the message; the epoch's first weights are back."""
    model = small_model(dtype=torch.float32)
    ewc = exploding(model)
    before = state(model)
    with pytest.raises(FloatingPointError) as caught:
        train(model, make_batches(400, torch.float32), epochs=2, lr=LR, ewc=ewc, progress=False)
    message = str(caught.value)
    found = re.search(r"epoch 1, step (\d+), with learning rate η = 0.2 and λ = 30: η·λ·max S = 4,.*λ < 15\b", message)
    assert found, message
    assert 1 < int(found[1]) < 200
    assert "proximal=True" in message
    assert torch.equal(state(model), before)
    assert model.training


def test_the_step_named_is_the_first_whose_loss_is_not_finite():
    """A not-a-number put into the 60th of 120 batches of the second epoch; weights go back to the end of the first."""
    loader = make_batches(120)
    model, once = small_model(), small_model()
    train(once, loader, epochs=1, lr=LR, progress=False)

    class Poisoned:
        passes = 0

        def __iter__(self):
            self.passes += 1
            for n, (x, y) in enumerate(loader, start=1):
                yield (x * math.nan if (self.passes, n) == (2, 60) else x), y

    with pytest.raises(FloatingPointError, match=r"epoch 2, step 60, with learning rate η = 0.2\. Lower it"):
        train(model, Poisoned(), epochs=3, lr=LR, progress=False)
    assert torch.equal(state(model), state(once))


def test_the_proximal_step_survives_what_explodes_by_gradient():
    """η·λ·max S = 4 and 4 million: finite, and the pull towards the anchor is felt."""
    for factor in (4, 4e6):
        model = small_model(dtype=torch.float32)
        ewc = exploding(model, factor)
        history = train(
            model, make_batches(400, torch.float32), epochs=1, lr=LR, ewc=ewc, proximal=True, progress=False
        )
        assert bool(state(model).isfinite().all())
        assert history.penalty[1] < 0.1 * history.penalty[0]


def test_not_a_number_with_the_proximal_step_does_not_blame_the_penalty():
    """The advice is to look at the inputs, for the proximal step cannot blow up."""
    model, loader = small_model(), make_batches()
    loader[3] = (loader[3][0] * math.nan, loader[3][1])
    with pytest.raises(FloatingPointError, match=r"step 4,.*look for inputs or weights that are not finite") as caught:
        train(model, loader, epochs=1, lr=LR, ewc=protected(model), proximal=True, progress=False)
    assert "proximal=True" not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "factor", "offset", "step"),
    [
        pytest.param(1, 1e37, 1, 1, id="the objective, at the only step"),
        pytest.param(1, 1.92e39, 0.045, 1, id="the weights, after the only step"),
        pytest.param(60, 3.75, 1, r"\d\d", id="the objective, from the 45th step or so"),
    ],
)
def test_an_explosion_is_noticed_while_the_cross_entropy_is_finite(steps, factor, offset, step):
    """Overflow of the penalty or of the weights alone: the weights before the epoch are back, and nobody goes on."""
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    ewc = exploding(model, factor, offset)
    before = state(model)
    with pytest.raises(FloatingPointError, match=rf"in epoch 1, step {step}, with .*λ = 30: η"):
        train(model, make_batches(steps, torch.float32), epochs=1, lr=LR, ewc=ewc, progress=False)
    assert torch.equal(state(model), before)


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs=0: expected a whole number, at least 1"),
        ({"epochs": -2}, "epochs=-2: expected a whole number"),
        ({"epochs": 1.5}, "epochs=1.5: expected a whole number"),
        ({"epochs": 2.0}, "epochs=2.0: expected a whole number"),
        ({"epochs": math.inf}, "epochs=inf: expected a whole number"),
        ({"lr": 0}, "lr=0: the learning rate must be positive and finite"),
        ({"lr": -0.1}, "lr=-0.1: the learning rate must be positive"),
        ({"lr": math.nan}, "lr=nan: the learning rate must be positive"),
        ({"lr": math.inf}, "lr=inf: the learning rate must be positive and finite"),
        ({"proximal": True}, "proximal=True: expected False, True or every how many steps, together with ewc"),
        ({"proximal": -1, "ewc": EWC(1)}, "proximal=-1: expected False, True or every how many steps"),
        ({"proximal": 1.5, "ewc": EWC(1)}, "proximal=1.5: expected False, True or every how many steps"),
        ({"proximal": math.nan, "ewc": EWC(1)}, "proximal=nan: expected False, True or every how many steps"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings, message):
    """The value, what is right, and a model that was not touched."""
    model = small_model()
    before = state(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        train(model, make_batches(), **({"epochs": 1, "lr": LR, "progress": False} | settings))
    assert torch.equal(state(model), before)


X, Y = torch.rand(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], ValueError, "the loader is empty"),
        ([(X, Y.double())], ValueError, "labels must be integers.*got torch.float64"),
        ([(X, Y[:, None])], ValueError, r"labels must be integers of shape \(4,\)"),
        ([(X, Y + 1)], ValueError, "labels run from 1 to 3, but the model has 3 logits: labels must be 0 to 2"),
        ([(X, Y - 1)], ValueError, "labels run from -1 to 1"),
        ([X], TypeError, "must yield pairs of tensors"),
        ([(X[:, :4], Y)], ValueError, r"this MLP takes 5 numbers an image, got a batch of shape \(4, 4\)"),
        ([(X.half(), Y)], RuntimeError, "same dtype.*Half"),
        ([(X.float(), Y)], RuntimeError, "same dtype.*Float"),
    ],
)
@pytest.mark.parametrize("function", [train, accuracy])
def test_data_that_do_not_fit_are_refused(function, loader, error, message):
    """By training and by measuring alike; another floating-point type is torch's own error."""
    settings = {"epochs": 1, "lr": LR, "progress": False} if function is train else {}
    model = small_model()
    before = state(model)
    with pytest.raises(error, match=message):
        function(model, loader, **settings)
    assert torch.equal(state(model), before)
    assert model.training


class Stream(IterableDataset):
    """Images and labels one by one, how many nobody knows."""

    def __iter__(self):
        yield from zip(X, Y, strict=True)


def test_a_loader_that_does_not_know_its_length():
    known, unknown = small_model(), small_model()
    train(known, [(X[:2], Y[:2]), (X[2:], Y[2:])], epochs=2, lr=LR, progress=False)
    train(unknown, DataLoader(Stream(), batch_size=2), epochs=2, lr=LR, progress=False)
    assert torch.equal(state(known), state(unknown))


def test_a_test_set_that_does_not_fit_is_found_before_training():
    """Not only after the first epoch."""
    model = small_model()
    before = state(model)
    with pytest.raises(ValueError, match="labels run from 1 to 3"):
        train(model, make_batches(), epochs=1, lr=LR, evaluate={"A": [(X, Y + 1)]}, progress=False)
    assert torch.equal(state(model), before)


def test_a_model_that_returns_no_logits_is_refused():
    """One number an image, as for regression."""
    model = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)).double()
    with pytest.raises(ValueError, match=r"must return logits of shape \(4, classes\), got \(4,\)"):
        train(model, [(X, Y)], epochs=1, lr=LR, progress=False)


def test_a_model_without_trainable_parameters_is_refused():
    """All frozen, or none at all."""
    with pytest.raises(ValueError, match="no trainable parameter: set requires_grad=True"):
        train(small_model().requires_grad_(False), make_batches(), epochs=1, lr=LR, progress=False)
    with pytest.raises(ValueError, match="must be on one device, found none"):
        train(nn.Flatten(), make_batches(), epochs=1, lr=LR, progress=False)


def test_an_ewc_of_another_model_is_refused_before_training():
    """The first parameter that does not fit, with both shapes."""
    model, other = small_model(), MLP(7, 1, 5, 3).double()
    before = state(model)
    message = r"expected hidden1.weight of shape \(7, 5\), found shape \(6, 5\)"
    for proximal in (False, True):
        with pytest.raises(ValueError, match=message):
            train(model, make_batches(), epochs=1, lr=LR, ewc=protected(other), proximal=proximal, progress=False)
    assert torch.equal(state(model), before)


# ----------------------------------------------------------------------------------------------------- progress bar


class Slow(list):
    """A list of batches that takes a while."""

    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(0.25)
            yield batch


@pytest.mark.parametrize("progress", [True, False])
def test_the_progress_bar_is_on_stderr_and_only_when_asked(capfd, monkeypatch, progress):
    """Standard output stays empty in any case, so that notebooks' outputs are the same in each run."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    train(small_model(), Slow(make_batches(4)), epochs=1, lr=LR, progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("training" in err and "/4" in err) if progress else err == ""


def test_quick_training_shows_no_bar(capfd, monkeypatch):
    """Nothing flickers where there is nothing to wait for."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    train(small_model(), make_batches(), epochs=1, lr=LR)
    assert capfd.readouterr() == ("", "")


def test_a_learning_rate_for_each_epoch_is_that_of_separate_calls():
    """Also with the closed-form step, whose strength follows the rates of the steps since the last one."""
    data = make_batches()
    for proximal in (False, True, len(data)):  # that no step is left over at the end of an epoch
        one, two = small_model(), small_model()
        train(one, data, epochs=2, lr=[LR, LR / 10], ewc=protected(one), proximal=proximal, progress=False)
        ewc = protected(two)
        for rate in (LR, LR / 10):
            train(two, data, epochs=1, lr=rate, ewc=ewc, proximal=proximal, progress=False)
        assert torch.equal(state(one), state(two))


@pytest.mark.parametrize("lr", [[0.1], [0.1, 0.1, 0.1], [0.1, 0.0], [0.1, float("nan")]])
def test_learning_rates_that_do_not_fit_the_epochs_are_refused(lr):
    with pytest.raises(ValueError, match="one for each epoch"):
        train(small_model(), make_batches(), epochs=2, lr=lr, progress=False)
