"""BYOL's two views of an image (Grill et al., 2020, appendix B): drawn per sample, made in batches.

All that is random comes in as numbers, so a sample's views follow from (seed, epoch, sample) on any device.
"""

from __future__ import annotations

import math
from typing import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.sampling import epoch_order

# How often each change is made in the first and in the second view (the paper's table 6).
PROBABILITIES = (
    {"mirror": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 1.0, "solarise": 0.0},
    {"mirror": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 0.1, "solarise": 0.2},
)
BRIGHTNESS, CONTRAST, SATURATION = 0.4, 0.4, 0.2  # factors lie that far from 1 at most
HUE = 0.1  # of a full turn, either way
SIGMAS = (0.1, 2.0)  # of the blur, in pixels of a view of 224 px; scaled to the view's size
WIDEST = 4 / 3  # a crop's width over its height at most; 3 / 4 at least
SOLARISED_FROM = 0.5  # pixels from here on are turned into their negative

# What each number of a view decides: of the first five whether, of the others how much.
AMOUNTS = ("area", "aspect", "x", "y", "brightness", "contrast", "saturation", "hue", "sigma")
DRAWS = (*PROBABILITIES[0], *AMOUNTS)
NUMBERS = len(DRAWS)

_LUMA = (0.299, 0.587, 0.114)
_YIQ = torch.tensor([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)], dtype=torch.float64)
# Acting on (R, G, B): grey's part of a colour, the colourful rest, and that rest turned by a right angle.
_TO_GREY = torch.tensor([_LUMA] * 3)
_TO_COLOUR = torch.eye(3) - _TO_GREY
_QUARTER = torch.tensor([(0, 0, 0), (0, 0, -1), (0, 1, 0)], dtype=torch.float64)
_TURNED = (torch.linalg.inv(_YIQ) @ _QUARTER @ _YIQ).float()


def epoch_numbers(count: int, seed: int, epoch: int) -> Tensor:
    """(count, 2, NUMBERS) float32 in [0, 1), from (seed, epoch) alone; row i is for sample i, not place i."""
    generator = np.random.default_rng((seed, epoch, 2))  # not the numbers that give the epoch's order
    return torch.from_numpy(generator.random((count, 2, NUMBERS), dtype=np.float32))


