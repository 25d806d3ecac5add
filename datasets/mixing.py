"""Two images in one, and both of their labels: mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

HOW_OFTEN = 0.5  # share of the batches that are mixed: the rest keeps training close to inference


def mix_images(images: Tensor, kind: str, generator: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """(B, 3, S, S) floats → the batch with each image's partner in it; which one that is (B); and the own
    share.

    `kind` is none, mixup or cutmix. The shares are even between 0 and 1 (Beta(1, 1)), and 1 for a batch left
    as it is.
    """
    partners = torch.arange(len(images)).roll(1)
    if kind == "none" or generator.uniform() >= HOW_OFTEN:
        return images, partners, 1.0
    share = float(generator.uniform())
    if kind == "mixup":
        return images.lerp(images.roll(1, 0), 1 - share), partners, share
    height, width = images.shape[2:]
    side = math.sqrt(1 - share)  # of the partner's rectangle, which has the image's own shape
    middle_y, middle_x = generator.integers(height), generator.integers(width)
    top, bottom = (int(np.clip(middle_y + sign * height * side / 2, 0, height)) for sign in (-1, 1))
    left, right = (int(np.clip(middle_x + sign * width * side / 2, 0, width)) for sign in (-1, 1))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
    return mixed, partners, 1 - (bottom - top) * (right - left) / (height * width)
