"""Images without labels for pre-training: a folder of images → one array of squares."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from datasets.cache import cached_images
from datasets.images import list_images, open_image
from datasets.labelled import MARGIN, reading_of_inference
from engine.base import UserError, say

_LOOKED_AT = 64  # images whose headers say how large the others will be


class UnlabelledImages:
    """`pixels` (N, side, side, 3) uint8, mapped from the cache: writing changes this process's copy alone.

    `left_out` images of the folder can't be used.
    """

    def __init__(self, pixels: np.ndarray, left_out: int):
        self.pixels, self.left_out = pixels, left_out

    def __len__(self) -> int:
        return len(self.pixels)


def load_unlabelled(
    folder: str | Path, image_size: int, cache: str | Path | None, share: float = 1.0, seed: int = 0
) -> UnlabelledImages:
    """Every image of a folder, or a `share` of them drawn by `seed`, in natural order, resized to a square as
    inference does it. UserError when there is no such folder, or fewer than two of its images can be used.
    """
    names = list_images(folder)
    drawn = np.random.default_rng((seed, 4)).permutation(len(names))[: round(share * len(names))]
    paths = [Path(folder) / names[index] for index in sorted(drawn)]
    if not paths:
        raise UserError(
            f"{folder}: no image in it (.jpg, .jpeg, .png); give the folder that the images themselves lie in"
        )
    side = common_side(paths, round(MARGIN * image_size))
    images = cached_images(paths, *reading_of_inference(side), cache)
    for reason in images.errors.values():
        say(f"left out: {reason}")
    usable = len(paths) - len(images.errors)
    if usable < 2:
        reason = f"{usable} of its {len(paths)} images can be used"
        raise UserError(f"{folder}: {reason}; pre-training needs two at least")
    # Images that could not be read take no room in the file.
    pixels = images.as_one((usable, side, side, 3))
    return UnlabelledImages(pixels, left_out=len(images.errors))


def common_side(paths: list[Path], largest: int) -> int:
    """The most common shorter side, each counted as `largest` at most, of images spread over `paths`.

    Of equally common ones the longest; `largest` where no image looked at is readable.
    """
    numbers = np.linspace(0, len(paths) - 1, min(len(paths), _LOOKED_AT)).round().astype(int)
    sides = [min(side, largest) for side in (_shorter_side(paths[number]) for number in numbers) if side]
    counts = Counter(sides or [largest])
    return max(counts, key=lambda side: (counts[side], side))


def _shorter_side(path: Path) -> int | None:
    """In pixels, from an image's header alone; None where that can't be read (read_rgb will say why)."""
    try:
        with open_image(path) as image:
            return min(image.size)
    except Exception:  # Pillow's readers raise nearly anything on a broken file
        return None
