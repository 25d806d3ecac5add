"""From a photograph to what a classifier sees, where nothing is drawn at random: evaluation and inference."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def evaluation_image(rgb: np.ndarray, image_size: int) -> Tensor:
    """(H, W, 3) uint8 → (3, S, S) uint8, squashed to a square as the course does; bilinear with
    antialiasing.
    """
    image = Image.fromarray(rgb).resize((image_size, image_size), Image.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
