"""The same numbers on a GPU as on the CPU; skipped where there is none."""

import pytest
import torch

from contlearn import EWC, MLP, accuracy, diagonal_fisher, kronecker_fisher, load_checkpoint, save_checkpoint, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

DEVICE = "cuda"


def small_model(device):
    torch.manual_seed(0)
    return MLP(8, 2, 16, 4).double().to(device)


def doubled(task, device):
    """The task's batches in float64, so that only the order of the sums differs between devices."""
    return [(x.double().to(device), y.to(device)) for x, y in task.train_loader(16, shuffle=False)]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.device.type == "cuda"
        torch.testing.assert_close(value.cpu(), expected[name], rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("estimator", ["exact", "empirical", "predicted"])
def test_fisher_on_the_gpu_equals_the_cpus(toy, estimator):
    """In float64, for each estimator that draws nothing."""
    expected = diagonal_fisher(small_model("cpu"), doubled(toy, "cpu"), estimator)
    assert_same(diagonal_fisher(small_model(DEVICE), doubled(toy, DEVICE), estimator), expected)


def test_fisher_of_a_recurrent_layer_on_the_gpu_equals_the_cpus():
    """In eval() mode cuDNN does not differentiate one."""

    class Recurrent(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.output = torch.nn.GRU(3, 4, batch_first=True), torch.nn.Linear(4, 2)

        def forward(self, sequences):
            return self.output(self.gru(sequences)[0][:, -1])

    torch.manual_seed(0)
    model, x, y = Recurrent().double(), torch.randn(5, 6, 3).double(), torch.tensor([0, 1, 1, 0, 1])
    expected = diagonal_fisher(model, [(x, y)])
    assert_same(diagonal_fisher(model.to(DEVICE), [(x, y)]), expected)


def test_sampled_fisher_takes_a_generator_of_the_gpu(toy):
    """The same seed on the same device gives the same draws."""
    found = [
        diagonal_fisher(
            small_model(DEVICE), doubled(toy, DEVICE), "sample", generator=torch.Generator(DEVICE).manual_seed(3)
        )
        for _ in range(2)
    ]
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name])


@pytest.mark.parametrize("proximal", [None, False, True, 3])
def test_training_on_the_gpu_equals_the_cpus(toy, proximal):
    """Without EWC (None), with its gradient, and with its proximal step: the same weights, history and accuracy."""
    results = {}
    for device in ("cpu", DEVICE):
        model, loader = small_model(device), doubled(toy, device)
        ewc = None
        if proximal is not None:
            ewc = EWC(20)
            ewc.consolidate(model, loader)
        history = train(
            model, loader, epochs=2, lr=0.3, ewc=ewc, proximal=proximal or False, evaluate={"A": loader}, progress=False
        )
        results[device] = dict(model.state_dict()), history
    assert_same(results[DEVICE][0], results["cpu"][0])
    assert results[DEVICE][1].loss == pytest.approx(results["cpu"][1].loss, rel=1e-8)
    assert results[DEVICE][1].penalty == pytest.approx(results["cpu"][1].penalty, rel=1e-6, abs=1e-9)
    assert results[DEVICE][1].accuracy == results["cpu"][1].accuracy


def test_kronecker_factors_on_the_gpu_equal_the_cpus(toy):
    """And so do value, gradient and proximal step, also after a checkpoint and with more rows."""
    factors, results = [], []
    for device in ("cpu", DEVICE):
        model, loader, ewc = small_model(device), doubled(toy, device), EWC(20, structure="kronecker")
        found = kronecker_fisher(model, loader).factors
        factors.append({f"{name} {kind}": getattr(f, kind) for name, f in found.items() for kind in "ag"})
        for _ in range(2):
            ewc.consolidate(model, loader)
        again = EWC(1)
        again.load_state_dict(ewc.state_dict())
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1
        model.output = torch.nn.utils.skip_init(torch.nn.Linear, 8, 6, dtype=torch.float64, device=device)
        for p in model.output.parameters():
            torch.nn.init.constant_(p, 0.3)
        again.grow(model)
        (penalty := again.penalty(model)).backward()
        gradients = {f"{name} gradient": p.grad for name, p in model.named_parameters()}
        again.proximal_step(model, lr=0.1)
        results.append({"penalty": penalty.detach(), **gradients, **model.state_dict()})
    assert_same(factors[1], factors[0])
    assert_same(results[1], results[0])


def test_float32_training_agrees_to_its_precision(toy):
    """Single precision, batches moved one by one to the model."""
    found = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        model = MLP(8, 2, 16, 4)
        train(model, toy.train_loader(16, seed=0), epochs=2, lr=0.3, device=device, progress=False)
        assert {p.device.type for p in model.parameters()} == {torch.device(device).type}
        found.append((torch.cat([p.detach().cpu().flatten() for p in model.parameters()]), model))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-2, atol=1e-3)
    assert accuracy(found[1][1], toy.test_loader()) == pytest.approx(accuracy(found[0][1], toy.test_loader()), abs=0.05)


def test_a_task_moved_at_once_needs_no_further_copies(toy):
    """Its loaders yield batches on the GPU."""
    for images, labels in toy.to(DEVICE).train_loader(16, seed=0):
        assert images.device.type == labels.device.type == "cuda"


def test_an_ewc_on_another_device_says_how_to_move_it(toy):
    """And `EWC.to` does."""
    model = small_model("cpu")
    ewc = EWC(1)
    ewc.consolidate(model, doubled(toy, "cpu"))
    model.to(DEVICE)
    with pytest.raises(ValueError, match=r"the model is on cuda:0, EWC on cpu: call ewc.to\('cuda:0'\)"):
        ewc.penalty(model)
    assert ewc.to(DEVICE).penalty(model).item() == pytest.approx(0, abs=1e-12)


def test_checkpoints_cross_devices(toy, tmp_path):
    """Saved on the GPU, loaded on the CPU."""
    model, other = small_model(DEVICE), MLP(8, 2, 16, 4).double()
    ewc, again = EWC(5), EWC(1)
    ewc.consolidate(model, doubled(toy, DEVICE))
    save_checkpoint(tmp_path / "run.pt", model=model, ewc=ewc)
    load_checkpoint(tmp_path / "run.pt", model=other, ewc=again)
    assert {p.device.type for p in other.parameters()} == {"cpu"}
    assert again.penalty(other).item() == pytest.approx(0, abs=1e-12)
    assert_same(dict(model.state_dict()), dict(other.state_dict()))
