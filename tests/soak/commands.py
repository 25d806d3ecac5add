"""A user's command, for a child to call: `python3 p1_inference.py ...` or `python3 -m report.build ...`."""

from __future__ import annotations

import importlib
import os
import pkgutil
import resource
import runpy
import sys
from pathlib import Path
from typing import Callable

import matplotlib.figure  # noqa: F401  imported here once, for all children
import torch.utils.tensorboard  # noqa: F401

from engine import manifest
from tests.killing import REPOSITORY, add_tiny_networks

ROOM = 3 << 30  # bytes of memory more than this process has, for a reader that does not stop reading
LARGEST_FILE = 200 << 20
ROOMS = ("datasets", "engine", "models", "recipes", "report")


def import_all() -> None:
    """All our modules, so that no child needs the time for it."""
    for room in ROOMS:
        package = importlib.import_module(room)
        for module in pkgutil.iter_modules(package.__path__, f"{room}."):
            importlib.import_module(module.name)


def command(script: str, *arguments: str) -> Callable[[], None]:
    """`script` is the name of a script, or of a module to run. It knows the tiny networks, saves a checkpoint
    after every step, and takes checkpoints/ of the working folder for the published weights.
    """

    def main() -> None:
        _limit_memory()
        for name in ("P1_CHECKPOINT", "P1_50_CHECKPOINT", "P2_CHECKPOINT", "EDITION"):
            os.environ.pop(name, None)
        add_tiny_networks()
        manifest.FOLDER = Path.cwd() / "checkpoints"
        path = REPOSITORY / f"{script}.py"
        sys.argv = [f"{script}.py", *arguments]
        if path.is_file():
            runpy.run_path(str(path), run_name="__main__")
        else:
            sys.modules.pop(script, None)  # or runpy warns of it
            runpy.run_module(script, run_name="__main__", alter_sys=True)

    return main


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
