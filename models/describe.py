"""Print the architecture of a network of models/, its parameters and operations, and draw it.

    python3 -m models.describe fcn8s
    python3 -m models.describe deeplabv3_resnet101 --output deeplab

The table has a line a block, in the order of computing: what it is made of, what it gives (channels x height
x width), how many input pixels one of its pixels is wide, and parameters. With --output DIR the same is
written to DIR/architecture.json and drawn in DIR/architecture.svg, .pdf and .png. Any size is quick.

GFLOPs are billions of multiply-adds, of convolutions, linear layers and attention for one image at inference,
as in torchvision's tables; whoever counts a multiplication and an addition as two has twice as many. Of a
network whose layers cannot be traced the parts are listed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from engine.base import UserError, run_script, say, write_atomically

if TYPE_CHECKING:
    from torch import nn

    from models.dataflow import Node

PICTURES = ("svg", "pdf", "png")
TILE_SIZE, TILE_CLASSES = 512, 7
IMAGE_SIZE, IMAGE_CLASSES = 224, 65
_ENCODER = re.compile(r"(backbone|features)\.")


def describe(network: nn.Module, name: str, size: int) -> dict[str, Any]:
    """What `network`, known as `name`, is made of, for an image of 3 x size x size; plain values, for JSON.

    The network and the random state stay as they are. A block's `inputs` are names of blocks, its `shape` is
    (C, H, W) or (C), its `stride` how many input pixels it is wide; inference does not compute what
    `is_auxiliary`. Where `is_traced` is false, blocks are parts as they are listed, without inputs and shape.
    UserError when the network cannot see such an image.
    """
    from models.dataflow import count_multiply_adds, listed, trace, without_numbers  # torch: two seconds

    skeleton = without_numbers(network)
    multiply_adds = count_multiply_adds(skeleton, size)
    try:
        return _description(network, name, size, trace(skeleton, size), multiply_adds, is_traced=True)
    except Exception as error:  # a network may do whatever Python can; a picture is no reason to refuse it
        say(f"{name}: its layers could not be traced ({type(error).__name__}), so they are listed")
        return _description(network, name, size, listed(network), multiply_adds, is_traced=False)


def _description(
    network: nn.Module, name: str, size: int, nodes: list[Node], multiply_adds: int | None, is_traced: bool
) -> dict[str, Any]:
    blocks = _blocks(nodes, size)
    return {
        "network": name,
        "input": [3, size, size],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "auxiliary_parameters": sum(block["parameters"] for block in blocks if block["is_auxiliary"]),
        "multiply_adds": multiply_adds,
        "is_traced": is_traced,
        "blocks": blocks,
        "printed": str(network),
    }


def _blocks(nodes: list[Node], size: int) -> list[dict[str, Any]]:
    groups = _groups(nodes)
    names = _names([[nodes[index] for index in group] for group in groups])
    group_of = {index: number for number, group in enumerate(groups) for index in group}
    needed = _needed(nodes)
    blocks = []
    for name, group in zip(names, groups):
        first, last = nodes[group[0]], nodes[group[-1]]
        text = " · ".join(first.layers)
        times = f"{len(group)} × " if len(group) > 1 else ""
        blocks.append(
            {
                "name": name,
                "role": first.role,
                "layers": times + (f"({text})" if times and " · " in text else text),
                "modules": [path for index in group for path in nodes[index].modules],
                "inputs": [names[group_of[index]] for index in first.inputs],
                "shape": list(last.shape),
                "stride": size / last.shape[1] if len(last.shape) == 3 else None,
                "parameters": sum(nodes[index].parameters for index in group),
                "is_auxiliary": group[0] not in needed,
            }
        )
    return blocks


def _needed(nodes: list[Node]) -> set[int]:
    """The nodes on whose work the first output depends; all where no output is known."""
    outputs = [index for index, node in enumerate(nodes) if node.role == "output"]
    waiting = outputs[:1] or list(range(len(nodes)))
    needed: set[int] = set()
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting += nodes[index].inputs
    return needed


def _groups(nodes: list[Node]) -> list[list[int]]:
    """Numbers of nodes that are told as one: like layers in a row of an encoder (VGG's convolutions)."""
    consumers = Counter(index for node in nodes for index in set(node.inputs))
    kinds = [(node.role, node.layers, node.shape) for node in nodes]
    groups: list[list[int]] = []
    for index, node in enumerate(nodes):
        before = groups[-1][-1] if groups else None
        follows = before is not None and node.inputs == [before] and consumers[before] == 1
        is_of_encoder = bool(node.modules) and _ENCODER.match(node.name)
        if follows and is_of_encoder and kinds[index] == kinds[before]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _names(groups: list[list[Node]]) -> list[str]:
    """A name for each group of nodes, short and its own; VGG's are those of its paper, conv1 to pool5."""
    taken: Counter = Counter()
    names, pools = [], 0
    for group in groups:
        first, last = group[0], group[-1]
        is_of_vgg = re.fullmatch(r"(backbone|features)\.\d+", first.name)
        if is_of_vgg and re.match("Conv|MaxPool", first.layers[0]):
            name = f"{'pool' if first.role == 'pooling' else 'conv'}{pools + 1}"
            pools += first.role == "pooling"
        elif first.role in ("input", "output"):
            name = {"output out": "output"}.get(first.name, first.name)
        else:
            name = _short(first, groups)
            number = re.search(r"\d+$", _short(last, groups))
            name += f"–{number.group()}" if len(group) > 1 and number else ""
        taken[name] += 1
        names.append(f"{name} {taken[name]}" if taken[name] > 1 else name)
    return names


def _short(node: Node, groups: list[list[Node]]) -> str:
    """A module's path without what says nothing: classifier.0.convs.1.0, if alone there, is ASPP.convs.1."""
    path, parent = node.name, node.name.rpartition(".")[0]
    siblings = {other.name for group in groups for other in group if other.name.startswith(parent + ".")}
    if parent and path.endswith(".0") and siblings == {path}:
        path = parent
    path = re.sub(r"^classifier\.0\.(convs|project)", r"ASPP.\1", path)
    path = _ENCODER.sub("", path).lstrip("_")
    return re.sub(r"^(?:blocks\.)?(\d+)\b", r"block \1", path)


def as_text(description: dict[str, Any]) -> str:
    """The description as a table and two lines about the whole."""
    blocks, rows = description["blocks"], [("block", "layers", "gives", "stride", "parameters", "from")]
    for number, block in enumerate(blocks):
        before = [blocks[number - 1]["name"]] if number else []
        rows.append(
            (
                block["name"] + (" *" if block["is_auxiliary"] else ""),
                block["layers"],
                " x ".join(map(str, block["shape"])),
                f"{block['stride']:g}" if block["stride"] else "",
                f"{block['parameters']:,}" if block["parameters"] else "",
                "" if block["inputs"] == before else ", ".join(block["inputs"]),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:3], widths)]
        cells += [cell.rjust(width) for cell, width in zip(row[3:5], widths[3:])]
        lines.append("  ".join([*cells, row[5]]).rstrip())
    return "\n".join([*lines, "", *summary(description)])


