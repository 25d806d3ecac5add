"""Office-Home in the report: the pre-training, the table of settings A to E, t-SNE."""

from __future__ import annotations

import math
import shlex
from functools import partial
from pathlib import Path
from typing import Any, Callable, Sequence

from engine.base import UserError
from engine.run_folder import CONFIG, RunRecord, is_number, read_json, scores
from report.blocks import (
    MOST_CURVES,
    OUTSIDE,
    drawn,
    facts,
    known_of,
    label_of,
    taken,
    unfinished,
    value_of,
    words,
)
from report.collect import MOST_CLASSES, Found, Row, fifty_runs, pretraining_of, read_rows, settings_folder
from report.document import Block, Gap, Picture, Table, Text
from report.paired_tests import compare_accuracy, in_words
from report.run_figures import draw_pretraining, draw_setting_confusion, draw_settings
from report.settings_table import ABOUT_P, answers_by_setting, cells_of, remarks_on, with_first_reason
from report.text import one_line

PRETRAIN = (
    "python3 p1_ssl_pretrain.py --images hw1_data/p1_data/mini/train --output runs/problem1/ssl "
    "--probe-csv hw1_data/p1_data/office/train.csv"
)
FINETUNE = (
    "python3 p1_finetune.py --data hw1_data/p1_data/office --settings ABCDE --seeds 0 1 2 "
    "--output runs/problem1/settings --sl-backbone hw1_data/p1_data/pretrain_model_SL.pt "
    "--ssl-backbone runs/problem1/ssl/backbone.pt"
)
TSNE = "python3 p1_tsne.py --run {run} --data hw1_data/p1_data/office --output {output}"
VIEWS = {
    "two": "two views of each image, drawn for it alone (the paper's: crops, mirroring, colours, grey, blur, "
    "and in the second view solarising)",
    "stock": "byol-pytorch's own two views, one draw for the whole batch",
}


def problem_1(found: Found, figures: Path) -> dict[str, Callable[[], list[Block]]]:
    """What answers each question, from what was found; figures go into `figures`."""
    fifty = fifty_runs(found)
    folders = [folder for folder in found.settings if all(run.folder.parent != folder for run in fifty)]
    folder = settings_folder(folders)
    others = [one_line(other, 80) for other in folders if other != folder]
    drawings = [drawing for drawing in found.tsne if not any(shows(drawing, run) for run in fifty)]
    return {
        "pretraining": lambda: _pretraining(pretraining_of(folder, found.pretraining), found, figures),
        "settings": lambda: _settings(folder, others, figures),
        "tsne": lambda: _tsne(drawings, folder, figures),
    }


# -- the pre-training ----------------------------------------------------------------------------------------


def _pretraining(run: RunRecord | None, found: Found, figures: Path) -> list[Block]:
    if run is None:
        return [Gap("There is no run of the pre-training.", PRETRAIN)]
    known, views = known_of(run), value_of(run, "views")
    start = "" if known["starts from"] == "random weights" else "the weights "
    about = {
        "method": "BYOL: an online network predicts what a slowly following target network sees",
        "network": known["network"],
        "augmentation": VIEWS.get(views, views),
        "smallest crop": f"{value_of(run, 'min_area')} of an image's area",
        "optimiser": known["optimiser"],
        "batch size": known["batch size"],
        "target's decay": f"{value_of(run, 'target_decay')}, {value_of(run, 'target_schedule')}",
        "image size": known["image size"],
        "images": known["images"],
        "done": known["training"],
        "recipe, seed": known["recipe, seed"],
        "trained on": known["trained on"],
    }
    text = (
        f"The backbone, a {known['network']} from {start}{known['starts from']}, was pre-trained without "
        f"labels by BYOL (Grill et al., 2020; byol-pytorch) on {known['images']} images of "
        f"{known['image size']}: batches of {known['batch size']}, {known['optimiser']}; {known['training']}."
    )
    caption = f"Settings of the pre-training ({label_of(run)}), read from its {CONFIG}."
    blocks: list[Block] = [Text(text), facts(about, caption), *unfinished(run)]
    caption = "Loss, kNN accuracy on labelled images, and standard deviation of the embeddings "
    caption += "(1 is well spread, near 0 has collapsed)."
    alt = "Three curves over the epochs of the pre-training"
    shown = [run, *(other for other in found.pretraining if other is not run)][:MOST_CURVES]
    blocks.append(drawn(figures, "pretraining", lambda: draw_pretraining(shown), caption, alt))
    probes = scores(run, "knn_accuracy")
    if probes:
        (first_epoch, first), (last_epoch, last) = probes[0], probes[-1]
        at_first = f"{first:.1%} of the labelled images after epoch {first_epoch}"
        blocks.append(Text(f"kNN classified {at_first} and {last:.1%} after epoch {last_epoch}."))
    return blocks


