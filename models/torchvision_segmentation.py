"""torchvision's segmentation networks, without pretrained weights; no auxiliary head works at inference."""

from __future__ import annotations

from typing import Callable

from torch import Tensor, nn
from torchvision.models import segmentation

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
    (height, width), size = images.shape[-2:], padded.shape[-2:]
    upsampled = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return upsampled[..., :height, :width]


def deeplabv3_resnet101(num_classes: int) -> nn.Module:
    return _built(segmentation.deeplabv3_resnet101, num_classes, aux_loss=True)


def deeplabv3_resnet50(num_classes: int) -> nn.Module:
    return _built(segmentation.deeplabv3_resnet50, num_classes, aux_loss=True)


def deeplabv3_mobilenet_v3_large(num_classes: int) -> nn.Module:
    return _built(segmentation.deeplabv3_mobilenet_v3_large, num_classes, aux_loss=True)


def lraspp_mobilenet_v3_large(num_classes: int) -> nn.Module:
    """LR-ASPP (Howard et al., 2019)."""
    return _built(segmentation.lraspp_mobilenet_v3_large, num_classes)


def _built(builder: Callable[..., nn.Module], num_classes: int, **more: bool) -> nn.Module:
    # weights_backbone defaults to a download, so None is always said.
    network = builder(weights=None, weights_backbone=None, num_classes=num_classes, **more)
    return WithoutAuxiliaryAtInference(network)
