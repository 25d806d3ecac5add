"""What moves the weights: the optimisers by name, what they are told of each parameter, a step, the average.

A step takes its batch whole or in parts, in any precision; where it runs out of memory it is undone, and done
again in smaller parts.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import Any, Callable, Sequence, Union

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from engine import distributed
from engine.base import Stopped, UserError, is_out_of_memory
from engine.device import autocast, choose_precision, fast_float32, random_state, restore_random_state

Batch = Sequence[Union[Tensor, float]]  # tensors (B, ...), cut along B; scalars go to each part whole
# loss_of(*part, share=...) → "loss" and what else is to be logged, scalars that add up to the batch's.
LossOf = Callable[..., "dict[str, Tensor]"]

LEAST_IMAGES = 2  # at a time, as batch norm needs
DRY_STEPS, DRY_SECONDS = 5, 5.0  # of a dry run: no step more than either


def build_optimizer(
    name: str, groups: list[dict], lr: float, weight_decay: float, nesterov: bool = True
) -> torch.optim.Optimizer:
    """`name` is adamw, adam or sgd (with a momentum of 0.9, Nesterov's or the plain one)."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name]
    momentum = {"momentum": 0.9, "nesterov": nesterov} if name == "sgd" else {}
    return kind(groups, lr=lr, weight_decay=weight_decay, fused=True, **momentum)


def parameter_groups(
    network: nn.Module,
    lr: float,
    backbone_lr: float | None = None,
    is_backbone: Callable[[str], bool] = lambda name: name.startswith("backbone."),
    decay_all: bool = False,
) -> list[dict]:
    """Groups for an optimiser: the backbone (by its parameters' names) at its own rate, if given, and no
    weight decay on biases and batch norm, which it would only pull to zero, unless `decay_all`."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            rate = backbone_lr if backbone_lr is not None and is_backbone(name) else lr
            groups.setdefault((rate, decay_all or parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, **({} if is_decayed else {"weight_decay": 0.0})}
        for (rate, is_decayed), parameters in groups.items()
    ]


class Stepper:
    """Steps of `optimizer` in a precision, at most `micro_batch` images at a time (None: all of a batch).

    `precision` is auto, fp32, bf16, or fp16: then with a gradient scaler (Micikevicius et al., 2018, section
    3.2), and a step whose gradient overflows moves nothing: `is_skipped` after it, `skipped` counts.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        precision: str,
        micro_batch: int | None,
    ):
        self.network, self.optimizer, self.device, self.micro_batch = network, optimizer, device, micro_batch
        self.is_skipped, self.skipped = False, 0
        self._wrapped = network
        self.set_precision(choose_precision(precision, device, network))
        # Fused, an optimiser would look for overflows by itself, and count a step that it skips as its first.
        optimizer._step_supports_amp_scaling = False
        self._buffers = []  # what a forward pass changes (statistics of batch norm), by type, and a copy
        for dtype in {buffer.dtype for buffer in network.buffers()}:
            buffers = [buffer for buffer in network.buffers() if buffer.dtype == dtype]
            self._buffers.append((buffers, [buffer.clone() for buffer in buffers]))

    def set_precision(self, precision: str) -> None:
        self.precision = precision
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def join_processes(self) -> None:
        """From now on gradients and batch-norm statistics are those of all processes."""
        self._wrapped = distributed.wrap(self.network, self.device)

    def forward(self, *inputs: Tensor) -> Any:
        """What the network makes of the inputs, in the precision chosen: how losses call it in training."""
        with autocast(self.device, self.precision):
            return self._wrapped(*inputs)

    def step(self, batch: Batch, loss_of: LossOf) -> dict[str, Tensor]:
        """One step down the gradient of the batch's loss; returns the sum of what `loss_of` gives its parts.
        UserError where memory does not suffice for two images, or for a process's share of several."""
        found = None
        while found is None:
            found = self._gradient_or_none(batch, loss_of)
        # No more is undone from here on: the activations are gone, and smaller parts would gain nothing.
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.is_skipped = self.scaler.get_scale() < scale
        if self.is_skipped:
            self.skipped += 1
            self._copy_buffers(are_back=True)  # what overflowed may have gone through batch norm
            if scale < 1:
                advice = "give --precision fp32 or a smaller --lr"
                raise UserError(f"half precision overflows at every step; {advice}")
        return found

    def dry_run(self, batch: Batch, loss_of: LossOf, what: str) -> None:
        """A few steps on one batch; the main process prints that all is well and how long the last took, in a
        line that `make check` reads."""
        losses, seconds = [], []
        while len(seconds) < DRY_STEPS and sum(seconds) < DRY_SECONDS:
            begun = time.monotonic()
            losses.append(self.step(batch, loss_of)["loss"].item())  # waits for a GPU
            seconds.append(time.monotonic() - begun)
        micro_batch = f", {self.micro_batch} images at a time" if self.micro_batch else ""
        weights = sum(parameter.numel() for parameter in self.network.parameters()) / 1e6
        if distributed.is_main():
            machine = f"{self.precision} on {self.device}{micro_batch}, {weights:.1f} M weights"
            step = f"{seconds[-1]:.4f} s for a step of {len(batch[0])}, loss {losses[0]:.4f}"
            print(f"dry run: {what}; {machine}, {step}: all is well")

    def _gradient_or_none(self, batch: Batch, loss_of: LossOf) -> dict[str, Tensor] | None:
        """Put the batch's gradient into the parameters; None where memory was short: then nothing has changed
        but the micro-batch, now half as large."""
        random = random_state()
        self._copy_buffers()
        try:
            return self._add_up(batch, loss_of)
        except Exception as error:
            if distributed.world_size() > 1:
                _end_with_the_others(error)
            if not is_out_of_memory(error):
                raise
        # After the clause: its error holds all tensors of the step.
        self.optimizer.zero_grad(set_to_none=True)
        self._copy_buffers(are_back=True)
        restore_random_state(random)
        images = min(len(batch[0]), self.micro_batch or len(batch[0]))
        if images <= LEAST_IMAGES:
            smaller = "smaller ones (--image-size, --crop-size or --scale), a smaller --model"
            advice = f"give {smaller}, or --device cpu for a GPU's"
            raise UserError(f"the memory is short even for {images} images at a time; {advice}")
        self.micro_batch = max(LEAST_IMAGES, images // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _add_up(self, batch: Batch, loss_of: LossOf) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        images = len(batch[0])
        parts = cut(batch, self.micro_batch or images)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts, start=1):
            # Several processes exchange gradients once a step, with its last part.
            waits = number < len(parts) and self._wrapped is not self.network
            exchange = self._wrapped.no_sync() if waits else nullcontext()
            with fast_float32(), exchange:
                values = loss_of(*part, share=len(part[0]) / images)
                self.scaler.scale(values["loss"]).backward()
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value.detach()
        return sums

    @torch.no_grad()
    def _copy_buffers(self, are_back: bool = False) -> None:
        """Keep the statistics as they are before a step, or put them back."""
        for buffers, kept in self._buffers:
            torch._foreach_copy_(*((buffers, kept) if are_back else (kept, buffers)))


