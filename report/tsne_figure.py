"""Points in the plane, a panel a checkpoint: all classes at once, and ten at a time that can be told apart.

And figures beside the eye: how well classes lie apart among the features, and in the plane drawn of them.
Panels are (title, points (N, 2)) pairs of the same N images. All have the same limits, in every picture.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from sklearn.metrics import silhouette_score

from engine.metrics import class_overlap, knn_accuracy
from report.style import BLACK, GREY, styled
from report.text import columns, one_line

# Nine colours that colour-blind eyes tell apart ("muted", Paul Tol, Colour Schemes, 2021), and black.
TEN_COLOURS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#AA4499"),
    *("#999933", BLACK, "#DDCC77", "#882255", "#44AA99"),
)
TEN_MARKERS = ("o", "s", "^", "D", "P", "v", "X", "<", "*", ">")
OTHERS = "#DDDDDD"  # the images of all other classes
MOST_IN_LEGEND = 80  # classes that a legend has room for
PANEL = 5.2  # inches across
HALO = withStroke(linewidth=2, foreground="white")
TEXT_ON_POINTS = {"fontsize": 8, "weight": "bold", "ha": "center", "va": "center", "path_effects": [HALO]}

Panels = Sequence["tuple[str, np.ndarray]"]


def tens(present: Sequence[int], num_classes: int) -> list[list[int]]:
    """The classes that are `present`, by tens of all: from 0 to 9, from 10 to 19, ...; no empty ones."""
    starts = range(0, num_classes, 10)
    groups = [[label for label in range(start, start + 10) if label in set(present)] for start in starts]
    return [group for group in groups if group]


def draw_all_classes(panels: Panels, labels: np.ndarray, entries: Sequence[str], heading: str) -> Figure:
    """Every class of `labels` (N,) with its colour among its ten and the marker of its ten.

    The legend has its entry, such as "7 Camera"; its first word stands on a class mostly together.
    """
    present = np.unique(labels).tolist()
    markers = {label: TEN_MARKERS[label // 10 % 10] for label in present}
    size = _size(len(labels))
    with styled():
        has_legend = len(present) <= MOST_IN_LEGEND
        figure, axes = _panels(panels, heading, 1.8 if has_legend else 0)
        for axis, (_, points) in zip(axes, panels):
            for label in present:
                _scatter(axis, points[labels == label], label, markers[label], size)
            for label, place in middles(points, labels, axis.get_xlim()[1] - axis.get_xlim()[0]).items():
                short = one_line(entries[label].split(" ")[0], 4)
                axis.text(*place, short, **TEXT_ON_POINTS)
        if has_legend:
            _legend(figure, tens(present, len(entries)), entries, markers)
        return figure


def draw_ten_classes(
    panels: Panels, labels: np.ndarray, chosen: Sequence[int], entries: Sequence[str], heading: str
) -> Figure:
    """The `chosen` classes, each with a colour and a marker of its own; all others in light grey."""
    markers = {label: TEN_MARKERS[label % 10] for label in chosen}
    size = _size(len(labels))
    with styled():
        figure, axes = _panels(panels, heading, 0.45)
        for axis, (_, points) in zip(axes, panels):
            axis.scatter(*points[~np.isin(labels, chosen)].T, s=size / 2, c=OTHERS, linewidths=0)
            for label in chosen:
                _scatter(axis, points[labels == label], label, markers[label], 2.5 * size)
        _legend(figure, [chosen[start : start + 2] for start in range(0, len(chosen), 2)], entries, markers)
        return figure


def _scatter(axis: Axes, points: np.ndarray, label: int, marker: str, size: float) -> None:
    """One class's points, with a thin white edge so that they part from those below."""
    style = {"c": TEN_COLOURS[label % 10], "marker": marker, "edgecolors": "white", "linewidths": 0.25}
    axis.scatter(*points.T, s=size, **style)


def middles(points: np.ndarray, labels: np.ndarray, width: float) -> dict[int, np.ndarray]:
    """Label → (2,) middle of each class with most images within a tenth of the picture's `width` of it.

    Of two too close for their text the first.
    """
    found: dict[int, np.ndarray] = {}
    for label in np.unique(labels).tolist():
        own = points[labels == label]
        middle = np.median(own, axis=0)
        is_gathered = (np.linalg.norm(own - middle, axis=1) < width / 10).mean() > 0.5
        is_free = all((abs(other - middle) > (0.05 * width, 0.03 * width)).any() for other in found.values())
        if is_gathered and is_free:
            found[label] = middle
    return found


def _panels(panels: Panels, heading: str, below: float) -> tuple[Figure, list[Axes]]:
    """A figure with empty axes for each panel, side by side, and `below` inches for a legend under them."""
    together = np.concatenate([points for _, points in panels])
    low, high = together.min(axis=0), together.max(axis=0)
    room = 0.04 * (high - low).max()
    across, upwards = zip(low - room, high + room)
    height = PANEL * (upwards[1] - upwards[0]) / (across[1] - across[0])
    # As wide as two panels, which the legend needs.
    figure = Figure(figsize=(PANEL * max(len(panels), 2), min(max(height, 3), 9) + 0.75 + below))
    figure.get_layout_engine().set(h_pad=0.08)
    figure.suptitle(one_line(heading, 90), fontsize=11, color=GREY)
    axes = figure.subplots(1, len(panels), squeeze=False)[0].tolist()
    for axis, (title, _) in zip(axes, panels):
        axis.set(title=title, xlim=across, ylim=upwards, xticks=[], yticks=[])
        axis.set_aspect("equal", adjustable="box", anchor="S")  # spare room parts titles from the heading
        axis.spines[:].set(visible=True, color="#AAAAAA")
    return figure, axes


