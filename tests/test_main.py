"""The command line: what it refuses, what it writes, that nothing is lost, and that its acts tell the story."""

import errno
import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

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
    assert max(map(len, printed.splitlines()[:-1])) <= 80  # the last names the folder
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


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["--structure", "diagonal"], {"A", "unprotected", "L2", "EWC", "joint"}),
        (["--structure", "kronecker"], {"A", "unprotected", "Kronecker", "joint"}),
        (["--structure", "kronecker", "--acts-only"], {"A", "unprotected", "Kronecker"}),
        (["--penalty", "gradient", "--importance", "10"], {"A", "unprotected", "L2", "EWC", "joint"}),
    ],
)
def test_each_structure_has_its_rows(arguments, rows, toys, tmp_path):
    _, (folder,) = run(tmp_path, *arguments)
    assert set(numbers(folder)[0]) == rows


def test_all_rows_take_the_same_learning_rates_and_joint_training_as_many_steps(toys, tmp_path, monkeypatch):
    seen = []
    real = command.train
    monkeypatch.setattr(command, "train", lambda *a, **k: (seen.append((len(a[1]), k)), real(*a, **k))[1])
    run(tmp_path, "--epochs", "3", "1", "--lr", "0.2")
    steps = [n * k["epochs"] for n, k in seen]
    assert steps == [150, 50, 50, 50, 50, 200]
    assert [k["lr"] for _, k in seen[1:5]] == [[0.2]] * 4
    assert seen[5][1]["lr"] == pytest.approx([0.2, 0.02])
    assert [k["progress"] for _, k in seen][:2] == ["act 1", "act 2"]


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
    run(tmp_path, "--structure", "diagonal")
    ewc, l2 = (e for e in seen if e is not None)
    total = {e: sum(float(s.double().sum()) for s in e.precision.values()) for e in (ewc, l2)}
    assert total[l2] == pytest.approx(total[ewc], rel=1e-4)
    assert all(torch.equal(ewc.center[name], l2.center[name]) for name in ewc.center)
    assert len({float(s.min()) for s in l2.precision.values()} | {float(s.max()) for s in l2.precision.values()}) == 1


def test_divergence_exits_with_1_and_says_what_to_do(toys, tmp_path, capsys):
    """What was done before is kept."""
    code, (folder,) = run(tmp_path, "--importance", "1e9", "--penalty", "gradient")
    assert code == 1
    error = capsys.readouterr().err
    assert "proximal=True" in error
    assert "--penalty proximal" in error
    (kept,) = json.loads((folder / "results.json").read_text("utf-8"))["runs"]
    assert list(kept["histories"]) == ["A", "unprotected"]


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
        (["--lr", "fast"], "'fast': expected a positive number"),
        (["--epochs", "1", "2", "3"], "--epochs takes one number or two, got 3"),
        (["--importance-kronecker", "-3"], "'-3': expected a number, 0 or more"),
        (["--structure", "full"], "invalid choice: 'full'"),
        (["--structure", "kronecker", "--penalty", "gradient"], "stable with --structure diagonal only"),
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


def test_help_teaches_within_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert all(word in text for word in ("1/2 * importance", "Fisher information", "examples:", "--seeds 0 1 2 3 4"))


# Nothing is lost

OPTIONS = ["--epochs", "2", "--batch-size", "50", "--seeds", "0", "1"]


def numbers(folder):
    """Every loss and accuracy that a run has kept."""
    kept = json.loads((folder / "results.json").read_text("utf-8"))
    return {run["seed"]: run["histories"] for run in kept["runs"]}


def resume(folder):
    return command.main(["--resume", str(folder)])


@pytest.fixture
def undisturbed(toys, tmp_path):
    command.main([*OPTIONS, "--output", str(tmp_path / "undisturbed")])
    return numbers(next((tmp_path / "undisturbed").iterdir()))


