"""A network's masks and others made from them, scored on the same images as mean_iou_evaluate.py counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from datasets.palette import CLASS_NAMES, NUM_CLASSES, SCORED_CLASSES, UNCLAIMED
from engine.metrics import confusion_matrix, iou_per_class, mean_iou


class Scores:
    """Counts the pixels of several makers of masks ("model B", "vote"), image by image."""

    def __init__(self) -> None:
        self.images, self.counts = 0, {}

    def add(self, predicted: dict[str, np.ndarray], truth: np.ndarray) -> None:
        """(H, W) classes of each maker against the truth, where red counts as urban and unknown is not left
        out.
        """
        self.images += 1
        target = torch.from_numpy(np.where(truth == UNCLAIMED, 0, truth))
        for name, classes in predicted.items():
            found = confusion_matrix(torch.from_numpy(classes), target, NUM_CLASSES)
            self.counts[name] = self.counts.get(name, 0) + found

    def values(self) -> dict[str, Any]:
        """For JSON: each maker's IoU of the classes that are there, and their mean. A few images may lack a
        class; the scorer's mean would then be nan."""
        makers = {}
        for name, counts in self.counts.items():
            ious = dict(zip(CLASS_NAMES, iou_per_class(counts, SCORED_CLASSES)))
            ious = {label: iou for label, iou in ious.items() if not math.isnan(iou)}
            makers[name] = {"mean_iou": mean_iou(list(ious.values())) if ious else None, **ious}
        return {"images": self.images, **makers}

    def table(self) -> str:
        """The same in lines, a maker a row."""
        names = ("mean_iou", *CLASS_NAMES[:SCORED_CLASSES])
        lines = [f"{f'{self.images} images':12}" + "".join(f"{name:>13}" for name in names)]
        values = self.values()
        for maker in self.counts:
            found = [values[maker].get(name) for name in names]
            cells = (f"{'-' if value is None else f'{value:.6f}':>13}" for value in found)
            lines.append(f"{maker:12}" + "".join(cells))
        return "\n".join(lines)
