"""Blocks that all problems need: figures drawn or taken over into figures/, networks, a run in words."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Callable, Sequence

from matplotlib.figure import Figure

from datasets.images import read_rgb
from engine.base import UserError, write_atomically
from engine.run_folder import ARCHITECTURE, CONFIG, RunRecord, best, is_number, seconds_of
from engine.schedule import steps_of_warmup
from report.collect import read_architecture
from report.document import Block, Gap, Listing, Picture, Table, Text
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


# -- networks ------------------------------------------------------------------------------------------------


def network(
    letter: str, run: RunRecord | None, command: str, figures: Path, name: str, is_printed: bool = False
) -> list[Block]:
    """A run's network in words, and drawn as figures/NAME, or printed; `command` trains one."""
    model = f"model {letter}" if letter else "network"
    if run is None:
        return [Gap(f"There is no run of a {model}.", command)]
    drawing = read_architecture(run.folder)
    own, folder = shlex.quote(value_of(run, "model")), shlex.quote(str(run.folder))
    describe = f"python3 -m models.describe {own} --output {folder}"
    size, classes = run.arguments.get("image_size"), run.arguments.get("num_classes")
    if is_number(size) and is_number(classes):  # of a classifier
        describe += f" --size {size} --classes {classes}"
    if drawing is None:
        return [Gap(f"{label_of(run)} has no drawing of its network.", describe)]
    called = f"{model[0].upper()}{model[1:]}"
    text = (
        f"{called if letter else 'The network'} is {drawing.network} ({label_of(run)}): "
        f"{drawing.parameters / 1e6:.1f} million parameters, {drawing.multiply_adds / 1e9:.2f} GFLOPs for an "
        f"image seen at {drawing.size} x {drawing.size} px (multiply-adds of convolutions, linear layers and "
        "attention)."
    )
    if drawing.auxiliary_parameters:
        millions = drawing.auxiliary_parameters / 1e6
        text += f" {millions:.1f} million of the parameters are of heads for training alone."
    if is_printed:
        shown: Block = Listing(drawing.printed, f"{called}, {drawing.network}, module by module.")
        if not drawing.printed:
            shown = Gap(f"{label_of(run)} was trained before networks were printed.", describe)
    else:
        caption = f"{called}, {drawing.network}: blocks, and what each gives (channels x height x width)."
        shown = taken(figures, name, run.folder / ARCHITECTURE, caption, f"The blocks of the {model}, drawn")
        if isinstance(shown, Gap):
            shown = Gap(shown.text, describe)
    return [Text(text), shown, *([unfinished(run)] if run.gap else [])]


def differences(a: RunRecord, b: RunRecord, about: Callable[[RunRecord], dict[str, str]]) -> list[Block]:
    """What two runs are `about`, as far as they differ, and what is the same."""
    columns = [about(run) for run in (a, b)]
    rows = [(name, columns[0][name], columns[1][name]) for name in columns[0]]
    same = [name for name, one, other in rows if one == other]
    blocks: list[Block] = [
        Table(
            ("", f"A: {value_of(a, 'model')}", f"B: {value_of(b, 'model')}"),
            tuple(row for row in rows if row[0] not in same),
            f"How the two differ, read from their {CONFIG} and {ARCHITECTURE}.json.",
            numbers_from=3,
        )
    ]
    alike = "; ".join(f"{name} ({columns[0][name]})" for name in same if columns[0][name] != "–")
    return [*blocks, Text(f"The same in both: {alike}.")] if alike else blocks


def networks_table(
    runs: Sequence[RunRecord], letters: dict[Path, str], score: str, title: str
) -> list[Block]:
    """Every run that has a score, the best first, with the size of its network; `letters` of run folders."""
    scored = sorted((run for run in runs if best(run, score)), key=lambda run: -best(run, score)[1])
    rows = []
    for run in scored:
        epoch, value = best(run, score)
        drawing = read_architecture(run.folder)
        cells = (f"{drawing.parameters / 1e6:.1f}", f"{drawing.multiply_adds / 1e9:.2f}") if drawing else "––"
        said = (value_of(run, "model"), label_of(run), value_of(run, "weights"), f"{value:.4f}", str(epoch))
        rows.append((letters.get(run.folder, ""), *said, *cells))
    names = ("", "network", "run", "starts from", score.replace("_iou", " IoU"), "epoch")
    columns = (*names, "million parameters", "GFLOPs")
    caption = (
        f"{title} Best epochs, chosen on the images that they are measured on. GFLOPs are multiply-adds."
    )
    return [Table(columns, tuple(rows), caption, numbers_from=4)] if rows else []
