"""What the report is made of: the runs and results that lie below some folders, nothing taken twice; the runs
of settings A to E, averaged; and what a training left about its network.
"""

from __future__ import annotations

import math
import os
import re
import statistics
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Sequence

from datasets.images import natural_key
from datasets.tables import read_class_names, read_predictions
from engine.base import UserError, read_regular
from engine.run_folder import (
    ARCHITECTURE,
    CONFIG,
    PREDICTIONS,
    SNAPSHOTS,
    TENSORBOARD,
    RunRecord,
    best,
    is_number,
    kind_of,
    place_of,
    read_json,
    read_run,
    seconds_of,
)
from report.paired_tests import last_score
from report.text import one_line

DEEPEST = 4  # folders below the one given
MOST_FOLDERS = 2000  # looked into; a folder of data given by mistake must not take minutes
STARTS = {"A": "random", "B": "labels", "C": "own SSL", "D": "labels", "E": "own SSL"}
A_SETTING = re.compile(r"([A-E])-seed(0|[1-9][0-9]{0,8})")  # the name of a run's folder
MOST_CLASSES = 150  # of a confusion matrix; more can't be read on any page
MOST = 1e15  # parameters or operations; far more than any network has


@dataclass
class Found:
    """What there is, each in natural order of its path."""

    pretraining: list[RunRecord] = field(default_factory=list)  # p1_ssl_pretrain.py's
    segmentation: list[RunRecord] = field(default_factory=list)  # p2_train.py's
    settings: list[Path] = field(default_factory=list)  # folders with A-seed0 and so on in them
    tsne: list[Path] = field(default_factory=list)  # outputs of p1_tsne.py ...
    pca: list[Path] = field(default_factory=list)  # ... and of its --method pca
    votes: list[str] = field(default_factory=list)  # what several networks together reached, in words
    masks: list[Path] = field(default_factory=list)  # folders of NNNN_mask.png that a network wrote
    remarks: list[str] = field(default_factory=list)  # what was given and could not be used


def find(roots: Sequence[str | Path]) -> Found:
    """Look through `roots` and what lies below them; what is missing or no run's is a remark, no error."""
    found, seen = Found(), set()
    for root in map(Path, roots):
        if not root.is_dir():
            found.remarks.append(f"{root}: there is no such folder")
            continue
        if A_SETTING.fullmatch(root.resolve().name) and (root / CONFIG).is_file():
            # A table is of them all.
            root = root.resolve().parent if root.name in ("", ".", "..") else root.parent
        before, again = sum(map(len, vars(found).values())), []
        for folder, names in _folders(root, seen, again):
            _look_into(folder, names, found)
        if sum(map(len, vars(found).values())) == before and not again:
            found.remarks.append(f"{root}: no run folder and no result in it")
        if len(seen) >= MOST_FOLDERS:
            found.remarks.append(f"{root}: more than {MOST_FOLDERS} folders, the others were not looked into")
    return found


def model_a_and_b(runs: Sequence[RunRecord]) -> tuple[RunRecord | None, RunRecord | None]:
    """The best run of a VGG16-FCN32s (model A), and the best of any other network (model B)."""
    models: dict[bool, RunRecord] = {}  # by whether they are of model A's kind, the best first
    for run in best_first(runs, "mean_iou"):
        models.setdefault(str(run.arguments.get("model", "")).startswith("fcn32s"), run)
    return models.get(True), models.get(False)


def best_first(runs: Sequence[RunRecord], score: str) -> list[RunRecord]:
    """By their best epochs; last those without a score."""
    return sorted(runs, key=lambda run: (best(run, score) or (0, -1.0))[1], reverse=True)


def names_of_settings(folder: Path) -> list[str]:
    """The names such as A-seed0 in a folder, in order of setting and seed; none where it cannot be read."""
    try:
        return sorted((name for name in os.listdir(folder) if A_SETTING.fullmatch(name)), key=natural_key)
    except OSError:
        return []


def runs_of_settings(folder: Path) -> list[RunRecord]:
    return [read_run(folder / name) for name in names_of_settings(folder)]


