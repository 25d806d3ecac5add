"""vit_t: MobileSAM's TinyViT computes what its authors' encoder does, and its file is known by its shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from torch import Tensor
from torch.nn import functional

from benchmarks.bench_sam import lively_sam
from datasets.drawings import draw_tile
from engine.base import UserError
from models.sam import build_sam, load_sam, sizes_of, type_of
from models.sam_masks import MaskGenerator
from models.sam_networks import TinyViT
from tests.test_sam_masks import SETTINGS, SIDE, assert_same_masks, hollow

SMALL = {
    "widths": [32, 32, 64, 64],
    "depths": [1, 1, 2, 1],
    "windows": [7, 5, 7],
}  # at 128: 32, 16, 8, 8 a side
VIT_T = {"widths": [64, 128, 160, 320], "depths": [2, 2, 6, 2], "windows": [7, 14, 7]}
AT_1024 = {"image_size": 1024, "grid": 64}


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """In eval mode, with no number left where it starts: no path may rest on zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            drawn = torch.rand(value.shape, generator=generator)
            value.copy_(0.5 + drawn if "running_var" in name else (drawn - 0.5) * 0.4)
    return network.eval()


# -- the encoder from its description alone: head by head, window by window ------------------------------


def conv(state: dict, key: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{key}.c.weight"]
    groups = x.shape[1] // weight.shape[1]
    x = functional.conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=groups)
    mean, var, scale, shift = (
        state[f"{key}.bn.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def attention(state: dict, key: str, x: Tensor, window: int) -> Tensor:
    """(1, C, H, W), padded with zeros to whole windows; every head and window by itself."""
    _, channels, height, width = x.shape
    x = functional.pad(x, (0, -width % window, 0, -height % window))
    out = torch.zeros_like(x)
    places = [(row, column) for row in range(window) for column in range(window)]
    for top in range(0, x.shape[2], window):
        for left in range(0, x.shape[3], window):
            tokens = torch.stack([x[0, :, top + row, left + column] for row, column in places])
            norm = [state[f"{key}.norm.{name}"] for name in ("weight", "bias")]
            tokens = functional.layer_norm(tokens, (channels,), *norm, eps=1e-5)
            qkv = tokens @ state[f"{key}.qkv.weight"].T + state[f"{key}.qkv.bias"]
            found = []
            for head in range(channels // 32):
                q, k, v = (qkv[:, 96 * head + 32 * part :][:, :32] for part in range(3))
                biases = state[f"{key}.attention_biases"][head]
                apart = [
                    [abs(one[0] - two[0]) * window + abs(one[1] - two[1]) for two in places] for one in places
                ]
                scores = q @ k.T * 32**-0.5 + biases[torch.tensor(apart)]
                found.append(scores.softmax(dim=1) @ v)
            found = torch.cat(found, dim=1) @ state[f"{key}.proj.weight"].T + state[f"{key}.proj.bias"]
            for token, (row, column) in zip(found, places):
                out[0, :, top + row, left + column] = token
    return out[:, :, :height, :width]


def mlp(state: dict, key: str, x: Tensor) -> Tensor:
    x = x.permute(0, 2, 3, 1)
    norm = [state[f"{key}.norm.{name}"] for name in ("weight", "bias")]
    x = functional.layer_norm(x, x.shape[3:], *norm, eps=1e-5)
    for layer in ("fc1", "fc2"):
        x = functional.linear(x, state[f"{key}.{layer}.weight"], state[f"{key}.{layer}.bias"])
        x = functional.gelu(x) if layer == "fc1" else x
    return x.permute(0, 3, 1, 2)


def neck_norm(state: dict, key: str, x: Tensor) -> Tensor:
    mean, var = x.mean(dim=1, keepdim=True), x.var(dim=1, keepdim=True, unbiased=False)
    x = (x - mean) / (var + 1e-6).sqrt()
    return x * state[f"{key}.weight"][:, None, None] + state[f"{key}.bias"][:, None, None]


def described(state: dict, x: Tensor) -> Tensor:
    gelu = functional.gelu
    x = conv(state, "patch_embed.seq.2", gelu(conv(state, "patch_embed.seq.0", x, 2)), 2)
    for stage, depth in enumerate(SMALL["depths"]):
        for number in range(depth):
            key = f"layers.{stage}.blocks.{number}"
            if stage == 0:
                wide = gelu(conv(state, f"{key}.conv2", gelu(conv(state, f"{key}.conv1", x))))
                x = gelu(x + conv(state, f"{key}.conv3", wide))
                continue
            x = x + attention(state, f"{key}.attn", x, SMALL["windows"][stage - 1])
            x = conv(state, f"{key}.local_conv", x)
            x = x + mlp(state, f"{key}.mlp", x)
        if stage < 3:
            key = f"layers.{stage}.downsample"
            wide = gelu(conv(state, f"{key}.conv1", x))
            x = conv(state, f"{key}.conv3", gelu(conv(state, f"{key}.conv2", wide, 1 if stage == 2 else 2)))
    x = neck_norm(state, "neck.1", functional.conv2d(x, state["neck.0.weight"]))
    return neck_norm(state, "neck.3", functional.conv2d(x, state["neck.2.weight"], padding=1))


def test_the_encoder_computes_what_its_description_says():
    network = shaken(TinyViT(128, **SMALL))
    images = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = network(images), described(network.state_dict(), images)
        assert found.shape == (1, 256, 8, 8) and expected.std() > 0.05
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        twice = network(torch.cat([images, images.flip(3)]))
        torch.testing.assert_close(twice[:1], found, atol=1e-4, rtol=1e-4)


# -- masks and files -----------------------------------------------------------------------------------------


def test_its_masks_are_the_official_generators():
    image = np.array(draw_tile(np.random.default_rng(0), 192, [])[0])
    sam = lively_sam(image, seed=0, points_per_side=SIDE, image_size=256, grid=16, **SMALL)
    official = SamAutomaticMaskGenerator(sam, output_mode="uncompressed_rle", **SETTINGS).generate(image)
    assert len(official) >= 10 and len({mask["area"] for mask in official}) >= 5
    assert_same_masks(MaskGenerator(sam, **SETTINGS).generate(image), official)


def test_the_file_of_mobile_sam_is_known_by_its_shapes(tmp_path):
    with torch.device("meta"):
        expected = build_sam(**AT_1024, **VIT_T)
    state = expected.state_dict()
    ours = {key for key in state if key.startswith("image_encoder.")}
    numbers = sum(state[key].numel() for key in ours if "num_batches" not in key)
    assert len(ours) == 302 - 4 and 5.7e6 < numbers < 5.8e6
    classifier = {"norm_head.weight": (320,), "norm_head.bias": (320,), "head.weight": (1000, 320)}
    classifier["head.bias"] = (1000,)
    unused = {f"image_encoder.{key}": torch.empty(shape) for key, shape in classifier.items()}
    torch.save(hollow({**state, **unused}), tmp_path / "mobile_sam.pt")
    sam = load_sam(tmp_path / "mobile_sam.pt")
    assert type_of(sam) == "vit_t" and str(sam) == str(expected)
    assert sam.image_encoder.img_size == 1024 and sam.prompt_encoder.image_embedding_size == (64, 64)
    assert not sam.training and not any(parameter.requires_grad for parameter in sam.parameters())


def test_what_is_saved_comes_back_and_another_size_has_a_name_of_its_own(tmp_path):
    sam = build_sam(**AT_1024, **SMALL)
    shaken(sam)
    torch.save(
        {"model": {f"module.{key}": value for key, value in sam.state_dict().items()}}, tmp_path / "s.pt"
    )
    loaded = load_sam(tmp_path / "s.pt")
    assert type_of(loaded) == "vit_64x5" and sizes_of(loaded.state_dict()) == sizes_of(sam.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.image_encoder(images), sam.image_encoder(images))


@pytest.mark.parametrize(
    "key",
    [
        "patch_embed.seq.0.c.weight",
        "layers.0.downsample.conv3.c.weight",
        "layers.1.blocks.0.attn.attention_biases",
        "layers.2.blocks.1.mlp.fc1.weight",
        "neck.0.weight",
    ],
)
def test_a_file_that_lacks_a_tensor_or_has_one_of_another_shape_is_refused_in_one_line(key, tmp_path):
    state = build_sam(**AT_1024, **SMALL).state_dict()
    key = f"image_encoder.{key}"
    for name, changed in (("lacks", None), ("flat", torch.zeros(6)), ("short", state[key][:-1])):
        bad = {**state, key: changed}
        if changed is None:
            del bad[key]
        torch.save(bad, tmp_path / name)
        with pytest.raises(UserError, match="no weights of Segment Anything") as raised:
            load_sam(tmp_path / name)
        assert "\n" not in str(raised.value)
