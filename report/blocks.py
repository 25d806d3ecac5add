"""Blocks that all problems need: figures drawn or taken over into figures/, networks, a run in words."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from matplotlib.figure import Figure

from datasets.images import read_rgb
from engine.base import UserError, write_atomically
from engine.run_folder import ARCHITECTURE, CONFIG, RunRecord, best, is_number, seconds_of
from engine.schedule import steps_of_warmup
from report.collect import best_first, read_architecture
from report.document import Block, Gap, Listing, Picture, Table, Text
from report.paired_tests import compare_runs, in_words
from report.run_figures import draw_learning
from report.style import save_figure
from report.text import one_line

# What goes wrong with files from outside; anything else is a mistake of ours.
OUTSIDE = (UserError, OSError)
MOST_CURVES = 7  # of runs in one figure


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


def learning_curves(
    figures: Path, name: str, score: str, title: str, lines: Sequence[tuple[str, RunRecord]], alt: str
) -> Picture | Gap:
    """The first of the (label, run) overlaid, as many as can be told apart."""
    caption = f"{title} and training loss of the runs; losses of different kinds do not compare."
    return drawn(figures, name, lambda: draw_learning(lines[:MOST_CURVES], score, title), caption, alt)


# -- a run in words ------------------------------------------------------------------------------------------


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


def known_of(run: RunRecord) -> dict[str, str]:
    """What is told of runs of every kind, by the names that the tables call it."""
    weights, decay = run.arguments.get("weights"), run.arguments.get("ema_decay")
    machine = run.config.get("machine")
    machine = machine if isinstance(machine, dict) else {}
    cores = f"CPU, {words(machine['cores'])} cores" if is_number(machine.get("cores")) else "–"
    return {
        "network": value_of(run, "model"),
        "starts from": "random weights" if weights in (None, "none") else words(weights),
        "averaged weights": f"decay {words(decay)}" if is_number(decay) and decay > 0 else "none",
        "optimiser": _optimizer(run),
        "batch size": value_of(run, "batch_size"),
        "images": value_of(run, "training_images"),
        "image size": f"{value_of(run, 'image_size')} px",
        "training": _how_long(run),
        "recipe, seed": f"{value_of(run, 'recipe')}, {value_of(run, 'seed')}",
        "trained on": one_line(machine["gpu"], 60) if machine.get("gpu") else cores,
    }


def _optimizer(run: RunRecord) -> str:
    """Optimiser, learning rate, weight decay, schedule and warm-up in one phrase."""
    given = run.arguments
    parts = [value_of(run, "optimizer"), f"learning rate {value_of(run, 'lr')}"]
    if is_number(given.get("backbone_lr")) and given.get("weights") not in (None, "none"):
        parts.append(f"{value_of(run, 'backbone_lr')} for the backbone")
    parts += [f"weight decay {value_of(run, 'weight_decay')}", f"{value_of(run, 'schedule')} schedule"]
    if is_number(given.get("warmup_steps")) and given["warmup_steps"] > 0:
        total = run.config.get("total_steps")
        steps = steps_of_warmup(int(given["warmup_steps"]), int(total) if is_number(total) else None)
        parts.append(f"warm-up of {count(steps, 'step')}")
    return ", ".join(parts)


def _how_long(run: RunRecord) -> str:
    """Epochs, steps and minutes that are done, and what is not."""
    if not run.metrics:
        return "nothing yet"
    last, seconds = run.metrics[-1], seconds_of(run)
    minutes = "–" if seconds is None else f"{seconds / 60:.1f}"
    done = f"{count(last['epoch'], 'epoch')}, {count(last['step'], 'step')}, {minutes} minutes"
    return done + (f" ({one_line(run.gap, 80)})" if run.gap else "")


def facts(rows: Mapping[str, str], caption: str) -> Table:
    """Names and values, a line each."""
    return Table(("", "value"), tuple(rows.items()), caption, numbers_from=2)


def unfinished(run: RunRecord) -> list[Block]:
    """Where a run has not ended: that, and the command that resumes it."""
    return [Gap(f"{label_of(run)}: {one_line(run.gap, 200)}.", command_of(run))] if run.gap else []


def paired(a: RunRecord, b: RunRecord, score: str, which: str) -> str:
    """How far the choice of images bears what parts two runs at their "best" or their "last" epochs."""
    try:
        said = in_words(compare_runs(b, a, score, is_last=which == "last"))
    except UserError as error:
        said = f"no paired test, {one_line(error, 300)}"
    return f"B against A at their {which} epochs: {said}."


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
    return [Text(text), shown, *unfinished(run)]


def differences(a: RunRecord, b: RunRecord, about: Callable[[RunRecord], dict[str, str]]) -> list[Block]:
    """What two runs are `about`, as far as they differ, and what is the same."""
    one, other = about(a), about(b)
    rows = tuple((name, one[name], other[name]) for name in one if one[name] != other[name])
    columns = ("", f"A: {value_of(a, 'model')}", f"B: {value_of(b, 'model')}")
    caption = f"How the two differ, read from their {CONFIG} and {ARCHITECTURE}.json."
    blocks: list[Block] = [Table(columns, rows, caption, numbers_from=3)]
    alike = "; ".join(f"{name} ({said})" for name, said in one.items() if said == other[name] != "–")
    return [*blocks, Text(f"The same in both: {alike}.")] if alike else blocks


def networks_table(
    runs: Sequence[RunRecord], letters: dict[Path, str], score: str, title: str
) -> list[Block]:
    """Every run that has a score, the best first, with the size of its network; `letters` of run folders."""
    rows = []
    for run in (run for run in best_first(runs, score) if best(run, score)):
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
