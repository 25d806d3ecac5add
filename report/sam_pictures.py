"""Pictures of Segment Anything's masks: an image under coloured masks, outlined; the sheet that compares."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from datasets.palette import UNKNOWN, mask_image
from datasets.sam_files import largest_first, mask_of_runs
from engine.base import cannot_write
from report.style import GREY, class_patches, save_figure, styled, without_axes

OPACITY = 0.45  # of the colour of a mask over the image
GOLDEN = 0.618034  # turns of the colour circle from one mask to the next: no two in a row are alike
SHOWN_SIDE = 768  # pixels of a picture on the sheet, at most
ROWS = 6  # of a sheet; more images go on to the next one


def draw_masks(image: np.ndarray, annotations: Sequence[dict[str, Any]]) -> np.ndarray:
    """(H, W, 3) uint8 → the same size: each mask in a colour of its own, outlined; smaller ones over larger
    ones.
    """
    picture = image.astype(np.float32)
    for number, annotation in enumerate(largest_first(annotations)):
        mask = mask_of_runs(annotation["segmentation"])
        colour = np.array(colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.85, 1.0)) * 255
        picture[mask] = (1 - OPACITY) * image[mask] + OPACITY * colour
        outline = mask & ~_inside(mask)
        picture[outline] = colour
    return picture.round().astype(np.uint8)


def _inside(mask: np.ndarray) -> np.ndarray:
    """The pixels whose four neighbours are in the mask too; beyond the image all is."""
    padded = np.pad(mask, 1, constant_values=True)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def classes_picture(classes: np.ndarray) -> np.ndarray:
    """(H, W) classes → (H, W, 3) in the course's colours; the red that no class claims is shown as
    unknown.
    """
    return np.asarray(mask_image(np.minimum(classes, UNKNOWN)))


def _smaller(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return np.asarray(image)


class Sheet:
    """Pictures side by side, a row an image: `path`.png and .pdf; after ROWS rows it goes on in `path`_2."""

    def __init__(self, path: str | Path, columns: Sequence[str]):
        self.path, self.columns = path, columns
        self.written: list[str] = []
        self._rows: list[tuple[str, dict[str, np.ndarray]]] = []

    def add(self, label: str, pictures: dict[str, np.ndarray]) -> None:
        """One row: (H, W, 3) uint8 pictures by the name of their column."""
        self._rows.append((label, {column: _smaller(picture) for column, picture in pictures.items()}))
        if len(self._rows) == ROWS:
            self.write()

    def write(self) -> None:
        """Write the rows that no file has yet, if any."""
        if not self._rows:
            return
        path = str(self.path) + (f"_{len(self.written) + 1}" if self.written else "")
        try:
            with styled():
                save_figure(self._figure(), path)
        except OSError as error:
            raise cannot_write(path, error) from None
        self.written.append(f"{path}.png")
        self._rows = []

    def _figure(self) -> Figure:
        side = 2.6  # inches of a picture
        figure = Figure(figsize=(side * len(self.columns), side * len(self._rows) + 0.6))
        axes = figure.subplots(len(self._rows), len(self.columns), squeeze=False)
        for across, (label, pictures) in zip(axes, self._rows):
            for place, column in zip(across, self.columns):
                without_axes(place)
                if column in pictures:
                    place.imshow(pictures[column])
                else:
                    place.text(
                        0.5, 0.5, "none", ha="center", va="center", color=GREY, transform=place.transAxes
                    )
                    place.set_box_aspect(1)
            across[0].set_ylabel(label)
        for place, column in zip(axes[0], self.columns):
            place.set_title(column)
        if len(self.columns) > 2:  # classes are shown
            columns = 7 if len(self.columns) > 3 else 4
            figure.legend(handles=class_patches(), loc="outside lower center", ncols=columns)
        return figure
