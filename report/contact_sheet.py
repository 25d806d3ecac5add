"""One picture of what was predicted: images with their labels, tiles with their masks, beside the truth.

    python3 -m report.contact_sheet --data hw1_data --labels predictions.csv --masks masks --output sheet.png

Shows images of office/val and tiles of p2_data/validation, evenly spaced over those that have a prediction.
Exit status: 0 written; 1 written without those that could not be read (named on stderr); 2 nothing written,
the reason is one line on stderr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from datasets.images import ImageError, list_images, read_rgb
from datasets.palette import CLASS_NAMES, COLOURS, classes_of_colours
from datasets.tables import read_class_names, read_labels
from datasets.tiles import satellite_masks
from engine.base import UserError, plain_errors, run_script, say, write_atomically
from report import parser_of

WIDTH, MARGIN, GAP = 1280, 24, 12
INK, PAPER, GREY = (25, 25, 25), (255, 255, 255), (110, 110, 110)
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)  # told apart by colour-blind eyes too
IMAGE_COLUMNS, IMAGE_ROWS = 8, 3
TILE_COLUMNS, TILE_ROWS = 2, 3  # each of an image, its truth and its prediction


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of("contact_sheet", __doc__)
    add = parser.add_argument
    add("--data", required=True, type=Path, help="hw1_data, the course's or a made-up one")
    add("--labels", required=True, type=Path, help="the CSV that hw1_1.sh wrote for office/val.csv")
    add("--masks", required=True, type=Path, help="the folder that hw1_2.sh filled for validation")
    add("--output", required=True, type=Path, help="the PNG to write")
    args = parser.parse_args(argv)
    unread: list[ImageError] = []
    parts = [
        text_line("Problem 1: what the image shows, and what the network said", 24),
        draw_labels(args.data / "p1_data" / "office", args.labels, unread),
        text_line("Problem 2: tile, true mask, predicted mask", 24),
        draw_legend(),
        draw_masks(args.data / "p2_data" / "validation", args.masks, unread),
    ]
    with plain_errors(args.output):
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(args.output) as temporary:
            stack(parts).save(temporary, format="PNG")
    for error in unread:
        say(f"left out: {error}")
    print(args.output)
    return 1 if unread else 0


def draw_labels(office: Path, predictions: Path, unread: list[ImageError]) -> Image.Image:
    """Images of office/val, the true and the predicted name under each; `unread` takes those left out."""
    truth = {row["filename"]: row["label"] for row in read_labels(office / "val.csv")}
    predicted = {row["filename"]: row["label"] for row in read_labels(predictions)}
    names = [name for name in truth if name in predicted and (office / "val" / name).is_file()]
    if not names:
        advice = f"give the predictions of {office / 'val.csv'}"
        raise UserError(f"{predictions}: has no image of {office / 'val'}; {advice}")
    classes = read_class_names(office / "classes.txt", truth.values())
    side = (WIDTH - 2 * MARGIN - (IMAGE_COLUMNS - 1) * GAP) // IMAGE_COLUMNS
    cells = []
    for name in evenly(names, IMAGE_COLUMNS * IMAGE_ROWS):
        try:
            image = Image.fromarray(read_rgb(office / "val" / name, apply_exif=True))
        except ImageError as error:
            unread.append(error)
            continue
        true, said = (classes.get(label, label) for label in (truth[name], predicted[name]))
        verdict, colour = ("right", RIGHT) if true == said else (f"said {said}", WRONG)
        cell = Image.new("RGB", (side, side + 40), PAPER)
        cell.paste(ImageOps.pad(image, (side, side), color=GREY))
        pen = ImageDraw.Draw(cell)
        pen.rectangle((0, 0, side - 1, side - 1), outline=colour, width=4)
        pen.text((0, side + 3), shortened(true, 13, side), fill=INK, font=font(13))
        pen.text((0, side + 20), shortened(verdict, 13, side), fill=colour, font=font(13))
        cells.append(cell)
    if not cells:
        reason = f"none of the images can be read ({unread[0]})"
        raise UserError(f"{office / 'val'}: {reason}; give --data whole images")
    return grid(cells, IMAGE_COLUMNS)


def draw_masks(tiles: Path, masks: Path, unread: list[ImageError]) -> Image.Image:
    """Tiles, true and predicted masks, the share of pixels that agree; `unread` takes those left out."""
    there = set(list_images(masks))
    pairs = satellite_masks(list_images(tiles))
    pairs = [(name, mask) for name, mask in pairs if mask in there and (tiles / mask).is_file()]
    if not pairs:
        raise UserError(f"{masks}: has no mask of {tiles}; fill it with bash hw1_2.sh {tiles} {masks}")
    side = (WIDTH - 2 * MARGIN - (3 * TILE_COLUMNS - 1) * GAP) // (3 * TILE_COLUMNS)
    cells = []
    for name, mask in evenly(pairs, TILE_COLUMNS * TILE_ROWS):
        paths = (tiles / name, tiles / mask, masks / mask)
        try:
            tile, truth, predicted = (read_rgb(path, apply_exif=False) for path in paths)
        except ImageError as error:
            unread.append(error)
            continue
        cell = Image.new("RGB", (3 * side + 2 * GAP, side + 24), PAPER)
        pen = ImageDraw.Draw(cell)
        for column, pixels in enumerate((tile, truth, predicted)):
            resample = Image.Resampling.NEAREST if column else Image.Resampling.LANCZOS
            left = column * (side + GAP)
            cell.paste(Image.fromarray(pixels).resize((side, side), resample), (left, 0))
            # White is a class: without an edge it would be the paper.
            pen.rectangle((left, 0, left + side - 1, side - 1), outline=GREY)
        agreeing = "another size"
        if truth.shape == predicted.shape:
            agreement = (classes_of_colours(truth) == classes_of_colours(predicted)).mean()
            agreeing = f"{agreement:.1%} of its pixels agree"
        pen.text((0, side + 4), f"{mask[: -len('_mask.png')]}: {agreeing}", fill=INK, font=font(13))
        cells.append(cell)
    if not cells:
        reason = f"none of the tiles and masks can be read ({unread[-1]})"
        raise UserError(f"{tiles}: {reason}; give --data whole images")
    return grid(cells, TILE_COLUMNS)


def draw_legend() -> Image.Image:
    """The seven colours with their names, on one line."""
    image = Image.new("RGB", (WIDTH - 2 * MARGIN, 22), PAPER)
    pen = ImageDraw.Draw(image)
    x = 0
    for name, colour in zip(CLASS_NAMES, COLOURS.tolist()):
        pen.rectangle((x, 2, x + 17, 19), fill=tuple(colour), outline=GREY)
        pen.text((x + 24, 3), name, fill=INK, font=font(14))
        x += 24 + round(font(14).getlength(name)) + 28
    return image


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, from the first to the last at equal distances."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[int(place)] for place in places]


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # Pillow's own, so that the sheet is the same on every machine


def shortened(text: str, size: int, width: int) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def text_line(text: str, size: int) -> Image.Image:
    image = Image.new("RGB", (WIDTH - 2 * MARGIN, size + 12), PAPER)
    ImageDraw.Draw(image).text((0, 4), text, fill=INK, font=font(size))
    return image


def grid(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    """Equal cells in rows of `columns`."""
    width, height = cells[0].size
    rows = -(-len(cells) // columns)
    image = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), PAPER)
    for index, cell in enumerate(cells):
        image.paste(cell, (index % columns * (width + GAP), index // columns * (height + GAP)))
    return image


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """The parts below one another on a page."""
    page = Image.new("RGB", (WIDTH, 2 * MARGIN + sum(part.height + GAP for part in parts) - GAP), PAPER)
    y = MARGIN
    for part in parts:
        page.paste(part, (MARGIN, y))
        y += part.height + GAP
    return page


if __name__ == "__main__":
    run_script(main)
