"""Several processes that train one network together: what `torchrun` starts. Alone, everything here does nothing.

Each process takes its share of every batch; gradients, batch-norm statistics and losses are those of the whole batch.
The main process alone writes to the run folder.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.device import choose_device
from engine.errors import RunError


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    return rank() == 0


def join(device_name: str | None) -> torch.device:
    """Meet the other processes, if there are any. Returns this process's device."""
    device = choose_device(device_name)
    if world_size() == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leave() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def share_of(batch_size: int) -> slice:
    """Which samples of a batch are this process's. RunError when they cannot be dealt out evenly."""
    if batch_size % world_size() or batch_size < 2 * world_size():
        raise RunError(f"a batch of {batch_size} does not divide among {world_size()} processes, two each at least")
    return slice(rank(), batch_size, world_size())


def wrap(network: nn.Module, device: torch.device) -> nn.Module:
    """The network to call in training: its gradients and batch-norm statistics are the whole batch's.

    `network` itself keeps its weights and names, for checkpoints; only its batch norms are exchanged.
    """
    if world_size() == 1:
        return network
    synchronise_batch_norm(network)
    return nn.parallel.DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)


def synchronise_batch_norm(network: nn.Module) -> None:
    """Exchange the batch norms below `network` for torch's SyncBatchNorm, which works on GPUs alone."""
    nn.SyncBatchNorm.convert_sync_batchnorm(network)


def from_main(value: Any) -> Any:
    """The main process's `value`, in every process."""
    if not dist.is_available() or not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def mean_of_all(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value /= world_size()
    return value


def any_says(flag: bool, device: torch.device) -> bool:
    """Whether any process says so."""
    return bool(mean_of_all(torch.tensor(float(flag), device=device)) > 0)
