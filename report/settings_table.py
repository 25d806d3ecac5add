"""The table of problem 1: settings A to E over their seeds, with learning curves and confusion matrices.

    python3 -m report.settings_table runs/p1

Reads the run folders A-seed0 ... E-seed2 below RUNS and writes beside them table.md, table.csv, table.json
(every run in detail), curves.png, and for each setting confusion_A.png (its best seed) and confused_A.csv
(the most confused pairs of classes); pictures as PDFs too. p1_finetune.py does the same at its end.

Exit status: 0 written; 1 written, but runs are left out of the averages because they are unfinished or cannot
be used (named on stderr); 2 nothing written, the reason is one line on stderr.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any, Sequence

from datasets.images import natural_key
from datasets.tables import write_table
from engine.base import UserError, run_script, say, write_atomically, write_json
from engine.lock import sole_writer
from engine.run_folder import MAY_DIFFER, PREDICTIONS
from report import parser_of
from report.collect import MOST_CLASSES, STARTS, Row, Scored, read_rows
from report.paired_tests import Answers, answers_of, compare_accuracy, in_short
from report.text import markdown, one_line

MAIN_ARGUMENTS = (
    *("model", "weights", "backbone", "recipe", "epochs", "budget_minutes", "batch_size", "lr"),
    *("image_size", "crop_size", "eval_every", "training_images", "num_classes"),
)
PAIRS = 10  # of confused classes, a setting
COLUMNS = (
    *("setting", "starts_from", "fine_tuned", "seeds", "unfinished"),
    *("best_mean", "best_std", "last_mean", "last_std", "best_epochs"),
    *("minutes", "validation_images", "standard_error"),
)
# What differs between the settings by their nature, is said in other words, or changes no result.
BY_NATURE = (
    *("setting", "seed", "is_frozen", "backbone", "backbone_sha256"),
    *("augment", "is_augmented", "snapshot_epochs"),
)
ABOUT_P = (
    "p: how often the choice of images alone would part two settings that are alike at least as far. It is "
    "not corrected for the number of pairs, and knows nothing of other seeds or of another pre-training."
)
# (truth, predicted, count, of): the names of two classes, and how many of the first were called so
Pair = "tuple[str, str, int, int]"


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of("settings_table", __doc__)
    parser.add_argument("runs", metavar="RUNS", type=Path, help="the --output of p1_finetune.py")
    folder = parser.parse_args(argv).runs
    rows = read_rows(folder)
    print(_write(folder, rows), end="")
    left_out = [scored for row in rows for scored in row.unfinished]
    for scored in left_out:
        say(f"not averaged: {folder / scored.name}: {scored.gap}")
    return 1 if left_out else 0


def write_settings_table(folder: str | Path) -> str:
    """Write table, curves and confusion matrices of the runs below `folder` into it.

    Returns the table and its notes as Markdown; the most confused pairs of classes are in table.md alone.
    UserError when there is no run with a scored epoch, or the disk refuses.
    """
    return _write(Path(folder), read_rows(Path(folder)))


def _write(folder: Path, rows: Sequence[Row]) -> str:
    confused = {row.setting: most_confused(row) for row in rows if row.pictured}
    notes = notes_on(rows)
    columns, lines = cells_of(rows)
    bars = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    bars += [f"| {' | '.join(markdown(cell, 200) for cell in line)} |" for line in lines]
    table = "\n".join([*bars, "", *(f"- {markdown(note, 100_000)}" for note in notes)]) + "\n"
    try:
        with sole_writer(folder):
            with write_atomically(folder / "table.md") as temporary:
                temporary.write_text(table + _confused_text(rows, confused), encoding="utf-8")
            with write_atomically(folder / "table.csv") as temporary:
                write_table(temporary, COLUMNS, map(_csv_row, rows))
            write_json(folder / "table.json", {"settings": [_json_row(row) for row in rows], "notes": notes})
            for letter in STARTS:
                path = folder / f"confused_{letter}.csv"
                if letter not in confused:
                    path.unlink(missing_ok=True)  # an earlier table's
                    continue
                cells = [[one_line(cell, 200) for cell in pair] for pair in confused[letter]]
                with write_atomically(path) as temporary:
                    write_table(temporary, ("truth", "predicted", "count", "of"), cells)
            draw_all(folder, rows)
    except OSError as error:
        reason = f"the table cannot be written ({error.strerror})"
        raise UserError(f"{folder}: {reason}; make room, or free it") from None
    return table


def draw_all(folder: Path, rows: Sequence[Row]) -> None:
    """Write curves and confusion_A to _E, PNG and PDF, into `folder`; remove those of runs that are gone."""
    from report.run_figures import draw_setting_confusion, draw_settings  # matplotlib takes a second
    from report.style import save_figure

    save_figure(draw_settings(rows), folder / "curves")
    for row in rows:
        path = folder / f"confusion_{row.setting}"
        if row.pictured is None or len(row.pictured.labels) > MOST_CLASSES:
            for suffix in ("png", "pdf"):
                Path(f"{path}.{suffix}").unlink(missing_ok=True)
            continue
        save_figure(draw_setting_confusion(row), path)


# -- the table -----------------------------------------------------------------------------------------------


def cells_of(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Column names and cells in plain text, a line a setting; where one alone has runs, it alone."""
    columns = (
        *("setting", "backbone starts from", "fine-tuned", "seeds", "best accuracy", "last-epoch accuracy"),
        *("best at epoch", "minutes a run", "standard error"),
    )
    ran = [row for row in rows if row.runs]
    lines = []
    for row in ran if len(ran) == 1 else rows:
        lines.append(
            (
                row.setting,
                _start(row),
                row.trained or "–",
                _seeds(row),
                _figure(row.best),
                _figure(row.last),
                ", ".join(str(scored.best_epoch) for scored in row.finished) or "–",
                "–" if row.minutes is None else f"{row.minutes:.1f}",
                "–" if row.standard_error is None else f"{row.standard_error:.4f}",
            )
        )
    return columns, lines


