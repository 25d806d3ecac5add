"""The report's figures of runs: pre-training, learning curves of several runs or settings, IoU of each class,
confusion matrices.

Each draw_ function returns a Figure for report.style.save_figure; runs are read_run's, in any state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from datasets.palette import CLASS_NAMES, SCORED_CLASSES
from datasets.palette import COLOURS as CLASS_COLOURS
from engine.run_folder import COLLAPSED, RunRecord, is_number, scores, series
from report.collect import STARTS, Row
from report.style import BLACK, BLUE, COLOURS, GREY, SEQUENTIAL, VERMILION, styled
from report.text import one_line

DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)), "-", (0, (5, 1.5)), (0, (1.5, 1)))
# Of settings the colour says where the backbone starts, the dashes that it stays as it is.
COLOUR_OF_START = {"random": BLACK, "labels": BLUE, "own SSL": VERMILION}
LABEL_WIDTH, END_WIDTH = 34, 14  # columns of a run's name in a legend, and at its line's end
CLASS_WIDTH = 22  # columns of a class's name beside the matrix
MANY_EPOCHS = 40  # from here on a marker an epoch is clutter, and so are losses of single steps
Point = "tuple[float, float]"
WIDE = 8.0  # inches; a page of paper has 6.7, so letters shrink by a sixth


# -- pre-training --------------------------------------------------------------------------------------------


def draw_pretraining(runs: Sequence[RunRecord]) -> Figure:
    """Loss, kNN accuracy and spread of the embeddings of BYOL runs, each over its epochs.

    Values stand where they were measured: the mean loss in the middle of its epoch, the accuracy at its end,
    the spread and the loss of single batches (pale) on the way.
    """
    with styled():
        figure = Figure(figsize=(WIDE, 3.2 if len(runs) > 1 else 2.9))
        loss, accuracy, spread = figure.subplots(1, 3)
        for place, run in enumerate(runs):
            look = _look(place)
            _plot_losses(loss, run, look)
            _plot(accuracy, [(x, y) for x, y in _points(run, "knn_accuracy") if 0 <= y <= 1], look)
            _plot(spread, _thinned(_points(run, "embedding_std")), look, is_marked=False)
        loss.set_title("BYOL's loss")
        accuracy.set_title("kNN accuracy")
        accuracy.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
        accuracy.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        accuracy.set_ylim(0, 1.12 * max([line.get_ydata().max() for line in accuracy.lines], default=1) or 1)
        spread.set_title("Spread of embeddings")
        _mark_collapse(spread)
        for axes in (loss, accuracy, spread):
            _finish(axes)
        if len(runs) > 1:
            names = [one_line(run.name, LABEL_WIDTH) for run in runs]
            lines = [loss.plot([], [], **_look(place))[0] for place in range(len(runs))]
            style = {"loc": "outside lower center", "fontsize": 9, "handlelength": 3}
            figure.legend(lines, names, ncols=min(3, len(runs)), **style)
    return figure


def _plot_losses(axes: Axes, run: RunRecord, look: dict[str, Any]) -> None:
    length = steps_per_epoch(run)
    means = [((line["epoch"] - 1 + line["step"] / length) / 2, line["loss"]) for line in _ends(run)]
    single = _points(run, "step_loss")
    if not (single and means) or len(means) >= MANY_EPOCHS:
        _plot(axes, means or single, look)
        return
    axes.plot(*zip(*single), color=look["color"], alpha=0.35, linewidth=0.9, label="one batch")
    _plot(axes, means, look, label="mean of an epoch")
    if not axes.get_legend():
        axes.legend(handles=axes.lines[-2:], fontsize=8, handlelength=1.5, borderpad=0.1)


def _mark_collapse(axes: Axes) -> None:
    """Below COLLAPSED the network has collapsed; evenly spread embeddings have an embedding_std of 1."""
    if not axes.lines:
        return
    axes.set_ylim(0, max(1.1, axes.get_ylim()[1]))
    axes.axhspan(0, COLLAPSED, color=GREY, alpha=0.25, linewidth=0)
    axes.axhline(1, color=GREY, linewidth=0.9, linestyle=":")
    style = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": 8}
    for height, text in ((COLLAPSED / 2, "collapsed"), (1.04, "evenly spread")):
        axes.text(0.98, height, text, **style)


def _finish(axes: Axes) -> None:
    axes.title.set_fontsize(10)
    axes.set_xlabel("epoch", fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    if any(len(line.get_xdata()) for line in axes.lines):
        axes.set_xlim(left=0)
    else:
        axes.set(xticks=[], yticks=[])
        _say_nothing(axes)


def _say_nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing to show yet", transform=axes.transAxes, ha="center", color=GREY)


def _plot(axes: Axes, points: Sequence[Point], look: dict[str, Any], is_marked: bool = True, **more) -> None:
    marked = (is_marked and len(points) < MANY_EPOCHS) or len(points) == 1  # a single point is no line
    if points:
        axes.plot(*zip(*points), marker="o" if marked else None, markersize=3.5, **look, **more)


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Of a long run the mean of each epoch, in its middle: a thousand measurements are a smear."""
    if not points or points[-1][0] < MANY_EPOCHS:
        return points
    values: dict[int, list[float]] = {}
    for x, y in points:
        values.setdefault(math.ceil(x), []).append(y)
    return [(epoch - 0.5, sum(those) / len(those)) for epoch, those in values.items()]


