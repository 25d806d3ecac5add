"""A network's description is true, and its picture shows it: every block by name and shape, nothing upon
another.
"""

from __future__ import annotations

import copy
import json
import re
from itertools import combinations

import pytest
import torch
import torchvision
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.base import UserError, run_script
from models import describe as command
from models.builders import CLASSIFIERS, SEGMENTERS, build_network
from models.dataflow import without_numbers
from models.describe import as_text, describe, described, keep_architecture
from models.diagram import draw, figure_of, lay_out, place, route, shape_text, short_count

NETWORKS = [*SEGMENTERS, *CLASSIFIERS]


def of_imagenet(name: str) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None)


def blocks_of(description: dict) -> dict[str, dict]:
    return {block["name"]: block for block in description["blocks"]}


# -- numbers -------------------------------------------------------------------------------------------------


def test_a_resnet50_has_the_known_parameters_and_operations():
    description = describe(of_imagenet("resnet50"), "resnet50", 224)
    assert description["parameters"] == 25_557_032
    assert description["multiply_adds"] == pytest.approx(4.09e9, rel=1e-3)
    assert "4.09 GFLOPs (multiply-adds) at 224 x 224" in as_text(description)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet34", "resnet152", "vgg16_bn", "densenet161", "resnext101_32x8d", "mobilenet_v3_large"),
        *("convnext_tiny", "vit_b_16", "swin_t", "maxvit_t"),
    ],
)
def test_parameters_and_operations_are_those_that_torchvision_tells(name):
    known = torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta
    description = describe(of_imagenet(name), name, 224)
    assert description["parameters"] == known["num_params"]
    assert description["multiply_adds"] / 1e9 == pytest.approx(known["_ops"], abs=0.001)


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_are_those_that_pytorch_counts(name):
    with torch.device("meta"):
        network = build_network(name, num_classes=7).eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 96, 96, device="meta"))
    description = describe(network, name, 96)
    assert 2 * description["multiply_adds"] == counter.get_total_flops()
    assert sum(block["parameters"] for block in description["blocks"]) == description["parameters"]
    assert description["parameters"] == sum(parameter.numel() for parameter in network.parameters())


# -- blocks --------------------------------------------------------------------------------------------------


def test_blocks_are_told_from_the_input_to_the_output_with_what_they_read():
    blocks = described("fcn8s", 512)["blocks"]
    assert [block["name"] for block in blocks[:5]] == ["input", "conv1", "pool1", "conv2", "pool2"]
    by_name = {block["name"]: block for block in blocks}
    assert by_name["conv3"]["layers"] == "3 × (Conv 3×3, 256 · ReLU)"
    assert by_name["conv3"]["modules"] == [f"backbone.{n}" for n in range(10, 16)]
    assert by_name["pool4"]["shape"] == [512, 32, 32] and by_name["pool4"]["stride"] == 16
    assert by_name["skips.stride16.score"]["inputs"] == ["pool4"]
    assert by_name["add"]["inputs"] == ["skips.stride16.enlarge", "skips.stride16.score"]
    assert by_name["skips.stride8.score"]["inputs"] == ["pool3"]
    assert by_name["upsample"]["inputs"] == ["add 2"]
    assert blocks[-1]["name"] == "output" and blocks[-1]["shape"] == [7, 512, 512]


def test_the_auxiliary_head_is_told_apart_and_costs_no_operations_at_inference():
    description = described("deeplabv3_resnet101", 512)
    auxiliary = [name for name, block in blocks_of(description).items() if block["is_auxiliary"]]
    assert auxiliary == ["aux_classifier.0", "aux_classifier.4", "upsample 2", "output aux"]
    assert blocks_of(description)["aux_classifier.0"]["inputs"] == ["layer3"]
    head = torchvision.models.segmentation.fcn.FCNHead(1024, 7)
    assert description["auxiliary_parameters"] == sum(parameter.numel() for parameter in head.parameters())


