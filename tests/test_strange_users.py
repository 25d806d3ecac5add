"""A user without a name or a home (docker run --user 54321), and a Python without the packages, are told
nothing worse than a line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from engine import packages
from tests.grader import REPOSITORY, random_image, save, wrapper_environment
from tests.test_repository import COMMANDS, relative

NAMELESS = "54321"
LIBRARIES = "import engine, torchvision, matplotlib.font_manager, pathlib, os; print(pathlib.Path.home())"


@pytest.fixture(scope="module")
def nameless() -> list[str]:
    """What makes a command one of a user whom the machine does not know, who may read what we may read."""
    caps = "+dac_override"
    words = ["setpriv", "--reuid", NAMELESS, "--regid", NAMELESS, "--clear-groups"]
    words += [f"--inh-caps={caps}", f"--ambient-caps={caps}"]
    probe = [*words, sys.executable, "-c", "import numpy"]
    is_possible = hasattr(os, "getuid") and os.getuid() == 0 and shutil.which("setpriv")
    if not is_possible or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs root and setpriv, to become a user without a name")
    return words


def run_without(names: tuple[str, ...], *command: object, **more: object) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in wrapper_environment(**more).items() if name not in names}
    done = subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("home", [None, "/", "/nowhere/at/all"])
def test_without_a_name_all_libraries_are_imported(nameless, home, tmp_path):
    tmp_path.chmod(0o777)
    more = {"TMPDIR": tmp_path} if home is None else {"TMPDIR": tmp_path, "HOME": home}
    names = ("USER", "LOGNAME", "LNAME", "USERNAME", *(["HOME"] if home is None else []))
    done = run_without(names, *nameless, sys.executable, "-c", LIBRARIES, **more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (home or str(tmp_path / f"home-of-{NAMELESS}"))


def test_the_home_made_for_a_user_is_nobody_elses(nameless, tmp_path):
    tmp_path.chmod(0o777)
    (tmp_path / f"home-of-{NAMELESS}").mkdir()  # root's: what lies in it is not to be trusted
    done = run_without(
        ("HOME", "USER", "LOGNAME"), *nameless, sys.executable, "-c", LIBRARIES, TMPDIR=tmp_path
    )
    home = done.stdout.strip()
    assert done.returncode == 0 and home.startswith(f"{tmp_path}/home-")
    assert not home.startswith(f"{tmp_path}/home-of-")


def test_without_a_name_every_mask_is_written(nameless, p2_model, tmp_path):
    if subprocess.run([*nameless, "bash", "-c", 'test -x "$0"', sys.executable]).returncode:
        pytest.skip("this Python lies in a folder that only its owner may enter: bash takes another one")
    save(random_image(0, 64, 64), tmp_path / "tiles" / "0000_sat.jpg")
    flags = (tmp_path / "tiles", tmp_path / "masks")
    done = run_without(
        ("HOME", "USER", "LOGNAME"),
        *nameless,
        "bash",
        "hw1_2.sh",
        *flags,
        P2_CHECKPOINT=p2_model,
        TMPDIR=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "masks" / "0000_mask.png").is_file()


TRAINING = {
    "p2_train.py": ("--data", "x", "--output", "y"),
    "p1_finetune.py": ("--data", "x", "--output", "y"),
    "p1_ssl_pretrain.py": ("--images", "x", "--output", "y"),
    "p1_tsne.py": ("--run", "z", "--data", "x", "--output", "y"),
    "p2_sam.py": ("--images", "x", "--output", "y"),
}


def says_what_to_do(line: str) -> bool:
    """Activate the project's environment; whoever runs in it already, install into it."""
    return "/bin/activate'" in line or "pip install -r" in line


@pytest.mark.parametrize("script", TRAINING)
def test_a_python_without_the_packages_is_told_in_a_line_what_to_do(script):
    done = run_without((), sys.executable, "-S", script, *TRAINING[script])  # -S: without site-packages
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "lacks a package (No module named" in done.stderr and says_what_to_do(done.stderr)


@pytest.mark.parametrize("name", [relative(path)[:-3].replace("/", ".") for path in COMMANDS])
def test_a_module_without_its_packages_says_what_to_do_or_needs_none(name):
    done = run_without((), sys.executable, "-S", "-m", name, "--help")
    if done.returncode:
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
        assert "lacks a package (No module named" in done.stderr and says_what_to_do(done.stderr)
    else:
        assert done.stdout.startswith("usage: ")


def test_a_package_that_is_needed_late_is_told_in_a_line_too():
    done = run_without((), sys.executable, "-S", "-m", "models.describe", "resnet18")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "'torch'" in done.stderr


def test_the_score_which_stands_alone_says_it_too():
    done = run_without((), sys.executable, "-S", "mean_iou_evaluate.py", "-g", "x", "-p", "y")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "make setup" in done.stderr


def test_a_module_of_ours_that_is_missing_is_our_mistake():
    done = subprocess.run(
        [sys.executable, "-c", "import engine.nothing"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_python_that_pip_may_not_change_is_not_told_to_use_pip(monkeypatch, tmp_path, capsys):
    """Debian 12 and Ubuntu 24.04."""
    monkeypatch.setattr(packages, "REPOSITORY", tmp_path)
    advice = {}
    for is_managed in (False, True):
        monkeypatch.setattr(packages, "_is_left_to_the_system", lambda: is_managed)  # noqa: B023
        with pytest.raises(SystemExit):
            packages.leave_without("torch", is_training=False)
        advice[is_managed] = capsys.readouterr().err
    assert "pip install" in advice[False] and "make -C" not in advice[False]
    assert "make -C" in advice[True] and "pip install" not in advice[True]


def test_in_its_own_environment_nobody_is_told_to_activate_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(packages, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    with pytest.raises(SystemExit):
        packages.leave_without("torch")
    assert "pip install -r" in capsys.readouterr().err


def test_a_package_that_one_script_needs_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(packages, "REPOSITORY", tmp_path)  # whose environment nobody runs in
    with pytest.raises(SystemExit) as end:
        packages.require_packages("no_such_package", "numpy", "neither_this")
    assert end.value.code == 2
    assert "lacks no_such_package and neither_this; use the project's own" in capsys.readouterr().err


def test_an_environment_that_is_there_is_named_and_else_made(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "REPOSITORY", tmp_path)
    activate = tmp_path / ".venv" / "bin" / "activate"
    assert packages.activate_command() == f"make -C '{tmp_path}' setup && source '{activate}'"
    activate.parent.mkdir(parents=True)
    activate.touch()
    assert packages.activate_command() == f"source '{activate}'"
