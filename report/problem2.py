"""Problem 2 of the report: both networks, their scores, stages of training, Segment Anything."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from datasets.palette import CLASS_NAMES, COLOURS, SCORED_CLASSES
from report.architecture import read_architecture
from report.blocks import (
    OUTSIDE,
    drawn,
    how_long,
    label_of,
    machine_of,
    optimizer_words,
    taken,
    unfinished,
    value_of,
    words,
)
from report.document import Block, Gap, Picture, Problem, Question, Table, Text
from report.found import Found, best_iou, model_a_and_b
from report.run_figures import draw_ious, draw_learning
from report.runs import RunRecord, is_number
from report.sam_section import sam_blocks
from report.stages import write_stages
from report.text import one_line
from report.worst_tiles import compare_masks, draw_land_cover_confusion, draw_worst

TRAIN_A = "python3 p2_train.py --data hw1_data/p2_data --model fcn32s --weights imagenet --output runs/p2_a"
TRAIN_B = "python3 p2_train.py --data hw1_data/p2_data --model deeplabv3_resnet101 --weights coco --output runs/p2_b"
MASKS = "P2_CHECKPOINT={model} bash hw1_2.sh {tiles} {masks}"
SCORED = CLASS_NAMES[:SCORED_CLASSES]
SWATCHES = tuple("#" + "".join(f"{part:02x}" for part in colour) for colour in COLOURS.tolist())[:SCORED_CLASSES]
MOST_CURVES = 7  # of runs in one figure
WORST = 4  # tiles shown


def problem_2(found: Found, sam: Path | None, figures: Path) -> Problem:
    """Its five questions, answered from what was found; figures go into `figures`."""
    a, b = model_a_and_b(found.segmentation)
    models = [(name, run) for name, run in (("A", a), ("B", b)) if run]
    return Problem(
        "Problem 2: land-cover segmentation",
        (
            Question(
                "2.1",
                "Model A, VGG16-FCN32s",
                3,
                "Draw the network architecture of your VGG16-FCN32s model (model A).",
                tuple(_network("A", a, TRAIN_A, figures)),
            ),
            Question(
                "2.2",
                "Model B, the improved one",
                3,
                "Draw the network architecture of the improved model (model B), and explain how it differs from A.",
                (*_network("B", b, TRAIN_B, figures), *_differences(a, b)),
            ),
            Question(
                "2.3",
                "Mean IoU of both",
                1,
                "The mIoU of both models on the validation set.",
                (
                    *_scores(models, figures),
                    *_curves(models, found.segmentation, figures),
                    *_tiles(found.masks, b or a, figures),
                ),
            ),
            Question(
                "2.4",
                "Masks during training",
                3,
                "The predicted masks of 0013, 0062 and 0104 at the early, the middle and the final stage of training.",
                tuple(_stages(models, figures)),
            ),
            Question(
                "2.5",
                "Segment Anything",
                10,
                "Segment three of the validation images with SAM; show the results and describe the method.",
                tuple(sam_blocks(sam, figures)),
            ),
        ),
    )


# -- 2.1 and 2.2: the networks -----------------------------------------------------------------------------------------


def _network(letter: str, run: RunRecord | None, command: str, figures: Path) -> list[Block]:
    if run is None:
        return [Gap(f"There is no run of a model {letter}.", command)]
    drawing = read_architecture(run.folder)
    describe = f"python3 -m models.describe {value_of(run, 'model')} --output {run.folder}"
    if drawing is None:
        return [Gap(f"{label_of(run)} has no drawing of its network.", describe)]
    name = f"model_{letter.lower()}"
    text = (
        f"Model {letter} is {one_line(drawing.network, 60)} ({label_of(run)}): {drawing.parameters / 1e6:.1f} million "
        f"parameters, {drawing.gflops:.1f} GFLOPs for a tile seen at {drawing.size} x {drawing.size} px "
        "(a multiplication and an addition are two operations; of convolutions and linear layers)."
    )
    if drawing.auxiliary_parameters:
        text += f" {drawing.auxiliary_parameters / 1e6:.1f} million of the parameters are of heads for training alone."
    caption = (
        f"Model {letter}, {one_line(drawing.network, 60)}: blocks, and what each gives (channels x height x width)."
    )
    picture = taken(figures, name, run.folder / "architecture", caption, f"The blocks of model {letter}, drawn")
    if isinstance(picture, Gap):
        picture = Gap(picture.text, describe)
    return [Text(text), picture, *([unfinished(run)] if run.gap else [])]


def _differences(a: RunRecord | None, b: RunRecord | None) -> list[Block]:
    if a is None or b is None:
        return []
    columns = [_about(run) for run in (a, b)]
    rows = [(name, columns[0][name], columns[1][name]) for name in columns[0]]
    same = [name for name, one, other in rows if one == other]
    blocks: list[Block] = [
        Table(
            ("", f"A: {value_of(a, 'model')}", f"B: {value_of(b, 'model')}"),
            tuple(row for row in rows if row[0] not in same),
            "How the two differ, read from their config.json and architecture.json.",
            numbers_from=3,
        )
    ]
    if same:
        alike = "; ".join(f"{name} ({columns[0][name]})" for name in same if columns[0][name] != "–")
        blocks.append(Text(f"The same in both: {alike}."))
    return blocks


def _about(run: RunRecord) -> dict[str, str]:
    given, drawing = run.arguments, read_architecture(run.folder)
    gamma = given.get("gamma")
    loss = f"focal, gamma {words(gamma)}" if is_number(gamma) and gamma > 0 else "cross-entropy"
    if given.get("alpha") not in (None, [1.0]):
        loss += f", weights {words(given['alpha'])}"
    if is_number(given.get("soft_iou")) and given["soft_iou"] > 0:
        loss += f" + {words(given['soft_iou'])} soft IoU"
    decay = given.get("ema_decay")
    return {
        "parameters": f"{drawing.parameters / 1e6:.1f} million" if drawing else "–",
        "GFLOPs": f"{drawing.gflops:.1f} at {drawing.size} px" if drawing else "–",
        "scores of pixels come from": drawing.scored_at if drawing else "–",
        "maps are merged at": drawing.merged_at if drawing else "–",
        "starts from": words(given.get("weights")),
        "tiles seen at": f"{words(given.get('scale'))} of their size",
        "loss": loss,
        "augmentation": words(given.get("augment")),
        "rare classes drawn more often": words(given.get("balanced")),
        "averaged weights": f"decay {words(decay)}" if is_number(decay) and decay > 0 else "none",
        "optimiser": optimizer_words(run),
        "batch size": words(given.get("batch_size")),
        "training": how_long(run),
        "trained on": machine_of(run),
    }


# -- 2.3: scores -------------------------------------------------------------------------------------------------------


def _scores(models: Sequence[tuple[str, RunRecord]], figures: Path) -> list[Block]:
    blocks: list[Block] = []
    rows, bars = [], []
    for letter, run in models:
        best = best_iou(run)
        if best is None:
            blocks.append(Gap(f"Model {letter}, {label_of(run)}, has no scored epoch.", unfinished(run).command))
            continue
        line = next(line for line in run.metrics if line.get("mean_iou") == best[1] and line["epoch"] == best[0])
        ious = {name: line[name] for name in SCORED if is_number(line.get(name))}
        bars.append((f"{letter}: {value_of(run, 'model')}", {"mean_iou": best[1], **ious}))
        cells = (f"{ious[name]:.4f}" if name in ious else "–" for name in SCORED)
        rows.append((letter, value_of(run, "model"), f"{best[1]:.4f}", str(best[0]), *cells))
    for letter, command in (("A", TRAIN_A), ("B", TRAIN_B)):
        if letter not in [name for name, _ in models]:
            blocks.append(Gap(f"There is no run of a model {letter}.", command))
    if rows:
        table = Table(
            ("", "network", "mean IoU", "epoch", *SCORED),
            tuple(rows),
            "Mean IoU and IoU of each class on the validation tiles, as mean_iou_evaluate.py counts them, of the best "
            "epoch, which was chosen on the same tiles.",
            numbers_from=2,
            swatches=(None,) * 4 + SWATCHES,
        )
        caption = "IoU of each class and their mean; the squares are the classes' colours in the masks."
        blocks[:0] = [table, drawn(figures, "ious", lambda: draw_ious(bars), caption, "Bars of IoU by class")]
    if len(rows) == 2:
        blocks.append(Text(_verdict(bars)))
    return blocks


def _verdict(bars: Sequence[tuple[str, dict[str, float]]]) -> str:
    (_, a), (_, b) = bars
    apart = b["mean_iou"] - a["mean_iou"]
    common = [name for name in SCORED if name in a and name in b]
    gains = sorted(common, key=lambda name: a[name] - b[name])
    text = f"B's mean IoU lies {abs(apart):.4f} {'above' if apart >= 0 else 'below'} A's."
    if gains:
        first, last = gains[0], gains[-1]
        text += (
            f" Of the classes {first} differs most in B's favour ({b[first] - a[first]:+.4f}) and {last} least "
            f"({b[last] - a[last]:+.4f}); B's weakest is {min(common, key=b.get)} ({min(b[n] for n in common):.4f})."
        )
    return text + " One run of each: how far another seed would move them is not known."


def _curves(models: Sequence[tuple[str, RunRecord]], runs: Sequence[RunRecord], figures: Path) -> list[Block]:
    """A and B first, then the best of the others, by numbers."""
    others = [run for run in runs if run.metrics and all(run is not model for _, model in models)]
    others.sort(key=lambda run: -(best_iou(run) or (0, -1.0))[1])
    named = [*models, *((str(number), run) for number, run in enumerate(others, start=1))][:MOST_CURVES]
    if not named:
        return []
    lines = [(f"{name}: {value_of(run, 'model')} ({label_of(run)})", run) for name, run in named]
    return [
        drawn(
            figures,
            "learning_curves",
            lambda: draw_learning(lines, "mean_iou", "Mean IoU on validation"),
            "Mean IoU on validation and training loss of the runs; losses of different kinds do not compare.",
            "Learning curves of the segmentation runs",
        )
    ]


def _tiles(folders: Sequence[Path], run: RunRecord | None, figures: Path) -> list[Block]:
    """What the masks of hw1_2.sh say, against the truth of the run's own validation tiles."""
    data = run.arguments.get("data") if run else None
    if run is None or not isinstance(data, str):
        return []
    tiles = Path(data) / "validation"
    if not folders:
        command = MASKS.format(model=run.folder / "model.pt", tiles=tiles, masks=run.folder.parent / "masks")
        return [Gap("There are no masks to look for the worst-predicted tiles in.", command)]
    folder = folders[0]
    try:
        comparison = compare_masks(folder, tiles)
    except OUTSIDE as error:
        return [Gap(f"The masks in {folder} could not be compared with the truth: {one_line(error, 300)}.")]
    where = one_line(folder, 80)
    return [
        drawn(
            figures,
            "land_confusion",
            lambda: draw_land_cover_confusion(comparison),
            f"What each class's pixels were called, over {len(comparison.tiles)} tiles (masks in {where}).",
            "Confusion matrix of the land-cover classes",
        ),
        drawn(
            figures,
            "worst_tiles",
            lambda: draw_worst(comparison, WORST),
            f"The {min(WORST, len(comparison.tiles))} tiles whose masks agree least with the truth, pixel by pixel.",
            "Image, truth, prediction and disagreement of the worst-predicted tiles",
        ),
        *(Text(f"Left out: {one_line(gap, 200)}") for gap in comparison.gaps[:5]),
    ]


# -- 2.4: stages -------------------------------------------------------------------------------------------------------


def _stages(models: Sequence[tuple[str, RunRecord]], figures: Path) -> list[Block]:
    blocks: list[Block] = []
    for letter, run in reversed(models):  # B first: it is the one that is asked for
        name = f"stages_{letter.lower()}"
        caption = (
            f"Model {letter} ({value_of(run, 'model')}): image, truth, masks at three stages, the last one over it."
        )
        alt = f"Tiles with model {letter}'s masks at an early, a middle and the final stage"
        data = run.arguments.get("data")
        try:
            write_stages(run.folder, Path(str(data)) / "validation", figures / name)
        except OUTSIDE as error:
            if (run.folder / "stages.png").is_file():  # the tiles are elsewhere now; the training drew it already
                blocks.append(taken(figures, name, run.folder / "stages", caption, alt))
            else:
                blocks.append(Gap(f"No picture of model {letter}'s stages: {one_line(error, 300)}."))
            continue
        blocks.append(Picture(name, caption, alt))
    return blocks or [Gap("There is no run whose stages could be shown.", TRAIN_B)]
