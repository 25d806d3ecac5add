"""Training's random changes to photographs: each sample's drawn from (seed, epoch, position), whoever cuts
it.

Crop and mirror act on bytes, image by image, where the data are read; colours change on the device, a whole
batch at once but each image by its own factors.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.labelled import LabelledImages
from datasets.trivial_augment import trivial_augment

ASPECTS = (3 / 4, 4 / 3)  # of a crop's width over its height, in the photograph


class PhotoCrops(torch.utils.data.Dataset):
    """Random crops, squeezed to a square, half of them mirrored: `min_area` to all of a photograph; or with a
    `shift` all of it, moved by up to so many of its pixels.

    `policy` is "colours", which change by up to `jitter`, or "trivial", TrivialAugment.
    """

    def __init__(
        self,
        photographs: LabelledImages,
        crop_size: int,
        seed: int,
        min_area: float = 1.0,
        shift: int = 0,
        policy: str = "colours",
        jitter: float = 0.0,
    ):
        self.photographs, self.crop_size, self.seed = photographs, crop_size, seed
        self.min_area, self.shift, self.policy = min_area, shift, policy
        self.jitter = jitter if policy == "colours" else 0.0

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int, Tensor]:
        """(epoch, position, sample) → image (3, S, S) uint8, label, three colour factors (float32)."""
        epoch, position, index = key
        generator = np.random.default_rng((self.seed, epoch, position, 1))
        rgb = self.photographs.image(index)
        if self.shift:
            x, y = (int(moved) for moved in generator.integers(2 * self.shift + 1, size=2))
            box = (x, y, x + rgb.shape[1], y + rgb.shape[0])
            rgb = np.pad(rgb, ((self.shift, self.shift), (self.shift, self.shift), (0, 0)), mode="reflect")
        else:
            box = random_box(generator, *rgb.shape[:2], self.min_area)
        crop = Image.fromarray(rgb).resize((self.crop_size, self.crop_size), Image.BILINEAR, box=box)
        if self.policy == "trivial":
            crop = trivial_augment(crop, generator)
        image = torch.from_numpy(np.array(crop)).permute(2, 0, 1)
        if generator.integers(2) == 1:
            image = image.flip(2)
        brightness, contrast, saturation = generator.uniform(-self.jitter, self.jitter, size=3)
        # Half as much added light as contrast: it moves every pixel.
        colours = torch.tensor([brightness / 2, 1 + contrast, 1 + saturation], dtype=torch.float32)
        return image.contiguous(), int(self.photographs.labels[index]), colours


def random_box(
    generator: np.random.Generator, height: int, width: int, min_area: float
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a crop as Inception's (Szegedy et al., 2014): area and aspect at
    random.
    """
    for _ in range(10):
        area = height * width * generator.uniform(min_area, 1.0)
        aspect = math.exp(generator.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(generator.integers(width - box_width + 1))
            top = int(generator.integers(height - box_height + 1))
            return left, top, left + box_width, top + box_height
    return 0, 0, width, height  # a photograph too narrow for any such crop


def jitter_colours(images: Tensor, colours: Tensor) -> Tensor:
    """(B, 3, S, S) in 0..1 and (B, 3) factors of brightness (added), contrast and saturation → (B, 3, S, S)
    in 0..1.
    """
    brightness, contrast, saturation = (colours[:, i, None, None, None] for i in range(3))
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * saturation
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - middle) * contrast + middle + brightness).clamp_(0, 1)
