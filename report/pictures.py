"""The README's pictures, taken from the runs of `make demo`: made-up tiles and images, none of the course's.

    python3 -m report.pictures demo/sample

Writes stages.png, tsne.png, report.png and lite_fpn.png into report/pictures, small enough to be committed.
pipeline.svg, which lies there too, was written by hand.
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
