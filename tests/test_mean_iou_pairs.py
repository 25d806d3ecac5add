"""mean_iou_evaluate.py compares each prediction with its own label, or says in one line why it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mean_iou_evaluate
from datasets.palette import COLOURS

SCRIPT = Path(mean_iou_evaluate.__file__)


def write_mask(path: Path, classes: list[int]) -> None:
    """A mask of one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(COLOURS[np.array([classes])]).save(path, format="PNG")


def run_script(tmp_path: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, "-g", tmp_path / "labels", "-p", tmp_path / "pred", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """One line on stderr that names all the words, nothing on stdout, exit status 2."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


@pytest.fixture
def two_pairs(tmp_path):
    for side in ("labels", "pred"):
        write_mask(tmp_path / side / "0000_mask.png", [0, 1, 2])
        write_mask(tmp_path / side / "0001_mask.png", [3, 4, 5])
    return tmp_path


def test_the_courses_names_are_paired_by_number(tmp_path):
    numbers = (2, 9, 10, 100)
    for number in numbers:
        classes = [number % 6, 0, 1, 2, 3, 4, 5]
        write_mask(tmp_path / "labels" / f"{number:04d}_mask.png", classes)
        write_mask(tmp_path / "pred" / f"{number}.png", classes)  # 10, 100, 2, 9 in the sort
    done = run_script(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mean_iou: 1.000000" in done.stdout


def test_other_names_are_paired_by_position_and_that_is_said(tmp_path):
    for index, name in enumerate("abc"):
        classes = [index, 0, 1, 2, 3, 4, 5]
        write_mask(tmp_path / "labels" / f"truth_{name}.png", classes)
        write_mask(tmp_path / "pred" / f"{name}.png", classes)
    done = run_script(tmp_path)
    assert done.returncode == 0
    assert "mean_iou: 1.000000" in done.stdout
    assert "paired by their position" in done.stderr


def test_other_names_that_are_equal_on_both_sides_need_no_word(tmp_path):
    for side in ("labels", "pred"):
        write_mask(tmp_path / side / "tile.png", [0, 1, 2, 3, 4, 5])
    assert run_script(tmp_path).stderr == ""


def test_images_and_text_beside_the_masks_are_ignored(two_pairs):
    (two_pairs / "labels" / "0000_sat.jpg").write_bytes(b"no image")
    (two_pairs / "labels" / "0002_mask.PNG").write_bytes(b"no image")
    write_mask(two_pairs / "pred" / "deeper" / "0002_mask.png", [0])
    assert run_script(two_pairs).returncode == 0


def test_a_label_without_prediction_is_refused(two_pairs):
    write_mask(two_pairs / "labels" / "0002_mask.png", [0, 0, 0])
    assert_refused(run_script(two_pairs), str(two_pairs / "pred"), "0002_mask.png")


def test_a_prediction_without_label_is_refused(two_pairs):
    write_mask(two_pairs / "pred" / "0002_mask.png", [0, 0, 0])
    write_mask(two_pairs / "pred" / "0003_mask.png", [0, 0, 0])
    assert_refused(run_script(two_pairs), str(two_pairs / "labels"), "0002_mask.png and 1 more")


def test_two_masks_of_one_number_are_refused(two_pairs):
    write_mask(two_pairs / "pred" / "0001.png", [0, 0, 0])
    assert_refused(run_script(two_pairs), "0001.png", "0001_mask.png", "same number")


def test_other_counts_are_refused_even_a_single_prediction(two_pairs):
    (two_pairs / "pred" / "0000_mask.png").rename(two_pairs / "pred" / "mine.png")
    (two_pairs / "pred" / "0001_mask.png").unlink()
    assert_refused(run_script(two_pairs), "1 masks in", "but 2 in")


def test_another_size_is_refused(two_pairs):
    write_mask(two_pairs / "pred" / "0001_mask.png", [0, 0, 0, 0])
    assert_refused(
        run_script(two_pairs), str(two_pairs / "pred" / "0001_mask.png"), "4x1 pixels", "3x1 pixels"
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_a_grey_image_is_refused(two_pairs, mode):
    grey = Image.fromarray(np.zeros((1, 3), dtype=np.uint16)) if mode == "I;16" else Image.new(mode, (3, 1))
    grey.save(two_pairs / "pred" / "0001_mask.png")
    assert_refused(run_script(two_pairs), str(two_pairs / "pred" / "0001_mask.png"), "grey")


@pytest.mark.parametrize("side", ["labels", "pred"])
def test_a_folder_without_masks_is_refused(two_pairs, side):
    for path in (two_pairs / side).iterdir():
        path.rename(path.with_suffix(".jpg"))
    assert_refused(run_script(two_pairs), str(two_pairs / side), "ends in .png")


@pytest.mark.parametrize("side", ["labels", "pred"])
def test_a_missing_folder_is_refused(two_pairs, side):
    (two_pairs / side).rename(two_pairs / "elsewhere")
    assert_refused(run_script(two_pairs), str(two_pairs / side), "give a folder of masks")


def broken_files(whole: bytes) -> dict[str, bytes]:
    pixels = whole.index(b"IDAT") + 8
    flipped = bytearray(whole)
    flipped[pixels] ^= 0xFF
    return {"empty": b"", "text": b"no image", "cut": whole[:pixels], "flipped": bytes(flipped)}


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "folder"])
def test_a_file_that_is_no_whole_image_is_refused(two_pairs, damage):
    broken = two_pairs / "labels" / "0001_mask.png"
    whole = broken.read_bytes()
    broken.unlink()
    if damage == "folder":
        broken.mkdir()
    else:
        broken.write_bytes(broken_files(whole)[damage])
    assert_refused(run_script(two_pairs), str(broken))


def test_read_masks_refuses_masks_of_two_sizes(two_pairs):
    write_mask(two_pairs / "pred" / "0001_mask.png", [0, 0, 0, 0])
    with pytest.raises(mean_iou_evaluate.MaskError, match="4x1 pixels"):
        mean_iou_evaluate.read_masks(str(two_pairs / "pred"))


def test_json_that_cannot_be_written_is_refused_and_leaves_nothing(two_pairs):
    taken = two_pairs / "taken.json"
    taken.mkdir()
    assert_refused(run_script(two_pairs, "--json", str(taken)), str(taken), "--json")
    assert sorted(path.name for path in two_pairs.iterdir()) == ["labels", "pred", "taken.json"]


def test_missing_arguments_are_refused():
    done = subprocess.run([sys.executable, SCRIPT, "-g", "labels"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "-p/--pred" in done.stderr