def _ends(run: RunRecord) -> list[dict[str, Any]]:
    """The metric lines with an epoch's loss: those that say how long the run took so far."""
    ends = (line for line in run.metrics if is_number(line.get("seconds")))
    return [line for line in ends if _is_drawable(line.get("loss"))]


def _points(run: RunRecord, name: str) -> list[Point]:
    """(epochs done, value), where an epoch of which a part was trained counts as that part."""
    length = steps_per_epoch(run)
    return [(line["step"] / length, line[name]) for line in run.metrics if _is_drawable(line.get(name))]


def steps_per_epoch(run: RunRecord) -> float:
    """At least 1; from the images and the batch where the run records both, else from its epochs' steps."""
    images, batch = run.arguments.get("training_images"), run.arguments.get("batch_size")
    if is_number(images) and is_number(batch) and images >= 1 and batch >= 1:
        return max(1, images // min(images, batch))
    return max([1, *(line["step"] / line["epoch"] for line in run.metrics if line["epoch"])])


def _is_drawable(value: Any) -> bool:
    return is_number(value) and abs(value) < 1e12  # matplotlib's axes overflow far above


def _look(place: int) -> dict[str, Any]:
    """Colour and dashes of the run at a place: seven that differ in both, then dashed otherwise."""
    shift = place // len(COLOURS)
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[(place + shift) % len(DASHES)]}


# -- learning curves -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """One line of a figure: the mean of some runs over their epochs, between their lowest and highest."""

    label: str  # short, at the line's end
    description: str  # in the legend
    colour: str
    dashes: Any  # matplotlib's line style
    points: Sequence[tuple[int, float, float, float]]  # epoch, mean, lowest, highest


def draw_settings(rows: Sequence[Row]) -> Figure:
    """Accuracy and training loss of every setting that has runs."""
    accuracy, loss = ([_curve(row, name) for row in rows if row.shown] for name in ("accuracy", "loss"))
    return _draw_curves("Accuracy on validation", accuracy, loss)


def _curve(row: Row, name: str) -> Curve:
    """Mean and range over the seeds, at the epochs that all of them have."""
    read = scores if name == "accuracy" else series
    values = [dict(read(scored.run, name)) for scored in row.shown]
    points = []
    for epoch in sorted(set.intersection(*map(set, values))):
        here = [value[epoch] for value in values]
        points.append((epoch, sum(here) / len(here), min(here), max(here)))
    seeds = f"{len(values)} seed{'s' if len(values) > 1 else ''}" + ("" if row.finished else ", unfinished")
    start = STARTS[row.setting]
    label = row.setting if row.finished else f"{row.setting} …"
    description = f"{row.setting}: {start}, {row.trained or 'unknown'} ({seeds})"
    dashes = (0, (4, 1.5)) if row.trained == "classifier" else "-"
    return Curve(label, description, COLOUR_OF_START[start], dashes, points)


def draw_learning(runs: Sequence[tuple[str, RunRecord]], score: str, title: str) -> Figure:
    """The validation `score` (a share) and the training loss of each (label, run), overlaid.

    Seven can be told apart. At its line's end a run is called by what stands before the first colon of its
    label ("B: lite_fpn" is B), in the legend by all of it. A run without a scored epoch has its loss alone.
    """
    of_scores, of_losses = [], []
    for place, (label, run) in enumerate(runs):
        look = _look(place)
        short = one_line(label.split(":")[0], END_WIDTH)
        full = one_line(label, LABEL_WIDTH) + (f" ({run.gap.split(':')[0]})" if run.gap else "")
        loss = [(line["epoch"], line["loss"]) for line in _ends(run)]
        for curves, points in ((of_scores, scores(run, score)), (of_losses, loss)):
            alone = [(epoch, value, value, value) for epoch, value in points]
            curves.append(Curve(short, full, look["color"], look["linestyle"], alone))
    return _draw_curves(title, of_scores, of_losses)


