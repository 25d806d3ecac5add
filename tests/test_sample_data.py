"""The sample data have the course's exact tree and formats, are the same for the same seed, and can be
learned.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import sample
from datasets.palette import COLOURS, NUM_CLASSES, classes_of_colours
from engine.base import run_script

REPOSITORY = Path(__file__).resolve().parent.parent
SMALL = ["--classes=5", "--train-images=60", "--val-images=30", "--image-size=40", "--mini-images=25"]
SMALL += ["--train-tiles=8", "--val-tiles=2", "--tile-size=96"]


def make(folder: Path, *options: str) -> Path:
    assert sample.main([str(folder), *SMALL, *options]) == 0
    return folder / "hw1_data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sample"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_tree_is_the_courses(data):
    assert names(data) == ["p1_data", "p2_data"]
    assert names(data / "p1_data") == ["mini", "office", "train_50", "val_50"]
    assert names(data / "p1_data" / "mini") == ["classes.txt", "train", "train_labels.csv"]
    assert names(data / "p1_data" / "office") == ["classes.txt", "train", "train.csv", "val", "val.csv"]
    assert names(data / "p2_data") == ["train", "validation"]


@pytest.mark.parametrize(("split", "count"), [("train_50", 500), ("val_50", 100)])
def test_the_older_editions_have_small_images_of_50_classes_with_labels_in_their_names(data, split, count):
    files = names(data / "p1_data" / split)
    assert len(files) == count and {name.split("_")[0] for name in files} == {
        str(label) for label in range(50)
    }
    assert all(pixels(data / "p1_data" / split / name).shape == (32, 32, 3) for name in files[:50])


@pytest.mark.parametrize(("split", "count"), [("train", 60), ("val", 30)])
def test_an_office_table_lists_every_image_once_with_ids_from_0_in_no_order(data, split, count):
    office = data / "p1_data" / "office"
    table = rows(office / f"{split}.csv")
    assert (office / f"{split}.csv").read_bytes().startswith(b"id,filename,label\r\n0,")
    assert [row["id"] for row in table] == [str(number) for number in range(count)]
    assert sorted(row["filename"] for row in table) == names(office / split)
    assert all(re.fullmatch(rf"{row['label']}_[0-9]+\.jpg", row["filename"]) for row in table)
    assert {row["label"] for row in table} == set("01234")
    assert [row["label"] for row in table] != sorted(row["label"] for row in table)


def test_no_office_image_is_in_both_splits(data):
    office = data / "p1_data" / "office"
    assert not set(names(office / "train")) & set(names(office / "val"))


def test_every_class_has_a_name_of_its_own(data):
    for room, count in (("office", 5), ("mini", 20)):
        classes = (data / "p1_data" / room / "classes.txt").read_text().splitlines()
        assert len(set(classes)) == len(classes) == count


def test_office_images_are_rgb_of_several_sizes_about_the_one_asked_for(data):
    shapes = [pixels(path).shape for path in (data / "p1_data" / "office" / "val").iterdir()]
    assert len(set(shapes)) > 5
    assert all(30 <= side <= 52 for shape in shapes for side in shape[:2]) and {
        shape[2] for shape in shapes
    } == {3}


def test_mini_images_are_84_by_84_and_their_labels_lie_beside_them(data):
    mini = data / "p1_data" / "mini"
    table = rows(mini / "train_labels.csv")
    assert [(row["id"], row["filename"]) for row in table] == [(str(n), f"{n}.jpg") for n in range(25)]
    assert {row["label"] for row in table} == {str(label) for label in range(20)}
    assert sorted(row["filename"] for row in table) == names(mini / "train")
    assert {pixels(path).shape for path in (mini / "train").iterdir()} == {(84, 84, 3)}


@pytest.mark.parametrize(("split", "count"), [("train", 8), ("validation", 2)])
def test_tiles_have_masks_of_their_size_with_all_seven_colours_and_no_other(data, split, count):
    folder = data / "p2_data" / split
    assert names(folder) == sorted(
        f"{n:04d}_{kind}" for n in range(count) for kind in ("sat.jpg", "mask.png")
    )
    seen = set()
    for number in range(count):
        mask = pixels(folder / f"{number:04d}_mask.png")
        assert mask.shape == pixels(folder / f"{number:04d}_sat.jpg").shape == (96, 96, 3)
        seen |= set(map(tuple, mask.reshape(-1, 3).tolist()))
    assert seen == set(map(tuple, COLOURS.tolist()))


def test_the_same_seed_gives_the_same_bytes_and_another_other_pictures(data, tmp_path):
    again, other = make(tmp_path / "again"), make(tmp_path / "other", "--seed=1")
    files = [path.relative_to(data) for path in sorted(data.rglob("*")) if path.is_file()]
    assert len(files) == 60 + 30 + 25 + 600 + 2 * (8 + 2) + 3 + 2
    assert all((again / file).read_bytes() == (data / file).read_bytes() for file in files)
    tile = Path("p2_data") / "train" / "0000_sat.jpg"
    assert (other / tile).read_bytes() != (data / tile).read_bytes()


def status_of(*words: str) -> int:
    """How the command ends."""
    with pytest.raises(SystemExit) as end:
        run_script(lambda: sample.main(words))
    return end.value.code


def test_data_that_are_there_are_never_replaced(tmp_path, capsys):
    precious = tmp_path / "hw1_data" / "p2_data" / "train" / "0000_sat.jpg"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(b"the course's")
    assert status_of(str(tmp_path), *SMALL) == 2
    assert precious.read_bytes() == b"the course's"
    assert "give a new folder" in capsys.readouterr().err


def test_a_failure_half_way_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample, "save_mask", full)
    assert status_of(str(tmp_path), *SMALL) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_the_command_says_where_the_data_are(tmp_path):
    command = [sys.executable, "-m", "datasets.sample", str(tmp_path / "fünf 五"), *SMALL]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert done.stdout.startswith(str(tmp_path / "fünf 五" / "hw1_data")) and not done.stderr


def test_colours_alone_tell_objects_far_above_chance(data):
    def histograms(split: str) -> tuple[np.ndarray, np.ndarray]:
        office = data / "p1_data" / "office"
        table = rows(office / f"{split}.csv")
        middles = [pixels(office / split / row["filename"])[10:-10, 10:-10].reshape(-1, 3) for row in table]
        counts = [
            np.histogramdd(middle, bins=4, range=[(0, 256)] * 3)[0].ravel() / len(middle)
            for middle in middles
        ]
        return np.sqrt(counts), np.array([int(row["label"]) for row in table])

    (train, labels), (val, truth) = histograms("train"), histograms("val")
    centres = np.stack([train[labels == label].mean(axis=0) for label in range(5)])
    predicted = np.argmin(((val[:, None] - centres) ** 2).sum(axis=2), axis=1)
    assert (predicted == truth).mean() > 0.6  # chance is 0.2


def test_colours_alone_tell_land_cover_far_above_chance(data):
    def points(split: str) -> tuple[np.ndarray, np.ndarray]:
        folder = data / "p2_data" / split
        tiles = [pixels(path).reshape(-1, 3) for path in sorted(folder.glob("*_sat.jpg"))]
        masks = [classes_of_colours(pixels(path)).ravel() for path in sorted(folder.glob("*_mask.png"))]
        return np.concatenate(tiles).astype(float), np.concatenate(masks)

    (train, labels), (val, truth) = points("train"), points("validation")
    centres = np.stack([train[labels == label].mean(axis=0) for label in range(NUM_CLASSES)])
    predicted = np.argmin(((val[:, None] - centres) ** 2).sum(axis=2), axis=1)
    assert (predicted == truth).mean() > 0.45  # chance is 0.14
