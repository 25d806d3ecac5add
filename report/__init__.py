"""From runs and predictions to what is handed in: pictures, tables, the folder itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from engine.arguments import parser_for

# In the repository, wherever a command is called from: a path that is given is looked for in the folder where
# the user is, the default ones never.
OUTPUT = Path(__file__).resolve().parent / "out"  # what report.build writes, and report.submission hands in
ANSWERS = Path(__file__).resolve().parent / "answers.md"  # the student's own words


def parser_of(command: str, about: str) -> argparse.ArgumentParser:
    """Of `python3 -m report.COMMAND`; `about` is its module's docstring, shown as it stands."""
    return parser_for(about, prog=f"python3 -m report.{command}")
