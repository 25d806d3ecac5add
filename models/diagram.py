"""Draw what models.describe found: blocks from the input down to the output, their branches to the right.

All lengths are inches, y downwards.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, BinaryIO, Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from models.layout import lay_out
from models.placement import (
    FAMILY,
    GAP,
    LINE,
    MARGIN,
    PADDING,
    SIZE,
    Box,
    lane_x,
    place,
    route,
    short_count,
    width_of,
)

# Okabe and Ito's colours, which colour-blind eyes tell apart: (edge, a tint of it to fill). The text says it
# too.
COLOURS = {
    "convolution": ("#0072B2", "#DCEBF5"),
    "pooling": ("#B87F00", "#FCEBC5"),
    "enlargement": ("#007A59", "#CDEBE0"),
    "linear": ("#A8507F", "#F5E1EC"),
    "junction": ("#444444", "#FFFFFF"),
    "input": ("#444444", "#E8E8E8"),
    "output": ("#444444", "#E8E8E8"),
    "other": ("#444444", "#F4F4F4"),
}
IN_LEGEND = {
    "convolution": "convolutions",
    "pooling": "pooling",
    "enlargement": "enlargement",
    "linear": "linear layer",
    "junction": "joined branches",
}
LINES = "#333333"


@contextmanager
def styled() -> Iterator[None]:
    """Whatever the user's matplotlibrc says, and without the random identifiers of SVG."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        style = {
            "svg.hashsalt": "architecture",
            "svg.fonttype": "path",
            "font.family": FAMILY,
            "pdf.fonttype": 42,
        }
        matplotlib.rcParams.update(style)
        yield


def save(figure: Figure, file: BinaryIO, kind: str) -> None:
    """Write the figure as `svg`, `png` or `pdf`; no date is in it."""
    metadata = {"svg": {"Date": None}, "png": {"Software": None}, "pdf": {"CreationDate": None}}
    with styled():
        figure.savefig(file, format=kind, dpi=160, metadata=metadata[kind])


def figure_of(description: dict[str, Any]) -> Figure:
    blocks = {block["name"]: block for block in description["blocks"]}
    layout = lay_out(description["blocks"])
    headline, legend = _headline(description), _legend(blocks)
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


# -- parts ---------------------------------------------------------------------------------------------------


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
    edge, fill = COLOURS[role]
    return FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle=f"round,pad=0,rounding_size={min(0.05, height / 4)}",
        facecolor=fill,
        edgecolor=edge,
        linewidth=1.1,
        linestyle="--" if is_dashed else "-",
        zorder=3,
    )


def _draw_line(axes: Axes, points: list[tuple[float, float]]) -> None:
    axes.add_patch(
        FancyArrowPatch(
            path=Path(points),
            arrowstyle="-|>",
            mutation_scale=7,
            color=LINES,
            linewidth=0.9,
            joinstyle="miter",
            capstyle="butt",
            shrinkA=0,
            shrinkB=0,
            zorder=2,
        )
    )


def _draw_legend(axes: Axes, blocks: dict[str, dict[str, Any]], lines: list[str], y: float) -> None:
    x, roles = MARGIN, {block["role"] for block in blocks.values()}
    for role, text in IN_LEGEND.items():
        if role in roles:
            axes.add_patch(_rounded(x, y - 0.045, 0.16, 0.09, role))
            axes.text(x + 0.22, y, text, size=SIZE, va="center_baseline")
            x += 0.22 + width_of(text) + 0.2
    for number, text in enumerate(lines, start=1):
        axes.text(MARGIN, y + LINE * number, text, size=SIZE, va="center_baseline")


def _headline(description: dict[str, Any]) -> list[str]:
    size, auxiliary = description["input"][1], description["auxiliary_parameters"]
    beside = f", {short_count(auxiliary)} of them in the auxiliary head" if auxiliary else ""
    return [
        description["network"],
        f"{short_count(description['parameters'])} parameters{beside}",
        f"{description['gflops']:.1f} GFLOPs for an image of {size} × {size}, a multiply-add counted as two",
    ]


def _legend(blocks: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "In each box: name; layers; channels × height × width; number of parameters.",
        "The wider a box, the larger its map; the higher, the more channels (on logarithmic scales).",
    ]
    if any(block["is_auxiliary"] for block in blocks.values()):
        lines.append("Dashed: the auxiliary head, which works in training alone.")
    return lines
