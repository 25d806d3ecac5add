"""Images that a user names one by one or by folder: each once, with its true mask where one lies beside
it.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Sequence

from datasets.tiles import find_tiles, satellite_masks
from engine.base import UserError


class ChosenImage(NamedTuple):
    path: str
    name: str  # 0013 of 0013_sat.jpg, and of 0013.jpg
    mask: str  # what a mask of it is called: 0013_mask.png, and 0013.png
    truth: str | None  # the path of its 0013_mask.png, where there is one


def find_images(given: Sequence[str]) -> list[ChosenImage]:
    """The images, those of a folder in the order and by the rules of `find_tiles`.

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
                raise UserError(
                    f"{other.path} and {image.path} are both called {name}; leave one of them out"
                )
    return list(chosen.values())
