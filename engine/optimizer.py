"""What moves the weights: the optimisers by name, what they are told of each parameter, and the average."""

from __future__ import annotations

from typing import Callable

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def build_optimizer(name: str, groups: list[dict], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """`name` is adamw, adam or sgd (with Nesterov's momentum of 0.9)."""
    if name == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=True
        )
    adam = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name]
    return adam(groups, lr=lr, weight_decay=weight_decay, fused=True)


def parameter_groups(
    network: nn.Module,
    lr: float,
    backbone_lr: float | None = None,
    is_backbone: Callable[[str], bool] = lambda name: name.startswith("backbone."),
) -> list[dict]:
    """Groups for an optimiser: the backbone (by its parameters' names) at its own rate, if given, and no
    weight decay on biases and batch norm, which it would only pull to zero."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            rate = backbone_lr if backbone_lr is not None and is_backbone(name) else lr
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, **({} if is_decayed else {"weight_decay": 0.0})}
        for (rate, is_decayed), parameters in groups.items()
    ]


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 - decay) · network, for weights and batch-norm statistics alike."""
    ours, theirs = list(average.state_dict().values()), list(network.state_dict().values())
    floats = [index for index, tensor in enumerate(ours) if tensor.is_floating_point()]
    # One fused call: a Python loop over the tensors costs more than a training step of a small network on a
    # GPU.
    get_ema_multi_avg_fn(decay)([ours[i] for i in floats], [theirs[i] for i in floats], None)
    for index in set(range(len(ours))) - set(floats):
        ours[index].copy_(theirs[index])
