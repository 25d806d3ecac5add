"""EfficientNet-Lite: an encoder with taps at strides 4, 8, 16 and 32, its published classifier, and the light
segmentation network on it.

Tan and Le, "EfficientNet" (2019), in the Lite form of TensorFlow's TPU team: ReLU6 in place of swish, no
squeeze-and-excite, a stem and a head that are never scaled. torchvision has no such network, and Lite0's 3.4
million parameters train on a laptop. Parameter names are those of the published weights
(`_blocks.N._expand_conv.weight`).

The segmentation network, for machines without a GPU (3.1 million parameters with Lite0, 4.5 with Lite2), has
the context of PSPNet (Zhao et al., 2017): averages over bins of the coarsest features; and the decoder of a
feature pyramid network (Lin et al., 2017): from stride 32 down to 4 the coarser scale is upsampled and added.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# Inputs of the published weights are (x - 127) / 128 for x in 0..255; here for x in 0..1.
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3

# Lite0's stages: (expansion, channels, repeats, kernel, stride of the first repeat)
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
HEAD_CHANNELS = 1280  # of the published classifier's last convolution, whatever the width


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by itself, project by 1x1; add the input where its shape fits."""

    def __init__(self, expansion: int, in_channels: int, out_channels: int, kernel: int, stride: int):
        super().__init__()
        hidden = in_channels * expansion
        if expansion != 1:
            self._expand_conv = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self._bn0 = batch_norm(hidden)
        depthwise = {"padding": kernel // 2, "groups": hidden, "bias": False}
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, **depthwise)
        self._bn1 = batch_norm(hidden)
        self._project_conv = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self._bn2 = batch_norm(out_channels)
        self.expands = expansion != 1
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        hidden = features
        if self.expands:
            hidden = nn.functional.relu6(self._bn0(self._expand_conv(hidden)), inplace=True)
        hidden = nn.functional.relu6(self._bn1(self._depthwise_conv(hidden)), inplace=True)
        hidden = self._bn2(self._project_conv(hidden))
        return hidden + features if self.is_residual else hidden


class EfficientNetLite(nn.Module):
    """(B, 3, H, W), normalised with MEAN and STD → features at strides 4, 8, 16 and 32.

    Of (B, C, H/stride, W/stride), where C is in `channels`: 24, 40, 112 and 320 for Lite0. `width` and
    `depth` scale its channels and repeats (Lite2: 1.1 and 1.2), not the stem and the outer stages' repeats.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0):
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self._bn0 = batch_norm(32)
        blocks, taps, tapped_channels, in_channels = [], [], [], 32
        for stage, (expansion, channels, repeats, kernel, stride) in enumerate(STAGES):
            channels = scaled_channels(channels, width)
            if 0 < stage < len(STAGES) - 1:
                repeats = math.ceil(repeats * depth)
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                blocks.append(InvertedResidual(expansion, in_channels, channels, kernel, step))
                in_channels = channels
            if stage in (1, 2, 4, 6):
                taps.append(len(blocks) - 1)
                tapped_channels.append(channels)
        self._blocks = nn.ModuleList(blocks)
        self.taps, self.channels = tuple(taps), tuple(tapped_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = nn.functional.relu6(self._bn0(self._conv_stem(images)), inplace=True)
        tapped = []
        for index, block in enumerate(self._blocks):
            features = block(features)
            if index in self.taps:
                tapped.append(features)
        return tapped


def scaled_channels(channels: int, width: float) -> int:
    """`channels` times `width` in whole eights, at most a tenth below (Tan and Le's rule)."""
    scaled = max(8, int(channels * width + 4) // 8 * 8)
    return scaled + 8 if scaled < 0.9 * channels * width else scaled


class EfficientNetLiteClassifier(EfficientNetLite):
    """As published, with a new `_fc`: (B, 3, S, S) normalised by MEAN and STD → logits (B, num_classes)."""

    def __init__(self, num_classes: int, dropout: float = 0.2):
        super().__init__()
        self._conv_head = nn.Conv2d(self.channels[-1], HEAD_CHANNELS, 1, bias=False)
        self._bn1 = batch_norm(HEAD_CHANNELS)
        self._dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(HEAD_CHANNELS, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = nn.functional.relu6(self._bn1(self._conv_head(super().forward(images)[-1])), inplace=True)
        return self._fc(self._dropout(features.mean(dim=(2, 3))))


# -- the light segmentation network --------------------------------------------------------------------------


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
