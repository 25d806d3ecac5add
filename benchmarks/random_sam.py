"""A Segment Anything with random weights that keeps masks, for tests and benchmarks without real weights.

    python3 -m benchmarks.random_sam 0013_sat.jpg random_sam.pth     # a small one, for p2_sam.py --checkpoint

At default thresholds a random SAM keeps no mask, and nothing equals nothing. This one's last layers are
scaled on the very image that it will see: a quarter of the candidates pass 0.88, and their borders are sharp.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.predictor import SamPredictor
from segment_anything.utils.amg import build_point_grid
from torch.nn import functional

from datasets.images import read_rgb
from models.sam import build_sam

SMALL = {
    "image_size": 256,
    "grid": 16,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "global_blocks": [1],
    "window": 7,
}
PASSING = 0.25  # of the candidates, above the default pred_iou_thresh
THRESHOLD = 0.88
HILLS = 5  # along a side
COVERED = 0.12  # of the pixels, by a mask on average


@torch.no_grad()
def lively_sam(image: np.ndarray, seed: int = 0, points_per_side: int = 8, **sizes: Any) -> Sam:
    """A random network of `build_sam(**sizes)`, scaled on (H, W, 3) uint8 `image` at this grid of points."""
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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.random_sam",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", help="the image that its layers are scaled on")
    parser.add_argument("weights", help="the file to write, laid out as the official ones")
    args = parser.parse_args()
    sam = lively_sam(read_rgb(args.image, apply_exif=False), **SMALL)
    torch.save(sam.state_dict(), args.weights)


if __name__ == "__main__":
    main()
