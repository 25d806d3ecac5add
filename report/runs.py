"""Run folders as reports read them, in whatever state they are; no weights.

run = read_run("runs/p1/A-seed0")
run.gap                     # "" when it is whole and finished, else in words what is missing
series(run, "loss")         # [(epoch, value), ...] of the epochs that have it
best(run, "accuracy")       # (epoch, value) of the best of them, or None
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.tables import read_class_names

LARGEST_WHOLE = 2**53  # above, floats skip whole numbers


MOST_SECONDS = 1e10  # three hundred years


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says. Never None and never an error: `gap` tells what there isn't."""

    folder: Path
    config: dict[str, Any]  # {} when the folder is no run's
    metrics: list[dict[str, Any]]  # in the order of their steps; each has at least step and epoch
    is_finished: bool
    gap: str

    @property
    def arguments(self) -> dict[str, Any]:
        return self.config.get("arguments", {})

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Kind:
    """What a run trains, told by an argument that this kind alone records."""

    title: str
    mark: str
    score: str


KINDS = (
    Kind("Problem 1, pre-training", "target_schedule", "knn_accuracy"),
    Kind("Problem 1, fine-tuning", "setting", "accuracy"),
    Kind("Problem 2, land cover", "min_crop", "mean_iou"),
)


def read_run(folder: str | Path) -> RunRecord:
    """The record of any folder, also of a missing, empty, foreign, killed or still growing one."""
    folder = Path(folder)
    try:
        config = read_json(folder / "config.json")
        if not isinstance(config, dict) or not isinstance(config.get("arguments"), dict):
            raise ValueError("it has no arguments")
    except FileNotFoundError:
        return RunRecord(folder, {}, [], False, "no run folder: it has no config.json")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no run's"
        return RunRecord(folder, {}, [], False, f"its config.json cannot be used ({reason})")
    metrics = _read_metrics(folder / "metrics.jsonl")
    if not metrics:
        return RunRecord(folder, config, [], False, "no epoch is done yet")
    finished = _is_finished(config, metrics[-1])
    return RunRecord(folder, config, metrics, finished, "" if finished else _how_far(config, metrics[-1]))


def kind_of(run: RunRecord) -> Kind | None:
    """None when its config.json is missing or of no script of ours."""
    return next((kind for kind in KINDS if kind.mark in run.arguments), None)


def series(run: RunRecord, name: str) -> list[tuple[int, float]]:
    """(epoch, value) of every metric line that has a number of this name."""
    return [(line["epoch"], line[name]) for line in run.metrics if is_number(line.get(name))]


def scores(run: RunRecord, name: str) -> list[tuple[int, float]]:
    """The series of a share such as accuracy or mean_iou: what lies outside [0, 1] is no score."""
    return [(epoch, value) for epoch, value in series(run, name) if 0 <= value <= 1]


def best(run: RunRecord, name: str) -> tuple[int, float] | None:
    """(epoch, value) of the highest score, and the first epoch that reached it; None where none is scored."""
    return max(scores(run, name), key=lambda pair: pair[1], default=None)


def best_and_last(folder: str | Path) -> str:
    """The run's best accuracy and its last, in words.

    The best is chosen on the images that it is measured on.
    """
    run = read_run(folder)
    highest = best(run, "accuracy")
    if highest is None:
        return "no epoch is scored"
    (best_epoch, accuracy), (last_epoch, last) = highest, scores(run, "accuracy")[-1]
    return f"best accuracy {accuracy:.4f} (epoch {best_epoch}), last {last:.4f} (epoch {last_epoch})"


def place_of(run: RunRecord, argument: str) -> Path | None:
    """The path that an argument names. A relative one that is not here is looked for above the run's folder,
    since the report may be made from elsewhere than the run was."""
    given = run.arguments.get(argument)
    if not isinstance(given, str) or not given:
        return None
    places = [Path(given), *(above / given for above in run.folder.resolve().parents)]
    return next((place for place in places if os.path.exists(place)), places[0])


def class_names_of(run: RunRecord) -> dict[str, str]:
    """Label → name from the classes.txt beside the run's folder of images; empty where there is none."""
    data, images = place_of(run, "data"), place_of(run, "train_images")
    if data is None and images is None:
        return {}
    return read_class_names((data or images.parent) / "classes.txt")


def seconds_of(run: RunRecord) -> float | None:
    """How long its training steps took so far; None where nothing possible is said."""
    said = [value for _, value in series(run, "seconds") if 0 <= value < MOST_SECONDS]
    return said[-1] if said else None


def is_number(value: Any) -> bool:
    """A finite number of at most 2**53 if it is whole, and no bool."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_WHOLE


def read_json(path: Path) -> Any:
    """What a JSON file from outside says, without what no report can show (see _clean); OSError or
    ValueError.
    """
    try:
        return _clean(json.loads(path.read_text(encoding="utf-8")))
    except RecursionError:
        raise ValueError("its lists lie too deep inside one another") from None


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """One line for each step: what its lines say together, of work that was done twice the later."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = {}
    for part in text.split("\n"):
        try:
            line = _clean(json.loads(part))
        except (ValueError, RecursionError):
            continue  # cut in half by a kill, or being written now
        whole = isinstance(line, dict) and all(_is_count(line.get(name)) for name in ("step", "epoch"))
        if whole:
            lines[line["step"]] = {**lines.get(line["step"], {}), **line}
    return [lines[step] for step in sorted(lines)]


def _is_finished(config: dict[str, Any], last: dict[str, Any]) -> bool:
    total, epochs = config.get("total_steps"), config["arguments"].get("epochs")
    if _is_count(total):
        return last["step"] >= total
    # Early versions left total_steps empty unless --budget-minutes was given.
    return config["arguments"].get("budget_minutes") is None and _is_count(epochs) and last["epoch"] >= epochs


def _how_far(config: dict[str, Any], last: dict[str, Any]) -> str:
    total = config.get("total_steps")
    of = f"step {last['step']} of {total}" if _is_count(total) else f"step {last['step']}"
    return f"unfinished: epoch {last['epoch']}, {of}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _clean(value: Any) -> Any:
    """What JSON can't hold strictly, or a file in UTF-8 can't, is gone: NaN, infinities, whole numbers past
    2**53, halves of surrogate pairs; and NUL, which no path may hold."""
    if isinstance(value, dict):
        return {_clean(name): _clean(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_clean(part) for part in value]
    if isinstance(value, str):
        return value.encode("utf-8", errors="replace").decode("utf-8").replace("\0", "\ufffd")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        return None
    return value
