"""An exponential moving average of a network's weights, which scores better than the weights themselves."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 - decay) · network, for weights and batch-norm statistics alike."""
    ours, theirs = list(average.state_dict().values()), list(network.state_dict().values())
    floats = [index for index, tensor in enumerate(ours) if tensor.is_floating_point()]
    # One fused call: a Python loop over the tensors costs more than a training step of a small network on a
    # GPU.
    torch._foreach_lerp_([ours[i] for i in floats], [theirs[i] for i in floats], 1 - decay)
    for index in set(range(len(ours))) - set(floats):
        ours[index].copy_(theirs[index])
