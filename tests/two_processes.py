"""Train in float64 with SGD, as one process or, under torchrun, as several: what they print can be compared
closely.

    torchrun --nproc-per-node 2 -m tests.two_processes p1_ssl_pretrain.py --images ...

Batch norm is exchanged for one of the tests' own, since torch's SyncBatchNorm refuses the CPU.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn
from torch import Tensor, nn

from engine import distributed, loop
from engine.base import run_script
from models import builders
from tests.killing import TinyClassifier, TinySegmenter


class GatheredBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the samples of all processes, differentiable, on any device."""

    def _check_input_dim(self, values: Tensor) -> None:
        pass

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return super().forward(values)
        dims = [dim for dim in range(values.ndim) if dim != 1]
        count = torch.tensor(values.numel() / values.shape[1] * dist.get_world_size(), dtype=values.dtype)
        sums = torch.stack([values.sum(dims), values.square().sum(dims)])
        mean, square = torch.distributed.nn.all_reduce(sums) / count
        variance = square - mean.square()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        shape = [1, -1] + [1] * (values.ndim - 2)
        values = (values - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        return values * self.weight.view(shape) + self.bias.view(shape)


def gather_batch_norm(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = GatheredBatchNorm  # the same weights and statistics


class TinyClassifierWithoutDropout(TinyClassifier):
    """Two processes would draw other units to drop than one."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.layer2[-1].p = 0.0


class OutOfMemory(TinyClassifierWithoutDropout):
    """Of two processes that train it, the second runs short."""

    def forward(self, images: Tensor) -> Tensor:
        if distributed.rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(images)


class PreciseLinear(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.double())


class PreciseClassifier(TinyClassifierWithoutDropout):
    """What BYOL is not built around: byol-pytorch's constructor sends float32 through it."""

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.fc = PreciseLinear(16, num_classes)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.double())


class TinySegmenterWithoutDropout(TinySegmenter):
    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.head[0].p = 0.0
        self.double()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return super().forward(images.double())


def train_precisely(script: str, argv: list[str]) -> None:
    builders.CLASSIFIERS["out_of_memory"] = builders.Network(OutOfMemory)
    distributed.synchronise_batch_norm = gather_batch_norm
    module = importlib.import_module(Path(script).stem)
    classifier = TinyClassifierWithoutDropout if hasattr(module, "BYOL") else PreciseClassifier
    builders.CLASSIFIERS["tiny_classifier"] = builders.Network(
        builders.with_stem(classifier), arguments=builders.STEM_3X3
    )
    builders.SEGMENTERS["tiny_segmenter"] = builders.Network(TinySegmenterWithoutDropout)
    if hasattr(module, "BYOL"):
        build_byol = module.BYOL
        module.BYOL = lambda *arguments: build_byol(*arguments).double()
        loop.LOG_EVERY = 1
    module.normalise = lambda images, mean, std: images.double() - 0.5
    module.build_optimizer = lambda name, groups, lr, weight_decay, *nesterov: torch.optim.SGD(
        groups, lr=lr, momentum=0.9
    )
    run_script(lambda: module.main(module.parse_arguments([*argv, "--precision", "fp32"])))


if __name__ == "__main__":
    train_precisely(sys.argv[1], sys.argv[2:])
