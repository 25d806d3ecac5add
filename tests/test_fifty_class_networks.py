"""The classifiers of the 50-class editions are those of their reports."""

from __future__ import annotations

import re
import socket

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models._api import WeightsEnum

from engine import checkpoint
from engine.base import UserError
from models.backbone import head_name, head_of, penultimate
from models.builders import CLASSIFIERS, build_network, describe_classifier, load_trained, normalisation
from models.weights import load_pretrained

TWO = "Linear(25088, 4096) ReLU Dropout(0.5) Linear(4096, 4096) ReLU"
# What is new in each, layer by layer, as the reports list it.
HEADS = {
    "resnet34": "Linear(512, 50)",
    "vgg16_bn": f"{TWO} Dropout(0.5) Linear(4096, 50)",
    "vgg16": "Linear(512, 256) ReLU Linear(256, 50)",
    "resnet152": "Linear(2048, 50)",
    "densenet161": "Linear(2208, 50)",
    "densenet169": "Linear(1664, 50)",
    "resnext101_32x8d": "Linear(2048, 50)",
    "vgg19_bn_a": f"{TWO} Linear(4096, 50)",
    "vgg19_bn_b": "Linear(25088, 4096) ReLU Dropout(0.5) Linear(4096, 50)",
    "vgg19_bn_c": f"{TWO} Dropout(0.5) Linear(4096, 2048) ReLU Dropout(0.5) Linear(2048, 50)",
}
HEAD_NAMES = {name: "fc" if name == "vgg16" or name.startswith("res") else "classifier" for name in HEADS}
PUBLISHED = {name: re.sub("_[abc]$", "", name) for name in HEADS}  # torchvision's name for what is not new
VGGS = [name for name in HEADS if name.startswith("vgg")]
OTHERS = [name for name in HEADS if not name.startswith("vgg")]
# The layers for which torchvision's file, of 1,000 classes, has no tensors.
NEW_LAYERS = {
    **HEAD_NAMES,
    "vgg16_bn": r"classifier\.6",
    "vgg19_bn_a": r"classifier\.5",
    "vgg19_bn_b": r"classifier\.3",
    "vgg19_bn_c": r"classifier\.[69]",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was to be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)


def without_numbers(name: str, **arguments) -> nn.Module:
    """The network on the meta device: layers and shapes at no cost."""
    with torch.device("meta"):
        return build_network(name, CLASSIFIERS, **{"num_classes": 50, **arguments})


def published_without_numbers(name: str) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(PUBLISHED[name], weights=None)


def layer_list(head: nn.Module) -> str:
    layers = []
    for layer in head.children() if isinstance(head, nn.Sequential) else [head]:
        details = ""
        if isinstance(layer, nn.Linear):
            assert layer.bias is not None
            details = f"({layer.in_features}, {layer.out_features})"
        elif isinstance(layer, nn.Dropout):
            details = f"({layer.p})"
        layers.append(type(layer).__name__ + details)
    return " ".join(layers)


def images_of(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


# -- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
def test_what_is_new_is_listed_layer_by_layer_in_the_report(name):
    network = without_numbers(name)
    assert layer_list(head_of(network)) == HEADS[name]
    assert head_name(network) == HEAD_NAMES[name]
    assert head_of(network) is getattr(network, HEAD_NAMES[name])


@pytest.mark.parametrize("name", HEADS)
def test_what_is_not_new_is_torchvisions(name):
    def extractor(network: nn.Module) -> tuple[dict[str, torch.Size], dict[str, str]]:
        """Shapes of all tensors and descriptions of all layers, with strides and the like, below no head."""
        tensors = {
            k: v.shape for k, v in network.state_dict().items() if not k.startswith(("fc.", "classifier."))
        }
        layers = {
            k: repr(m) for k, m in network.named_modules() if k and not k.startswith(("fc", "classifier"))
        }
        layers.pop("avgpool", None)  # of no tensors: the next test sees what reaches the head
        return tensors, layers

    assert extractor(without_numbers(name)) == extractor(published_without_numbers(name))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [32, 224])
def test_the_head_is_given_pooled_features_of_images_of_any_size(name, size):
    network, given = without_numbers(name).eval(), []
    head_of(network).register_forward_pre_hook(lambda _, inputs: given.append(tuple(inputs[0].shape)))
    assert network(torch.empty(2, 3, size, size, device="meta")).shape == (2, 50)
    assert given == [(2, int(re.search(r"\d+", HEADS[name]).group()))]


