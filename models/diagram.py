"""Draw what models.describe found: blocks from the input down to the output, their branches to the right.

The longest way from the input to the output is the main column. What leaves it and comes back has a lane to
the right, the farther out the more rows it spans, so that nested skip connections do not cross; so has an
output of its own. Blocks side by side between the same two others share a row of the main column. All lengths
are inches, y downwards.
"""

from __future__ import annotations

import io
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import text_to_path

from models.dataflow import shape_text, short_count

MARGIN, PADDING, GAP = 0.15, 0.05, 0.13  # around the picture, inside a box, between two rows
NARROWEST, WIDEST = 3.0, 5.0  # boxes of the main column, of the smallest map and the largest
BETWEEN, PARTING = 0.06, 0.12  # boxes side by side, and the room above and below them for lines that part
SIDE, BARE, LANE_GAP = 1.5, 0.1, 0.16  # lanes with blocks, lanes of lines alone, and what is between lanes
SIZE = 7.5  # of text, in points
LINE = 0.125  # from one line of text to the next
FAMILY = "DejaVu Sans"  # comes with matplotlib, so that text is as wide on every machine

# Okabe and Ito's colours, which colour-blind eyes tell apart: edge, a tint to fill, and the legend's words.
ROLES = {
    "convolution": ("#0072B2", "#DCEBF5", "convolutions"),
    "pooling": ("#B87F00", "#FCEBC5", "pooling"),
    "upsampling": ("#007A59", "#CDEBE0", "upsampling"),
    "linear": ("#A8507F", "#F5E1EC", "linear layer"),
    "junction": ("#444444", "#FFFFFF", "joined branches"),
    "input": ("#444444", "#E8E8E8", ""),
    "output": ("#444444", "#E8E8E8", ""),
    "other": ("#444444", "#F4F4F4", ""),
}
ARROW = {"arrowstyle": "-|>", "mutation_scale": 7, "color": "#333333", "linewidth": 0.9}
ARROW.update(joinstyle="miter", capstyle="butt", shrinkA=0, shrinkB=0)


def draw(description: dict[str, Any], kind: str = "svg") -> bytes:
    """A picture of a description, as the bytes of a svg, png or pdf: without a date, the same each time."""
    metadata = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
    file = io.BytesIO()
    with matplotlib.rc_context():  # whatever the user's matplotlibrc says, and without SVG's random names
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "architecture", "svg.fonttype": "path"})
        matplotlib.rcParams.update({"font.family": FAMILY, "pdf.fonttype": 42})
        figure_of(description).savefig(file, format=kind, dpi=160, metadata=metadata[kind])
    return file.getvalue()


def figure_of(description: dict[str, Any]) -> Figure:
    blocks = {block["name"]: block for block in description["blocks"]}
    listed = Layout({name: row for row, name in enumerate(blocks)}, {}, [])  # one below the other
    layout = lay_out(description["blocks"]) if description["is_traced"] else listed
    headline, legend = _headline(description), _legend(description)
    boxes = place(blocks, layout, MARGIN + LINE * len(headline) + GAP)
    lanes = [layout.lane_x(lane) for lane in layout.lane_of.values()]
    width = max([*lanes, *(box.right for box in boxes.values())]) + MARGIN
    height = max(box.bottom for box in boxes.values()) + GAP + LINE * (1 + len(legend)) + MARGIN
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for number, text in enumerate(headline):
        size, weight = (SIZE, "normal") if number else (SIZE + 2.5, "bold")
        y = MARGIN + LINE * (number + 0.7 * bool(number))
        axes.text(MARGIN, y, text, size=size, weight=weight, va="center")
    for start, end in layout.edges:
        path = Path(route(layout, boxes, start, end))
        axes.add_patch(FancyArrowPatch(path=path, zorder=2, **ARROW))
    for name, box in boxes.items():
        _draw_box(axes, box, blocks[name]["role"], blocks[name]["is_auxiliary"])
    _draw_legend(axes, blocks, legend, height - MARGIN - LINE * (0.5 + len(legend)))
    return figure


def _draw_box(axes: Axes, box: Box, role: str, is_dashed: bool = False) -> None:
    edge, fill, _ = ROLES[role]
    left, top = box.x - box.width / 2, box.middle - LINE * len(box.lines) / 2
    shape = f"round,pad=0,rounding_size={min(0.05, box.height / 4)}"
    style = {"facecolor": fill, "edgecolor": edge, "linestyle": "--" if is_dashed else "-", "linewidth": 1.1}
    axes.add_patch(FancyBboxPatch((left, box.y), box.width, box.height, boxstyle=shape, zorder=3, **style))
    style = {"size": SIZE, "va": "center_baseline", "zorder": 4}
    for number, (text, at_right, is_name) in enumerate(box.lines):
        y = top + LINE * (number + 0.5)
        axes.text(left + PADDING, y, text, weight="bold" if is_name else "normal", **style)
        axes.text(box.right - PADDING, y, at_right, ha="right", **style)


