"""A small fixed sample of `make soak`: trainings killed at file operations, broken and hostile inputs of all
commands.
"""

from __future__ import annotations

import subprocess
import sys

from tests.killing import REPOSITORY


def test_the_sample_of_the_soak_holds():
    command = [sys.executable, "-m", "tests.soak", "--sample"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
