"""What the table of settings A to E shows, in sentences that say no more than its figures support: how to
read it, what is missing or differs, and each setting against the others.
"""

from __future__ import annotations

import json
import math
from itertools import combinations
from typing import Sequence

from engine.run_folder import MAY_DIFFER, PREDICTIONS
from report.collect import MOST_CLASSES, STARTS, Row, Scored
from report.text import one_line

# What differs between the settings by their nature, is said in other words, or changes no result.
BY_NATURE = (
    "setting",
    "seed",
    "is_frozen",
    "backbone",
    "backbone_sha256",
    "augment",
    "is_augmented",
    "snapshot_epochs",
)


def notes_on(rows: Sequence[Row]) -> list[str]:
    """Sentences of plain text, one a line."""
    return [
        "Accuracies are the mean ± standard deviation (n - 1) over the seeds. The best epoch was chosen on "
        "the validation images that it is measured on, so it flatters; the last epoch was chosen by nothing.",
        *_on_standard_error(rows),
        *_on_close_pairs(rows),
        *remarks_on(rows),
    ]


def remarks_on(rows: Sequence[Row]) -> list[str]:
    """What is missing, and in what the runs differ, so that their figures may not compare."""
    scored = [scored for row in rows for scored in row.runs if scored.best is not None]
    return [*_on_gaps(rows), *_on_differences(scored), *_on_augmentation(scored), *_on_predictions(rows)]


def _on_standard_error(rows: Sequence[Row]) -> list[str]:
    counts = sorted({row.validation_images for row in rows if row.standard_error is not None})
    if not counts:
        return []
    return [
        "One standard error of the validation set is sqrt(p (1 - p) / n) with n = "
        f"{' or '.join(map(str, counts))} images and p the best accuracy's mean."
    ]


def _on_close_pairs(rows: Sequence[Row]) -> list[str]:
    """A sentence for each two settings whose best accuracies are closer than one standard error of their
    mean.
    """
    notes = []
    known = [row for row in rows if row.best and row.validation_images]
    for one, other in combinations(known, 2):
        if one.validation_images != other.validation_images:
            continue
        apart, pooled = abs(one.best[0] - other.best[0]), (one.best[0] + other.best[0]) / 2
        error = math.sqrt(pooled * (1 - pooled) / one.validation_images)
        if apart < error:
            notes.append(
                f"{one.setting} and {other.setting} differ by less than one standard error of the validation "
                f"set ({apart:.4f}, and that is {error:.4f})."
            )
    return notes


def _on_gaps(rows: Sequence[Row]) -> list[str]:
    notes = []
    for scored in (scored for row in rows for scored in row.unfinished):
        so_far = (
            "" if scored.best is None else f"; best so far {scored.best:.4f} at epoch {scored.best_epoch}"
        )
        notes.append(f"{scored.name} is not averaged: {one_line(scored.gap, 200)}{so_far}.")
    for scored in (scored for row in rows for scored in row.finished if scored.last is None):
        notes.append(
            f"{scored.name}: its last epoch was not scored, so it is missing from the last-epoch accuracy."
        )
    return notes


def _on_differences(runs: Sequence[Scored]) -> list[str]:
    """A sentence for each argument that is not the same in all the runs that record it."""
    expected = {*MAY_DIFFER, *BY_NATURE}
    values: dict[str, dict[str, list[Scored]]] = {}
    for scored in runs:
        arguments = {name: value for name, value in scored.run.arguments.items() if name not in expected}
        if scored.run.arguments.get("backbone") is not None:
            arguments[f"backbone ({STARTS[scored.setting]})"] = scored.run.arguments["backbone"]
        if scored.predictions:
            arguments["validation images"] = len(scored.predictions)
        for name, value in arguments.items():
            text = json.dumps(value, ensure_ascii=False, sort_keys=True)
            values.setdefault(name, {}).setdefault(text, []).append(scored)
    return [
        f"Runs differ in {one_line(name, 60)}: "
        + "; ".join(f"{one_line(text, 60)} in {_names(those, runs)}" for text, those in values[name].items())
        + "."
        for name in sorted(values)
        if len(values[name]) > 1
    ]


def _on_augmentation(runs: Sequence[Scored]) -> list[str]:
    """A sentence when some runs train on random crops and colours, and others do not."""
    plain, augmented = (
        [scored for scored in runs if scored.run.arguments.get("is_augmented") is value]
        for value in (False, True)
    )
    if not (plain and augmented):
        return []
    return [
        f"{_names(plain, runs)} saw every photograph as inference does, without random crops and colours."
    ]


def _names(some: Sequence[Scored], runs: Sequence[Scored]) -> str:
    """The letter of a setting all of whose runs are among them, else the runs' names."""
    parts = []
    for letter in STARTS:
        those = [scored for scored in some if scored.setting == letter]
        if those and len(those) == sum(scored.setting == letter for scored in runs):
            parts.append(letter)
        else:
            parts += [scored.name for scored in those]
    return ", ".join(parts)


