"""What every training loop does around its loss: the step, averaged weights, checkpoints, progress, stopping.

loop = Loop(run, stepper, stopper, args, steps_per_epoch=..., batch_size=...)
for epoch in loop.epochs():
    for batch in loop.batches(loader):
        loop.step(prepared(batch), loss_of)  # both are the script's own
    scores = ...
    loop.keep_weights(description, scores)
    loop.end_epoch(scores)
loop.finish()

A run that is asked to stop saves and leaves the loop by Stopped, with the script's exit status; the same
command resumes it.
"""

from __future__ import annotations

import argparse
import copy
import io
import math
import time
from itertools import count
from typing import Any, Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from engine import checkpoint, distributed
from engine.base import Progress, Stopped, UserError, clock
from engine.device import random_state, restore_random_state
from engine.optimizer import Batch, LossOf, Stepper, update_average
from engine.run import Run, Stopper, command_to_resume
from engine.run_folder import MODEL, snapshot_weights
from engine.schedule import average_decay, factor_by, steps_of_warmup

CHECKPOINT_SECONDS = 240  # a kill loses at most five minutes, the step and the scoring in hand included
LOG_EVERY = 50  # steps between two lines of metrics.jsonl within an epoch
# --budget-minutes: the steps left out of, and used for, measuring the speed; and how few are too few.
WARMING_STEPS, TIMED_STEPS, FEW_STEPS = 5, 10, 100
COUNTS = ("total_steps", "best", "seconds", "loss_sum", "loss_count")  # attributes that are saved as they are


