"""The report's picture of a segmentation run: what named tiles looked like at an early, a middle and the
final stage.

A row for each tile: the image, the truth, the predictions of the run's snapshots, and the last of them over
the image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from datasets.images import list_images, read_rgb
from datasets.palette import CLASS_NAMES, COLOURS, classes_of_colours
from datasets.tiles import satellite_masks
from engine.base import UserError
from engine.run_folder import SNAPSHOTS, STAGES, snapshot_epochs, snapshot_masks
from report.style import GREY, save_figure, styled

CELL = 1.6  # inches across a picture
OPACITY = 0.45  # of the mask over the image


def write_stages(run: str | Path, tiles: str | Path, path: str | Path | None = None) -> list[str]:
    """Draw the masks beside the run's snapshots as PATH.png and .pdf (default: RUN/stages); `tiles` are
    validation's.

    Returns the stages' headings, such as ["epoch 1", "epoch 17"]. UserError when the run has no such masks,
    or a picture cannot be read or is not as large as its tile.
    """
    masks = {epoch: Path(run) / snapshot_masks(epoch) for epoch in snapshot_epochs(run)}
    masks = {epoch: folder for epoch, folder in masks.items() if any(folder.glob("*.png"))}
    if not masks:
        raise UserError(
            f"{run}: no masks in its {SNAPSHOTS}/; "
            "give the run folder of a p2_train.py that has ended an epoch"
        )
    tile_of_mask = {mask: name for name, mask in satellite_masks(list_images(tiles))}
    last = masks[max(masks)]
    names = sorted(path.name for path in last.glob("*_mask.png") if path.name in tile_of_mask)
    if not names:
        raise UserError(f"{tiles}: none of the tiles pictured in {last} is there; give the run's own data")
    stages = {
        epoch: folder for epoch, folder in masks.items() if all((folder / name).is_file() for name in names)
    }
    rows = [
        _row(Path(tiles) / tile_of_mask[name], [folder / name for folder in (Path(tiles), *stages.values())])
        for name in names
    ]
    titles = [f"epoch {epoch}" for epoch in stages]
    save_figure(draw(rows, titles), path or Path(run) / STAGES)
    return titles


def _row(image: Path, masks: Sequence[Path]) -> tuple[str, np.ndarray, np.ndarray, list[np.ndarray]]:
    """What `draw` takes of one tile; its true mask is the first of `masks`."""
    tile, truth, *predicted = (read_rgb(path, apply_exif=False) for path in (image, *masks))
    for path, mask in zip(masks, (truth, *predicted)):
        if mask.shape != tile.shape:
            own, its = (f"{array.shape[1]}x{array.shape[0]}" for array in (mask, tile))
            raise UserError(f"{path}: {own} pixels, but its tile {image} has {its}; give the run's own data")
    return masks[0].name[: -len("_mask.png")], tile, truth, predicted


def draw(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, list[np.ndarray]]], stages: Sequence[str]
) -> Figure:
    """Rows of (name, tile, truth, masks at each stage), all (H, W, 3) uint8."""
    headings = ["image", "truth", *stages, f"{stages[-1]} over the image"]
    with styled():
        figure = Figure(figsize=(CELL * len(headings), CELL * len(rows) + 0.7))
        axes = figure.subplots(len(rows), len(headings), squeeze=False)
        for line, (name, tile, truth, masks) in zip(axes, rows):
            over = (tile * (1 - OPACITY) + masks[-1] * OPACITY).astype(np.uint8)
            for axis, picture in zip(line, (tile, truth, *masks, over)):
                axis.imshow(picture, interpolation="nearest")
                axis.set(xticks=[], yticks=[])
                for spine in axis.spines.values():  # white is a class: without an edge it would be the paper
                    spine.set(visible=True, color=GREY, linewidth=0.6)
            line[0].set_ylabel(name, fontweight="bold")
            for axis, mask in zip(line[2:-1], masks):
                agreeing = (classes_of_colours(mask) == classes_of_colours(truth)).mean()
                axis.set_xlabel(f"{agreeing:.1%} agree", fontsize=8)
        for axis, heading in zip(axes[0], headings):
            axis.set_title(heading, loc="center", fontsize=9)
        patches = [
            Patch(facecolor=colour / 255, edgecolor=GREY, label=name)
            for name, colour in zip(CLASS_NAMES, COLOURS)
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8)
    return figure
