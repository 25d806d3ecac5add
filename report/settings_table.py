"""The table of problem 1: settings A to E over their seeds, with learning curves and confusion matrices.

    python3 -m report.settings_table runs/p1

Reads the run folders A-seed0, A-seed1, ... E-seed2 below RUNS and writes beside them table.md, table.csv,
table.json (every run in detail), curves.png, and for each setting confusion_A.png (its best seed) and
confused_A.csv (the most confused pairs of classes); each picture as a PDF too. p1_finetune.py does the same
at its end.

Exit status: 0 written; 1 written, but runs are left out of the averages because they are unfinished or cannot
be used (named on stderr); 2 nothing written, the reason is one line on stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Sequence

from datasets.images import natural_key
from datasets.tables import write_table
from engine.base import UserError, run_script, write_atomically, write_json
from engine.lock import sole_writer
from report.collect import STARTS, Row, Scored, class_names_of, read_rows
from report.settings_notes import notes_on
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
# (truth, predicted, count, of): the names of two classes, and how many of the first were called so
Pair = "tuple[str, str, int, int]"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m report.settings_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUNS", type=Path, help="the --output of p1_finetune.py")
    args = parser.parse_args(argv)
    rows = read_rows(args.runs)
    print(_write(args.runs, rows), end="")
    left_out = [scored for row in rows for scored in row.unfinished]
    for scored in left_out:
        print(f"not averaged: {args.runs / scored.name}: {scored.gap}", file=sys.stderr)
    return 1 if left_out else 0


def write_settings_table(folder: str | Path) -> str:
    """Write table, curves and confusion matrices of the runs below `folder` into it.

    Returns the table and its notes as Markdown; the most confused pairs of classes are in table.md alone.
    UserError when there is no run with a scored epoch, or the disk refuses.
    """
    return _write(Path(folder), read_rows(Path(folder)))


def _write(folder: Path, rows: list[Row]) -> str:
    names = {row.setting: class_names_of(row.pictured) if row.pictured else {} for row in rows}
    confused = {row.setting: most_confused(row.pictured, names[row.setting]) for row in rows if row.pictured}
    notes = notes_on(rows)
    columns, lines = cells_of(rows)
    cells = [columns, *([markdown(cell, 200) for cell in line] for line in lines)]
    bars = [f"| {' | '.join(line)} |" for line in cells]
    bars.insert(1, "|---" * len(columns) + "|")
    table = "\n".join([*bars, "", *(f"- {markdown(note, 100_000)}" for note in notes)]) + "\n"
    try:
        with sole_writer(folder):
            with write_atomically(folder / "table.md") as temporary:
                temporary.write_text(table + _confused_text(rows, confused), encoding="utf-8")
            with write_atomically(folder / "table.csv") as temporary:
                write_table(temporary, COLUMNS, map(_csv_row, rows))
            write_json(folder / "table.json", {"settings": [_json_row(row) for row in rows], "notes": notes})
            for letter in STARTS:
                _write_confused(folder / f"confused_{letter}.csv", confused.get(letter))
            from report.settings_figures import draw_all  # matplotlib takes a second to import

            draw_all(folder, rows, names)
    except OSError as error:
        reason = f"the table cannot be written ({error.strerror})"
        raise UserError(f"{folder}: {reason}; make room, or free it") from None
    return table


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
    (best, best_std), (last, last_std) = row.best or (None, None), row.last or (None, None)
    epochs = " ".join(str(scored.best_epoch) for scored in row.finished)
    counts = (len(row.finished), len(row.unfinished))
    figures = (best, best_std, last, last_std, epochs, row.minutes, row.validation_images, row.standard_error)
    cells = (row.setting, STARTS[row.setting], row.trained, *counts, *figures)
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


def most_confused(scored: Scored, names: dict[str, str]) -> list[Pair]:
    """At most PAIRS pairs (truth, predicted, count, of), the most frequent first, then the larger share."""
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


def _write_confused(path: Path, pairs: list[Pair] | None) -> None:
    if pairs is None:
        path.unlink(missing_ok=True)  # an earlier table's
        return
    with write_atomically(path) as temporary:
        cells = [(one_line(true, 200), one_line(said, 200), count, of) for true, said, count, of in pairs]
        write_table(temporary, ("truth", "predicted", "count", "of"), cells)


if __name__ == "__main__":
    run_script(main)