def _size(count: int) -> float:
    """Area of a mark in square points: smaller where there are more."""
    return float(np.clip(40_000 / count, 4, 30))


def _legend(
    figure: Figure, columns: Sequence[Sequence[int]], entries: Sequence[str], marker_of: dict[int, str]
) -> None:
    """A legend below the panels, a column for each list of classes."""
    height = max(map(len, columns))
    nothing = Line2D([], [], linestyle="")
    handles, texts = [], []
    for column in columns:
        for label in column:
            style = {"linestyle": "", "marker": marker_of[label], "markersize": 6, "markeredgewidth": 0}
            handles.append(Line2D([], [], color=TEN_COLOURS[label % 10], **style))
            texts.append(one_line(entries[label], 22))
        handles += [nothing] * (height - len(column))  # matplotlib fills columns from the top
        texts += [" "] * (height - len(column))
    spacing = {"handletextpad": 0.2, "columnspacing": 1.2, "labelspacing": 0.35}
    figure.legend(handles, texts, loc="outside lower center", ncols=len(columns), fontsize=8, **spacing)


# -- figures beside the eye ----------------------------------------------------------------------------------

NEIGHBOURS = 20
LISTED = 5  # scattered classes, and overlapping pairs


def measure(
    features: np.ndarray, plane: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Scores of one checkpoint's features (N, D) and plane (N, 2); `classes` are the labels' names.

    The only image of a class has no part in them: it has no neighbour of its own. Scatter is the mean
    distance of a class's features to their mean, divided by that of all features; overlap is the share of the
    nearest neighbours (by cosine) of one class's images that are of the other.
    """
    several = np.bincount(labels)[labels] > 1
    features, plane, labels = features[several].astype(np.float64), plane[several], labels[several]
    vectors, numbers = torch.from_numpy(features).float(), torch.from_numpy(labels)
    scatter = {label: mean_distance(features[labels == label]) for label in np.unique(labels).tolist()}
    spread = mean_distance(features)
    share = class_overlap(vectors, numbers, len(classes), NEIGHBOURS).numpy().astype(np.float64)
    overlap = {pair: share[pair] + share[pair[::-1]] for pair in combinations(range(len(classes)), 2)}
    pairs = sorted((pair for pair in overlap if overlap[pair]), key=lambda pair: -overlap[pair])
    return {
        "images": len(features),
        "features": features.shape[1],
        "silhouette_features": round(float(silhouette_score(features, labels)), 4),
        "silhouette_plane": round(float(silhouette_score(plane, labels)), 4),
        "neighbours": min(NEIGHBOURS, len(features) - 1),
        "knn_accuracy": round(knn_accuracy(vectors, numbers, k=NEIGHBOURS), 4),
        "most_scattered": [
            {"label": classes[label], "scatter": round(scatter[label] / spread, 4)}
            for label in sorted(scatter, key=lambda label: -scatter[label])[:LISTED]
        ],
        "most_overlapping": [
            {"labels": [classes[a], classes[b]], "shares": [round(share[a, b], 4), round(share[b, a], 4)]}
            for a, b in pairs[:LISTED]
        ],
    }


def mean_distance(features: np.ndarray) -> float:
    """Of (N, D) to their mean."""
    return float(np.linalg.norm(features - features.mean(axis=0), axis=1).mean())


def named(scores: dict[str, Any], entries: Mapping[str, str]) -> dict[str, Any]:
    """The scores with the names of their classes, `entries[label]`, beside the labels."""
    scattered, overlapping = scores["most_scattered"], scores["most_overlapping"]
    return {
        **scores,
        "most_scattered": [{**row, "name": entries[row["label"]]} for row in scattered],
        "most_overlapping": [
            {**row, "names": [entries[name] for name in row["labels"]]} for row in overlapping
        ],
    }


def as_text(scores: Sequence[dict[str, Any]]) -> str:
    """Tables for a terminal, of scores that are `named` and have a title: a line a checkpoint, then lists."""
    titles = [one_line(score["title"], 40) for score in scores]
    width = max(map(columns, titles))
    lines = [f"{'':{width}}  silhouette of   silhouette of   kNN accuracy"]
    lines += [f"{'':{width}}  the features    the plane       k = {scores[0]['neighbours']}"]
    for title, score in zip(titles, scores):
        figures = (score[name] for name in ("silhouette_features", "silhouette_plane", "knn_accuracy"))
        cells = "".join(f"{figure:<16.4f}" for figure in figures)
        lines.append(f"{_padded(title, width)}  {cells.rstrip()}")
    for title, score in zip(titles, scores):
        distance = "distance to their middle; 1: as all images to theirs"
        lines += ["", f"{title}: most scattered classes ({distance})"]
        for row in score["most_scattered"]:
            lines.append(f"  {_padded(one_line(row['name'], 30), 62)} {row['scatter']:.2f}")
        share = "share of the nearest neighbours that are the other class's"
        lines.append(f"{title}: most mixed-up pairs ({share})")
        for row in score["most_overlapping"]:
            pair = " / ".join(one_line(name, 29) for name in row["names"])
            lines.append(f"  {_padded(pair, 62)} " + " / ".join(f"{share:.2f}" for share in row["shares"]))
    return "\n".join(lines)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))
