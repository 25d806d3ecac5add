"""Run a script of ours in a forked child of this process, which has imported torch and the rest already: what
costs a new Python four seconds costs a fork a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Callable, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PATIENCE = 300.0  # seconds, after which a child hangs; the machine may be busy


class Ended(NamedTuple):
    """How a child ended: its exit status (minus the signal that killed it), and what it said."""

    status: int
    said: str


def run(
    main: Callable[[], object],
    folder: Path,
    *,
    kill: tuple[float, int] | None = None,
    patience: float = PATIENCE,
) -> Ended:
    """Call `main` in a child that works in `folder`; `kill` is after how many seconds it gets which signal.

    AssertionError when the child has not ended after `patience` seconds, or showed a traceback.
    """
    said = folder.parent / f"{folder.name}.said"
    # The soak's own way to stop is not the child's, not even for the moment before it says so.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        _be_the_child(main, folder, said)
    waiting = os.pidfd_open(child)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        if kill is not None and not _ends_within(waiting, kill[0]):
            os.kill(child, kill[1])
        hangs = not _ends_within(waiting, patience)
        if hangs:
            os.kill(child, signal.SIGKILL)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(waiting)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = said.read_text(encoding="utf-8", errors="replace")
    assert not hangs, f"did not end within {patience:.0f} s; it said: {text[-300:]}"
    assert "Traceback (most recent call last)" not in text, f"a traceback: {_gist(text)}"
    return Ended(status, text)


def _gist(said: str) -> str:
    """Of a traceback the error, and the last line of ours that led to it."""
    ours = [line.strip() for line in said.splitlines() if re.match(rf' *File "{REPOSITORY}/(?!tests)', line)]
    return f"{said.strip().splitlines()[-1][:200]} ({ours[-1] if ours else 'not in our code'})"


def _ends_within(waiting: int, seconds: float) -> bool:
    return bool(select.select([waiting], [], [], seconds)[0])


def _be_the_child(main: Callable[[], object], folder: Path, said: Path) -> None:
    """Never returns. Its workers, if it starts any, die with its process group."""
    status = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(ours, theirs)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", closefd=False, buffering=1)
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
    finally:
        os._exit(status)


def timed(main: Callable[[], object], folder: Path) -> tuple[Ended, float]:
    """As `run`, and how many seconds it took."""
    start = time.monotonic()
    return run(main, folder), time.monotonic() - start
