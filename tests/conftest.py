"""What several test files share: both image sets, loaded once, and a task small enough to train on in milliseconds."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import contlearn

# A shell that starts the tests in the background lets them, and what they start, ignore Ctrl-C; some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mnist():
    """The shipped MNIST; nobody may write to its tensors."""
    return contlearn.load_mnist()


@pytest.fixture(scope="session")
def fashion():
    """The shipped Fashion-MNIST; nobody may write to its tensors."""
    return contlearn.load_fashion_mnist()


@pytest.fixture(scope="session")
def toy():
    """96 + 48 images of 4 × 4 pixels, all different; in each of the four classes another row is the brightest."""
    generator = torch.Generator().manual_seed(7)

    def part(count):
        labels = torch.arange(count) % 4
        noise = torch.rand(count, 4, 4, generator=generator)
        return TensorDataset(0.5 * noise + 0.5 * torch.eye(4)[labels][:, :, None], labels)

    return contlearn.Task("toy", dict(enumerate("abcd")), part(96), part(48))


@pytest.fixture(scope="session")
def start_python():
    """Start a program text in a Python of its own, which imports the same contlearn and reaches 127.0.0.1 directly."""

    def start(program, *arguments):
        path = os.pathsep.join([str(Path(contlearn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": path, "no_proxy": "127.0.0.1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