def _draw_curves(title: str, of_scores: Sequence[Curve], of_losses: Sequence[Curve]) -> Figure:
    """Scores (shares in [0, 1]) beside training losses, one legend below; labels at the lines' ends."""
    with styled():
        figure = Figure(figsize=(8.4, 4.0))
        entries = {}
        left, right = figure.subplots(1, 2)
        for axes, heading, curves in ((left, title, of_scores), (right, "Training loss", of_losses)):
            axes.set(title=heading, xlabel="epoch")
            for curve in curves:
                entries[curve.description] = _draw_curve(axes, curve)
            if axes is left:
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
                axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            _label_ends(axes, [curve for curve in curves if curve.points])
        style = {"loc": "outside lower center", "ncols": 2, "fontsize": 9, "handlelength": 3}
        figure.legend(list(entries.values()), list(entries), **style)
    return figure


def _draw_curve(axes: Axes, curve: Curve) -> Line2D:
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
        _say_nothing(axes)
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
    from sklearn.isotonic import isotonic_regression  # a second, for which no other figure waits

    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    starts = isotonic_regression(np.array(places)[order] - steps)
    # The highest start that leaves room for those above, the lowest that leaves the axes.
    moved = np.empty(len(places))
    moved[order] = np.clip(starts, 0, max(1 - gap * (len(places) - 1), 0)) + steps
    return moved.tolist()


# -- confusion matrices --------------------------------------------------------------------------------------


def draw_setting_confusion(row: Row) -> Figure:
    """The confusion matrix of a setting's best seed."""
    scored = row.pictured
    place = {label: index for index, label in enumerate(scored.labels)}
    matrix = np.zeros((len(place), len(place)), dtype=int)
    for true, said in scored.predictions:
        matrix[place[true], place[said]] += 1
    right, count = int(matrix.trace()), len(scored.predictions)
    state = ", unfinished" if scored.gap else ""
    title = f"Setting {scored.setting}, seed {scored.seed}, epoch {scored.best_epoch}{state}: "
    title += f"{right} of {count} right ({right / count:.1%})"
    names = row.class_names
    return draw_confusion(matrix, [names.get(label, label) for label in scored.labels], title)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """The counts (classes, classes), rows the truth, as shares of each row; names in the matrix's order.

    Its size grows with the number of classes: on a page's width of 7 inches a name is 5 points at least.
    """
    count = len(names)
    side = min(1.5, max(0.125, 3.6 / count))  # inches a class
    size = min(10, 0.86 * 72 * side)  # points
    names = [one_line(name, CLASS_WIDTH) for name in names]
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


# -- IoU of the classes --------------------------------------------------------------------------------------


def draw_ious(rows: Sequence[tuple[str, dict[str, float]]]) -> Figure:
    """Bars of each (label, {"mean_iou": ..., "urban": ..., ...}), in a group a class and one of the mean.

    What a row does not have leaves a gap. Under each group stands the class's colour in the masks.
    """
    names = ("mean_iou", *CLASS_NAMES[:SCORED_CLASSES])
    width = 0.84 / max(1, len(rows))
    with styled():
        figure = Figure(figsize=(WIDE, 3.5))
        axes = figure.subplots()
        for place, (_, ious) in enumerate(rows):
            for group, name in enumerate(names):
                value = ious.get(name)
                if is_number(value) and 0 <= value <= 1:
                    x = group - 0.42 + (place + 0.5) * width
                    axes.bar(x, value, width * 0.92, color=COLOURS[place % len(COLOURS)])
                    _write_value(axes, x, value, width)
        axes.set_xticks(range(len(names)), ["mean", *CLASS_NAMES[:SCORED_CLASSES]], fontsize=9.5)
        axes.get_xticklabels()[0].set_fontweight("bold")
        axes.tick_params(axis="x", length=0, pad=17)
        axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.grid(visible=False, axis="x")
        axes.set(ylim=(0, 1.1), xlim=(-0.55, len(names) - 0.45), ylabel="IoU")
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        if not axes.patches:
            _say_nothing(axes)
        # A patch between each class's group and its name; an edge keeps white apart from the paper.
        style = {"edgecolor": GREY, "linewidth": 0.8, "clip_on": False}
        style["transform"] = axes.get_xaxis_transform()
        for group, colour in enumerate(CLASS_COLOURS[:SCORED_CLASSES] / 255, start=1):
            axes.add_patch(Rectangle((group - 0.16, -0.075), 0.32, 0.05, facecolor=colour, **style))
        handles = [
            Patch(facecolor=COLOURS[place % len(COLOURS)], label=one_line(label, LABEL_WIDTH))
            for place, (label, _) in enumerate(rows)
        ]
        if handles:
            columns = 3 if len(rows) > 2 else 2
            figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=9)
    return figure


def _write_value(axes: Axes, x: float, value: float, width: float) -> None:
    """The value above its bar in hundredths; upright where bars are narrow, none where too narrow."""
    if width < 0.085:
        return
    upright = width < 0.26
    text = f"{value:.2f}" if width >= 0.26 else f".{round(100 * value):02d}" if value < 0.995 else "1.0"
    axes.text(x, value + 0.012, text, ha="center", va="bottom", fontsize=8, rotation=90 if upright else 0)