def _draw_legend(axes: Axes, blocks: dict[str, dict[str, Any]], lines: list[str], y: float) -> None:
    x, roles = MARGIN, {block["role"] for block in blocks.values()}
    for role, (_, _, text) in ROLES.items():
        if role in roles and text:
            _draw_box(axes, Box(x + 0.08, y - 0.045, 0.16, 0.09, []), role)
            axes.text(x + 0.22, y, text, size=SIZE, va="center_baseline")
            x += 0.22 + width_of(text) + 0.2
    for number, text in enumerate(lines, start=1):
        axes.text(MARGIN, y + LINE * number, text, size=SIZE, va="center_baseline")


def _headline(description: dict[str, Any]) -> list[str]:
    size, auxiliary = description["input"][1], description["auxiliary_parameters"]
    beside = f", {short_count(auxiliary)} of them in the auxiliary head" if auxiliary else ""
    operations = f"{description['multiply_adds'] / 1e9:.1f}" if description["multiply_adds"] else "unknown"
    return [
        description["network"],
        f"{short_count(description['parameters'])} parameters{beside}",
        f"{operations} GFLOPs (multiply-adds) for an image of {size} × {size}",
    ]


def _legend(description: dict[str, Any]) -> list[str]:
    if not description["is_traced"]:
        listed = "The parts as they are listed: which follows which could not be traced."
        return ["In each box: name; kind; number of parameters.", listed]
    lines = [
        "In each box: name; layers; channels × height × width; number of parameters.",
        "The wider a box, the larger its map; the higher, the more channels (on logarithmic scales).",
    ]
    if any(block["is_auxiliary"] for block in description["blocks"]):
        lines.append("Dashed: the auxiliary head, which works in training alone.")
    return lines


# -- in which row and lane each block is drawn ---------------------------------------------------------------


@dataclass
class Layout:
    row_of: dict[str, int]  # of each block
    # Of blocks beside the main column by name, and of edges past rows of it that have no block.
    lane_of: dict[str | tuple[str, str], int]
    edges: list[tuple[str, str]]  # from block to block

    def main_of(self, row: int) -> list[str]:
        """The blocks of the main column in a row: one, several side by side, or none."""
        return [name for name, own in self.row_of.items() if own == row and name not in self.lane_of]

    def lane_x(self, lane: int) -> float:
        """The middle of a lane."""
        with_blocks = {self.lane_of.get(name) for name in self.row_of}
        widths = [SIDE if other in with_blocks else BARE for other in range(lane + 1)]
        return MARGIN + WIDEST + LANE_GAP * len(widths) + sum(widths) - widths[-1] / 2


def lay_out(blocks: list[dict[str, Any]]) -> Layout:
    """`blocks` as models.describe gives them, each after those that it depends on."""
    inputs = {block["name"]: block["inputs"] for block in blocks}
    edges = [(start, end) for end, starts in inputs.items() for start in starts]
    main = _longest_way(blocks, inputs)
    row_of = {name: row for row, name in enumerate(main)}
    branches = []  # in which row each begins and ends; its blocks, or its edge where it has none
    for names in _components([name for name in inputs if name not in row_of], edges):
        starts = [row_of[start] for start, end in edges if end in names and start in main]
        ends = [row_of[end] for start, end in edges if start in names and end in main]
        if len(names) == len(starts) == len(ends) == 1 and ends[0] - starts[0] == 2:
            row_of[names[0]] = starts[0] + 1  # side by side with what is there
        else:
            branches.append((starts[0], max([*ends, starts[0] + len(names) - 1]), names))
    for start, end in edges:
        if start in main and end in main and row_of[end] - row_of[start] > 1:
            branches.append((row_of[start], row_of[end], [(start, end)]))

    layout = Layout(row_of, {}, edges)
    taken: dict[int, set[int]] = defaultdict(set)  # rows of each lane
    for first, last, parts in sorted(branches, key=lambda branch: branch[1] - branch[0]):
        rows = set(range(first, last + 1))
        lane = next(lane for lane in count() if not taken[lane] & rows)
        taken[lane] |= rows
        for row, part in enumerate(parts, start=first):
            layout.lane_of[part] = lane
            if part in inputs:
                row_of[part] = row
    return layout


def _longest_way(blocks: list[dict[str, Any]], inputs: dict[str, list[str]]) -> list[str]:
    """Names from the input to the first output; of two equally long ways the one that is computed first."""
    length: dict[str, int] = {}
    for name, before in inputs.items():
        length[name] = 1 + max((length[other] for other in before), default=0)
    way = [next(block["name"] for block in blocks if block["role"] == "output")]
    while inputs[way[0]]:
        way.insert(0, max(inputs[way[0]], key=lambda name: length[name]))
    return way