# -- settings A to E -----------------------------------------------------------------------------------------


def _settings(folder: Path | None, others: Sequence[str], figures: Path) -> list[Block]:
    if folder is None:
        return [Gap("There is no run of settings A to E.", FINETUNE)]
    try:
        rows = read_rows(folder)
    except OUTSIDE as error:
        return [Gap(f"{one_line(error, 300)}.", FINETUNE)]
    columns, cells = cells_of(rows)
    caption = (
        f"Accuracy on {_validation(rows)}, mean ± standard deviation over the seeds ({one_line(folder, 80)})."
        " The best epoch was chosen on the images that it is measured on; the last one was chosen by nothing."
    )
    blocks: list[Block] = [Table(columns, tuple(cells), caption, numbers_from=3)]
    missing = [row.setting for row in rows if not row.runs]
    if missing:
        blocks.append(Gap(f"There is no run of setting {', '.join(missing)}.", FINETUNE))
    blocks += [Text(sentence) for sentence in analyse(rows, _chance(rows))]
    blocks += [Text(remark) for remark in remarks_on(rows)]
    if others:
        more = ", …" if len(others) > 5 else ""
        blocks.append(Text(f"Found too, and not shown: {', '.join(others[:5])}{more}."))
    alt = "Learning curves of the settings"
    caption = "Accuracy on validation and training loss; the band lies between the seeds' lowest and highest."
    blocks.append(drawn(figures, "settings_curves", lambda: draw_settings(rows), caption, alt))
    pictured = [row for row in rows if row.pictured and len(row.pictured.labels) <= MOST_CLASSES]
    shown = next((row for letter in "CBAED" for row in pictured if row.setting == letter), None)
    more = " Those of the other settings are in figures/." if len(pictured) > 1 else ""
    for row in pictured:  # every setting's as a file, one of them on the page
        name, alt = f"confusion_{row.setting}", f"Confusion matrix of setting {row.setting}"
        block = drawn(figures, name, partial(draw_setting_confusion, row), f"{alt}.{more}", alt)
        if row is shown or isinstance(block, Gap):
            blocks.append(block)
    return blocks


def _chance(rows: Sequence[Row]) -> float | None:
    """The accuracy of guessing, where all runs have the same number of classes."""
    counts = [scored.run.arguments.get("num_classes") for row in rows for scored in row.shown]
    known = {count for count in counts if is_number(count) and count >= 2}
    return 1 / known.pop() if len(known) == 1 else None


def _validation(rows: Sequence[Row]) -> str:
    """The images of validation in words: how many, and which folder where one was named."""
    counts = {row.validation_images for row in rows if row.validation_images}
    runs = [scored.run for row in rows for scored in row.shown]
    folders = {value_of(run, "val_images" if run.arguments.get("val_images") else "data") for run in runs}
    images = f"the {counts.pop():,} validation images" if len(counts) == 1 else "the validation images"
    return f"{images} of {folders.pop()}" if len(folders) == 1 and "–" not in folders else images


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
    answers, reasons = answers_by_setting(finished, is_last)
    sentences = []
    for one, other, what in COMPARED:
        if one in answers and other in answers:
            try:
                said = in_words(compare_accuracy(answers[one], answers[other]))
            except UserError as error:
                said = f"no paired test, {error}"
            sentences.append(f"{one} against {other} ({what}): {said}.")
    if sentences:
        begin = (
            f"The sentences below compare the accuracies of the {'last' if is_last else 'best'} epochs, "
            "means over the seeds, by a sign-flip test over the images: with one seed a side it is McNemar's "
            f"exact test. It gives {ABOUT_P}"
        )
        sentences.insert(0, begin)
    if reasons:
        sentences.append(f"Not compared: {with_first_reason(reasons)}.")
    return [*sentences, *_near_chance(finished, chance, is_last)]


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


