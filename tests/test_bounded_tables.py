"""A table of any shape is read as it was meant and in bounded time; a name too long for its mask is named."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import p1_inference
import p2_inference
from datasets.images import path_inside
from datasets.labelled import load_training
from datasets.score import matched_labels
from datasets.tables import read_labels, read_table
from tests.grader import call, random_image, save

CASES = Path(__file__).resolve().parent / "cases" / "csv"
SECONDS = 20  # on a busy machine; alone it is below two


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8"))
    return path


def answers(tmp_path: Path, table: Path, model: Path) -> tuple[int, list[str]]:
    """The status of p1_inference.py, and the lines of what it writes."""
    out = tmp_path / "out.csv"
    flags = ("--csv", table, "--images", tmp_path / "images", "--output", out, "--checkpoint", model)
    status = call(p1_inference, *flags)
    return status, out.read_text("utf-8").splitlines() if out.is_file() else []


@pytest.fixture
def images(tmp_path) -> Path:
    for name in ("3_1.jpg", "1_13.jpg", "a, b.jpg"):
        save(random_image(len(name)), tmp_path / "images" / name)
    return tmp_path / "images"


def test_a_space_after_the_comma_is_none_of_the_name(images, tmp_path, p1_model):
    """Training found the image of `0, 3_1.jpg, 3`, hw1_1.sh did not."""
    rows = read_labels(CASES / "spaces.csv")[:2]
    assert [(row["filename"], row["label"]) for row in rows] == [("3_1.jpg", "3"), ("1_13.jpg", "1")]
    table = written(tmp_path / "spaces.csv", "id, filename, label\n0, 3_1.jpg, 3\n1, 1_13.jpg, 1\n")
    status, lines = answers(tmp_path, table, p1_model)
    assert status == 0
    assert [line.rsplit(",", 1)[0] for line in lines] == ["id,filename", "0, 3_1.jpg", "1, 1_13.jpg"]
    assert matched_labels(tmp_path / "out.csv", table)  # the scorer pairs them
    assert len(load_training(images, table, 16, tmp_path / "cache")) == 2


@pytest.mark.parametrize(
    "cell",
    ["3_1.jpg", " 3_1.jpg", "  3_1.jpg", "3_1.jpg ", "\t3_1.jpg", ' "3_1.jpg"', '"3_1.jpg"', '" 3_1.jpg"'],
)
def test_spaces_around_a_name_do_not_matter(cell, images, tmp_path):
    table = written(tmp_path / "t.csv", f"id,filename,label\n0,{cell},3\n")
    (row,) = read_table(table)
    assert path_inside(images, row["filename"]) == str(images / "3_1.jpg")
    assert read_labels(table)[0]["filename"] == "3_1.jpg"


def test_quotes_after_a_space_hold_a_comma_together(images, tmp_path):
    (row,) = read_table(written(tmp_path / "t.csv", 'id, filename, label\n0, "a, b.jpg", "3"\n'))
    assert (row["filename"], row["label"]) == ("a, b.jpg", "3")
    assert path_inside(images, row["filename"]) == str(images / "a, b.jpg")


def test_a_file_that_is_called_with_a_space_is_found(images):
    save(random_image(7), images / " 3_1.jpg")
    assert path_inside(images, " 3_1.jpg") == str(images / " 3_1.jpg")


@pytest.mark.parametrize("name", [" /etc/passwd", " ../x.jpg", "../ x.jpg", " a/../../x.jpg ", " ..", "a\0 "])
def test_spaces_lead_no_name_out_of_the_folder(name, images):
    assert path_inside(images, name) is None


MANY = ",".join(f"c{number}" for number in range(100_000))
ROW = "id,filename,label\n0,3_1.jpg,3"
NOTED = "id,filename,label,note\n0,3_1.jpg,3,"
HUGE = {
    "a cell of 200 kB": NOTED + "x" * 200_000,
    "a cell of 20 MB": NOTED + "x" * 20_000_000,
    "a quoted cell of 2,500,000 lines": NOTED + '"' + "x\n" * 2_500_000 + '"',
    "100,000 columns": f"id,filename,label,{MANY}\n0,3_1.jpg,3" + ",1" * 100_000,
    "100,000 columns of one name": "id,filename,label" + ",c" * 100_000 + "\n0,3_1.jpg,3",
    "the columns after 100,000 others": f"{MANY},filename,id,label\n" + "," * 100_000 + "3_1.jpg,0,3",
    "a row of 1,000,000 cells": ROW + "," * 1_000_000,
    "1,000,000 blank lines": ROW + "\n" * 1_000_000,
    "500,000 lines of commas": ROW + "\n,," * 500_000,
    "NUL, and every character that might stand in for it": NOTED
    + "\0"
    + "".join(map(chr, range(0xE000, 0x10FFFF))),
}


@pytest.mark.parametrize("what", HUGE)
def test_a_table_of_any_shape_is_read_in_bounded_time(what, tmp_path):
    table = written(tmp_path / "huge.csv", HUGE[what])
    started = time.process_time()
    (row,) = read_labels(table)
    assert (row["filename"], row["label"], row["id"]) == ("3_1.jpg", "3", "0")
    assert time.process_time() - started < SECONDS


def test_a_name_of_any_length_is_an_image_that_is_not_there(images, tmp_path, p1_model):
    names = ["3_1.jpg", *("x" * length + ".jpg" for length in (251, 252, 5_000, 200_000))]
    table = written(tmp_path / "long.csv", "filename\n" + "\n".join(names))
    status, lines = answers(tmp_path, table, p1_model)
    assert status == 1 and [line.split(",")[1] for line in lines[1:]] == names


def test_characters_that_are_none_of_ours_come_back_as_they_are(tmp_path):
    (row,) = read_table(written(tmp_path / "t.csv", "filename\n\ue000\ue001.jpg\n"))
    assert row["filename"] == "\ue000\ue001.jpg"
    (row,) = read_table(written(tmp_path / "t.csv", "filename\n\ue000\0.jpg\n"))
    assert row["filename"] == "\ue000\0.jpg"


@pytest.mark.parametrize("letter", ["x", "é", "山"])
def test_a_tile_whose_mask_has_too_long_a_name_is_named_and_the_others_done(
    letter, tmp_path, p2_model, capsys
):
    """A name of 255 bytes ends in _sat.jpg, its mask's has 256."""
    stem = letter * (246 // len(letter.encode()))
    stem += "y" * (247 - len(stem.encode()))
    tiles, masks = tmp_path / "tiles", tmp_path / "masks" / "new"
    for name in (f"{stem}_sat.jpg", f"{stem[:-1]}_sat.jpg", "0001_sat.jpg"):
        save(random_image(len(name), 32, 32), tiles / name)
    assert len(f"{stem}_sat.jpg".encode()) == 255
    assert call(p2_inference, "--images", tiles, "--output", masks, "--checkpoint", p2_model) == 1
    assert {path.name for path in masks.iterdir()} == {f"{stem[:-1]}_mask.png", "0001_mask.png"}
    assert f"no mask for {stem}_sat.jpg" in capsys.readouterr().err
    (tiles / "0001_sat.jpg").unlink()
    (tiles / f"{stem[:-1]}_sat.jpg").unlink()
    alone = tmp_path / "alone"
    assert call(p2_inference, "--images", tiles, "--output", alone, "--checkpoint", p2_model) == 2
    assert not alone.exists()


@pytest.mark.parametrize("size", [(4097, 8), (8, 4097), (9000, 9000)])
def test_a_tile_above_4096_pixels_a_side_is_named_and_the_others_done(size, tmp_path, p2_model, capsys):
    tiles, masks = tmp_path / "tiles", tmp_path / "masks"
    save(random_image(1, 32, 32), tiles / "0000_sat.jpg")
    Image.new("RGB", size).save(tiles / "0001_sat.jpg")
    assert call(p2_inference, "--images", tiles, "--output", masks, "--checkpoint", p2_model) == 1
    said = capsys.readouterr().err
    assert "no mask for 0001_sat.jpg" in said and "4,096" in said
    assert [path.name for path in masks.iterdir()] == ["0000_mask.png"]


def test_a_tile_of_4096_pixels_a_side_has_its_mask(tmp_path, p2_model):
    tiles, masks = tmp_path / "tiles", tmp_path / "masks"
    save(np.zeros((16, 4096, 3), np.uint8), tiles / "0000_sat.png")
    assert call(p2_inference, "--images", tiles, "--output", masks, "--checkpoint", p2_model) == 0
    with Image.open(masks / "0000_mask.png") as mask:
        assert mask.size == (4096, 16)
