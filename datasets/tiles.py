"""Satellite tiles: which files of a folder are some, and what the mask of each is called."""

from __future__ import annotations

from pathlib import Path

from datasets.errors import DataError
from datasets.images import list_images


def find_tiles(folder: str | Path) -> list[tuple[str, str]]:
    """(name of the tile, name of its mask) of each tile in a folder, in natural order.

    `0013_sat.jpg` gives `0013_mask.png`. In a folder without any `*_sat.*` every image but `*_mask.png` is a tile, and
    `0013.jpg` gives `0013.png`. DataError when there is no tile, or when two of them would give one mask.
    """
    tiles = [(Path(name).stem, name) for name in list_images(folder) if not name.lower().endswith("_mask.png")]
    satellite = [(stem[: -len("_sat")] + "_mask", name) for stem, name in tiles if stem.lower().endswith("_sat")]
    named = [(name, stem + ".png") for stem, name in satellite or tiles]
    if not named:
        raise DataError(f"{folder}: no tile in it; give a folder with NNNN_sat.jpg (or other .jpg and .png images)")
    tile_of_mask: dict[str, str] = {}
    for name, mask in named:
        if mask in tile_of_mask:
            raise DataError(f"{folder}: {tile_of_mask[mask]} and {name} would both give {mask}; take one of them away")
        tile_of_mask[mask] = name
    return named
