"""The course's score in the plain way, for comparison: every mask as float64 in memory, then class by class.

python3 benchmarks/plain_mean_iou.py LABELS_DIR PRED_DIR
"""

from __future__ import annotations

import os
import sys

import numpy as np
from PIL import Image


def read_masks(folder: str) -> np.ndarray:
    """The masks of a folder as (n, 512, 512) float64 classes."""
    names = sorted(name for name in os.listdir(folder) if name.endswith(".png"))
    masks = np.zeros((len(names), 512, 512))
    for i, name in enumerate(names):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            sys.exit(f"{path!a}: not a regular file")
        mask = np.array(Image.open(path, formats=["PNG"]))
        mask = (mask >= 128).astype(int)
        mask = 4 * mask[:, :, 0] + 2 * mask[:, :, 1] + mask[:, :, 2]
        masks[i, mask == 3] = 0  # cyan, urban
        masks[i, mask == 6] = 1  # yellow, agriculture
        masks[i, mask == 5] = 2  # magenta, rangeland
        masks[i, mask == 2] = 3  # green, forest
        masks[i, mask == 1] = 4  # blue, water
        masks[i, mask == 7] = 5  # white, barren
        masks[i, mask == 0] = 6  # black, unknown
    return masks


def mean_iou_score(pred: np.ndarray, labels: np.ndarray) -> float:
    """Print the IoU of six classes and their mean."""
    mean_iou = 0
    for i in range(6):
        tp_fp = np.sum(pred == i)
        tp_fn = np.sum(labels == i)
        tp = np.sum((pred == i) * (labels == i))
        iou = tp / (tp_fp + tp_fn - tp)
        mean_iou += iou / 6
        print(f"class #{i} : {iou:1.5f}")
    print(f"\nmean_iou: {mean_iou:f}\n")
    return mean_iou


if __name__ == "__main__":
    mean_iou_score(pred=read_masks(sys.argv[2]), labels=read_masks(sys.argv[1]))
