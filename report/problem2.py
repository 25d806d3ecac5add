"""Land cover in the report: both networks, their scores, stages of training, Segment Anything."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Callable, Sequence

from datasets.palette import CLASS_NAMES, COLOURS, SCORED_CLASSES
from engine.base import UserError
from engine.run_folder import MODEL, STAGES, RunRecord, best, is_number, place_of
from report.blocks import (
    OUTSIDE,
    command_of,
    count,
    differences,
    drawn,
    known_of,
    label_of,
    learning_curves,
    network,
    networks_table,
    paired,
    taken,
    unfinished,
    value_of,
    words,
)
from report.collect import Found, best_first, model_a_and_b, read_architecture
from report.document import Block, Gap, Picture, Table, Text
from report.run_figures import draw_ious
from report.sam import sam_blocks
from report.text import one_line
from report.tile_figures import (
    class_pixels,
    compare_masks,
    draw_land_cover_confusion,
    draw_worst,
    write_stages,
)

TRAIN = "python3 p2_train.py --data hw1_data/p2_data --model"
TRAIN_A = f"{TRAIN} fcn32s --weights imagenet --output runs/problem2/model_a"
TRAIN_B = f"{TRAIN} deeplabv3_resnet101 --weights coco --output runs/problem2/model_b"
MASKS = "P2_CHECKPOINT={model} bash hw1_2.sh {tiles} {masks}"
SCORED = CLASS_NAMES[:SCORED_CLASSES]
SWATCHES = tuple("#{:02x}{:02x}{:02x}".format(*colour) for colour in COLOURS[:SCORED_CLASSES].tolist())
WORST = 4  # tiles shown


def problem_2(found: Found, sam: Path | None, figures: Path) -> dict[str, Callable[[], list[Block]]]:
    """What answers each question, from what was found; figures go into `figures`."""
    a, b = model_a_and_b(found.segmentation)
    models = {letter: run for letter, run in (("A", a), ("B", b)) if run}

    def scored() -> list[Block]:
        runs = found.segmentation
        blocks = [*_scores(models, runs, figures), *_curves(models, runs, figures)]
        return [*blocks, *_tiles(found.masks, b or a, figures)]

    return {
        "model_a": lambda: network("A", a, TRAIN_A, figures, "model_a"),
        "model_b": lambda: [
            *network("B", b, TRAIN_B, figures, "model_b"),
            *(differences(a, b, _about) if a and b else ()),
        ],
        "model_a_printed": lambda: network("A", a, TRAIN_A, figures, "model_a", is_printed=True),
        "model_b_printed": lambda: network("B", b, TRAIN_B, figures, "model_b", is_printed=True),
        "both_ious": scored,
        "iou": scored,
        "stages": lambda: _stages(models, "BA", figures),  # B first: it is the one that is asked for
        "stages_of_a": lambda: _stages(models, "A", figures),
        "stages_of_b": lambda: _stages(models, "B", figures),
        "sam": lambda: sam_blocks(sam, figures),
    }


# -- the networks --------------------------------------------------------------------------------------------


def _about(run: RunRecord) -> dict[str, str]:
    given, known, drawing = run.arguments, known_of(run), read_architecture(run.folder)
    gamma, soft_iou = given.get("gamma"), given.get("soft_iou")
    loss = f"focal, gamma {words(gamma)}" if is_number(gamma) and gamma > 0 else "cross-entropy"
    if given.get("alpha") not in (None, [1.0]):
        loss += f", weights {words(given['alpha'])}"
    if is_number(soft_iou) and soft_iou > 0:
        loss += f" + {words(soft_iou)} soft IoU"
    if given.get("learns_unknown") is True:
        loss += ", over seven classes"
    augment = "changes" if given.get("augment") == "recipe" else "augment"
    last = ("averaged weights", "optimiser", "batch size", "training", "trained on")
    return {
        "parameters": f"{drawing.parameters / 1e6:.1f} million" if drawing else "–",
        "GFLOPs": f"{drawing.multiply_adds / 1e9:.1f} at {drawing.size} px" if drawing else "–",
        "scores of pixels come from": drawing.scored_at if drawing else "–",
        "maps are merged at": drawing.merged_at if drawing else "–",
        "starts from": value_of(run, "weights"),
        "tiles seen at": f"{value_of(run, 'scale')} of their size",
        "loss": loss,
        "augmentation": value_of(run, augment),
        "rare classes drawn more often": value_of(run, "balanced"),
        **{name: known[name] for name in last},
    }


# -- 2.3: scores ---------------------------------------------------------------------------------------------


def _scores(models: dict[str, RunRecord], runs: Sequence[RunRecord], figures: Path) -> list[Block]:
    blocks: list[Block] = []
    rows, bars = [], []
    for letter, run in models.items():
        scored = best(run, "mean_iou")
        if scored is None:
            blocks.append(Gap(f"Model {letter}, {label_of(run)}, has no scored epoch.", command_of(run)))
            continue
        epoch, iou = scored
        line = next(line for line in run.metrics if line.get("mean_iou") == iou and line["epoch"] == epoch)
        ious = {name: line[name] for name in SCORED if is_number(line.get(name)) and 0 <= line[name] <= 1}
        bars.append((f"{letter}: {value_of(run, 'model')}", {"mean_iou": iou, **ious}))
        cells = (f"{ious[name]:.4f}" if name in ious else "–" for name in SCORED)
        rows.append((letter, value_of(run, "model"), f"{iou:.4f}", str(epoch), *cells))
    for letter, command in (("A", TRAIN_A), ("B", TRAIN_B)):
        if letter not in models:
            blocks.append(Gap(f"There is no run of a model {letter}.", command))
    if rows:
        table = Table(
            ("", "network", "mean IoU", "epoch", *SCORED),
            tuple(rows),
            "Mean IoU and IoU of each class on the validation tiles, as mean_iou_evaluate.py counts them, of "
            "the best epoch, which was chosen on the same tiles.",
            numbers_from=2,
            swatches=(None,) * 4 + SWATCHES,
        )
        caption = "IoU of each class and their mean; the squares are the classes' colours in the masks."
        blocks[:0] = [table, drawn(figures, "ious", lambda: draw_ious(bars), caption, "Bars of IoU by class")]
    named = {run.folder: letter for letter, run in models.items()}
    blocks += networks_table(runs, named, "mean_iou", "The networks trained here.") if rows else []
    if len(rows) == 2:
        blocks.append(Text(_verdict(*(ious for _, ious in bars))))
        tests = [paired(models["A"], models["B"], "mean_iou", which) for which in ("best", "last")]
        blocks.append(Text(" ".join(tests)))
    if len(runs) > len(models):
        chosen = f"the best of {count(len(runs), 'run')} here, chosen on the tiles that they are scored on"
        blocks.append(Text(f"{' and '.join(models)}: {chosen}."))
    return blocks


def _verdict(a: dict[str, float], b: dict[str, float]) -> str:
    """What the mean IoU of both and of their classes say; no more, since a run of each is no spread."""
    apart = b["mean_iou"] - a["mean_iou"]
    side = f"lies {abs(apart):.4f} {'above' if apart > 0 else 'below'} A's" if apart else "is A's"
    sentences = [f"B's mean IoU {side}."]
    gains = {name: b[name] - a[name] for name in SCORED if name in a and name in b}
    most, least = max(gains, key=gains.get, default=None), min(gains, key=gains.get, default=None)
    if most and gains[most] > 0:
        sentences.append(f"B gains most in {most} ({gains[most]:+.4f}).")
    if least and gains[least] < 0:
        sentences.append(f"It loses most in {least} ({gains[least]:+.4f}).")
    if gains:
        weakest = min(gains, key=b.get)
        sentences.append(f"Its weakest class is {weakest} ({b[weakest]:.4f}).")
    return " ".join([*sentences, "How far another seed would move either is not known from these two runs."])


def _curves(models: dict[str, RunRecord], runs: Sequence[RunRecord], figures: Path) -> list[Block]:
    """A and B first, then the best of the others, by numbers."""
    others = [run for run in runs if run.metrics and all(run is not model for model in models.values())]
    numbered = {str(number): run for number, run in enumerate(best_first(others, "mean_iou"), start=1)}
    named = {**models, **numbered}
    lines = [(f"{name}: {value_of(run, 'model')} ({label_of(run)})", run) for name, run in named.items()]
    title, alt = "Mean IoU on validation", "Learning curves of the segmentation runs"
    return [learning_curves(figures, "learning_curves", "mean_iou", title, lines, alt)] if lines else []


def _tiles(folders: Sequence[Path], run: RunRecord | None, figures: Path) -> list[Block]:
    """What the masks of hw1_2.sh say, against the truth of the run's own validation tiles."""
    data = place_of(run, "data") if run else None
    if data is None:
        return []
    tiles = data / "validation"
    blocks = _shares(data)
    if not folders:
        places = {"model": run.folder / MODEL, "tiles": tiles, "masks": run.folder / "masks"}
        command = MASKS.format(**{name: shlex.quote(str(place)) for name, place in places.items()})
        return [*blocks, Gap("There are no masks to look for the worst-predicted tiles in.", command)]
    folder = folders[0]
    try:
        found = compare_masks(folder, tiles)
    except OUTSIDE as error:
        reason = f"could not be compared with the truth: {one_line(error, 300)}"
        return [*blocks, Gap(f"The masks in {folder} {reason}.")]
    tiles, gaps, place = len(found.tiles), found.gaps, one_line(folder, 80)
    caption = f"What each class's pixels were called, over {count(tiles, 'tile')} (the masks in {place})."
    alt = "Confusion matrix of the land-cover classes"
    blocks.append(drawn(figures, "land_confusion", lambda: draw_land_cover_confusion(found), caption, alt))
    caption = f"The {count(min(WORST, tiles), 'tile')} with the least pixels of their true class."
    alt = "Image, truth, prediction and disagreement of the worst-predicted tiles"
    blocks.append(drawn(figures, "worst_tiles", lambda: draw_worst(found, WORST), caption, alt))
    if gaps:
        left_out = f"{len(gaps)} of {len(gaps) + tiles} tiles were left out"
        blocks.append(Gap(f"{left_out}, the first: {one_line(gaps[0], 200)}"))
    return blocks


