"""Locks on files and folders, which end with the process that has them. Best effort: Windows has none of
them, and not every network share.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator

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
        for part in Path(folder).glob(".*.????????.part"):  # as write_atomically calls them
            with suppress(OSError):
                part.unlink()
        yield
    finally:
        os.close(descriptor)
