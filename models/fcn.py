"""Fully convolutional networks (Shelhamer, Long, Darrell, 2017) on VGG16."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional


def bilinear_kernel(kernel_size: int) -> Tensor:
    """(k, k): the weights with which a transposed convolution of stride k / 2 interpolates bilinearly."""
    centre = (kernel_size - 1) / 2
    reach = (kernel_size + 1) // 2
    line = 1 - (torch.arange(kernel_size) - centre).abs() / reach
    return line[:, None] * line[None, :]


def upsampler(channels: int, stride: int) -> nn.ConvTranspose2d:
    """Enlarges `stride` times; trainable, starting as bilinear interpolation of each channel by itself."""
    layer = nn.ConvTranspose2d(channels, channels, 2 * stride, stride=stride, padding=stride // 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(channels):
            layer.weight[channel, channel] = bilinear_kernel(2 * stride)
    return layer


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) right and below, by repeating the edge, until both sides are multiples."""
    height, width = images.shape[-2:]
    padding = (0, -width % multiple, 0, -height % multiple)
    return functional.pad(images, padding, mode="replicate") if any(padding) else images


class FCN32s(nn.Module):
    """(B, 3, H, W) → {"out": (B, classes, H, W)}: VGG16's features, three convolutions, one enlargement by 32.

    The paper's first convolution has a kernel of 7; 1 keeps 16x16 without its padding of 100 pixels.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.backbone = torchvision.models.vgg16(weights=None).features
        self.head = nn.Sequential(
            nn.Conv2d(512, 4096, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(4096, 4096, 1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(4096, num_classes, 1),
        )
        self.upsample = upsampler(num_classes, 32)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        logits = self.upsample(self.head(self.backbone(pad_to_multiple(images, 32))))
        return {"out": logits[..., :height, :width]}
