"""Automatic masks of images by Segment Anything, and whether their vote betters a network's land cover.

    python3 p2_sam.py --images hw1_data/p2_data/validation/0013_sat.jpg --output runs/sam \\
        --vote runs/p2/model.pt

Of each image 0013_sat.jpg it writes 0013_sam.png (coloured masks with outlines) and 0013_sam.json (the masks
as uncompressed COCO run lengths, with box, area, predicted IoU, stability score and point), and of all
together sheet.png and sheet.pdf: image, truth (the 0013_mask.png beside it), model B, SAM. With --vote each
SAM mask takes the class that most of its pixels have by that network; the results are in OUTPUT/vote, scored
beside the network alone in score.json, both over the classes that both have.

The masks are those of segment-anything's SamAutomaticMaskGenerator. A GPU runs vit_b and tries 32 x 32
points, 64 at a time; a CPU runs MobileSAM's vit_t and tries 16 x 16, 16 at a time. All of it can be set; the
batch changes no mask, and is halved when the memory runs out.

Exit status: 0 all done; 1 some images could not be used (named on stderr), all else is there; 2 nothing was.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from functools import partial
from typing import Any, Callable, Sequence

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from engine import manifest
from engine.arguments import nonempty_path, parser_for, positive_count, positive_number
from engine.base import UserError, run_script, say
from engine.checkpoint_choice import read_models
from engine.packages import begin

# By device; any other has vit_b, 32 and 64.
CHECKPOINT, POINTS_PER_SIDE, POINTS_PER_BATCH = {"cpu": "vit_t"}, {"cpu": 16}, {"cpu": 16}
# Flags that MaskGenerator takes as they are; beside the points they alone decide which masks there are.
MASK_SETTINGS = (
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
    "crop_n_layers",
    "crop_n_points_downscale_factor",
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_for(__doc__, allow_abbrev=False)
    add = parser.add_argument
    images = "images, or folders of tiles (NNNN_sat.jpg)"
    add("--images", type=nonempty_path, nargs="+", required=True, help=images)
    add("--output", type=nonempty_path, required=True, help="folder for what is written")
    weights = "an official file of weights, or vit_t (default on a CPU, 41 MB), vit_b (default elsewhere, "
    weights += "0.4 GB), vit_l, vit_h (2.6 GB, the best): then it is fetched if it is not there"
    add("--checkpoint", type=nonempty_path, help=weights)
    whose = parser.add_mutually_exclusive_group()
    models = {"type": nonempty_path, "nargs": "*", "metavar": "MODEL"}
    about = "a model.pt of problem 2, several are averaged; none named: P2_CHECKPOINT, else the published one"
    whose.add_argument("--vote", **models, help=f"masks vote: {about}")
    whose.add_argument("--model-b", **models, help=f"show only: {about}")
    # which masks
    shown = "(default %(default)s)"
    grid = "points of the grid along a side (default 32, 16 on a CPU)"
    add("--points-per-side", type=positive_count, help=grid)
    add("--pred-iou-thresh", type=finite, default=0.88, help=f"least predicted IoU; 0 keeps all {shown}")
    add("--stability-score-thresh", type=finite, default=0.95, help=f"least stability score {shown}")
    add("--box-nms-thresh", type=positive_number, default=0.7, help=f"boxes alike: one is left {shown}")
    crops = "also look at 4, 16, 64 crops of the image"
    add("--crop-n-layers", type=int, choices=range(4), default=0, help=crops)
    fewer = {"type": positive_count, "default": 1, "help": "fewer points by layer of crops"}
    add("--crop-n-points-downscale-factor", **fewer)
    # the machine
    add("--points-per-batch", type=positive_count, help="points at a time (default 64, 16 on a CPU)")
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    return parser.parse_args(argv)


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


if __name__ == "__main__":
    ARGUMENTS = begin(parse_arguments, "segment_anything", "matplotlib")

import numpy as np
import torch
from torch import Tensor

from datasets.images import ImageError, read_rgb
from datasets.palette import CLASS_NAMES, NUM_CLASSES, SCORED_CLASSES, UNCLAIMED
from datasets.sam_files import check_output, vote, write_masks
from datasets.tile_pairs import read_mask
from datasets.tiles import ChosenImage, find_images
from engine.base import Progress, write_json
from engine.device import choose_device, tune_allocator
from engine.download import fetch
from engine.lock import sole_writer
from engine.metrics import confusion_matrix, iou_per_class, mean_iou
from engine.pipeline import Runner
from models.builders import load_trained
from models.predict import land_cover
from models.sam import load_sam, type_of
from models.sam_masks import MaskGenerator, SamMemoryError
from report.sam import Sheet, classes_picture, draw_masks


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    images = find_images(args.images)
    check_output(args.output, images)
    device = choose_device(args.device)

    # Segment Anything, and the network whose classes are shown and voted on
    weights = weights_of(args.checkpoint or CHECKPOINT.get(device.type, "vit_b"))
    sam = load_sam(weights)
    say(f"checkpoint {weights}: {type_of(sam)} of Segment Anything, on {device}")
    points = args.points_per_side or POINTS_PER_SIDE.get(device.type, 32)
    settings = {"points_per_side": points, **{name: vars(args)[name] for name in MASK_SETTINGS}}
    batch = args.points_per_batch or POINTS_PER_BATCH.get(device.type, 64)
    generator = MaskGenerator(sam.to(device), points_per_batch=batch, **settings)
    made_by = {"network": type_of(sam), "weights": os.path.basename(weights), **settings}
    has_vote = args.vote is not None
    named = args.vote if has_vote else args.model_b
    model_b = None if named is None else segmenter(named, device)

    have = {"truth": any(image.truth for image in images), "model B": model_b is not None, "vote": has_vote}
    columns = [title for title in ("image", "truth", "model B", "SAM", "vote") if have.get(title, True)]
    sheet = Sheet(os.path.join(args.output, "sheet"), columns)
    confusions: dict[str, Tensor] = {}  # of model B, and of its vote, over all images with a truth
    num_scored, failed = 0, []
    progress = Progress("points", total=len(images) * generator.points_of_an_image())

    def fail(path: str, reason: Exception) -> None:
        say(f"left out: {reason}" if path in str(reason) else f"left out: {path}: {reason}")
        failed.append(path)

    for image in images:
        try:
            pixels = read_rgb(image.path, apply_exif=False)
            masks = masks_of(generator, pixels, image.name, progress)
            predicted = {} if model_b is None else {"model B": model_b(pixels)}
        except UserError as error:  # no image, or one too thin or too large: the others can still be done
            fail(image.path, error)
            continue
        if has_vote:
            predicted["vote"] = vote(predicted["model B"], masks)
        picture = draw_masks(pixels, masks)
        with sole_writer(args.output), sole_writer(os.path.join(args.output, "vote")):
            write_masks(args.output, image, picture, masks, made_by, predicted.get("vote"))
        how_many = f"{len(masks)} mask{'' if len(masks) == 1 else 's'}"
        print(f"{image.path}: {how_many}", flush=True)

        shown = {"image": pixels, "SAM": picture}
        shown.update((title, classes_picture(classes)) for title, classes in predicted.items())
        try:
            truth = read_truth(image, pixels.shape[:2])
        except ImageError as error:
            fail(image.truth, error)
            truth = None
        if truth is not None:
            shown["truth"] = classes_picture(truth)
            num_scored += 1
            for title, classes in predicted.items():
                confusions[title] = confusions.get(title, 0) + confusion_of(classes, truth)
        sheet.add(f"{image.name}: {how_many}", shown)

    progress.close()
    sheet.write()
    if not sheet.written:
        raise UserError(f"{images[0].path}: none of {len(images)} images could be used; nothing is written")
    if confusions:
        scores = scores_of(confusions)
        write_json(os.path.join(args.output, "score.json"), {"images": num_scored, **scores})
        print(score_table(scores, num_scored))
    print("\n".join(sheet.written))
    return 1 if failed else 0


def weights_of(checkpoint: str) -> str:
    """The file `checkpoint`, or that of the official name that it is, fetched where it is not there."""
    named = [entry for entry in manifest.read() if entry["problem"] == "sam" and entry["name"] == checkpoint]
    try:
        return str(fetch(named[0])) if named else checkpoint
    except UserError as error:
        raise UserError(f"{error}; put the file there yourself, or give --checkpoint FILE") from None


def segmenter(paths: Sequence[str], device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """Makes (H, W) uint8 classes of (H, W, 3) uint8 pixels as p2_inference.py does with these model.pt."""
    models = read_models("p2", paths)
    networks = [load_trained(model) for model in models]
    runner = Runner(networks, partial(land_cover, networks, models), device, 1)
    return lambda pixels: runner(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy()


def masks_of(
    generator: MaskGenerator, pixels: np.ndarray, name: str, progress: Progress
) -> list[dict[str, Any]]:
    """The masks of one image; on the CPU where a GPU's memory is too small for it."""
    batch, advance = generator.points_per_batch, partial(progress.advance, name)
    try:
        masks = generator.generate(pixels, advance)
    except SamMemoryError as error:
        if generator.sam.device.type == "cpu":
            raise
        say(f"{error} on {generator.sam.device}: going on with the CPU")
        generator.sam.to("cpu")
        masks = generator.generate(pixels, advance)
    if generator.points_per_batch < batch:
        say(f"the memory was short: going on with {generator.points_per_batch} points at a time")
    return masks