def test_a_pyramid_reads_the_encoders_finer_scales():
    blocks = blocks_of(described("lite_fpn", 512))
    strides = [blocks[blocks[f"lateral.{n}"]["inputs"][0]]["stride"] for n in range(3)]
    assert strides == [16, 8, 4]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_can_be_described_and_its_blocks_hang_together(name):
    description = json.loads(json.dumps(described(name)))
    blocks = blocks_of(description)
    assert len(blocks) == len(description["blocks"])  # no name twice
    seen = set()
    for block in description["blocks"]:
        assert set(block["inputs"]) <= seen and bool(block["inputs"]) == (block["name"] != "input")
        seen.add(block["name"])
    read = {before for block in blocks.values() for before in block["inputs"]}
    assert seen - read == {name for name, block in blocks.items() if block["role"] == "output"}
    with torch.device("meta"):
        network = build_network(name, num_classes=7 if name in SEGMENTERS else 65)
    leaves = {path for path, module in network.named_modules() if list(module.parameters(recurse=False))}
    told = tuple(path for block in blocks.values() for path in block["modules"])
    assert all(leaf in told or leaf.startswith(tuple(f"{path}." for path in told)) for leaf in leaves)


def test_a_network_in_training_is_described_and_left_as_it_is():
    network = build_network("lraspp_mobilenet_v3_large", num_classes=7).train()
    state, before = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    description = describe(network, "lraspp_mobilenet_v3_large", 64)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(not module._forward_hooks for module in network.modules())
    assert description["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert all(value.is_meta for value in without_numbers(network).state_dict().values())


# -- picture -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_block_is_drawn_by_name_and_shape_and_nothing_lies_upon_another(name):
    description = described(name)
    figure, layout = figure_of(description), lay_out(description["blocks"])
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    shown = re.sub(r"\s", "", " ".join(text.get_text() for text in texts))
    for block in description["blocks"]:
        for wanted in (block["name"], shape_text(block["shape"]), short_count(block["parameters"])):
            assert wanted.replace(" ", "") in shown, wanted
    extents = [text.get_window_extent(renderer) for text in texts]
    for first, second in combinations(range(len(texts)), 2):
        # Extents of lines may touch, one above the other: they reach as far down as a g.
        overlap = extents[first].padded(-2).overlaps(extents[second].padded(-2))
        assert not overlap, (texts[first].get_text(), texts[second].get_text())
    assert all(figure.bbox.contains(*corner) for extent in extents for corner in (extent.min, extent.max))

    boxes = place(blocks_of(description), layout, 1.0)
    assert set(boxes) == set(blocks_of(description))
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        beside = abs(a.x - b.x) >= (a.width + b.width) / 2 or a.bottom <= b.y or b.bottom <= a.y
        assert beside, (one, other)
    for start, end in layout.edges:
        points = route(layout, boxes, start, end)
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            assert min(abs(x0 - x1), abs(y0 - y1)) < 1e-9
            for name_of_box, box in boxes.items():
                left, right = box.x - box.width / 2, box.right
                across = min(x0, x1) < right and max(x0, x1) > left
                through = across and min(y0, y1) < box.bottom and max(y0, y1) > box.y
                assert not through or name_of_box in (start, end), (start, end, name_of_box)


@pytest.mark.parametrize("name", ["fcn8s", "deeplabv3_mobilenet_v3_large"])
def test_the_same_description_gives_the_same_bytes(name):
    description = described(name)
    first = draw(description)
    assert first == draw(json.loads(json.dumps(description)))
    assert b"<svg" in first and b"<dc:date>" not in first
    texts = re.findall(r"<!-- (.+?) -->", first.decode())  # each text stands beside its outlines
    assert {"pool5", "7 × 512 × 512"} <= set(texts) or {"output aux", "7 × 512 × 512"} <= set(texts)


def test_numbers_of_parameters_are_short():
    assert [short_count(n) for n in (0, 784, 1792, 14_000, 999_499, 999_500, 16_781_312)] == [
        *("", "784", "1.79 k", "14.0 k", "999 k", "1.00 M", "16.8 M")
    ]


# -- networks that cannot be traced or drawn -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
@pytest.mark.parametrize("name", ["maxvit_t", "googlenet"])
def test_a_network_that_cannot_be_traced_is_listed_and_stops_no_training(name, tmp_path, capsys):
    network = of_imagenet(name)
    keep_architecture(network, name, 224, tmp_path / "architecture")
    assert f"{name}: its layers could not be traced" in capsys.readouterr().err
    description = json.loads((tmp_path / "architecture.json").read_text())
    assert not description["is_traced"] and description["multiply_adds"] > 1e9
    told = {block["modules"][0]: block["parameters"] for block in description["blocks"]}
    for path, parameters in told.items():
        assert parameters == sum(p.numel() for p in network.get_submodule(path).parameters())
    own = sum(parameter.numel() for parameter in network.parameters(recurse=False))
    assert sum(told.values()) + own == description["parameters"]
    assert as_text(description).count("\n") == len(told) + 3
    drawing = (tmp_path / "architecture.svg").read_text()
    assert all(f"<!-- {block['name']} -->" in drawing for block in description["blocks"])
    assert "which follows which could not be traced" in drawing
    assert (tmp_path / "architecture.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["convnext_tiny", "vit_b_16", "swin_t"])
def test_networks_that_are_not_of_this_repository_are_drawn_too(name, tmp_path):
    keep_architecture(of_imagenet(name), name, 224, tmp_path / "architecture")
    description = json.loads((tmp_path / "architecture.json").read_text())
    assert description["is_traced"] and description["blocks"][-1]["shape"] == [1000]
    drawing = (tmp_path / "architecture.svg").read_text()
    assert all(f"<!-- {shape_text(block['shape'])} -->" in drawing for block in description["blocks"])


def test_a_network_that_cannot_be_laid_out_is_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("models.diagram.lay_out", lambda blocks: {}["row"])
    keep_architecture(of_imagenet("resnet18"), "resnet18", 224, tmp_path / "architecture")
    assert "resnet18: cannot be drawn (KeyError)" in capsys.readouterr().err
    description = json.loads((tmp_path / "architecture.json").read_text())
    assert not description["is_traced"] and blocks_of(description)["layer4"]["inputs"] == ["layer3"]
    assert "<!-- layer4 -->" in (tmp_path / "architecture.svg").read_text()


def test_a_training_goes_on_where_the_drawing_cannot_see_its_images(tmp_path, capsys):
    keep_architecture(of_imagenet("vgg16_bn"), "vgg16_bn", 8, tmp_path / "architecture")
    assert "cannot see images of 8 x 8" in capsys.readouterr().err
    description = json.loads((tmp_path / "architecture.json").read_text())
    assert description["multiply_adds"] is None and "unknown GFLOPs" in as_text(description)


# -- command -------------------------------------------------------------------------------------------------


def test_the_command_prints_the_table_and_writes_description_and_pictures(tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert command.main(["fcn32s_vgg16bn", "--size", "256", "--classes", "5", "--output", str(folder)]) == 0
    printed = capsys.readouterr().out
    description = json.loads((folder / "architecture.json").read_text())
    assert printed == as_text(description) + "\n"
    assert description["input"] == [3, 256, 256] and description["blocks"][-1]["shape"] == [5, 256, 256]
    assert re.search(
        r"^upsample +ConvTranspose 64×64, 5, stride 32, padding 16 +5 x 256 x 256 ", printed, re.MULTILINE
    )
    assert "14,817," not in printed and f"{description['parameters']:,} parameters" in printed
    assert (folder / "architecture.svg").read_bytes() == draw(description)
    assert (folder / "architecture.png").read_bytes().startswith(b"\x89PNG")
    kinds = ("json", "pdf", "png", "svg")
    assert sorted(path.name for path in folder.iterdir()) == [f"architecture.{kind}" for kind in kinds]


def test_classifiers_are_described_at_224_pixels_with_65_classes(capsys):
    assert command.main(["resnet18"]) == 0
    printed = capsys.readouterr().out
    assert "3 x 224 x 224" in printed and "Linear 512 → 65" in printed


def status_of(*words: str) -> int:
    """How the command ends."""
    with pytest.raises(SystemExit) as end:
        run_script(lambda: command.main(words))
    return end.value.code


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["no_such_network"], "no network is called 'no_such_network'"),
        (["vgg19_bn_a", "--size", "16"], "cannot see images of 16 x 16"),
    ],
)
def test_what_cannot_be_described_is_one_line(arguments, reason, capsys):
    assert status_of(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and reason in said and said.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert status_of("resnet18", "--output", str(tmp_path / "file")) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_an_image_too_small_for_a_network_is_told_to_scripts(tmp_path):
    with pytest.raises(UserError, match="give another size"):
        described("vgg16_bn", 8)
