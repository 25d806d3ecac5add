"""Every network by its name, built without weights, or rebuilt from what a model.pt says of it."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from models.classifiers import ResNet50FC1000, resnet18, resnet50, resnet50_bn, resnet50_mlp
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

# (B, 3, S, S) → logits (B, num_classes)
CLASSIFIERS = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet50_bn": resnet50_bn,
    "resnet50_mlp": resnet50_mlp,
    "resnet50_fc1000": ResNet50FC1000,
}

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


def describe_classifier(name: str, classes: list[str], image_size: int, edition: str) -> dict[str, Any]:
    """What the model.pt of a classifier says beside its weights: how to rebuild, feed and read it."""
    mean, std = normalisation(name)
    return {
        "problem": "p1",
        "network": name,
        "arguments": {"num_classes": len(classes)},
        "classes": classes,
        "integer_labels": all(re.fullmatch("[0-9]{1,9}", label) for label in classes),
        "image_size": image_size,
        "mean": mean,
        "std": std,
        "edition": edition,
    }


def load_trained(model: dict[str, Any]) -> nn.Module:
    """The network that a model.pt describes, with its weights, in eval mode. ModelError when they do not fit."""
    network = build_network(model["network"], **model["arguments"])
    try:
        network.load_state_dict(model["state"])
    except RuntimeError as error:
        raise ModelError(f"the weights do not fit the network {model['network']}: {str(error)[:200]}") from None
    return network.eval()
