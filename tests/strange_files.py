"""What may lie where a file is expected: for tests of everything that reads one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

KINDS = (
    "fifo",
    "endless device",
    "empty device",
    "folder",
    "socket",
    "link to itself",
    "link to a fifo",
    "huge",
)


def make_strange(path: Path, kind: str) -> Path:
    """Put one of KINDS at `path`, which is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "endless device":
        path.symlink_to("/dev/zero")
    elif kind == "empty device":
        path.symlink_to("/dev/null")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        _bind(path)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "link to a fifo":
        os.mkfifo(path.with_name(".waits"))
        path.symlink_to(".waits")
    else:  # takes no room on the disk
        with open(path, "wb") as file:
            file.truncate(8 << 30)
    return path


def _bind(path: Path) -> None:
    # A socket's path has some 100 letters at most.
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(before)
