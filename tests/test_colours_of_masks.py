"""Masks without the scored colours are refused, masks in many other colours are named with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import p2_train
from datasets.palette import COLOURS
from datasets.tile_pairs import load_pairs
from engine.base import UserError
from tests.grader import call

CASES = Path(__file__).resolve().parent / "cases" / "masks" / "P_grey_ramp"
SIDE = 64


def classes_of(seed: int) -> np.ndarray:
    """(SIDE, SIDE) classes 0 to 5, in patches."""
    return np.random.default_rng(seed).integers(0, 6, (8, 8)).astype(np.uint8).repeat(8, 0).repeat(8, 1)


def write_pairs(folder: Path, masks: list) -> Path:
    folder.mkdir(parents=True)
    for number, mask in enumerate(masks):
        Image.new("RGB", (SIDE, SIDE), (90, 120, 60)).save(folder / f"{number:04d}_sat.jpg")
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        image.save(folder / f"{number:04d}_mask.png")
    return folder


def almost(seed: int) -> np.ndarray:
    """The colours, each channel three from where it should be."""
    return np.clip(COLOURS[classes_of(seed)].astype(int), 3, 252)


def grey_palette(factor: int) -> Image.Image:
    """Class numbers, each shown as a grey: to a reader of colours a colour image."""
    image = Image.fromarray(np.append(classes_of(0)[:, :-1], np.full((SIDE, 1), 6, np.uint8), axis=1))
    image.putpalette([min(255, factor * (index // 3)) for index in range(768)])
    return image


REFUSED = {
    "grey ramp in a palette": grey_palette(1),
    "grey ramp in RGB": grey_palette(1).convert("RGB"),
    "grey ramp in RGBA": grey_palette(1).convert("RGBA"),
    "grey steps of 20": grey_palette(20),
    "grey steps of 40, the lightest almost white": grey_palette(40),
    "class numbers in red": np.stack([classes_of(0), *2 * [np.zeros((SIDE, SIDE), np.uint8)]], axis=2),
    "black": np.zeros((SIDE, SIDE, 3), np.uint8),
    "red": np.full((SIDE, SIDE, 3), (255, 0, 0), np.uint8),
    "a photograph, dark": np.random.default_rng(0).integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_set_of_masks_without_a_scored_colour_is_refused(what, tmp_path):
    folder = write_pairs(tmp_path / "train", 3 * [REFUSED[what]])
    with pytest.raises(UserError, match="no pixel of its 3 masks has one of the six scored colours") as error:
        load_pairs(folder, tmp_path / "cache")
    assert str(folder) in str(error.value)


def test_training_on_class_numbers_ends_before_it_begins(tmp_path, capsys):
    """It said "loss 0.0000: all is well"."""
    out = tmp_path / "run"
    assert call(p2_train, "--data", CASES, "--output", out, "--cache", tmp_path / "cache", "--epochs", 1) == 2
    said = capsys.readouterr()
    assert "error: " in said.err and "six scored colours" in said.err and "(1,1,1)" in said.err
    assert said.out == "" and not out.exists()


_NUMBERS = np.bincount(classes_of(0)[:, :-1].ravel())[1:]
COMMONEST_GREY = "({0},{0},{0})".format(1 + _NUMBERS.argmax())
WARNED = {
    "blue, green, red": (COLOURS[classes_of(1)][:, :, ::-1], "(255,0,0)"),
    "shades that are almost the colours": (almost(2), "(252,252,3)"),
    "half of the masks as class numbers": (np.array(grey_palette(1).convert("RGB")), COMMONEST_GREY),
    "an eighth colour": (
        np.where(classes_of(3)[..., None] == 5, 128, COLOURS[classes_of(3)]),
        "(128,128,128)",
    ),
}


@pytest.mark.parametrize("what", WARNED)
def test_many_pixels_in_a_colour_of_no_class_are_named_with_the_colour(what, tmp_path, capsys):
    mask, colour = WARNED[what]
    folder = write_pairs(tmp_path / "train", [mask.astype(np.uint8), COLOURS[classes_of(4)]])
    pairs = load_pairs(folder, tmp_path / "cache")
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: "))
    assert str(folder) in warning and colour in warning
    assert len(pairs) == 2 and (pairs.mask(1) == classes_of(4)).all()
    load_pairs(folder, tmp_path / "cache")  # from the cache it is said again
    assert "warning: " in capsys.readouterr().err


def test_shades_that_a_lossy_format_leaves_are_trained_on_with_a_warning(tmp_path, capsys):
    pairs = load_pairs(write_pairs(tmp_path / "train", [almost(2).astype(np.uint8)]), tmp_path / "cache")
    assert (pairs.mask(0) == classes_of(2)).all() and "warning: " in capsys.readouterr().err


@pytest.mark.parametrize("count, is_said", [(4, False), (5, True)])  # 0.1 % of 4,096 pixels are 4.1
def test_a_handful_of_red_pixels_as_in_the_course_masks_is_nothing_to_speak_of(
    count, is_said, tmp_path, capsys
):
    mask = COLOURS[classes_of(5)]
    mask.reshape(-1, 3)[:count] = (255, 0, 0)
    load_pairs(write_pairs(tmp_path / "train", [mask]), tmp_path / "cache")
    assert ("warning: " in capsys.readouterr().err) == is_said


def test_a_set_in_which_only_some_masks_are_black_is_as_the_course_has_it(tmp_path, capsys):
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    load_pairs(write_pairs(tmp_path / "train", [black, black, COLOURS[classes_of(6)]]), tmp_path / "cache")
    assert "warning: " not in capsys.readouterr().err
