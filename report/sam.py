"""Segment Anything: the pictures of masks and the sheet that p2_sam.py draws; and what the report says of its
folder: the method, its masks, and whether their vote betters model B.
"""

from __future__ import annotations

import colorsys
import statistics
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from datasets.images import natural_key
from datasets.palette import CLASS_NAMES, SCORED_CLASSES, UNKNOWN, mask_image
from datasets.sam_files import largest_first, mask_of_runs
from engine.base import cannot_write
from engine.run_folder import is_number, read_json
from report.blocks import facts, taken, words
from report.document import Block, Gap, Table, Text
from report.style import GREY, class_patches, save_figure, styled, without_axes
from report.text import one_line

OPACITY = 0.45  # of the colour of a mask over the image
GOLDEN = 0.618034  # turns of the colour circle from one mask to the next: no two in a row are alike
SHOWN_SIDE = 768  # pixels of a picture on the sheet, at most
ROWS = 6  # of a sheet; more images go on to the next one
COMMAND = (
    "python3 p2_sam.py --images hw1_data/p2_data/validation/0013_sat.jpg "
    "hw1_data/p2_data/validation/0062_sat.jpg hw1_data/p2_data/validation/0104_sat.jpg --output runs/sam "
    "--vote runs/problem2/model_b/model.pt"
)
FEW_IMAGES = 30  # fewer than this say nothing of others
SCORED = CLASS_NAMES[:SCORED_CLASSES]
SETTINGS = {
    "network": "network",
    "weights": "weights",
    "points_per_side": "points along a side",
    "pred_iou_thresh": "least predicted IoU",
    "stability_score_thresh": "least stability score",
    "box_nms_thresh": "boxes alike from IoU",
    "crop_n_layers": "layers of crops",
}


# -- pictures, for p2_sam.py ---------------------------------------------------------------------------------


def draw_masks(image: np.ndarray, annotations: Sequence[dict[str, Any]]) -> np.ndarray:
    """(H, W, 3) uint8 → the same size: each mask in a colour of its own, outlined, the smaller above."""
    picture = image.astype(np.float32)
    for number, annotation in enumerate(largest_first(annotations)):
        mask = mask_of_runs(annotation["segmentation"])
        colour = np.array(colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.85, 1.0)) * 255
        picture[mask] = (1 - OPACITY) * image[mask] + OPACITY * colour
        # Inside are those whose four neighbours are in the mask too; beyond the image all is.
        padded = np.pad(mask, 1, constant_values=True)
        inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        picture[mask & ~inside] = colour
    return picture.round().astype(np.uint8)


def classes_picture(classes: np.ndarray) -> np.ndarray:
    """(H, W) classes → (H, W, 3) in the course's colours; red, which no class claims, as unknown."""
    return np.asarray(mask_image(np.minimum(classes, UNKNOWN)))


class Sheet:
    """Pictures side by side, a row an image: `path`.png and .pdf; after ROWS rows it goes on in `path`_2."""

    def __init__(self, path: str | Path, columns: Sequence[str]):
        self.path, self.columns = path, columns
        self.written: list[str] = []
        self._rows: list[tuple[str, dict[str, Image.Image]]] = []

    def add(self, label: str, pictures: dict[str, np.ndarray]) -> None:
        """One row: (H, W, 3) uint8 pictures by the name of their column."""
        images = {column: Image.fromarray(picture) for column, picture in pictures.items()}
        for image in images.values():
            image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        self._rows.append((label, images))
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
                    place.imshow(np.asarray(pictures[column]))
                    continue
                middle = {"ha": "center", "va": "center", "transform": place.transAxes}
                place.text(0.5, 0.5, "none", color=GREY, **middle)
                place.set_box_aspect(1)
            across[0].set_ylabel(label)
        for place, column in zip(axes[0], self.columns):
            place.set_title(column)
        if len(self.columns) > 2:  # classes are shown
            columns = 7 if len(self.columns) > 3 else 4
            figure.legend(handles=class_patches(), loc="outside lower center", ncols=columns)
        return figure


# -- what p2_sam.py left, for the report ---------------------------------------------------------------------


