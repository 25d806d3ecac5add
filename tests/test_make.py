"""A machine that lacks something hears from `make` what to install, before anything is made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def make_setup(tmp_path: Path, python: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
    command = ["make", "setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "venv").exists()
    return done


def pretended_python(tmp_path: Path, script: str) -> str:
    path = tmp_path / "some python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_without_python_it_says_which_to_install(tmp_path):
    assert "install Python 3.9 or newer" in make_setup(tmp_path, str(tmp_path / "nowhere")).stderr


def test_an_old_python_is_called_old(tmp_path):
    python = pretended_python(tmp_path, '[ "$1" = --version ] && echo Python 3.6.9 && exit 0; exit 1')
    assert "Python 3.6.9 is too old, this needs 3.9 or newer" in make_setup(tmp_path, python).stderr


def test_without_venv_it_says_what_to_install(tmp_path):
    python = pretended_python(tmp_path, 'case "$2" in *ensurepip*) exit 1;; esac; exit 0')
    assert "sudo apt install python3-venv" in make_setup(tmp_path, python).stderr


def test_make_alone_lists_what_there_is():
    done = subprocess.run(["make", "-s"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "test-real", "submission"):
        assert f"make {target}" in done.stdout


def test_the_demo_refuses_a_folder_that_is_no_data(tmp_path):
    command = ["make", "demo", f"DATA={tmp_path}", f"VENV={tmp_path / 'venv'}"]
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "installed").touch()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and f"{tmp_path} is no hw1_data" in done.stderr
