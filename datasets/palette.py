"""The seven land-cover classes: the one home of their numbers, names and colours."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

CLASS_NAMES = ("urban", "agriculture", "rangeland", "forest", "water", "barren", "unknown")
COLOURS = np.array(
    [(0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)],
    dtype=np.uint8,
)
NUM_CLASSES = 7
SCORED_CLASSES = 6  # unknown is never predicted, and the score leaves its row out
UNKNOWN = 6
IGNORED = 255  # in training targets: what is to be learnt from no pixel
UNCLAIMED = 7  # pure red: a handful of pixels in the real masks, of no class

# Index: 4R + 2G + B with each channel 1 from 128 on.
_CLASS_OF_CODE = np.array([6, 4, 3, 0, UNCLAIMED, 2, 1, 5], dtype=np.uint8)


def classes_of_colours(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 colours → (H, W) uint8 classes: 0 to 6, and UNCLAIMED for red."""
    bits = rgb >> 7
    return np.take(_CLASS_OF_CODE, (bits[..., 0] << 2) | (bits[..., 1] << 1) | bits[..., 2])


def is_of_a_class(rgb: np.ndarray, tolerance: int = 0) -> np.ndarray:
    """(..., 3) uint8 colours → (...) bool: each channel is 0 or 255, to a tolerance. True of red as well."""
    return ((rgb <= tolerance) | (rgb >= 255 - tolerance)).all(axis=-1)


def mask_image(classes: np.ndarray) -> Image.Image:
    """(H, W) classes 0 to 6 → RGB image."""
    image = Image.fromarray(np.ascontiguousarray(classes, dtype=np.uint8))
    image.putpalette(COLOURS.tobytes())
    return image.convert("RGB")


def save_mask(classes: np.ndarray, file: str | Path | BinaryIO) -> None:
    """Write (H, W) classes as an RGB PNG, in run lengths: faster than the default and smaller here."""
    mask_image(classes).save(file, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
