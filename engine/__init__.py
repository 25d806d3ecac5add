"""What training and inference need whatever the network: run folder, loop, checkpoint, device, distribution,
download, publishing. No network, no data format.

Whatever is imported, this comes first: here the user gets a name and a home where the machine knows none
(docker run --user 54321, HOME unset), which torchvision, matplotlib and the caches want; and where a Python
lacks a package, a line says what to do.
"""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType


def _name_the_user() -> None:
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = f"user{os.getuid()}" if hasattr(os, "getuid") else "user"
    try:
        Path.home()
    except (KeyError, RuntimeError):
        os.environ["HOME"] = _new_home()


def _new_home() -> str:
    """A folder for this user alone: what lies in it is read again, such as weights and decoded images."""
    try:
        home = Path(tempfile.gettempdir()) / f"home-of-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        status = home.lstat()
        is_own = status.st_uid == os.getuid() and not home.is_symlink() and status.st_mode & 0o022 == 0
        return str(home) if is_own else tempfile.mkdtemp(prefix="home-")
    except OSError:  # nothing can be written: what needs a home will say so
        return os.sep


def _say_what_is_missing(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """In place of a traceback's hundred lines; a module of ours that is missing is our mistake."""
    if isinstance(error, ModuleNotFoundError):
        root = (error.name or "").partition(".")[0]
        if not (Path(__file__).resolve().parent.parent / root).is_dir():
            from engine.packages import leave_without

            leave_without(f"a package ({error})")
    sys.__excepthook__(kind, error, trace)


_name_the_user()
sys.excepthook = _say_what_is_missing
