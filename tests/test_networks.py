"""Every network is built by name, without a download, and gives logits of the size of what it sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from engine.base import UserError
from models.builders import (
    CLASSIFIERS,
    SEGMENTERS,
    build_network,
    check_network,
    load_trained,
    normalisation,
)
from models.efficientnet_lite import EfficientNetLite, bin_averages
from models.weights import _load_fitting


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("size", [(64, 64), (70, 97)])
def test_a_segmenter_gives_seven_logits_for_every_pixel_of_any_tile(name, size):
    network = build_network(name, num_classes=7).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, *size))["out"].shape == (1, 7, *size)


@pytest.mark.parametrize(
    "name", [name for name in CLASSIFIERS if name.startswith("resnet") and name != "resnet152"]
)
def test_a_classifier_gives_a_logit_for_each_class(name):
    network = build_network(name, num_classes=65).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 65)


def test_the_head_of_report004_is_its_list():
    with torch.device("meta"):
        network = build_network("resnet50_report004", num_classes=65)
    assert network.fc.out_features == 1000
    linear = [layer for layer in network.classifier if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [
        (1000, 4096), (4096, 4096), (4096, 65),
    ]  # fmt: skip
    block = ["Linear", "BatchNorm1d", "ReLU", "Dropout"]
    assert [type(layer).__name__ for layer in network.classifier] == [*block, *block, "Linear", "BatchNorm1d"]
    assert [layer.p for layer in network.classifier if isinstance(layer, nn.Dropout)] == [0.3, 0.3]
    assert [norm.affine for norm in network.classifier if isinstance(norm, nn.BatchNorm1d)] == [1, 1, 0]


def test_building_a_network_opens_no_connection(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a network was built with a download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with torch.device("meta"):
        for name in (*CLASSIFIERS, *SEGMENTERS):
            build_network(name, num_classes=7)


@pytest.mark.parametrize("name", ["resnet18", "lite_fpn"])
def test_a_new_network_is_tried_with_the_sizes_that_it_will_see_and_left_as_it_is(name):
    network = build_network(name, num_classes=7)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    check_network(network, name, 7, sizes=(64, 56))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in network.modules())


def test_a_network_that_sees_one_size_alone_says_so_before_the_training():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 7))
    check_network(network, "mine", 7, sizes=(32,))
    with pytest.raises(UserError, match="mine cannot see images of 28 x 28: .* give another size"):
        check_network(network, "mine", 7, sizes=(32, 28))


@pytest.mark.parametrize("name, wanted", [("mine", "logits"), ("lite_fpn", '{"out": logits')])
def test_a_network_whose_answer_has_another_form_says_which_is_wanted(name, wanted):
    with pytest.raises(UserError, match=f"{name} gives no {wanted} .*see models/builders.py"):
        check_network(nn.Conv2d(3, 7, 3), name, 7, sizes=(32,))


def test_an_unknown_name_is_answered_with_the_names_there_are():
    with pytest.raises(UserError, match="lite_fpn"):
        build_network("no_such_network", num_classes=7)


def test_the_encoder_taps_four_scales_with_the_listed_channels():
    with torch.inference_mode():
        scales = EfficientNetLite().eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(s.shape[1:]) for s in scales] == [(24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]


def test_lite2_is_wider_and_deeper_by_the_published_rule():
    encoder = EfficientNetLite(width=1.1, depth=1.2)
    assert encoder.channels == (24, 48, 120, 352) and len(encoder._blocks) == 21
    assert encoder._blocks[20]._project_conv.weight.shape == (352, 1248, 1, 1)
    assert build_network("lite2_fpn", num_classes=7).backbone.channels == encoder.channels


def test_the_light_classifier_takes_the_published_weights_whole_but_for_its_last_layer():
    published, network = (
        build_network("efficientnet_lite0", num_classes=count).eval() for count in (1000, 65)
    )
    assert {"_conv_head.weight", "_bn1.running_var", "_fc.bias"} <= set(published.state_dict())
    said = _load_fitting(network, "efficientnet_lite0", published.state_dict())
    assert said == "294 tensors loaded; new: _fc"
    images = torch.rand(2, 3, 64, 64)
    features = [EfficientNetLite.forward(each, images)[-1] for each in (published, network)]
    assert torch.equal(*features) and torch.equal(published._conv_head.weight, network._conv_head.weight)
    assert network(images).shape == (2, 65)


def test_the_encoder_has_the_key_names_of_the_published_weights():
    keys = EfficientNetLite().state_dict()
    assert "_blocks.0._expand_conv.weight" not in keys
    for key in (
        "_conv_stem.weight",
        "_bn0.running_mean",
        "_blocks.15._project_conv.weight",
        "_blocks.1._bn2.bias",
    ):
        assert key in keys
    assert keys["_blocks.3._depthwise_conv.weight"].shape == (144, 1, 5, 5)


def test_on_apples_mps_the_light_network_averages_on_the_cpu(monkeypatch):
    used = []
    pool = functional.adaptive_avg_pool2d
    monkeypatch.setattr(
        functional, "adaptive_avg_pool2d", lambda x, bins: used.append(x.device.type) or pool(x, bins)
    )
    with FakeTensorMode():  # tensors without numbers: no such machine is needed
        averages = bin_averages(torch.empty(1, 8, 9, 9, device="mps"), 2)
    assert used == ["cpu"] and averages.device.type == "mps" and averages.shape == (1, 8, 2, 2)


def test_the_auxiliary_head_is_computed_in_training_alone():
    network = build_network("deeplabv3_mobilenet_v3_large", num_classes=7)
    assert set(network.train()(torch.rand(2, 3, 64, 64))) == {"out", "aux"}
    network.aux_classifier.forward = None  # calling it would fail
    assert set(network.eval()(torch.rand(1, 3, 64, 64))) == {"out"}


def test_a_model_file_gives_back_its_network_even_from_half_precision():
    network = build_network("lite_fpn", num_classes=7).eval()
    halved = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    rebuilt = load_trained({"network": "lite_fpn", "arguments": {"num_classes": 7}, "state": halved})
    assert not rebuilt.training
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(image)["out"], network(image)["out"], atol=0.02, rtol=0.02)
    assert next(rebuilt.parameters()).dtype == torch.float32


def test_weights_of_another_network_are_refused():
    other = build_network("resnet18", num_classes=7).state_dict()
    with pytest.raises(UserError, match="do not fit"):
        load_trained({"network": "lite_fpn", "arguments": {"num_classes": 7}, "state": other})


def test_the_light_network_sees_images_as_its_weights_want_them():
    mean, std = normalisation("lite_fpn")
    pixel = 200
    assert (pixel / 255 - mean[0]) / std[0] == pytest.approx((pixel - 127) / 128)
