"""What each training needs of a GPU's memory, and with which micro-batch it fits; counted without a GPU.

    python3 -m benchmarks.memory

Weights, gradients, the optimiser's two averages and those that are scored are added up. Activations are what
autograd saves in one forward pass, by saved-tensor hooks on fake CPU tensors (they have shapes and no
numbers), in half precision under torch.autocast. 10 % for workspaces and passing gradients, and 1 GB for
CUDA's context, come on top. A GB is 10^9 bytes. Memory grows with the micro-batch by equal parts.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Callable, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from datasets.palette import NUM_CLASSES, SCORED_CLASSES
from datasets.tile_pairs import IGNORED
from models.builders import build_network
from models.byol import BYOL
from models.losses import pixel_loss, soft_iou_loss
from recipes import p1_finetune, p1_ssl_pretrain, p2_train

CARDS = (8, 11, 16, 24)  # GB
CONTEXT, WORKSPACE = 1e9, 0.1
MEASURED = (8, 16)  # images: activations are a line through both
TILE = 512  # pixels a side, the course's


class Training(NamedTuple):
    """A training as its recipe has it: a network, its images, its batch and its loss."""

    name: str
    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Tensor], Tensor]  # of normalised images (B, 3, S, S)
    side: int
    batch_size: int
    has_average: bool
    views: int = 1  # of each image


class Need(NamedTuple):
    """Bytes: what any micro-batch needs, and what each of its images adds."""

    fixed: float
    image: float

    def of(self, micro_batch: int) -> float:
        return CONTEXT + (1 + WORKSPACE) * (self.fixed + micro_batch * self.image)

    def largest(self, batch_size: int, card: float) -> int | None:
        """The batch halved until it fits into `card` bytes, as a training does it; None below 2 images."""
        while batch_size >= 2:
            if self.of(batch_size) <= card:
                return batch_size
            batch_size //= 2
        return None


# -- the trainings -------------------------------------------------------------------------------------------


def pretraining(model: str = "resnet50", side: int = 128) -> Training:
    def build() -> nn.Module:
        backbone = build_network(model, num_classes=2)
        backbone.fc = nn.Identity()
        return BYOL(backbone, side)

    def loss(byol: nn.Module, images: Tensor) -> Tensor:
        return byol(images, images.clone())[0]

    batch_size = p1_ssl_pretrain.RECIPES["default"]["batch_size"]
    return Training(f"BYOL, {model}, {side} px", build, loss, side, batch_size, has_average=False, views=2)


def fine_tuning(recipe: str, num_classes: int) -> Training:
    flags = p1_finetune.RECIPES[recipe]
    is_cropped = flags["augment"] != "none" and not flags["shift"]
    side = flags["image_size"] * 7 // 8 if is_cropped else flags["image_size"]

    def build() -> nn.Module:
        return build_network(flags["model"], num_classes=num_classes, stem=flags["stem"])

    def loss(network: nn.Module, images: Tensor) -> Tensor:
        labels = images.new_zeros(len(images), dtype=torch.int64)
        return functional.cross_entropy(network(images).float(), labels)

    name = f"fine-tuning, {flags['model']}, {side} px"
    return Training(name, build, loss, side, flags["batch_size"], flags["ema_decay"] > 0)


def segmentation(recipe: str, model: str | None = None) -> Training:
    flags = p2_train.RECIPES[recipe]
    share = 0.75 if flags["augment"] == "all" else 1.0
    side = round(share * flags["scale"] * TILE)

    def build() -> nn.Module:
        return build_network(model or flags["model"], num_classes=NUM_CLASSES)

    def loss(network: nn.Module, images: Tensor) -> Tensor:
        targets = images.new_zeros(len(images), *images.shape[2:], dtype=torch.int64)
        total = images.new_zeros(())
        for logits in network(images).values():
            total = total + pixel_loss(logits.float(), targets, IGNORED, flags["gamma"], flags["alpha"])
            if flags["soft_iou"]:
                total = total + soft_iou_loss(logits.float(), targets, IGNORED, SCORED_CLASSES)
        return total

    name = f"segmentation, {model or flags['model']}, {side} px"
    return Training(name, build, loss, side, flags["batch_size"], flags["ema_decay"] > 0)


def trainings() -> list[Training]:
    return [
        pretraining(),
        fine_tuning("default", num_classes=65),
        fine_tuning("small", num_classes=50),
        segmentation("default"),
        segmentation("default", "fcn32s"),
        segmentation("report004"),
        segmentation("report004_a"),
        segmentation("report004_a", "fcn32s"),
        segmentation("report004_a", "fcn32s_paper"),
    ]


# -- counting ------------------------------------------------------------------------------------------------


def to_fake(network: nn.Module, device: torch.device) -> nn.Module:
    """With a fake tensor on `device` for every parameter and buffer; within FakeTensorMode.

    What else a network keeps stays where it was made.
    """
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(value.to(device), value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = value.to(device)
    return network


def bytes_of(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def saved_bytes(training: Training, network: nn.Module, count: int, half: torch.dtype | None) -> int:
    """What autograd keeps of one forward pass of `count` images, and these themselves."""
    kept: dict[int, Tensor] = {}  # by its storage; held, so that none is taken for another
    own = {value.untyped_storage()._cdata for value in (*network.parameters(), *network.buffers())}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = value
        return value

    images = torch.zeros(count, 3, training.side, training.side)
    cast = nullcontext() if half is None else torch.autocast("cpu", half)
    with saved_tensors_hooks(keep, lambda value: value), cast:
        loss = training.loss(network, images)
    keep(images)
    del loss
    return sum(value.untyped_storage().nbytes() for value in kept.values())


def need_of(training: Training, half: torch.dtype | None) -> Need:
    """Of float32, or with `half` (torch.float16) of a training under autocast."""
    network = training.build().train()  # before the mode: byol-pytorch cannot move what is fake
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = to_fake(network, torch.device("cpu"))
        state = bytes_of(network.state_dict().values())
        trained = bytes_of(value for value in network.parameters() if value.requires_grad)
        few, many = (saved_bytes(training, network, count, half) for count in MEASURED)
    image = (many - few) / (MEASURED[1] - MEASURED[0])
    batch = training.batch_size * training.views * 3 * training.side**2 * 4  # cut into micro-batches
    averages = state if training.has_average else 0
    fixed = state + 3 * trained + averages + batch + few - MEASURED[0] * image
    return Need(fixed, image)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    cards = " | ".join(f"{card} GB" for card in CARDS)
    print(f"| training | batch | precision | fixed | an image | in all | {cards} |")
    print("|---" * (6 + len(CARDS)) + "|")
    for training in trainings():
        for name, half in (("fp32", None), ("half", torch.float16)):
            need = need_of(training, half)
            fits = [need.largest(training.batch_size, card * 1e9) or "no" for card in CARDS]
            sizes = [f"{need.fixed / 1e9:.1f} GB", f"{need.image / 1e6:.1f} MB"]
            sizes.append(f"{need.of(training.batch_size) / 1e9:.1f} GB")
            cells = [training.name, training.batch_size, name, *sizes, *fits]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
