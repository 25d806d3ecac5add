"""The light segmentation network: EfficientNet-Lite, pooled context, and a decoder that adds its four scales.

For machines without a GPU: 3.1 million parameters with Lite0, 4.5 with Lite2. The decoder is that of a
feature pyramid network (Lin et al., 2017): each scale is projected to the same width, the coarser one is
upsampled and added, from stride 32 down to 4. The context is that of PSPNet (Zhao et al., 2017): averages
over 1x1, 2x2 and 4x4 bins of the coarsest features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.efficientnet_lite import EfficientNetLite


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def bin_averages(features: Tensor, bins: int) -> Tensor:
    """(B, C, h, w) → (B, C, bins, bins)."""
    if features.device.type == "mps":  # which refuses bins that do not divide the size, say 9x9 into 2x2
        return functional.adaptive_avg_pool2d(features.cpu(), bins).to(features.device)
    return functional.adaptive_avg_pool2d(features, bins)


def upsampled(features: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) → (B, C, *size), bilinear."""
    return functional.interpolate(features, size=size, mode="bilinear", align_corners=False)


class PooledContext(nn.Module):
    """(B, C, h, w) → (B, width, h, w): the features beside their averages over 1, 2 and 4 bins a side."""

    def __init__(self, in_channels: int, width: int, bins: tuple[int, ...] = (1, 2, 4)):
        super().__init__()
        self.bins = bins
        self.project = nn.ModuleList(nn.Conv2d(in_channels, width // 4, 1) for _ in bins)
        self.fuse = conv_bn_relu(in_channels + len(bins) * (width // 4), width, 1)

    def forward(self, features: Tensor) -> Tensor:
        branches = [features]
        for bins, project in zip(self.bins, self.project):
            pooled = project(bin_averages(features, bins))
            branches.append(upsampled(pooled, features.shape[-2:]))
        return self.fuse(torch.cat(branches, dim=1))


class LiteFPN(nn.Module):
    """(B, 3, H, W) → {"out": logits of (B, classes, H, W)}; computed at stride 4 and upsampled."""

    def __init__(self, num_classes: int, backbone: EfficientNetLite, width: int = 128):
        super().__init__()
        self.backbone = backbone
        *finer, coarsest = self.backbone.channels
        self.context = PooledContext(coarsest, width)
        self.lateral = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in reversed(finer))
        # Depthwise then pointwise: smooths each sum at a ninth of a full convolution's cost.
        self.smooth = nn.ModuleList(
            nn.Sequential(conv_bn_relu(width, width, 3, groups=width), conv_bn_relu(width, width, 1))
            for _ in finer
        )
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, num_classes, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        *finer, coarsest = self.backbone(images)
        features = self.context(coarsest)
        for scale, lateral, smooth in zip(reversed(finer), self.lateral, self.smooth):
            features = smooth(lateral(scale) + upsampled(features, scale.shape[-2:]))
        return {"out": upsampled(self.classifier(features), images.shape[-2:])}


def lite_fpn(num_classes: int) -> nn.Module:
    return LiteFPN(num_classes, EfficientNetLite())


def lite2_fpn(num_classes: int) -> nn.Module:
    return LiteFPN(num_classes, EfficientNetLite(width=1.1, depth=1.2))
