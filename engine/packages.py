"""Which packages a script needs: what is missing is one line, and not a traceback of its import.

It imports nothing but the standard library, as does what it imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

from engine.base import UserError, say

INFERENCE = ("numpy", "PIL", "torch", "torchvision")
REPOSITORY = Path(__file__).resolve().parent.parent


def require_packages(*more: str) -> None:
    """Import the packages that inference needs; leave with one line and status 2 where one is missing or
    broken, or where one of `more` is missing.
    """
    try:
        for package in INFERENCE:
            importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        _leave(f"a package ({error})", is_training=bool(more))
    missing = [package for package in more if importlib.util.find_spec(package) is None]
    if missing:
        _leave(" and ".join(missing), is_training=True)


def _leave(lacking: str, is_training: bool) -> None:
    if is_training:
        advice = f"use the project's own environment: {activate_command()}"
    else:
        advice = f"install what is needed: {install_command()}"
    say(f"error: {sys.executable} lacks {lacking}; {advice}")
    sys.exit(UserError.exit_status)


def activate_command() -> str:
    """What gives a shell the environment of `make setup`; without make where it is there already."""
    activate = REPOSITORY / ".venv" / "bin" / "activate"
    command = f"source '{activate}'"
    return command if activate.is_file() else f"make -C '{REPOSITORY}' setup && {command}"


def install_command() -> str:
    if sys.version_info < (3, 9):  # requirements.txt knows no versions for them
        return "python3 -m pip install torch torchvision numpy pillow"
    return f"python3 -m pip install -r '{REPOSITORY / 'requirements.txt'}'"
