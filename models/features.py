"""What a classifier sees in an image: the numbers that its last layer decides on."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.predict import predict_images


@torch.inference_mode()
def second_last(network: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, S, S) uint8 photographs → output of the second last layer (B, features), float32.

    That is what the linear layer that runs last is given: 2,048 pooled features in a ResNet50, 256 numbers of a head
    Linear-ReLU-Linear. In eval mode; the network is left as it was. ModelError when no linear layer runs.
    """
    inputs: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[:] = [given[0]]  # of the last one that runs, wherever in the network it is defined

    modes = [(module, module.training) for module in network.modules()]
    hooks = [module.register_forward_pre_hook(keep) for module in network.modules() if isinstance(module, nn.Linear)]
    try:
        predict_images(network.eval(), images, mean, std)
    finally:
        for hook in hooks:
            hook.remove()
        for module, is_training in modes:
            module.training = is_training
    if not inputs:
        raise ModelError(f"{type(network).__name__} has no linear layer at its end, so no second last one to look at")
    return inputs[0].float()
