"""Losses for segmentation: over single pixels, and over the shapes that they make."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from models.predict import constants


def pixel_loss(
    logits: Tensor, targets: Tensor, ignored: int, gamma: float = 0.0, alpha: Sequence[float] = (1.0,)
) -> Tensor:
    """The focal loss (Lin et al., 2017, equation 5), summed over the pixels that are not `ignored`.

    logits (B, C, H, W), targets (B, H, W). `alpha` weighs every class alike (one number) or each by itself.
    With gamma 0 and alpha 1 it is cross-entropy.
    """
    log_probabilities = logits.log_softmax(dim=1)
    if gamma:  # clamped: below 1 a power is infinitely steep at 0
        log_probabilities = (1 - log_probabilities.exp()).clamp(min=1e-6).pow(gamma) * log_probabilities
    weights = constants(tuple(alpha), logits.dtype, logits.device)
    weights = weights.expand(logits.shape[1])  # of one number, or of one a class
    return functional.nll_loss(log_probabilities, targets, weights, ignore_index=ignored, reduction="sum")


def soft_iou_loss(logits: Tensor, targets: Tensor, ignored: int, scored_classes: int) -> Tensor:
    """1 - the soft IoU over the batch (Rahman and Wang, 2016, equations 3 to 5).

    A mean over those of the first `scored_classes` that the batch holds; 0 when it holds none. logits
    (B, C, H, W), targets (B, H, W). Of several processes each takes its own share's: an IoU is no mean.
    """
    probabilities = logits.softmax(dim=1) * (targets != ignored).unsqueeze(1)
    soft_ious, counts = [], []
    for number in range(scored_classes):
        truth = targets == number
        both, count = (probabilities[:, number] * truth).sum(), truth.sum()
        either = probabilities[:, number].sum() + count - both
        soft_ious.append(both / either.clamp(min=1e-6))  # 0 where nothing is known
        counts.append(count)
    # Absent classes are weighed with 0, not left out: to ask which they are is to wait for the GPU.
    is_there = torch.stack(counts) > 0
    number_there = is_there.sum()
    return number_there.clamp(max=1) - (torch.stack(soft_ious) * is_there).sum() / number_there.clamp(min=1)
