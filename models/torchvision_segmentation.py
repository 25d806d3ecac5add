"""torchvision's segmentation networks, without ready-made weights and without the auxiliary head at inference."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import segmentation


class WithoutAuxiliaryAtInference(nn.Module):
    """Wraps a torchvision network; in eval mode its auxiliary head and the features that it reads are not computed.

    torchvision keeps both running at inference. Parameter names are torchvision's own.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.backbone, self.classifier = network.backbone, network.classifier
        self.aux_classifier = getattr(network, "aux_classifier", None)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) → {"out": (B, classes, H, W)}, in training also "aux" where the network has it."""
        features = self.backbone(images)
        size = images.shape[-2:]
        logits = {"out": _enlarge(self.classifier(features["out"]), size)}
        if self.training and self.aux_classifier is not None:
            logits["aux"] = _enlarge(self.aux_classifier(features["aux"]), size)
        return logits


def _enlarge(logits: Tensor, size) -> Tensor:
    return nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


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
    """LR-ASPP (Howard et al., 2019); its head reads two scales, so it stays torchvision's own."""
    return segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes)
