"""A run folder: how its files are called, and what they say. The one owner of a run's insides.

    python3 -m engine.run_folder runs/p2      # exit status 0 when the run is finished, 1 when it is not

Read are folders in whatever state: unfinished, broken, of something else. No weights are, and torch is not
imported. What writes a run is engine/run.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

from engine.base import read_regular, run_script, say

CONFIG = "config.json"  # every argument, recipe, versions, commit, machine, and whether it is finished
METRICS = "metrics.jsonl"  # one JSON object a line: step, epoch, time, values
LOG = "log.txt"
LAST, PREVIOUS = "last.pt", "previous.pt"  # all that resuming needs
MODEL = "model.pt"  # the best weights, with their own description
BACKBONE = "backbone.pt"  # of pre-training
FILES = (CONFIG, METRICS, LOG, LAST, PREVIOUS, MODEL, BACKBONE)  # what a training writes as it goes
PREDICTIONS, PREDICTIONS_LAST = "predictions.csv", "predictions_last.csv"  # of the best and the last epoch
CONFUSIONS = "confusions.npz"  # of every validation tile, at the best and the last epoch
SNAPSHOTS = "snapshots"
TENSORBOARD = "tensorboard"
STAGES = "stages"  # .png and .pdf
ARCHITECTURE = "architecture"  # .json, .svg and .pdf
COLLAPSED = 0.1  # an embedding_std in METRICS below this: p1_ssl_pretrain.py warns, the report shades it

# What two invocations of one run need not have in common.
MAY_DIFFER = ("output", "device", "workers", "max_minutes", "cache", "dry_run", "micro_batch")

LARGEST_WHOLE = 2**53  # above, floats skip whole numbers
MOST_SECONDS = 1e10  # three hundred years


def snapshot_weights(epoch: int) -> str:
    """Where in a run folder the weights after `epoch` (from 1) lie, if they were kept."""
    return f"{SNAPSHOTS}/epoch_{epoch:04d}.pt"


def snapshot_masks(epoch: int) -> str:
    """The folder, in a run folder, of the masks predicted after `epoch` (from 1)."""
    return f"{SNAPSHOTS}/epoch_{epoch:04d}"


BEST_MASKS = f"{SNAPSHOTS}/best"  # those of the best weights, MODEL


def snapshot_epochs(folder: str | Path) -> list[int]:
    """The epochs of which a run folder keeps weights or masks, in order; [] where there are none."""
    try:
        names = os.listdir(Path(folder) / SNAPSHOTS)
    except OSError:
        return []
    found = (re.fullmatch(r"epoch_([0-9]{4,9})(\.pt)?", name) for name in names)
    return sorted({int(match[1]) for match in found if match})


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
    """What a run trains: told by its script or, where none is recorded, by an argument of that one alone."""

    title: str
    script: str
    mark: str
    score: str


KINDS = (
    Kind("Problem 1, pre-training", "p1_ssl_pretrain.py", "target_schedule", "knn_accuracy"),
    Kind("Problem 1, fine-tuning", "p1_finetune.py", "setting", "accuracy"),
    Kind("Problem 2, land cover", "p2_train.py", "min_crop", "mean_iou"),
)


def read_run(folder: str | Path) -> RunRecord:
    """The record of any folder, also of a missing, empty, foreign, killed or still growing one."""
    folder = Path(folder)
    try:
        config = read_json(folder / CONFIG)
        if not isinstance(config, dict) or not isinstance(config.get("arguments"), dict):
            raise ValueError("it has no arguments")
    except FileNotFoundError:
        return RunRecord(folder, {}, [], False, f"no run folder: it has no {CONFIG}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no run's"
        return RunRecord(folder, {}, [], False, f"its {CONFIG} cannot be used ({reason})")
    metrics = _read_metrics(folder / METRICS)
    if not metrics:
        return RunRecord(folder, config, [], False, "no epoch is done yet")
    last, total = metrics[-1], config.get("total_steps")
    finished = config.get("finished")
    if not isinstance(finished, bool):  # not recorded: the last step of all is what can be known
        finished = _is_count(total) and last["step"] >= total
    of = f" of {total}" if _is_count(total) else ""
    gap = "" if finished else f"unfinished: epoch {last['epoch']}, step {last['step']}{of}"
    return RunRecord(folder, config, metrics, finished, gap)


def kind_of(run: RunRecord) -> Kind | None:
    """None when its config.json is missing or of no script of ours."""
    script = run.config.get("script")
    if script is not None:
        return next((kind for kind in KINDS if kind.script == script), None)
    return next((kind for kind in KINDS if kind.mark in run.arguments), None)


def is_finished(folder: str | Path) -> bool:
    return read_run(folder).is_finished


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
    """The run's best accuracy (chosen on the images that it is measured on) and its last, in words."""
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
    """What a JSON file from outside says, without what no report can show (_clean); OSError or ValueError."""
    try:
        return _clean(json.loads(read_regular(path).decode("utf-8")))
    except RecursionError:
        raise ValueError("its lists lie too deep inside one another") from None


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """One line for each step: what its lines say together, of work that was done twice the later."""
    try:
        text = read_regular(path).decode("utf-8", errors="replace")
    except OSError:
        return []
    lines = {}
    for part in text.split("\n"):
        try:
            line = _clean(json.loads(part))
        except (ValueError, RecursionError):
            continue  # cut in half by a kill, or being written now
        if isinstance(line, dict) and _is_count(line.get("step")) and _is_count(line.get("epoch")):
            lines[line["step"]] = {**lines.get(line["step"], {}), **line}
    return [lines[step] for step in sorted(lines)]


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
    is_strange = isinstance(value, (int, float)) and not isinstance(value, bool) and not is_number(value)
    return None if is_strange else value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m engine.run_folder",
        description="Exit status 0 when the run is finished, 1 when it is not, which is said in a line.",
    )
    parser.add_argument("run", metavar="RUN", help="a run folder")
    run = read_run(parser.parse_args(argv).run)
    if not run.is_finished:
        say(f"{run.folder}: {run.gap}")
    return 0 if run.is_finished else 1


if __name__ == "__main__":
    run_script(main)
