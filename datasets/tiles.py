"""Satellite tiles: which files of a folder are some, and what the mask of each is called."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

from datasets.images import list_images
from engine.base import UserError


def satellite_masks(names: Iterable[str]) -> list[tuple[str, str]]:
    """(name, name of its mask) of the names `NNNN_sat.*`, also in capitals: `0013_SAT.jpg` gives
    `0013_mask.png`.
    """
    stems = [(Path(name).stem, name) for name in names]
    return [
        (name, stem[: -len("_sat")] + "_mask.png") for stem, name in stems if stem.lower().endswith("_sat")
    ]


def find_tiles(folder: str | Path) -> list[tuple[str, str]]:
    """(name of the tile, name of its mask) of each tile in a folder, in natural order.

    `0013_sat.jpg` gives `0013_mask.png`. In a folder without any `*_sat.*` every image but `*_mask.png` is a
    tile, and `0013.jpg` gives `0013.png`. UserError when there is no tile, or when two of them would give one
    mask.
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
            raise UserError(
                f"{folder}: {tile_of_mask[mask]} and {name} would both give {mask}; take one of them away"
            )
        tile_of_mask[mask] = name
    return named
