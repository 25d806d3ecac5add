"""A backbone is taken however people save it, wherever that is plain; anything else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import byol_pytorch
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.base import UserError
from models import weights
from models.backbone import load_backbone
from models.builders import build_network
from models.byol import BYOL
from models.weights import load_pretrained


def network() -> nn.Module:
    return build_network("resnet18", num_classes=5)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def learner_of(backbone: nn.Module) -> byol_pytorch.BYOL:
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    sizes = {"projection_hidden_size": 8, "projection_size": 8}
    learner = byol_pytorch.BYOL(backbone, 32, hidden_layer="avgpool", **sizes)
    # Its trial pass has changed the statistics of the batch norms.
    learner.load_state_dict(prefixed(state, "online_encoder.net."), strict=False)
    return learner


def of_our_pretraining(backbone: nn.Module) -> dict[str, Tensor]:
    backbone.fc = nn.Identity()
    return BYOL(backbone, 32).state_dict()


# What is made of a network's own state before torch.save.
WRAPPINGS: dict[str, Callable[[nn.Module], Any]] = {
    "bare": lambda net: net.state_dict(),
    "without num_batches_tracked": lambda net: {
        key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")
    },
    "without a head": lambda net: {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")},
    "DataParallel": lambda net: nn.DataParallel(net).state_dict(),
    "a part of a larger network": lambda net: prefixed(net.state_dict(), "backbone."),
    "two prefixes": lambda net: prefixed(net.state_dict(), "module.encoder_q."),
    "compiled": lambda net: prefixed(net.state_dict(), "_orig_mod."),
    "state_dict": lambda net: {"epoch": 3, "state_dict": net.state_dict(), "best": torch.tensor(0.5)},
    "model": lambda net: {"model": net.state_dict(), "model_ema": net.state_dict(), "args": {"lr": 0.1}},
    "an odd key": lambda net: {"weights of epoch 3": net.state_dict(), "epoch": 3},
    "wrapped and DataParallel": lambda net: {"state_dict": nn.DataParallel(net).state_dict()},
    "a model.pt": lambda net: {"format": 1, "state": net.state_dict(), "classes": ["0"]},
    "byol-pytorch's learner": lambda net: learner_of(net).state_dict(),
    "byol-pytorch's learner in DataParallel": lambda net: prefixed(learner_of(net).state_dict(), "module."),
    "our own pre-training's last.pt": lambda net: {"step": 3, "network": of_our_pretraining(net)},
    "half precision": lambda net: {k: v.half() if v.ndim else v for k, v in net.state_dict().items()},
    "parameters": lambda net: {**net.state_dict(), **dict(net.named_parameters())},
}


def is_loaded(loaded: nn.Module, given: nn.Module, half: bool = False) -> bool:
    mine, theirs = loaded.state_dict(), given.state_dict()
    return all(
        torch.equal(mine[key], value.half().float() if half and value.ndim else value)
        for key, value in theirs.items()
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
    )


def trained(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    made = network()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_()
    return made


@pytest.mark.parametrize("way", WRAPPINGS)
def test_a_backbone_is_found_in_its_wrapping(way, tmp_path):
    given, ours = trained(), network()
    wrapped = WRAPPINGS[way](trained())
    torch.save(wrapped, tmp_path / "backbone.pt")
    head = ours.fc.weight.clone()
    said = load_backbone(ours, tmp_path / "backbone.pt")
    if "last.pt" not in way:  # BYOL forgets the statistics that the package's trial pass has changed
        assert is_loaded(ours, given, half=way == "half precision")
    assert torch.equal(
        ours.conv1.weight, given.conv1.weight.half().float() if "half" in way else given.conv1.weight
    )
    assert torch.equal(ours.fc.weight, head) and said.endswith("new: fc.weight, fc.bias")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_are_weights_too(prefix, tmp_path):
    given, ours = trained(), network()
    save_file(prefixed(given.state_dict(), prefix), tmp_path / "model.safetensors", metadata={"format": "pt"})
    load_backbone(ours, tmp_path / "model.safetensors")
    assert is_loaded(ours, given)


def test_without_the_package_safetensors_says_how_to_get_it(tmp_path, monkeypatch):
    save_file(trained().state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="model.safetensors: needs the package safetensors: python3 -m pip"):
        load_backbone(network(), tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "way", ["DataParallel", "state_dict", "without num_batches_tracked", "without a head"]
)
def test_a_segmenters_backbone_is_found_in_its_wrapping(way, tmp_path):
    torch.manual_seed(1)
    given, ours = build_network("resnet50", num_classes=5), build_network("deeplabv3_resnet50", num_classes=7)
    torch.save(WRAPPINGS[way](given), tmp_path / "backbone.pt")
    load_pretrained(ours, "deeplabv3_resnet50", str(tmp_path / "backbone.pt"))
    assert torch.equal(ours.backbone.conv1.weight, given.conv1.weight)


def test_a_vggs_convolutions_keep_the_name_that_is_their_own(tmp_path):
    given, ours = build_network("vgg16", num_classes=5), build_network("vgg16", num_classes=5)
    features = {k: v for k, v in given.state_dict().items() if k.startswith("features.")}
    for number, state in enumerate((features, prefixed(features, "module."))):
        torch.save(state, tmp_path / f"{number}.pt")
        assert weights.unwrapped(
            weights.state_of_file(tmp_path / f"{number}.pt"), ours.state_dict()
        ).keys() == (features.keys())


def two_states() -> dict:
    return {"student": trained().state_dict(), "teacher": trained().state_dict()}


# What it is → what the one line names.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "integer keys": (lambda: dict(enumerate(trained().state_dict().values())), "a tensor is called 0"),
    "integer keys, wrapped": (lambda: {"model": {1: torch.zeros(1)}}, "a tensor is called 1"),
    "several states": (two_states, r"several states \('student', 'teacher'\)"),
    "wrapped twice": (lambda: {"a": {"b": trained().state_dict()}}, "nor one wrapped once .'a' is a dict"),
    "a whole network": (trained, r"holds a whole torchvision\.models\.resnet\.ResNet and not its state_dict"),
    "a list": (lambda: list(trained().state_dict().values()), "holds a list"),
    "one tensor": (lambda: torch.zeros(3), "holds a Tensor"),
    "nothing": (dict, "it is empty"),
    "an optimizer": (lambda: {"optimizer": {"lr": 0.1}}, "'optimizer' is a dict"),
    "two parts": (
        lambda: {**prefixed(trained().state_dict(), "encoder."), "projector.0.weight": torch.zeros(1)},
        r"lacks conv1\.weight and .* has an unknown encoder\.conv1\.weight",
    ),
    "another network": (lambda: build_network("resnet34", num_classes=5).state_dict(), "has an unknown"),
    "of another width": (
        lambda: {**trained().state_dict(), "conv1.weight": torch.zeros(64, 3, 3, 3)},
        r"another shape of conv1\.weight",
    ),
    "not finite": (
        lambda: {**trained().state_dict(), "conv1.weight": torch.full((64, 3, 7, 7), torch.nan)},
        "not finite",
    ),
}


@pytest.mark.parametrize("way", REFUSED)
def test_what_is_not_plain_is_named_in_one_line(way, tmp_path):
    made, said = REFUSED[way]
    torch.save(made(), tmp_path / "backbone.pt")
    ours = network()
    before = ours.conv1.weight.clone()
    with pytest.raises(UserError, match=said) as error:
        load_backbone(ours, tmp_path / "backbone.pt")
    assert str(error.value).startswith(f"{tmp_path / 'backbone.pt'}: ") and "\n" not in str(error.value)
    assert torch.equal(ours.conv1.weight, before)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}x"])
def test_broken_safetensors_are_named(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read as safetensors|it is empty"):
        load_backbone(network(), tmp_path / "model.safetensors")


def test_a_folder_or_nothing_is_no_file_of_weights(tmp_path):
    for path in (tmp_path, tmp_path / "none.pt", Path("/dev/null")):
        with pytest.raises(UserError, match="no such file of weights"):
            load_backbone(network(), path)
