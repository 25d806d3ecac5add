"""Labelled images: classes come from the CSV alone, broken rows are named, crops follow from numbers
alone.
"""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datasets.augment import ImageCrops, random_box
from datasets.images import evaluation_image, path_inside, read_rgb
from datasets.labelled import are_integers, classes_of, load_evaluation, load_training, shrink
from datasets.sampling import EpochLoader
from datasets.tables import read_class_names
from engine.base import UserError

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def write_table(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("id", "filename", "label"), *((i, *row) for i, row in enumerate(rows))])
    return path


@pytest.fixture
def folder(tmp_path):
    """Nine images of different sizes: 0.jpg to 8.jpg, every third of one colour."""
    (tmp_path / "images").mkdir()
    for number in range(9):
        image = Image.new("RGB", (60 + number, 50), COLOURS[number % 3])
        image.save(tmp_path / "images" / f"{number}.jpg", quality=95)
    return tmp_path / "images"


@pytest.fixture
def load(folder, tmp_path):
    """Load a table of these rows for training."""

    def load(*rows, image_size=32):
        return load_training(
            folder, write_table(tmp_path / "train.csv", rows), image_size, tmp_path / "cache"
        )

    return load


# -- classes -------------------------------------------------------------------------------------------------


def test_numbers_are_classes_in_the_order_of_their_value(load):
    data = load(("0.jpg", "10"), ("1.jpg", "9"), ("2.jpg", "10"))
    assert data.classes == ["9", "10"] and data.labels.tolist() == [1, 0, 1]
    assert are_integers(data.classes)


def test_names_are_classes_in_the_order_of_the_alphabet(load):
    data = load(("0.jpg", "Mug"), ("1.jpg", "Alarm Clock"), ("2.jpg", "Mug"))
    assert data.classes == ["Alarm Clock", "Mug"] and data.labels.tolist() == [1, 0, 1]
    assert not are_integers(data.classes)


def test_a_number_among_names_is_a_name():
    assert classes_of(["7", "Bed", "10"]) == ["10", "7", "Bed"]


def test_no_label_is_read_from_a_file_name(load):
    assert load(("0.jpg", "2"), ("1.jpg", "1"), ("2.jpg", "0")).labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize("label", ["", "None", "NONE"])
def test_a_row_without_a_label_is_refused_by_its_number(load, label):
    with pytest.raises(UserError, match=r"train\.csv: row 2 \(1\.jpg\) has no label"):
        load(("0.jpg", "1"), ("1.jpg", label))


def test_validation_has_no_class_that_training_lacks(folder, tmp_path):
    table = write_table(tmp_path / "val.csv", [("0.jpg", "1"), ("1.jpg", "7")])
    with pytest.raises(UserError, match="label '7' of 1.jpg is none of the 2 classes of training"):
        load_evaluation(folder, table, 32, tmp_path / "cache", ["0", "1"])


def test_validation_takes_its_class_numbers_from_training(folder, tmp_path):
    table = write_table(tmp_path / "val.csv", [("0.jpg", "10"), ("1.jpg", "09")])
    data = load_evaluation(folder, table, 32, tmp_path / "cache", ["4", "9", "10"])
    assert data.labels.tolist() == [2, 1]


# -- images --------------------------------------------------------------------------------------------------


def test_rows_keep_their_order_and_each_its_own_image(load):
    data = load(("5.jpg", "2"), ("3.jpg", "0"), ("5.jpg", "2"))
    assert data.names == ["5.jpg", "3.jpg", "5.jpg"]
    for index, colour in enumerate((2, 0, 2)):
        assert np.abs(data.image(index).astype(int) - COLOURS[colour]).max() < 12


def test_unusable_images_are_named_and_left_out(load, folder, tmp_path, capsys):
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:200])
    (folder / "2.jpg").write_bytes(b"")
    (tmp_path / "outside.jpg").write_bytes((folder / "0.jpg").read_bytes())
    escaping = [
        "../outside.jpg",
        str(tmp_path / "outside.jpg"),
        "a/../../outside.jpg",
        "..\\outside.jpg",
        "x\0.jpg",
        "",
    ]
    data = load(
        *((name, "0") for name in ["0.jpg", "1.jpg", "2.jpg", "missing.jpg", *escaping]), ("4.jpg", "1")
    )
    assert data.names == ["0.jpg", "4.jpg"] and data.labels.tolist() == [0, 1]
    assert data.left_out == 9
    lines = capsys.readouterr().err.splitlines()
    left_out = [line for line in lines if line.startswith("left out: ")]
    assert len(left_out) == 9
    for name in ("1.jpg", "2.jpg", "missing.jpg", "'../outside.jpg'", r"'x\x00.jpg'"):
        assert any(name in line for line in left_out), name


def test_a_backslash_is_part_of_a_name_as_for_inference(load, folder):
    (folder / "0.jpg").rename(folder / "a\\..\\0.jpg")
    data = load(("a\\..\\0.jpg", "0"), ("1.jpg", "1"))
    assert data.left_out == 0 and path_inside(folder, data.names[0]) == str(folder / data.names[0])


