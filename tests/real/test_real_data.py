"""What only the course's data can show: make test-real DATA=hw1_data."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from datasets.images import list_images, read_rgb
from datasets.palette import NUM_CLASSES, UNCLAIMED, classes_of_colours
from datasets.tables import read_table

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DATA = Path(os.environ.get("DATA") or "hw1_data").resolve()
TILES = DATA / "p2_data"


@pytest.fixture(scope="module")
def pixels_of_class() -> dict[str, np.ndarray]:
    """For each split, (masks, 8): how many pixels of each mask are of each class, red last."""

    def count(path: Path) -> np.ndarray:
        return np.bincount(
            classes_of_colours(read_rgb(path, apply_exif=False)).ravel(), minlength=NUM_CLASSES + 1
        )

    with ThreadPoolExecutor() as pool:
        return {
            split: np.stack(list(pool.map(count, sorted((TILES / split).glob("*_mask.png")))))
            for split in ("train", "validation")
        }


@pytest.fixture(scope="module")
def predictions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The masks that hw1_2.sh makes of the validation tiles with the published checkpoint."""
    folder = tmp_path_factory.mktemp("predictions")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("P2_CHECKPOINT", "EDITION")
    }
    command = ["bash", str(REPOSITORY / "hw1_2.sh"), str(TILES / "validation"), str(folder)]
    subprocess.run(command, env=environment, check=True)
    return folder


@pytest.mark.parametrize(("split", "count"), [("train", 2000), ("validation", 257)])
def test_tiles_are_all_there(split, count):
    expected = {f"{n:04d}_{kind}" for n in range(count) for kind in ("sat.jpg", "mask.png")}
    assert set(list_images(TILES / split)) == expected


@pytest.mark.parametrize(("split", "count"), [("train", 3951), ("val", 406)])
def test_office_tables_and_folders_agree(split, count):
    office = DATA / "p1_data" / "office"
    rows = read_table(office / f"{split}.csv")
    assert [row["id"] for row in rows] == [str(number) for number in range(count)]
    assert sorted(row["filename"] for row in rows) == sorted(list_images(office / split))
    assert {int(row["label"]) for row in rows} == set(range(65))


def test_masks_have_the_palette_and_a_few_red_pixels(pixels_of_class):
    red = {split: counts[:, UNCLAIMED] for split, counts in pixels_of_class.items()}
    assert red["train"].sum() == 20
    assert {number: int(count) for number, count in enumerate(red["validation"]) if count} == {177: 7}


def test_classes_have_the_known_shares_of_the_training_pixels(pixels_of_class):
    counts = pixels_of_class["train"].sum(axis=0)[:NUM_CLASSES]
    shares = 100 * counts / counts.sum()
    assert shares[:6].round(1).tolist() == [10.6, 58.3, 8.4, 11.5, 3.1, 8.1] and shares[6].round(2) == 0.06


def test_the_score_equals_the_plain_transcription_on_real_masks(predictions):
    folders = [str(TILES / "validation"), str(predictions)]
    plain = [sys.executable, "-m", "benchmarks.bench_mean_iou", "--plain", *folders]
    ours = [sys.executable, "mean_iou_evaluate.py", "-g", folders[0], "-p", folders[1]]
    outputs = [
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
        for command in (plain, ours)
    ]
    assert outputs[0] == outputs[1] and "mean_iou: 0." in outputs[1]


def test_the_published_network_reaches_its_score(predictions):
    command = [
        sys.executable,
        "mean_iou_evaluate.py",
        "-g",
        str(TILES / "validation"),
        "-p",
        str(predictions),
    ]
    output = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert float(output.split("mean_iou:")[1]) >= 0.69
