"""Automatic masks of images by Segment Anything, and whether their vote betters a network's land cover.

    bash get_checkpoints.sh vit_b
    python3 p2_sam.py --images hw1_data/p2_data/validation/0013_sat.jpg --output runs/sam \\
        --vote runs/p2/model.pt

Of each image 0013_sat.jpg it writes 0013_sam.png (coloured masks with outlines) and 0013_sam.json (the masks
as uncompressed COCO run lengths, with box, area, predicted IoU, stability score and point), and of all
together sheet.png and sheet.pdf: image, truth (the 0013_mask.png beside it), model B, SAM. With --vote each
SAM mask takes the class that most of its pixels have by that network; the results are in OUTPUT/vote, scored
beside the network alone in score.json.

The masks are those of segment-anything's SamAutomaticMaskGenerator. A GPU tries 32 x 32 points, 64 at a time;
a CPU 16 x 16, 16 at a time. All of it can be set; the batch changes no mask, and is halved when the memory
runs out.

Exit status: 0 all done; 1 some images could not be used (named on stderr), all else is there; 2 nothing was.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
from functools import partial
from typing import Any, Callable, Sequence

from engine import inference, manifest
from engine.arguments import nonempty_path, positive_count, positive_number
from engine.base import UserError, run_script, say

POINTS_PER_SIDE, POINTS_PER_BATCH = {"cpu": 16}, {"cpu": 16}  # by device; any other has 32 and 64


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--images",
        type=nonempty_path,
        nargs="+",
        required=True,
        help="images, or folders of tiles (NNNN_sat.jpg)",
    )
    add("--output", type=nonempty_path, required=True, help="folder for what is written")
    add(
        "--checkpoint",
        type=nonempty_path,
        default="vit_b",
        help="an official file of weights, or vit_b (default, 0.4 GB), vit_l, vit_h (2.6 GB, the best): "
        "then it is "
        "fetched if it is not there",
    )
    network = parser.add_mutually_exclusive_group()
    about = "a model.pt of problem 2, several are averaged; none named: P2_CHECKPOINT, else the published one"
    network.add_argument(
        "--vote", type=nonempty_path, nargs="*", metavar="MODEL", help=f"masks vote: {about}"
    )
    network.add_argument(
        "--model-b", type=nonempty_path, nargs="*", metavar="MODEL", help=f"show only: {about}"
    )
    # which masks
    add(
        "--points-per-side",
        type=positive_count,
        help="points of the grid along a side (default 32, 16 on a CPU)",
    )
    add(
        "--pred-iou-thresh",
        type=finite,
        default=0.88,
        help="least predicted IoU; 0 keeps all (default %(default)s)",
    )
    add(
        "--stability-score-thresh",
        type=finite,
        default=0.95,
        help="least stability score (default %(default)s)",
    )
    add(
        "--box-nms-thresh",
        type=positive_number,
        default=0.7,
        help="boxes alike: one is left (default %(default)s)",
    )
    add(
        "--crop-n-layers",
        type=int,
        choices=range(4),
        default=0,
        help="also look at 4, 16, 64 crops of the image",
    )
    add(
        "--crop-n-points-downscale-factor",
        type=positive_count,
        default=1,
        help="fewer points by layer of crops",
    )
    # the machine
    add("--points-per-batch", type=positive_count, help="points at a time (default 64, 16 on a CPU)")
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    return parser.parse_args(argv)


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def require_more(*packages: str) -> None:
    """Leave with one line and status 2 where a package is missing that only this script needs."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        say(
            f"error: {sys.executable} lacks {' and '.join(missing)}; install it: "
            f"{inference.install_command()}"
        )
        sys.exit(UserError.exit_status)


if __name__ == "__main__":
    ARGUMENTS = (
        parse_arguments()
    )  # before torch, which takes two seconds to import: --help and mistakes don't wait
    inference.require_packages()
    require_more("segment_anything", "matplotlib")

import numpy as np
import torch

