"""models.sam_masks against segment-anything's SamAutomaticMaskGenerator: time and peak memory, in turns.

    python3 -m benchmarks.bench_sam
    python3 -m benchmarks.bench_sam --checkpoint sam_vit_b_01ec64.pth --image 0013_sat.jpg \\
        --points-per-side 32

Without a file of weights it makes a small network with random ones that keeps masks: the real classes and
decoder, 1024 pixels, a narrow image encoder. Masks must be equal before anything is timed: same number, order
and points, boxes within a pixel, each mask's IoU at least 0.999.

Each side runs in processes of its own: ours with p2_sam.py's batch for a CPU and its setting of the
allocator, the other with its default batch of 64 and the allocator as it is. Loading is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import engine  # noqa: F401  first: it says in a line what a Python lacks

# isort: split
import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.predictor import SamPredictor
from segment_anything.utils.amg import build_point_grid
from torch.nn import functional

from benchmarks.in_turns import MAX_RSS_UNIT, in_own_process, in_turns, print_table
from datasets.drawings import draw_tile
from datasets.images import read_rgb
from datasets.sam_files import mask_of_runs
from engine.device import tune_allocator
from models.sam import build_sam, load_sam
from models.sam_masks import MaskGenerator

# -- a network without a training --------------------------------------------------------------------------

_ENCODER = {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_attn_indexes": (1,), "window_size": 7}
SMALL = {"image_size": 256, "grid": 16, **_ENCODER}
PASSING = 0.25  # of the candidates, above the default pred_iou_thresh
THRESHOLD = 0.88
HILLS = 5  # along a side
COVERED = 0.12  # of the pixels, by a mask on average


@torch.no_grad()
def lively_sam(image: np.ndarray, seed: int = 0, points_per_side: int = 8, **sizes: Any) -> Sam:
    """A random network of `build_sam(**sizes)` that keeps masks, for want of real weights.

    At default thresholds a random SAM keeps no mask, and nothing equals nothing. This one's last layers are
    scaled on the very (H, W, 3) uint8 `image` that it will see, at this grid of points: a quarter of the
    candidates pass 0.88, and their borders are sharp.
    """
    torch.manual_seed(seed)
    sam = build_sam(**sizes).eval()
    for name, parameter in sam.named_parameters():
        # Zeros at the start of a training: no path may rest on that.
        if "rel_pos" in name or "attention_biases" in name:
            parameter.normal_(std=0.2)
    # Places that differ smoothly: so masks are blobs, as those of a trained network, not dust.
    if hasattr(sam.image_encoder, "pos_embed"):  # TinyViT knows no places
        places = sam.image_encoder.pos_embed
        hills = torch.randn(1, places.shape[3], HILLS, HILLS) * 2
        places.copy_(functional.interpolate(hills, places.shape[1:3], mode="bicubic").permute(0, 2, 3, 1))
    for layer in (sam.mask_decoder.output_upscaling[0], sam.mask_decoder.output_upscaling[3]):
        layer.weight.copy_(2 * layer.weight.mean(dim=(2, 3), keepdim=True) + 0.3 * layer.weight)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    grid = build_point_grid(points_per_side) * np.array(image.shape[1::-1])
    points = torch.from_numpy(predictor.transform.apply_coords(grid, image.shape[:2]))[:, None]

    def predict() -> tuple[torch.Tensor, torch.Tensor]:
        """→ logits (points, 3, h, w) and quality (points, 3)."""
        parts = [
            predictor.predict_torch(some, torch.ones(len(some), 1, dtype=torch.int), return_logits=True)
            for some in points.split(16)
        ]
        return torch.cat([part[2] for part in parts]), torch.cat([part[1] for part in parts])

    logits, quality = predict()
    head = sam.mask_decoder.iou_prediction_head.layers[-1]
    wanted = (quality - quality.mean(dim=0)) / quality.std(dim=0) * 0.05
    scale = 0.05 / quality.std(dim=0)
    head.weight[1:] *= scale[:, None]
    head.bias[1:] = (head.bias[1:] - quality.mean(dim=0)) * scale + THRESHOLD - wanted.quantile(1 - PASSING)
    for index in range(3):
        last = sam.mask_decoder.output_hypernetworks_mlps[1 + index].layers[-1]
        factor = 200 / logits[:, index].std()
        last.weight *= factor
        last.bias *= factor
        logits[:, index] *= factor
    # Cut at 0, masks would be half of the image, all with one box; so they are blobs here and there.
    sam.mask_threshold = logits.flatten()[:: max(1, logits.numel() // 1_000_000)].quantile(1 - COVERED).item()
    return sam


# -- the comparison ----------------------------------------------------------------------------------------

NARROW = {"image_size": 1024, "grid": 64, "embed_dim": 192, "depth": 4, "num_heads": 3}
NARROW.update(global_attn_indexes=(1, 3), window_size=14)
BATCH = {"ours": 16, "official": 64}  # ours: POINTS_PER_BATCH of p2_sam.py on a CPU


def run_side(side: str, folder: str, threads: int | None) -> None:
    """In its own process: masks into `folder`/`side`.json; wall and CPU seconds and peak MiB to stdout."""
    if side == "ours":
        tune_allocator()
    if threads:
        torch.set_num_threads(threads)
    checkpoint, mask_threshold, settings = json.loads(Path(folder, "settings.json").read_text())
    sam = load_sam(checkpoint)
    sam.mask_threshold = mask_threshold
    image = np.load(os.path.join(folder, "image.npy"))
    settings = {"points_per_batch": BATCH[side], **settings}
    if side == "ours":
        generator = MaskGenerator(sam, **settings)
    else:
        generator = SamAutomaticMaskGenerator(sam, output_mode="uncompressed_rle", **settings)
    start, cpu = time.perf_counter(), time.process_time()
    masks = generator.generate(image)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    Path(folder, f"{side}.json").write_text(json.dumps(masks))
    print(json.dumps([wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAX_RSS_UNIT / 2**20]))


def make_inputs(folder: str, args: argparse.Namespace) -> None:
    """Write the image, the weights where none are given, and the settings of both sides."""
    if args.image:
        image = read_rgb(args.image, apply_exif=False)
    else:
        image = np.array(draw_tile(np.random.default_rng(0), 512, [])[0])
    np.save(os.path.join(folder, "image.npy"), image)
    settings: dict[str, Any] = {"points_per_side": args.points_per_side}
    checkpoint, cut = args.checkpoint, 0.0
    if not checkpoint:
        sam = lively_sam(image, seed=0, points_per_side=args.points_per_side, **NARROW)
        checkpoint, cut = os.path.join(folder, "sam.pth"), sam.mask_threshold
        torch.save(sam.state_dict(), checkpoint)
        settings.update(stability_score_thresh=0.9, box_nms_thresh=1.0)  # random boxes are much alike
    Path(folder, "settings.json").write_text(json.dumps([checkpoint, cut, settings]))


call = partial(in_own_process, "benchmarks.bench_sam")


def check_equal(folder: str) -> str:
    """What is equal, in words; leaves where anything differs by more than it may."""
    ours, official = (json.loads(Path(folder, f"{side}.json").read_text()) for side in BATCH)
    if len(ours) != len(official) or not ours:
        sys.exit(f"not equal: {len(ours)} masks, the official generator makes {len(official)}")
    least, same = 1.0, 0
    for number, (mine, theirs) in enumerate(zip(ours, official)):
        one, other = mask_of_runs(mine["segmentation"]), mask_of_runs(theirs["segmentation"])
        iou = (one & other).sum() / max((one | other).sum(), 1)
        is_near = all(abs(a - b) <= 1 for a, b in zip(mine["bbox"], theirs["bbox"]))
        if iou < 0.999 or not is_near or mine["point_coords"] != theirs["point_coords"]:
            sys.exit(f"not equal: mask {number}, IoU {iou:.5f}, boxes {mine['bbox']} and {theirs['bbox']}")
        least, same = min(least, iou), same + (iou == 1)
    areas = sorted(mask["area"] for mask in ours)
    return (
        f"{len(ours)} masks in one order, {same} identical, least IoU {least:.6f}; "
        f"areas {areas[0]} to {areas[-1]}, median {areas[len(areas) // 2]} pixels"
    )


def compare(folder: str, rounds: int) -> None:
    for side in BATCH:  # these runs also bring the files into the system's cache for both
        call("--side", side, "--folder", folder)
    print(f"{check_equal(folder)}; {rounds} rounds in turns, median (min to max)", flush=True)

    def measure(side: str) -> list[float]:
        return json.loads(call("--side", side, "--folder", folder))

    print_table(in_turns(list(BATCH), rounds, measure))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", help="an official file of weights (default: random ones)")
    parser.add_argument("--image", help="the image (default: a made-up tile of 512 pixels)")
    parser.add_argument("--points-per-side", type=int, default=8, help="points of the grid along a side")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side is timed")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument(
        "--random",
        nargs=2,
        metavar=("IMAGE", "FILE"),
        help="write a small random network's weights for this image, for p2_sam.py --checkpoint",
    )
    parser.add_argument("--side", choices=list(BATCH), help=argparse.SUPPRESS)  # one timed run
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.random:
        image, weights = args.random
        torch.save(lively_sam(read_rgb(image, apply_exif=False), **SMALL).state_dict(), weights)
    elif args.side:
        run_side(args.side, args.folder, args.threads)
    elif args.make:
        make_inputs(args.folder, args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            # In a process of its own, so that this one stays small: Linux hands peak memory on to children.
            call("--make", "--folder", folder)
            compare(folder, args.rounds)


if __name__ == "__main__":
    main()