def sam_blocks(folder: Path | None, figures: Path) -> list[Block]:
    """The answer to the question about SAM; a gap with the command where there is no result."""
    if folder is None:
        return [Gap("There is no result of Segment Anything.", COMMAND)]
    paths = sorted(folder.glob("*_sam.json"), key=lambda path: natural_key(path.name))
    images = [image for image in map(_read, paths) if image]
    if not images:
        return [Gap(f"{folder}: no result of p2_sam.py in it.", COMMAND)]
    made_by = images[0]["made_by"]
    settings = {label: words(made_by.get(name)) for name, label in SETTINGS.items()}
    table = facts(settings, "Settings of the mask generator.")
    blocks: list[Block] = [Text(_method(made_by)), table]
    others = [image["name"] for image in images if image["made_by"] != made_by]
    if others:
        said = f"These are the settings of {images[0]['name']}; made with others"
        blocks.append(Text(f"{said}: {one_line(', '.join(others), 200)}."))
    sheets = sorted(folder.glob("sheet*.png"), key=lambda path: natural_key(path.name))
    for number, sheet in enumerate(sheets):
        caption = "Image, truth, model B and the masks of SAM, each in a colour of its own with its outline."
        name = "sam" if number == 0 else f"sam_{number + 1}"
        blocks.append(taken(figures, name, sheet.with_suffix(""), caption, "Images beside SAM's masks"))
    if not sheets:
        blocks.append(Gap(f"{folder} has no sheet.png.", COMMAND))
    columns = ("image", "masks", "largest", "median")
    rows = tuple(map(_row, images))
    blocks.append(Table(columns, rows, "Masks by image; sizes are shares of its area."))
    return blocks + _vote(folder / "score.json")


def _method(made_by: dict[str, Any]) -> str:
    points, network = words(made_by.get("points_per_side")), words(made_by.get("network"))
    if network == "vit_t":
        network = "vit_t, the image encoder of MobileSAM (Zhang et al., 2023)"
    alike = made_by.get("box_nms_thresh")
    is_sifted = is_number(alike) and alike < 1
    sifted = ", and of masks with nearly the same box the best one" if is_sifted else ""
    return (
        f"Segment Anything (Kirillov et al., 2023; {network}, weights "
        f"{words(made_by.get('weights'))}) was asked for the object at each point of a grid of {points} by "
        f"{points} points. Of the masks that it gave, those were kept that it expects to be right and that "
        f"stay the same when cut a little higher or lower{sifted}."
    )


def _read(path: Path) -> dict[str, Any] | None:
    """{"name", "made_by", "shares"} of an image; None where the file is not one of ours.

    That is how it was made, and of each mask the share of the image that it covers.
    """
    try:
        said = read_json(path)
        made_by, areas = said["made_by"], [mask["area"] for mask in said["annotations"]]
        sides = [said["image"]["height"], said["image"]["width"]]
        is_ours = isinstance(made_by, dict) and all(is_number(side) and side > 0 for side in sides)
        if not (is_ours and all(map(is_number, areas))):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    shares = [area / (sides[0] * sides[1]) for area in areas]
    name = one_line(path.name[: -len("_sam.json")], 60)
    return {"name": name, "made_by": made_by, "shares": shares} if all(map(_is_share, shares)) else None


def _row(image: dict[str, Any]) -> tuple[str, ...]:
    shares = image["shares"]
    if not shares:
        return image["name"], "0", "–", "–"
    return image["name"], f"{len(shares)}", f"{max(shares):.1%}", f"{statistics.median(shares):.2%}"


def _vote(path: Path) -> list[Block]:
    """Model B's score beside that of its masks after SAM's vote, where p2_sam.py had both."""
    try:
        said = read_json(path)
        makers = {name: said[name] for name in ("model B", "vote") if _is_share(said[name].get("mean_iou"))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        makers = {}
    if not makers:
        return [Gap("There is no comparison with model B.", COMMAND)]
    rows = []
    for name, found in makers.items():
        shares = (found.get(key) for key in ("mean_iou", *SCORED))
        rows.append((name, *(f"{share:.4f}" if _is_share(share) else "–" for share in shares)))
    caption = "Model B alone, and after each of SAM's masks took the class that most of its pixels have "
    caption += f"({words(said.get('images'))} images; a class that one row lacks is left out of both means)."
    blocks: list[Block] = [Table(("", "mean IoU", *SCORED), tuple(rows), caption)]
    if len(makers) == 2:
        apart = makers["vote"]["mean_iou"] - makers["model B"]["mean_iou"]
        side = "raises" if apart > 0 else "lowers" if apart < 0 else "leaves"
        how_far = f"by {abs(apart):.4f}" if apart else "as it is"
        text = f"The vote {side} the mean IoU of these images {how_far}"
        images = said.get("images")
        is_few = is_number(images) and images < FEW_IMAGES
        blocks.append(Text(text + ("; so few images say nothing of others." if is_few else ".")))
    return blocks


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1