@pytest.mark.parametrize("act", [1, 2, 4, 5, 7, 12])
def test_an_interrupt_in_any_act_is_resumed_to_the_same_numbers(act, undisturbed, tmp_path, monkeypatch, capsys):
    """Two seeds have twelve trainings; Ctrl-C ends one of them, and the acts before it are kept."""
    real, calls = command.train, []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        history = real(*arguments, **options)
        history.interrupted = len(calls) == act
        return history

    with monkeypatch.context() as patch:
        patch.setattr(command, "train", interrupted)
        assert command.main([*OPTIONS, "--output", str(tmp_path / "runs")]) == 130
    (folder,) = (tmp_path / "runs").iterdir()
    assert sum(map(len, numbers(folder).values())) == act - 1
    assert f"--resume {folder}" in capsys.readouterr().err
    assert resume(folder) == 0
    assert numbers(folder) == undisturbed
    assert resume(folder) == 0  # once more: nothing is left to do
    assert numbers(folder) == undisturbed


@pytest.fixture
def one_thread():
    """A forked process has none of the threads that its parent may have started."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes that have everything imported already")
@pytest.mark.filterwarnings("ignore:.*use of fork")
def test_twenty_kills_at_any_moment_lose_nothing_that_was_kept(undisturbed, tmp_path, one_thread):
    """SIGKILL after a random part of a second, twenty times; each new process goes on where the last one was."""
    rng, output, kept = random.Random(0), tmp_path / "runs", 0
    folder = None
    for attempt in range(60):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = command.main([*OPTIONS, "--output", str(output)]) if folder is None else resume(folder)
            os._exit(code)
        if attempt < 20:
            time.sleep(rng.uniform(0.02, 0.6))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found = list(output.glob("*/results.json"))
        if found:
            folder = found[0].parent
            done = sum(map(len, numbers(folder).values()))
            assert done >= kept
            kept = done
        if attempt >= 20:
            assert os.waitstatus_to_exitcode(status) == 0
            break
    for seed, histories in undisturbed.items():
        for row, history in histories.items():
            again = numbers(folder)[seed][row]
            assert again["loss"] == pytest.approx(history["loss"], rel=1e-5)
            assert again["accuracy"].keys() == history["accuracy"].keys()


def test_resume_takes_the_settings_of_the_run_and_no_others(toys, tmp_path, capsys):
    _, (folder,) = run(tmp_path, "--importance", "7", "--acts-only")
    with pytest.raises(SystemExit) as stop:
        command.main(["--resume", str(folder), "--importance", "8"])
    assert stop.value.code == 2
    assert "leave out --importance" in capsys.readouterr().err
    assert resume(folder) == 0
    assert json.loads((folder / "results.json").read_text("utf-8"))["settings"]["importance"] == 7


@pytest.mark.parametrize("text", ["", "{}", "[]", "no JSON", '{"settings": {}, "runs": [{}]}'])
def test_a_damaged_run_is_named_and_left_as_it_is(text, tmp_path, capsys):
    (tmp_path / "results.json").write_text(text, "utf-8")
    assert resume(tmp_path) == 1
    assert "results.json is damaged" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text("utf-8") == text


def test_no_run_to_resume(tmp_path, capsys):
    assert resume(tmp_path / "nowhere") == 1
    assert "No such file" in capsys.readouterr().err


def test_a_checkpoint_that_is_gone_is_named(toys, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "diagonal_fisher", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    code, (folder,) = run(tmp_path)
    assert code == 130
    next(folder.glob("*.pt")).unlink()
    assert resume(folder) == 1
    assert "after_MNIST_0.pt" in capsys.readouterr().err
    assert list(numbers(folder)[0]) == ["A", "unprotected"]


@pytest.mark.parametrize("when", [1, 2, 4])
def test_a_full_disk_keeps_what_was_written_before(when, toys, tmp_path, monkeypatch, capsys):
    real, calls = Path.open, []

    def full(path, mode="r", *arguments, **options):
        if path.name.startswith(".results") and "w" in mode:
            calls.append(path)
            if len(calls) == when:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        code, (folder,) = run(tmp_path)
    assert code == 1
    assert "No space left on device" in capsys.readouterr().err
    if when > 1:
        assert len(numbers(folder)[0] if when > 2 else numbers(folder)) == max(0, when - 2)
        assert resume(folder) == 0
        assert len(numbers(folder)[0]) == len(command.ROWS)


def test_a_folder_that_cannot_be_made_stops_before_any_training(tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    assert command.main(["--output", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "no folder"


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path):
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(command._new_folder(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 8
    assert all(folder.is_dir() for folder in folders)
