"""The pictures of the table of settings: learning curves, and the confusion matrix of each setting's best seed."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np

from report.figures import Curve, draw_confusion, draw_curves
from report.runs import series
from report.settings_runs import MOST_CLASSES, STARTS, TRAINED, Row, Scored
from report.style import BLACK, BLUE, VERMILION, save_figure

# The colour says where the backbone starts, the dashes that it stays as it is.
COLOUR_OF_START = {"random": BLACK, "labels": BLUE, "own SSL": VERMILION}


def draw_all(folder: Path, rows: Sequence[Row], names: dict[str, dict[str, str]]) -> None:
    """Write curves and confusion_A to confusion_E, PNG and PDF, into `folder`; remove those of runs that are gone.

    `names` holds label → name for each setting.
    """
    accuracy, loss = ([_curve(row, name) for row in rows if row.shown] for name in ("accuracy", "loss"))
    save_figure(
        draw_curves([("Accuracy on validation", "%", accuracy), ("Training loss", "", loss)]), folder / "curves"
    )
    for row in rows:
        path = folder / f"confusion_{row.setting}"
        if row.pictured is None or len(row.pictured.labels) > MOST_CLASSES:
            for suffix in ("png", "pdf"):
                Path(f"{path}.{suffix}").unlink(missing_ok=True)
            continue
        labels = row.pictured.labels
        shown = [names[row.setting].get(label, label) for label in labels]
        save_figure(draw_confusion(_matrix(row.pictured, labels), shown, _title(row.pictured)), path)


def _curve(row: Row, name: str) -> Curve:
    """Mean and range over the seeds, at the epochs that all of them have."""
    values = [dict(series(scored.run, name)) for scored in row.shown]
    epochs = sorted(set.intersection(*map(set, values)))
    points = []
    for epoch in epochs:
        here = [value[epoch] for value in values]
        points.append((epoch, sum(here) / len(here), min(here), max(here)))
    seeds = f"{len(values)} seed{'s' if len(values) > 1 else ''}" + ("" if row.finished else ", unfinished")
    return Curve(
        row.setting if row.finished else f"{row.setting} …",
        f"{row.setting}: {STARTS[row.setting]}, {TRAINED[row.setting]} ({seeds})",
        COLOUR_OF_START[STARTS[row.setting]],
        "-" if TRAINED[row.setting] == "whole network" else (0, (4, 1.5)),
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
