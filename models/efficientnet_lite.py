"""EfficientNet-Lite0 as an encoder with taps at strides 4, 8, 16 and 32.

Tan and Le, "EfficientNet" (2019), in the Lite form of TensorFlow's TPU team: ReLU6 in place of swish, no
squeeze-and-excite, a stem and a head that are never scaled. torchvision has no such network, and its 3.4 million
parameters train on a laptop. Parameter names are those of the published weights (`_blocks.N._expand_conv.weight`).
"""

from __future__ import annotations

from torch import Tensor, nn

# Inputs of the published weights are (x - 127) / 128 for x in 0..255; here for x in 0..1.
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3

# (expansion, channels, repeats, kernel, stride of the first repeat)
STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by itself, project by 1x1; add the input where the shape allows it."""

    def __init__(self, expansion: int, in_channels: int, out_channels: int, kernel: int, stride: int):
        super().__init__()
        hidden = in_channels * expansion
        if expansion != 1:
            self._expand_conv = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self._bn0 = batch_norm(hidden)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, padding=kernel // 2, groups=hidden, bias=False)
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


class EfficientNetLite0(nn.Module):
    """(B, 3, H, W), normalised with MEAN and STD → features of (B, 24, H/4, W/4), (B, 40, H/8, W/8),
    (B, 112, H/16, W/16) and (B, 320, H/32, W/32)."""

    channels = (24, 40, 112, 320)  # of the four taps

    def __init__(self):
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self._bn0 = batch_norm(32)
        blocks, taps, in_channels = [], [], 32
        for stage, (expansion, channels, repeats, kernel, stride) in enumerate(STAGES):
            for repeat in range(repeats):
                blocks.append(InvertedResidual(expansion, in_channels, channels, kernel, stride if repeat == 0 else 1))
                in_channels = channels
            if stage in (1, 2, 4, 6):
                taps.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self.taps = tuple(taps)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = nn.functional.relu6(self._bn0(self._conv_stem(images)), inplace=True)
        tapped = []
        for index, block in enumerate(self._blocks):
            features = block(features)
            if index in self.taps:
                tapped.append(features)
        return tapped