def _on_predictions(rows: Sequence[Row]) -> list[str]:
    notes = []
    finished = [scored for row in rows for scored in row.finished]
    without = [scored for scored in finished if not scored.predictions]
    if without:
        notes.append(
            f"No {PREDICTIONS} that can be read, so no confusion matrix: {_names(without, finished)}."
        )
    for scored in (row.pictured for row in rows if row.pictured):
        if len(scored.labels) > MOST_CLASSES:
            notes.append(
                f"{scored.name}: {len(scored.labels)} classes, too many for a picture of the confusion "
                "matrix."
            )
    for scored in finished:
        share = sum(true == said for true, said in scored.predictions) / max(1, len(scored.predictions))
        if scored.predictions and abs(share - scored.best) > 0.5 / len(scored.predictions):
            notes.append(
                f"{scored.name}: its {PREDICTIONS} has an accuracy of {share:.4f}, not the best epoch's; "
                "the confusion matrix is of what the file says."
            )
    return notes


# -- what the settings show against one another --------------------------------------------------------------

# (one, other, what is different in the first), in the order of the report.
COMPARED = (
    ("B", "A", "pre-training with labels instead of random weights, everything fine-tuned"),
    ("C", "A", "own pre-training without labels instead of random weights, everything fine-tuned"),
    ("C", "B", "pre-training without labels instead of with, everything fine-tuned"),
    ("E", "D", "pre-training without labels instead of with, classifier alone"),
    ("B", "D", "fine-tuning everything instead of the classifier alone, pre-trained with labels"),
    ("C", "E", "fine-tuning everything instead of the classifier alone, pre-trained without labels"),
)
LEAST_ANSWERS = 10  # right ones, and wrong ones, of both together: below that no bell curve is near


def analyse(rows: Sequence[Row], chance: float | None) -> list[str]:
    """A sentence for each two settings that both have finished runs, after one that says how to read them.

    `chance` is the accuracy of guessing, where the number of classes is known.
    """
    finished = [row for row in rows if row.best]
    known = {row.setting: row for row in finished if row.validation_images}
    # Best epochs flatter, each by as much as it was scored often; last ones were chosen by nothing.
    is_last = all(row.last for row in known.values())
    which = "last-epoch" if is_last else "best-epoch"
    sentences = []
    for one, other, what in COMPARED:
        if one in known and other in known:
            sentences.append(_compare(known[one], known[other], what, is_last))
    if sentences:
        sentences.insert(
            0,
            f"The sentences below compare {which} accuracies, means over the seeds. The standard error of a "
            "difference is sqrt(p (1 - p) (1 / n1 + 1 / n2)), with p their mean and n images of validation; "
            "it says nothing of how far another pre-training would move a setting.",
        )
    unknown = [row.setting for row in finished if row.setting not in known]
    if unknown:
        sentences.append(
            f"Not compared: {', '.join(unknown)}, since the number of validation images is not known, or not "
            "the same in all seeds."
        )
    if chance is not None:
        for row in known.values():
            accuracy, error = (
                _accuracy(row, is_last),
                math.sqrt(chance * (1 - chance) / row.validation_images),
            )
            if accuracy < chance + 2 * error:
                where = "within two standard errors of" if accuracy > chance - 2 * error else "below"
                sentences.append(
                    f"{row.setting} ({accuracy:.4f}) lies {where} what guessing would reach ({chance:.4f})."
                )
    return sentences


def _compare(one: Row, other: Row, what: str, is_last: bool) -> str:
    first, second = _accuracy(one, is_last), _accuracy(other, is_last)
    n, m = one.validation_images, other.validation_images
    mean = (first * n + second * m) / (n + m)
    error = math.sqrt(mean * (1 - mean) * (1 / n + 1 / m))
    apart = abs(first - second)
    if not apart:
        return f"{one.setting} against {other.setting} ({what}): both are {first:.4f}."
    if min(mean, 1 - mean) * (n + m) < LEAST_ANSWERS:
        few = "wrong" if mean > 0.5 else "right"
        verdict = f"{apart * n:.1f} of {n} images, and too few are {few} for a standard error to say anything"
    elif apart < error:
        verdict = (
            f"within one standard error of the difference ({error:.4f}), so these runs do not tell them apart"
        )
    elif apart < 2 * error:
        verdict = f"{apart / error:.1f} standard errors of the difference ({error:.4f}), a hint and no proof"
    else:
        times = f"{apart / error:.1f} standard errors of the difference ({error:.4f})"
        verdict = f"{times}, more than the choice of images explains"
    side = "above" if first > second else "below"
    distance = f"{first:.4f} lies {apart:.4f} {side} {second:.4f}"
    return f"{one.setting} against {other.setting} ({what}): {distance}, {verdict}."


def _accuracy(row: Row, is_last: bool) -> float:
    return (row.last if is_last else row.best)[0]
