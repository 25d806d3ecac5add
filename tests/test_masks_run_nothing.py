"""Masks are opened as bitmaps alone: none starts a program, forges a score, or is waited for without end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mean_iou_evaluate
from benchmarks import bench_mean_iou
from datasets import images
from datasets.images import ImageError
from datasets.palette import COLOURS
from datasets.tile_pairs import read_mask
from tests.strange_files import KINDS, make_strange

CASES = Path(__file__).resolve().parent / "cases" / "eps_forge"
SCRIPT = Path(mean_iou_evaluate.__file__)
PICTURE = Image.fromarray(COLOURS[np.arange(4096).reshape(64, 64) % 7])


def score(labels: Path, pred: Path, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, "-g", labels, "-p", pred]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **more})


def test_a_mask_of_postscript_starts_no_ghostscript_and_prints_no_score(tmp_path):
    ghostscript, started = tmp_path / "bin" / "gs", tmp_path / "started"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\necho mean_iou: 0.999990\ntouch '{started}'\n")
    ghostscript.chmod(0o755)
    done = score(CASES / "g", CASES / "p", PATH=f"{ghostscript.parent}{os.pathsep}{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert "0000_mask.png" in done.stderr and "not an image" in done.stderr
    assert not started.exists()


def test_the_scorer_which_stands_alone_opens_what_all_others_open():
    assert mean_iou_evaluate.FORMATS == images.FORMATS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # IM
@pytest.mark.parametrize(
    "form",
    ["EPS", "PDF", "ICO", "ICNS", "JPEG2000", "TGA", "PCX", "SGI", "DDS", "IM", "MSP", "XBM", "BLP"],
)
def test_no_other_format_is_opened_whatever_the_file_is_called(form, tmp_path):
    mask = tmp_path / "0000_mask.png"
    mode = {"MSP": "1", "XBM": "1", "BLP": "P"}.get(form, "RGB")
    PICTURE.convert(mode).save(mask, format=form)
    with pytest.raises(mean_iou_evaluate.MaskError, match="not an image"):
        mean_iou_evaluate.read_rgb(str(mask))
    with pytest.raises(ImageError, match="not an image"):
        read_mask(mask)


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_bitmaps_are_read_as_they_were(form, tmp_path):
    mask = tmp_path / "0000_mask.png"
    options = {"lossless": True} if form == "WEBP" else {}
    PICTURE.save(mask, format=form, **options)
    assert (mean_iou_evaluate.read_rgb(str(mask)) == np.array(PICTURE)).all()
    assert (read_mask(mask) == np.arange(4096).reshape(64, 64) % 7).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_of_bounded_size_is_named_in_a_line(kind, tmp_path):
    """A FIFO would be waited for without end, a device read without end."""
    for side in ("labels", "pred"):
        shutil.copytree(CASES / "g", tmp_path / side)
    (tmp_path / "pred" / "0000_mask.png").unlink()
    make_strange(tmp_path / "pred" / "0000_mask.png", kind)
    done = score(tmp_path / "labels", tmp_path / "pred")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert "pred/0000_mask.png" in done.stderr
    with pytest.raises(ImageError, match="0000_mask.png"):
        read_mask(tmp_path / "pred" / "0000_mask.png")


def test_the_plain_scorer_that_ours_is_measured_against_opens_png_alone(tmp_path):
    with pytest.raises(OSError, match="cannot identify"):
        bench_mean_iou.read_masks(str(CASES / "p"))
    make_strange(tmp_path / "0000_mask.png", "fifo")
    with pytest.raises(SystemExit, match="not a regular file"):
        bench_mean_iou.read_masks(str(tmp_path))


def test_every_image_that_we_open_is_opened_by_a_list_of_formats():
    for path in SCRIPT.parent.rglob("*.py"):
        if not {"tests", ".venv"} & set(path.relative_to(SCRIPT.parent).parts):
            opened = [line for line in path.read_text("utf-8").splitlines() if "Image.open(" in line]
            assert all("formats=" in line for line in opened), path
