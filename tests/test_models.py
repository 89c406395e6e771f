"""The MLP against numpy, and checkpoints against interruptions, damage and malice."""

import copy
import io
import os
import pickle
import signal

import numpy as np
import pytest
import torch
from torch import nn

from contlearn import EWC, MLP, Masked, diagonal_fisher, load_checkpoint, save_checkpoint
from contlearn.models import classify, device_of

# ----------------------------------------------------------------------------------------------------------- MLP


def test_parameters_have_the_documented_names_and_shapes():
    """784 → 256 → 256 → 256 → 10, written out by hand: 335,114 numbers."""
    shapes = {name: tuple(p.shape) for name, p in MLP().named_parameters()}
    assert shapes == {
        "hidden1.weight": (256, 784), "hidden1.bias": (256,),
        "hidden2.weight": (256, 256), "hidden2.bias": (256,),
        "hidden3.weight": (256, 256), "hidden3.bias": (256,),
        "output.weight": (10, 256), "output.bias": (10,),
    }  # fmt: skip
    by_hand = (784 + 1) * 256 + (256 + 1) * 256 + (256 + 1) * 256 + (256 + 1) * 10
    assert sum(p.numel() for p in MLP().parameters()) == by_hand == 335_114


@pytest.mark.parametrize(
    ("hidden_size", "hidden_layers", "inputs", "classes"), [(256, 3, 784, 10), (5, 1, 16, 2), (1, 4, 3, 1)]
)
def test_forward_equals_numpy(hidden_size, hidden_layers, inputs, classes):
    """The recursion h ← max(0, W h + b) in float64 numpy, and no ReLU after the last layer."""
    torch.manual_seed(0)
    model = MLP(hidden_size, hidden_layers, inputs, classes).double()
    x = torch.rand(20, inputs, dtype=torch.float64)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    assert len(weights) == 2 * hidden_layers + 2
    h = x.numpy()
    for i in range(1, hidden_layers + 1):
        h = np.maximum(0, h @ weights[f"hidden{i}.weight"].T + weights[f"hidden{i}.bias"])
    expected = h @ weights["output.weight"].T + weights["output.bias"]
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=0, atol=1e-13)


def test_logits_may_be_negative():
    """A ReLU after the last layer would silence classes: here most images have logits of both signs."""
    torch.manual_seed(0)
    logits = MLP()(torch.rand(50, 28, 28))
    assert logits.shape == (50, 10)
    assert bool((logits < 0).any(1).all())
    assert bool((logits > 0).any(1).all())


def test_images_may_come_flat_or_square():
    """(N, 28, 28), (N, 1, 28, 28) and (N, 784) hold the same numbers."""
    model, x = MLP(hidden_size=8), torch.rand(3, 28, 28)
    assert torch.equal(model(x), model(x.flatten(1)))
    assert torch.equal(model(x), model(x[:, None]))


def test_an_empty_batch_gives_no_logits():
    """As torch's own layers do."""
    assert MLP(hidden_size=8)(torch.rand(0, 28, 28)).shape == (0, 10)


@pytest.mark.parametrize("name", ["hidden_size", "hidden_layers", "inputs", "classes"])
@pytest.mark.parametrize("size", [0, -3])
def test_sizes_below_one_are_refused(name, size):
    """The message names the argument and its value."""
    with pytest.raises(ValueError, match=f"{name}={size}: an MLP needs at least one"):
        MLP(**{name: size})


@pytest.mark.parametrize("shape", [(5, 27, 28), (28, 28), (784,), (5, 3, 28, 28), ()])
def test_images_of_another_size_are_refused(shape):
    """What it takes, the shape that came, and the hint that the first dimension counts."""
    found = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"takes 784 numbers an image, got a batch of shape {found}; the first dimen"):
        MLP()(torch.rand(shape))


# -------------------------------------------------------------------------------------------------------- Masked


def masked(classes):
    """A linear classifier of five classes, the same at each call, that may answer with some of them."""
    torch.manual_seed(0)
    model = nn.Linear(4, 5).double()
    return model, Masked(model, iter(classes)), 5 * torch.randn(6, 4, dtype=torch.float64)


@pytest.mark.parametrize("classes", [[3, 1], [3, 1, 3], {4}, range(5)], ids=str)
def test_the_other_classes_have_no_probability_at_all(classes):
    """Exactly zero, in single precision, too; the logits of its own classes are the model's."""
    model, answering, x = masked(classes)
    own, others = sorted(set(classes)), sorted({0, 1, 2, 3, 4} - set(classes))
    logits = answering(x)
    assert torch.equal(logits[:, own], model(x)[:, own])
    assert (logits[:, others] == -1e9).all()
    torch.testing.assert_close(logits.softmax(1)[:, own], model(x)[:, own].softmax(1))
    for each in (logits, answering.float()(x.float()), answering.bfloat16()(x.bfloat16())):
        assert not each.softmax(1)[:, others].any()
        assert set(each.argmax(1).tolist()) <= set(own)
        assert each.isfinite().all()