def test_the_penultimate_layer_of_vgg16_gives_256_numbers():
    torch.manual_seed(0)
    network = build_network("vgg16", num_classes=50)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in normalisation("vgg16"))
    found = penultimate(network, images, *normalisation("vgg16"))
    with torch.no_grad():
        features = network.features((images / 255 - mean) / std)
        pooled = functional.adaptive_avg_pool2d(features, 1).flatten(1)
        torch.testing.assert_close(found, network.fc[0](pooled).relu())
    assert found.shape == (3, 256)


# -- stems ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("stem, side", [("7x7", 1), ("3x3", 2), ("3x3-nopool", 4)])
def test_a_stem_for_small_images_leaves_a_larger_map_to_pool(name, stem, side):
    network, maps = without_numbers(name, stem=stem).eval(), []
    if hasattr(network, "features"):
        network.features.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    else:
        network.avgpool.register_forward_pre_hook(lambda module, inputs: maps.append(inputs[0].shape))
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 50)
    assert maps == [(2, int(re.search(r"\d+", HEADS[name]).group()), side, side)]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("stem", ["3x3", "3x3-nopool"])
def test_a_stem_changes_the_first_convolution_alone(name, stem):
    def shapes(network: nn.Module) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in network.state_dict().items()}

    as_published, changed = shapes(without_numbers(name)), shapes(without_numbers(name, stem=stem))
    first = "conv1.weight" if name.startswith("res") else "features.conv0.weight"
    assert list(as_published) == list(changed)
    assert {key for key in changed if changed[key] != as_published[key]} == {first}
    assert changed[first] == (*as_published[first][:2], 3, 3)


@pytest.mark.parametrize("name", VGGS)
def test_a_vgg_begins_with_3x3_anyway_and_has_no_pool_of_its_stems(name):
    assert repr(without_numbers(name, stem="3x3")) == repr(without_numbers(name, stem="7x7"))
    with pytest.raises(UserError, match="--stem 7x7 or 3x3"):
        without_numbers(name, stem="3x3-nopool")


def test_an_unknown_stem_is_answered_with_the_stems_there_are():
    with pytest.raises(UserError, match="5x5.* --stem 7x7 or 3x3 or 3x3-nopool"):
        without_numbers("resnet34", stem="5x5")


# -- model.pt ------------------------------------------------------------------------------------------------


def test_a_model_file_is_rebuilt_with_its_stem(tmp_path):
    torch.manual_seed(0)
    network = build_network("resnet34", CLASSIFIERS, num_classes=50, stem="3x3-nopool")
    network(images_of(4, 32))  # batch norm has seen something
    model = describe_classifier("resnet34", [str(label) for label in range(50)], 32, "2021", "3x3-nopool")
    assert model["arguments"] == {"num_classes": 50, "stem": "3x3-nopool"}
    checkpoint.save(tmp_path / "model.pt", {**model, "state": network.state_dict()})
    rebuilt = load_trained(checkpoint.read(tmp_path / "model.pt"))
    assert not rebuilt.training
    with torch.inference_mode():
        assert torch.equal(rebuilt(images_of(2, 32)), network.eval()(images_of(2, 32)))


def test_weights_of_another_stem_are_refused():
    state = without_numbers("resnet34", stem="3x3").state_dict()
    with torch.device("meta"), pytest.raises(UserError, match="do not fit"):
        load_trained({"network": "resnet34", "arguments": {"num_classes": 50, "stem": "7x7"}, "state": state})


@pytest.mark.parametrize("name", HEADS)
def test_a_model_file_cannot_ask_for_a_download(name):
    arguments = {"num_classes": 1000, "weights": "DEFAULT"}
    with torch.device("meta"), pytest.raises(UserError, match="no network is built from .*weights"):
        load_trained({"network": name, "arguments": arguments, "state": {}})
    with torch.device("meta"), pytest.raises(UserError, match=f"network {name} has no weights"):
        build_network(name, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        *({}, {"num_classes": -1}, {"num_classes": True}, {1: 2}, {"num_classes": 9**9}),
        *({"num_classes": 2, "networks": {}}, {"num_classes": 2, "name": "resnet18"}),
    ],
)
def test_absurd_arguments_of_a_model_file_are_one_line(arguments):
    with pytest.raises(UserError, match="no network is built from"):
        load_trained({"network": "resnet34", "arguments": arguments, "state": {}})


def test_a_segmenter_has_no_stem_to_choose():
    with torch.device("meta"), pytest.raises(UserError, match="has no stem"):
        build_network("lite_fpn", num_classes=7, stem="3x3")


# -- pretrained weights --------------------------------------------------------------------------------------


