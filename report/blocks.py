"""Blocks that both problems need: figures drawn or taken over into figures/, a run's settings in words."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Callable, Sequence

from matplotlib.figure import Figure

from datasets.images import read_rgb
from engine.base import UserError, write_atomically
from engine.run_folder import RunRecord, is_number, seconds_of
from engine.schedule import steps_of_warmup
from report.document import Gap, Picture, Table
from report.style import save_figure
from report.text import one_line

# What goes wrong with files from outside; anything else is a mistake of ours.
OUTSIDE = (UserError, OSError)


def drawn(figures: Path, name: str, make: Callable[[], Figure], caption: str, alt: str) -> Picture | Gap:
    """The figure that `make` returns as figures/NAME.png and .pdf; a gap where its files cannot be read."""
    try:
        save_figure(make(), figures / name)
    except OUTSIDE as error:
        return Gap(f"The figure {name} could not be drawn: {one_line(error, 300)}.")
    return Picture(name, caption, alt)


def taken(figures: Path, name: str, source: Path, caption: str, alt: str) -> Picture | Gap:
    """SOURCE.png and SOURCE.pdf, which another script of ours drew, as figures/NAME.png and .pdf."""
    try:
        read_rgb(f"{source}.png", apply_exif=False)
        for suffix in ("png", "pdf"):
            with write_atomically(figures / f"{name}.{suffix}") as temporary:
                shutil.copyfile(f"{source}.{suffix}", temporary)
    except OUTSIDE as error:
        for suffix in ("png", "pdf"):
            (figures / f"{name}.{suffix}").unlink(missing_ok=True)
        return Gap(f"The figure {name} could not be taken over: {one_line(error, 300)}.")
    return Picture(name, caption, alt)


def label_of(run: RunRecord) -> str:
    """The run's folder with the one above it, such as "p2/run"."""
    return one_line("/".join(run.folder.resolve().parts[-2:]).lstrip(os.sep), 40)


def command_of(run: RunRecord) -> str:
    """The command that started the run, and resumes it."""
    command = run.config.get("command")
    return one_line(command, 1000) if isinstance(command, str) else ""


def value_of(run: RunRecord, name: str) -> str:
    """An argument of a run in words; a dash where the run does not know it."""
    return words(run.arguments.get(name))


def words(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        return f"{value:g}" if isinstance(value, float) else f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(words, value))
    return one_line(value, 80)


def count(number: int, name: str) -> str:
    """Such as "1 epoch" or "1,200 epochs"."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def minutes_of(run: RunRecord) -> str:
    """How long its training steps took."""
    seconds = seconds_of(run)
    return "–" if seconds is None else f"{seconds / 60:.1f}"


def machine_of(run: RunRecord) -> str:
    """What it was trained on."""
    machine = run.config.get("machine")
    machine = machine if isinstance(machine, dict) else {}
    if machine.get("gpu"):
        return one_line(machine["gpu"], 60)
    return f"CPU, {words(machine['cores'])} cores" if is_number(machine.get("cores")) else "–"


def optimizer_words(run: RunRecord) -> str:
    """Optimiser, learning rate, weight decay, schedule and warm-up in one phrase."""
    given = run.arguments
    parts = [words(given.get("optimizer")), f"learning rate {value_of(run, 'lr')}"]
    if is_number(given.get("backbone_lr")) and given.get("weights") not in (None, "none"):
        parts.append(f"{value_of(run, 'backbone_lr')} for the backbone")
    parts += [f"weight decay {value_of(run, 'weight_decay')}", f"{value_of(run, 'schedule')} schedule"]
    if is_number(given.get("warmup_steps")) and given["warmup_steps"] > 0:
        total = run.config.get("total_steps")
        steps = steps_of_warmup(int(given["warmup_steps"]), int(total) if is_number(total) else None)
        parts.append(f"warm-up of {count(steps, 'step')}")
    return ", ".join(parts)


def how_long(run: RunRecord) -> str:
    """Epochs, steps and minutes that are done, and what is not."""
    if not run.metrics:
        return "nothing yet"
    last = run.metrics[-1]
    done = f"{count(last['epoch'], 'epoch')}, {count(last['step'], 'step')}, {minutes_of(run)} minutes"
    return done + (f" ({one_line(run.gap, 80)})" if run.gap else "")


def facts(rows: Sequence[tuple[str, str]], caption: str) -> Table:
    """Names and values, a line each."""
    return Table(("", "value"), tuple(rows), caption, numbers_from=2)


def unfinished(run: RunRecord) -> Gap:
    """That a run has not ended, and the command that resumes it."""
    return Gap(f"{label_of(run)}: {one_line(run.gap, 200)}.", command_of(run))
