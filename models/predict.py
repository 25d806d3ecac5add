"""From uint8 images to logits: one path for validation and inference, so that their scores agree."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.base import UserError
from models.fcn import pad_to_multiple

SCORED_CLASSES = 6  # unknown, the seventh logit, is never predicted
COARSEST_STRIDE = 32  # of every segmentation network here

# Test-time augmentation: how each pass sees the tile, as (quarter turns, then mirrored left to right).
TTA_PASSES = {
    "none": ((0, False),),
    "flip": ((0, False), (0, True), (2, False), (2, True)),
    "d4": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, H, W) in 0..1 → (images - mean) / std, channel by channel."""
    mean, std = (constants(tuple(values), images.dtype, images.device) for values in (mean, std))
    return (images - mean[:, None, None]) / std[:, None, None]


@lru_cache(maxsize=16)
def constants(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(N,), made once: to send numbers to a GPU anew for each batch is to wait for it."""
    with torch.inference_mode(False):  # a tensor of inference mode could not be used in training
        return torch.tensor(values, dtype=dtype, device=device)


@torch.inference_mode()
def predict_images(
    network: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float], tta: str = "none"
) -> Tensor:
    """(B, 3, S, S) uint8 images → logits (B, classes), float32. The last bits may depend on B, no more.

    With `tta` "flip" the network sees each image mirrored as well: the logarithm of the mean probability.
    """
    images = normalise(images.float() / 255, mean, std).contiguous(memory_format=torch.channels_last)
    logits = network(images).float()
    if tta == "none":
        return logits
    mirrored = images.flip(3).contiguous(memory_format=torch.channels_last)
    return log_mean_probability([logits, network(mirrored).float()])


@torch.inference_mode()
def predict_classes(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
) -> Tensor:
    """The class (N) of each item in batches (B, 3, S, S) of uint8 images, or (B, features) of heads."""
    found = []
    for batch, _ in batches:
        batch = batch.to(device)
        logits = predict_images(network, batch, mean, std) if batch.dtype == torch.uint8 else network(batch)
        found.append(logits.argmax(dim=1))
    return torch.cat(found).cpu()


@torch.inference_mode()
def predict_tiles(
    network: nn.Module,
    tiles: Tensor,
    scale: float,
    mean: Sequence[float],
    std: Sequence[float],
    tta: str = "none",
) -> Tensor:
    """(B, 3, H, W) uint8 tiles → logits of the scored classes (B, 6, H, W), float32.

    The network sees the tiles at `scale`, once for each of TTA_PASSES[tta]; several passes give the logarithm
    of their mean probability, which is a logit again. It is brought back to the tiles' own size.
    """
    if tiles.device.type == "cpu" and len(tiles) > 1:
        # One by one, a tile's mask depends on it alone: a CPU may sum in another order in another batch.
        return torch.cat([predict_tiles(network, tile[None], scale, mean, std, tta) for tile in tiles])
    images = normalise(resize_tiles(tiles, scale).float() / 255, mean, std)
    passes = [pass_logits(network, images, *each) for each in TTA_PASSES[tta]]
    logits = passes[0] if len(passes) == 1 else log_mean_probability(passes)
    size = tiles.shape[-2:]
    if logits.shape[-2:] == size:
        return logits
    return functional.interpolate(logits, size, mode="bilinear", align_corners=False)


def land_cover(
    networks: Sequence[nn.Module],
    models: Sequence[dict],
    tiles: Tensor,
    scales: Sequence[float] = (),
    tta: str | None = None,
) -> Tensor:
    """(B, 3, H, W) uint8 tiles → (B, H, W) uint8 classes, by all networks' mean probability at all scales.

    `models` are the networks' model.pt, which say the scale and the TTA passes where none are given.
    UserError where the networks answer with numbers that are not finite: no class is the highest then.
    """
    logits = [
        predict_tiles(network, tiles, scale, model["mean"], model["std"], tta or model.get("tta", "none"))
        for network, model in zip(networks, models)
        for scale in scales or [model["scale"]]
    ]
    mean = logits[0] if len(logits) == 1 else log_mean_probability(logits)
    require_finite(mean)
    return mean.argmax(dim=1).to(torch.uint8)


def require_finite(answers: Tensor) -> None:
    if not answers.isfinite().all():
        raise UserError(
            "the network's answers are not finite: its weights are broken or too large; take another one"
        )


def resize_tiles(tiles: Tensor, scale: float) -> Tensor:
    """(B, 3, H, W) uint8 → (B, 3, round(H * scale), round(W * scale)), bilinear with antialiasing.

    Bytes on the CPU, as in training; floats elsewhere, which have no such kernel (at most .5 of a level off).
    """
    size = [max(1, round(side * scale)) for side in tiles.shape[-2:]]
    if size == list(tiles.shape[-2:]):
        return tiles
    if tiles.device.type == "cpu":
        tiles = tiles.contiguous(memory_format=torch.channels_last)  # 20 times as fast on bytes
    else:
        tiles = tiles.float()
    return functional.interpolate(tiles, size, mode="bilinear", antialias=True, align_corners=False)


def pass_logits(network: nn.Module, images: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Logits (B, 6, H, W) of normalised images that the network sees turned and mirrored; turned back."""
    images = torch.rot90(images, turns, (2, 3))
    images = images.flip(3) if mirrored else images
    height, width = images.shape[-2:]
    padded = pad_to_multiple(images, COARSEST_STRIDE).contiguous(memory_format=torch.channels_last)
    logits = network(padded)["out"][:, :SCORED_CLASSES, :height, :width].float()
    logits = logits.flip(3) if mirrored else logits
    return torch.rot90(logits, -turns, (2, 3))


def log_mean_probability(logits: Sequence[Tensor]) -> Tensor:
    """Several (B, classes, ...) logits → the logarithm of their mean softmax, in which zeros stay finite."""
    total = logits[0].log_softmax(dim=1)
    for others in logits[1:]:
        total = torch.logaddexp(total, others.log_softmax(dim=1))
    return total - math.log(len(logits))
