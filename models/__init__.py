"""Every network by its name, built without weights, or rebuilt from what a model.pt says of it."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn

from models.efficientnet_lite import MEAN as LITE_MEAN
from models.efficientnet_lite import STD as LITE_STD
from models.errors import ModelError
from models.fcn import FCN32s
from models.lite_fpn import LiteFPN
from models.torchvision_segmentation import (
    deeplabv3_mobilenet_v3_large,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
    lraspp_mobilenet_v3_large,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resnet18(num_classes: int) -> nn.Module:
    return torchvision.models.resnet18(weights=None, num_classes=num_classes)


def resnet50(num_classes: int) -> nn.Module:
    """The classifier of settings A to E: torchvision's ResNet50 with a new `fc` on its 2,048 pooled features."""
    # Each residual branch starts at zero (Goyal et al., 2017): fifty layers learn from their first steps.
    return torchvision.models.resnet50(weights=None, num_classes=num_classes, zero_init_residual=True)


# (B, 3, S, S) → logits (B, num_classes)
CLASSIFIERS = {"resnet18": resnet18, "resnet50": resnet50}

# (B, 3, H, W) → {"out": logits (B, num_classes, H, W)}
SEGMENTERS = {
    "lite_fpn": LiteFPN,
    "fcn32s": FCN32s,
    "deeplabv3_resnet101": deeplabv3_resnet101,
    "deeplabv3_resnet50": deeplabv3_resnet50,
    "deeplabv3_mobilenet_v3_large": deeplabv3_mobilenet_v3_large,
    "lraspp_mobilenet_v3_large": lraspp_mobilenet_v3_large,
}


def build_network(name: str, builders: dict[str, Any] | None = None, **arguments: Any) -> nn.Module:
    """A network with random weights, of `builders` (CLASSIFIERS or SEGMENTERS; either if None). `arguments` are its
    builder's. ModelError when there is no such name."""
    builders = {**CLASSIFIERS, **SEGMENTERS} if builders is None else builders
    if name not in builders:
        raise ModelError(f"no network is called '{name}'; there are {', '.join(builders)}")
    try:
        return builders[name](**arguments)
    except TypeError as error:
        raise ModelError(f"network {name}: {error}") from None


def normalisation(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, for images in 0..1, that the network `name` was made for."""
    mean, std = (LITE_MEAN, LITE_STD) if name == "lite_fpn" else (IMAGENET_MEAN, IMAGENET_STD)
    return list(mean), list(std)


def load_trained(model: dict[str, Any]) -> nn.Module:
    """The network that a model.pt describes, with its weights, in eval mode. ModelError when they do not fit."""
    network = build_network(model["network"], **model["arguments"])
    try:
        network.load_state_dict(model["state"])
    except RuntimeError as error:
        raise ModelError(f"the weights do not fit the network {model['network']}: {str(error)[:200]}") from None
    return network.eval()
