"""Runs side by side in the terminal: what they reached, how long it took, and where their settings differ.

    python3 -m report.compare runs/p2 runs/p2_no_augment
    python3 -m report.compare runs

A folder that is no run stands for the runs below it; files are passed over, so runs/* will do. Scores are
compared within a kind of run: the kNN accuracy of pre-training, the accuracy of fine-tuning, the mean IoU of
land cover; higher is better. The best epoch was chosen on the images that it is measured on. Each finished
run is tested against the best of its kind: p is how often the choice of images, or of tiles, alone parts two
that are alike as far as these; it is not corrected for the number of runs, and knows nothing of other seeds
(report/paired_tests.py). In a pipe there is nothing but text, and each run stays on one line. Exit status:
0 all runs are finished; 1 some are not, or are no runs (named on stderr); 2 there is no run at all, one line
on stderr says so.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Sequence

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from datasets.images import natural_key
from engine.base import UserError, run_script, say
from engine.run_folder import (
    CONFIG,
    KINDS,
    MAY_DIFFER,
    Kind,
    RunRecord,
    best,
    is_number,
    kind_of,
    read_run,
    scores,
    series,
)
from report import parser_of
from report.paired_tests import TESTED, compare_runs, in_short
from report.text import one_line

DEEPEST = 3  # folders below the one given
NARROWEST = 80  # columns; in a narrower terminal lines go on in the next, and no figure is cut
PIPE_WIDTH = 10_000  # columns: no line of a table is that long
NAME_WIDTH = VALUE_WIDTH = 60
REASON_WIDTH = 200
IN_COLUMNS = ("model", "recipe")
OF_NO_INTEREST = ("backbone_sha256",)  # its file differs then too, and 64 digits tell nobody more


def main(argv: Sequence[str] | None = None) -> int:
    parser = parser_of("compare", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="a run folder, or a folder of them")
    args = parser.parse_args(argv)
    runs = [read_run(folder) for folder in find_runs(args.runs)]
    if not any(map(kind_of, runs)):
        more = f" and {len(args.runs) - 1} more" if len(args.runs) > 1 else ""
        raise UserError(f"{args.runs[0]}{more}: no run folder there; give the --output of a training script")
    print_tables(runs)
    with_gaps = [run for run in runs if gap_of(run)]
    for run in with_gaps:
        say(f"{run.folder}: {gap_of(run)}")
    return 1 if with_gaps else 0


def find_runs(given: Sequence[Path]) -> list[Path]:
    """The folders given, no files, and in place of one that is no run the runs below it; each once."""
    folders: dict[str, Path] = {}
    for folder in (path for path in given if not os.path.isfile(path)):
        below = []
        if not os.path.exists(folder / CONFIG):
            patterns = [depth * "*/" + CONFIG for depth in range(1, DEEPEST + 1)]
            with suppress(OSError):  # a name that is too long, say; read_run tells what is wrong
                below = [path.parent for pattern in patterns for path in folder.glob(pattern)]
        for path in sorted(below, key=lambda path: natural_key(str(path))) or [folder]:
            folders.setdefault(os.path.realpath(path), path)
    return list(folders.values())


# -- what a run says -----------------------------------------------------------------------------------------


def gap_of(run: RunRecord) -> str:
    """Why it is no finished run of ours; "" when it is one."""
    return run.gap or ("" if kind_of(run) else "no run of these scripts")


def names_of(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many last parts as no other path ends in."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    ends = Counter(path[-length:] for path in parts for length in range(1, len(path) + 1))
    lengths = [next((n for n in range(1, len(path)) if ends[path[-n:]] == 1), len(path)) for path in parts]
    return [one_line(Path(*path[-length:]), NAME_WIDTH) for path, length in zip(parts, lengths)]


def minutes_and_speed(run: RunRecord) -> tuple[str, str]:
    """Minutes of training, and images a second: those logged last, else of all the epochs done."""
    seconds = [(line["step"], line["seconds"]) for line in run.metrics if is_number(line.get("seconds"))]
    logged = series(run, "images_per_second")
    steps, spent = seconds[-1] if seconds else (0, 0)
    images = [run.arguments.get(name) for name in ("batch_size", "training_images", "training_tiles")]
    batch = min([count for count in images if is_number(count)], default=0)  # no larger than the data
    speed = logged[-1][1] if logged else steps * batch / spent if spent > 0 else 0
    return _figure(spent / 60) if seconds else "–", _figure(speed) if is_number(speed) and speed > 0 else "–"


def _figure(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 1e6 else f"{value:.1e}"


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """The names of the arguments that are not the same in all the runs that record them."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.arguments.items():
            values.setdefault(name, set()).add(json.dumps(value, sort_keys=True))
    left_out = {*MAY_DIFFER, *IN_COLUMNS, *OF_NO_INTEREST}
    return sorted(name for name in values if len(values[name]) > 1 and name not in left_out)


