"""Figures of land-cover tiles: tiles at the stages of a training, and predicted masks against the true ones.

Pixels are counted as mean_iou_evaluate.py counts them: red is urban, and unknown is a class like the others.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from datasets.images import ImageError, list_images, natural_key, read_rgb
from datasets.palette import CLASS_NAMES, NUM_CLASSES, UNCLAIMED, classes_of_colours, mask_image
from datasets.tile_pairs import find_pairs, read_mask
from datasets.tiles import satellite_masks
from engine.base import UserError, available_cores
from engine.run_folder import BEST_MASKS, SNAPSHOTS, STAGES, best, read_run, snapshot_epochs, snapshot_masks
from report.run_figures import draw_confusion
from report.style import GREY, VERMILION, class_patches, save_figure, styled, without_axes
from report.text import one_line

STAGE_CELL, WORST_CELL = 1.6, 1.75  # inches across a picture
OPACITY = 0.45  # of the mask over the image
MOST_PIXELS = 400  # a side of a drawn picture: 230 dots an inch on paper, and a PDF that can be mailed
HEADINGS = ("image", "truth", "prediction", "where they disagree")


# -- stages of training --------------------------------------------------------------------------------------


def write_stages(run: str | Path, tiles: str | Path, path: str | Path | None = None) -> list[str]:
    """Draw the masks beside the run's snapshots as PATH.png and .pdf (default: RUN/stages).

    `tiles` are validation's. Returns the stages' headings, such as ["epoch 1", "epoch 17 (best)"]. UserError
    when the run has no such masks, or a picture cannot be read or is not as large as its tile.
    """
    masks = {epoch: Path(run) / snapshot_masks(epoch) for epoch in snapshot_epochs(run)}
    best_epoch, _ = best(read_run(run), "mean_iou") or (0, None)
    if best_epoch:
        masks.setdefault(best_epoch, Path(run) / BEST_MASKS)
    masks = {epoch: folder for epoch, folder in masks.items() if any(folder.glob("*.png"))}
    if not masks:
        advice = "give the run folder of a p2_train.py that has ended an epoch"
        raise UserError(f"{run}: no masks in its {SNAPSHOTS}/; {advice}")
    tiles, last = Path(tiles), masks[max(masks)]
    tile_of_mask = {mask: tiles / name for name, mask in satellite_masks(list_images(tiles))}
    names = sorted(path.name for path in last.glob("*_mask.png") if path.name in tile_of_mask)
    if not names:
        raise UserError(f"{tiles}: none of the tiles pictured in {last} is there; give the run's own data")
    stages = [epoch for epoch in sorted(masks) if all((masks[epoch] / name).is_file() for name in names)]
    folders = [tiles, *(masks[epoch] for epoch in stages)]
    rows = [_row(tile_of_mask[name], [folder / name for folder in folders]) for name in names]
    titles = [f"epoch {epoch}" + (" (best)" if epoch == best_epoch else "") for epoch in stages]
    save_figure(draw_stages(rows, titles), path or Path(run) / STAGES)
    return titles


def _row(image: Path, masks: Sequence[Path]) -> tuple[str, np.ndarray, np.ndarray, list[np.ndarray]]:
    """What `draw_stages` takes of one tile; its true mask is the first of `masks`."""
    tile, truth, *predicted = (read_rgb(path, apply_exif=False) for path in (image, *masks))
    for path, mask in zip(masks, (truth, *predicted)):
        if mask.shape != tile.shape:
            own, its = (f"{array.shape[1]}x{array.shape[0]}" for array in (mask, tile))
            raise UserError(f"{path}: {own} pixels, but its tile {image} has {its}; give the run's own data")
    return masks[0].name[: -len("_mask.png")], tile, truth, predicted


def draw_stages(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, list[np.ndarray]]], stages: Sequence[str]
) -> Figure:
    """Rows of (name, tile, truth, masks at each stage), all (H, W, 3) uint8."""
    last = stages[-1].partition(" (")[0]
    headings = ["image", "truth", *stages, f"{last} overlaid"]
    with styled():
        figure = Figure(figsize=(STAGE_CELL * len(headings), STAGE_CELL * len(rows) + 0.7))
        axes = figure.subplots(len(rows), len(headings), squeeze=False)
        for line, (name, tile, truth, masks) in zip(axes, rows):
            over = (tile * (1 - OPACITY) + masks[-1] * OPACITY).astype(np.uint8)
            for axis, picture in zip(line, (tile, truth, *masks, over)):
                axis.imshow(picture, interpolation="nearest")
                without_axes(axis)
            line[0].set_ylabel(name, fontweight="bold")
            for axis, mask in zip(line[2:-1], masks):
                agreeing = (classes_of_colours(mask) == classes_of_colours(truth)).mean()
                axis.set_xlabel(f"{agreeing:.1%} agree", fontsize=8)
        for axis, heading in zip(axes[0], headings):
            axis.set_title(heading, loc="center", fontsize=9)
        figure.legend(handles=class_patches(), loc="outside lower center", ncols=len(CLASS_NAMES), fontsize=8)
    return figure


# -- masks against the truth ---------------------------------------------------------------------------------


class Tile(NamedTuple):
    """One tile that has both masks."""

    name: str
    image: Path
    truth: Path
    predicted: Path
    agreement: float = 0.0  # share of its pixels that have the true class


@dataclass(frozen=True)
class MaskComparison:
    tiles: list[Tile]  # in natural order, at least one
    confusion: np.ndarray  # (7, 7) int64 pixels of all tiles, rows the truth
    gaps: list[str]  # a sentence for each tile that could not be compared

    @property
    def agreement(self) -> float:
        """Share of all pixels that have the true class."""
        return float(self.confusion.trace() / self.confusion.sum())

    def worst(self, count: int) -> list[Tile]:
        """The tiles of the least agreement, the worst first; of equal ones the first by name."""
        return sorted(self.tiles, key=lambda tile: (tile.agreement, natural_key(tile.name)))[:count]


def compare_masks(masks: str | Path, tiles: str | Path) -> MaskComparison:
    """Compare each predicted mask of the folder `masks` with the true one beside its tile in `tiles`.

    What is missing, broken or of another size is a gap. UserError when nothing can be compared.
    """
    masks, tiles = Path(masks), Path(tiles)
    there, truths = set(list_images(masks)), set(list_images(tiles))
    pairs, gaps = [], []
    for image, mask in satellite_masks(sorted(truths, key=natural_key)):
        if mask not in truths:
            gaps.append(f"{image} has no true mask {mask} beside it.")
        elif mask not in there:
            gaps.append(f"{mask} is not among the predictions.")
        else:
            pairs.append(Tile(mask[: -len("_mask.png")], tiles / image, tiles / mask, masks / mask))
    compared, confusion = [], np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    for tile, counts in zip(pairs, _count_all([(tile.truth, tile.predicted) for tile in pairs])):
        if isinstance(counts, str):
            gaps.append(counts)
            continue
        confusion += counts
        compared.append(tile._replace(agreement=float(counts.trace() / counts.sum())))
    if not compared:
        reason = f" ({gaps[-1]})" if pairs else ""
        advice = f"fill it with bash hw1_2.sh {tiles} {masks}"
        raise UserError(f"{masks}: has no mask to compare with those of {tiles}{reason}; {advice}")
    return MaskComparison(compared, confusion, gaps)


def class_pixels(folder: Path) -> tuple[int, np.ndarray]:
    """How many true masks of a folder can be read (UserError: none), and the pixels (7,) of each class."""
    counted = _count_all([(mask, mask) for _, _, mask in find_pairs(folder)])
    readable = [counts.diagonal() for counts in counted if not isinstance(counts, str)]
    if not readable:
        raise UserError(f"{folder}: none of its masks can be read; give the course's p2_data")
    return len(readable), np.sum(readable, axis=0)


def _count_all(pairs: Sequence[tuple[Path, Path]]) -> list[np.ndarray | str]:
    with ThreadPoolExecutor(min(4, available_cores())) as pool:
        return list(pool.map(lambda pair: _count(*pair), pairs))


def _count(truth: Path, predicted: Path) -> np.ndarray | str:
    """(7, 7) pixels of one tile, rows the truth; or why they cannot be counted."""
    try:
        true, said = (_classes(path) for path in (truth, predicted))
    except ImageError as error:
        return f"{error}."
    if true.shape != said.shape:
        sizes = (f"{array.shape[1]}x{array.shape[0]}" for array in (said, true))
        return "{}: {} pixels, but the true mask has {}.".format(predicted, *sizes)
    codes = true.ravel() * np.uint8(NUM_CLASSES) + said.ravel()
    return np.bincount(codes, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def _classes(path: Path) -> np.ndarray:
    """(H, W) uint8 classes 0 to 6 of a mask, red as urban."""
    classes = read_mask(path)
    classes[classes == UNCLAIMED] = 0
    return classes


def draw_land_cover_confusion(comparison: MaskComparison) -> Figure:
    """The confusion of the seven classes in pixels, each row as shares of the true class."""
    count = len(comparison.tiles)
    title = f"{count} tile{'s' if count > 1 else ''}: {comparison.agreement:.1%} of the pixels right"
    return draw_confusion(comparison.confusion, CLASS_NAMES, title)


def draw_worst(comparison: MaskComparison, count: int = 4) -> Figure:
    """The tiles of which the fewest pixels are right, a row each under HEADINGS.

    Wrong pixels are red over the image in grey. UserError when a mask is gone since it was compared.
    """
    tiles = comparison.worst(count)
    with styled():
        figure = Figure(figsize=(WORST_CELL * len(HEADINGS) + 0.3, WORST_CELL * len(tiles) + 1.0))
        grid = figure.subplots(len(tiles), len(HEADINGS), squeeze=False)
        for tile, line in zip(tiles, grid):
            _draw_tile(line, tile)
        for axes, heading in zip(grid[0], HEADINGS):
            axes.set_title(heading, loc="center", fontsize=9)
        wrong = Patch(facecolor=VERMILION, edgecolor=GREY, linewidth=0.6, label="wrong")
        figure.legend(handles=[*class_patches(), wrong], loc="outside lower center", ncols=4, fontsize=9)
    return figure


def _draw_tile(line: np.ndarray, tile: Tile) -> None:
    """Fill a row of axes, also when the image, in which nothing was counted, cannot be read."""
    true, said = _classes(tile.truth), _classes(tile.predicted)
    height, width = true.shape
    try:
        image = Image.fromarray(read_rgb(tile.image, apply_exif=False)).resize((width, height))
    except ImageError:
        image = Image.new("RGB", (width, height), "#D8D8D8")
        line[0].text(0.5, 0.5, "image cannot be read", transform=line[0].transAxes, ha="center", fontsize=8)
    grey = np.asarray(image.convert("L"), dtype=float)[..., None] / 255
    wrong = np.where((true != said)[..., None], to_rgb(VERMILION), 0.45 + 0.55 * grey)
    wrong = Image.fromarray((wrong * 255).astype(np.uint8))
    for axes, picture in zip(line, (image, mask_image(true), mask_image(said), wrong)):
        picture.thumbnail((MOST_PIXELS, MOST_PIXELS), Image.Resampling.NEAREST)
        axes.imshow(np.asarray(picture), interpolation="nearest")
        without_axes(axes)
    line[0].set_ylabel(one_line(tile.name, 18), fontweight="bold", fontsize=9)
    line[-1].set_xlabel(f"{tile.agreement:.1%} of its pixels agree", fontsize=8)