def _start(row: Row) -> str:
    """What the backbone starts from, with the file's name where all the runs agree on it."""
    given = [scored.run.arguments for scored in row.shown]
    sources = [arguments.get("backbone") or arguments.get("weights") for arguments in given]
    source = sources[0] if sources else None
    if not isinstance(source, str) or source == "none" or any(other != source for other in sources):
        return STARTS[row.setting]
    file = one_line(source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1], 40)
    return f"weights: {file}" if row.setting == "A" else f"{STARTS[row.setting]} ({file})"


def _seeds(row: Row) -> str:
    if not row.runs:
        return "no run"
    return f"{len(row.finished)}" + (f" (and {len(row.unfinished)} not averaged)" if row.unfinished else "")


def _figure(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return "–"
    mean, spread = value
    return f"{mean:.4f} (one seed)" if spread is None else f"{mean:.4f} ± {spread:.4f}"


def _csv_row(row: Row) -> list[object]:
    epochs = " ".join(str(scored.best_epoch) for scored in row.finished)
    cells = [row.setting, STARTS[row.setting], row.trained, len(row.finished), len(row.unfinished)]
    cells += [*(row.best or (None, None)), *(row.last or (None, None)), epochs]
    cells += [row.minutes, row.validation_images, row.standard_error]
    return ["" if cell is None else round(cell, 6) if isinstance(cell, float) else cell for cell in cells]


def _json_row(row: Row) -> dict[str, Any]:
    return {**dict(zip(COLUMNS, _csv_row(row))), "runs": [_json_run(scored) for scored in row.runs]}


def _json_run(scored: Scored) -> dict[str, Any]:
    run = scored.run
    return {
        "folder": scored.name,
        "seed": scored.seed,
        "finished": not scored.gap,
        "gap": scored.gap,
        "best": scored.best,
        "best_epoch": scored.best_epoch,
        "last": scored.last,
        "epochs": run.metrics[-1]["epoch"] if run.metrics else None,
        "steps": run.metrics[-1]["step"] if run.metrics else None,
        "total_steps": run.config.get("total_steps"),
        "seconds": scored.seconds,
        "validation_images": len(scored.predictions) or None,
        "arguments": {name: run.arguments[name] for name in MAIN_ARGUMENTS if name in run.arguments},
        **{name: run.config.get(name) for name in ("command", "commit", "started")},
    }


# -- the most confused pairs ---------------------------------------------------------------------------------


def most_confused(row: Row) -> list[Pair]:
    """At most PAIRS pairs (truth, predicted, count, of), the most frequent first, then the larger share."""
    scored, names = row.pictured, row.class_names
    of = Counter(true for true, _ in scored.predictions)
    wrong = Counter((true, said) for true, said in scored.predictions if true != said)
    order = sorted(wrong, key=lambda pair: (-wrong[pair], of[pair[0]], *map(natural_key, pair)))[:PAIRS]
    named = {label: names.get(label, label) for pair in order for label in pair}
    return [(named[true], named[said], wrong[true, said], of[true]) for true, said in order]


def _confused_text(rows: Sequence[Row], confused: dict[str, list[Pair]]) -> str:
    lines = []
    for row in rows:
        pairs = confused.get(row.setting)
        if not pairs:
            continue
        heading = f"Setting {row.setting}, seed {row.pictured.seed}: the most confused pairs of classes"
        lines += ["", heading, "", "| true class | predicted | images |", "|---|---|---|"]
        for true, said, count, of in pairs:
            lines.append(f"| {markdown(true)} | {markdown(said)} | {count} of {of} |")
    return "\n".join(lines) + "\n" if lines else ""


# -- what the figures support, in sentences ------------------------------------------------------------------


def notes_on(rows: Sequence[Row]) -> list[str]:
    """Sentences of plain text, one a line."""
    notes = [
        "Accuracies are the mean ± standard deviation (n - 1) over the seeds. The best epoch was chosen on "
        "the validation images that it is measured on, so it flatters; the last epoch was chosen by nothing."
    ]
    counts = sorted({row.validation_images for row in rows if row.standard_error is not None})
    if counts:
        notes.append(
            "One standard error of the validation set is sqrt(p (1 - p) / n) with n = "
            f"{' or '.join(map(str, counts))} images and p the best accuracy's mean."
        )
    return [*notes, *_on_paired_tests(rows), *remarks_on(rows)]


def remarks_on(rows: Sequence[Row]) -> list[str]:
    """What is missing, and in what the runs differ, so that their figures may not compare."""
    scored = [scored for row in rows for scored in row.runs if scored.best is not None]
    return [*_on_gaps(rows), *_on_differences(scored), *_on_augmentation(scored), *_on_predictions(rows)]


def _on_paired_tests(rows: Sequence[Row]) -> list[str]:
    """The difference of each two settings and its p, a sentence for the best epochs and one for the last."""
    notes = []
    for which, is_last in (("best", False), ("last", True)):
        answers, reasons = answers_by_setting(rows, is_last)
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
            notes.append(f"No paired test of the {which} epochs of {with_first_reason(reasons)}.")
    if any(note.startswith("Paired") for note in notes):
        notes.insert(0, f"A paired test gives the difference of two settings' accuracies, and {ABOUT_P}")
    return notes


def answers_by_setting(rows: Sequence[Row], is_last: bool) -> tuple[dict[str, list[Answers]], dict[str, str]]:
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


def with_first_reason(reasons: dict[str, str]) -> str:
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


if __name__ == "__main__":
    run_script(main)
