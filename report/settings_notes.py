"""What the table of settings A to E shows, in sentences that say no more than its figures support.

How to read it, what is missing or differs, and each setting against the others.
"""

from __future__ import annotations

import json
import math
from itertools import combinations
from typing import Sequence

from engine.base import UserError
from engine.run_folder import MAY_DIFFER, PREDICTIONS
from report.collect import MOST_CLASSES, STARTS, Row, Scored
from report.paired_tests import Answers, answers_of, compare_accuracy, in_short, in_words
from report.text import one_line

# What differs between the settings by their nature, is said in other words, or changes no result.
BY_NATURE = (
    *("setting", "seed", "is_frozen", "backbone", "backbone_sha256"),
    *("augment", "is_augmented", "snapshot_epochs"),
)
ABOUT_P = (
    "p: how often the choice of images alone would part two settings that are alike at least as far. It is "
    "not corrected for the number of pairs, and knows nothing of other seeds or of another pre-training."
)


def notes_on(rows: Sequence[Row]) -> list[str]:
    """Sentences of plain text, one a line."""
    return [
        "Accuracies are the mean ± standard deviation (n - 1) over the seeds. The best epoch was chosen on "
        "the validation images that it is measured on, so it flatters; the last epoch was chosen by nothing.",
        *_on_standard_error(rows),
        *_on_paired_tests(rows),
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


def _on_paired_tests(rows: Sequence[Row]) -> list[str]:
    """The difference of each two settings and its p, a sentence for the best epochs and one for the last."""
    notes = []
    for which, is_last in (("best", False), ("last", True)):
        answers, reasons = _answers(rows, is_last)
        tested = []
        for other, one in combinations(answers, 2):
            try:
                test = compare_accuracy(answers[one], answers[other])
                tested.append(f"{one} - {other} {in_short(test)}")
            except UserError as error:
                reasons[f"{one} - {other}"] = str(error)
        if tested:
            notes.append(f"Paired tests of the {which} epochs: {'; '.join(tested)}.")
        if reasons:
            notes.append(f"No paired test of the {which} epochs of {_with_first_reason(reasons)}.")
    if any(note.startswith("Paired") for note in notes):
        notes.insert(0, f"A paired test gives the difference of two settings' accuracies, and {ABOUT_P}")
    return notes


def _answers(rows: Sequence[Row], is_last: bool) -> tuple[dict[str, list[Answers]], dict[str, str]]:
    """The answers of each setting's finished runs, or why there are none; nothing without two settings."""
    answers: dict[str, list[Answers]] = {}
    reasons: dict[str, str] = {}
    finished = [row for row in rows if row.finished]
    for row in finished if len(finished) > 1 else []:
        try:
            answers[row.setting] = [answers_of(scored.run, is_last) for scored in row.finished]
        except UserError as error:
            reasons[row.setting] = str(error)
    return answers, reasons


def _with_first_reason(reasons: dict[str, str]) -> str:
    first = next(iter(reasons.values()))
    return f"{', '.join(reasons)} ({one_line(first, 200)})"


def _on_gaps(rows: Sequence[Row]) -> list[str]:
    notes = []
    for scored in (scored for row in rows for scored in row.unfinished):
        so_far = ""
        if scored.best is not None:
            so_far = f"; best so far {scored.best:.4f} at epoch {scored.best_epoch}"
        notes.append(f"{scored.name} is not averaged: {one_line(scored.gap, 200)}{so_far}.")
    what = "its last epoch was not scored, so it is missing from the last-epoch accuracy"
    unscored = [scored for row in rows for scored in row.finished if scored.last is None]
    return [*notes, *(f"{scored.name}: {what}." for scored in unscored)]


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
    notes = []
    for name in sorted(name for name in values if len(values[name]) > 1):
        each = [f"{one_line(text, 60)} in {_names(those, runs)}" for text, those in values[name].items()]
        notes.append(f"Runs differ in {one_line(name, 60)}: {'; '.join(each)}.")
    return notes


def _on_augmentation(runs: Sequence[Scored]) -> list[str]:
    """A sentence when some runs train on random crops and colours, and others do not."""
    plain = [scored for scored in runs if scored.run.arguments.get("is_augmented") is False]
    if not plain or all(scored.run.arguments.get("is_augmented") is not True for scored in runs):
        return []
    return [f"{_names(plain, runs)} saw every image as inference does, without random crops and colours."]


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
        runs = _names(without, finished)
        notes.append(f"No {PREDICTIONS} that can be read, so no confusion matrix: {runs}.")
    for scored in (row.pictured for row in rows if row.pictured):
        if len(scored.labels) > MOST_CLASSES:
            classes = f"{len(scored.labels)} classes"
            notes.append(f"{scored.name}: {classes}, too many for a picture of the confusion matrix.")
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


def analyse(rows: Sequence[Row], chance: float | None) -> list[str]:
    """A sentence for each two settings that both have finished runs, after one that says how to read them.

    `chance` is the accuracy of guessing, where the number of classes is known.
    """
    finished = [row for row in rows if row.best]
    # Best epochs flatter, each by as much as it was scored often; last ones were chosen by nothing.
    is_last = all(row.last for row in finished)
    answers, reasons = _answers(finished, is_last)
    sentences = [
        f"{one} against {other} ({what}): {_tested(answers[one], answers[other])}."
        for one, other, what in COMPARED
        if one in answers and other in answers
    ]
    if sentences:
        which = "last" if is_last else "best"
        sentences.insert(
            0,
            f"The sentences below compare the accuracies of the {which} epochs, means over the seeds, by a "
            "sign-flip test over the images: with one seed a side it is McNemar's exact test. It gives "
            f"{ABOUT_P}",
        )
    if reasons:
        sentences.append(f"Not compared: {_with_first_reason(reasons)}.")
    return [*sentences, *_near_chance(finished, chance, is_last)]


def _tested(one: Sequence[Answers], other: Sequence[Answers]) -> str:
    try:
        return in_words(compare_accuracy(one, other))
    except UserError as error:
        return f"no paired test, {error}"


def _near_chance(rows: Sequence[Row], chance: float | None, is_last: bool) -> list[str]:
    """A sentence for each setting that is not clearly above guessing."""
    sentences = []
    for row in rows if chance is not None else []:
        if not row.validation_images:
            continue
        accuracy = (row.last if is_last else row.best)[0]
        error = math.sqrt(chance * (1 - chance) / row.validation_images)
        if accuracy < chance + 2 * error:
            where = "within two standard errors of" if accuracy > chance - 2 * error else "below"
            guessing = f"what guessing would reach ({chance:.4f})"
            sentences.append(f"{row.setting} ({accuracy:.4f}) lies {where} {guessing}.")
    return sentences
