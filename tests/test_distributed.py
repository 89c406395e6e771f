"""One, two and four processes: the same F, the same EWC, replicas that stay equal; and the wrappers that they need."""

from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from contlearn import EWC, Masked, diagonal_fisher, kronecker_fisher, load_checkpoint, save_checkpoint

IMAGES = 23  # no multiple of any number of ranks
STEPS = 200


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()


def data(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(IMAGES, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (IMAGES,), generator=generator)


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
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run(ranks: int, folder: Path) -> list[dict[str, Any]]:
    multiprocessing.start_processes(on_rank, (ranks, str(folder)), nprocs=ranks, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no processes that talk by gloo"
)


@needs_gloo
@pytest.mark.parametrize("ranks", [2, 4])
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
                assert message.startswith("RuntimeError: F could not be measured on every rank.")
                assert f"rank {ranks - 1}: FloatingPointError: a logit" in message


@pytest.mark.parametrize("structure", ["diagonal", "kronecker"])
def test_names_are_those_inside_every_wrapper(structure: Any, tmp_path: Path) -> None:
    """What is consolidated and saved under one wrapper protects, and loads, under another."""
    model = network()
    wrapped = {
        "plain": model,
        "compiled": torch.compile(model, backend="eager"),
        "masked": Masked(model, [0, 1, 2]),
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
