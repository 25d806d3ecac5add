"""Networks that classify photographs: (B, 3, S, S) → logits (B, num_classes).

The last child of each is its head, the layers that are new for new classes; the rest is its backbone. The ResNet50s
have torchvision's key names, so that the course's backbones fit them all.
"""

from __future__ import annotations

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

HIDDEN_UNITS = 4096


def resnet18(num_classes: int) -> nn.Module:
    return torchvision.models.resnet18(weights=None, num_classes=num_classes)


def resnet50(num_classes: int) -> nn.Module:
    """The classifier of settings A to E: torchvision's ResNet50 with a new `fc` on its 2,048 pooled features."""
    # Each residual branch starts at zero (Goyal et al., 2017): fifty layers learn from their first steps.
    return torchvision.models.resnet50(weights=None, num_classes=num_classes, zero_init_residual=True)


def resnet50_bn(num_classes: int) -> nn.Module:
    """A ResNet50 whose features are standardised before its `fc`: frozen ones differ widely in scale (He et al., 2021,
    of linear probes)."""
    network = resnet50(num_classes)
    network.fc = nn.Sequential(nn.BatchNorm1d(network.fc.in_features, affine=False), network.fc)
    return network


def resnet50_mlp(num_classes: int) -> nn.Module:
    """A ResNet50 with a hidden layer of 4,096 units in its `fc`."""
    network = resnet50(num_classes)
    network.fc = nn.Sequential(
        nn.Linear(network.fc.in_features, HIDDEN_UNITS),
        nn.BatchNorm1d(HIDDEN_UNITS),
        nn.ReLU(),
        nn.Linear(HIDDEN_UNITS, num_classes),
    )
    return network


class ResNet50FC1000(ResNet):
    """report001's: a ResNet50 with the 1000-way `fc` of its pre-training, and a linear layer on those 1,000 logits."""

    def __init__(self, num_classes: int):
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=1000)
        self.classifier = nn.Linear(1000, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(super().forward(images))
