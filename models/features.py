"""What a layer of a classifier is given for an image: the features that its head, or its last layer, decides
on.
"""

from __future__ import annotations

import sys
from typing import Iterator, Sequence

import torch
from torch import Tensor, nn

from engine.base import UserError
from models.backbone import head_of
from models.predict import predict_images


def second_last(network: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, S, S) uint8 photographs → output of the second last layer (B, features), float32.

    That is what the last linear layer of the head is given: 2,048 pooled features in a ResNet50, 256 numbers
    in a head Linear-ReLU-Linear. UserError when the head has no linear layer.
    """
    linear = [module for module in head_of(network).modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(
            f"{type(network).__name__} has no linear layer at its end, so no second last one to look at"
        )
    return given_to(linear[-1], network, images, mean, std)


def given_to(
    layer: nn.Module, network: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """(B, 3, S, S) uint8 photographs → what `layer` of `network`, in eval mode, is given for them,
    float32.
    """
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    try:
        predict_images(network.eval(), images, mean, std)
    finally:
        hook.remove()
    return inputs[-1].float()


class HeadInputs(torch.utils.data.Dataset):
    """What the head of a frozen network is given for each of `photographs`, computed once: heads train fast
    on it.

    `photographs` has `batches(size)` of (B, 3, S, S) uint8 and labels (B), and `labels` of all.
    """

    def __init__(
        self,
        photographs,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ):
        head = head_of(network)
        print(f"computing the features of {len(photographs)} photographs, once", file=sys.stderr)
        parts = [
            given_to(head, network, images.to(device), mean, std).cpu()
            for images, _ in photographs.batches(64)
        ]
        self.values = torch.cat(
            parts
        )  # (N, features); no more a tensor of inference mode, which can't be trained on
        self.labels = torch.as_tensor(photographs.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """(epoch, position, sample) → (features,) and label, the same in every epoch."""
        return self.values[key[2]], self.labels[key[2]]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.values.split(size), self.labels.split(size))
