"""Scores that are summed up batch by batch, on the device where the predictions are."""

from __future__ import annotations

import torch
from torch import Tensor


def confusion_matrix(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Two integer tensors of one shape → (num_classes, num_classes) counts; rows are the truth."""
    pairs = target.flatten().long() * num_classes + predicted.flatten().long()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_per_class(confusion: Tensor, scored_classes: int) -> list[float]:
    """Intersection over union of the first `scored_classes`; the rows and columns of the others still count
    against them, as in the course's script. A class on neither side is nan."""
    confusion = confusion.cpu().double()  # in this order: mps knows no float64
    both = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - both
    return [(both[c] / union[c]).item() for c in range(scored_classes)]


def mean_iou(ious: list[float]) -> float:
    """The mean in the course's order of summation, so that the last digit is the same."""
    total = 0.0
    for iou in ious:
        total += iou / len(ious)
    return total
