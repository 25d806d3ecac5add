"""What every training loop does around its step: learning rate, averaged weights, checkpoints, progress,
stopping.

loop = Loop(run, network, optimizer, args, steps_per_epoch, stopper)
for epoch in loop.epochs_left():
    for batch in loader(first=loop.batch_in_epoch):
        loop.set_learning_rates()
        loss = ...  # the script's own step
        loop.after_step(loss, len(batch))
        if loop.must_stop():
            return loop.stop()
        if loop.is_done():
            break
    loop.keep_weights(description, scores)
    loop.end_epoch(**scores)
    if loop.must_stop():
        return loop.stop()
loop.close()
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from typing import Any, Iterator

import torch
from torch import Tensor, nn

from engine import checkpoint, distributed
from engine.base import Progress, UserError, clock
from engine.ema import update_average
from engine.run import Run, Stopper, command_to_go_on, random_state, restore_random_state
from engine.run_folder import MODEL, snapshot_weights
from engine.schedule import SCHEDULES, average_decay, steps_of_warmup

CHECKPOINT_SECONDS = 240  # a kill loses at most five minutes, the step and the scoring in hand included
WARMING_STEPS, TIMED_STEPS = (
    5,
    25,
)  # --budget-minutes: the steps left out of, and used for, measuring the speed


class Loop:
    """The state of a training between two steps; everything in it that matters is in `last.pt`."""

    def __init__(
        self,
        run: Run,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        args: argparse.Namespace,
        steps_per_epoch: int,
        stopper: Stopper,
    ):
        """Of `args` count epochs or budget_minutes, schedule, warmup_steps and ema_decay.

        With a decay of 0 nothing is averaged: the network itself is scored and kept.
        """
        self.run, self.network, self.optimizer = run, network, optimizer
        self.steps_per_epoch, self.warmup_steps, self.ema_decay = (
            steps_per_epoch,
            args.warmup_steps,
            args.ema_decay,
        )
        self.schedule = SCHEDULES[args.schedule]
        self.average = copy.deepcopy(network).eval().requires_grad_(False) if self.ema_decay else network
        self.budget_seconds = None if args.budget_minutes is None else 60 * args.budget_minutes
        self.total_steps = args.epochs * steps_per_epoch if args.budget_minutes is None else None
        self.step, self.best = 0, -math.inf
        self.seconds = 0.0  # spent on training steps, over all invocations
        self.loss_sum = torch.zeros(())
        self.loss_count = 0
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        self._restore()
        if self.total_steps is None:  # killed between fixing the steps and the checkpoint that knows them
            self.total_steps = run.config.get("total_steps")
        if self.total_steps is not None:
            self._record_total_steps()
        self._stopper = stopper
        self._progress = Progress("training", self.step, self.total_steps, is_shown=distributed.is_main())
        self._note, self.images_per_second = "", 0.0
        self._ended = self.step  # the step after which the last epoch was scored
        self._first_step, self._first_seconds = self.step, self.seconds  # of this invocation
        self._timed_from = 0.0
        self._saved = self._tick = time.monotonic()

    @property
    def scored(self) -> nn.Module:
        """What is scored and kept: the averaged weights, or without an average the network; as inference runs
        it.
        """
        return self.average.eval()

    # -- where it stands -------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.steps_per_epoch

    @property
    def epoch_in_hand(self) -> int:
        """That of the step just done, from 1."""
        return math.ceil(self.step / self.steps_per_epoch)

    @property
    def batch_in_epoch(self) -> int:
        return self.step % self.steps_per_epoch

    @property
    def total_epochs(self) -> int | None:
        return None if self.total_steps is None else math.ceil(self.total_steps / self.steps_per_epoch)

    def is_done(self) -> bool:
        return self.total_steps is not None and self.step >= self.total_steps

    def epochs_left(self) -> Iterator[int]:
        while not self.is_done():
            yield self.epoch

    # -- around a step ---------------------------------------------------------------------------------------

    def set_learning_rates(self) -> None:
        factor = self.schedule(self.step, self.total_steps, self.warmup_steps)
        for group, rate in zip(self.optimizer.param_groups, self._base_rates):
            group["lr"] = rate * factor

    def after_step(self, loss: Tensor, batch_size: int) -> None:
        """Count the step, average the weights, save when it is time."""
        if self.ema_decay:
            update_average(self.average, self.network, average_decay(self.step, self.ema_decay))
        self.loss_sum = self.loss_sum.to(loss.device) + loss.detach()
        self.loss_count += 1
        self.step += 1
        if self.total_steps is None and self.step - self._first_step in (
            WARMING_STEPS,
            WARMING_STEPS + TIMED_STEPS,
        ):
            self.mean_loss()  # waits for the GPU: its time is measured, not ours
        now = time.monotonic()
        self.seconds += now - self._tick
        self._tick = now
        if self.total_steps is None:
            self._fix_total_steps()
        if self.step % 10 == 0 or not self._note:  # reading the loss makes a GPU wait
            done, seconds = self.step - self._first_step, self.seconds - self._first_seconds
            self.images_per_second = done * batch_size / max(1e-9, seconds)
            self._note = f"loss {self.mean_loss():.4f}, {self.images_per_second:.1f} images/s"
        self._progress.advance(self._note, self.total_steps)
        if now - self._saved >= CHECKPOINT_SECONDS and not self._epoch_awaits_its_end():
            self.save()

    def mean_loss(self) -> float:
        """Over the epoch so far, and all processes.

        UserError when it is no finite number: nothing good comes after.
        """
        mean = distributed.mean_of_all(self.loss_sum).item() / max(1, self.loss_count)
        if not math.isfinite(mean):
            raise UserError(f"{self.run.folder}: the loss is {mean} at step {self.step}; try a smaller --lr")
        return mean

    def _fix_total_steps(self) -> None:
        """Turn --budget-minutes into steps, once, from the speed of the first ones; a checkpoint records
        it.
        """
        done = self.step - self._first_step
        if done == WARMING_STEPS:
            self._timed_from = self.seconds
        left = self.budget_seconds - self.seconds
        if done == WARMING_STEPS + TIMED_STEPS or distributed.from_main(left <= 0):
            seconds_a_step = max(1e-9, self.seconds - self._timed_from) / max(1, done - WARMING_STEPS)
            self.total_steps = distributed.from_main(self.step + max(0, round(left / seconds_a_step)))
            minutes = self.budget_seconds / 60
            self.run.say(f"{minutes:g} minutes at {seconds_a_step:.2f} s a step: {self.total_steps} steps")
            self._record_total_steps()
            if not self._epoch_awaits_its_end():
                self.save()

    def _record_total_steps(self) -> None:
        warmup_steps = steps_of_warmup(self.warmup_steps, self.total_steps)
        if warmup_steps < self.warmup_steps and self.step < warmup_steps:
            self.run.say(
                f"warm-up of {warmup_steps} steps, a quarter of the run, instead of {self.warmup_steps}"
            )
        self.run.record_total_steps(self.total_steps)

    # -- between epochs, and at the end ----------------------------------------------------------------------

    def end_epoch(self, **scores: Any) -> None:
        """Log the epoch just done with its `scores`, forget its losses, save."""
        self.run.log_metrics(
            self.step,
            self.epoch_in_hand,
            loss=round(self.mean_loss(), 6),
            learning_rate=self.optimizer.param_groups[-1]["lr"],
            seconds=round(self.seconds, 1),
            **scores,
        )
        # On its device still: NCCL, by which several processes agree on stopping, knows no other.
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        self._ended = self.step
        self.save()

    def keep_weights(
        self,
        description: dict[str, Any],
        scores: dict[str, float],
        snapshot_epochs: list[int] | None = None,
        state: dict[str, Tensor] | None = None,
    ) -> bool:
        """The epoch's averaged weights: model.pt if the first of `scores` is the best so far (then True); a
        snapshot of the epochs named (counted from 1), or of the first, middle and last. `description` is the
        rest of a model.pt; `state` what is kept instead, where the loop trains a part of a network."""
        model = {
            "format": checkpoint.MODEL_FORMAT,
            **description,
            "state": self.average.state_dict() if state is None else state,
            "score": scores,
            "source": self.run.folder.name,
        }
        score = next(iter(scores.values()), -math.inf)
        is_best = score > self.best
        if is_best:
            self.best = score
            self.run.save(MODEL, model)
        if self.is_snapshot_epoch(snapshot_epochs):
            self.run.save(snapshot_weights(self.epoch_in_hand), model)
        return is_best

    def is_snapshot_epoch(self, named: list[int] | None) -> bool:
        """Whether the epoch just done is one of the `named`, or without names the first, middle or last."""
        return self.epoch_in_hand in (named or (1, max(1, (self.total_epochs or 2) // 2), self.total_epochs))

    def _epoch_awaits_its_end(self) -> bool:
        """Saved now, a run that goes on would not score the epoch that was just finished."""
        return (self.batch_in_epoch == 0 or self.is_done()) and self._ended != self.step

    def must_stop(self) -> bool:
        """Whether to end this invocation here; several processes agree on it every tenth step."""
        if self.is_done() or self._epoch_awaits_its_end():
            return False
        if distributed.world_size() == 1:
            return self._stopper.asked()
        is_time = self.step % 10 == 0 or self._ended == self.step
        return is_time and distributed.any_says(self._stopper.asked(), self.loss_sum.device)

    def stop(self) -> int:
        """Save, say how to go on, and give the exit status."""
        self.save()
        self._progress.close()
        self.run.say(
            f"stopped at step {self.step} of {self.total_steps or '?'}; go on with: {command_to_go_on()}"
        )
        return self._stopper.status()

    def close(self) -> None:
        self._progress.close()
        self.run.say(f"done: {self.step} steps, {clock(self.seconds)} of training")
        self.run.close()  # last, since it gives up the lock

    # -- checkpoints -----------------------------------------------------------------------------------------

    def save(self) -> None:
        self.run.save_last(
            {
                "step": self.step,
                "total_steps": self.total_steps,
                "best": self.best,
                "seconds": self.seconds,
                "loss_sum": self.loss_sum,
                "loss_count": self.loss_count,
                "network": self.network.state_dict(),
                "average": self.average.state_dict() if self.ema_decay else None,
                "optimizer": self.optimizer.state_dict(),
                "random": random_state(),
            }
        )
        self._saved = self._tick = time.monotonic()  # neither saving nor scoring is training time

    def _restore(self) -> None:
        state = self.run.load_last()
        if state is None:
            return
        try:
            self.network.load_state_dict(state["network"])
            if self.ema_decay:
                self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            restore_random_state(state["random"])
            for name in ("step", "total_steps", "best", "seconds", "loss_sum", "loss_count"):
                setattr(self, name, state[name])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.run.folder}: its checkpoint is of another version of this program "
                f"({str(error)[:120]}); start again in a new folder"
            ) from None
        self.run.say(f"going on from step {self.step} of {self.total_steps or '?'}")
