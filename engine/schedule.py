"""Learning rate and decays as pure functions of the step."""

from __future__ import annotations

import argparse
import math
from typing import Sequence


def steps_of_warmup(warmup_steps: int, total_steps: int | None) -> int:
    """A quarter of a run at most."""
    return warmup_steps if total_steps is None else min(warmup_steps, total_steps // 4)


def cosine(progress: float) -> float:
    """Half a cosine, down to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))


# Progress from 0 to 1 after the warm-up → factor on the learning rate.
SCHEDULES = {
    "cosine": cosine,
    "poly": lambda progress: (1 - progress) ** 0.9,  # Chen et al., 2017, section 3.3
    "constant": lambda progress: 1.0,
    "step": lambda progress: 1.0,  # but for its milestones
}


def learning_rate_factor(
    schedule: str,
    step: int,
    total_steps: int | None,
    warmup_steps: int,
    last_rate: float = 0.0,
    milestones: tuple[Sequence[int], float] = ((), 1.0),
) -> float:
    """A linear rise over the warm-up, all there is before the number of steps is known (None); then as the
    schedule says, down to the share `last_rate`, or at `milestones` ("step": steps, the factor at each)."""
    warmup_steps = steps_of_warmup(warmup_steps, total_steps)
    if total_steps is None or step < warmup_steps:
        return min(1.0, (step + 1) / max(1, warmup_steps))
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule == "step":
        steps, factor = milestones
        return factor ** sum(step >= milestone for milestone in steps)
    return last_rate + (1 - last_rate) * SCHEDULES[schedule](min(1.0, progress))


def factor_by(args: argparse.Namespace, step: int, total_steps: int | None, steps_per_epoch: int) -> float:
    """learning_rate_factor by a training's arguments: schedule, warmup_steps, last_rate, milestones."""
    falls = milestones_in_steps(args.milestones, steps_per_epoch)
    return learning_rate_factor(args.schedule, step, total_steps, args.warmup_steps, args.last_rate, falls)


def milestones_in_steps(milestones: dict | None, steps_per_epoch: int) -> tuple[list[int], float]:
    """A recipe's {"epochs" or "steps": [...], "factor": ...}, or None → the steps, and the factor at each."""
    if milestones is None:
        return [], 1.0
    if "epochs" in milestones:
        return [epoch * steps_per_epoch for epoch in milestones["epochs"]], milestones["factor"]
    return list(milestones["steps"]), milestones["factor"]


def target_decay(step: int, total_steps: int | None, start: float, schedule: str) -> float:
    """Decay of BYOL's target: from `start` to 1 by half a cosine (Grill et al., 2020, section 3.3); constant,
    or before the number of steps is known (None), `start`."""
    if schedule == "constant" or total_steps is None:
        return start
    return 1 - (1 - start) * cosine(min(1.0, step / total_steps))


def average_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights: smaller at first, so that the random start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))
