"""The README's pictures, drawn from the runs of `make demo`: made-up tiles and images, none of the course's.

    python3 -m report.pictures demo/sample

Writes stages.png, tsne.png, pipeline.png and report.png into report/pictures, small enough to be committed.
The drawing of the light network beside them is that of `python3 -m models.describe`.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

import numpy as np
from PIL import Image

from datasets.images import read_rgb
from datasets.palette import CLASS_NAMES, classes_of_colours
from engine.base import UserError, run_script, write_atomically
from engine.run_folder import ARCHITECTURE, snapshot_epochs, snapshot_masks

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # half a second, for which --help does not wait

FOLDER = Path(__file__).with_name("pictures")
TILES = 2  # rows of the picture of the stages
COLOURS = 128  # of a committed picture: a third of the bytes, and no eye sees it
BOX_WIDTH, BOX_HEIGHT = 2.6, 0.6  # inches


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m report.pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("demo", type=Path, help="the folder that make demo filled")
    demo = parser.parse_args(argv).demo
    runs, tiles = demo / "runs", demo / "hw1_data/p2_data/validation"
    tsne = runs / "p1/tsne/tsne.png"
    if not tsne.is_file():
        raise UserError(f"{tsne}: no such file; run make demo first")
    FOLDER.mkdir(exist_ok=True)
    keep(as_image(draw_stages(runs / "p2/model_b", tiles)), "stages", 1400)
    keep(Image.open(tsne, formats=["PNG"]), "tsne", 1400)
    keep(as_image(draw_pipeline()), "pipeline", 1200)
    keep(report_page(runs), "report", 600)
    drawing = runs / f"p2/model_b/{ARCHITECTURE}.png"
    if drawing.is_file():
        keep(Image.open(drawing, formats=["PNG"]), "lite_fpn", 1200)
    size = sum(path.stat().st_size for path in FOLDER.glob("*.png"))
    print(f"{FOLDER}: {size / 1e6:.2f} MB")
    return 0


def keep(picture: Image.Image, name: str, width: int) -> None:
    """Write it as FOLDER/NAME.png, at most `width` pixels wide and of few colours."""
    picture = picture.convert("RGB")
    if picture.width > width:
        size = (width, round(picture.height * width / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    with write_atomically(FOLDER / f"{name}.png") as temporary:
        picture.quantize(COLOURS).save(temporary, format="PNG", optimize=True)


def as_image(figure: Figure) -> Image.Image:
    from report.style import styled

    file = io.BytesIO()
    with styled():
        figure.savefig(file, format="png", dpi=150, bbox_inches="tight", pad_inches=0.08)
    return Image.open(file, formats=["PNG"])


def draw_stages(run: Path, tiles: Path) -> Figure:
    """Tiles of a run beside their truth, the masks of its snapshots, and where the last of them errs."""
    from matplotlib.figure import Figure

    from report.style import class_patches, styled, without_axes

    masks = {f"epoch {epoch}": run / snapshot_masks(epoch) for epoch in snapshot_epochs(run)}
    names = sorted(path.name for path in list(masks.values())[-1].glob("*_mask.png"))[:TILES]
    headings = ["image", "truth", *masks, "wrong at the end"]
    with styled():
        figure = Figure(figsize=(1.6 * len(headings), 1.6 * len(names) + 0.6))
        grid = figure.subplots(len(names), len(headings), squeeze=False)
        for line, name in zip(grid, names):
            image = read_rgb(tiles / name.replace("_mask.png", "_sat.jpg"), apply_exif=False)
            paths = [folder / name for folder in (tiles, *masks.values())]
            truth, *predicted = (read_rgb(path, apply_exif=False) for path in paths)
            is_wrong = classes_of_colours(predicted[-1]) != classes_of_colours(truth)
            grey = np.repeat(image.mean(axis=2, keepdims=True) * 0.6 + 100, 3, axis=2)
            errors = np.where(is_wrong[..., None], (213, 94, 0), grey).astype(np.uint8)
            for axes, picture in zip(line, (image, truth, *predicted, errors)):
                axes.imshow(picture, interpolation="nearest")
                without_axes(axes)
        for axes, heading in zip(grid[0], headings):
            axes.set_title(heading, loc="center", fontsize=9)
        figure.legend(handles=class_patches(), loc="outside lower center", ncols=len(CLASS_NAMES), fontsize=8)
    return figure


def draw_pipeline() -> Figure:
    """Problem 1 from images to settings A to E: which backbone each starts from, and what it trains."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    from report.style import BLUE, GREEN, GREY, ORANGE, VERMILION, styled

    boxes = {
        "mini": (0, 2.2, "mini-ImageNet,\nno labels", GREY),
        "labels": (0, -0.2, "images with labels", GREY),
        "byol": (1, 2.2, "p1_ssl_pretrain.py:\nBYOL", BLUE),
        "random": (1, 1.0, "random weights", GREY),
        "supervised": (1, -0.2, "the course's backbone,\nor p1_finetune.py", BLUE),
        "c": (2, 2.6, "C: all is trained;\nwhat hw1_1.sh answers with", VERMILION),
        "e": (2, 1.8, "E: the classifier alone", ORANGE),
        "a": (2, 1.0, "A: all is trained", GREEN),
        "b": (2, 0.2, "B: all is trained", GREEN),
        "d": (2, -0.6, "D: the classifier alone", ORANGE),
    }
    columns = ("images", "backbone", "p1_finetune.py on Office-Home")
    arrows = ["mini byol", "labels supervised"]
    arrows += ["byol c", "byol e", "random a", "supervised b", "supervised d"]
    style = {"boxstyle": "round,pad=0.05", "facecolor": "white"}
    with styled():
        figure = Figure(figsize=(10, 3.9))
        axes = figure.subplots()
        centre = {name: (x * 3.6, y) for name, (x, y, *_) in boxes.items()}
        for name, (_, _, text, colour) in boxes.items():
            x, y = centre[name]
            corner = (x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2)
            axes.add_patch(FancyBboxPatch(corner, BOX_WIDTH, BOX_HEIGHT, edgecolor=colour, **style))
            axes.text(x, y, text, ha="center", va="center", fontsize=9)
        for start, end in (arrow.split() for arrow in arrows):
            (x, y), (to_x, to_y) = centre[start], centre[end]
            reach = BOX_WIDTH / 2 + 0.05
            arrow = {"arrowstyle": "->", "color": GREY}
            axes.annotate("", (to_x - reach, to_y), (x + reach, y), arrowprops=arrow)
        for number, heading in enumerate(columns):
            axes.text(number * 3.6, 3.2, heading, ha="center", fontweight="bold", fontsize=9)
        axes.set(xlim=(-1.5, 8.7), ylim=(-1.1, 3.5), aspect="equal")
        axes.axis("off")
    return figure


def report_page(runs: Path) -> Image.Image:
    """The first page of the report of these runs."""
    from datasets.editions import edition
    from report.build import draw_report
    from report.page import first_page

    with tempfile.TemporaryDirectory() as folder:
        output, given = Path(folder), [str(runs / "p1"), str(runs / "p2")]
        student, answers = ("r12345678", "王小明"), output / "answers.md"
        report, _ = draw_report(edition("2024"), given, runs / "sam", *student, answers, output)
        page = first_page(report, output, dots_per_inch=100)
        return Image.open(io.BytesIO(page), formats=["PNG"])


if __name__ == "__main__":
    run_script(main)
