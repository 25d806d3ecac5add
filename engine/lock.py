"""Locks on files and folders, which end with the process that has them. Best effort: Windows has none,
nor has every network share."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterable, Iterator

from engine.base import LONGEST_IN_PART

WAITING = 60  # seconds for another process that writes into the same folder


def is_free(descriptor: int) -> bool:
    """Take the lock of an open file; False when another process has it, True also where there are none."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


@contextmanager
def sole_writer(folder: str | Path) -> Iterator[None]:
    """Wait until no other process is in here with this folder, and remove what a killed one was writing."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders; whoever writes says what else is wrong
        yield
        return
    try:
        deadline = time.monotonic() + WAITING
        while not is_free(descriptor) and time.monotonic() < deadline:
            time.sleep(0.1)
        _remove_parts(folder)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def one_of_several_writers(folder: str | Path, names: Iterable[str]) -> Iterator[None]:
    """Others may write here at the same time. Where none does, what a killed one left of `names` goes."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with suppress(OSError):  # another one is in here, or there are no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_parts(folder, names)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_parts(folder: str | Path, names: Iterable[str] | None = None) -> None:
    """What write_atomically was writing of the files `names`, or of any file."""
    wanted = None if names is None else {name[:LONGEST_IN_PART] for name in names}
    for part in Path(folder).glob(".*.????????.part"):
        if wanted is None or part.name[1 : -len(".????????.part")] in wanted:
            with suppress(OSError):
                part.unlink()
