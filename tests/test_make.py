"""`make` says what a machine lacks before anything is made; its demo goes on where only some inputs are unusable."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

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
    for target in ("demo", "p1", "test", "test-real", "submission"):
        assert f"make {target}" in done.stdout


def test_the_demo_refuses_a_folder_that_is_no_data(tmp_path):
    command = ["make", "demo", f"DATA={tmp_path}", f"VENV={tmp_path / 'venv'}"]
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "installed").touch()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and f"{tmp_path} is no hw1_data" in done.stderr


def test_problem_1_asks_for_the_courses_data(tmp_path):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "installed").touch()
    command = ["make", "p1", f"DATA={tmp_path}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and "make p1 DATA=hw1_data" in done.stderr


@pytest.mark.parametrize("own", ["", "1"])
def test_problem_1_takes_the_courses_backbone_unless_told_to_train_one(tmp_path, own):
    for folder in ("bin", "venv", "data/p1_data/office", "data/p1_data/mini/train"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "venv" / "installed").touch()
    (tmp_path / "data/p1_data/pretrain_model_SL.pt").touch()
    python = tmp_path / "bin" / "python3"
    python.write_text(
        '#!/bin/sh\necho "$*" >>"$CALLS"\n[ "$2" = models.export ] && mkdir -p "$OUT/sl" && touch "$4"\nexit 0\n'
    )
    python.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = [
        "make",
        "p1",
        f"DATA={tmp_path / 'data'}",
        f"VENV={tmp_path / 'venv'}",
        f"P1_OUT={tmp_path / 'out'}",
        f"OWN_SL={own}",
    ]
    environment = {**os.environ, "PATH": path, "CALLS": str(tmp_path / "calls"), "OUT": str(tmp_path / "out")}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == (5 if own else 3)
    course = f"--sl-backbone {tmp_path / 'data/p1_data/pretrain_model_SL.pt'} "
    assert (course in calls[-2]) is (not own)


@pytest.mark.parametrize(("status", "goes_on"), [(1, True), (2, False)])
def test_the_demo_goes_on_where_some_inputs_could_not_be_used(tmp_path, status, goes_on):
    for folder in ("bin", "venv", "data/p1_data/office", "data/p1_data/mini/train", "data/p2_data/train"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "venv" / "installed").touch()
    python = tmp_path / "bin" / "python3"  # scripts end with the status, the scores with 0
    python.write_text(
        '#!/bin/sh\nmkdir -p "$OUT"\necho "$*" >>"$CALLS"\ncase "$*" in\n'
        f'*contact_sheet*) touch "$OUT/contact_sheet.png"; exit {status};;\n*p[12]_*.py*) exit {status};;\nesac\n'
    )
    python.chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    # OUT on the command line keeps the repository's own demo/ as it is.
    command = ["make", "demo", f"DATA={tmp_path / 'data'}", f"VENV={tmp_path / 'venv'}", f"OUT={tmp_path / 'out'}"]
    environment = {**os.environ, "PATH": path, "CALLS": str(tmp_path / "calls")}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == (0 if goes_on else 2), done.stderr
    assert len((tmp_path / "calls").read_text().splitlines()) == (11 if goes_on else 1)
