"""Each segmentation network is the one that its report lists."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from engine.base import UserError
from models.builders import SEGMENTERS, build_network, load_trained
from models.fcn import pad_to_multiple

PAPERS_HEAD = (
    "Conv(512, 4096, 7) ReLU Dropout2d(0.5) Conv(4096, 4096, 1) ReLU Dropout2d(0.5) Conv(4096, 7, 1)"
)
OUR_HEAD = PAPERS_HEAD.replace("4096, 7) ReLU", "4096, 1) ReLU")
TWO_BY_TWO = "Conv(512, 4096, 2) ReLU Dropout2d(0.5) Conv(4096, 4096, 1) ReLU Dropout2d(0.5) Conv(4096, 7, 1)"
TWICE = "ConvTranspose(7, 7, 4, stride 2, padding 1, no bias)"
EIGHT_TIMES = "ConvTranspose(7, 7, 16, stride 8, padding 4, no bias)"
PAPERS_TWICE = "ConvTranspose(7, 7, 4, stride 2, no bias)"
WIDE = "Conv(512, 1024, 3, padding 1) ReLU Conv(1024, 1024, 3, padding 1) ReLU"
# What follows the encoder, layer by layer.
LAYERS = {
    "fcn32s": {"head": OUR_HEAD, "upsample": "ConvTranspose(7, 7, 64, stride 32, padding 16, no bias)"},
    "fcn32s_conv2x2": {"head": TWO_BY_TWO, "upsample": "ConvTranspose(7, 7, 64, stride 32)"},
    "fcn32s_staged": {
        "head": "Conv(512, 4096, 1) ReLU Dropout(0.5) Conv(4096, 4096, 1) ReLU Dropout(0.5)",
        "upsample": "ConvTranspose(4096, 512, 4, stride 2, padding 1) BatchNorm2d(512) ReLU "
        "ConvTranspose(512, 256, 4, stride 2, padding 1) BatchNorm2d(256) ReLU "
        "ConvTranspose(256, 128, 4, stride 2, padding 1) BatchNorm2d(128) ReLU "
        "ConvTranspose(128, 64, 4, stride 2, padding 1) BatchNorm2d(64) ReLU "
        "ConvTranspose(64, 32, 4, stride 2, padding 1) BatchNorm2d(32) ReLU Conv(32, 7, 1)",
    },
    "fcn32s_vgg16bn": {
        "head": "Conv(512, 7, 1)",
        "upsample": "ConvTranspose(7, 7, 64, stride 32, padding 16)",
    },
    "fcn32s_paper": {"head": PAPERS_HEAD, "upsample": "ConvTranspose(7, 7, 64, stride 32, no bias)"},
    "fcn32s_deconv": {
        "head": f"{WIDE} Conv(1024, 1024, 3, padding 1) ReLU",
        "upsample": "ConvTranspose(1024, 7, 32, stride 32)",
    },
    "fcn32s_bilinear": {
        "head": "Conv(512, 4096, 1) ReLU Dropout2d(0.5) Conv(4096, 7, 1) ReLU Dropout2d(0.5)",
        "upsample": "Upsample(32.0, bilinear)",
    },
    "fcn8s": {
        "head": f"{WIDE} Conv(1024, 7, 1)",
        "skips.stride16": "ConvTranspose(7, 7, 2, stride 2) Conv(512, 7, 1)",
        "skips.stride8": "ConvTranspose(7, 7, 2, stride 2) Conv(256, 7, 1)",
        "upsample": "ConvTranspose(7, 7, 8, stride 8)",
    },
    "fcn8s_paper": {
        "head": PAPERS_HEAD,
        "skips.stride16": f"{PAPERS_TWICE} Conv(512, 7, 1)",
        "skips.stride8": f"{PAPERS_TWICE} Conv(256, 7, 1)",
        "upsample": "ConvTranspose(7, 7, 16, stride 8, no bias)",
    },
    "fcn8s_conv2x2": {
        "head": TWO_BY_TWO,
        "skips.stride16": "ConvTranspose(7, 256, 8, stride 4) ConvTranspose(512, 256, 2, stride 2)",
        "skips.stride8": "Identity Identity",
        "upsample": "ConvTranspose(256, 7, 8, stride 8)",
    },
    "resnet34_fcn8s": {
        "head": "Conv(512, 7, 1)",
        "skips.stride16": f"{TWICE} Conv(256, 7, 1)",
        "skips.stride8": f"{TWICE} Conv(128, 7, 1)",
        "upsample": EIGHT_TIMES,
    },
    "resnet34_fcn32s": {
        "head": "Conv(512, 7, 1)",
        "upsample": "ConvTranspose(7, 7, 64, stride 32, padding 16, no bias)",
    },
}
ENCODERS = {name: "resnet34" if name.startswith("resnet34") else "vgg16" for name in LAYERS}
ENCODERS["fcn32s_vgg16bn"] = "vgg16_bn"
# What is added at a skip, for 512 pixels.
SUMS = {
    "fcn8s": [(7, 32, 32), (7, 64, 64)],
    # The upsampled ones; of the finer scales, 45x45 and 89x89 here, as much is cut out.
    "fcn8s_paper": [(7, 36, 36), (7, 74, 74)],
    "fcn8s_conv2x2": [(256, 64, 64), (256, 64, 64)],
    "resnet34_fcn8s": [(7, 32, 32), (7, 64, 64)],
}
AS_TORCH_STARTS = ("fcn32s_conv2x2", "fcn8s")  # report000's and report003's
BILINEAR = [
    name
    for name in LAYERS
    if "ConvTranspose(7, 7," in " ".join(LAYERS[name].values()) and name not in AS_TORCH_STARTS
]


def without_numbers(name: str) -> nn.Module:
    """The network on the meta device: layers and shapes at no cost."""
    with torch.device("meta"):
        return build_network(name, SEGMENTERS, num_classes=7).eval()


def text_of(layer: nn.Module) -> str:
    name = type(layer).__name__
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        assert layer.dilation == (1, 1) and layer.groups == 1
        values = [layer.in_channels, layer.out_channels, layer.kernel_size[0]]
        values += [f"stride {layer.stride[0]}"] if layer.stride != (1, 1) else []
        values += [f"padding {layer.padding[0]}"] if layer.padding != (0, 0) else []
        values += ["no bias"] if layer.bias is None else []
        return f"{name[:-2]}({', '.join(map(str, values))})"
    details = {
        "Dropout": lambda: layer.p,
        "Dropout2d": lambda: layer.p,
        "BatchNorm2d": lambda: layer.num_features,
        "Upsample": lambda: f"{layer.scale_factor}, {layer.mode}",
    }
    return f"{name}({details[name]()})" if name in details else name


def images_of(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


# -- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_what_follows_the_encoder_is_listed_layer_by_layer(name):
    network, found = without_numbers(name), {}
    for part in LAYERS[name]:
        leaves = [module for module in network.get_submodule(part).modules() if not list(module.children())]
        found[part] = " ".join(map(text_of, leaves))
    assert found == LAYERS[name]
    assert {name.split(".")[0] for name in network.state_dict()} <= {"backbone", "head", "skips", "upsample"}


@pytest.mark.parametrize("name", LAYERS)
def test_the_encoder_is_torchvisions_under_its_own_names(name):
    with torch.device("meta"):
        published = torchvision.models.get_model(ENCODERS[name], weights=None)
    published = getattr(published, "features", published)

    if name.endswith("_paper"):  # what it says of itself and nothing else
        published[0].padding = (100, 100)
        for layer in published:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True

    def layers(network: nn.Module) -> tuple[dict[str, torch.Size], dict[str, str]]:
        tensors = {
            key: value.shape for key, value in network.state_dict().items() if not key.startswith("fc.")
        }
        return tensors, {
            key: repr(m) for key, m in network.named_modules() if key not in ("", "avgpool", "fc")
        }

    assert layers(without_numbers(name).backbone) == layers(published)


@pytest.mark.parametrize("name", SUMS)
def test_skips_meet_at_strides_16_and_8(name):
    network, given = without_numbers(name), []
    for skip in network.skips.values():
        skip.enlarge.register_forward_hook(
            lambda module, inputs, output: given.append(tuple(output.shape[1:]))
        )
        skip.register_forward_hook(lambda module, inputs, output: given.append(tuple(output.shape[1:])))
    network(torch.empty(1, 3, 512, 512, device="meta"))
    assert given == [shape for shape in SUMS[name] for _ in range(2)]


@pytest.mark.parametrize(
    "name, stride", [("fcn32s_paper", 32), ("fcn8s_paper", 32), ("fcn8s_paper", 16), ("fcn8s_paper", 8)]
)
def test_the_papers_scales_are_cut_out_where_they_belong(name, stride):
    """An encoder that says of each feature in which row of the image it lies is understood so."""
    network = build_network(name, num_classes=7).eval()
    network.head = nn.Conv2d(512, 7, 7)

    def rows_of(images: Tensor) -> dict[str, Tensor]:
        features, size = {}, images.shape[-1] + 198  # the padding of 100, less what a 3x3 kernel takes
        for step in (2, 4, 8, 16, 32):
            size = -(-size // 2)
            rows = step * torch.arange(size) + (step - 1) / 2 - 99
            channels = {8: 256, 16: 512, 32: 512}.get(step, 1)
            features[f"stride{step}"] = rows[None, None, :, None].expand(1, channels, size, size)
        return features

    network.backbone.forward = rows_of
    scores = {"stride32": network.head, **{s: skip.score for s, skip in network.skips.items()}}
    with torch.no_grad():
        for layer in scores.values():
            layer.weight.zero_()
            layer.bias.zero_()
        score = scores[f"stride{stride}"]
        middle = score.kernel_size[0] // 2
        score.weight[:, 0, middle, middle] = 1
        found = network(torch.zeros(1, 3, 512, 512))["out"][0, 3, :, 250]
    torch.testing.assert_close(found[64:-64], torch.arange(64.0, 448.0), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["fcn32s_conv2x2", "fcn8s_conv2x2"])
def test_a_first_kernel_of_two_turns_16_into_15(name):
    network, shapes = without_numbers(name), []
    network.head[0].register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    network(torch.empty(1, 3, 512, 512, device="meta"))
    assert shapes == [(1, 4096, 15, 15)]


def test_deeplab_plus_is_that_of_its_paper():
    network, given = without_numbers("deeplabv3plus_resnet50"), {}
    for name in ("aspp", "low_level", "classifier"):
        network.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: given.update({name: tuple(inputs[0].shape[1:])})
        )
    assert set(network.train()(torch.empty(2, 3, 512, 512, device="meta"))) == {"out"}
    assert given == {"aspp": (2048, 32, 32), "low_level": (256, 128, 128), "classifier": (304, 128, 128)}
    assert network.low_level[0].out_channels == 48
    assert [branch[0].dilation[0] for branch in list(network.aspp.convs)[1:4]] == [6, 12, 18]


@pytest.mark.parametrize("name", ["deeplabv3_resnet101", "deeplabv3_resnet50"])
def test_deeplab_is_dilated_with_the_listed_rates_and_an_auxiliary_head_on_layer3(name):
    network, sizes = without_numbers(name), {}
    for part in ("layer3", "layer4"):
        network.backbone[part].register_forward_hook(
            lambda module, inputs, output, part=part: sizes.update({part: tuple(output.shape[1:])})
        )
    network.training = True  # of the whole alone: the auxiliary head is computed
    logits = network(torch.empty(1, 3, 512, 512, device="meta"))
    assert {key: tuple(value.shape) for key, value in logits.items()} == dict.fromkeys(
        ("out", "aux"), (1, 7, 512, 512)
    )
    assert sizes == {"layer3": (1024, 64, 64), "layer4": (2048, 64, 64)}
    assert [branch[0].dilation[0] for branch in list(network.classifier[0].convs)[1:4]] == [12, 24, 36]
    assert network.aux_classifier[0].in_channels == 1024


# -- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("size", [(512, 512), (70, 97), (20, 500), (1, 1)])
def test_logits_are_as_large_as_the_tile(name, size):
    assert without_numbers(name)(torch.empty(1, 3, *size, device="meta"))["out"].shape == (1, 7, *size)


@pytest.mark.parametrize(
    "name", ["resnet34_fcn8s", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"]
)
def test_a_tile_of_another_size_is_padded_right_and_below_and_its_logits_cropped(name):
    network, images = build_network(name, num_classes=7).eval(), images_of(70, 97)
    padded = functional.pad(images, (0, 31, 0, 26), mode="replicate")
    with torch.inference_mode():
        torch.testing.assert_close(network(images)["out"], network(padded)["out"][..., :70, :97])


def test_a_tile_is_padded_to_whole_strides_and_to_the_least_size():
    assert pad_to_multiple(images_of(20, 65), 32).shape == (1, 3, 32, 96)
    assert pad_to_multiple(images_of(20, 65), 32, least=64).shape == (1, 3, 64, 96)
    assert pad_to_multiple(images_of(64, 96), 32, least=64).shape == (1, 3, 64, 96)


# -- start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BILINEAR)
def test_what_upsamples_scores_interpolates_bilinearly_before_any_training(name):
    network = build_network(name, num_classes=7)
    layers = [
        m for m in network.modules() if isinstance(m, nn.ConvTranspose2d) and m.in_channels == m.out_channels
    ]
    assert len(layers) == " ".join(LAYERS[name].values()).count("ConvTranspose(7, 7,")
    coarse = torch.rand(1, 7, 4, 5)
    for layer in layers:
        stride = layer.stride[0]
        assert layer.weight.requires_grad
        with torch.no_grad():
            found = layer(coarse)
        if layer.padding == (0, 0):
            found = found[..., stride // 2 : -(stride // 2), stride // 2 : -(stride // 2)]
        wanted = functional.interpolate(coarse, scale_factor=stride, mode="bilinear", align_corners=False)
        inner = (..., slice(stride, -stride), slice(stride, -stride))  # the border fades out
        torch.testing.assert_close(found[inner], wanted[inner])


@pytest.mark.parametrize("name", ["fcn8s", "fcn32s_deconv"])
def test_a_model_file_of_the_layers_before_they_were_corrected_says_so(name):
    with torch.device("meta"):
        old = build_network("fcn32s", num_classes=7).state_dict()  # their head was this one's
        with pytest.raises(UserError, match=f"this {name} is of the layers .*; train it again"):
            load_trained({"network": name, "arguments": {"num_classes": 7}, "state": old})


@pytest.mark.parametrize("name", LAYERS)
def test_a_model_file_is_rebuilt(name):
    state = without_numbers(name).state_dict()
    with torch.device("meta"):
        rebuilt = load_trained({"network": name, "arguments": {"num_classes": 7}, "state": state})
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {k: v.shape for k, v in state.items()}


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_a_few_steps_learn_a_made_up_tile(name):
    torch.manual_seed(0)
    network = build_network(name, SEGMENTERS, num_classes=7).train()
    images, targets = images_of(64, 64, count=2), torch.full((2, 64, 64), 3)
    targets[:, :16] = 5
    images[:, 0] += 2.0 * (targets == 5)
    optimizer, losses = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9), []
    for _ in range(5):
        loss = functional.cross_entropy(network(images)["out"], targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert losses[-1] < losses[0] - 0.05
