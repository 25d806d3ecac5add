"""Thousands of tiles take the memory of few: make test-memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from datasets.palette import COLOURS
from tests.grader import REPOSITORY, random_image, save, wrapper_environment

DRAWN = 16  # files that differ; the others are links to them
SIDE = 512  # the course's
SLACK = 1.1
# Runs the command, and says the most memory that it or a child of it took, in kB.
PEAK = """
import resource, subprocess, sys

status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def peak(*command: object, **environment: object) -> int:
    command = [sys.executable, "-c", PEAK, *map(str, command)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=wrapper_environment(**environment), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """DRAWN tiles and masks of the course's size."""
    folder = tmp_path_factory.mktemp("drawn")
    for number in range(DRAWN):
        tile = random_image(number, SIDE, SIDE)
        save(tile, folder / f"{number:04d}_sat.jpg")
        save(COLOURS[tile[..., 0] // 37], folder / f"{number:04d}_mask.png")
    return folder


def links(folder: Path, drawn: Path, count: int, ending: str) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04d}_{ending}").symlink_to(drawn / f"{number % DRAWN:04d}_{ending}")
    return folder


def assert_bounded(few: int, many: int) -> None:
    print(f"{few / 1024:.0f} and {many / 1024:.0f} MB")
    assert many <= SLACK * few


def test_masks_of_2000_tiles_take_the_memory_of_250(drawn, p2_model, tmp_path):
    few, many = (
        peak(
            "bash",
            "hw1_2.sh",
            links(tmp_path / f"tiles{count}", drawn, count, "sat.jpg"),
            tmp_path / f"masks{count}",
            P2_CHECKPOINT=p2_model,
        )
        for count in (250, 2000)
    )
    assert_bounded(few, many)


def test_the_score_of_2000_pairs_takes_the_memory_of_257(drawn, tmp_path):
    few, many = (
        peak(sys.executable, "mean_iou_evaluate.py", "-g", folder, "-p", folder)
        for folder in (links(tmp_path / f"pairs{count}", drawn, count, "mask.png") for count in (257, 2000))
    )
    assert_bounded(few, many)
