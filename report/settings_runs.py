"""The runs of problem 1's settings A to E, read and averaged: a row a setting."""

from __future__ import annotations

import math
import re
import statistics
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from datasets.images import natural_key
from datasets.tables import read_class_names, read_predictions
from engine.base import UserError
from engine.run_folder import CONFIG, PREDICTIONS, RunRecord, best, place_of, read_run, scores, seconds_of

STARTS = {"A": "random", "B": "labels", "C": "own SSL", "D": "labels", "E": "own SSL"}
A_SETTING = re.compile(r"([A-E])-seed(0|[1-9][0-9]{0,8})")  # the name of a run's folder
MOST_CLASSES = 150  # of a confusion matrix; more can't be read on any page


@dataclass(frozen=True)
class Scored:
    """A run of the table: its record with what is read off it."""

    setting: str
    seed: int
    run: RunRecord
    best: float | None  # accuracy on validation, the highest of all scored epochs
    best_epoch: int | None  # the first that reached it
    last: float | None  # accuracy after the last epoch; None when that one was not scored
    predictions: list[tuple[str, str]]  # (true, predicted) labels of the best epoch; [] when there are none
    gap: str  # "" or why it is not averaged

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def labels(self) -> list[str]:
        """Every label that is true or predicted, in natural order."""
        return sorted({label for pair in self.predictions for label in pair}, key=natural_key)

    @property
    def seconds(self) -> float:
        """Of training; 0 where the run does not say, or says what cannot be."""
        return seconds_of(self.run) or 0.0


@dataclass(frozen=True)
class Row:
    """A setting of the table. Figures are of its finished runs; None where there are none."""

    setting: str
    runs: list[Scored]
    best: tuple[float, float | None] | None  # mean, standard deviation (None for one seed)
    last: tuple[float, float | None] | None
    minutes: float | None  # of training, a run
    validation_images: int | None  # None when unknown, or not the same in all runs
    standard_error: float | None  # of an accuracy like the best one on that many images

    @property
    def finished(self) -> list[Scored]:
        return [scored for scored in self.runs if not scored.gap]

    @property
    def unfinished(self) -> list[Scored]:
        return [scored for scored in self.runs if scored.gap]

    @property
    def shown(self) -> list[Scored]:
        """The runs that pictures are drawn of: the finished ones, or before there are any the others."""
        return self.finished or [scored for scored in self.unfinished if scored.best is not None]

    @property
    def trained(self) -> str | None:
        """What its runs train, in words; None where none says it."""
        frozen = [scored.run.arguments.get("is_frozen") for scored in self.shown]
        if any(value is True for value in frozen):
            return "classifier"
        return "whole network" if any(value is False for value in frozen) else None

    @property
    def pictured(self) -> Scored | None:
        """The best of those that have predictions: the confusion matrix is its."""
        return max(
            (scored for scored in self.shown if scored.predictions), key=lambda run: run.best, default=None
        )


def class_names_of(run: RunRecord) -> dict[str, str]:
    """Label → name from the classes.txt beside the run's folder of images; empty where there is none."""
    data, images = place_of(run, "data"), place_of(run, "train_images")
    if data is None and images is None:
        return {}
    return read_class_names((data or images.parent) / "classes.txt")


def read_rows(folder: Path) -> list[Row]:
    """A row for each of the five settings, also for those without runs; UserError when no run has a scored
    epoch.
    """
    try:
        found = [A_SETTING.fullmatch(path.name) for path in folder.iterdir()]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; give the --output of p1_finetune.py") from None
    runs = [_read_scored(folder, match[1], int(match[2])) for match in found if match]
    if not runs:
        raise UserError(
            f"{folder}: no run folder such as A-seed0 in it; train one with python3 p1_finetune.py --output "
            f"{folder}"
        )
    if all(scored.best is None for scored in runs):
        raise UserError(
            f"{folder}: none of its {len(runs)} runs has a scored epoch yet; train on and try again"
        )
    runs.sort(key=lambda scored: scored.seed)
    return [_row(letter, [scored for scored in runs if scored.setting == letter]) for letter in STARTS]


def _read_scored(folder: Path, setting: str, seed: int) -> Scored:
    run = read_run(folder / f"{setting}-seed{seed}")
    scored = scores(run, "accuracy")
    best_epoch, highest = best(run, "accuracy") or (None, None)
    last = scored[-1][1] if scored and scored[-1][0] == run.metrics[-1]["epoch"] else None
    gap = run.gap
    own = (run.arguments.get("setting"), run.arguments.get("seed"))
    if run.arguments and own != (setting, seed):
        gap = f"its {CONFIG} is of another run: the folder was renamed or copied"
        best_epoch = highest = last = None
    elif not gap and highest is None:
        gap = "no epoch is scored"
    predictions = []
    if highest is not None:
        with suppress(UserError):  # a note beneath the table names it
            answers = read_predictions(run.folder / PREDICTIONS)
            predictions = [(truth, label) for _, truth, label in answers]
    return Scored(setting, seed, run, highest, best_epoch, last, predictions, gap)


def _row(setting: str, runs: list[Scored]) -> Row:
    finished = [scored for scored in runs if not scored.gap]
    mean_best = _mean_and_spread([scored.best for scored in finished])
    counts = {len(scored.predictions) for scored in finished if scored.predictions}
    images = counts.pop() if len(counts) == 1 else None
    return Row(
        setting,
        runs,
        mean_best,
        _mean_and_spread([scored.last for scored in finished if scored.last is not None]),
        statistics.fmean(scored.seconds for scored in finished) / 60 if finished else None,
        images,
        math.sqrt(mean_best[0] * (1 - mean_best[0]) / images) if mean_best and images else None,
    )


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float | None] | None:
    """(mean, standard deviation with n - 1, or None of a single value)."""
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
