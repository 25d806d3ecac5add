"""Where each block of a diagram goes, how large it is, and how its text is broken into lines.

All lengths are inches, y downwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from models.layout import Layout, Row

MARGIN, PADDING, GAP = 0.15, 0.05, 0.13  # around the picture, inside a box, between two rows
NARROWEST, WIDEST = 3.0, 5.0  # boxes of the main column, of the smallest map and the largest
BETWEEN, PARTING = 0.06, 0.12  # boxes side by side, and the room above and below them for lines that part
SIDE, BARE, LANE_GAP = 1.5, 0.1, 0.16  # lanes with blocks, lanes of lines alone, and what is between lanes
SIZE = 7.5  # of text, in points
LINE = 0.125  # from one line of text to the next
FAMILY = "DejaVu Sans"  # comes with matplotlib, so that text is as wide on every machine


@dataclass
class Box:
    """Where a block is drawn, and its text: what stands left and right in each line, and whether it is a
    name.
    """

    x: float  # of the middle
    y: float  # of the upper edge
    width: float
    height: float
    lines: list[tuple[str, str, bool]]

    @property
    def right(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


def place(blocks: dict[str, dict[str, Any]], layout: Layout, top: float) -> dict[str, Box]:
    """A box for each block by its name, below `top`."""
    boxes: dict[str, Box] = {}
    y = top
    sides = [_side(block["shape"]) for block in blocks.values()]
    for row in layout.rows:
        here = _boxes_of_row(row, blocks, layout, (min(sides), max(sides)))
        parting = PARTING if len(row.main) > 1 else 0
        height = max(box.height for box in here.values())
        for box in here.values():
            box.y = y + parting + (height - box.height) / 2
        y += height + GAP + 2 * parting
        boxes.update(here)
    return boxes


def _boxes_of_row(
    row: Row, blocks: dict[str, dict[str, Any]], layout: Layout, sides: tuple[int, int]
) -> dict[str, Box]:
    boxes = {}
    if len(row.main) == 1:
        boxes[row.main[0]] = _main_box(blocks[row.main[0]], *sides)
    elif row.main:
        width = (WIDEST + BETWEEN) / len(row.main) - BETWEEN
        for number, name in enumerate(row.main):
            boxes[name] = _small_box(blocks[name], MARGIN + width / 2 + number * (width + BETWEEN), width)
        height = max(box.height for box in boxes.values())
        for box in boxes.values():
            box.height = height
    for name, lane in row.side.items():
        boxes[name] = _small_box(blocks[name], lane_x(layout, lane), SIDE)
    return boxes


def lane_x(layout: Layout, lane: int) -> float:
    """The middle of a lane."""
    widths = [SIDE if has_blocks else BARE for has_blocks in layout.lane_has_blocks[: lane + 1]]
    return MARGIN + WIDEST + LANE_GAP * len(widths) + sum(widths) - widths[-1] / 2


def _side(shape: list[int]) -> int:
    """Pixels along a side of a map; a vector is one pixel."""
    return shape[1] if len(shape) == 3 else 1


def _main_box(block: dict[str, Any], smallest: int, largest: int) -> Box:
    """As wide as the logarithm of the resolution, as high as that of the channels, beyond what the text
    needs.
    """
    share = math.log2(_side(block["shape"]) / smallest) / math.log2(max(2, largest / smallest))
    width = NARROWEST + (WIDEST - NARROWEST) * share
    count = short_count(block["parameters"])
    texts = _wrapped(block["layers"], width - 2 * PADDING - (width_of(count) + 0.15 if count else 0))
    lines = [(_label(block), shape_text(block["shape"]), True)]
    lines += [(text, "" if number else count, False) for number, text in enumerate(texts)]
    height = LINE * len(lines) + PADDING + 0.26 * math.log2(block["shape"][0]) / 12
    return Box(MARGIN + WIDEST / 2, 0.0, width, height, lines)


def _small_box(block: dict[str, Any], x: float, width: float) -> Box:
    room = width - 2 * PADDING
    lines = [(text, "", True) for text in _wrapped(_label(block), room, "bold")]
    count = short_count(block["parameters"])
    for text in (block["layers"], shape_text(block["shape"]), count):
        lines += [(line, "", False) for line in _wrapped(text, room)]
    return Box(x, 0.0, width, LINE * len(lines) + 2 * PADDING, lines)


def route(layout: Layout, boxes: dict[str, Box], start: str, end: str) -> list[tuple[float, float]]:
    """The corners of the line from one block to another."""
    here, there = boxes[start], boxes[end]
    if (start, end) in layout.lane_of_line:  # out, down and back
        x = lane_x(layout, layout.lane_of_line[start, end])
        return [(here.right, here.middle), (x, here.middle), (x, there.middle), (there.right, there.middle)]
    if layout.row_of[start] == layout.row_of[end]:  # into a lane
        return [(here.right, here.middle), (there.x - there.width / 2, there.middle)]
    if start in layout.lane_of and end not in layout.lane_of:  # back from a lane
        return [(here.x, here.bottom), (here.x, there.middle), (there.right, there.middle)]
    if here.x == there.x:
        return [(here.x, here.bottom), (there.x, there.y)]
    # from or to one of several side by side
    bend = (
        there.y - PARTING
        if len(layout.rows[layout.row_of[end]].main) > 1
        else there.y - GAP / 2 - PARTING / 2
    )
    return [(here.x, here.bottom), (here.x, bend), (there.x, bend), (there.x, there.y)]


# -- text ----------------------------------------------------------------------------------------------------


def shape_text(shape: list[int]) -> str:
    return " × ".join(map(str, shape))


def short_count(parameters: int) -> str:
    """Three digits: 784, 38.7 k, 16.8 M; nothing for none."""
    if parameters < 1000:
        return str(parameters or "")
    unit, size = ("M", 1e6) if parameters >= 999_500 else ("k", 1e3)
    return f"{parameters / size:#.3g}".rstrip(".") + f" {unit}"


def _label(block: dict[str, Any]) -> str:
    return {"add": "+ ", "multiply": "× "}.get(block["name"].split()[0], "") + block["name"]


def _wrapped(text: str, room: float, weight: str = "normal") -> list[str]:
    """The text in lines that fit into `room`: broken at spaces, and a long name after its dots."""
    lines: list[str] = []
    for word in text.split():
        parts = [word]
        if width_of(word, weight) > room:
            parts = [part + "." for part in word.split(".")]
            parts[-1] = parts[-1][:-1]
        for number, part in enumerate(parts):
            longer = (lines[-1] + ("" if number else " ") + part) if lines else part
            if lines and width_of(longer, weight) <= room:
                lines[-1] = longer
            else:
                lines.append(part)
    return [line.strip("· ") for line in lines if line.strip("· ")]


@lru_cache(maxsize=4096)
def width_of(text: str, weight: str = "normal") -> float:
    properties = FontProperties(family=FAMILY, weight=weight, size=SIZE)
    return text_to_path.get_text_width_height_descent(text, properties, ismath=False)[0] / 72
