"""Losses for segmentation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def segmentation_loss(
    logits: Tensor, targets: Tensor, ignored: int, scored_classes: int, soft_iou_weight: float
) -> Tensor:
    """Cross-entropy plus, weighted, 1 - the soft IoU over the batch (Rahman and Wang, 2016, equations 3 to 5).

    logits (B, C, H, W), targets (B, H, W) with `ignored` where nothing is known; the soft IoU is the mean over those
    of the first `scored_classes` that the batch holds.
    """
    log_probabilities = logits.log_softmax(dim=1)
    known = targets != ignored
    # By hand: the mean over no known pixel would be nan.
    loss = functional.nll_loss(log_probabilities, targets, ignore_index=ignored, reduction="sum")
    loss = loss / known.sum().clamp(min=1)
    if not soft_iou_weight:
        return loss
    probabilities = log_probabilities.exp() * known.unsqueeze(1)
    soft_ious = []
    for number in range(scored_classes):
        truth = targets == number
        if truth.any():
            both = (probabilities[:, number] * truth).sum()
            soft_ious.append(both / (probabilities[:, number].sum() + truth.sum() - both))
    return loss + soft_iou_weight * (1 - torch.stack(soft_ious).mean()) if soft_ious else loss
