"""The command line: what it refuses, what it writes, and that its acts tell the story."""

import json
import re

import pytest
import torch
from torch.utils.data import TensorDataset

import contlearn.__main__ as command
from contlearn.data import Task


def toy(name, seed):
    """Ten classes that a linear map separates: one bright row of pixels each, chosen by a seeded permutation."""
    generator = torch.Generator().manual_seed(seed)
    row = torch.randperm(28, generator=generator)[:10]

    def part(n):
        labels = torch.arange(n) % 10
        images = 0.1 * torch.rand(n, 28, 28, generator=generator)
        images[torch.arange(n), row[labels]] += 0.8
        return TensorDataset(images, labels)

    return Task(name, {c: str(c) for c in range(10)}, part(500), part(200))


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr(command, "load_mnist", lambda: toy("MNIST", 0))
    monkeypatch.setattr(command, "load_fashion_mnist", lambda: toy("Fashion-MNIST", 1))


def run(tmp_path, *arguments):
    code = command.main(["--output", str(tmp_path), "--epochs", "2", "--batch-size", "10", *arguments])
    folders = list(tmp_path.iterdir())
    return code, folders


def test_every_row_of_the_table_is_measured_and_written(toys, tmp_path, capsys):
    code, (folder,) = run(tmp_path, "--seeds", "3", "4")
    assert code == 0
    results = json.loads((folder / "results.json").read_text("utf-8"))
    assert [r["seed"] for r in results["runs"]] == [3, 4]
    assert set(results["runs"][0]["histories"]) == set(command.ROWS)
    assert results["settings"]["importance"] == 300
    printed = capsys.readouterr().out
    assert printed.count(" ± ") == 3 * len(command.ROWS)
    assert (folder / "table.txt").read_text("utf-8").strip() in printed
    assert (folder / "three_acts.png").read_bytes().startswith(b"\x89PNG")
    # the printed mean is that of the stored accuracies
    ends = [100 * r["histories"]["EWC"]["accuracy"]["MNIST"][-1] for r in results["runs"]]
    row = next(line for line in printed.splitlines() if line.startswith(command.ROWS["EWC"]))
    assert float(re.findall(r"[\d.]+", row.removeprefix(command.ROWS["EWC"]))[0]) == pytest.approx(
        sum(ends) / 2, abs=0.051
    )


def test_acts_only_leaves_out_the_comparisons_and_one_seed_has_no_error(toys, tmp_path, capsys):
    code, (folder,) = run(tmp_path, "--acts-only", "--estimator", "empirical", "--penalty", "proximal")
    assert code == 0
    results = json.loads((folder / "results.json").read_text("utf-8"))
    assert set(results["runs"][0]["histories"]) == {"A", "unprotected", "EWC"}
    assert "±" not in capsys.readouterr().out


def test_the_same_seed_gives_the_same_numbers(toys, tmp_path):
    histories = []
    for name in ("one", "two"):
        _, (folder,) = run(tmp_path / name)
        histories.append(json.loads((folder / "results.json").read_text("utf-8"))["runs"][0]["histories"])
    assert histories[0] == histories[1]


def test_l2_has_the_same_mean_strength_and_the_same_start(toys, tmp_path, monkeypatch):
    seen = []
    real = command.train
    monkeypatch.setattr(command, "train", lambda *a, ewc=None, **k: (seen.append(ewc), real(*a, ewc=ewc, **k))[1])
    run(tmp_path)
    ewc, l2 = (e for e in seen if e is not None)
    total = {e: sum(float(s.double().sum()) for s in e.precision.values()) for e in (ewc, l2)}
    assert total[l2] == pytest.approx(total[ewc], rel=1e-4)
    assert all(torch.equal(ewc.center[name], l2.center[name]) for name in ewc.center)
    assert len({float(s.min()) for s in l2.precision.values()} | {float(s.max()) for s in l2.precision.values()}) == 1


def test_divergence_exits_with_1_and_says_what_to_do(toys, tmp_path, capsys):
    code, folders = run(tmp_path, "--importance", "1e9")
    assert code == 1
    assert folders == []
    assert "proximal=True" in capsys.readouterr().err


def test_an_interrupt_keeps_the_finished_seeds(toys, tmp_path, monkeypatch, capsys):
    real = command._one_seed

    def stop_at_the_second(*arguments):
        if arguments[2] == 1:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(command, "_one_seed", stop_at_the_second)
    code, (folder,) = run(tmp_path, "--seeds", "0", "1")
    assert code == 130
    assert len(json.loads((folder / "results.json").read_text("utf-8"))["runs"]) == 1
    assert "interrupted after 1 of 2 seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--importance", "-1"], "'-1': expected a number, 0 or more"),
        (["--importance", "nan"], "'nan': expected a number"),
        (["--epochs", "0"], "'0': expected a whole number, at least 1"),
        (["--batch-size", "2.5"], "'2.5': expected a whole number"),
        (["--lr", "0"], "'0': expected a positive number"),
        (["--lr-ewc", "fast"], "'fast': expected a positive number"),
        (["--seeds", "-1"], "'-1': expected a whole number, 0 or more"),
        (["--estimator", "best"], "invalid choice: 'best'"),
        (["--penalty", "both"], "invalid choice: 'both'"),
        (["--device", "abacus"], "'abacus' cannot be used here"),
        (["--lambda", "3"], "unrecognized arguments"),
    ],
)
def test_wrong_values_get_a_message_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("1/2 * importance", "Fisher information", "examples:", "--seeds 0 1 2 3 4"))
