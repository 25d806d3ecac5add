"""Masks as run lengths (COCO's uncompressed RLE): column by column, how many pixels off, on, off, ..."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def run_lengths(masks: Tensor) -> list[np.ndarray]:
    """(K, H, W) bool → for each mask its counts (int32), first of pixels that are off: 0 where it begins with
    on.
    """
    count, height, width = masks.shape
    columns = masks.transpose(1, 2).reshape(count, height * width)
    changes = columns[:, 1:] != columns[:, :-1]
    if masks.device.type == "cpu":
        places = np.flatnonzero(changes.numpy())  # four times as fast as torch's
    else:
        places = (
            changes.flatten().nonzero()[:, 0].cpu().numpy()
        )  # there, the whole masks never leave the device
    is_on = columns[:, 0].cpu().numpy()
    pixels, per_mask = height * width, height * width - 1
    borders = np.searchsorted(places, np.arange(count + 1) * per_mask)
    runs = []
    for index in range(count):
        ends = places[borders[index] : borders[index + 1]] - index * per_mask + 1
        start = [0, 0] if is_on[index] else [0]
        runs.append(np.diff(np.concatenate([start, ends, [pixels]])).astype(np.int32))
    return runs
