"""Satellite tiles: which files of a folder are some, how their masks are called, and those a user names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterable, NamedTuple, Sequence

import numpy as np

from datasets.images import list_images, read_rgb
from engine.base import UserError

LONGEST_SIDE = 4096  # pixels; the light network takes 6.3 GB for such a tile


def satellite_masks(names: Iterable[str]) -> list[tuple[str, str]]:
    """(name, its mask's) of the names `NNNN_sat.*`, also in capitals: `0013_SAT.jpg` and `0013_mask.png`."""
    stems = [(name, Path(name).stem) for name in names]
    tiles = [(name, stem[: -len("_sat")]) for name, stem in stems if stem.lower().endswith("_sat")]
    return [(name, f"{number}_mask.png") for name, number in tiles]


def find_tiles(folder: str | Path) -> list[tuple[str, str]]:
    """(name of the tile, name of its mask) of each tile in a folder, in natural order.

    `0013_sat.jpg` gives `0013_mask.png`. In a folder without any `*_sat.*` every image but `*_mask.png` is a
    tile, and `0013.jpg` gives `0013.png`. UserError when there is no tile, or two would give one mask.
    """
    tiles = [name for name in list_images(folder) if not name.lower().endswith("_mask.png")]
    named = satellite_masks(tiles) or [(name, Path(name).stem + ".png") for name in tiles]
    if not named:
        raise UserError(
            f"{folder}: no tile in it; give a folder with NNNN_sat.jpg (or other .jpg and .png images)"
        )
    tile_of_mask: dict[str, str] = {}
    for name, mask in named:
        if mask in tile_of_mask:
            both = f"{tile_of_mask[mask]} and {name}"
            raise UserError(f"{folder}: {both} would both give {mask}; take one of them away")
        tile_of_mask[mask] = name
    return named


def read_tile(path: str | Path) -> np.ndarray:
    """A tile that is to get a mask, (H, W, 3) uint8, not turned as EXIF says; ImageError."""
    return read_rgb(path, apply_exif=False, longest_side=LONGEST_SIDE)


class ChosenImage(NamedTuple):
    """An image that a user names, or that lies in a folder that he names."""

    path: str
    name: str  # 0013 of 0013_sat.jpg, and of 0013.jpg
    mask: str  # what a mask of it is called: 0013_mask.png, and 0013.png
    truth: str | None  # the path of its 0013_mask.png, where there is one


def find_images(given: Sequence[str]) -> list[ChosenImage]:
    """The images, each once; those of a folder in the order and by the rules of `find_tiles`.

    UserError when a folder has none, or when two images have one name.
    """
    chosen: dict[str, ChosenImage] = {}
    for path in given:
        is_folder = os.path.isdir(path)
        folder, name = (path, "") if is_folder else os.path.split(path)
        listed = find_tiles(path) if is_folder else satellite_masks([name])
        for file, mask in listed or [(name, os.path.splitext(name)[0] + ".png")]:
            truth = os.path.join(folder, mask)
            is_satellite = mask.endswith("_mask.png")
            name = mask[: -len("_mask.png" if is_satellite else ".png")]
            has_truth = is_satellite and os.path.lexists(truth)
            image = ChosenImage(os.path.join(folder, file), name, mask, truth if has_truth else None)
            other = chosen.setdefault(name, image)
            if os.path.realpath(other.path) != os.path.realpath(image.path):
                both = f"{other.path} and {image.path}"
                raise UserError(f"{both} are both called {name}; leave one of them out")
    return list(chosen.values())