from datasets.images import ImageError, read_rgb
from datasets.rle import vote
from datasets.tile_pairs import read_mask
from datasets.tiles import ChosenImage, find_images
from engine.base import Progress, write_json
from engine.device import choose_device, tune_allocator
from engine.download import fetch
from engine.pipeline import Runner
from models.builders import load_trained
from models.predict import land_cover
from models.sam import load_sam, type_of
from models.sam_masks import MaskGenerator, SamMemoryError
from report.sam_files import check_output, write_masks
from report.sam_pictures import Sheet, classes_picture, draw_masks
from report.vote_score import Scores


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    images = find_images(args.images)
    check_output(args.output, images)
    device = choose_device(args.device)
    generator, weights = mask_generator(args, device)
    model_b = segmenter(args, device)

    made_by = {
        "network": type_of(generator.sam),
        "weights": os.path.basename(weights),
        **settings(args, device),
    }
    columns = [
        "image",
        *["truth"] * any(image.truth for image in images),
        *["model B"] * bool(model_b),
        "SAM",
    ]
    sheet = Sheet(os.path.join(args.output, "sheet"), columns + ["vote"] * (args.vote is not None))
    scores, failed = Scores(), []
    progress = Progress("points", total=len(images) * generator.points_of_an_image())

    def fail(path: str, reason: Exception) -> None:
        say(f"left out: {reason}" if path in str(reason) else f"left out: {path}: {reason}")
        failed.append(path)

    for image in images:
        try:
            pixels = read_rgb(image.path, apply_exif=False)
            masks = masks_of(generator, pixels, image.name, progress)
            classes = {"model B": model_b(pixels)} if model_b else {}
        except UserError as error:  # no image, or one too thin or too large: the others can go on
            fail(image.path, error)
            continue
        if args.vote is not None:
            classes["vote"] = vote(classes["model B"], masks)
        picture = draw_masks(pixels, masks)
        write_masks(args.output, image, picture, masks, made_by, classes.get("vote"))
        print(f"{image.path}: {len(masks)} mask{'' if len(masks) == 1 else 's'}", flush=True)
        try:
            truth = read_truth(image, pixels.shape[:2])
        except ImageError as error:
            fail(image.truth, error)
            truth = None
        if truth is not None:
            scores.add(classes, truth)
            classes["truth"] = truth
        shown = {title: classes_picture(found) for title, found in classes.items()}
        sheet.add(
            f"{image.name}: {len(masks)} mask{'' if len(masks) == 1 else 's'}",
            {"image": pixels, "SAM": picture, **shown},
        )
    progress.close()
    sheet.write()
    if not sheet.written:
        raise UserError(f"{images[0].path}: none of {len(images)} images could be used; nothing is written")
    if scores.counts:
        write_json(os.path.join(args.output, "score.json"), scores.values())
        print(scores.table())
    print("\n".join(sheet.written))
    return 1 if failed else 0


def settings(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The arguments of MaskGenerator but for the batch, which changes no mask."""
    names = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_n_layers")
    chosen = {name: vars(args)[name] for name in (*names, "crop_n_points_downscale_factor")}
    return {"points_per_side": args.points_per_side or POINTS_PER_SIDE.get(device.type, 32), **chosen}


def mask_generator(args: argparse.Namespace, device: torch.device) -> tuple[MaskGenerator, str]:
    """Segment Anything on the device, and its file of weights, which is fetched where it is named and not
    there.
    """
    path = args.checkpoint
    entry = next((e for e in manifest.read() if e["problem"] == "sam" and e["name"] == path), None)
    if entry:
        try:
            path = manifest.entry_path(entry) if manifest.is_present(entry) else fetch(entry)
        except UserError as error:
            raise UserError(f"{error}; put the file there yourself, or give --checkpoint FILE") from None
    sam = load_sam(path)
    say(f"checkpoint {path}: {type_of(sam)} of Segment Anything, on {device}")
    batch = args.points_per_batch or POINTS_PER_BATCH.get(device.type, 64)
    return MaskGenerator(sam.to(device), points_per_batch=batch, **settings(args, device)), str(path)


def masks_of(
    generator: MaskGenerator, pixels: np.ndarray, name: str, progress: Progress
) -> list[dict[str, Any]]:
    """The masks of one image; on the CPU where a GPU's memory is too small for it."""

    def advance(points: int) -> None:
        for _ in range(points):
            progress.advance(name)

    batch = generator.points_per_batch
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


def segmenter(args: argparse.Namespace, device: torch.device) -> Callable[[np.ndarray], np.ndarray] | None:
    """Makes (H, W) uint8 classes of (H, W, 3) uint8 pixels as p2_inference.py does; None where none is asked
    for.
    """
    given = args.vote if args.vote is not None else args.model_b
    if given is None:
        return None
    models = inference.read_models("p2", given)
    networks = [load_trained(model) for model in models]

    runner = Runner(networks, partial(land_cover, networks, models), device, 1)
    return lambda pixels: runner(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy()


def read_truth(image: ChosenImage, size: tuple[int, int]) -> np.ndarray | None:
    """(H, W) classes 0 to 7, None where there is no truth.

    ImageError when it cannot be read or has another size.
    """
    if image.truth is None:
        return None
    truth = read_mask(image.truth)
    if truth.shape != size:
        raise ImageError(f"{image.truth}: its size is not that of {os.path.basename(image.path)}")
    return truth


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
