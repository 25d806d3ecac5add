"""Features of a frozen backbone, computed once: a head is trained on them in seconds."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import Any, Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from models.backbone import with_head
from models.predict import predict_images

# Photographs → {sha256 of a backbone: features}, one at a time: the runs of other seeds find them.
_COMPUTED: WeakKeyDictionary = WeakKeyDictionary()


class Features(torch.utils.data.Dataset):
    """What the head of `network` is given for each of `photographs`, as inference sees them; computed at first use.

    `photographs` has `batches(size)` of (B, 3, S, S) uint8 and labels (B). `sha256` is that of the network's backbone.
    """

    def __init__(
        self,
        photographs: Any,
        network: nn.Module,
        sha256: str,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ):
        self.photographs, self.labels = photographs, torch.as_tensor(photographs.labels)
        self._network, self._sha256, self._mean, self._std, self._device = network, sha256, mean, std, device

    @cached_property
    def values(self) -> Tensor:
        """(N, features) float32 on the CPU."""
        known = _COMPUTED.setdefault(self.photographs, {})
        if self._sha256 not in known:
            known.clear()
            backbone = with_head(self._network, nn.Identity()).eval()
            print(f"computing the features of {len(self)} photographs, once", file=sys.stderr)
            batches = [
                predict_images(backbone, images.to(self._device), self._mean, self._std).cpu()
                for images, _ in self.photographs.batches(64)
            ]
            known[self._sha256] = torch.cat(batches)  # no more a tensor of inference mode, which can't be trained on
        return known[self._sha256]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """(epoch, position, sample) → (features,) and label, the same in every epoch."""
        return self.values[key[2]], self.labels[key[2]]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.values.split(size), self.labels.split(size))
