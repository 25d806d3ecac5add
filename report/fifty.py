"""Problem 1 of the 50-class editions, for the report: the networks, their accuracy, their features drawn."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Callable, Sequence

from datasets.images import natural_key
from engine.run_folder import RunRecord, best
from report.blocks import (
    command_of,
    differences,
    facts,
    known_of,
    label_of,
    learning_curves,
    network,
    networks_table,
    paired,
    taken,
    unfinished,
    value_of,
)
from report.collect import Found, best_first, fifty_runs
from report.document import Block, Gap, Picture, Text
from report.problem1 import projection, shows

TRAIN = "make p1-50 DATA=hw1_data_2022"
PROJECT = "python3 p1_tsne.py --run {run} --images {images} --snapshots 3 --method {method} --output {output}"


def fifty_answers(found: Found, figures: Path) -> dict[str, Callable[[], list[Block]]]:
    """What answers each question; figures go into `figures`."""
    runs = fifty_runs(found)
    a, b = a_and_b(runs)
    one = b or a
    return {
        "classifier_printed": lambda: network("", one, TRAIN, figures, "classifier", is_printed=True),
        "classifier_drawn": lambda: [
            *network("A", a, TRAIN, figures, "classifier_a"),
            *network("B", b, TRAIN, figures, "classifier_b"),
        ],
        "accuracy": lambda: _accuracy([("", one)], runs, found, figures),
        "classifiers_accuracy": lambda: _accuracy([("A", a), ("B", b)], runs, found, figures),
        "classifier_a": lambda: _details(a),
        "classifier_b": lambda: _compared(a, b),
        "validation_tsne": lambda: _features(found, "tsne", one, runs, figures),
        "features_pca": lambda: _features(found, "pca", a, runs, figures),
        "features_tsne": lambda: _features(found, "tsne", a, runs, figures),
    }


def a_and_b(runs: Sequence[RunRecord]) -> tuple[RunRecord | None, RunRecord | None]:
    """Model A, the best run from random weights, and B, the best of those from pretrained ones.

    Where all began at random, B is the best of them, and A the best of the others.
    """
    order = best_first(runs, "accuracy")
    pretrained = [run for run in order if run.arguments.get("weights") not in (None, "none")]
    b = next(iter(pretrained or order), None)
    a = next((run for run in order if run is not b and run not in pretrained), None)
    return a, b


# -- accuracy ------------------------------------------------------------------------------------------------


def _accuracy(
    models: Sequence[tuple[str, RunRecord | None]], runs: Sequence[RunRecord], found: Found, figures: Path
) -> list[Block]:
    blocks: list[Block] = []
    for letter, run in models:
        if run is None:
            blocks.append(Gap(f"There is no run of a network{letter and f' for model {letter}'}.", TRAIN))
        elif best(run, "accuracy") is None:
            blocks.append(Gap(f"{label_of(run)} has no scored epoch.", command_of(run)))
    named = {run.folder: letter for letter, run in models if run}
    blocks += networks_table(runs, named, "accuracy", "Accuracy on the validation images.")
    if len(named) == 2:
        blocks.append(Text(paired(*(run for _, run in models), "accuracy", "best")))
    for score in found.votes:
        blocks.append(Text(f"Several networks together, by the mean of their probabilities: {score}."))
    lines = [(f"{named.get(run.folder) or n}: {label_of(run)}", run) for n, run in enumerate(runs, 1)]
    if lines:
        title, alt = "Accuracy on validation", "Learning curves of the classifiers"
        blocks.append(learning_curves(figures, "accuracy", "accuracy", title, lines, alt))
    return blocks


# -- the two models ------------------------------------------------------------------------------------------


def _details(run: RunRecord | None) -> list[Block]:
    if run is None:
        return [Gap("There is no run of a model A.", TRAIN)]
    about = {**_about(run), "recipe, seed": known_of(run)["recipe, seed"]}
    return [facts(about, f"Settings of model A ({label_of(run)})."), *unfinished(run)]


def _compared(a: RunRecord | None, b: RunRecord | None) -> list[Block]:
    if a is None or b is None:
        return [Gap("There is no second network to compare.", TRAIN)]
    return differences(a, b, _about)


def _about(run: RunRecord) -> dict[str, str]:
    given, known = run.arguments, known_of(run)
    crops = f"moved by {value_of(run, 'shift')} px" if given.get("shift") else "random crops"
    last = ("averaged weights", "optimiser", "batch size", "images", "training", "trained on")
    return {
        "network": f"{known['network']}, stem {value_of(run, 'stem')}",
        "starts from": known["starts from"],
        "images seen at": known["image size"],
        "augmentation": crops if given.get("is_augmented") else "none",
        "two images in one": value_of(run, "mix") if given.get("mix") else "–",
        "label smoothing": value_of(run, "label_smoothing"),
        **{name: known[name] for name in last},
    }


# -- features ------------------------------------------------------------------------------------------------


def _features(
    found: Found, method: str, wanted: RunRecord | None, runs: Sequence[RunRecord], figures: Path
) -> list[Block]:
    """The picture of the run `wanted`, else of any other; and for t-SNE ten classes at a time."""
    folders = {"tsne": found.tsne, "pca": found.pca}[method]
    order = sorted(runs, key=lambda run: run is not wanted)
    shown = next((folder for run in order for folder in folders if shows(folder, run)), None)
    called = {"tsne": "t-SNE", "pca": "PCA"}[method]
    if shown is None:
        run = shlex.quote(str(wanted.folder)) if wanted else "runs/fifty/resnet34/A-seed0"
        images = shlex.quote(value_of(wanted, "val_images")) if wanted else "hw1_data_2022/p1_data/val_50"
        command = PROJECT.format(run=run, images=images, method=method, output=f"runs/fifty/{method}")
        return [Gap(f"There is no {called} of the features.", command)]
    blocks = projection(shown, method, figures, f"features_{method}")  # 2023 has setting C's beside it
    panels = sorted(shown.glob(f"{method}_classes_*.png"), key=lambda path: natural_key(path.name))
    for panel in panels if method == "tsne" and any(isinstance(block, Picture) for block in blocks) else ():
        classes = panel.stem.rpartition("_")[2].replace("-", " to ")
        caption = f"{called} as above: the classes {classes}, all others in grey."
        alt = f"Points of the classes {classes}"
        blocks.append(taken(figures, panel.stem, panel.with_suffix(""), caption, alt))
    return blocks
