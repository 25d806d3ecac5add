"""From runs and predictions to what is handed in: pictures, tables, the folder itself."""

from __future__ import annotations

import argparse
from pathlib import Path

import engine  # noqa: F401  it says in a line what a Python lacks

# In the repository, wherever a command is called from: a path that is given is looked for in the folder where
# the user is, the default ones never.
OUTPUT = Path(__file__).resolve().parent / "out"  # what report.build writes, and report.submission hands in
ANSWERS = Path(__file__).resolve().parent / "answers.md"  # the student's own words


def parser_of(command: str, about: str) -> argparse.ArgumentParser:
    """Of `python3 -m report.COMMAND`; `about` is its module's docstring, shown as it stands."""
    program, how = f"python3 -m report.{command}", argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=program, description=about, formatter_class=how)
