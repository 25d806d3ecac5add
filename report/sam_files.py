"""What p2_sam.py writes of each image: its masks as a picture and as JSON, and the masks that they voted
for.
"""

from __future__ import annotations

import os
import re
from typing import Any, BinaryIO, Callable

import numpy as np
from PIL import Image

from datasets.palette import save_mask
from datasets.rle import annotations_json
from datasets.tiles import ChosenImage
from engine.base import UserError, cannot_write, check_writable, write_atomically

_OF_ALL = re.compile(r"sheet(_[0-9]+)?\.(png|pdf)|score\.json")


def paths_of(output: str, image: ChosenImage) -> tuple[str, str, str]:
    """Where the picture, the JSON and the vote of an image go."""
    names = (f"{image.name}_sam.png", f"{image.name}_sam.json", os.path.join("vote", image.mask))
    picture, text, vote = (os.path.join(output, name) for name in names)
    return picture, text, vote


def check_output(output: str, images: list[ChosenImage]) -> None:
    """UserError, before a network is loaded, where nothing can be written or a file beside the images is in
    the way.
    """
    check_writable(output, output)
    inputs = {os.path.realpath(os.path.dirname(image.path)) for image in images}
    of_all = (
        [os.path.join(output, name) for name in sorted(os.listdir(output)) if _OF_ALL.fullmatch(name)]
        if os.path.isdir(output)
        else []
    )
    for paths in (of_all, *(paths_of(output, image) for image in images)):
        for path in paths:
            if os.path.isdir(path) or (
                os.path.lexists(path) and os.path.realpath(os.path.dirname(path)) in inputs
            ):
                raise UserError(f"{path}: is in the way of what belongs there; give --output another folder")


def write_masks(
    output: str,
    image: ChosenImage,
    picture: np.ndarray,
    masks: list[dict[str, Any]],
    made_by: dict[str, Any],
    voted: np.ndarray | None,
) -> None:
    """Write the picture (H, W, 3), the masks and, where there are any, the classes (H, W) that they voted
    for.
    """
    path, json_path, vote_path = paths_of(output, image)
    text = annotations_json(os.path.basename(image.path), picture.shape[:2], made_by, masks)
    _write(path, lambda file: Image.fromarray(picture).save(file, "PNG"))
    _write(json_path, lambda file: file.write(text.encode()))
    if voted is not None:
        _write(vote_path, lambda file: save_mask(voted, file))


def _write(path: str, save: Callable[[BinaryIO], Any]) -> None:
    """Have `save` fill the file, whole or not at all. UserError when the disk does not take it."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with write_atomically(path) as temporary, open(temporary, "wb") as file:
            save(file)
    except OSError as error:
        raise cannot_write(path, error) from None
