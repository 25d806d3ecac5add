"""The pictures of the table of settings: learning curves, and each setting's confusion matrix (best seed)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from engine.run_folder import scores, series
from report.collect import MOST_CLASSES, STARTS, Row, Scored
from report.style import BLACK, BLUE, GREY, SEQUENTIAL, VERMILION, save_figure, styled
from report.text import one_line

# The colour says where the backbone starts, the dashes that it stays as it is.
COLOUR_OF_START = {"random": BLACK, "labels": BLUE, "own SSL": VERMILION}
LABEL_WIDTH = 22  # columns of a class's name beside the matrix


@dataclass(frozen=True)
class Curve:
    """One line of a figure: the mean of some runs over their epochs, between their lowest and highest."""

    label: str  # short, at the line's end
    description: str  # in the legend
    colour: str
    dashes: Any  # matplotlib's line style
    points: Sequence[tuple[int, float, float, float]]  # epoch, mean, lowest, highest


def curves_figure(rows: Sequence[Row]) -> Figure:
    """Accuracy and training loss of every setting that has runs."""
    accuracy, loss = ([_curve(row, name) for row in rows if row.shown] for name in ("accuracy", "loss"))
    return draw_curves([("Accuracy on validation", "%", accuracy), ("Training loss", "", loss)])


def confusion_figure(row: Row, names: dict[str, str]) -> Figure:
    """The confusion matrix of a setting's best seed; `names` holds label → name."""
    labels = row.pictured.labels
    shown = [names.get(label, label) for label in labels]
    return draw_confusion(_matrix(row.pictured, labels), shown, _title(row.pictured))


def draw_all(folder: Path, rows: Sequence[Row], names: dict[str, dict[str, str]]) -> None:
    """Write curves and confusion_A to _E, PNG and PDF, into `folder`; remove those of runs that are gone.

    `names` holds label → name for each setting.
    """
    save_figure(curves_figure(rows), folder / "curves")
    for row in rows:
        path = folder / f"confusion_{row.setting}"
        if row.pictured is None or len(row.pictured.labels) > MOST_CLASSES:
            for suffix in ("png", "pdf"):
                Path(f"{path}.{suffix}").unlink(missing_ok=True)
            continue
        save_figure(confusion_figure(row, names[row.setting]), path)


def _curve(row: Row, name: str) -> Curve:
    """Mean and range over the seeds, at the epochs that all of them have."""
    read = scores if name == "accuracy" else series
    values = [dict(read(scored.run, name)) for scored in row.shown]
    epochs = sorted(set.intersection(*map(set, values)))
    points = []
    for epoch in epochs:
        here = [value[epoch] for value in values]
        points.append((epoch, sum(here) / len(here), min(here), max(here)))
    seeds = f"{len(values)} seed{'s' if len(values) > 1 else ''}" + ("" if row.finished else ", unfinished")
    return Curve(
        row.setting if row.finished else f"{row.setting} …",
        f"{row.setting}: {STARTS[row.setting]}, {row.trained or 'unknown'} ({seeds})",
        COLOUR_OF_START[STARTS[row.setting]],
        (0, (4, 1.5)) if row.trained == "classifier" else "-",
        points,
    )


def _matrix(scored: Scored, labels: Sequence[str]) -> np.ndarray:
    """Counts (classes, classes), rows the truth."""
    place = {label: index for index, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), dtype=int)
    for true, said in scored.predictions:
        matrix[place[true], place[said]] += 1
    return matrix


def _title(scored: Scored) -> str:
    right = sum(true == said for true, said in scored.predictions)
    state = ", unfinished" if scored.gap else ""
    return (
        f"Setting {scored.setting}, seed {scored.seed}, epoch {scored.best_epoch}{state}: "
        f"{right} of {len(scored.predictions)} right ({right / len(scored.predictions):.1%})"
    )


# -- learning curves -----------------------------------------------------------------------------------------