def _shares(data: Path) -> list[Block]:
    """How much of the data each class has."""
    rows = []
    for part in ("train", "validation"):
        with suppress(UserError):  # the tiles may be elsewhere now
            tiles, pixels = class_pixels(data / part)
            rows.append((part, f"{tiles:,}", *(f"{share:.2%}" for share in pixels / pixels.sum())))
    caption = "Shares of the classes in the true masks, of all pixels."
    swatches = (None, None, *SWATCHES, "#000000")
    columns = ("", "tiles", *CLASS_NAMES)
    return [Table(columns, tuple(rows), caption, numbers_from=1, swatches=swatches)] if rows else []


# -- stages --------------------------------------------------------------------------------------------------


def _stages(models: dict[str, RunRecord], letters: str, figures: Path) -> list[Block]:
    blocks: list[Block] = []
    for letter in (letter for letter in letters if letter in models):
        run, name = models[letter], f"stages_{letter.lower()}"
        alt = f"Tiles with model {letter}'s masks at its stages"
        caption = f"Model {letter} ({value_of(run, 'model')}): image, truth, masks"
        tiles = (place_of(run, "data") or run.folder) / "validation"
        try:
            after = ", ".join(write_stages(run.folder, tiles, figures / name))
            blocks.append(Picture(name, f"{caption} after {after}, the last one over it.", alt))
        except OUTSIDE as error:
            # The tiles may be elsewhere now: the training drew it already.
            if (run.folder / f"{STAGES}.png").is_file():
                caption = f"{caption} at its stages, the last over it."
                blocks.append(taken(figures, name, run.folder / STAGES, caption, alt))
            else:
                blocks.append(Gap(f"No picture of model {letter}'s stages: {one_line(error, 300)}."))
        blocks += unfinished(run)
    return blocks or [Gap("There is no run whose stages could be shown.", TRAIN_B)]
