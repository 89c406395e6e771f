"""MNIST, then Fashion-MNIST with EWC, on several processes that share each batch; 6,000 images of each, in seconds.

    torchrun --standalone --nproc-per-node 2 examples/several_processes.py

Three lines are EWC's: the one that makes it, `consolidate` and `proximal_step`. They are the same on one process.
"""

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from contlearn import EWC, MLP, Task, accuracy, load_fashion_mnist, load_mnist, save_checkpoint


def own(task: Task, batch_size: int, shuffle: bool = False) -> DataLoader[tuple[torch.Tensor, ...]]:
    """Every R-th image from the rank's number on. DistributedSampler repeats some, which F would count twice."""
    images = Subset(task.train, range(dist.get_rank(), 6_000, dist.get_world_size()))
    return DataLoader(images, batch_size // dist.get_world_size(), shuffle=shuffle, drop_last=shuffle)


dist.init_process_group("gloo")  # "nccl" with GPUs, where model and ewc.to(…) go to cuda:LOCAL_RANK
torch.manual_seed(0)
model = DistributedDataParallel(MLP())  # gives every rank the weights of rank 0
ewc = EWC(importance=300)
tasks = load_mnist(), load_fashion_mnist()
for task in tasks:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        for images, labels in own(task, batch_size=64, shuffle=True):  # drop_last: all ranks take the same steps
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()  # DistributedDataParallel averages over the ranks here
            optimizer.step()
            ewc.proximal_step(model, lr=0.1)  # the same on every rank: replicas stay equal, bit for bit
    kept = [f"{each.name} {100 * accuracy(model, each.test_loader()):.1f} %" for each in tasks]  # on all: no rank waits
    if dist.get_rank() == 0:
        print(f"after {task.name}:", *kept)
    ewc.consolidate(model, own(task, batch_size=500), progress=False)  # all ranks: F of all 6,000 images
if dist.get_rank() == 0:
    save_checkpoint("runs/several_processes.pt", model=model.module, ewc=ewc)  # loads on any number of processes
dist.destroy_process_group()