def test_a_table_without_any_readable_image_is_refused(load):
    with pytest.raises(UserError, match="none of the 2 images"):
        load(("missing.jpg", "0"), ("../0.jpg", "1"))


def test_a_missing_folder_is_named(tmp_path):
    table = write_table(tmp_path / "train.csv", [("0.jpg", "0")])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_training(tmp_path / "nowhere", table, 32, tmp_path / "cache")


def test_images_are_kept_a_quarter_larger_than_the_network_sees_them_and_never_upsampled(load):
    assert load(("0.jpg", "0"), image_size=32).image(0).shape == (40, 48, 3)
    assert load(("0.jpg", "0"), image_size=64).image(0).shape == (50, 60, 3)


def test_images_stand_upright(load, folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (40, 20)).save(folder / "0.jpg", exif=exif)
    assert load(("0.jpg", "0")).image(0).shape == (40, 20, 3)


def test_validation_sees_the_pixels_that_inference_sees(folder, tmp_path):
    table = write_table(tmp_path / "val.csv", [("0.jpg", "0"), ("4.jpg", "1")])
    data = load_evaluation(folder, table, 24, tmp_path / "cache", ["0", "1"])
    ((images, labels),) = data.batches(8)
    for index, name in enumerate(("0.jpg", "4.jpg")):
        wanted = evaluation_image(read_rgb(folder / name, apply_exif=True), 24)
        assert torch.equal(images[index], torch.from_numpy(wanted).permute(2, 0, 1))
    assert labels.tolist() == [0, 1]


def test_batches_hold_every_image_once(folder, tmp_path):
    table = write_table(tmp_path / "val.csv", [(f"{i}.jpg", str(i % 3)) for i in range(9)])
    data = load_evaluation(folder, table, 16, tmp_path / "cache", ["0", "1", "2"])
    sizes = [(len(images), len(labels)) for images, labels in data.batches(4)]
    assert sizes == [(4, 4), (4, 4), (1, 1)]


def test_shrinking_keeps_the_aspect():
    assert shrink(np.zeros((100, 300, 3), np.uint8), 50).shape == (50, 150, 3)
    assert shrink(np.zeros((1000, 1, 3), np.uint8), 50).shape == (1000, 1, 3)


# -- crops ---------------------------------------------------------------------------------------------------


def test_the_same_numbers_give_the_same_crop_and_others_another(folder, load):
    noise = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "0.png")
    data = load(("0.png", "0"))
    first, again = (ImageCrops(data, 24, seed=3, min_area=0.3, jitter=0.3)[1, 2, 0] for _ in range(2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[2], again[2])
    for seed, key in ((4, (1, 2, 0)), (3, (2, 2, 0)), (3, (1, 3, 0))):
        image, _, colours = ImageCrops(data, 24, seed, min_area=0.3, jitter=0.3)[key]
        assert not torch.equal(image, first[0]) and not torch.equal(colours, first[2])


def test_workers_change_nothing_in_the_batches(load):
    data = load(*((f"{i}.jpg", str(i % 3)) for i in range(9)))
    crops = ImageCrops(data, 16, seed=0, min_area=0.3, jitter=0.3)
    alone, helped = (list(EpochLoader(crops, 0, 2, workers)(5, 1)) for workers in (0, 2))
    assert len(alone) == len(helped) == 3  # four batches of two, the first is done, the ninth image left
    for ours, theirs in zip(alone, helped):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))


def test_a_crop_brings_its_image_and_label(load):
    data = load(*((f"{i}.jpg", str(i % 3)) for i in range(9)))
    image, label, colours = ImageCrops(data, 16, seed=0, min_area=0.3, jitter=0.3)[0, 0, 5]
    assert image.shape == (3, 16, 16) and image.dtype == torch.uint8 and colours.shape == (3,)
    assert label == 2
    assert np.abs(image.numpy().mean(axis=(1, 2)) - COLOURS[2]).max() < 12


@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_a_crop_lies_inside_its_image(height, width, seed):
    left, top, right, bottom = random_box(np.random.default_rng(seed), height, width, 0.1)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_the_numbers_of_the_courses_office_have_names_unless_classes_txt_says_otherwise(tmp_path):
    numbers = [str(label) for label in range(65)]
    names = read_class_names(tmp_path / "classes.txt", numbers)
    # The 65 by the alphabet, in which capital letters come first.
    assert list(names) == numbers and names["0"] == "Alarm Clock" and names["64"] == "Webcam"
    assert (names["24"], names["58"], names["59"], names["61"]) == ("Fork", "TV", "Table", "ToothBrush")
    for others in (numbers[:-1], [*numbers, "65"], [f"c{label}" for label in numbers]):
        assert read_class_names(tmp_path / "classes.txt", others) == {}
    (tmp_path / "classes.txt").write_text("cat\nwild_dog\n")
    assert read_class_names(tmp_path / "classes.txt", numbers) == {"0": "cat", "1": "wild dog"}
