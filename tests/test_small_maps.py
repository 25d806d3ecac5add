"""A convolution of a small map as a matrix product is the same convolution."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from models.builders import build_network
from models.small_maps import SmallMapConv2d, use_matrix_products

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def no_usual_way():
    """While this holds, nobody calls torch's convolution."""
    return mock.patch.object(
        nn.Conv2d, "_conv_forward", side_effect=AssertionError("torch's convolution was called")
    )


def no_product():
    return mock.patch.object(functional, "linear", side_effect=AssertionError("a matrix product was taken"))


def with_gradients(layer: nn.Module, images: Tensor, given: Tensor) -> list[Tensor]:
    """What `layer` makes of the images, and with `given` as the gradient of that: those of images and
    parameters.
    """
    images = images.clone().requires_grad_()  # clone keeps the layout
    results = layer(images)
    gradients = torch.autograd.grad(results, [images, *layer.parameters()], given)
    return [results.detach(), *gradients]


def same_with_products(layer: nn.Conv2d) -> SmallMapConv2d:
    product = copy.deepcopy(layer)
    product.__class__ = SmallMapConv2d
    return product


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def is_too_large(layer: nn.Conv2d, images: Tensor) -> bool:
    return any(k > size + 2 * p for k, size, p in zip(layer.kernel_size, images.shape[2:], layer.padding))


@st.composite
def layers_and_maps(draw) -> tuple[nn.Conv2d, Tensor]:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    channels, units = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    layer = nn.Conv2d(
        channels,
        units,
        draw(st.sampled_from([1, 3, 5, (1, 3), (5, 3)])),
        stride=draw(st.sampled_from([1, 2, (1, 2), (2, 1)])),
        padding=draw(st.sampled_from([0, 1, 2, (1, 0), (0, 1)])),
        bias=draw(st.booleans()),
    ).double()
    size = (draw(st.integers(1, 3)), channels, draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    layout = draw(st.sampled_from(LAYOUTS))
    layer = layer.to(memory_format=draw(st.sampled_from(LAYOUTS)))
    return layer, torch.randn(size, dtype=torch.float64).contiguous(memory_format=layout)


# -- one convolution -----------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(layers_and_maps())
def test_the_results_and_all_gradients_are_those_of_torchs_convolution(drawn):
    layer, images = drawn
    assume(not is_too_large(layer, images))
    results = layer(images)
    upstream = torch.randn(results.shape, dtype=torch.float64)
    expected = with_gradients(layer, images, upstream)
    with no_usual_way():
        found = with_gradients(same_with_products(layer), images, upstream)
    assert_same(found, expected, 1e-10)


@settings(max_examples=50, deadline=None)
@given(layers_and_maps())
def test_a_kernel_that_is_larger_than_the_padded_map_is_refused_as_torch_refuses_it(drawn):
    layer, images = drawn
    assume(is_too_large(layer, images))
    for either in (layer, same_with_products(layer)):
        with pytest.raises(RuntimeError):
            either(images)


@pytest.mark.parametrize("size", [(4, 4), (2, 8), (16, 1), (1, 1)])
def test_a_map_of_sixteen_positions_or_fewer_becomes_a_product(size):
    with no_usual_way():
        assert SmallMapConv2d(2, 3, 3, padding=1)(torch.rand(2, 2, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize("size", [(1, 17), (4, 5), (8, 8), (7, 30)])
def test_a_larger_map_takes_the_usual_way(size):
    layer, images = nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.rand(2, 2, *size)
    with no_product():
        assert torch.equal(same_with_products(layer)(images), layer(images))


@pytest.mark.parametrize("kernel, stride", [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_a_channels_last_map_gives_a_channels_last_map(kernel, stride):
    images = torch.rand(2, 5, 4, 4).contiguous(memory_format=torch.channels_last)
    layer = SmallMapConv2d(5, 6, kernel, stride=stride, padding=kernel // 2)
    for results in (layer(images), layer.to(memory_format=torch.channels_last)(images)):
        assert results.is_contiguous(memory_format=torch.channels_last)
        assert not results.is_contiguous()


# -- a whole network -----------------------------------------------------------------------------------------


class OwnConvolution(nn.Conv2d):
    """Somebody's, whose forward is another."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


def convolutions() -> nn.ModuleDict:
    """Those that may become products first: weights of 512 * 512 at least, and nothing unusual about them."""
    return nn.ModuleDict(
        {
            "large": nn.Conv2d(512, 512, 1),
            "large 3x3": nn.Conv2d(128, 256, 3, stride=(2, 1), padding=(1, 0), bias=False),
            "inner": nn.Sequential(nn.Conv2d(512, 512, 1)),
            "small": nn.Conv2d(512, 511, 1),
            "groups": nn.Conv2d(512, 1024, 1, groups=2),
            "dilation": nn.Conv2d(512, 512, 3, dilation=2, padding=2),
            "reflect": nn.Conv2d(512, 512, 3, padding=1, padding_mode="reflect"),
            "same": nn.Conv2d(512, 512, 3, padding="same"),
            "transposed": nn.ConvTranspose2d(512, 512, 1),
            "linear": nn.Linear(512, 512),
            "own": OwnConvolution(512, 512, 1),
        }
    )


def test_only_large_and_ordinary_convolutions_are_changed():
    with torch.device("meta"):
        network = convolutions()
    before = {name: type(module) for name, module in network.named_modules()}
    use_matrix_products(network)
    changed = {name for name, module in network.named_modules() if type(module) is not before[name]}
    assert changed == {"large", "large 3x3", "inner.0"}
    assert {type(network.get_submodule(name)) for name in changed} == {SmallMapConv2d}


def test_names_parameters_and_settings_stay():
    network = convolutions()
    parameters, keys = dict(network.named_parameters()), list(network.state_dict())
    versions = {name: value._version for name, value in parameters.items()}
    use_matrix_products(network)
    assert list(network.state_dict()) == keys
    assert all(value is parameters[name] for name, value in network.named_parameters())
    assert {name: value._version for name, value in parameters.items()} == versions  # nobody wrote into them
    assert network["large 3x3"].stride == (2, 1) and network["large 3x3"].padding == (1, 0)
    convolutions().load_state_dict(network.state_dict())


def test_a_copy_takes_products_too_and_has_weights_of_its_own():
    network = nn.Sequential(nn.Conv2d(512, 512, 1))
    use_matrix_products(network)
    other = copy.deepcopy(network)
    images = torch.rand(1, 512, 2, 2)
    with no_usual_way():
        before = network(images)
        assert torch.equal(other(images), before)
        with torch.no_grad():
            other[0].weight.zero_()
        assert torch.equal(network(images), before)
        assert not torch.equal(other(images), before)


def test_a_resnet34_at_32_pixels_gives_the_same_logits_and_gradients():
    torch.manual_seed(0)
    network = (
        build_network("resnet34", num_classes=50, stem="3x3").double().to(memory_format=torch.channels_last)
    )
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(2, 50, dtype=torch.float64)
    usual, product = copy.deepcopy(network.train()), network
    use_matrix_products(product)
    taken = []
    for module in product.modules():
        if type(module) is SmallMapConv2d:
            module.register_forward_pre_hook(lambda _, given: taken.append(given[0].shape[2] <= 4))
    assert_same(with_gradients(product, images, upstream), with_gradients(usual, images, upstream), 1e-9)
    assert sum(taken) == 11 + 6  # layer3 but for its first convolution, and layer4
