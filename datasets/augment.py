"""Training's augmentation of labelled images: each sample's drawn from (seed, epoch, position) alone.

Crop and flip act on bytes, image by image, where the data are read; colours change on the device, a whole
batch at once but each image by its own factors; and mixup and CutMix put two images into one.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.labelled import LabelledImages

MIX_PROBABILITY = 0.5  # share of the batches that are mixed: the rest keeps training close to inference
ASPECTS = (3 / 4, 4 / 3)  # of a crop's width over its height, in the image


class ImageCrops(torch.utils.data.Dataset):
    """Random crops of `min_area` to all of an image, resized to a square, half of them mirrored.

    With a `shift` all of the image, moved by up to so many pixels. Colours change by up to `jitter`.
    """

    def __init__(
        self,
        images: LabelledImages,
        crop_size: int,
        seed: int,
        min_area: float = 1.0,
        shift: int = 0,
        jitter: float = 0.0,
    ):
        self.images, self.crop_size, self.seed = images, crop_size, seed
        self.min_area, self.shift, self.jitter = min_area, shift, jitter

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int, Tensor]:
        """(epoch, position, sample) → image (3, S, S) uint8, label, three colour factors (float32)."""
        epoch, position, index = key
        generator = np.random.default_rng((self.seed, epoch, position, 1))
        rgb = self.images.image(index)
        if self.shift:
            x, y = (int(moved) for moved in generator.integers(2 * self.shift + 1, size=2))
            box = (x, y, x + rgb.shape[1], y + rgb.shape[0])
            rgb = np.pad(rgb, ((self.shift, self.shift), (self.shift, self.shift), (0, 0)), mode="reflect")
        else:
            box = random_box(generator, *rgb.shape[:2], self.min_area)
        crop = Image.fromarray(rgb).resize((self.crop_size, self.crop_size), Image.BILINEAR, box=box)
        image = torch.from_numpy(np.array(crop)).permute(2, 0, 1)
        if generator.integers(2) == 1:
            image = image.flip(2)
        brightness, contrast, saturation = generator.uniform(-self.jitter, self.jitter, size=3)
        # Half as much added light as contrast: it moves every pixel.
        colours = torch.tensor([brightness / 2, 1 + contrast, 1 + saturation], dtype=torch.float32)
        return image.contiguous(), int(self.images.labels[index]), colours


def random_box(
    generator: np.random.Generator, height: int, width: int, min_area: float
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), area and aspect at random as Inception's crops (Szegedy et al., 2014)."""
    for _ in range(10):
        area = height * width * generator.uniform(min_area, 1.0)
        aspect = math.exp(generator.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(generator.integers(width - box_width + 1))
            top = int(generator.integers(height - box_height + 1))
            return left, top, left + box_width, top + box_height
    return 0, 0, width, height  # an image too narrow for any such crop


def jitter_colours(images: Tensor, colours: Tensor) -> Tensor:
    """(B, 3, S, S) in 0..1 changed by (B, 3) factors of brightness (added), contrast and saturation."""
    brightness, contrast, saturation = (colours[:, i, None, None, None] for i in range(3))
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * saturation
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - middle) * contrast + middle + brightness).clamp_(0, 1)


def mix_images(images: Tensor, kind: str, generator: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """(B, 3, S, S) floats → the batch with each image's partner in it; which one (B); and the own share.

    `kind` is none, mixup or cutmix. The shares are even between 0 and 1 (Beta(1, 1)); 1 for an unmixed batch.
    """
    partners = torch.arange(len(images), device=images.device).roll(1)
    if kind == "none" or generator.uniform() >= MIX_PROBABILITY:
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
