"""The README's pictures, drawn from the runs of `make demo`: made-up tiles and images, none of the course's.

    python3 -m report.pictures demo/sample

Writes stages.png, tsne.png, pipeline.png, report.png and lite_fpn.png into report/pictures, small enough to
be committed.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Sequence

from PIL import Image

from engine.base import UserError, run_script, write_atomically
from engine.run_folder import ARCHITECTURE, STAGES
from report import parser_of

FOLDER = Path(__file__).with_name("pictures")
COLOURS = 128  # of a committed picture: a third of the bytes, and no eye sees it
BOX_WIDTH, BOX_HEIGHT = 2.6, 0.6  # inches


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of("pictures", __doc__)
    parser.add_argument("demo", type=Path, help="the folder that make demo filled")
    runs = parser.parse_args(argv).demo / "runs"
    model_b, tsne = runs / "p2/model_b", runs / "p1/tsne/tsne.png"
    for path in (tsne, model_b / f"{STAGES}.png", model_b / f"{ARCHITECTURE}.png"):
        if not path.is_file():
            raise UserError(f"{path}: no such file; run make demo first")
    FOLDER.mkdir(exist_ok=True)
    keep(model_b / f"{STAGES}.png", "stages", 1400)
    keep(tsne, "tsne", 1400)
    keep(draw_pipeline(), "pipeline", 1200)
    keep(report_page(runs), "report", 600)
    keep(model_b / f"{ARCHITECTURE}.png", "lite_fpn", 1200)
    size = sum(path.stat().st_size for path in FOLDER.glob("*.png"))
    print(f"{FOLDER}: {size / 1e6:.2f} MB")
    return 0


def keep(png: Path | io.BytesIO, name: str, width: int) -> None:
    """Write it as FOLDER/NAME.png, at most `width` pixels wide and of few colours."""
    picture = Image.open(png, formats=["PNG"]).convert("RGB")
    if picture.width > width:
        size = (width, round(picture.height * width / picture.width))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    with write_atomically(FOLDER / f"{name}.png") as temporary:
        picture.quantize(COLOURS).save(temporary, format="PNG", optimize=True)


def draw_pipeline() -> io.BytesIO:
    """Problem 1 from images to settings A to E: which backbone each starts from, and what it trains."""
    from matplotlib.figure import Figure  # half a second, for which --help does not wait
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
    file = io.BytesIO()
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
        figure.savefig(file, format="png", dpi=150, bbox_inches="tight", pad_inches=0.08)
    return file


def report_page(runs: Path) -> io.BytesIO:
    """The first page of the report of these runs."""
    from report.build import draw_report, parse_arguments
    from report.page import first_page

    with tempfile.TemporaryDirectory() as folder:
        words = ["--p1", f"{runs}/p1", "--p2", f"{runs}/p2", "--sam", f"{runs}/sam", "--edition", "2024"]
        words += ["--student-id", "r12345678", "--name", "王小明"]
        words += ["--output", folder, "--answers", f"{folder}/answers.md"]
        report, _ = draw_report(parse_arguments(words))
        return io.BytesIO(first_page(report, Path(folder)))


if __name__ == "__main__":
    run_script(main)
