"""torchvision's segmentation networks, without pretrained weights and without the auxiliary head at
inference.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import segmentation

from models.fcn import pad_to_multiple


class WithoutAuxiliaryAtInference(nn.Module):
    """Wraps a torchvision network; in eval mode its auxiliary head and the features that it reads are not
    computed.

    torchvision keeps both running at inference. Parameter names are torchvision's own.
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
    upsampled = nn.functional.interpolate(
        logits, size=padded.shape[-2:], mode="bilinear", align_corners=False
    )
    return upsampled[..., : images.shape[-2], : images.shape[-1]]


def deeplabv3_resnet101(num_classes: int) -> nn.Module:
    return _deeplabv3(segmentation.deeplabv3_resnet101, num_classes)


def deeplabv3_resnet50(num_classes: int) -> nn.Module:
    return _deeplabv3(segmentation.deeplabv3_resnet50, num_classes)


def deeplabv3_mobilenet_v3_large(num_classes: int) -> nn.Module:
    return _deeplabv3(segmentation.deeplabv3_mobilenet_v3_large, num_classes)


def _deeplabv3(builder, num_classes: int) -> nn.Module:
    # weights_backbone defaults to a download, so None is always said.
    network = builder(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=True)
    return WithoutAuxiliaryAtInference(network)


def lraspp_mobilenet_v3_large(num_classes: int) -> nn.Module:
    """LR-ASPP (Howard et al., 2019)."""
    network = segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=num_classes
    )
    return WithoutAuxiliaryAtInference(network)
