"""Reading, the network and writing at the same time, with bounded memory; and what to do when that is short.

Threads are enough: Pillow and torch release Python's lock while they work.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from engine.base import UserError, is_out_of_memory, say

# What CUDA says, in small letters, where the driver does not know the GPU or torch has no code for it: the
# CPU does the same work. Nothing else that goes wrong off the CPU is taken for that.
UNKNOWN_GPU = (
    "no kernel image is available",
    "device kernel image is invalid",
    "invalid device function",
    "no cuda-capable device",
    "no nvidia driver",
    "nvidia driver on your system is too old",
    "cuda driver version is insufficient",
    "unsupported toolchain",
    "arch_mismatch",
)


class OutOfMemoryError(UserError):
    """One input that does not fit into the memory even by itself on the CPU; the others are not concerned."""


def read_ahead(
    read: Callable[[Any], Any], items: Iterable[Any], workers: int, ahead: int, expected: type[Exception]
) -> Iterator[tuple[Any, Any]]:
    """(item, read(item)) in the items' order, read by `workers` threads, at most `ahead` of the one in use.
    An `expected` exception of `read` is handed on in place of its result."""

    def attempt(item: Any) -> Any:
        try:
            return read(item)
        except expected as error:
            return error

    pending: deque = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append((item, pool.submit(attempt, item)))
            if len(pending) > ahead:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()


@contextmanager
def write_behind(write: Callable[..., None], workers: int) -> Iterator[Callable[..., None]]:
    """Yield a function that has `write(*arguments)` called by one of `workers` threads; on leaving, all is
    written. It waits while twice as many calls as threads are open, and raises what an earlier one raised."""
    pending: deque = deque()
    with ThreadPoolExecutor(workers) as pool:

        def submit(*arguments: Any) -> None:
            if len(pending) >= 2 * workers:
                pending.popleft().result()
            pending.append(pool.submit(write, *arguments))

        yield submit
        for future in pending:
            future.result()


def batches_of_one_shape(
    items: Iterable[tuple[Any, Any]], batch_size: int
) -> Iterator[list[tuple[Any, Any]]]:
    """Lists of (name, tensor) whose tensors have one shape, full where it can be; at most 4 batches wait."""
    waiting: dict[tuple, list] = {}
    for name, tensor in items:
        shape = tuple(tensor.shape)
        waiting.setdefault(shape, []).append((name, tensor))
        if len(waiting[shape]) == batch_size:
            yield waiting.pop(shape)
        elif sum(map(len, waiting.values())) >= 4 * batch_size:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


class Runner:
    """Calls `forward(batch)`, of tensors on the networks' device, the batch first; with a smaller batch, then
    on the CPU, when the memory is short; on the CPU, too, when the device cannot run them (`is_unable`)."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        forward: Callable[[Tensor], Tensor],
        device: torch.device,
        batch_size: int,
    ):
        self.networks, self.forward, self.device, self.batch_size = networks, forward, device, batch_size
        try:
            for network in networks:
                network.to(device, memory_format=torch.channels_last)
        except RuntimeError as error:
            if not self._can_give_way(error):
                raise
            self._give_way(error, 1)

    def __call__(self, batch: Tensor) -> Tensor:
        """The result of `forward` for the whole batch, on the CPU. OutOfMemoryError when it fits nowhere."""
        pieces, start = [], 0
        while start < len(batch):
            piece = batch[start : start + self.batch_size]
            try:
                pieces.append(self.forward(piece.to(self.device)).cpu())
                start += len(piece)
                continue
            except (RuntimeError, MemoryError) as error:
                if not self._can_give_way(error):
                    raise
                failure = error.with_traceback(None)  # whose frames would keep the tensors alive
            self._give_way(failure, len(piece))
        return torch.cat(pieces)

    def _can_give_way(self, error: BaseException) -> bool:
        return is_out_of_memory(error) or (self.device.type != "cpu" and is_unable(error))

    def _give_way(self, error: BaseException, used: int) -> None:
        """Halve the batch of `used` items, or move to the CPU; OutOfMemoryError where neither helps."""
        is_memory = is_out_of_memory(error)
        if is_memory and used > 1:
            self.batch_size = used // 2
            say(f"out of memory on {self.device}: retrying with batches of {self.batch_size}")
        elif self.device.type != "cpu":
            reason = "out of memory" if is_memory else (str(error).splitlines() or [type(error).__name__])[0]
            say(f"{self.device} cannot be used ({reason}): the CPU takes over")
            self.device = torch.device("cpu")
            for network in self.networks:
                network.to(self.device)
        else:
            raise OutOfMemoryError("needs more memory than there is")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def is_unable(error: BaseException) -> bool:
    """Whether a device that is no CPU lacks an operator (NotImplementedError), or a driver or code for it."""
    said = str(error).lower()
    return isinstance(error, NotImplementedError) or any(phrase in said for phrase in UNKNOWN_GPU)


def run_each(runner: Runner, batch: Sequence[tuple[Any, Tensor]]) -> list[tuple[Any, Any]]:
    """(name, result) for each (name, tensor) of a batch of one shape, OutOfMemoryError if it fits nowhere."""
    try:
        return list(zip((name for name, _ in batch), runner(torch.stack([tensor for _, tensor in batch]))))
    except OutOfMemoryError as error:
        if len(batch) == 1:
            return [(batch[0][0], error)]
        return [result for single in batch for result in run_each(runner, [single])]
