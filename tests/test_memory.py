"""The peak of memory that measuring F takes is the one that its docstring states; each case in a process of its own."""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process from /proc")

PROGRAM = """
import sys, torch, warnings
import torch.nn as nn
from contlearn import MLP, diagonal_fisher
from contlearn.data import _torchvision_datasets
torch.set_num_threads(1)
case, estimator = sys.argv[1:]
images = torch.randn(2, 64)
if case.startswith("classes"):
    model = nn.Linear(64, int(case.split()[1]))
    loader = [(images, torch.tensor([0, 1]))]
elif case == "many small batches":
    model = nn.Linear(64, 10)
    loader = [(images, torch.tensor([0, 1]))] * 3000
elif case == "20 million parameters":
    model = MLP(3000, 3)
    loader = [(torch.rand(64, 28, 28), torch.randint(10, (64,)))] * 3
else:
    _torchvision_datasets()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchvision.models import resnet18
    if case == "ResNet-18, 1,000 classes":
        model, loader = resnet18(), [(torch.randn(1, 3, 48, 48), torch.tensor([0]))]
    elif case == "ResNet-18":
        model, loader = resnet18(num_classes=4), [(torch.randn(4, 3, 112, 112), torch.randint(4, (4,)))]
    else:
        model = resnet18(num_classes=10).requires_grad_(False)
        model.fc.requires_grad_(True)
        loader = [(torch.randn(16, 3, 112, 112), torch.randint(10, (16,)))] * 2


def kilobytes(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1])


for _ in range(2):  # memory that torch takes once, for whatever it does
    nn.functional.cross_entropy(model(loader[0][0][:1]), loader[0][1][:1]).backward()
model.zero_grad()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
before = kilobytes("VmRSS")
diagonal_fisher(model, loader, estimator, progress=False)
parameters = [p.numel() for p in model.parameters() if p.requires_grad]
print((kilobytes("VmHWM") - before) / 1024, sum(parameters) / 2**18, max(parameters) / 2**18)
"""


@pytest.mark.parametrize(
    ("case", "estimator"),
    [
        ("classes 10", "exact"),
        ("classes 10000", "exact"),
        ("many small batches", "exact"),
        ("20 million parameters", "exact"),
        ("ResNet-18", "sample"),
        ("ResNet-18, 1,000 classes", "sample"),
        ("ResNet-18, all but its head frozen", "exact"),
    ],
)
def test_peak(case: str, estimator: str, start_python) -> None:
    """F, one gradient, two of the largest parameter, and twice 64 MiB; half as much again for torch's own pools."""
    process = start_python(PROGRAM, case, estimator)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    peak, parameters, largest = map(float, output.split())
    assert peak < 1.5 * (2 * parameters + 2 * largest + 2 * 64)


def test_nothing_large_is_imported_late(start_python) -> None:
    """As `torch._dynamo`, which a mode of dispatch asks for by default: 40 MiB, and most of a first second."""
    program = (
        "import sys, torch; from contlearn import diagonal_fisher\n"
        "late = 'torch._dynamo' not in sys.modules\n"
        "diagonal_fisher(torch.nn.Linear(4, 3), [(torch.ones(2, 4), torch.tensor([0, 1]))], progress=False)\n"
        "print(late, 'torch._dynamo' in sys.modules)"
    )
    process = start_python(program)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.split() == ["True", "False"]
