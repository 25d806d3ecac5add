"""Several processes that train one network together, as torchrun starts them; alone, all here does nothing.

Each process takes its share of every batch; gradients, batch-norm statistics and losses are those of the
whole batch. The main process alone writes to the run folder.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.base import UserError
from engine.device import choose_device


def is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    return dist.get_world_size() if is_joined() else 1


def rank() -> int:
    return dist.get_rank() if is_joined() else 0


def is_main() -> bool:
    return rank() == 0


def join(device_name: str | None) -> torch.device:
    """Meet the other processes, if torchrun has started some. Returns this process's device."""
    device = choose_device(device_name)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise UserError(f"torchrun started more processes than the {torch.cuda.device_count()} GPUs here")
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leave(status: int) -> int:
    """Wait for the others, and part. The main process alone ends with the status, or it would be a crash."""
    if not is_joined():
        return status
    own = status if is_main() else 0
    dist.barrier()
    dist.destroy_process_group()
    return own


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through it before the others: it makes the cache that they find."""
    if is_joined() and not is_main():
        dist.barrier()
    yield
    if is_joined() and is_main():
        dist.barrier()


def share_of(batch_size: int) -> slice:
    """Which samples of a batch are this process's. UserError when they cannot be dealt out evenly."""
    if batch_size % world_size() or batch_size < 2 * world_size():
        advice = f"give --batch-size a multiple of {world_size()}, {2 * world_size()} at least"
        raise UserError(f"a batch of {batch_size} does not divide among {world_size()} processes: {advice}")
    return slice(rank(), batch_size, world_size())


def wrap(network: nn.Module, device: torch.device) -> nn.Module:
    """The network to call in training: its gradients and batch-norm statistics are the whole batch's. Of
    `network` itself, which checkpoints hold, only the batch norms are exchanged."""
    if not is_joined():
        return network
    synchronise_batch_norm(network)
    own = [device.index] if device.type == "cuda" else None
    # Their buffers are equal.
    return nn.parallel.DistributedDataParallel(network, device_ids=own, broadcast_buffers=False)


def synchronise_batch_norm(network: nn.Module) -> None:
    """Exchange the batch norms below `network` for torch's SyncBatchNorm; UserError without a GPU."""
    if next(network.parameters()).device.type != "cuda":
        raise UserError("several processes need a GPU each; on this machine leave torchrun out")
    nn.SyncBatchNorm.convert_sync_batchnorm(network)


def from_main(value: Any) -> Any:
    """The main process's `value`, in every process."""
    if not is_joined():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def sum_of_all(value: Tensor) -> Tensor:
    """The sum of a tensor over the processes."""
    if is_joined():
        value = value.clone()
        dist.all_reduce(value)
    return value


def mean_of_all(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes."""
    return sum_of_all(value) / world_size()


def any_says(flag: bool, device: torch.device) -> bool:
    """Whether any process says so."""
    return bool(mean_of_all(torch.tensor(float(flag), device=device)) > 0)