def cut(batch: Batch, size: int) -> list[Batch]:
    """The batch in as many parts as `size` images each ask for: nearly equal ones, none of a single image."""
    images = len(batch[0])
    count = max(1, min(-(-images // size), images // LEAST_IMAGES))
    pieces = [
        value.tensor_split(count) if isinstance(value, Tensor) and value.ndim else [value] * count
        for value in batch
    ]
    return list(zip(*pieces))


def _end_with_the_others(error: Exception) -> None:
    """One line of the process whose memory is short; those that wait for it end without a word."""
    if is_out_of_memory(error):
        advice = "give a --micro-batch, half as large each time, or a smaller --batch-size"
        raise UserError(f"process {distributed.rank()}: the memory is short; {advice}") from None
    if isinstance(error, RuntimeError) and "by peer" in str(error):
        raise Stopped(UserError.exit_status) from None


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 - decay) · network, for weights and batch-norm statistics alike."""
    ours, theirs = list(average.state_dict().values()), list(network.state_dict().values())
    floats = [index for index, tensor in enumerate(ours) if tensor.is_floating_point()]
    # One fused call: a loop over the tensors costs more than a training step of a small network on a GPU.
    get_ema_multi_avg_fn(decay)([ours[i] for i in floats], [theirs[i] for i in floats], None)
    for index in set(range(len(ours))) - set(floats):
        ours[index].copy_(theirs[index])
