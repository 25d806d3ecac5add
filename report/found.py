"""Which runs and results lie below some folders, and what each is good for in the report; nothing is taken
twice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Sequence

from datasets.images import natural_key
from engine.run_folder import CONFIG, SNAPSHOTS, TENSORBOARD, RunRecord, best, kind_of, read_run
from report.settings_runs import A_SETTING

DEEPEST = 4  # folders below the one given
MOST_FOLDERS = 2000  # looked into; a folder of data given by mistake must not take minutes
INSIDE_A_RUN = (SNAPSHOTS, TENSORBOARD)


@dataclass
class Found:
    """What there is, each in natural order of its path."""

    pretraining: list[RunRecord] = field(default_factory=list)  # p1_ssl_pretrain.py's
    segmentation: list[RunRecord] = field(default_factory=list)  # p2_train.py's
    settings: list[Path] = field(default_factory=list)  # folders with A-seed0 and so on in them
    tsne: list[Path] = field(default_factory=list)  # outputs of p1_tsne.py
    masks: list[Path] = field(default_factory=list)  # folders of NNNN_mask.png that a network wrote
    remarks: list[str] = field(default_factory=list)  # what was given and could not be used


def find(roots: Sequence[str | Path]) -> Found:
    """Look through `roots` and what lies below them.

    What is missing or no run's is a remark, never an error.
    """
    found, seen = Found(), set()
    for root in map(Path, roots):
        if not root.is_dir():
            found.remarks.append(f"{root}: there is no such folder")
            continue
        before, again = _count(found), []
        if A_SETTING.fullmatch(root.resolve().name) and (root / CONFIG).is_file():
            root = (
                root.resolve().parent if root.name in ("", ".", "..") else root.parent
            )  # a table is of them all
        for folder, names in _folders(root, seen, again):
            _look_into(folder, names, found)
        if _count(found) == before and not again:
            found.remarks.append(f"{root}: no run folder and no result in it")
        if len(seen) >= MOST_FOLDERS:
            found.remarks.append(f"{root}: more than {MOST_FOLDERS} folders, the others were not looked into")
    return found


def model_a_and_b(runs: Sequence[RunRecord]) -> tuple[RunRecord | None, RunRecord | None]:
    """The best run of a VGG16-FCN32s (model A), and the best of any other network (model B)."""
    scored = sorted(runs, key=lambda run: (best(run, "mean_iou") or (0, -1.0))[1], reverse=True)
    is_a = [str(run.arguments.get("model", "")).startswith("fcn32s") for run in scored]
    a = next((run for run, flag in zip(scored, is_a) if flag), None)
    return a, next((run for run, flag in zip(scored, is_a) if not flag), None)


def runs_of_settings(folder: Path) -> list[RunRecord]:
    """The runs such as A-seed0 in a folder."""
    try:
        names = sorted((name for name in os.listdir(folder) if A_SETTING.fullmatch(name)), key=natural_key)
    except OSError:
        return []
    return [read_run(folder / name) for name in names]


def settings_folder(folders: Sequence[Path]) -> Path | None:
    """That with the most of the settings A to E, of equal ones with the most runs."""

    def richness(folder: Path) -> tuple[int, int]:
        letters = [run.name[0] for run in runs_of_settings(folder)]
        return len(set(letters)), len(letters)

    return max(folders, key=richness, default=None)


def pretraining_of(settings: Path | None, runs: Sequence[RunRecord]) -> RunRecord | None:
    """The run whose backbone settings C and E start from; where none says so, the one that trained
    longest.
    """
    named = set()
    if settings is not None:
        for run in runs_of_settings(settings):
            backbone = run.arguments.get("backbone")
            if run.name[0] in "CE" and isinstance(backbone, str) and backbone:
                named.add(os.path.realpath(os.path.dirname(backbone)))
    seen = [run for run in runs if os.path.realpath(run.folder) in named]
    return max(seen or runs, key=lambda run: run.metrics[-1]["step"] if run.metrics else -1, default=None)


# -- the search ----------------------------------------------------------------------------------------------


def _folders(root: Path, seen: set[str], again: list[Path]) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names in it) of `root` and those below it, in natural order. Left out are runs' insides, and
    those `seen`, which go into `again`."""
    waiting = [(root, 0)]
    while waiting and len(seen) < MOST_FOLDERS:
        folder, depth = waiting.pop()
        place = os.path.realpath(folder)
        if place in seen:
            again.append(folder)
            continue
        seen.add(place)
        try:
            with os.scandir(folder) as entries:
                below = {entry.name: entry.is_dir() for entry in entries}
        except OSError:
            continue
        names = sorted(below, key=natural_key)
        yield folder, names
        if depth < DEEPEST:
            inside = INSIDE_A_RUN if CONFIG in below else ()
            children = [
                folder / name for name in names if below[name] and name not in inside and name[0] != "."
            ]
            waiting += [(child, depth + 1) for child in reversed(children)]


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
    if "tsne.png" in names and "scores.json" in names:
        found.tsne.append(folder)
    has_masks, has_tiles = (any(name.endswith(end) for name in names) for end in ("_mask.png", "_sat.jpg"))
    if has_masks and not has_tiles and folder.name != "vote":  # truths lie beside their tiles
        found.masks.append(folder)


def _count(found: Found) -> int:
    return sum(
        map(
            len,
            (found.pretraining, found.segmentation, found.settings, found.tsne, found.masks, found.remarks),
        )
    )