def summary(description: dict[str, Any]) -> list[str]:
    size, auxiliary = description["input"][1], description["auxiliary_parameters"]
    operations = f"{description['multiply_adds'] / 1e9:.2f}" if description["multiply_adds"] else "unknown"
    lines = [
        f"{description['network']}: {description['parameters']:,} parameters, {operations} GFLOPs "
        f"(multiply-adds) at {size} x {size}"
    ]
    if not description["is_traced"]:
        lines.append("the parts as they are listed: which follows which could not be traced")
    if auxiliary:
        part = f"{auxiliary:,} of the parameters, no GFLOPs"
        lines.append(f"* the auxiliary head works in training alone: {part}")
    return lines


def write_architecture(description: dict[str, Any], stem: Path) -> None:
    """Write STEM.json, .svg, .pdf and .png, each whole or not at all. UserError when that fails.

    A traced network whose picture fails is drawn as a list.
    """
    from models.diagram import draw  # imports matplotlib, which takes a second

    try:
        pictures = {kind: draw(description, kind) for kind in PICTURES}
    except Exception as error:  # blocks may hang together in ways that no layout foresees
        say(f"{description['network']}: cannot be drawn ({type(error).__name__}), it is listed instead")
        description = {**description, "is_traced": False}
        pictures = {kind: draw(description, kind) for kind in PICTURES}
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for kind, content in {"json": text.encode(), **pictures}.items():
            with write_atomically(f"{stem}.{kind}") as temporary:
                temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{stem}: cannot be written ({error.strerror}); choose another folder") from None


def keep_architecture(network: nn.Module, name: str, size: int, stem: Path) -> None:
    """Describe and draw `network` as STEM.json and so on, unless an earlier invocation has done so."""
    if Path(f"{stem}.{PICTURES[-1]}").exists():
        return
    try:
        description = describe(network, name, size)
    except UserError as error:
        from models.dataflow import listed

        say(f"{name}: {error}")
        description = _description(network, name, size, listed(network), None, is_traced=False)
    write_architecture(description, stem)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m models.describe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("network", metavar="NAME", help="a network's name in models/builders.py")
    add("--size", type=int, help=f"pixels a side (default {TILE_SIZE}, of classifiers {IMAGE_SIZE})")
    add("--classes", type=int, help=f"(default {TILE_CLASSES}, of classifiers {IMAGE_CLASSES})")
    add("--output", metavar="DIR", type=Path, help="folder for architecture.json and its drawings")
    args = parser.parse_args(argv)
    if min(args.size or 1, args.classes or 1) < 1:
        parser.error("--size and --classes must be 1 at least")
    description = described(args.network, args.size, args.classes)
    if args.output:
        write_architecture(description, args.output / "architecture")
    print(as_text(description))
    return 0


def described(name: str, size: int | None = None, classes: int | None = None) -> dict[str, Any]:
    """`describe` for a network of models.builders by its name, built without weights or memory."""
    import torch

    from models.builders import SEGMENTERS, build_network

    is_segmenter = name in SEGMENTERS
    classes = classes or (TILE_CLASSES if is_segmenter else IMAGE_CLASSES)
    try:
        with torch.device("meta"):
            network = build_network(name, num_classes=classes)
    except NotImplementedError:  # one that looks at its numbers while it is built
        network = build_network(name, num_classes=classes)
    return describe(network, name, size or (TILE_SIZE if is_segmenter else IMAGE_SIZE))


if __name__ == "__main__":
    run_script(main)