def draw_curves(panels: Sequence[tuple[str, str, Sequence[Curve]]]) -> Figure:
    """A panel beside another for each (title, unit, curves), one legend below; labels at the lines' ends.

    The unit is "%" for shares in [0, 1], else any text.
    """
    with styled():
        figure = Figure(figsize=(4.2 * len(panels), 4.0))
        entries = {}
        for axes, (title, unit, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            axes.set(title=title, xlabel="epoch")
            for curve in curves:
                line = _draw_curve(axes, curve)
                entries[curve.description] = line
            if unit == "%":
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
                axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            _label_ends(axes, [curve for curve in curves if curve.points])
        style = {"loc": "outside lower center", "ncols": 2, "fontsize": 9, "handlelength": 3}
        figure.legend(list(entries.values()), list(entries), **style)
    return figure


def _draw_curve(axes: Axes, curve: Curve):
    epochs, means, low, high = np.array(curve.points, dtype=float).reshape(-1, 4).T
    marker = "o" if len(epochs) < 3 else None  # a single point is no line
    style = {"color": curve.colour, "linestyle": curve.dashes, "marker": marker, "markersize": 4}
    (line,) = axes.plot(epochs, means, **style)
    if (high > low).any():
        axes.fill_between(epochs, low, high, color=curve.colour, alpha=0.16, linewidth=0)
    return line


def _label_ends(axes: Axes, curves: Sequence[Curve]) -> None:
    """Each curve's label in the right margin at the height of its end, apart from its neighbours."""
    if not curves:
        axes.text(0.5, 0.5, "nothing to show yet", transform=axes.transAxes, ha="center", color=GREY)
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ends = [(curve.points[-1][1] - low) / ((high - low) or 1) for curve in curves]
    line = {"arrowstyle": "-", "linewidth": 0.8, "linestyle": ":", "shrinkA": 1, "shrinkB": 1}
    for curve, end, place in zip(curves, ends, spread(ends, 0.06)):
        axes.annotate(
            curve.label,
            xy=(curve.points[-1][0], end),
            xycoords=axes.get_xaxis_transform(),
            xytext=(1.05, place),
            textcoords="axes fraction",
            arrowprops={**line, "color": curve.colour},
            **{"color": curve.colour, "weight": "bold", "va": "center"},
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places in [0, 1] moved as little as puts `gap` between neighbours; their order stays."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    blocks: list[list[float]] = []  # each [sum of wished starts, how many labels], its labels `gap` apart
    for rank, index in enumerate(order):
        blocks.append([places[index] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    starts = [total / count for total, count in blocks for _ in range(count)]
    # The highest start that leaves room for those above, the lowest that leaves the axes.
    room = 1 - (len(places) - 1) * gap
    moved = [0.0] * len(places)
    for rank, (index, start) in enumerate(zip(order, starts)):
        moved[index] = min(max(start, 0), max(room, 0)) + rank * gap
    return moved


# -- confusion matrices --------------------------------------------------------------------------------------


def draw_confusion(matrix: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The counts (classes, classes), rows the truth, as shares of each row; names in the matrix's order.

    Its size grows with the number of classes: on a page's width of 7 inches a name is 5 points at least.
    """
    count = len(names)
    side = min(1.5, max(0.125, 3.6 / count))  # inches a class
    size = min(10, 0.86 * 72 * side)  # points
    names = [one_line(name, LABEL_WIDTH) for name in names]
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.ma.masked_invalid(np.where(totals > 0, matrix / np.maximum(totals, 1), np.nan))
    with styled():
        matplotlib.rcParams["axes.grid"] = False
        figure = Figure(figsize=(count * side + 2.9, count * side + 2.4))
        axes = figure.subplots()
        mesh = axes.pcolormesh(shares, cmap=SEQUENTIAL, vmin=0, vmax=1, edgecolors="#E6E6E6", linewidth=0.3)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(count) + 0.5, names, rotation=90, fontsize=size)
        axes.set_yticks(np.arange(count) + 0.5, names, fontsize=size)
        axes.tick_params(length=1.5, pad=1.5)
        axes.set(title=title, xlabel="predicted", ylabel="true class")
        if count <= 12:
            _write_shares(axes, shares)
        bar = figure.colorbar(mesh, ax=axes, fraction=0.03, pad=0.02, shrink=0.6, format=PercentFormatter(1))
        bar.set_label("share of the row")
        bar.outline.set_visible(False)
    return figure


def _write_shares(axes: Axes, shares: np.ma.MaskedArray) -> None:
    style = {"ha": "center", "va": "center", "fontsize": 9}
    for (row, column), share in np.ndenumerate(shares.filled(0)):
        if share > 0:
            colour = "white" if share > 0.55 else "black"
            axes.text(column + 0.5, row + 0.5, f"{share:.0%}", color=colour, **style)