def test_the_mask_is_finite_in_half_precision():
    """−10⁹ is beyond float16, whose smallest number takes its place."""
    _, answering, x = masked([1, 3])
    logits = answering.half()(x.half())
    assert logits.isfinite().all()
    assert (logits[:, [0, 2, 4]] == torch.finfo(torch.float16).min).all()


def test_the_other_classes_learn_nothing():
    """The gradient of the loss is zero in their rows, and elsewhere that of a classifier with the other rows alone."""
    model, answering, x = masked([1, 3])
    nn.functional.cross_entropy(answering(x), torch.tensor([1, 3, 3, 1, 1, 3])).backward()
    assert not model.weight.grad[[0, 2, 4]].any()
    assert not model.bias.grad[[0, 2, 4]].any()
    two = model.weight.detach()[[1, 3]].requires_grad_()
    logits = x @ two.T + model.bias.detach()[[1, 3]]
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0, 0, 1])).backward()
    torch.testing.assert_close(model.weight.grad[[1, 3]], two.grad)


@pytest.mark.parametrize("estimator", ["exact", "empirical", "predicted"])
def test_the_fisher_of_a_masked_model_is_that_of_its_own_classes(estimator):
    """By hand: the same classifier with only those rows; zeros in the others."""
    model, answering, x = masked([1, 3])
    two = nn.Linear(4, 2).double()
    two.load_state_dict({name: value[[1, 3]] for name, value in model.state_dict().items()})
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    found = diagonal_fisher(answering, [(x, 2 * labels + 1)], estimator)
    assert list(found) == ["model.weight", "model.bias"]
    for name, expected in diagonal_fisher(two, [(x, labels)], estimator).items():
        torch.testing.assert_close(found[f"model.{name}"][[1, 3]], expected, rtol=1e-12, atol=0)
        assert not found[f"model.{name}"][[0, 2, 4]].any()


def test_the_model_inside_is_shared():
    """Two masks over one model see the same weights, under the same names."""
    model, first, x = masked([0, 1])
    second = Masked(model, range(2, 5))
    with torch.no_grad():
        first.model.bias += 7
    assert torch.equal(second(x)[:, 2:], model(x)[:, 2:])
    assert [name for name, _ in first.named_parameters()] == [name for name, _ in second.named_parameters()]
    ewc = EWC(1)
    ewc.consolidate(first, [(x, torch.zeros(6, dtype=torch.int64))])
    assert ewc.penalty(second).item() == 0


def test_a_mask_without_classes_is_refused():
    """At once, not when it is first called."""
    with pytest.raises(ValueError, match=r"classes is empty: name the labels .* such as task.classes"):
        Masked(nn.Linear(4, 5), [])


@pytest.mark.parametrize("classes", [[5], [0, 5], [-1, 2]], ids=str)
def test_a_class_without_a_logit_is_refused(classes):
    """When the model is called: before, how many logits it has is not known."""
    with pytest.raises(ValueError, match=r"classes=\[.*\]: the model has logits for 0 to 4 only"):
        masked(classes)[1](torch.rand(2, 4, dtype=torch.float64))


# ------------------------------------------------------------------------------------------ device_of, classify


def test_device_of_finds_the_one_device():
    """Also where parameters have no memory."""
    assert device_of(nn.Linear(2, 2)).type == "cpu"
    assert device_of(nn.Linear(2, 2, device="meta")).type == "meta"


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")), r"\['cpu', 'meta'\]"),
        (nn.ReLU(), "none"),
    ],
)
def test_device_of_refuses_several_devices_and_none(model, found):
    """The devices that were found."""
    with pytest.raises(ValueError, match=f"parameters must be on one device, found {found}"):
        device_of(model)


def test_classify_returns_the_models_own_logits():
    """Nothing is added to the forward pass."""
    model, x = nn.Linear(4, 3), torch.rand(5, 4)
    assert torch.equal(classify(model, x, torch.tensor([0, 1, 2, 0, 1])), model(x))


