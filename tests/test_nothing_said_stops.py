"""What cannot be said stops nothing: streams that are closed, full, read by nobody or of a small encoding;
folders whose names are no UTF-8; Python without asserts and docstrings, or without the script's folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mean_iou_evaluate
import p2_inference
from datasets.palette import COLOURS
from tests.grader import REPOSITORY, call, random_image, save, wrapper_environment

BIG5 = os.fsdecode(b"\xa4\xa4\xa4\xe5 \xa7\xb9")
# What a shell may do to a command's streams; "$@" is the command.
STREAMS = {
    "stdout closed": '"$@" >&-',
    "stderr closed": '"$@" 2>&-',
    "all closed": '"$@" <&- >&- 2>&-',
    "stdout full": '"$@" >/dev/full',
    "stderr full": '"$@" 2>/dev/full',
    "both full": '"$@" >/dev/full 2>&1',
    "nobody reads stdout": '"$@" | true; exit ${PIPESTATUS[0]}',
    "nobody reads anything": '"$@" 2>&1 | true; exit ${PIPESTATUS[0]}',
    "head": '"$@" 2>&1 | head -n 1; exit ${PIPESTATUS[0]}',
}
PLAIN = '"$@"'
STRANGE = {
    "PYTHONIOENCODING": "ascii:strict",
    "PYTHONSAFEPATH": "1",
    "PYTHONOPTIMIZE": "2",
    "LC_ALL": "C",
}


def run(shell: str, *command: object, **environment: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", shell, "bash", *map(str, command)],
        env=wrapper_environment(**environment),
        cwd=REPOSITORY,
        capture_output=True,
        timeout=300,
    )


def assert_quiet(done: subprocess.CompletedProcess, status: int = 0) -> None:
    text = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == status, text
    assert "Traceback" not in text and "Exception ignored" not in text and "Error" not in text, text


@pytest.fixture
def tables(tmp_path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(
        "filename,label\n" + "".join(f"{n}.jpg,class {n}\n" for n in range(5_000)), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize("streams", STREAMS)
def test_a_module_ends_as_it_would(streams, tables):
    assert_quiet(run(STREAMS[streams], sys.executable, "-m", "datasets.score", tables, tables))
    missing = run(STREAMS[streams], sys.executable, "-m", "datasets.score", tables, "nowhere.csv")
    assert_quiet(missing, status=2)
    assert_quiet(run(STREAMS[streams], sys.executable, "-m", "datasets.score", "--help"))


@pytest.mark.parametrize("streams", STREAMS)
def test_the_scorer_that_stands_alone_ends_as_it_would(streams, tmp_path):
    masks = save(COLOURS[np.arange(64).reshape(8, 8) % 7], tmp_path / "masks" / "0000_mask.png").parent
    flags = (sys.executable, mean_iou_evaluate.__file__, "-g", masks, "-p")
    assert_quiet(run(STREAMS[streams], *flags, masks, "--json", tmp_path / "scores.json"))
    assert (tmp_path / "scores.json").read_text("utf-8").startswith('{"mean_iou": ')
    assert_quiet(run(STREAMS[streams], *flags, tmp_path / "nowhere"), status=2)


@pytest.mark.parametrize("streams", ["all closed", "both full", "nobody reads anything"])
def test_every_mask_is_written_and_nothing_said_gets_into_one(streams, tmp_path, p2_model):
    """The first file opened after stderr was closed got its number, and what libraries say with it."""
    tiles = tmp_path / "tiles"
    for number in range(3):
        save(random_image(number, 64, 64), tiles / f"{number:04d}_sat.jpg")
    (tiles / "0009_sat.jpg").write_bytes(b"none")
    assert (
        call(p2_inference, "--images", tiles, "--output", tmp_path / "usual", "--checkpoint", p2_model) == 1
    )
    done = run(STREAMS[streams], "bash", "hw1_2.sh", tiles, tmp_path / "masks", P2_CHECKPOINT=p2_model)
    assert done.returncode == 1, done
    usual = {path.name: path.read_bytes() for path in (tmp_path / "usual").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "masks").iterdir()} == usual


def big5(tmp_path: Path) -> Path:
    folder = tmp_path / BIG5
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    return folder


def test_every_script_answers_in_a_folder_of_any_name_and_a_small_encoding(tmp_path, p1_model, p2_model):
    folder = big5(tmp_path)
    pixels = random_image(1, 64, 64)
    for name in ("a.jpg", f"{BIG5}.jpg"):
        save(pixels, folder / "images" / name)
    save(pixels, folder / "tiles" / f"{BIG5}_sat.jpg")
    save(COLOURS[np.arange(4096).reshape(64, 64) % 7], folder / "labels" / f"{BIG5}_mask.png")
    environment = {**STRANGE, "P2_CHECKPOINT": p2_model}
    assert_quiet(run(PLAIN, "bash", "hw1_2.sh", folder / "tiles", folder / "masks", **environment))
    scores = ("mean_iou_evaluate.py", "-g", folder / "labels", "-p", folder / "masks")
    assert_quiet(run(PLAIN, sys.executable, *scores, **STRANGE))
    out = folder / "out.csv"
    flags = ("--images", folder / "images", "--output", out, "--checkpoint", p1_model, "--edition", 2022)
    assert_quiet(run(STREAMS["head"], sys.executable, "p1_inference.py", *flags, **STRANGE))
    assert os.fsencode(BIG5) in out.read_bytes()
    flags = ("-m", "datasets.score", out, folder / "nowhere.csv")
    assert_quiet(run(PLAIN, sys.executable, *flags, **STRANGE, PYTHONPATH=REPOSITORY), status=2)


def test_training_goes_through_in_a_folder_of_any_name_while_nobody_listens(tmp_path):
    folder = big5(tmp_path)
    for split in ("train", "validation"):
        for number in range(3):
            save(random_image(number, 64, 64), folder / split / f"{number:04d}_sat.jpg")
            mask = COLOURS[np.arange(4096).reshape(64, 64) // 700]
            save(mask, folder / split / f"{number:04d}_mask.png")
    flags = ("--data", folder, "--output", folder / "run", "--cache", folder / "cache", "--device", "cpu")
    command = (sys.executable, "p2_train.py", *flags, "--epochs", 1, "--scale", 0.5, "--batch-size", 2)
    assert_quiet(run(STREAMS["head"], *command, **STRANGE))
    assert (folder / "run" / "model.pt").is_file() and (folder / "run" / "metrics.jsonl").is_file()
    again = run(PLAIN, *command, **STRANGE)  # finished, and its arguments are the same ones
    assert_quiet(again)
    assert b"best mIoU" in again.stdout


@pytest.mark.parametrize("script", sorted(path.name for path in REPOSITORY.glob("p[12]_*.py")))
def test_every_script_finds_its_modules_and_needs_no_docstring(script, tmp_path):
    done = subprocess.run(
        [sys.executable, "-OO", REPOSITORY / script, "--help"],
        env={**wrapper_environment(), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and not done.stderr


MODULES = (
    "datasets.sample",
    "datasets.score",
    "engine.download",
    "engine.export",
    "engine.publish",
    "engine.run_folder",
    "models.describe",
    "report.build",
    "report.compare",
    "report.contact_sheet",
    "report.settings_table",
    "report.submission",
)


def test_every_module_with_a_command_needs_no_docstring():
    script = (
        "import importlib, sys\n"
        f"for name in {MODULES}:\n"
        "    sys.argv = [name, '--help']\n"
        "    try:\n"
        "        importlib.import_module(name).main()\n"
        "    except SystemExit as end:\n"
        "        if end.code: raise\n"
    )
    command = [sys.executable, "-OO", "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: ") == len(MODULES)
