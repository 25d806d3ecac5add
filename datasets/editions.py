"""What differs between the years of the course: one table, and nothing about it anywhere else.

    from datasets.editions import edition
    edition().table_header      # ("id", "filename", "label")

A grader names no edition and gets 2024. `--edition`, or the variable EDITION, chooses another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from engine.base import UserError

DEFAULT = "2024"


@dataclass(frozen=True)
class Wrapper:
    """One shell script that the course calls."""

    name: str
    about: str
    usage: str  # the call's arguments in words, in their order
    script: str  # which of ours answers ...
    options: str  # ... with the call's arguments as the shell knows them


@dataclass(frozen=True)
class Edition:
    """The names and formats of one year."""

    name: str
    wrappers: tuple[Wrapper, ...]
    # Of the CSV about a folder of images (50 classes), and of that which answers a CSV (office), where asked.
    folder_header: tuple[str, ...] | None
    table_header: tuple[str, ...] | None
    # Of NNNN{tile_suffix}.jpg and NNNN{mask_suffix}.png; a tile named otherwise gives its own stem and .png.
    tile_suffix: str
    mask_suffix: str
    report_images: tuple[str, ...]  # the tiles of the validation set whose masks the report shows
    download_script: str  # what the course calls get_checkpoints.sh
    # The report's problems, in order: title, and of each question its name in report/document.py with its per
    # cent of the homework, 0 where not known.
    report: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]

    @property
    def homework(self) -> str:
        """Which of the year's homeworks it is: "hw1"."""
        return self.wrappers[0].name.split("_")[0]


_CHECKPOINT = "Which checkpoint answers: see README, or set P%d_CHECKPOINT."


def _folder_to_csv(name: str, usage: str = "FOLDER_OF_IMAGES CSV_TO_WRITE", output: str = "$2") -> Wrapper:
    about = f"Problem 1: the class of every image in a folder. {_CHECKPOINT % 1}"
    return Wrapper(name, about, usage, "p1_inference.py", f'--images="$1" --output="{output}"')


def _table_to_csv(name: str) -> Wrapper:
    about = f"Problem 1: the class of each listed image. {_CHECKPOINT % 1}"
    usage = "CSV_OF_IMAGES FOLDER_OF_IMAGES CSV_TO_WRITE"
    return Wrapper(name, about, usage, "p1_inference.py", '--csv="$1" --images="$2" --output="$3"')


def _tiles_to_masks(name: str) -> Wrapper:
    about = f"Problem 2: the land-cover mask of each tile. {_CHECKPOINT % 2}"
    usage = "FOLDER_OF_TILES FOLDER_FOR_MASKS"
    return Wrapper(name, about, usage, "p2_inference.py", '--images="$1" --output="$2"')


_EARLY_TILES = ("0010", "0097", "0107")
_LATE_TILES = ("0013", "0062", "0104")


def _problem(title: str, questions: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    """Of questions such as "settings:20 tsne"."""
    parts = [question.partition(":") for question in questions.split()]
    return title, tuple((name, int(points or 0)) for name, _, points in parts)


_CLASSES, _COVER = "image classification, 50 classes", "land-cover segmentation"
_SELF_SUPERVISED = "self-supervised pre-training for image classification"
_BOTH_CLASSIFIERS = _problem(
    _CLASSES, "classifier_drawn classifiers_accuracy classifier_a classifier_b features_pca features_tsne"
)
_BOTH_NETWORKS = _problem(_COVER, "model_a model_b both_ious stages")

# The download script's name is the course's from 2022 on; for 2020 and 2021 it follows the pattern of 2022.
_2024 = Edition(
    name="2024",
    wrappers=(_table_to_csv("hw1_1.sh"), _tiles_to_masks("hw1_2.sh")),
    folder_header=None,
    table_header=("id", "filename", "label"),
    tile_suffix="_sat",
    mask_suffix="_mask",
    report_images=_LATE_TILES,
    download_script="hw1_download_ckpt.sh",
    report=(
        _problem(_SELF_SUPERVISED, "pretraining:5 settings:20 tsne:5"),
        _problem(_COVER, "model_a:3 model_b:3 both_ious:1 stages:3 sam:10"),
    ),
)
_2023 = replace(
    _2024,
    name="2023",
    wrappers=(_folder_to_csv("hw1_1.sh"), _table_to_csv("hw1_2.sh"), _tiles_to_masks("hw1_3.sh")),
    folder_header=("filename", "label"),
    report=(_BOTH_CLASSIFIERS, _problem(_SELF_SUPERVISED, "pretraining settings tsne"), _BOTH_NETWORKS),
)
_2022 = replace(
    _2023,
    name="2022",
    wrappers=(_folder_to_csv("hw1_1.sh"), _tiles_to_masks("hw1_2.sh")),
    table_header=None,
    tile_suffix="",
    mask_suffix="",
    download_script="hw1_download.sh",
    report=(_BOTH_CLASSIFIERS, _BOTH_NETWORKS),
)
_2021 = replace(
    _2022,
    name="2021",
    folder_header=("image_id", "label"),
    report_images=_EARLY_TILES,
    report=(
        _problem(_CLASSES, "classifier_printed accuracy validation_tsne"),
        _problem(_COVER, "model_a_printed model_b_printed iou stages"),
    ),
)
_2020 = replace(
    _2021,
    name="2020",  # the homework was the year's second
    wrappers=(
        # An empty $2 stays empty, which is refused: /test_pred.csv was not asked for.
        _folder_to_csv("hw2_1.sh", "FOLDER_OF_IMAGES FOLDER_FOR_CSV", "${2:+$2/test_pred.csv}"),
        _tiles_to_masks("hw2_2.sh"),
    ),
    tile_suffix="_sat",
    mask_suffix="_mask",
    download_script="hw2_download.sh",
    report=(
        _problem(_CLASSES, "classifier_printed accuracy validation_tsne"),
        _problem(_COVER, "model_a_printed stages_of_a model_b_printed stages_of_b both_ious"),
    ),
)
EDITIONS = {edition.name: edition for edition in (_2020, _2021, _2022, _2023, _2024)}


def edition(name: str | None = None) -> Edition:
    """The edition of that name; without one, the variable EDITION's, else 2024. UserError if unknown."""
    name = name or os.environ.get("EDITION") or DEFAULT
    if name not in EDITIONS:
        raise UserError(f"edition {name!r} is unknown; choose one of {', '.join(EDITIONS)}")
    return EDITIONS[name]