def is_of_fifty(run: RunRecord) -> bool:
    """Whether a run of p1_finetune.py is of the 50 classes, which have their labels in their names."""
    return run.arguments.get("num_classes") == 50 or run.arguments.get("train_csv", "") is None


def fifty_runs(found: Found) -> list[RunRecord]:
    return [run for folder in found.settings for run in runs_of_settings(folder) if is_of_fifty(run)]


def settings_folder(folders: Sequence[Path]) -> Path | None:
    """That with the most of the settings A to E, of equal ones with the most runs."""

    letters = {folder: [name[0] for name in names_of_settings(folder)] for folder in folders}
    return max(folders, key=lambda folder: (len(set(letters[folder])), len(letters[folder])), default=None)


def pretraining_of(settings: Path | None, runs: Sequence[RunRecord]) -> RunRecord | None:
    """The run whose backbone settings C and E start from; else the one that trained longest."""
    named = set()
    for run in runs_of_settings(settings) if settings else []:
        backbone = run.arguments.get("backbone")
        if run.name[0] in "CE" and isinstance(backbone, str) and backbone:
            named.add(os.path.realpath(os.path.dirname(backbone)))
    seen = [run for run in runs if os.path.realpath(run.folder) in named]
    return max(seen or runs, key=lambda run: run.metrics[-1]["step"] if run.metrics else -1, default=None)


# -- the search ----------------------------------------------------------------------------------------------


