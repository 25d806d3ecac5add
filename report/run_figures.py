"""The report's figures of runs: pre-training, learning curves of several runs overlaid, IoU of each class.

Each function returns a Figure for report.style.save_figure; runs are read_run's, in any state.
"""

from __future__ import annotations

import math
from typing import Any, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from datasets.palette import CLASS_NAMES, SCORED_CLASSES
from datasets.palette import COLOURS as CLASS_COLOURS
from engine.run_folder import COLLAPSED, RunRecord, is_number, scores
from report.settings_figures import Curve, draw_curves
from report.style import COLOURS, GREY, styled
from report.text import one_line

DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)), "-", (0, (5, 1.5)), (0, (1.5, 1)))
LABEL_WIDTH, END_WIDTH = 34, 14  # columns of a run's name in a legend, and at its line's end
MANY_EPOCHS = 40  # from here on a marker an epoch is clutter, and so are losses of single steps
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
            _plot(accuracy, _shares(_points(run, "knn_accuracy")), look)
            _plot(spread, _thinned(_points(run, "embedding_std")), look, marker="")
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
    ends = [line for line in _ends(run) if _is_drawable(line.get("loss"))]
    means = [((line["epoch"] - 1 + line["step"] / length) / 2, line["loss"]) for line in ends]
    single = _points(run, "step_loss")
    if not (single and means) or len(means) >= MANY_EPOCHS:
        _plot(axes, means or single, look)
        return
    axes.plot(*_columns(single), color=look["color"], alpha=0.35, linewidth=0.9, label="one batch")
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
    if not any(len(line.get_xdata()) for line in axes.lines):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "nothing to show yet", transform=axes.transAxes, ha="center", color=GREY)
        return
    axes.set_xlim(left=0)


def _plot(
    axes: Axes, points: Sequence[tuple[float, float]], look: dict[str, Any], marker: str = "o", **more
) -> None:
    marked = (marker and len(points) < MANY_EPOCHS) or len(points) == 1  # a single point is no line
    if points:
        axes.plot(*_columns(points), marker="o" if marked else None, markersize=3.5, **look, **more)


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Of a long run the mean of each epoch, in its middle: a thousand measurements are a smear."""
    if not points or points[-1][0] < MANY_EPOCHS:
        return points
    values: dict[int, list[float]] = {}
    for x, y in points:
        values.setdefault(math.ceil(x), []).append(y)
    return [(epoch - 0.5, sum(those) / len(those)) for epoch, those in values.items()]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _ends(run: RunRecord) -> list[dict[str, Any]]:
    """The metric lines that end an epoch: those that say how long the run took so far."""
    return [line for line in run.metrics if is_number(line.get("seconds"))]


def _points(run: RunRecord, name: str) -> list[tuple[float, float]]:
    """(epochs done, value), where an epoch of which a part was trained counts as that part."""
    length = steps_per_epoch(run)
    return [(line["step"] / length, line[name]) for line in run.metrics if _is_drawable(line.get(name))]


def steps_per_epoch(run: RunRecord) -> float:
    """At least 1; from the images and the batch where the run records both, else from its epochs' steps."""
    images, batch = run.arguments.get("training_images"), run.arguments.get("batch_size")
    if is_number(images) and is_number(batch) and images >= 1 and batch >= 1:
        return max(1, images // min(images, batch))
    return max([1, *(line["step"] / line["epoch"] for line in run.metrics if line["epoch"])])


def _shares(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if 0 <= y <= 1]


def _is_drawable(value: Any) -> bool:
    return is_number(value) and abs(value) < 1e12  # matplotlib's axes overflow far above


def _look(place: int) -> dict[str, Any]:
    """Colour and dashes of the run at a place: seven that differ in both, then dashed otherwise."""
    shift = place // len(COLOURS)
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[(place + shift) % len(DASHES)]}


# -- learning curves -----------------------------------------------------------------------------------------


def draw_learning(runs: Sequence[tuple[str, RunRecord]], score: str, title: str) -> Figure:
    """The validation `score` (a share) and the training loss of each (label, run), overlaid.

    Seven can be told apart. At its line's end a run is called by what stands before the first colon of its
    label ("B: lite_fpn" is B), in the legend by all of it. A run without a scored epoch has its loss alone.
    """
    curves_of_scores, curves_of_losses = [], []
    for place, (label, run) in enumerate(runs):
        look = _look(place)
        short = one_line(label.split(":")[0], END_WIDTH)
        full = one_line(label, LABEL_WIDTH) + (f" ({run.gap.split(':')[0]})" if run.gap else "")
        loss = [(line["epoch"], line["loss"]) for line in _ends(run) if _is_drawable(line.get("loss"))]
        for curves, points in ((curves_of_scores, scores(run, score)), (curves_of_losses, loss)):
            spread = [(epoch, value, value, value) for epoch, value in points]
            curves.append(Curve(short, full, look["color"], look["linestyle"], spread))
    return draw_curves([(title, "%", curves_of_scores), ("Training loss", "", curves_of_losses)])


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
                if not (is_number(value) and 0 <= value <= 1):
                    continue
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
            axes.text(0.5, 0.5, "nothing to show yet", transform=axes.transAxes, ha="center", color=GREY)
        _draw_class_colours(axes)
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


def _draw_class_colours(axes: Axes) -> None:
    """A patch between each class's group and its name; an edge keeps white apart from the paper."""
    style = {"transform": axes.get_xaxis_transform(), "edgecolor": GREY, "linewidth": 0.8, "clip_on": False}
    for group, colour in enumerate(CLASS_COLOURS[:SCORED_CLASSES], start=1):
        axes.add_patch(Rectangle((group - 0.16, -0.075), 0.32, 0.05, facecolor=colour / 255, **style))