class Returning(nn.Module):
    """Ignores its input."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, _):
        return self.output


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (torch.zeros(5), r"\(5,\)"),
        (torch.zeros(4, 3), r"\(4, 3\)"),
        (torch.zeros(5, 3, 2), r"\(5, 3, 2\)"),
        ((torch.zeros(5, 3), None), "tuple"),
        ({"logits": torch.zeros(5, 3)}, "dict"),
    ],
)
def test_classify_refuses_what_is_no_matrix_of_logits(output, found):
    """A wrong number of dimensions or rows, or several outputs."""
    with pytest.raises(ValueError, match=rf"must return logits of shape \(5, classes\), got {found}"):
        classify(Returning(output), torch.rand(5, 4), torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(("labels", "run"), [([0, 1, 3], "0 to 3"), ([-1, 0, 1], "-1 to 1"), ([9, 9, 9], "9 to 9")])
def test_classify_refuses_labels_without_a_logit(labels, run):
    """The labels' range and the one that would be right."""
    message = f"labels run from {run}, but the model has 3 logits: labels must be 0 to 2"
    with pytest.raises(ValueError, match=message):
        classify(nn.Linear(4, 3), torch.rand(3, 4), torch.tensor(labels))


# --------------------------------------------------------------------------------------------------- checkpoints


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained_parts(seed):
    """A model, an optimiser with momentum, and an EWC, each with a state worth saving."""
    torch.manual_seed(seed)
    model = MLP(4, 1, 6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * seed, momentum=0.9)
    x, y = torch.rand(8, 6), torch.arange(8) % 3
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    ewc = EWC(10 * seed)
    ewc.consolidate(model, [(x, y)])
    optimizer.step()
    return model, optimizer, ewc


def continue_training(model, optimizer, ewc):
    """Two more steps with the penalty; where they lead depends on every number of all three states."""
    for _ in range(2):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(torch.ones(3, 6)), torch.arange(3)) + ewc.penalty(model)).backward()
        optimizer.step()
    return weights(model)


def test_a_round_trip_continues_where_it_stopped(tmp_path):
    """Model, momentum and EWC saved, loaded into fresh ones, and trained on: bit for bit the same weights."""
    parts = trained_parts(seed=1)
    path = tmp_path / "new folder" / "run.pt"
    save_checkpoint(path, **dict(zip(("model", "optimizer", "ewc"), parts, strict=True)))
    fresh = trained_parts(seed=2)
    assert not torch.equal(weights(fresh[0]), weights(parts[0]))
    load_checkpoint(str(path), **dict(zip(("model", "optimizer", "ewc"), fresh, strict=True)))
    assert torch.equal(weights(fresh[0]), weights(parts[0]))
    assert torch.equal(fresh[2].penalty(fresh[0]), parts[2].penalty(parts[0]))
    assert torch.equal(continue_training(*fresh), continue_training(*parts))


def test_some_parts_may_be_loaded_alone(tmp_path):
    """The model only, from a file with three parts."""
    model, optimizer, ewc = trained_parts(seed=1)
    save_checkpoint(tmp_path / "run.pt", model=model, optimizer=optimizer, ewc=ewc)
    other = MLP(4, 1, 6, 3)
    load_checkpoint(tmp_path / "run.pt", model=other)
    assert torch.equal(weights(other), weights(model))


