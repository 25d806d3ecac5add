"""Every network by its name, built without weights, or rebuilt from what a model.pt says of it."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from engine.base import UserError
from models.classifiers import (
    VGG19_BN_A,
    VGG19_BN_B,
    VGG19_BN_C,
    ResNet50FC1000,
    VGG16Pooled,
    change_stem,
    published,
    resnet50,
    resnet50_bn,
    resnet50_mlp,
    vgg19_bn,
)
from models.efficientnet_lite import MEAN as LITE_MEAN
from models.efficientnet_lite import STD as LITE_STD
from models.efficientnet_lite import EfficientNetLiteClassifier
from models.fcn import (
    fcn8s,
    fcn8s_conv2x2,
    fcn32s,
    fcn32s_bilinear,
    fcn32s_conv2x2,
    fcn32s_deconv,
    fcn32s_staged,
    fcn32s_vgg16bn,
    resnet34_fcn8s,
    resnet34_fcn32s,
)
from models.lite_fpn import lite2_fpn, lite_fpn
from models.torchvision_segmentation import (
    deeplabv3_mobilenet_v3_large,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
    lraspp_mobilenet_v3_large,
)

MOST_CLASSES = 10000  # that a model.pt may ask for
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# (B, 3, S, S) → logits (B, num_classes)
CLASSIFIERS = {
    "resnet18": published("resnet18"),
    "resnet34": published("resnet34"),  # report000
    "resnet50": resnet50,
    "efficientnet_lite0": EfficientNetLiteClassifier,
    "resnet50_bn": resnet50_bn,
    "resnet50_mlp": resnet50_mlp,
    "resnet50_fc1000": ResNet50FC1000,  # report001
    "vgg16_bn": published("vgg16_bn"),  # report002
    # the eight of report003's ensemble
    "vgg16": VGG16Pooled,
    "resnet152": published("resnet152"),
    "densenet161": published("densenet161"),
    "densenet169": published("densenet169"),
    "resnext101_32x8d": published("resnext101_32x8d"),
    "vgg19_bn_a": vgg19_bn(VGG19_BN_A),
    "vgg19_bn_b": vgg19_bn(VGG19_BN_B),
    "vgg19_bn_c": vgg19_bn(VGG19_BN_C),
}

# (B, 3, H, W) → {"out": logits (B, num_classes, H, W)}
SEGMENTERS = {
    "lite_fpn": lite_fpn,
    "lite2_fpn": lite2_fpn,
    "fcn32s": fcn32s,
    "fcn32s_conv2x2": fcn32s_conv2x2,  # report000
    "fcn32s_staged": fcn32s_staged,  # report001
    "fcn32s_vgg16bn": fcn32s_vgg16bn,  # report002
    "fcn32s_deconv": fcn32s_deconv,  # report003
    "fcn32s_bilinear": fcn32s_bilinear,  # report004
    "fcn8s": fcn8s,  # report003
    "fcn8s_conv2x2": fcn8s_conv2x2,  # report000
    "resnet34_fcn8s": resnet34_fcn8s,  # report002
    "resnet34_fcn32s": resnet34_fcn32s,
    "deeplabv3_resnet101": deeplabv3_resnet101,  # report001, report004
    "deeplabv3_resnet50": deeplabv3_resnet50,
    "deeplabv3_mobilenet_v3_large": deeplabv3_mobilenet_v3_large,
    "lraspp_mobilenet_v3_large": lraspp_mobilenet_v3_large,
}


def build_network(
    name: str, builders: dict[str, Any] | None = None, stem: str = "7x7", **arguments: Any
) -> nn.Module:
    """A network with random weights, of `builders` (CLASSIFIERS or SEGMENTERS; either if None). `arguments`
    are its builder's; `stem` is how a classifier begins (models.classifiers.STEMS). UserError when there is
    no such name."""
    builders = {**CLASSIFIERS, **SEGMENTERS} if builders is None else builders
    if name not in builders:
        raise UserError(f"no network is called '{name}'; there are {', '.join(builders)}")
    try:
        network = builders[name](**arguments)
    except TypeError as error:
        raise UserError(f"network {name}: {error}") from None
    if stem != "7x7":
        if name not in CLASSIFIERS:
            raise UserError(f"network {name} has no stem to choose; only classifiers have")
        change_stem(network, stem)
    return network


def normalisation(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, for images in 0..1, that the network `name` was made for."""
    mean, std = (LITE_MEAN, LITE_STD) if "lite" in name else (IMAGENET_MEAN, IMAGENET_STD)
    return list(mean), list(std)


def describe_classifier(
    name: str, classes: list[str], image_size: int, edition: str, stem: str
) -> dict[str, Any]:
    """What the model.pt of a classifier says beside its weights: how to rebuild, feed and read it."""
    mean, std = normalisation(name)
    return {
        "problem": "p1",
        "network": name,
        "arguments": {"num_classes": len(classes), "stem": stem},
        "classes": classes,
        "integer_labels": all(re.fullmatch("[0-9]{1,9}", label) for label in classes),
        "image_size": image_size,
        "mean": mean,
        "std": std,
        "edition": edition,
    }


def describe_segmenter(name: str, classes: list[str], scale: float, edition: str) -> dict[str, Any]:
    """What the model.pt of a segmenter says beside its weights: how to rebuild, feed and read it."""
    mean, std = normalisation(name)
    return {
        "problem": "p2",
        "network": name,
        "arguments": {"num_classes": len(classes)},
        "classes": classes,
        "scale": scale,
        "mean": mean,
        "std": std,
        "edition": edition,
    }


def load_trained(model: dict[str, Any]) -> nn.Module:
    """The network that a model.pt describes, with its weights, in eval mode.

    UserError when they do not fit.
    """
    arguments = {"stem": "7x7", **model["arguments"]}
    classes = arguments.get("num_classes")
    if (
        set(arguments) != {"num_classes", "stem"}
        or type(classes) is not int
        or not 0 < classes <= MOST_CLASSES
    ):
        raise UserError(
            f"no network is built from {str(model['arguments'])[:100]}; train or download it again"
        )
    network = build_network(model["network"], **arguments)
    try:
        network.load_state_dict(model["state"])
    except (RuntimeError, AttributeError) as error:  # the latter for names that are none
        raise UserError(
            f"the weights do not fit the network {model['network']}: {str(error)[:200]}"
        ) from None
    return network.eval()
