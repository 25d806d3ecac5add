"""torchvision's segmentation networks, and one of its parts, without pretrained weights.

No auxiliary head works at inference.
"""

from __future__ import annotations

from typing import Callable

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP

from models.efficientnet_lite import conv_bn_relu, upsampled
from models.fcn import pad_to_multiple


class WithoutAuxiliaryAtInference(nn.Module):
    """Wraps a torchvision network; parameter names stay torchvision's own.

    In eval mode the auxiliary head and the features that it reads are not computed, as torchvision does.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.backbone, self.classifier = network.backbone, network.classifier
        self.aux_classifier = getattr(network, "aux_classifier", None)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) → {"out": (B, classes, H, W)}, in training also "aux" where the network has it."""
        padded = pad_to_multiple(images, 32)
        features = self.backbone(padded)
        # LR-ASPP's head reads two scales.
        logits = {"out": self.classifier(features.get("out", features))}
        if self.training and self.aux_classifier is not None:
            logits["aux"] = self.aux_classifier(features["aux"])
        return {name: _upsample(coarse, padded, images) for name, coarse in logits.items()}


def _upsample(logits: Tensor, padded: Tensor, images: Tensor) -> Tensor:
    """Logits of any size → those of the padded images' size, cropped to the images'."""
    height, width = images.shape[-2:]
    return upsampled(logits, padded.shape[-2:])[..., :height, :width]


def published_segmenter(name: str, aux_loss: bool = True) -> Callable[[int], nn.Module]:
    """torchvision's network of that name, with random weights and a last layer for our classes."""

    def build(num_classes: int) -> nn.Module:
        sizes = {"num_classes": num_classes, "aux_loss": aux_loss}
        # weights_backbone defaults to a download, so None is always said.
        network = torchvision.models.get_model(name, weights=None, weights_backbone=None, **sizes)
        return WithoutAuxiliaryAtInference(network)

    return build


# -- DeepLabV3+ ----------------------------------------------------------------------------------------------


class DeepLabV3Plus(nn.Module):
    """Chen et al., 2018: ASPP at stride 16, and a decoder that brings in 48 channels of stride 4.

    (B, 3, H, W) → {"out": (B, classes, H, W)}. The backbone's keys are torchvision's.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        resnet = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
        self.backbone = IntermediateLayerGetter(resnet, {"layer1": "low", "layer4": "out"})
        self.aspp = ASPP(2048, [6, 12, 18])
        self.low_level = conv_bn_relu(256, 48, 1)
        self.classifier = nn.Sequential(
            conv_bn_relu(256 + 48, 256, 3), conv_bn_relu(256, 256, 3), nn.Conv2d(256, num_classes, 1)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        padded = pad_to_multiple(images, 32)
        features = self.backbone(padded)
        low = self.low_level(features["low"])
        context = upsampled(self.aspp(features["out"]), low.shape[-2:])
        logits = self.classifier(torch.cat([context, low], dim=1))
        return {"out": _upsample(logits, padded, images)}
