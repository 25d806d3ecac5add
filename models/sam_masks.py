"""Automatic masks of an image by Segment Anything: SamAutomaticMaskGenerator's, in a fraction of its time.

Same points, same filters in the same order, same non-maximum suppression; what differs is when it is done:

- the image encoder's attention is fused, the decoder shares what all points share (models.sam_networks);
  both are equal but for rounding, all else is equal bit by bit;
- masks are filtered by predicted IoU before they are made and upsampled, not after;
- a mask is kept as run lengths, found for many masks at once.

Not here: min_mask_region_area, which needs OpenCV.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.utils import amg
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torchvision.ops import batched_nms

from engine.base import UserError, is_out_of_memory
from models.sam_networks import PointDecoder, encode_image

UPSAMPLED_TOGETHER = 16  # masks at 1024 x 1024 at a time: 64 MiB
STABILITY_OFFSET = 1.0  # logits between the two cuts whose IoU is the stability score
CROP_NMS_THRESH = 0.7  # between masks of different crops
CROP_OVERLAP = 512 / 1500  # of the image's shorter side, in the first layer of crops


class SamMemoryError(UserError):
    """One image that needs more memory than there is, even point by point; a CPU may have more."""


class Crop(NamedTuple):
    """A part of an image; sizes are height and width."""

    box: list[int]  # x0 y0 x1 y1
    size: tuple[int, int]
    seen: tuple[int, int]  # as the network sees it
    whole: tuple[int, int]  # of the image


class MaskGenerator:
    """Makes masks of images. The settings are SamAutomaticMaskGenerator's, with its defaults.

    `points_per_batch` is halved when the memory runs out, and stays so. One serves for many images.
    """

    def __init__(
        self,
        sam: Sam,
        points_per_side: int = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_n_points_downscale_factor: int = 1,
    ):
        if points_per_side < crop_n_points_downscale_factor**crop_n_layers:
            raise UserError(
                f"a grid of {points_per_side} points a side leaves none for the smallest crops; give more "
                "points, fewer layers of crops or a smaller downscale factor"
            )
        self.sam, self.points_per_batch = sam, points_per_batch
        self.pred_iou_thresh, self.stability_score_thresh = pred_iou_thresh, stability_score_thresh
        self.box_nms_thresh, self.crop_n_layers = box_nms_thresh, crop_n_layers
        downscale = crop_n_points_downscale_factor
        self.grids = amg.build_all_layer_point_grids(points_per_side, crop_n_layers, downscale)
        self.resize = ResizeLongestSide(sam.image_encoder.img_size)

    def points_of_an_image(self) -> int:
        """How many points `generate` tries, in all crops."""
        return sum(len(grid) * 4**layer for layer, grid in enumerate(self.grids))

    @torch.no_grad()
    def generate(
        self, image: np.ndarray, on_points: Callable[[int], None] | None = None
    ) -> list[dict[str, Any]]:
        """(H, W, 3) uint8 RGB → a dict for each mask, best first. Boxes are x, y, width, height.

        Keys and values are those of SamAutomaticMaskGenerator with output_mode="uncompressed_rle".
        `on_points` is told after each batch how many points it had. SamMemoryError; UserError if too thin.
        """
        size = image.shape[:2]
        parts = []
        for crop, layer in zip(*amg.generate_crop_boxes(size, self.crop_n_layers, CROP_OVERLAP)):
            parts.append(self._masks_of_crop(image, crop, self.grids[layer], on_points))
        found = {key: _joined([part[key] for part in parts]) for key in parts[0]}
        if len(parts) > 1:  # those of the smaller crops are preferred
            sides = found["crops"][:, 2:] - found["crops"][:, :2]
            found = _kept_apart(found, 1 / sides.prod(dim=1), CROP_NMS_THRESH)
        return [
            {
                "segmentation": {"size": list(size), "counts": runs.tolist()},
                "area": int(runs[1::2].sum()),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "predicted_iou": quality,
                "point_coords": [point],
                "stability_score": stability,
                "crop_box": [left, top, right - left, bottom - top],
            }
            for runs, (x0, y0, x1, y1), quality, point, stability, (left, top, right, bottom) in zip(
                found["runs"],
                *(found[key].tolist() for key in ("boxes", "quality", "points", "stability", "crops")),
            )
        ]

    def _masks_of_crop(
        self, image: np.ndarray, box: list[int], grid: np.ndarray, on_points: Callable[[int], None] | None
    ) -> dict[str, Any]:
        """The masks of one crop, x0 y0 x1 y1, without duplicates, in the whole image's coordinates."""
        x0, y0, x1, y1 = box
        pixels = image[y0:y1, x0:x1]
        points = grid * np.array(pixels.shape[1::-1])
        seen = self.resize.get_preprocess_shape(*pixels.shape[:2], self.sam.image_encoder.img_size)
        if min(*seen, *pixels.shape[:2]) < 1:
            raise UserError(f"{image.shape[1]}x{image.shape[0]} pixels are too thin for Segment Anything")
        crop = Crop(box, pixels.shape[:2], seen, image.shape[:2])
        try:
            decoder = self._decoder_of(pixels)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise SamMemoryError("the image encoder needs more memory than there is") from None

        parts, start = [], 0
        while start < len(points):
            batch = points[start : start + self.points_per_batch]
            try:
                parts.append(self._masks_of_points(decoder, batch, crop))
                start += len(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise SamMemoryError("a single point needs more memory than there is") from None
                self.points_per_batch = len(batch) // 2
                continue
            if on_points:
                on_points(len(batch))
        found = {key: _joined([part[key] for part in parts]) for key in parts[0]}
        found = _kept_apart(found, found["quality"], self.box_nms_thresh)
        found["boxes"] = amg.uncrop_boxes_xyxy(found["boxes"], box)
        found["points"] = amg.uncrop_points(found["points"], box)
        found["crops"] = torch.tensor(box).expand(len(found["runs"]), 4)
        return found

    def _decoder_of(self, pixels: np.ndarray) -> PointDecoder:
        resized = torch.as_tensor(self.resize.apply_image(pixels), device=self.sam.device)
        images = self.sam.preprocess(resized.permute(2, 0, 1).contiguous()[None])
        return PointDecoder(self.sam, encode_image(self.sam.image_encoder, images))

    def _masks_of_points(self, decoder: PointDecoder, points: np.ndarray, crop: Crop) -> dict[str, Any]:
        """The masks of some points (B, 2) of a crop, filtered singly, as run lengths of the whole image."""
        device = self.sam.device
        # In float64, as the original has them, except on Apple's GPUs, which know none.
        precision = torch.float32 if device.type == "mps" else torch.float64
        prompts = torch.as_tensor(self.resize.apply_coords(points, crop.size)).to(device, precision)
        quality, seen_images, weights = decoder.judge(prompts)
        # At 0 all are, as in the original.
        wanted = (quality > self.pred_iou_thresh) | (self.pred_iou_thresh <= 0)
        logits = decoder.masks(seen_images, weights, wanted)
        del seen_images
        parts = [self._finished(some, crop) for some in logits.split(UPSAMPLED_TOGETHER)]
        is_kept = torch.cat([part["is_kept"] for part in parts])
        found = {key: _joined([part[key] for part in parts]) for key in ("stability", "boxes", "runs")}
        found["quality"] = quality[wanted].cpu()[is_kept]
        found["points"] = torch.as_tensor(points)[wanted.nonzero()[:, 0].cpu()][is_kept]
        return found

    def _finished(self, logits: Tensor, crop: Crop) -> dict[str, Any]:
        """Logits (K, h, w) → which are kept (K); of those stability, box in the crop and run lengths."""
        cut = self.sam.mask_threshold
        if len(logits):  # torch upsamples no empty tensor
            logits = self.sam.postprocess_masks(logits[None], crop.seen, crop.size)[0]
        inner = (logits > cut + STABILITY_OFFSET).sum(dim=(1, 2))
        stability = inner / (logits > cut - STABILITY_OFFSET).sum(dim=(1, 2))
        is_kept = (stability >= self.stability_score_thresh) | (self.stability_score_thresh <= 0)
        masks = logits[is_kept] > cut
        boxes = _boxes(masks)
        is_whole = ~amg.is_box_near_crop_edge(boxes, crop.box, [0, 0, *crop.whole[::-1]])
        is_kept[is_kept.clone()] = is_whole
        return {
            "is_kept": is_kept.cpu(),
            "stability": stability[is_kept].cpu(),
            "boxes": boxes[is_whole].cpu(),
            "runs": run_lengths(amg.uncrop_masks(masks[is_whole], crop.box, *crop.whole)),
        }


def _boxes(masks: Tensor) -> Tensor:
    """(K, H, W) bool → (K, 4) int64: x0 y0 x1 y1, the first and last column and row of each; 0 if empty."""
    edges = []
    for along in (masks.any(dim=1), masks.any(dim=2)):  # columns (K, W), rows (K, H)
        places = torch.arange(along.shape[1], device=masks.device)
        last = (places * along).amax(dim=1)
        first = torch.where(along, places, along.shape[1]).amin(dim=1)
        # In an empty mask the first would lie beyond the last.
        edges.append(torch.stack([torch.minimum(first, last), last], dim=1))
    return torch.stack(edges, dim=2).flatten(1)


def _joined(parts: list) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [item for part in parts for item in part]


def _kept_apart(found: dict[str, Any], scores: Tensor, threshold: float) -> dict[str, Any]:
    """Without those whose box overlaps a higher score's by more than `threshold`; highest score first."""
    boxes = found["boxes"].float()
    keep = batched_nms(boxes, scores, torch.zeros(len(boxes)), threshold)
    return {
        key: value[keep] if isinstance(value, Tensor) else [value[index] for index in keep.tolist()]
        for key, value in found.items()
    }


def run_lengths(masks: Tensor) -> list[np.ndarray]:
    """(K, H, W) bool → COCO's uncompressed RLE of each mask: how many pixels (int32) are off, on, off, ...

    Column by column; the first number is 0 where a mask begins with on.
    """
    count, height, width = masks.shape
    columns = masks.transpose(1, 2).reshape(count, height * width)
    changes = columns[:, 1:] != columns[:, :-1]
    if masks.device.type == "cpu":
        places = np.flatnonzero(changes.numpy())  # four times as fast as torch's
    else:  # there, the whole masks never leave the device
        places = changes.flatten().nonzero()[:, 0].cpu().numpy()
    is_on = columns[:, 0].cpu().numpy()
    pixels, per_mask = height * width, height * width - 1
    borders = np.searchsorted(places, np.arange(count + 1) * per_mask)
    runs = []
    for index in range(count):
        ends = places[borders[index] : borders[index + 1]] - index * per_mask + 1
        start = [0, 0] if is_on[index] else [0]
        runs.append(np.diff(np.concatenate([start, ends, [pixels]])).astype(np.int32))
    return runs