def offer(monkeypatch, state: dict[str, Tensor]) -> list[WeightsEnum]:
    """Let every download bring `state`; returns the list in which the downloads will be."""
    asked = []
    monkeypatch.setattr(
        WeightsEnum, "get_state_dict", lambda weights, **options: asked.append(weights) or state
    )
    return asked


def numbers_for(network: nn.Module) -> dict[str, Tensor]:
    """Made-up weights for all but its head, which gets zeros that take no memory."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.zeros((), dtype=value.dtype).expand(value.shape)
        if key.startswith(("fc.", "classifier.")) or not value.is_floating_point()
        else torch.rand(value.shape, generator=generator)
        for key, value in network.state_dict().items()
    }


def with_old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As torchvision's files of DenseNets have them, with norm.1 for norm1 and without counts of batches."""
    named = {re.sub(r"(denselayer\d+\.[a-z]+)(\d)\.", r"\1.\2.", key): value for key, value in state.items()}
    return {key: value for key, value in named.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "name, has_old_names",
    [("resnet34", False), ("vgg16", False), ("densenet169", False), ("densenet169", True)],
)
def test_pretrained_weights_fill_all_but_what_is_new(name, has_old_names, monkeypatch):
    network, published = build_network(name, num_classes=50), numbers_for(published_without_numbers(name))
    state = with_old_names(published) if has_old_names else published
    assert ("features.denseblock1.denselayer1.norm.1.weight" in state) == has_old_names
    offer(monkeypatch, state)
    head = {key: value.clone() for key, value in head_of(network).state_dict().items()}
    said = load_pretrained(network, name, "imagenet")
    assert said.endswith(f"tensors loaded; new: {HEAD_NAMES[name]}")
    for key, value in network.state_dict().items():
        if key.startswith(HEAD_NAMES[name] + "."):
            assert torch.equal(value, head[key.partition(".")[2]]), key
        elif not key.endswith("num_batches_tracked"):
            assert torch.equal(value, published[key]), key


@pytest.mark.parametrize("name", HEADS)
def test_every_network_knows_its_pretrained_weights(name, monkeypatch):
    network, state = without_numbers(name), published_without_numbers(name).state_dict()
    asked = offer(monkeypatch, state)
    said = load_pretrained(network, name, "imagenet")
    new = [key for key in network.state_dict() if re.match(NEW_LAYERS[name] + r"\.", key)]
    loaded = len(network.state_dict()) - len(new)
    assert said == f"imagenet: {loaded} tensors loaded; new: {HEAD_NAMES[name]}"
    assert asked == [torchvision.models.get_model_weights(PUBLISHED[name]).DEFAULT]


@pytest.mark.parametrize(
    "name, other",
    [
        ("vgg16", "vgg16_bn"),
        ("vgg16_bn", "vgg16"),
        ("vgg19_bn_a", "vgg16_bn"),
        ("densenet161", "densenet169"),
    ],
)
def test_pretrained_weights_of_its_relatives_are_refused(name, other, monkeypatch):
    offer(monkeypatch, published_without_numbers(other).state_dict())
    with pytest.raises(UserError, match=f"no weights of {name}"):
        load_pretrained(without_numbers(name), name, "imagenet")


# -- training ------------------------------------------------------------------------------------------------


def assert_every_layer_can_learn(network: nn.Module) -> None:
    for key, value in network.named_parameters():
        assert value.grad is not None and value.grad.norm().isfinite(), key
        assert value.dim() == 1 or value.grad.norm() > 0, key  # a bias before a batch norm has no influence


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet152", "densenet161", "resnext101_32x8d", "vgg19_bn_c"])
def test_a_gradient_reaches_every_layer(name):
    torch.manual_seed(0)
    network = build_network(name, CLASSIFIERS, num_classes=50).train()
    logits = network(images_of(2, 64))
    assert logits.shape == (2, 50) and logits.isfinite().all()
    functional.cross_entropy(logits, torch.tensor([3, 49])).backward()
    assert_every_layer_can_learn(network)


@pytest.mark.parametrize("name", ["resnet34", "vgg16", "densenet169"])
def test_a_few_steps_learn_a_few_images(name):
    torch.manual_seed(0)
    network = build_network(name, CLASSIFIERS, num_classes=50).train()
    images, labels = images_of(8, 64), torch.arange(8) * 7
    optimizer, losses = torch.optim.AdamW(network.parameters(), lr=1e-4), []
    for _ in range(6):
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert_every_layer_can_learn(network)
    assert losses[-1] < losses[0] - 0.7