def _folders(root: Path, seen: set[str], again: list[Path]) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names in it) of `root` and those below it, in natural order, without runs' insides.

    Left out are those `seen` too, which go into `again`.
    """
    for folder, below, files in os.walk(root, followlinks=True):
        if len(seen) >= MOST_FOLDERS:
            return
        place, children = os.path.realpath(folder), sorted(below, key=natural_key)
        below.clear()
        if place in seen:
            again.append(Path(folder))
            continue
        seen.add(place)
        yield Path(folder), sorted([*children, *files], key=natural_key)
        if len(Path(folder).relative_to(root).parts) < DEEPEST:
            inside = (SNAPSHOTS, TENSORBOARD) if CONFIG in files else ()
            below += [name for name in children if name not in inside and name[0] != "."]


def _look_into(folder: Path, names: Sequence[str], found: Found) -> None:
    if CONFIG in names:
        run = read_run(folder)
        kind = kind_of(run)
        if kind is None:
            found.remarks.append(f"{folder}: {run.gap or 'no run of these scripts'}")
        elif kind.score == "knn_accuracy":
            found.pretraining.append(run)
        elif kind.score == "mean_iou":
            found.segmentation.append(run)  # those of settings are read where their table is
    if any(A_SETTING.fullmatch(name) for name in names):
        found.settings.append(folder)
    if "scores.json" in names:
        found.tsne += [folder] if "tsne.png" in names else []
        found.pca += [folder] if "pca.png" in names else []
    if PREDICTIONS in names and "score.txt" in names:
        with suppress(OSError):
            text = read_regular(folder / "score.txt").decode("utf-8", errors="replace")
            found.votes += [one_line(said, 100) for said in re.findall("^accuracy: .*", text, re.MULTILINE)]
    has_masks, has_tiles = (any(name.endswith(end) for name in names) for end in ("_mask.png", "_sat.jpg"))
    if has_masks and not has_tiles and folder.name != "vote":  # truths lie beside their tiles
        found.masks.append(folder)


# -- settings A to E -----------------------------------------------------------------------------------------


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
        candidates = [scored for scored in self.shown if scored.predictions]
        return max(candidates, key=lambda scored: scored.best, default=None)

    @property
    def class_names(self) -> dict[str, str]:
        """Label → name of the classes that are pictured, as far as they have names."""
        return class_names_of(self.pictured.run, self.pictured.labels) if self.pictured else {}


def class_names_of(run: RunRecord, labels: Sequence[str]) -> dict[str, str]:
    """Label → name, as far as the `labels` that it knows have names: see `read_class_names`."""
    data, images = place_of(run, "data"), place_of(run, "train_images")
    if data is None and images is None:
        return {}
    return read_class_names((data or images.parent) / "classes.txt", labels)


def read_rows(folder: Path) -> list[Row]:
    """A row for each of the five settings; UserError when no run has a scored epoch."""
    runs = [_scored(run) for run in runs_of_settings(folder)]
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the --output of p1_finetune.py")
    if not runs:
        advice = f"train one with python3 p1_finetune.py --output {folder}"
        raise UserError(f"{folder}: no run folder such as A-seed0 in it; {advice}")
    if all(scored.best is None for scored in runs):
        reason = f"none of its {len(runs)} runs has a scored epoch yet"
        raise UserError(f"{folder}: {reason}; train on and try again")
    return [_row(letter, [scored for scored in runs if scored.setting == letter]) for letter in STARTS]


def _scored(run: RunRecord) -> Scored:
    setting, seed = run.name[0], int(run.name[len("A-seed") :])
    best_epoch, highest = best(run, "accuracy") or (None, None)
    last = last_score(run, "accuracy")
    own, gap = (run.arguments.get("setting"), run.arguments.get("seed")), run.gap
    if run.arguments and own != (setting, seed):
        gap = f"its {CONFIG} is of another run: the folder was renamed or copied"
        best_epoch = highest = last = None
    elif not gap and highest is None:
        gap = "no epoch is scored"
    predictions = []
    if highest is not None:
        with suppress(UserError):  # a note beneath the table names it
            predictions = [answer[1:] for answer in read_predictions(run.folder / PREDICTIONS)]
    return Scored(setting, seed, run, highest, best_epoch, last, predictions, gap)


def _row(setting: str, runs: list[Scored]) -> Row:
    finished = [scored for scored in runs if not scored.gap]
    mean_best = _mean_and_spread([scored.best for scored in finished])
    mean_last = _mean_and_spread([scored.last for scored in finished if scored.last is not None])
    minutes = statistics.fmean(scored.seconds for scored in finished) / 60 if finished else None
    counts = {len(scored.predictions) for scored in finished if scored.predictions}
    images = counts.pop() if len(counts) == 1 else None
    error = math.sqrt(mean_best[0] * (1 - mean_best[0]) / images) if mean_best and images else None
    return Row(setting, runs, mean_best, mean_last, minutes, images, error)


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float | None] | None:
    """(mean, standard deviation with n - 1, or None of a single value)."""
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


# -- drawings of networks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Architecture:
    """What architecture.json says in short."""

    network: str
    size: int  # pixels a side of the image that it was described for
    parameters: int
    auxiliary_parameters: int
    multiply_adds: float  # of convolutions, linear layers and attention
    scored_at: str  # the stride of the map that is upsampled to the scores of every pixel, and how
    merged_at: str  # the strides at which maps are put together, in order of computing
    printed: str  # module by module; "" where an older training left none


def read_architecture(run: Path) -> Architecture | None:
    """None when there is none, or it cannot be used."""
    try:
        said = read_json(run / f"{ARCHITECTURE}.json")
        blocks = {block["name"]: block for block in said["blocks"] if not block["is_auxiliary"]}
        counts = [said[name] for name in ("parameters", "auxiliary_parameters", "multiply_adds")]
        numbers = [said["input"][1], *counts]
        if not all(is_number(number) and 0 <= number < MOST for number in numbers):
            return None
        strides = [block["stride"] for block in blocks.values() if len(block["inputs"]) > 1]
        merged = ", ".join(f"stride {stride:g}" for stride in dict.fromkeys(strides) if stride) or "nowhere"
        printed = str(said.get("printed", ""))
        return Architecture(one_line(said["network"], 60), *numbers, _scored_at(blocks), merged, printed)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _scored_at(blocks: dict[str, dict[str, Any]]) -> str:
    """Goes back from the output to the last block that makes its input finer; "–" where it meets none."""
    block = next((block for block in reversed(list(blocks.values())) if block["role"] == "output"), None)
    seen = set()
    # A file that is not ours may lead in a circle.
    while block and block["inputs"] and block["name"] not in seen:
        seen.add(block["name"])
        before = blocks[block["inputs"][0]]
        if before["stride"] and block["stride"] and before["stride"] > block["stride"]:
            return f"stride {before['stride']:g}, then {one_line(block['layers'], 60)}"
        block = before
    return "–"
