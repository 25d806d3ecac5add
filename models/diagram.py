"""Draw what models.describe found: blocks from the input down to the output, their branches to the right.

The longest way from the input to the output is the main column. What leaves it and comes back has a lane to
the right, the farther out the more rows it spans, so that nested skip connections do not cross; so has an
output of its own. Blocks side by side between the same two others share a row of the main column.
All lengths are inches, y downwards.
"""

from __future__ import annotations

import io
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Iterable, Iterator

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
LINES = "#333333"
NOT_TRACED = "The parts as they are listed: which follows which could not be traced."


@contextmanager
def styled() -> Iterator[None]:
    """Whatever the user's matplotlibrc says, and without the random identifiers of SVG."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "architecture", "svg.fonttype": "path"})
        matplotlib.rcParams.update({"font.family": FAMILY, "pdf.fonttype": 42})
        yield


def draw(description: dict[str, Any], kind: str = "svg") -> bytes:
    """A picture of a description, as the bytes of a svg, png or pdf: without a date, the same each time."""
    metadata = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
    file = io.BytesIO()
    figure = figure_of(description)
    with styled():
        figure.savefig(file, format=kind, dpi=160, metadata=metadata[kind])
    return file.getvalue()


def figure_of(description: dict[str, Any]) -> Figure:
    blocks = {block["name"]: block for block in description["blocks"]}
    layout = lay_out(description["blocks"]) if description["is_traced"] else in_a_column(blocks)
    headline, legend = _headline(description), _legend(description)
    boxes = place(blocks, layout, MARGIN + LINE * len(headline) + GAP)
    lanes = [lane_x(layout, lane) for lane in range(len(layout.lane_has_blocks))]
    width = max([*(box.right for box in boxes.values()), *lanes]) + MARGIN
    height = max(box.bottom for box in boxes.values()) + GAP + LINE * (1 + len(legend)) + MARGIN
    with styled():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for number, text in enumerate(headline):
            size, weight = (SIZE, "normal") if number else (SIZE + 2.5, "bold")
            y = MARGIN + LINE * (number + 0.7 * bool(number))
            axes.text(MARGIN, y, text, size=size, weight=weight, va="center")
        for start, end in layout.edges:
            _draw_line(axes, route(layout, boxes, start, end))
        for name, box in boxes.items():
            _draw_box(axes, box, blocks[name])
        _draw_legend(axes, blocks, legend, height - MARGIN - LINE * (0.5 + len(legend)))
    return figure


def _draw_box(axes: Axes, box: Box, block: dict[str, Any]) -> None:
    left = box.x - box.width / 2
    axes.add_patch(_rounded(left, box.y, box.width, box.height, block["role"], block["is_auxiliary"]))
    top = box.middle - LINE * len(box.lines) / 2
    style = {"size": SIZE, "va": "center_baseline", "zorder": 4}
    for number, (text, at_right, is_name) in enumerate(box.lines):
        y = top + LINE * (number + 0.5)
        axes.text(left + PADDING, y, text, weight="bold" if is_name else "normal", **style)
        axes.text(box.right - PADDING, y, at_right, ha="right", **style)


def _rounded(
    x: float, y: float, width: float, height: float, role: str, is_dashed: bool = False
) -> FancyBboxPatch:
    edge, fill, _ = ROLES[role]
    corners = f"round,pad=0,rounding_size={min(0.05, height / 4)}"
    style = {"facecolor": fill, "edgecolor": edge, "linestyle": "--" if is_dashed else "-"}
    return FancyBboxPatch((x, y), width, height, boxstyle=corners, linewidth=1.1, zorder=3, **style)


def _draw_line(axes: Axes, points: list[tuple[float, float]]) -> None:
    style = {"mutation_scale": 7, "color": LINES, "linewidth": 0.9, "joinstyle": "miter", "capstyle": "butt"}
    arrow = FancyArrowPatch(path=Path(points), arrowstyle="-|>", shrinkA=0, shrinkB=0, zorder=2, **style)
    axes.add_patch(arrow)


def _draw_legend(axes: Axes, blocks: dict[str, dict[str, Any]], lines: list[str], y: float) -> None:
    x, roles = MARGIN, {block["role"] for block in blocks.values()}
    for role, (_, _, text) in ROLES.items():
        if role in roles and text:
            axes.add_patch(_rounded(x, y - 0.045, 0.16, 0.09, role))
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
        return ["In each box: name; kind; number of parameters.", NOT_TRACED]
    lines = [
        "In each box: name; layers; channels × height × width; number of parameters.",
        "The wider a box, the larger its map; the higher, the more channels (on logarithmic scales).",
    ]
    if any(block["is_auxiliary"] for block in description["blocks"]):
        lines.append("Dashed: the auxiliary head, which works in training alone.")
    return lines


# -- in which row and lane each block is drawn ---------------------------------------------------------------


@dataclass
class Row:
    main: list[str] = field(default_factory=list)  # blocks of the main column: one, or several side by side
    side: dict[str, int] = field(default_factory=dict)  # blocks in lanes, and the lane of each


@dataclass
class Layout:
    rows: list[Row]
    edges: list[tuple[str, str]]  # from block to block
    row_of: dict[str, int]
    lane_of: dict[str, int]  # of blocks in lanes
    lane_of_line: dict[tuple[str, str], int]  # of edges past rows of the main column, without a block
    lane_has_blocks: list[bool]


@dataclass
class _Branch:
    """What leaves the main column in row `start` and comes back in row `end`, or ends there."""

    start: int
    end: int
    names: list[str]
    line: tuple[str, str] | None = None


def lay_out(blocks: list[dict[str, Any]]) -> Layout:
    """`blocks` as models.describe gives them, each after those that it depends on."""
    inputs = {block["name"]: block["inputs"] for block in blocks}
    edges = [(start, end) for end, starts in inputs.items() for start in starts]
    main = _longest_way(blocks, inputs)
    rows = [Row([name]) for name in main]
    row_of = {name: number for number, name in enumerate(main)}
    branches = []
    for names in _components([name for name in inputs if name not in row_of], edges):
        starts = [row_of[start] for start, end in edges if end in names and start in main]
        ends = [row_of[end] for start, end in edges if start in names and end in main]
        if len(names) == len(starts) == len(ends) == 1 and ends[0] - starts[0] == 2:
            rows[starts[0] + 1].main.append(names[0])
            row_of[names[0]] = starts[0] + 1
        else:
            branches.append(_Branch(starts[0], max([*ends, starts[0] + len(names) - 1]), names))
    for start, end in edges:
        if start in main and end in main and row_of[end] - row_of[start] > 1:
            branches.append(_Branch(row_of[start], row_of[end], [], (start, end)))

    layout = Layout(rows, edges, row_of, {}, {}, [])
    lanes: list[list[_Branch]] = []
    for branch in sorted(branches, key=lambda branch: branch.end - branch.start):
        lane = next((n for n, others in enumerate(lanes) if _is_free(others, branch)), len(lanes))
        lanes[lane:] = lanes[lane:] or [[]]
        lanes[lane].append(branch)
        if branch.line:
            layout.lane_of_line[branch.line] = lane
        for row, name in enumerate(branch.names, start=branch.start):
            rows += [Row() for _ in range(row - len(rows) + 1)]
            rows[row].side[name] = lane
            row_of[name], layout.lane_of[name] = row, lane
    layout.lane_has_blocks = [any(branch.names for branch in branches) for branches in lanes]
    return layout


def in_a_column(names: Iterable[str]) -> Layout:
    """One below the other, without lines."""
    rows = [Row([name]) for name in names]
    row_of = {row.main[0]: number for number, row in enumerate(rows)}
    return Layout(rows, [], row_of, {}, {}, [])


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
    component = {name: {name} for name in names}
    for start, end in edges:
        if start in component and end in component:
            joined = component[start] | component[end]
            component.update((name, joined) for name in joined)
    found: list[list[str]] = []
    for name in names:
        if not any(name in others for others in found):
            found.append([other for other in names if other in component[name]])
    return found


def _is_free(others: list[_Branch], branch: _Branch) -> bool:
    return all(other.end < branch.start or branch.end < other.start for other in others)


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
    is_parting = len(layout.rows[layout.row_of[end]].main) > 1
    bend = there.y - (PARTING if is_parting else GAP / 2 + PARTING / 2)
    return [(here.x, here.bottom), (here.x, bend), (there.x, bend), (there.x, there.y)]


# -- text ----------------------------------------------------------------------------------------------------


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
