"""Segment Anything's masks on disk: a picture, COCO's uncompressed run lengths in JSON, and their vote."""

from __future__ import annotations

import json
import os
import re
from typing import Any, BinaryIO, Callable, Iterable

import numpy as np
from PIL import Image

from datasets.palette import save_mask
from datasets.tiles import ChosenImage
from engine.base import UserError, cannot_write, check_writable, write_atomically

# What p2_sam.py writes of all images together.
_OF_ALL = re.compile(r"sheet(_[0-9]+)?\.(png|pdf)|score\.json")


# -- masks as run lengths -----


def mask_of_runs(runs: dict[str, Any]) -> np.ndarray:
    """{"size": [H, W], "counts": [off, on, off, ...]}, column by column → (H, W) bool."""
    height, width = runs["size"]
    counts = np.asarray(runs["counts"], dtype=np.int64)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def largest_first(annotations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of painting: smaller masks over larger ones, of equal ones the better (earlier) last."""
    return sorted(annotations, key=lambda annotation: annotation["area"])[::-1]


def annotations_json(
    name: str, size: tuple[int, int], made_by: dict[str, Any], annotations: list[dict[str, Any]]
) -> str:
    """One image's masks, a line each: {"image": ..., "made_by": ..., "annotations": [...]}."""
    image = {"file_name": name, "height": size[0], "width": size[1]}
    lines = ",\n".join(json.dumps({"id": number, **mask}) for number, mask in enumerate(annotations, start=1))
    head = f'{{"image": {json.dumps(image)},\n"made_by": {json.dumps(made_by)},\n'
    return f'{head}"annotations": [\n{lines}\n]}}\n'


def vote(classes: np.ndarray, annotations: Iterable[dict[str, Any]]) -> np.ndarray:
    """(H, W) classes of a network → each mask gets the class that most of its pixels have, the rest stays.

    Smaller masks come over larger ones; all count the network's own classes. In a tie the smaller wins.
    """
    voted = classes.copy()
    for annotation in largest_first(annotations):
        mask = mask_of_runs(annotation["segmentation"])
        if mask.any():
            voted[mask] = np.bincount(classes[mask]).argmax()
    return voted


# -- the files of each image -----


def paths_of(output: str, image: ChosenImage) -> tuple[str, str, str]:
    """Where the picture, the JSON and the vote of an image go."""
    names = (f"{image.name}_sam.png", f"{image.name}_sam.json", os.path.join("vote", image.mask))
    picture, text, vote = (os.path.join(output, name) for name in names)
    return picture, text, vote


def check_output(output: str, images: list[ChosenImage]) -> None:
    """UserError, before a network is loaded, if nothing can be written or a file of theirs is in the way."""
    check_writable(output, output)
    inputs = {os.path.realpath(os.path.dirname(image.path)) for image in images}
    there = sorted(os.listdir(output)) if os.path.isdir(output) else []
    paths = [os.path.join(output, name) for name in there if _OF_ALL.fullmatch(name)]
    paths += [path for image in images for path in paths_of(output, image)]
    for path in paths:
        is_beside_images = os.path.lexists(path) and os.path.realpath(os.path.dirname(path)) in inputs
        if os.path.isdir(path) or is_beside_images:
            raise UserError(f"{path}: is in the way of what belongs there; give --output another folder")


def write_masks(
    output: str,
    image: ChosenImage,
    picture: np.ndarray,
    masks: list[dict[str, Any]],
    made_by: dict[str, Any],
    voted: np.ndarray | None,
) -> None:
    """Write the picture (H, W, 3), the masks and, if any, the classes (H, W) that they voted for."""
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
