"""Networks that classify images: (B, 3, S, S) → logits (B, num_classes).

The last child of each is its head, the layers that are new for new classes; the rest is its backbone. The
ResNet50s have torchvision's key names, so that the course's backbones fit them all.
"""

from __future__ import annotations

from typing import Callable

import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from models.fcn import vgg16_features

HIDDEN_UNITS = 4096


def published(name: str) -> Callable[[int], nn.Module]:
    """torchvision's network of that name as it is, with random weights and a last layer for our classes."""

    # num_classes and nothing else: no model.pt may ask for weights to be downloaded.
    def build(num_classes: int) -> nn.Module:
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes)

    return build


def resnet50(num_classes: int) -> nn.Module:
    """The classifier of settings A to E: torchvision's ResNet50, with a new `fc` on 2,048 pooled features."""
    # Each residual branch starts at zero (Goyal et al., 2017): fifty layers learn from their first steps.
    return torchvision.models.resnet50(weights=None, num_classes=num_classes, zero_init_residual=True)


def resnet50_bn(num_classes: int) -> nn.Module:
    """A ResNet50 with features standardised before `fc`: frozen ones differ in scale (He et al., 2021)."""
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
    """report001's: a ResNet50 with its pre-training's 1000-way `fc`, and a linear layer on those logits."""

    def __init__(self, num_classes: int):
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=1000)
        self.classifier = nn.Linear(1000, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(super().forward(images))


def resnet50_report004(num_classes: int) -> nn.Module:
    """report004's: that `fc`, then two wide layers; the logits too are standardised, without a scale."""
    network = ResNet50FC1000(num_classes)
    layers, widths = [], (1000, HIDDEN_UNITS, HIDDEN_UNITS)
    for width, next_width in zip(widths, widths[1:]):
        # A batch norm takes every bias away.
        layers += [nn.Linear(width, next_width, bias=False), nn.BatchNorm1d(next_width)]
        layers += [nn.ReLU(), nn.Dropout(0.3)]
    last = nn.Linear(HIDDEN_UNITS, num_classes, bias=False)
    network.classifier = nn.Sequential(*layers, last, nn.BatchNorm1d(num_classes, affine=False))
    return network


class VGG16Pooled(nn.Module):
    """report003's `vgg16`: VGG16's convolutions, their map averaged to 512 numbers, and two small layers."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.features = vgg16_features()
        self.fc = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean(dim=(2, 3)))


# How wide each layer of report003's three VGG19-BN is, and whether dropout follows it.
VGG19_BN_A, VGG19_BN_B = ((4096, True), (4096, False)), ((4096, True),)
VGG19_BN_C = ((4096, True), (4096, True), (2048, True))


def vgg19_bn(hidden: tuple[tuple[int, bool], ...]) -> Callable[[int], nn.Module]:
    """VGG19 with batch norm and a classifier of these hidden layers: Linear, ReLU and, in some, dropout."""

    def build(num_classes: int) -> nn.Module:
        network = torchvision.models.vgg19_bn(weights=None)
        layers, width = [], 25088  # 512 channels of 7x7
        for units, has_dropout in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), *([nn.Dropout(0.5)] if has_dropout else [])]
            width = units
        network.classifier = nn.Sequential(*layers, nn.Linear(width, num_classes))
        return network

    return build


def with_stem(build: Callable[[int], nn.Module]) -> Callable[..., nn.Module]:
    """`build` with an argument more, how the network begins.

    torchvision's ResNets, ResNeXts and DenseNets halve an image twice before their first block, which leaves
    little of one of 32 pixels. `7x7`: as published. `3x3`: the first convolution is 3x3 at stride 1, as that
    of a VGG is anyway; `3x3-nopool`: nor is there a max-pool.
    """

    def build_with_stem(num_classes: int, stem: str = "7x7") -> nn.Module:
        network = build(num_classes)
        parts, convolution, pool = network, "conv1", "maxpool"
        if hasattr(network, "features"):
            parts, convolution, pool = network.features, "conv0", "pool0"
        if stem != "7x7" and hasattr(parts, convolution):
            channels = getattr(parts, convolution).out_channels
            setattr(parts, convolution, nn.Conv2d(3, channels, 3, padding=1, bias=False))
        if stem == "3x3-nopool":
            setattr(parts, pool, nn.Identity())
        return network

    return build_with_stem


def head_name(network: nn.Module) -> str:
    """The name of a classifier's head, the layers that are new for new classes: its last child."""
    return [name for name, _ in network.named_children()][-1]


def head_of(network: nn.Module) -> nn.Module:
    return network.get_submodule(head_name(network))
