"""What differs between the years of the course: one table, and nothing about it anywhere else.

    from datasets.editions import edition
    edition().table_header      # ("id", "filename", "label")

A grader names no edition and gets 2024. `--edition`, or the variable EDITION, chooses another.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

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


_OFFICE_HEADER = ("id", "filename", "label")
_EARLY_TILES = ("0010", "0097", "0107")
_LATE_TILES = ("0013", "0062", "0104")

# The download script's name is the course's from 2022 on; for 2020 and 2021 it follows the pattern of 2022.
_ALL = (
    Edition(
        name="2020",  # the homework was the year's second
        wrappers=(
            # An empty $2 stays empty, which is refused: /test_pred.csv was not asked for.
            _folder_to_csv("hw2_1.sh", "FOLDER_OF_IMAGES FOLDER_FOR_CSV", "${2:+$2/test_pred.csv}"),
            _tiles_to_masks("hw2_2.sh"),
        ),
        folder_header=("image_id", "label"),
        table_header=None,
        tile_suffix="_sat",
        mask_suffix="_mask",
        report_images=_EARLY_TILES,
        download_script="hw2_download.sh",
    ),
    Edition(
        name="2021",
        wrappers=(_folder_to_csv("hw1_1.sh"), _tiles_to_masks("hw1_2.sh")),
        folder_header=("image_id", "label"),
        table_header=None,
        tile_suffix="",
        mask_suffix="",
        report_images=_EARLY_TILES,
        download_script="hw1_download.sh",
    ),
    Edition(
        name="2022",
        wrappers=(_folder_to_csv("hw1_1.sh"), _tiles_to_masks("hw1_2.sh")),
        folder_header=("filename", "label"),
        table_header=None,
        tile_suffix="",
        mask_suffix="",
        report_images=_LATE_TILES,
        download_script="hw1_download.sh",
    ),
    Edition(
        name="2023",
        wrappers=(_folder_to_csv("hw1_1.sh"), _table_to_csv("hw1_2.sh"), _tiles_to_masks("hw1_3.sh")),
        folder_header=("filename", "label"),
        table_header=_OFFICE_HEADER,
        tile_suffix="_sat",
        mask_suffix="_mask",
        report_images=_LATE_TILES,
        download_script="hw1_download_ckpt.sh",
    ),
    Edition(
        name="2024",
        wrappers=(_table_to_csv("hw1_1.sh"), _tiles_to_masks("hw1_2.sh")),
        folder_header=None,
        table_header=_OFFICE_HEADER,
        tile_suffix="_sat",
        mask_suffix="_mask",
        report_images=_LATE_TILES,
        download_script="hw1_download_ckpt.sh",
    ),
)
EDITIONS = {edition.name: edition for edition in _ALL}


def edition(name: str | None = None) -> Edition:
    """The edition of that name; without one, the variable EDITION's, else 2024. UserError if unknown."""
    name = name or os.environ.get("EDITION") or DEFAULT
    if name not in EDITIONS:
        raise UserError(f"edition {name!r} is unknown; choose one of {', '.join(EDITIONS)}")
    return EDITIONS[name]
