"""Count what a process does to files, and kill it at the N-th moment of that count.

An operation has a moment before it and one after it; a write has one more, when its first half is written.
Seen is what Python does: the functions of os that change files, and what open() writes, in all threads.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import os
import signal
import threading
from typing import Any, Callable

CHANGING = (
    "replace",
    "rename",
    "mkdir",
    "rmdir",
    "unlink",
    "remove",
    "fsync",
    "chmod",
    "truncate",
    "ftruncate",
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

_moments = 0
_last = 0
_lock = threading.Lock()


def _moment() -> None:
    global _moments
    with _lock:
        _moments += 1
        if _moments == _last:
            os.kill(os.getpid(), signal.SIGKILL)


def moments() -> int:
    """How many there have been."""
    return _moments


def watch(kill_at: int = 0) -> None:
    """Count from now on, in this process alone; die at moment `kill_at` (from 1; 0 is never)."""
    global _moments, _last
    _moments, _last = 0, kill_at
    for name in CHANGING:
        setattr(os, name, _watched(getattr(os, name)))
    fcntl.flock = _watched(fcntl.flock)
    os.open = _watched(os.open, only_if=lambda path, flags, *rest, **options: flags & WRITING)
    builtins.open = io.open = _open_watched


def _watched(
    function: Callable, only_if: Callable[..., object] = lambda *arguments, **options: True
) -> Callable:
    def operation(*arguments: Any, **options: Any) -> Any:
        if not only_if(*arguments, **options):
            return function(*arguments, **options)
        _moment()
        try:
            return function(*arguments, **options)
        finally:
            _moment()

    return operation


class _WatchedFile(io.FileIO):
    """The lowest layer of what open() gives: each write is a system call."""

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        _moment()
        first = super().write(data[: len(data) // 2])
        _moment()
        rest = super().write(data[first:])
        _moment()
        return first + rest


_open = io.open


def _open_watched(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """open(), with a watched lowest layer where the file is opened for writing."""
    if not set(mode) & set("wax+"):
        return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    _moment()
    raw = _WatchedFile(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    _moment()
    if buffering == 0:
        return raw
    buffered = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
    text.mode = mode
    return text