def epoch_images(
    pixels: Tensor, seed: int, epoch: int, batch_size: int, first_batch: int, share: slice
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch from `first_batch` on: images (b, 3, K, K), their numbers (b, 2, NUMBERS).

    `pixels` (N, K, K, 3) uint8 lie on the CPU or the GPU. Of each batch `share` comes, one process's part.
    """
    # Sent to a GPU once an epoch: sent with each batch, they would wait for it.
    order = torch.from_numpy(epoch_order(len(pixels), seed, epoch, None)).to(pixels.device)
    numbers = epoch_numbers(len(pixels), seed, epoch).to(pixels.device)
    for batch in order.split(batch_size)[first_batch:]:
        if len(batch) == batch_size:  # a short last one is dropped
            samples = batch[share]
            yield pixels[samples].permute(0, 3, 1, 2), numbers[samples]


def two_views(images: Tensor, numbers: Tensor, size: int, min_area: float) -> tuple[Tensor, Tensor]:
    """(B, 3, K, K) uint8 and (B, 2, NUMBERS) in [0, 1) → two views (B, 3, size, size) float32 in 0..1.

    Crops have `min_area` to all of the image's area. Nothing waits for a GPU.
    """
    with torch.autocast(images.device.type, enabled=False):  # bf16 has too few digits for colours
        pictures = images.to(torch.float32, memory_format=torch.contiguous_format) / 255
        draws = [dict(zip(DRAWS, numbers[:, which].unbind(1))) for which in (0, 1)]
        first, second = (
            _view(pictures, drawn, chances, size, min_area) for drawn, chances in zip(draws, PROBABILITIES)
        )
    return first, second


def _view(
    images: Tensor, draws: dict[str, Tensor], chances: dict[str, float], size: int, min_area: float
) -> Tensor:
    """(B, 3, K, K) in 0..1 and numbers (B) by name → one view (B, 3, size, size).

    All is computed for every sample, then chosen: picking samples by a mask would wait for the GPU.
    """
    happens = {name: draws[name] < chance for name, chance in chances.items()}
    images = _cropped(images, draws, happens["mirror"], size, min_area)
    images = _coloured(images, draws, happens["jitter"], happens["grey"]).clamp_(0, 1)
    images = _blurred(images, draws["sigma"], happens["blur"]).clamp_(0, 1)  # rounding may lead past 1
    is_solarised = happens["solarise"][:, None, None, None] & (images >= SOLARISED_FROM)
    return torch.where(is_solarised, 1 - images, images)


def _cropped(images: Tensor, draws: dict[str, Tensor], mirror: Tensor, size: int, min_area: float) -> Tensor:
    """Crop, scale and mirror at once, bilinear.

    The paper draws a box again until it fits; here its aspect is drawn from those that fit (uniform in the
    logarithm), which takes one number. No antialiasing: images are 1.25 times the view's side at most.
    """
    area = min_area + (1 - min_area) * draws["area"]
    # width² = area * aspect and height² = area / aspect are 1 at most when |log aspect| <= -log area.
    widest = (-area.log()).clamp(max=math.log(WIDEST))
    aspect = ((2 * draws["aspect"] - 1) * widest).exp()
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    # grid_sample's coordinates run from -1 to 1 over the image, from edge to edge.
    steps = (torch.arange(size, device=images.device) * 2 + 1) / size - 1
    x = (2 * draws["x"] - 1) * (1 - width)
    y = (2 * draws["y"] - 1) * (1 - height)
    columns = x[:, None] + torch.where(mirror, -width, width)[:, None] * steps
    rows = y[:, None] + height[:, None] * steps
    shape = (len(images), size, size)
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    # Not beyond the middle of the outermost pixels: padding by the border, which mps does not have.
    limit = 1 - 1 / images.shape[3]
    return F.grid_sample(images, grid.clamp_(-limit, limit), mode="bilinear", align_corners=False)


def _coloured(images: Tensor, draws: dict[str, Tensor], jitter: Tensor, grey: Tensor) -> Tensor:
    """Brightness, contrast, saturation, hue (torchvision's factors), grey: one 3x3 matrix and one offset.

    The order is fixed where the paper draws it, and nothing is clipped on the way. Hue turns the colours
    about the grey axis in YIQ, which keeps their luma; grey is a saturation of 0.
    """

    def amount(name: str, largest: float) -> Tensor:
        return torch.where(jitter, (2 * draws[name] - 1) * largest, 0.0)

    brightness = 1 + amount("brightness", BRIGHTNESS)
    contrast = 1 + amount("contrast", CONTRAST)
    saturation = torch.where(grey, 0.0, 1 + amount("saturation", SATURATION))
    hue = amount("hue", HUE) * 2 * math.pi
    matrices = (_TO_GREY, _TO_COLOUR, _TURNED)
    to_grey, to_colour, turned = (matrix.to(images.device, non_blocking=True) for matrix in matrices)
    cosine, sine = (saturation * hue.cos())[:, None, None], (saturation * hue.sin())[:, None, None]
    matrix = (brightness * contrast)[:, None, None] * (to_grey + cosine * to_colour + sine * turned)
    # Contrast spreads the pixels about the mean luma of the brightened crop.
    mean_luma = images.mean(dim=(2, 3)) @ to_grey[0]
    offset = (brightness * (1 - contrast) * mean_luma)[:, None, None]
    return torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images)


def _blurred(images: Tensor, draw: Tensor, blur: Tensor) -> Tensor:
    """Gaussian blur of each image by its own sigma: a column and a row of weights, the images as channels.

    The kernel is about a tenth of the view's side, as the paper's 23 of 224 pixels.
    """
    count, _, size, _ = images.shape
    radius = max(1, round(size / 20))
    sigma = (SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * draw) * size / 224
    sigma = torch.where(blur, sigma, 0.01)  # so narrow that nothing changes
    distances = torch.arange(-radius, radius + 1, device=images.device) / sigma[:, None]
    weights = (-0.5 * distances**2).softmax(dim=1).repeat_interleave(3, dim=0)[:, None]  # (3B, 1, kernel)
    planes = F.pad(images.reshape(1, 3 * count, size, size), (radius,) * 4, mode="replicate")
    planes = F.conv2d(planes, weights[:, :, :, None], groups=3 * count)
    return F.conv2d(planes, weights[:, :, None, :], groups=3 * count).view_as(images)