class Loop:
    """The state of a training between two steps; everything in it that matters is in the last checkpoint."""

    def __init__(
        self,
        run: Run,
        stepper: Stepper,
        stopper: Stopper,
        args: argparse.Namespace,
        steps_per_epoch: int,
        batch_size: int,
        score: str | None = None,
        snapshot_epochs: list[int] | None = None,
    ):
        """Resume `run` where its newest checkpoint lies, or begin it.

        Of `args` it takes epochs, budget_minutes, micro_batch, ema_decay (0: no average) and what
        schedule.factor_by takes. `batch_size` is that of all processes together. The best weights have the
        highest `score`; snapshots are of the first, middle and last epoch, or those named (from 1).
        """
        self.run, self.args, self._stepper, self._stopper = run, args, stepper, stopper
        self.network, self.optimizer = stepper.network, stepper.optimizer
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.score, self.snapshot_epochs = score, snapshot_epochs
        self.average = self.network
        if args.ema_decay:
            self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.total_steps = args.epochs * steps_per_epoch if args.budget_minutes is None else None
        self.steps_done, self.best = 0, -math.inf
        self.seconds = 0.0  # spent on training steps, over all invocations
        self.loss_sum, self.loss_count = torch.zeros(()), 0
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]
        stepper.set_precision(run.settle_precision(stepper.precision))
        stepper.micro_batch = run.settle_micro_batch(args.micro_batch)
        self._restore()
        # Where the checkpoint does not say: killed between fixing the steps and the first of them.
        self.total_steps = self.total_steps or run.config["total_steps"]
        if self.total_steps is not None:
            self._record_total_steps()
        stepper.join_processes()
        self._progress = Progress("training", self.steps_done, self.total_steps, distributed.is_main())
        self._note, self.images_per_second = "", 0.0
        self._ended = self.steps_done  # the step after which the last epoch was scored
        self._first_step, self._first_seconds = self.steps_done, self.seconds  # of this invocation
        self._saved = self._tick = time.monotonic()

    @property
    def scored(self) -> nn.Module:
        """What is scored and kept, as inference runs it: the average, or without one the network."""
        return self.average.eval()

    # -- where it stands -------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """That of the step just done, from 1."""
        return math.ceil(self.steps_done / self.steps_per_epoch)

    def is_done(self) -> bool:
        return self.total_steps is not None and self.steps_done >= self.total_steps

    def is_snapshot_epoch(self) -> bool:
        """Whether weights of the epoch just done are kept."""
        last = math.ceil(self.total_steps / self.steps_per_epoch)
        return self.epoch in (self.snapshot_epochs or (1, (last + 1) // 2, last))

    # -- the two loops ---------------------------------------------------------------------------------------

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, from 0; the first may be one that was begun before."""
        while not self.is_done():
            yield self.steps_done // self.steps_per_epoch
            self._stop_if_asked()

    def batches(self, loader: Callable[..., Iterable]) -> Iterator[Any]:
        """The batches of this epoch that are left, of `loader(epoch=, first_batch=)`; before the first of a
        run with --budget-minutes some that are trained on for their time alone."""
        if self.total_steps is None:
            yield from self._trial(loader)
            self._stop_if_asked()
        epoch, first_batch = divmod(self.steps_done, self.steps_per_epoch)
        for batch in loader(epoch=epoch, first_batch=first_batch):
            yield batch
            is_due = time.monotonic() - self._saved >= CHECKPOINT_SECONDS
            if is_due and not self._epoch_awaits_its_end():
                self._save()
            self._stop_if_asked()
            if self.is_done():
                break

    # -- a step ----------------------------------------------------------------------------------------------

    def step(self, batch: Batch, loss_of: LossOf, **values: Tensor | float) -> dict[str, float]:
        """One step of the optimiser down the gradient of the loss (engine/optimizer.py).

        Every LOG_EVERY steps, and after the last, metrics.jsonl gets the loss, the rate, the speed, and what
        else `loss_of` gives and `values` hold (tensors: their mean over all processes): it returns these two.
        """
        factor = factor_by(self.args, self.steps_done, self.total_steps, self.steps_per_epoch)
        for group, rate in zip(self.optimizer.param_groups, self._base_rates):
            group["lr"] = rate * factor
        found = self._stepper.step(batch, loss_of)
        loss = found.pop("loss")
        self._tell_of_memory_and_overflow()
        if self.args.ema_decay and not self._stepper.is_skipped:
            decay = average_decay(self.steps_done, self.args.ema_decay)
            update_average(self.average, self.network, decay)
        self._count(loss)
        if self.total_steps is None or (self.steps_done % LOG_EVERY and not self.is_done()):
            return {}
        return self._log_step(loss, {**found, **values})

    def _tell_of_memory_and_overflow(self) -> None:
        step, size = self.steps_done + 1, self._stepper.micro_batch
        if size != self.run.config.get("micro_batch"):
            again = f"done again, as all that follow, {size} images at a time"
            self.run.say(f"step {step}: out of memory; {again}")
            self.run.record(micro_batch=size)
        if self._stepper.is_skipped:
            self.run.say(f"step {step} is skipped: its gradient overflowed in half precision")

    def _count(self, loss: Tensor) -> None:
        """Count the step, its loss and its time."""
        if not self._stepper.is_skipped or loss.isfinite():
            self.loss_sum = self.loss_sum.to(loss.device) + loss
            self.loss_count += 1
        self.steps_done += 1
        now = time.monotonic()
        self.seconds += now - self._tick
        self._tick = now
        if self.total_steps is None:
            return
        if self.steps_done % 10 == 0 or not self._note:  # reading the loss makes a GPU wait
            done, seconds = self.steps_done - self._first_step, self.seconds - self._first_seconds
            self.images_per_second = done * self.batch_size / max(1e-9, seconds)
            self._note = f"loss {self.mean_loss():.4f}, {self.images_per_second:.1f} images/s"
        self._progress.total = self.total_steps
        self._progress.advance(self._note)

    def mean_loss(self) -> float:
        """Over the epoch so far, and all processes. UserError when it is not finite: nothing good follows."""
        mean = distributed.mean_of_all(self.loss_sum).item() / max(1, self.loss_count)
        if not math.isfinite(mean):
            where = f"{self.run.folder}: the loss is {mean} at step {self.steps_done}"
            raise UserError(f"{where}; try a smaller --lr")
        return mean

    def _log_step(self, loss: Tensor, values: dict[str, Tensor | float]) -> dict[str, float]:
        logged = {
            name: distributed.mean_of_all(value.detach()).item() if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        skipped = {"skipped_steps": self._stepper.skipped} if self._stepper.precision == "fp16" else {}
        speed, rounded = round(self.images_per_second, 1), {name: round(logged[name], 6) for name in logged}
        step_loss = distributed.mean_of_all(loss).item()
        self._log("step_loss", step_loss, images_per_second=speed, **skipped, **rounded)
        return logged

    def _log(self, name: str, loss: float, **values: Any) -> None:
        losses = {name: round(loss, 6), "learning_rate": self.optimizer.param_groups[-1]["lr"]}
        self.run.log_metrics(self.steps_done, self.epoch, **losses, **values)

    # -- how many steps --------------------------------------------------------------------------------------

    def _trial(self, loader: Callable[..., Iterable]) -> Iterator[Any]:
        """Turn --budget-minutes into steps, once, from the speed of some that are undone."""
        self.run.say(f"{WARMING_STEPS + TIMED_STEPS} steps for their time alone; they will be undone")
        kept = io.BytesIO()
        torch.save(self._state(), kept)
        budget, times = 60 * self.args.budget_minutes, [time.monotonic()]
        for batch in (batch for epoch in count() for batch in loader(epoch=epoch, first_batch=0)):
            yield batch
            is_last = len(times) == WARMING_STEPS + TIMED_STEPS
            if is_last or len(times) == WARMING_STEPS:
                self.mean_loss()  # waits for the GPU: its time is measured, not ours
            times.append(time.monotonic())
            is_stopped = distributed.from_main(self._stopper.signal is not None)
            if is_last or is_stopped or distributed.from_main(times[-1] - times[0] >= budget):
                break
        kept.seek(0)
        self._take(torch.load(kept, map_location="cpu", weights_only=True))
        self._tick = time.monotonic()
        if is_stopped:
            return
        timed = times[WARMING_STEPS if len(times) > WARMING_STEPS + 1 else 0 :]
        seconds_a_step = max(1e-9, timed[-1] - timed[0]) / (len(timed) - 1)
        self.total_steps = distributed.from_main(max(1, round(budget / seconds_a_step)))
        self.run.say(f"{budget / 60:g} minutes at {seconds_a_step:.2f} s a step: {self.total_steps} steps")
        if self.total_steps < FEW_STEPS:
            self.run.say("warning: so few steps teach little and compare nothing; give more --budget-minutes")
        self._record_total_steps()

    def _record_total_steps(self) -> None:
        wanted = self.args.warmup_steps
        warmup_steps = steps_of_warmup(wanted, self.total_steps)
        if warmup_steps < wanted and self.steps_done < warmup_steps:
            self.run.say(f"warm-up of {warmup_steps} steps, a quarter of the run, instead of {wanted}")
        self.run.record(total_steps=self.total_steps)

    # -- between epochs, and at the end ----------------------------------------------------------------------

    def keep_weights(
        self, description: dict[str, Any], scores: dict[str, float], state: dict[str, Tensor] | None = None
    ) -> bool:
        """The epoch's averaged weights: as model.pt if their score is the best so far (then True), and as a
        snapshot where one is due. `description` is the rest of a model.pt; `state` what is kept instead,
        where the loop trains a part of a network."""
        model = {
            "format": checkpoint.MODEL_FORMAT,
            **description,
            "state": self.average.state_dict() if state is None else state,
            "score": scores,
            "source": self.run.folder.name,
        }
        score = scores.get(self.score, -math.inf)
        is_best = score > self.best
        if is_best:
            self.best = score
            self.run.save(MODEL, model)
        if self.is_snapshot_epoch():
            self.run.save(snapshot_weights(self.epoch), model)
        return is_best

    def end_epoch(self, scores: dict[str, float]) -> None:
        """Log the epoch just done with its `scores`, forget its losses, save."""
        self._log("loss", self.mean_loss(), seconds=round(self.seconds, 1), **scores)
        # On its device still: NCCL, by which several processes agree on stopping, knows no other.
        self.loss_sum, self.loss_count = torch.zeros_like(self.loss_sum), 0
        self._ended = self.steps_done
        self._save()

    def finish(self) -> None:
        """All is done and kept: say so, also in config.json."""
        self._progress.close()
        self.run.record_end()
        self.run.say(f"done: {self.steps_done} steps, {clock(self.seconds)} of training")
        self.run.close()  # last, since it gives up the lock

    # -- stopping --------------------------------------------------------------------------------------------

    def _stop_if_asked(self) -> None:
        """Save, say how to resume, and leave the loop."""
        if not self._must_stop():
            return
        self._save()
        self._progress.close()
        place = f"{self.steps_done} of {self.total_steps or '?'}"
        self.run.say(f"stopped at step {place}; resume with: {command_to_resume()}")
        raise Stopped(distributed.leave(self._stopper.status()))

    def _must_stop(self) -> bool:
        """Whether to end this invocation here; several processes agree on it every tenth step."""
        if self.is_done() or self._epoch_awaits_its_end():
            return False
        if distributed.world_size() == 1:
            return self._stopper.asked()
        is_time = self.steps_done % 10 == 0 or self._ended == self.steps_done
        return is_time and distributed.any_says(self._stopper.asked(), self._stepper.device)

    def _epoch_awaits_its_end(self) -> bool:
        """Saved now, a run that is resumed would not score the epoch that was just finished."""
        is_end = self.steps_done % self.steps_per_epoch == 0 or self.is_done()
        return is_end and self._ended != self.steps_done

    # -- checkpoints -----------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.run.save_last(self._state())
        self._saved = self._tick = time.monotonic()  # neither saving nor scoring is training time

    def _state(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in COUNTS},
            "step": self.steps_done,
            "skipped": self._stepper.skipped,
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.args.ema_decay else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._stepper.scaler.state_dict(),
            "random": random_state(),
        }

    def _take(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if self.args.ema_decay:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._stepper.scaler.load_state_dict(state.get("scaler", {}))
        self._stepper.skipped = state.get("skipped", 0)
        restore_random_state(state["random"])
        self.steps_done = state["step"]
        for name in COUNTS:
            setattr(self, name, state[name])

    def _restore(self) -> None:
        state = self.run.load_last()
        if state is None:
            self.run.resume_after(-1)
            return
        try:
            self._take(state)
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError, OverflowError) as error:
            said = " ".join(str(error).split())[:120] or type(error).__name__
            what = f"{self.run.folder}: its checkpoint is of another version of this program ({said})"
            raise UserError(f"{what}; start again in a new folder") from None
        self.run.resume_after(self.steps_done)
        self.run.say(f"resuming from step {self.steps_done} of {self.total_steps or '?'}")