def read_truth(image: ChosenImage, size: tuple[int, int]) -> np.ndarray | None:
    """(H, W) classes 0 to 7, None where there is no truth. ImageError: unreadable, or of another size."""
    if image.truth is None:
        return None
    truth = read_mask(image.truth)
    if truth.shape != size:
        raise ImageError(f"{image.truth}: its size is not that of {os.path.basename(image.path)}")
    return truth


# -- the vote beside the network alone, counted as mean_iou_evaluate.py counts -----


def confusion_of(predicted: np.ndarray, truth: np.ndarray) -> Tensor:
    """(H, W) classes each → (7, 7) pixels by truth and prediction; red counts as urban, unknown stays in."""
    target = np.where(truth == UNCLAIMED, 0, truth)
    return confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(target), NUM_CLASSES)


def scores_of(confusions: dict[str, Tensor]) -> dict[str, dict[str, float | None]]:
    """By title the IoU of each class that is there (the scorer says nan of one that few images lack), and the
    mean ("mean_iou") of those that every title has: one that a single title predicts would draw down its own.
    """
    scores = {}
    for title, confusion in confusions.items():
        ious = zip(CLASS_NAMES, iou_per_class(confusion, SCORED_CLASSES))
        scores[title] = {name: iou for name, iou in ious if not math.isnan(iou)}
    common = [name for name in CLASS_NAMES if all(name in ious for ious in scores.values())]
    return {
        title: {"mean_iou": mean_iou([ious[name] for name in common]) if common else None, **ious}
        for title, ious in scores.items()
    }


def score_table(scores: dict[str, dict[str, float | None]], num_images: int) -> str:
    """The scores in lines, a title a row; then which classes the means leave out."""
    names = ("mean_iou", *CLASS_NAMES[:SCORED_CLASSES])
    lines = [f"{f'{num_images} images':12}" + "".join(f"{name:>13}" for name in names)]
    for title, values in scores.items():
        found = [values.get(name) for name in names]
        cells = ["-" if value is None else f"{value:.6f}" for value in found]
        lines.append(f"{title:12}" + "".join(f"{cell:>13}" for cell in cells))
    left_out = [name for name in names[1:] if any(name not in values for values in scores.values())]
    if left_out:
        lines.append(f"mean_iou leaves out, in every row, what a row lacks: {', '.join(left_out)}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
