"""Which samples an epoch holds, and their order: from (seed, epoch) alone, so a resumed run sees the same."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import sys
import traceback
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, Iterator, Sequence

import numpy as np
import torch

from engine.base import say

PATIENCE = 120  # seconds for one batch
FILES, FILES_A_WORKER = 64, 16  # open at a time


def epoch_order(count: int, seed: int, epoch: int, weights: np.ndarray | None) -> np.ndarray:
    """The samples of one epoch: a permutation, or as many draws with the given weights."""
    generator = np.random.default_rng((seed, epoch))
    if weights is None:
        return generator.permutation(count)
    return generator.choice(count, size=count, p=weights)


def batches(
    order: Sequence[int], epoch: int, batch_size: int, first: int
) -> Iterator[list[tuple[int, int, int]]]:
    """Batches of (epoch, position, sample) from the `first` batch on; a short last one is dropped."""
    for start in range(first * batch_size, len(order) - batch_size + 1, batch_size):
        yield [(epoch, position, int(order[position])) for position in range(start, start + batch_size)]


class EpochLoader:
    """Called with an epoch, gives its batches; `dataset` is asked for (epoch, position, sample).

    Of each batch only the `share`, where several processes train together. Workers stay from epoch to epoch.
    Where the machine cannot bear so many (Docker gives 64 MB of /dev/shm), it goes on with fewer, and with
    the same batches: no sample depends on who makes it. `is_pinned` ones lie in memory that a GPU can fetch
    from while it computes.
    """

    def __init__(
        self,
        dataset: torch.utils.data.Dataset,
        seed: int,
        batch_size: int,
        workers: int,
        weights: np.ndarray | None = None,
        share: slice = slice(None),
        is_pinned: bool = False,
    ):
        self.dataset, self.seed, self.batch_size, self.workers = dataset, seed, batch_size, workers
        self.weights, self.share, self.is_pinned = weights, share, is_pinned
        self._batches: list[list[tuple[int, int, int]]] = []  # those that the workers are to make
        self._loader: torch.utils.data.DataLoader | None = None

    def __call__(self, epoch: int, first_batch: int) -> Iterator[Any]:
        """The batches from the `first_batch` on."""
        global _most_workers
        order = epoch_order(len(self.dataset), self.seed, epoch, self.weights)
        left = [batch[self.share] for batch in batches(order, epoch, self.batch_size, first_batch)]
        while True:
            workers = min(self.workers, _most_workers)
            if _files_allow() < workers:
                _tell_of_fewer(workers, _files_allow(), "too few open files are allowed")
                workers = _most_workers = _files_allow()
            try:
                for batch in self._start(left, workers):
                    del left[0]
                    yield batch
                return
            except (OSError, RuntimeError) as error:
                if not workers:  # then they were not the reason
                    raise
                reason = str(error).strip().splitlines() or [type(error).__name__]
                _tell_of_fewer(workers, workers // 2, reason[-1][:200])
                _most_workers = workers // 2
                # What failed is held by its error; it has to end its workers before others are started.
                self._loader = None
                traceback.clear_frames(error.__traceback__)
            for child in multiprocessing.active_children():  # those that it forgot wait for ever
                child.kill()

    def _start(self, batches_left: list, workers: int) -> Iterator[Any]:
        self._batches[:] = batches_left
        if self._loader is None or self._loader.num_workers != workers:
            self._loader = torch.utils.data.DataLoader(
                self.dataset,
                batch_sampler=self._batches,
                num_workers=workers,
                persistent_workers=workers > 0,
                pin_memory=self.is_pinned,
                # A worker that lacks memory or files to send its batch says so to nobody, and would be
                # waited for.
                timeout=PATIENCE if workers else 0,
                # Its own: drawing the workers' seed from torch's would make a resumed run differ.
                generator=torch.Generator(),
            )
        with _deaf_children():
            return iter(self._loader)


# What the machine has turned out to bear.
_most_workers = sys.maxsize


def _files_allow() -> int:
    """Workers for which this process may open enough files: pipes, and the tensors that are on their way."""
    try:
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        is_unlimited = most == resource.RLIM_INFINITY
    except (ImportError, OSError):  # Windows
        return sys.maxsize
    return sys.maxsize if is_unlimited else max(0, (most - FILES) // FILES_A_WORKER)


def _tell_of_fewer(workers: int, fewer: int, reason: str) -> None:
    say(
        f"note: {workers} workers are too many for this machine ({reason}); going on with {fewer}; "
        "--workers 0 needs no shared memory and fewer files"
    )


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started here never hear SIGINT and SIGTERM, which a terminal or SLURM sends to all of a
    group: the main process decides when they end. It hears what came meanwhile afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    if multiprocessing.get_start_method(allow_none=True) not in (None, "fork"):
        # Its start would unblock the signals again.
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@atexit.register
def _end_workers() -> None:
    """Those that are left when the program ends: multiprocessing would end them by SIGTERM, which they do not
    hear, and wait for them without end.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for an accident
    for child in multiprocessing.active_children():
        child.kill()
