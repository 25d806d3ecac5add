"""File systems without modes, sync, locks or maps (CIFS, S3, FUSE, Lustre): all is written, best effort."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets import cache
from datasets.palette import COLOURS
from engine import lock
from engine.base import write_atomically
from engine.run import Run
from engine.run_folder import is_finished
from tests.grader import REPOSITORY, random_image, save, wrapper_environment

CASES = REPOSITORY / "tests" / "cases"


def refuse(number: int):
    def call(*arguments: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS, errno.EACCES])
def test_without_modes_files_are_written(monkeypatch, tmp_path, number):
    monkeypatch.setattr(os, "chmod", refuse(number))
    with write_atomically(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EROFS])
def test_without_sync_files_are_written(monkeypatch, tmp_path, number):
    monkeypatch.setattr(os, "fsync", refuse(number))
    with write_atomically(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_lost_the_bytes_is_believed(monkeypatch, tmp_path, number):
    monkeypatch.setattr(os, "fsync", refuse(number))
    with pytest.raises(OSError), write_atomically(tmp_path / "file") as temporary:
        temporary.write_text("lost")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF])
def test_without_locks_a_run_trains(monkeypatch, tmp_path, number):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refuse(number))
    for _ in range(2):
        Run(tmp_path / "run", "script.py", {"lr": 1}, {}).close()
    (tmp_path / ".curves.pdf.abcdefgh.part").touch()
    with lock.sole_writer(tmp_path):
        assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize("number", [errno.ENODEV, errno.EINVAL, errno.EPERM, errno.ENOMEM, errno.EOPNOTSUPP])
def test_without_maps_the_same_images_are_read(monkeypatch, tmp_path, number):
    paths = [save(random_image(index, 8 + index, 9), tmp_path / f"{index}.png") for index in range(3)]
    mapped = cache.cached_images(paths, cache_reader, "test", tmp_path)
    expected = [mapped[index].copy() for index in range(3)]
    whole = mapped.as_one((-1,))
    monkeypatch.setattr(np, "memmap", refuse(number))
    read = cache.cached_images(paths, cache_reader, "test", tmp_path)
    assert all(np.array_equal(read[index], image) for index, image in enumerate(expected))
    assert np.array_equal(read.as_one((-1,)), whole) and read.as_one((-1,)).flags.writeable


def cache_reader(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture(scope="module")
def lacking(tmp_path_factory) -> str:
    """The value of LD_PRELOAD with which a process finds no chmod, no fsync and no flock."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no cc to compile tests/cases/lacking with, or no Linux")
    folder, libraries = tmp_path_factory.mktemp("lacking"), []
    for source in sorted((CASES / "lacking").glob("*.c")):
        libraries.append(str(folder / f"{source.stem}.so"))
        subprocess.run([compiler, "-shared", "-fPIC", "-o", libraries[-1], source], check=True)
    assert len(libraries) == 3
    return " ".join(libraries)


def run_lacking(lacking: str, *command: object, **more: object) -> str:
    found = {"LD_PRELOAD": lacking, "PYTHONPATH": f"{CASES / 'nommap'}{os.pathsep}{CASES / 'no_tb'}"}
    environment = wrapper_environment(**found, **more)
    done = subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_a_training_and_its_masks_lack_nothing_where_all_of_it_lacks(lacking, tmp_path):
    """And TensorBoard, which cannot be imported here, is a note."""
    for split in ("train", "validation"):
        for number in range(3):
            save(random_image(number, 64, 64), tmp_path / "data" / split / f"{number:04d}_sat.jpg")
            mask = COLOURS[np.arange(4096).reshape(64, 64) // 700]
            save(mask, tmp_path / "data" / split / f"{number:04d}_mask.png")
    flags = ("--data", tmp_path / "data", "--output", tmp_path / "run", "--cache", tmp_path / "cache")
    quick = ("--device", "cpu", "--epochs", 2, "--scale", 0.5, "--batch-size", 2)
    said = run_lacking(lacking, sys.executable, "p2_train.py", *flags, *quick)
    assert is_finished(tmp_path / "run") and (tmp_path / "run" / "stages.png").is_file()
    assert said.count("note: no events for TensorBoard (ImportError") == 1
    tiles, masks = tmp_path / "data" / "validation", tmp_path / "masks"
    model = tmp_path / "run" / "model.pt"
    run_lacking(lacking, "bash", "hw1_2.sh", tiles, masks, P2_CHECKPOINT=model)
    assert len(list(masks.iterdir())) == 3
    scores = ("-g", tiles, "-p", masks, "--json", tmp_path / "scores.json")
    run_lacking(lacking, sys.executable, "mean_iou_evaluate.py", *scores)
    assert (tmp_path / "scores.json").is_file()
