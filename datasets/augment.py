"""Training's augmentation of labelled images: each sample's drawn from (seed, epoch, position) alone.

Crop and flip act on bytes, image by image, where the data are read; colours change on the device, a whole
batch at once but each image by its own factors; and mixup and CutMix put two images into one. What reports
did is told by their recipes as `changes`, which act on bytes too.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision_functional

from datasets.images import evaluation_image
from datasets.labelled import LabelledImages
from datasets.palette import IGNORED
from engine.base import UserError

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


class ChangedImages(torch.utils.data.Dataset):
    """Each image as often as there are `changes`, a copy changed by each, as a report's recipe has it.

    Of the size that inference sees, and padded to a square where it pads.
    """

    def __init__(
        self,
        images: LabelledImages,
        image_size: int,
        seed: int,
        changes: Sequence[Mapping[str, Any]],
        is_padded: bool,
    ):
        self.images, self.image_size, self.seed = images, image_size, seed
        self.changes, self.is_padded = known_changes(changes), is_padded

    def __len__(self) -> int:
        return len(self.images) * len(self.changes)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        """(epoch, position, sample) → image (3, S, S) uint8 and label."""
        epoch, position, index = key
        copy, index = divmod(index, len(self.images))
        generator = np.random.default_rng((self.seed, epoch, position, 1))
        image = torch.from_numpy(self.images.image(index).copy()).permute(2, 0, 1)
        image, _ = changed(image, None, self.changes[copy], generator)
        rgb = evaluation_image(image.permute(1, 2, 0).numpy(), self.image_size, self.is_padded)
        return torch.from_numpy(rgb).permute(2, 0, 1).contiguous(), int(self.images.labels[index])


def random_box(generator: Generator, height: int, width: int, min_area: float) -> tuple[int, int, int, int]:
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


def mix_images(images: Tensor, kind: str, generator: Generator) -> tuple[Tensor, Tensor, float]:
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


# -- the changes that recipes name ---------------------------------------------------------------------------

# Each takes an image (3, H, W) uint8 and the target (H, W) of its pixels or None, the amount that the recipe
# names, and the generator that all of it is drawn from; each gives the image and its target.

Changed = Tuple[Tensor, Optional[Tensor]]


def changed(
    image: Tensor, target: Tensor | None, changes: Mapping[str, Any], generator: Generator
) -> Changed:
    """The image and its target after all `changes`, {name: amount}, in their order."""
    both = image, target
    for name, amount in changes.items():
        both = CHANGES[name](both, amount, generator)
    return both


def known_changes(copies: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The changes of each copy as they are. UserError for a name that is none."""
    for name in (name for changes in copies for name in changes):
        if name not in CHANGES:
            raise UserError(f"a recipe names the change {name!r}; there are {', '.join(CHANGES)}")
    return copies


def on_each(both: Changed, change: Callable[[Tensor], Tensor]) -> Changed:
    image, target = both
    return change(image), None if target is None else change(target)


def hflip(both: Changed, chance: float, generator: Generator) -> Changed:
    return on_each(both, lambda part: part.flip(-1)) if generator.uniform() < chance else both


def vflip(both: Changed, chance: float, generator: Generator) -> Changed:
    return on_each(both, lambda part: part.flip(-2)) if generator.uniform() < chance else both


def moved(both: Changed, move: Callable[..., Tensor]) -> Changed:
    """By one of torchvision's functions; black, and no target, where nothing was before."""
    image, target = both
    if target is not None:
        target = move(target[None], interpolation=InterpolationMode.NEAREST, fill=[IGNORED])[0]
    return move(image, interpolation=InterpolationMode.BILINEAR, fill=[0]), target


def rotation(both: Changed, most: float, generator: Generator) -> Changed:
    """By up to `most` degrees either way."""
    angle = float(generator.uniform(-most, most))
    return moved(both, lambda part, **how: torchvision_functional.rotate(part, angle, **how))


def affine(both: Changed, most: Sequence[float], generator: Generator) -> Changed:
    """Turned by up to most[0] degrees, moved by up to most[1] of each side, scaled by up to most[2]."""
    height, width = both[0].shape[1:]
    angle, right, down, larger = generator.uniform(-1, 1, size=4)
    shift = [int(right * most[1] * width), int(down * most[1] * height)]
    how = {"angle": angle * most[0], "translate": shift, "scale": 1 + larger * most[2], "shear": [0.0]}
    return moved(both, lambda part, **more: torchvision_functional.affine(part, **how, **more))


def perspective(both: Changed, most: Sequence[float], generator: Generator) -> Changed:
    """With a chance of most[1] each corner moves inwards, by up to most[0] of half a side."""
    if generator.uniform() >= most[1]:
        return both
    height, width = both[0].shape[1:]
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    inwards = generator.uniform(0, most[0] / 2, size=(4, 2)) * (width, height)
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    ends = np.round(corners + inwards * signs).astype(int)
    places = (corners.tolist(), ends.tolist())
    return moved(both, lambda part, **how: torchvision_functional.perspective(part, *places, **how))


def crop(both: Changed, min_area: float, generator: Generator) -> Changed:
    """A box of `min_area` to all of the image, of any shape: who asked for it brings it back to size."""
    left, top, right, bottom = random_box(generator, *both[0].shape[1:], min_area)
    return on_each(both, lambda part: part[..., top:bottom, left:right])


def window(both: Changed, share: float, generator: Generator) -> Changed:
    """A square of this share of the shorter side, not brought back to size."""
    height, width = both[0].shape[1:]
    side = max(1, round(share * min(height, width)))
    top, left = (int(generator.integers(whole - side + 1)) for whole in (height, width))
    return on_each(both, lambda part: part[..., top : top + side, left : left + side])


def blur(both: Changed, amount: Sequence[float], generator: Generator) -> Changed:
    """With a chance of amount[0] by a 3x3 kernel, of a sigma from amount[1] to amount[2] pixels."""
    if generator.uniform() >= amount[0]:
        return both
    sigma = float(generator.uniform(amount[1], amount[2]))
    return torchvision_functional.gaussian_blur(both[0], [3, 3], [sigma, sigma]), both[1]


def jitter(both: Changed, most: Sequence[float], generator: Generator) -> Changed:
    """With a chance of most[4] factors of brightness, contrast and saturation up to most[:3] from 1, and hue
    up to most[3] of a turn, in an order at random (torchvision's)."""
    if generator.uniform() >= most[4]:
        return both
    image, target = both
    amounts = generator.uniform(-1, 1, size=4) * most[:4]
    for which in generator.permutation(4):
        if which == 3 and most[3]:
            image = torchvision_functional.adjust_hue(image, amounts[3])
        elif most[which]:
            image = ADJUSTED[which](image, max(0.0, 1 + amounts[which]))
    return image, target


def grey(both: Changed, chance: float, generator: Generator) -> Changed:
    if generator.uniform() >= chance:
        return both
    return torchvision_functional.rgb_to_grayscale(both[0], num_output_channels=3), both[1]


ADJUSTED = (
    torchvision_functional.adjust_brightness,
    torchvision_functional.adjust_contrast,
    torchvision_functional.adjust_saturation,
)
CHANGES = {
    function.__name__: function
    for function in (hflip, vflip, rotation, affine, perspective, crop, window, blur, jitter, grey)
}
