"""Train the MLP on MNIST and write files/checkpoints/mnist_mlp.pt, from which the notebooks start.

    python experiments/train_checkpoint.py

Seed 0, five epochs at learning rate 0.1, batches of 64: act 1 of `python -m contlearn`.
"""

from pathlib import Path

import torch

from contlearn import MLP, accuracy, load_mnist, save_checkpoint, train

mnist = load_mnist()
torch.manual_seed(0)
model = MLP()
train(model, mnist.train_loader(seed=0), epochs=5, lr=0.1)
path = Path(__file__).parent.parent / "files" / "checkpoints" / "mnist_mlp.pt"
save_checkpoint(path, model=model)
print(f"{path.name}: {100 * accuracy(model, mnist.test_loader()):.2f} % on MNIST's test set")