# -- features ------------------------------------------------------------------------------------------------


def _tsne(folders: Sequence[Path], settings: Path | None, figures: Path) -> list[Block]:
    runs = sorted(settings.glob("C-seed*")) if settings else []
    run, output = "runs/problem1/settings/C-seed0", "runs/problem1/tsne"
    if runs:
        run, output = runs[0], settings / "tsne"
    command = TSNE.format(run=shlex.quote(str(run)), output=shlex.quote(str(output)))
    blocks: list[Block] = []
    for number, folder in enumerate(folders):
        origin = _origin(_panels(folder))[1]
        if origin[:2] in ("A-", "B-", "D-", "E-"):
            blocks.append(Text(f"{one_line(folder, 80)} shows {origin}, no run of setting C."))
        blocks += projection(folder, "tsne", figures, "tsne" if number == 0 else f"tsne_{number + 1}")
    return blocks or [Gap("There is no picture of the features.", command)]


def projection(folder: Path, method: str, figures: Path, name: str) -> list[Block]:
    """The picture that p1_tsne.py drew into a folder, "tsne" or "pca", and its figures beside the eye."""
    panels = _panels(folder)
    called, epochs = {"tsne": "t-SNE", "pca": "PCA"}[method], len(panels)
    whose = " of ".join(filter(None, (f"{epochs} epochs" if epochs > 2 else "", _origin(panels)[1])))
    caption = f"{called} of the penultimate layer's output, a mark an image, by its class ({whose})."
    alt = "Points in the plane, coloured by class, after the first and the last epoch"
    block = taken(figures, name, folder / method, caption, alt)
    return [block, *_tsne_table(panels)] if isinstance(block, Picture) else [block]


def shows(folder: Path, run: RunRecord) -> bool:
    """Whether the picture in a folder is of that run, by the names of its folder and of the one above."""
    return _origin(_panels(folder)) == run.folder.resolve().parts[-2:]


def _origin(panels: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The run of the first panel's checkpoint, PARENT/C-seed0/snapshots/epoch_0001.pt, and its parent."""
    parts = str(panels[0].get("checkpoint", "")).replace("\\", "/").split("/") if panels else []
    above = one_line(parts[-4], 200) if len(parts) >= 4 else ""
    return above, one_line(parts[-3], 40) if len(parts) >= 3 else "run unknown"


def _tsne_table(panels: Sequence[dict[str, Any]]) -> list[Block]:
    figures = ("silhouette_features", "silhouette_plane", "knn_accuracy")
    rows = []
    for panel in panels:
        cells = [f"{panel[name]:.3f}" if is_number(panel.get(name)) else "–" for name in figures]
        rows.append((one_line(panel.get("title", "–"), 40), *cells))
    blocks: list[Block] = []
    if rows:
        numbers = {words(panel.get("neighbours")) for panel in panels}
        known = len(numbers) == 1 and "–" not in numbers
        knn = f"kNN accuracy, k = {numbers.pop()}" if known else "kNN accuracy"
        columns = ("features", "silhouette, features", "silhouette, plane", knn)
        caption = "How far apart the classes lie: a silhouette of 1 would be perfect, at 0 they are mixed."
        blocks.append(Table(columns, tuple(rows), caption))
        scattered = _dicts(panels[-1].get("most_scattered"))
        overlapping = _dicts(panels[-1].get("most_overlapping"))
        names = [one_line(entry["name"], 40) for entry in scattered if "name" in entry]
        together = [entry["names"] for entry in overlapping if isinstance(entry.get("names"), list)]
        pairs = [" and ".join(one_line(name, 40) for name in those) for those in together]
        if names:
            blocks.append(Text(f"Most scattered classes in the last panel: {', '.join(names[:5])}."))
        if pairs:
            blocks.append(Text(f"Classes that overlap most in it: {'; '.join(pairs[:5])}."))
    return blocks


def _panels(folder: Path) -> list[dict[str, Any]]:
    try:
        return _dicts(read_json(folder / "scores.json"))
    except (OSError, ValueError):
        return []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []
