"""What a segmentation network sees an image with: (B, 3, H, W) → features by their stride, {8: ..., 16: ...,
32: ...}.

H and W are multiples of 32. Parameters have torchvision's own names, so that its files and ours fill them.
"""

from __future__ import annotations

import torchvision
from torch import Tensor, nn
from torchvision.models import vgg


class VGGEncoder(nn.Sequential):
    """The `features` of torchvision's VGG16, with or without batch norm; each stride's features are a
    max-pool's.
    """

    channels = {8: 256, 16: 512, 32: 512}

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        features, stride = images, 1
        by_stride: dict[int, Tensor] = {}
        for layer in self:
            features = layer(features)
            if isinstance(layer, nn.MaxPool2d):
                stride *= 2
                if stride in self.channels:
                    by_stride[stride] = features
        return by_stride


def vgg16(batch_norm: bool = False) -> VGGEncoder:
    encoder = VGGEncoder(*vgg.make_layers(vgg.cfgs["D"], batch_norm))
    for layer in encoder:
        if isinstance(
            layer, nn.Conv2d
        ):  # as torchvision's VGG starts; the rest starts at its layers' own defaults
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return encoder


class ResNetEncoder(nn.Module):
    """torchvision's ResNet18 or 34 without its last two layers; each stride's features are a stage's."""

    channels = {8: 128, 16: 256, 32: 512}

    def __init__(self, name: str):
        super().__init__()
        network = torchvision.models.get_model(name, weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = (
            network.conv1,
            network.bn1,
            network.relu,
            network.maxpool,
        )
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            network.layer1,
            network.layer2,
            network.layer3,
            network.layer4,
        )

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        stride4 = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        stride8 = self.layer2(self.layer1(stride4))
        stride16 = self.layer3(stride8)
        return {8: stride8, 16: stride16, 32: self.layer4(stride16)}