def shown(value: Any) -> str:
    """An argument's value as one short line."""
    if value is None or isinstance(value, bool):
        return {None: "–", True: "yes", False: "no"}[value]
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), VALUE_WIDTH)


# -- tables --------------------------------------------------------------------------------------------------


def print_tables(runs: Sequence[RunRecord]) -> None:
    """Two tables for each kind of run: results, and settings. What is no run comes last."""
    is_terminal = sys.stdout.isatty()
    console = Console(force_terminal=is_terminal, markup=False, emoji=False, highlight=False)
    console.width = max(NARROWEST, console.width) if is_terminal else PIPE_WIDTH
    named = list(zip(names_of([run.folder for run in runs]), runs))
    with console.capture() as capture:
        for kind in KINDS:
            those = [(name, run) for name, run in named if kind_of(run) == kind]
            if those:
                console.print(results(kind, those), "", settings(those), "", sep="\n")
            tested = tests_against_the_best(kind, those)
            if tested:
                console.print(tested, "", sep="\n")
        strangers = [(name, gap_of(run)) for name, run in named if kind_of(run) is None]
        if strangers:
            columns = [Column("run"), Column("what is missing")]
            console.print(table("No runs", columns, strangers), "", sep="\n")
    text = "\n".join(line.rstrip() for line in capture.get().rstrip().split("\n"))
    # The colours are ours; what runs say has been cleaned (one_line).
    print(text, file=getattr(sys.stdout, "bare", sys.stdout) if is_terminal else sys.stdout)


def results(kind: Kind, named: Sequence[tuple[str, RunRecord]]) -> Table:
    """A row for each run of a kind; where there are several, the best score is bold."""
    reached = [best(run, kind.score) for _, run in named]
    top = max((f"{highest[1]:.4f}" for highest in reached if highest), default="")
    rows = []
    for (name, run), highest in zip(named, reached):
        done = [str(run.metrics[-1][key]) for key in ("epoch", "step")] if run.metrics else ["–", "–"]
        cells = ["–", "–", "–"]
        if highest:
            value = f"{highest[1]:.4f}"
            value = (value, "bold") if value == top and len(named) > 1 else value
            cells = [value, str(highest[0]), f"{scores(run, kind.score)[-1][1]:.4f}"]
        rows.append((name, *done, *cells, *minutes_and_speed(run), run.gap or "finished"))
    names = ("epochs", "steps", "best", "at\nepoch", "last", "minutes", "images\n/s")
    figures = [Column(name, justify="right", no_wrap=True) for name in names]
    columns = [Column("run"), *figures, Column("state")]
    return table(f"{kind.title}: {kind.score}", columns, rows)


def tests_against_the_best(kind: Kind, named: Sequence[tuple[str, RunRecord]]) -> Table | None:
    """A row for each scored run: how far below or above the best it lies, at the best and the last epoch.

    None where nothing can be tested: one run alone, none finished, or of pre-training.
    """
    scored = [(name, run) for name, run in named if best(run, kind.score)]
    finished = [run for _, run in scored if not run.gap]
    if len(scored) < 2 or not finished or kind.score not in TESTED:
        return None
    top = max(finished, key=lambda run: best(run, kind.score)[1])
    rows = []
    for name, run in scored:
        if run is top:
            rows.append((name, "the others are tested against it", ""))
        else:
            rows.append((name, *(_tested(run, top, kind.score, is_last) for is_last in (False, True))))
    columns = [Column(title) for title in ("run", "best epoch", "last epoch")]
    return table(f"{kind.title}: paired tests", columns, rows)


def _tested(run: RunRecord, top: RunRecord, score: str, is_last: bool) -> str:
    try:
        return in_short(compare_runs(run, top, score, is_last))
    except UserError as error:
        return one_line(f"no test: {error}", REASON_WIDTH)


def settings(named: Sequence[tuple[str, RunRecord]]) -> Table:
    """Model and recipe of each run, and the arguments that are not the same in all of them."""
    names = differing([run for _, run in named])
    rows = []
    for name, run in named:
        values = [f"{one_line(key, 40)}={shown(run.arguments[key])}" for key in names if key in run.arguments]
        rows.append((name, *(shown(run.arguments.get(key)) for key in IN_COLUMNS), ", ".join(values) or "–"))
    return table(None, [Column(name) for name in ("run", *IN_COLUMNS, "arguments that differ")], rows)


def table(title: str | None, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Table:
    """A table of cells of plain text, or (text, style). Where it is narrow, text goes on in the next line."""
    style = {"title_justify": "left", "title_style": "bold", "show_edge": False, "padding": (0, 1, 0, 0)}
    drawn = Table(*columns, title=title, box=box.SIMPLE_HEAD, **style)
    for column in columns:
        column.overflow = "fold"
    for row in rows:
        drawn.add_row(*(Text(*cell) if isinstance(cell, tuple) else Text(cell) for cell in row))
    return drawn


if __name__ == "__main__":
    run_script(main)
