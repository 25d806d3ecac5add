"""Images as they come from outside: found by name, read as RGB whatever they were, refused with a reason."""

from __future__ import annotations

import os
import re
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from engine.base import UserError, open_regular

EXTENSIONS = (".jpg", ".jpeg", ".png")
# What a file is counts, not its name. Others (EPS starts a program, for one) are not opened.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
LARGEST_IMAGE = 89_478_485  # pixels; from here on Pillow itself speaks of a decompression bomb
LARGEST_FILE = 1 << 30  # bytes; that many pixels of four channels with 16 bits each are fewer

# Once for all threads, in which warnings.catch_warnings is not safe. Sizes are checked below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class ImageError(UserError):
    """One file that is no readable image; the others can still be used."""


def natural_key(name: str) -> tuple:
    """Sorts 2.png before 10.png; names that differ in leading zeros alone keep one order."""
    parts = re.split(r"([0-9]+)", name)  # text and digits in turns
    # By length, then digit by digit, which is by value: int refuses thousands of digits.
    numbers = [part.lstrip("0") if index % 2 else part for index, part in enumerate(parts)]
    return tuple((len(part), part) if index % 2 else (-1, part) for index, part in enumerate(numbers)), name


def list_images(folder: str | Path) -> list[str]:
    """The names of the images in a folder (not below it), in natural order. Hidden files are no images.

    A link that leads nowhere is listed: it should have been an image, and reading it will say so.
    """
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(EXTENSIONS) and not _is_folder(e)]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; give a folder of images") from None
    return sorted((name for name in names if not name.startswith(".")), key=natural_key)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: no folder, and reading it will say what it is
        return False


def read_rgb(path: str | Path, apply_exif: bool, longest_side: int | None = None) -> np.ndarray:
    """An image file as (H, W, 3) uint8; those to classify want `apply_exif`, tiles do not.

    Raises ImageError when the file is missing, empty, truncated, a decompression bomb, no image, or has a
    side of more pixels than `longest_side`, where that is given.
    """
    try:
        with open_image(path) as image:
            width, height = image.size
            if width * height > LARGEST_IMAGE:
                raise ImageError(f"{path}: {width}x{height} pixels; taken for a decompression bomb")
            if longest_side is not None and max(width, height) > longest_side:
                raise ImageError(f"{path}: {width}x{height} pixels, above {longest_side:,} a side; cut it up")
            image.load()
            return _pixels(_upright(image) if apply_exif else image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image") from None
    except Exception as error:  # Pillow's readers raise nearly anything on a broken file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(f"{path}: {reason}") from None


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """An image file, its pixels not yet read; ImageError where it is empty, whatever Pillow raises else."""
    with open_regular(path, LARGEST_FILE) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ImageError(f"{path}: the file is empty")
        with Image.open(file, formats=FORMATS) as image:
            yield image


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it is where the EXIF data are broken."""
    try:
        return ImageOps.exif_transpose(image) or image
    except Exception:  # the pixels are good, and broken EXIF data raise nearly anything
        return image


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of any mode."""
    if image.mode.startswith("I"):
        # convert() alone clips 16-bit samples at 255; their high byte is the picture.
        grey = np.clip(np.asarray(image, dtype=np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def evaluation_image(rgb: np.ndarray, image_size: int, is_padded: bool = False) -> np.ndarray:
    """What a classifier sees in evaluation and at inference, where nothing is drawn at random.

    (H, W, 3) uint8 → (S, S, 3) uint8, resized to a square as the course does; bilinear with antialiasing.
    If `is_padded`, black borders make it a square first.
    """
    if is_padded:
        height, width = rgb.shape[:2]
        across, down = max(0, height - width), max(0, width - height)
        rgb = np.pad(rgb, ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)))
    return np.array(Image.fromarray(rgb).resize((image_size, image_size), Image.BILINEAR))


def path_inside(folder: str | Path, name: str) -> str | None:
    """Where the image `name` of a table lies; None when that is no place inside the folder.

    Spaces around the name, as people write them after commas, are the file's only where one is called so.
    """
    bare = name.strip() or name
    if not name or "\0" in name or os.path.isabs(bare) or ".." in bare.split("/"):
        return None
    path = os.path.join(folder, name)
    return path if bare == name or os.path.lexists(path) else os.path.join(folder, bare)
