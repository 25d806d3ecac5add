"""The three training scripts with tiny networks on a few drawn images: to run in a child, and to compare."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from PIL import Image

from datasets.palette import COLOURS, mask_image
from tests.killing import assert_equal, scores_of
from tests.soak import commands

SCRIPTS = ("p1_ssl_pretrain", "p1_finetune", "p2_train")
COMMON = "--cache cache --device cpu --output run --epochs 2"
PHOTOS = f"{COMMON} --model tiny_classifier --image-size 32 --batch-size 4"
FLAGS = {
    "p1_ssl_pretrain": f"--images office/train --probe-csv office/train.csv {PHOTOS}",
    "p1_finetune": f"--data office --crop-size 32 --seeds 0 1 {PHOTOS}",
    "p2_train": f"--data tiles --model tiny_segmenter --scale 0.5 --crop-size 32 --batch-size 4 {COMMON}",
}
# What else writes into a folder: killed, the same command ends as if nobody had killed it.
WRITERS = {
    "p1_inference": "--csv office/val.csv --images office/val --output run/out.csv --checkpoint p1.pt",
    "p2_inference": "--images tiles/validation --output run --checkpoint p2.pt",
    "report.build": "--p1 results/p1 --student-id r1 --name x --output run --answers answers.md",
}
ENDS_WITH = {"report.build": 1}  # the exit status where it is not 0: the answers are empty
# What two equal runs may differ in: the clock, the machine, and what a kill leaves beside the end.
NOT_COMPARED = ("log.txt", ".lock", "previous.pt", "config.json")
CLOCKED = ("minutes", "minutes a run", "images/s", "images_per_second", "seconds", "time", "started")
CLOCKED += ("commit",)


def draw_data(folder: Path) -> None:
    """office/ (three colours) and tiles/ (the colours of land cover), as the course's trees."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        (folder / "office" / split).mkdir(parents=True)
        rows = [("id", "filename", "label")]
        for number in range(count):
            colour = np.eye(3)[number % 3] * 160 + 40
            pixels = generator.normal(colour, 40, (40, 40, 3)).clip(0, 255).astype(np.uint8)
            name = f"{number}.{'jpg' if number % 2 else 'png'}"
            Image.fromarray(pixels).save(folder / "office" / split / name)
            rows.append((number, name, number % 3))
        with open(folder / "office" / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
    for split, count in (("train", 8), ("validation", 3)):
        (folder / "tiles" / split).mkdir(parents=True)
        for number in range(count):
            order = generator.permutation(np.arange(6, dtype=np.uint8)).reshape(2, 3)
            classes = order.repeat(32, 0).repeat(22, 1)
            pixels = (COLOURS[classes] * 0.6 + generator.integers(0, 90, (*classes.shape, 3))).astype(
                np.uint8
            )
            Image.fromarray(pixels).save(folder / "tiles" / split / f"{number:04d}_sat.jpg")
            mask_image(classes).save(folder / "tiles" / split / f"{number:04d}_mask.png")


def with_data(folder: Path, data: Path) -> Path:
    """`folder`, made, with the drawn data linked into it: every run has the same relative paths."""
    folder.mkdir()
    for name in ("office", "tiles", "p1.pt", "p2.pt", "results", "answers.md"):
        if (data / name).exists():
            (folder / name).symlink_to(data / name)
    return folder


def command(script: str, *more: str) -> Callable[[], None]:
    """What a child is to call: the script's training, or its other work, into run/."""
    return commands.command(script, *{**FLAGS, **WRITERS}[script].split(), *more)


def assert_same(ours: Path, theirs: Path, what: str) -> None:
    """Two run folders (or folders of them) ended alike, and nothing is left over.

    AssertionError, which begins with `what`.
    """
    found, wanted = files_of(ours), files_of(theirs)
    left = [str(name) for name in found if name.suffix == ".part" or name.name.startswith(".reading")]
    assert not left, f"{what}; left over: {', '.join(left)}"
    other = [str(name) for name in {*found} ^ {*wanted} if name.suffix != ".broken"]
    assert not other, f"{what}; too much or missing: {', '.join(other)}"
    for name in wanted:
        assert _content(ours / name) == _content(theirs / name), f"{what}; {name} differs"
        if name.suffix == ".pt":
            loaded = [torch.load(folder / name, weights_only=True) for folder in (ours, theirs)]
            assert_equal(*loaded, f"{what}; {name} differs")


def files_of(folder: Path) -> list[Path]:
    """The files to compare, relative to `folder`."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in files if path.name not in NOT_COMPARED and "tensorboard" not in path.parts]


def _content(path: Path) -> object:
    """Of a file, what must be equal: without times."""
    if path.suffix == ".pt":
        return None
    if path.suffix == ".jsonl":
        return scores_of(path.parent)
    if path.suffix in (".md", ".csv"):
        return _without_times(path.read_text(encoding="utf-8"), "|" if path.suffix == ".md" else ",")
    if path.suffix == ".json":
        return _without_clocked(json.loads(path.read_text(encoding="utf-8")))
    return path.read_bytes()


def _without_clocked(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_clocked(part) for name, part in value.items() if name not in CLOCKED}
    return [_without_clocked(part) for part in value] if isinstance(value, list) else value


def _without_times(table: str, between: str) -> list[list[str]]:
    """The cells of a table, without the columns whose heading speaks of time or speed."""
    rows = [[cell.strip() for cell in line.split(between)] for line in table.splitlines()]
    kept = []
    clocked: list[int] = []
    for row in rows:
        if any(cell in CLOCKED for cell in row):
            clocked = [place for place, cell in enumerate(row) if cell in CLOCKED]
        kept.append([cell for place, cell in enumerate(row) if place not in clocked])
    return kept