def _components(names: list[str], edges: list[tuple[str, str]]) -> list[list[str]]:
    """Names that hang together among themselves, in their order."""
    group_of = {name: number for number, name in enumerate(names)}
    for start, end in edges:
        if start in group_of and end in group_of:
            joined, other = group_of[start], group_of[end]
            group_of = {name: joined if group == other else group for name, group in group_of.items()}
    groups = dict.fromkeys(group_of.values())
    return [[name for name in names if group_of[name] == group] for group in groups]


# -- where that is, and how large ----------------------------------------------------------------------------


@dataclass
class Box:
    """Where a block is drawn, and its text: what stands left and right in each line, whether it is a name."""

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
    for row in range(1 + max(layout.row_of.values())):
        main = layout.main_of(row)
        if len(main) == 1:
            here = {main[0]: _main_box(blocks[main[0]], min(sides), max(sides))}
        else:
            here = _side_by_side(main, blocks)
        for name, lane in layout.lane_of.items():
            if layout.row_of.get(name) == row:
                here[name] = _small_box(blocks[name], layout.lane_x(lane), SIDE)
        parting = PARTING if len(main) > 1 else 0
        height = max(box.height for box in here.values())
        for box in here.values():
            box.y = y + parting + (height - box.height) / 2
        y += height + GAP + 2 * parting
        boxes.update(here)
    return boxes


def _side_by_side(names: list[str], blocks: dict[str, dict[str, Any]]) -> dict[str, Box]:
    """Boxes in the main column, one as high as the other."""
    boxes = {}
    for number, name in enumerate(names):
        width = (WIDEST + BETWEEN) / len(names) - BETWEEN
        boxes[name] = _small_box(blocks[name], MARGIN + width / 2 + number * (width + BETWEEN), width)
    for box in boxes.values():
        box.height = max(other.height for other in boxes.values())
    return boxes


def _side(shape: list[int]) -> int:
    """Pixels along a side of a map; a vector is one pixel."""
    return shape[1] if len(shape) == 3 else 1


def _main_box(block: dict[str, Any], smallest: int, largest: int) -> Box:
    """As wide as the logarithm of the resolution, as high as its text and the logarithm of the channels."""
    share = math.log2(_side(block["shape"]) / smallest) / math.log2(max(2, largest / smallest))
    width = NARROWEST + (WIDEST - NARROWEST) * share
    count = short_count(block["parameters"])
    texts = _wrapped(block["layers"], width - 2 * PADDING - (width_of(count) + 0.15 if count else 0))
    lines = [(_label(block), shape_text(block["shape"]), True)]
    lines += [(text, "" if number else count, False) for number, text in enumerate(texts)]
    channels = block["shape"][0] if block["shape"] else 1
    height = LINE * len(lines) + PADDING + 0.26 * math.log2(channels) / 12
    return Box(MARGIN + WIDEST / 2, 0.0, width, height, lines)


def _small_box(block: dict[str, Any], x: float, width: float) -> Box:
    room = width - 2 * PADDING
    lines = [(text, "", True) for text in _wrapped(_label(block), room, "bold")]
    for text in (block["layers"], shape_text(block["shape"]), short_count(block["parameters"])):
        lines += [(line, "", False) for line in _wrapped(text, room)]
    return Box(x, 0.0, width, LINE * len(lines) + 2 * PADDING, lines)


def route(layout: Layout, boxes: dict[str, Box], start: str, end: str) -> list[tuple[float, float]]:
    """The corners of the line from one block to another."""
    here, there = boxes[start], boxes[end]
    if (start, end) in layout.lane_of:  # out, down and back
        x = layout.lane_x(layout.lane_of[start, end])
        return [(here.right, here.middle), (x, here.middle), (x, there.middle), (there.right, there.middle)]
    if layout.row_of[start] == layout.row_of[end]:  # into a lane
        return [(here.right, here.middle), (there.x - there.width / 2, there.middle)]
    if start in layout.lane_of and end not in layout.lane_of:  # back from a lane
        return [(here.x, here.bottom), (here.x, there.middle), (there.right, there.middle)]
    if here.x == there.x:
        return [(here.x, here.bottom), (there.x, there.y)]
    # from or to one of several side by side
    is_parting = len(layout.main_of(layout.row_of[end])) > 1
    bend = there.y - (PARTING if is_parting else GAP / 2 + PARTING / 2)
    return [(here.x, here.bottom), (here.x, bend), (there.x, bend), (there.x, there.y)]


# -- text ----------------------------------------------------------------------------------------------------


def _label(block: dict[str, Any]) -> str:
    return {"add": "+ ", "multiply": "× "}.get(block["name"].split()[0], "") + block["name"]


def _wrapped(text: str, room: float, weight: str = "normal") -> list[str]:
    """The text in lines that fit into `room`: broken at spaces, and a long name after its dots."""
    lines: list[str] = []
    for word in text.split():
        parts = re.split(r"(?<=\.)", word) if width_of(word, weight) > room else [word]
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