def test_a_checkpoint_is_as_readable_as_any_new_file(tmp_path):
    """Other users may read it where they may read what `open` writes."""
    (tmp_path / "plain").write_bytes(b"")
    save_checkpoint(tmp_path / "run.pt", model=nn.Linear(1, 1))
    assert (tmp_path / "run.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of one small model, alone in its folder, and that model."""
    torch.manual_seed(0)
    model = MLP(4, 1, 6, 3)
    save_checkpoint(tmp_path / "run.pt", model=model)
    return tmp_path / "run.pt", model


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_a_failed_save_leaves_the_old_file_and_no_scratch(saved, monkeypatch, error):
    """The write stops after half of the bytes; the error passes through."""
    path, _ = saved
    before, real_save = path.read_bytes(), torch.save

    def half(state, target):
        whole = io.BytesIO()
        real_save(state, whole)
        (target.write if hasattr(target, "write") else target.write_bytes)(whole.getvalue()[: whole.tell() // 2])
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises((KeyboardInterrupt, OSError)):
        save_checkpoint(path, model=nn.Linear(2, 2))
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is open")
def test_a_new_save_replaces_the_file_at_once(saved):
    """Whoever has the old file open reads it to its end: it is exchanged as a whole, not written over."""
    path, _ = saved
    before = path.read_bytes()
    with path.open("rb") as reader:
        save_checkpoint(path, model=nn.Linear(2, 2))
        assert reader.read() == before
    assert path.read_bytes() != before


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_killed_save_leaves_the_old_file_loadable(saved, start_python):
    """A real process dies by SIGKILL when half of the new checkpoint is on the disk."""
    path, model = saved
    process = start_python(
        "import io, os, signal, sys, torch, contlearn\n"
        "real_save = torch.save\n"
        "def half(state, target):\n"
        "    whole = io.BytesIO()\n"
        "    real_save(state, whole)\n"
        "    file = target if hasattr(target, 'write') else open(target, 'wb')\n"
        "    file.write(whole.getvalue()[: whole.tell() // 2])\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "torch.save = half\n"
        "contlearn.save_checkpoint(sys.argv[1], model=contlearn.MLP(4, 1, 6, 3))\n",
        path,
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2, "it died before or after the write, not in its middle"
    other = MLP(4, 1, 6, 3)
    load_checkpoint(path, model=other)
    assert torch.equal(weights(other), weights(model))


class Malicious:
    """A pickle that runs a command when it is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))])
def test_a_malicious_file_is_refused_and_not_run(tmp_path, save):
    """In torch's own format and as a bare pickle; that the pickle is live is shown with `weights_only=False`."""
    trace, path = tmp_path / "executed", tmp_path / "run.pt"
    save({"model": Malicious(trace)}, path)
    with pytest.raises(ValueError, match=r"run.pt is damaged or no checkpoint: "):
        load_checkpoint(path, model=MLP(4, 1, 6, 3))
    assert not trace.exists()
    with path.open("rb") as file:
        torch.load(file, weights_only=False) if save is torch.save else pickle.load(file)
    assert trace.exists()


def test_a_missing_file_is_named(tmp_path):
    """And how to get one."""
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*run.pt: check the path, or write one with"):
        load_checkpoint(tmp_path / "run.pt", model=MLP())


@pytest.mark.parametrize("keep", [0, 10, 700, -1])
def test_a_truncated_file_is_named_and_the_model_unchanged(saved, keep):
    """Cut at the start, within the header, in the middle, and by a single byte."""
    path, model = saved
    before = weights(model).clone()
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"run.pt is damaged or no checkpoint"):
        load_checkpoint(path, model=model)
    assert torch.equal(weights(model), before)


def test_a_part_that_is_not_there_is_named_before_any_is_loaded(saved):
    """The parts that are there, and a model that keeps its weights."""
    path, _ = saved
    other = MLP(4, 1, 6, 3)
    before = weights(other).clone()
    with pytest.raises(ValueError, match=r"run.pt holds no part 'ewc', only \['model'\]"):
        load_checkpoint(path, model=other, ewc=EWC(1))
    assert torch.equal(weights(other), before)


def test_a_bare_tensor_is_no_checkpoint(tmp_path):
    """A file that torch reads, but that save_checkpoint did not write."""
    torch.save(torch.zeros(2), tmp_path / "run.pt")
    with pytest.raises(ValueError, match="holds no part 'model', only Tensor"):
        load_checkpoint(tmp_path / "run.pt", model=MLP())


def test_another_architecture_is_refused_with_torchs_own_words(saved):
    """The parameter's name and both shapes."""
    with pytest.raises(RuntimeError, match=r"(?s)size mismatch for hidden1.weight.*\[4, 6\].*\[5, 6\]"):
        load_checkpoint(saved[0], model=MLP(5, 1, 6, 3))


def test_a_models_state_is_no_ewc(saved):
    """The EWC refuses it and stays as it was."""
    ewc = trained_parts(seed=1)[2]
    before = copy.deepcopy(ewc.state_dict())
    torch.save({"ewc": MLP(4, 1, 6, 3).state_dict()}, saved[0])
    with pytest.raises(ValueError, match="this is no state_dict of an EWC: KeyError"):
        load_checkpoint(saved[0], ewc=ewc)
    after = ewc.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before["center"][name], after["center"][name]) for name in before["center"])
    assert (before["tasks"], before["importance"]) == (after["tasks"], after["importance"]) == (1, 10)


def test_no_part_is_loaded_unless_all_are(tmp_path):
    """The EWC in the file is damaged: the model keeps its weights, and so do all other parts."""
    model, ewc = MLP(4, 1, 6, 3), EWC(1)
    ewc.consolidate(model, [(torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1]))], progress=False)
    save_checkpoint(tmp_path / "run.pt", model=model, ewc=ewc)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    saved["ewc"]["precision"]["output.bias"][0] = -1
    torch.save(saved, tmp_path / "run.pt")
    other, protection = MLP(4, 1, 6, 3), EWC(7)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match="F must be finite and not negative"):
        load_checkpoint(tmp_path / "run.pt", model=other, ewc=protection)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert (protection.importance, protection.tasks) == (7, 0)
