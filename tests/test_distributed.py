"""One, two and four processes: the same F, the same EWC, replicas that stay equal; shards; and the wrappers."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DataParallel, DistributedDataParallel

import contlearn
from contlearn import EWC, Masked, diagonal_fisher, kronecker_fisher, load_checkpoint, save_checkpoint

IMAGES = 23  # no multiple of any number of ranks
STEPS = 200


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3)).double()


def data(seed: int, images: int = IMAGES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (images,), generator=generator)


def on_rank(rank: int, ranks: int, folder: str) -> None:
    """What each process does; what it found goes to a file of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    found: dict[str, Any] = {}
    own = tuple(part[rank::ranks] for part in data(1))
    model = network()
    replica = DistributedDataParallel(model)
    found["exact"] = diagonal_fisher(model, [own])
    found["empirical"] = diagonal_fisher(replica, [own], "empirical")
    factors = kronecker_fisher(model, [own])
    found["factors"] = {f"{name}.{kind}": getattr(f, kind) for name, f in factors.factors.items() for kind in "ag"}
    found["rest"] = factors.diagonal

    ewc = EWC(importance=3.0)
    ewc.consolidate(replica, [own])
    optimizer = torch.optim.SGD(replica.parameters(), lr=0.05)
    x, y = (part[rank::ranks] for part in data(2))
    for step in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(replica(x), y).backward()
        if step % 2:
            ewc.add_gradient(replica)
        optimizer.step()
        if not step % 2:
            ewc.proximal_step(replica, lr=0.05)
    found["trained"] = {name: p.detach() for name, p in model.named_parameters()}
    found["center"] = ewc.center

    broken = (own[0] * (torch.nan if rank == ranks - 1 else 1), own[1])
    for measure in (diagonal_fisher, kronecker_fisher):
        try:
            measure(model, [broken])
        except (FloatingPointError, RuntimeError) as error:
            found[f"{measure.__name__} fails"] = f"{type(error).__name__}: {error}"
        another = network()
        with torch.no_grad():
            another[3].bias[0] += rank
        try:
            measure(another, [own])
        except ValueError as error:
            found[f"{measure.__name__} of several models"] = str(error)
    if rank == 0:
        save_checkpoint(f"{folder}/run.pt", model=replica, ewc=ewc)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run(ranks: int, folder: Path) -> list[dict[str, Any]]:
    multiprocessing.start_processes(on_rank, (ranks, str(folder)), nprocs=ranks, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def torchrun(ranks: int, folder: Path, *arguments: str) -> str:
    """What it printed."""
    path = os.pathsep.join([str(Path(contlearn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no processes that talk by gloo"
)


@needs_gloo
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_rank_has_the_f_of_all_images(ranks: int, tmp_path: Path) -> None:
    """As one process has it; and after 200 protected steps the replicas are equal bit by bit."""
    found = run(ranks, tmp_path)
    model, loader = network(), [data(1)]
    factors = kronecker_fisher(model, loader)
    expected = {
        "exact": diagonal_fisher(model, loader),
        "empirical": diagonal_fisher(model, loader, "empirical"),
        "factors": {f"{name}.{kind}": getattr(f, kind) for name, f in factors.factors.items() for kind in "ag"},
        "rest": factors.diagonal,
    }
    for kind, tensors in expected.items():
        oracles.assert_close(found[0][kind], tensors, 1e-12)
        for other in found[1:]:
            assert all(torch.equal(other[kind][name], value) for name, value in found[0][kind].items())
    for other in found[1:]:
        assert all(torch.equal(other["trained"][name], value) for name, value in found[0]["trained"].items())
    assert list(found[0]["center"]) == [name for name, _ in model.named_parameters()]
    moved = max((found[0]["trained"][name] - p).abs().max().item() for name, p in model.named_parameters())
    assert moved > 0.01
    for measure in ("diagonal_fisher", "kronecker_fisher"):
        for rank, each in enumerate(found):
            message = each[f"{measure} fails"]
            if rank == ranks - 1:
                assert message.startswith("FloatingPointError: a logit is not finite")
            else:
                assert message.startswith("RuntimeError: this could not be done on every rank.")
                assert f"rank {ranks - 1}: FloatingPointError: a logit" in message
        for each in found if ranks > 1 else []:
            assert "3.bias is not the same on rank" in each[f"{measure} of several models"]
    # what was saved under DistributedDataParallel goes on without it
    again = EWC(importance=0)
    load_checkpoint(tmp_path / "run.pt", ewc=again)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(found[0]["trained"][name])
    penalties = [again.penalty(each).item() for each in (model, torch.compile(model, backend="eager"))]
    own = sum(float((f * (p.detach() - again.center[name]) ** 2).sum()) for (name, f), p in zip(
        found[0]["exact"].items(), model.parameters(), strict=True))  # fmt: skip
    assert penalties == pytest.approx([1.5 * own] * 2)


WAYS = ("penalty before the forward pass", "penalty after it", "add_gradient", "proximal_step")


def protected(model: nn.Module, ewc: EWC, way: str, x: Tensor, y: Tensor) -> None:
    """Thirty steps of plain descent."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        if way == WAYS[0]:
            loss = ewc.penalty(model) + cross_entropy(model(x), y)
        elif way == WAYS[1]:  # when the weights of the outermost module are whole
            loss = cross_entropy(model(x), y) + ewc.penalty(model)
        else:
            loss = cross_entropy(model(x), y)
        loss.backward()
        if way == WAYS[2]:
            ewc.add_gradient(model)
        optimizer.step()
        if way == WAYS[3]:
            ewc.proximal_step(model, 0.05)


def in_shards(rank: int, ranks: int, folder: str) -> None:
    """Consolidate whole, train in shards, consolidate a whole copy, train again; what cannot be is refused."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    first, second, third = (tuple(part[: 24 // ranks * ranks][rank::ranks] for part in data(k, 24)) for k in (1, 2, 3))
    found: dict[str, Any] = {}
    for way in WAYS:
        model, ewc = network(), EWC(importance=20.0)
        ewc.consolidate(model, [first])
        whole = copy.deepcopy(model)
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        protected(model, ewc, way, *second)
        assert all(isinstance(m, DTensor) and m.to_local().numel() < m.numel() for m in ewc.center.values())
        whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
        ewc.consolidate(whole, [second])
        protected(model, ewc, way, *third)
        found[way] = {name: p.full_tensor().detach() for name, p in model.named_parameters()}
        found[f"{way}: penalty"] = ewc.penalty(model).item()
        found[f"{way}: limit"] = ewc.largest_stable_importance(0.1)
        state = ewc.state_dict()  # on every rank, for shards are gathered
        assert not any(isinstance(m, DTensor) for m in state["center"].values())
        found[f"{way}: state"] = state
        loaded = EWC(importance=0)
        loaded.load_state_dict(state)
        assert loaded.penalty(model).item() == found[f"{way}: penalty"]
    for structure in ("diagonal", "kronecker"):
        try:
            EWC(1.0, structure=structure).consolidate(model, [first])
        except ValueError as error:
            found[f"{structure} F"] = str(error)
    factors = EWC(1.0, structure="kronecker")
    factors.consolidate(whole, [first])
    for name, call in (
        ("penalty", factors.penalty),
        ("add_gradient", factors.add_gradient),
        ("proximal_step", lambda model: factors.proximal_step(model, 0.1)),
    ):
        try:
            call(model)
        except ValueError as error:
            found[f"kronecker {name}"] = str(error)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.barrier()
    dist.destroy_process_group()


@needs_gloo
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_shards_end_where_one_process_ends(tmp_path: Path) -> None:
    """`fully_shard` on two processes, one layer with an odd number of rows; two tasks, one after the other."""
    multiprocessing.start_processes(in_shards, (2, str(tmp_path)), nprocs=2, start_method="spawn")
    found = torch.load(tmp_path / "found.pt")
    for way in WAYS:
        model, ewc = network(), EWC(importance=20.0)
        ewc.consolidate(model, [data(1, 24)])
        protected(model, ewc, way, *data(2, 24))
        ewc.consolidate(model, [data(2, 24)])
        protected(model, ewc, way, *data(3, 24))
        oracles.assert_close(found[way], dict(model.named_parameters()), 1e-10)
        assert found[f"{way}: penalty"] == pytest.approx(ewc.penalty(model).item(), rel=1e-9)
        assert found[f"{way}: limit"] == pytest.approx(ewc.largest_stable_importance(0.1), rel=1e-9)
        again = EWC(importance=0)
        again.load_state_dict(found[f"{way}: state"])
        assert again.penalty(model).item() == pytest.approx(ewc.penalty(model).item(), rel=1e-9)
    for structure in ("diagonal", "kronecker"):
        assert "measure F on a copy that is whole" in found[f"{structure} F"]
    for name in ("penalty", "add_gradient", "proximal_step"):
        assert "mixes all rows and columns of a layer" in found[f"kronecker {name}"]


ACTS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import test_main
import contlearn.__main__ as command
command.load_mnist = lambda: test_main.toy("MNIST", 0)
command.load_fashion_mnist = lambda: test_main.toy("Fashion-MNIST", 1)
sys.exit(command.main())
"""


@needs_gloo
def test_the_acts_run_under_torchrun(tmp_path: Path) -> None:
    """Two processes take the steps of one: accuracies as near as rounding leaves them. One writes, one prints."""
    (tmp_path / "acts.py").write_text(ACTS, encoding="utf-8")
    tests = str(Path(__file__).parent)
    runs = {}
    for ranks in (1, 2):
        options = ["--epochs", "2", "--batch-size", "10", "--output", f"runs{ranks}", "--estimator", "sample"]
        printed = torchrun(ranks, tmp_path, "acts.py", tests, *options)
        assert printed.count("then Fashion-MNIST, unprotected") == 2  # as it ends, and in the table
        (folder,) = (tmp_path / f"runs{ranks}").iterdir()
        results = json.loads((folder / "results.json").read_text("utf-8"))
        assert results["processes"] == ranks
        runs[ranks] = results["runs"][0]["histories"]
    assert runs[1].keys() == runs[2].keys() == {"A", "unprotected", "L2", "EWC", "Kronecker", "joint"}
    for row, history in runs[1].items():
        for name, values in history["accuracy"].items():
            assert runs[2][row]["accuracy"][name] == pytest.approx(values, abs=0.05), (row, name)
        assert runs[2][row]["loss"] == pytest.approx(history["loss"], abs=0.05)


@needs_gloo
def test_the_example_runs_under_torchrun(tmp_path: Path) -> None:
    """It forgets little of MNIST, and its checkpoint loads on one process."""
    example = Path(__file__).parent.parent / "examples" / "several_processes.py"
    printed = torchrun(2, tmp_path, str(example))
    before, after = (
        [float(value) for value in re.findall(r"([\d.]+) %", line)] for line in printed.strip().splitlines()
    )
    assert before[0] > 80
    assert min(after[0] - 70, after[1] - 65) > 0, printed
    model, ewc = contlearn.MLP(), EWC(importance=0)
    load_checkpoint(tmp_path / "runs" / "several_processes.pt", model=model, ewc=ewc)
    assert ewc.tasks == 2
    assert ewc.penalty(model).item() >= 0


@pytest.mark.parametrize("structure", ["diagonal", "kronecker"])
def test_names_are_those_inside_every_wrapper(structure: Any, tmp_path: Path) -> None:
    """What is consolidated and saved under one wrapper protects, and loads, under another."""
    model = network()
    wrapped = {
        "plain": model,
        "compiled": torch.compile(model, backend="eager"),
        "masked": Masked(model, [0, 1, 2]),
        "in parallel on one machine": DataParallel(model),
        "masked, compiled": torch.compile(Masked(model, [0, 1, 2]), backend="eager"),
    }
    penalties = {}
    for name, outer in wrapped.items():
        ewc = EWC(importance=2.0, structure=structure)
        ewc.consolidate(outer, [data(1)])
        ewc.consolidate(model, [data(1)])
        assert set(ewc.center) == {each for each, _ in model.named_parameters()}
        save_checkpoint(tmp_path / "run.pt", ewc=ewc)
        again = EWC(importance=1.0, structure=structure)
        load_checkpoint(tmp_path / "run.pt", ewc=again)
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1
        for other in wrapped.values():
            penalties[name] = again.penalty(other).item()
            assert penalties[name] == pytest.approx(penalties["plain"], rel=1e-9) != 0
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1


def test_a_gradient_that_is_scaled_takes_a_scaled_penalty() -> None:
    """With `GradScaler`: before `unscale_` with its scale, or after it without, both end where no scaler does."""
    ends = []
    for way in ("no scaler", "scaled", "unscaled"):
        model = network().float()
        ewc = EWC(importance=5.0)
        x, y = data(1)
        ewc.consolidate(model, [(x.float(), y)])
        with torch.no_grad():
            model[0].weight += 0.1
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=way != "no scaler")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler.scale(cross_entropy(model(x.float()), y)).backward()
        if way == "unscaled":
            scaler.unscale_(optimizer)
        ewc.add_gradient(model, scale=scaler.get_scale() if way == "scaled" else 1.0)
        scaler.step(optimizer)
        ends.append(model[0].weight.detach())
    assert torch.allclose(ends[1], ends[0], atol=1e-6)
    assert torch.allclose(ends[2], ends[0], atol=1e-6)
    with pytest.raises(ValueError, match="multiplied by"):
        ewc.add_gradient(model, scale=0)


def half_way(
    scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, ewc: EWC, model: nn.Module, way: str
) -> None:
    """A step with a scaler, done in one of several ways."""
    x, y = data(1)
    optimizer.zero_grad()
    scaler.scale(cross_entropy(model(x.float()), y)).backward()
    if way == "right":
        scaler.unscale_(optimizer)
    ewc.add_gradient(model, scale=scaler.get_scale() if way == "told" else 1.0)
    if way == "right":
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("fused", [False, True])
def test_a_penalty_that_a_scaler_divides_is_found_before_a_weight_moves(fused: bool) -> None:
    """`add_gradient` before `unscale_`, told nothing; at the first step, where the penalty itself is still zero."""
    model, ewc = network().float(), EWC(importance=5.0)
    x, y = data(1)
    ewc.consolidate(model, [(x.float(), y)])
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(RuntimeError, match=r"divided by 65536.*after scaler\.unscale_"):
        half_way(scaler, optimizer, ewc, model, "wrong")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("way", ["right", "told"])
def test_right_steps_with_a_scaler_pass(way: str) -> None:
    """Also beside an optimiser of another model, with clipping, and when no step follows."""
    model, ewc, other = network().float(), EWC(importance=5.0), nn.Linear(2, 2)
    x, y = data(1)
    ewc.consolidate(model, [(x.float(), y)])
    optimizer, another = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(other.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    with torch.no_grad():
        model[0].weight += 0.1
    ewc.add_gradient(model)  # twice, for one step
    ewc.add_gradient(model)
    model.zero_grad()
    for _ in range(6):
        other(torch.ones(1, 2)).sum().backward()
        half_way(scaler, optimizer, ewc, model, way)
        another.step()
    assert ewc.penalty(model).item() > 0
