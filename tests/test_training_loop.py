"""Around a training step: the rate follows its schedule, the average its formula, and from every way to stop
a run resumes.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import signal
from functools import partial

import pytest
import torch
from torch import nn

from engine import loop as loop_module
from engine import run_folder
from engine.base import Stopped, UserError, run_script
from engine.loop import Loop
from engine.optimizer import Stepper, build_optimizer, parameter_groups, update_average
from engine.run import Run, Stopper
from engine.schedule import SCHEDULES, average_decay, learning_rate_factor, milestones_in_steps


@pytest.fixture(autouse=True)
def signals_as_before():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def new_loop(folder, **changes):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    stopper = changes.pop("stopper", None) or Stopper(changes.pop("max_minutes", None))
    values = {
        "epochs": 3,
        "budget_minutes": None,
        "schedule": "cosine",
        "warmup_steps": 2,
        "last_rate": 0.0,
        "milestones": None,
        "ema_decay": 0.9,
        "precision": "fp32",
        "micro_batch": None,
    }
    args = argparse.Namespace(**{name: changes.pop(name, value) for name, value in values.items()})
    run = Run(folder, "script.py", {"seed": 0}, {})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    stepper = Stepper(network, optimizer, torch.device("cpu"), args.precision, args.micro_batch)
    return Loop(run, stepper, stopper, args, **{"steps_per_epoch": 4, "batch_size": 4, **changes})


def step(loop, batch, **values):
    """A step down the gradient of the mean square of what the network makes of the batch."""

    def loss_of(part, share):
        return {"loss": share * loop._stepper.forward(part).square().mean()}

    return loop.step((batch,), loss_of, **values)


def batches_of(loop):
    """A loader as scripts have: four random samples a batch, of torch's generator."""
    return lambda epoch, first_batch: (torch.randn(4, 2) for _ in range(first_batch, loop.steps_per_epoch))


class Killed(Exception):
    """The process died: nothing more is written."""


def train(loop, steps=math.inf, kill_after=math.inf):
    """Train until done (True), or be asked to stop after some steps, or die after some."""
    for epoch in loop.epochs():
        for batch in loop.batches(batches_of(loop)):
            step(loop, batch)
            steps, kill_after = steps - 1, kill_after - 1
            if steps == 0:
                loop._stopper.signal = signal.SIGTERM
            if kill_after == 0:
                raise Killed
        loop.end_epoch({"score": epoch / 10})
    return True


def stopped(loop, **when):
    """Train and be stopped: the exit status."""
    with pytest.raises(Stopped) as stop:
        train(loop, **when)
    loop.run.close()
    return stop.value.args[0]


def test_the_rate_rises_and_falls_as_the_schedule_says():
    factors = [learning_rate_factor("cosine", step, 110, 10) for step in range(111)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0)
    assert all(a >= b for a, b in zip(factors[10:], factors[11:]))


def test_before_the_length_is_known_there_is_only_the_rise():
    for schedule in SCHEDULES:
        assert [learning_rate_factor(schedule, step, None, 4) for step in (0, 3, 100)] == [0.25, 1.0, 1.0]


def test_a_short_run_is_not_all_rise():
    for schedule in SCHEDULES:
        assert learning_rate_factor(schedule, 2, 8, 100) == 1.0


def test_poly_and_constant_are_what_they_are_called():
    assert learning_rate_factor("poly", 60, 110, 10) == pytest.approx(0.5**0.9)
    assert learning_rate_factor("poly", 110, 110, 10) == 0
    assert {learning_rate_factor("constant", step, 110, 10) for step in range(10, 111)} == {1.0}


def test_a_step_schedule_falls_at_each_milestone_and_a_cosine_ends_at_its_last_rate():
    milestones, factor = milestones_in_steps({"epochs": [9, 14], "factor": 0.1}, steps_per_epoch=10)
    assert milestones == [90, 140]
    found = [
        learning_rate_factor("step", step, 250, 0, milestones=(milestones, factor))
        for step in (0, 89, 90, 139, 140, 249)
    ]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert milestones_in_steps({"steps": [8000], "factor": 0.7}, 10) == ([8000], 0.7)
    assert milestones_in_steps(None, 10) == ([], 1.0)
    assert learning_rate_factor("cosine", 110, 110, 10, last_rate=0.005) == pytest.approx(0.005)
    assert learning_rate_factor("cosine", 10, 110, 10, last_rate=0.005) == 1


def test_a_report_may_decay_all_weights_and_step_without_nesterov():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    (group,) = parameter_groups(network, lr=0.1, decay_all=True)
    assert "weight_decay" not in group and len(group["params"]) == 4
    for nesterov in (True, False):
        (found,) = build_optimizer("sgd", [dict(group)], 0.1, 0.5, nesterov).param_groups
        assert (found["nesterov"], found["momentum"], found["weight_decay"]) == (nesterov, 0.9, 0.5)


def test_the_average_follows_its_formula():
    torch.manual_seed(0)
    average = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network = copy.deepcopy(average)
    network(torch.randn(8, 2))  # moves the statistics and counts a batch
    with torch.no_grad():
        network[0].weight += 1
    wanted = {k: 0.9 * v + 0.1 * network.state_dict()[k] for k, v in average.state_dict().items()}
    update_average(average, network, 0.9)
    for key, value in average.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, wanted[key])
    assert average[1].num_batches_tracked == 1
    assert average_decay(0, 0.998) == 0.1 and average_decay(10**6, 0.998) == 0.998


def test_biases_and_batch_norm_are_not_decayed_and_the_backbone_has_its_own_rate():
    network = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2)})
    groups = parameter_groups(network, lr=0.1, backbone_lr=0.01)
    found = {(group["lr"], group.get("weight_decay"), p.ndim) for group in groups for p in group["params"]}
    assert found == {(0.01, None, 2), (0.01, 0.0, 1), (0.1, None, 2), (0.1, 0.0, 1)}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ends(folder):
    """The lines of epochs, not of steps."""
    return [line for line in lines_of(folder) if "loss" in line]


def test_stopped_anywhere_and_started_again_a_run_ends_with_the_same_weights(tmp_path):
    whole = new_loop(tmp_path / "whole")
    torch.manual_seed(7)
    assert train(whole)
    for steps in range(1, 12):
        folder = tmp_path / f"stopped{steps}"
        first = new_loop(folder)
        torch.manual_seed(7)
        assert stopped(first, steps=steps) == 128 + signal.SIGTERM
        torch.manual_seed(99)  # another process knows nothing of the random numbers so far
        second = new_loop(folder)
        assert train(second)
        for ours, theirs in ((second.network, whole.network), (second.average, whole.average)):
            for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()):
                assert torch.equal(a, b)
        assert [line["epoch"] for line in ends(folder)] == [1, 2, 3]
        second.run.close()


@pytest.fixture
def clock(monkeypatch):
    """Each step takes half a second, the first five two."""
    now, steps = [0.0], [0]

    def pass_time(*_):
        steps[0] += 1
        now[0] += 2.0 if steps[0] <= 5 else 0.5

    monkeypatch.setattr(loop_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop_module, "update_average", pass_time)
    return now


def test_a_budget_of_minutes_becomes_a_number_of_steps_once(tmp_path, clock):
    given = {"steps_per_epoch": 1000, "budget_minutes": 10.0}
    loop, seen = new_loop(tmp_path / "run", **given), []
    for _ in loop.epochs():
        for batch in loop.batches(batches_of(loop)):
            step(loop, batch)
            seen.append((loop.steps_done, loop.total_steps))
            if len(seen) == 17:  # killed
                break
        break
    assert seen[:15] == [(number, None) for number in range(1, 16)]
    assert seen[15:] == [(1, 10 * 60 / 0.5), (2, 10 * 60 / 0.5)]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["total_steps"] == loop.total_steps
    fixed = loop.total_steps
    loop.run.close()
    assert not (tmp_path / "run" / "last.pt").exists()  # killed before the first was written
    assert new_loop(tmp_path / "run", **given).total_steps == fixed


def test_steps_for_the_time_alone_leave_no_trace(tmp_path, clock, monkeypatch):
    """With as many steps given by hand a run is the same, from its first rate on."""
    monkeypatch.setattr(loop_module, "update_average", partial(time_and_average, clock))
    monkeypatch.setattr(loop_module, "LOG_EVERY", 1)
    changes = {"steps_per_epoch": 4, "warmup_steps": 1000}
    by_time = new_loop(tmp_path / "time", budget_minutes=40 / 60, **changes)
    torch.manual_seed(7)
    assert train(by_time)
    by_hand = new_loop(tmp_path / "hand", epochs=10, **changes)
    torch.manual_seed(7)
    assert train(by_hand)
    assert by_time.total_steps == 40
    for name in ("network", "average"):
        ours, theirs = (torch.load(tmp_path / way / "last.pt")[name] for way in ("time", "hand"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    keys = ("step", "epoch", "loss", "step_loss", "learning_rate")
    ours, theirs = (
        [[line.get(key) for key in keys] for line in lines_of(tmp_path / way)] for way in ("time", "hand")
    )
    assert ours == theirs


def time_and_average(clock, *arguments):
    clock[0] += 1.0
    update_average(*arguments)


def test_a_budget_that_is_over_before_the_speed_is_known_ends_the_run_scored(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop_module, "update_average", lambda *_: now.__setitem__(0, now[0] + 60))
    loop = new_loop(tmp_path / "run", steps_per_epoch=100, budget_minutes=3.0)
    assert train(loop) and loop.steps_done == loop.total_steps == 3
    assert len(ends(tmp_path / "run")) == 1
    assert "warning: so few steps teach little" in capsys.readouterr().err


def test_a_stop_while_the_speed_is_measured_leaves_the_run_at_its_begin(tmp_path, clock):
    given = {"steps_per_epoch": 4, "budget_minutes": 10.0}
    first = new_loop(tmp_path / "run", **given)
    assert stopped(first, steps=7) == 128 + signal.SIGTERM
    state = torch.load(tmp_path / "run" / "last.pt")
    assert (state["step"], state["total_steps"], state["loss_count"]) == (0, None, 0)
    again = new_loop(tmp_path / "run", **given)
    assert again.total_steps is None
    assert all(torch.equal(state["network"][key], value) for key, value in again.network.state_dict().items())


def test_asked_to_stop_between_two_runs_the_second_stops_too(tmp_path):
    stopper = Stopper(None)
    first = new_loop(tmp_path / "first", stopper=stopper)
    os.kill(os.getpid(), signal.SIGTERM)
    stopped(first)
    second = new_loop(tmp_path / "second", stopper=stopper)
    assert stopped(second) == 128 + signal.SIGTERM and second.steps_done == 1


def test_max_minutes_stop_this_invocation_with_status_0(tmp_path, capsys):
    loop = new_loop(tmp_path / "run", max_minutes=0.0)
    assert stopped(loop) == 0 and loop.steps_done == 1
    assert "resume with: python3" in capsys.readouterr().err


def test_sigterm_finishes_the_step_saves_and_tells_the_shell(tmp_path):
    loop = new_loop(tmp_path / "run")
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: train(loop))
    assert end.value.code == 128 + signal.SIGTERM
    loop.run.close()
    assert new_loop(tmp_path / "run").steps_done == 1


def test_an_epoch_is_scored_before_a_stop_at_its_end(tmp_path):
    loop = new_loop(tmp_path / "run", steps_per_epoch=1)
    os.kill(os.getpid(), signal.SIGTERM)
    stopped(loop)
    assert [line["epoch"] for line in ends(tmp_path / "run")] == [1]


def test_what_the_script_does_after_a_step_is_in_the_checkpoint_of_that_step(tmp_path, monkeypatch):
    monkeypatch.setattr(loop_module, "CHECKPOINT_SECONDS", 0)
    loop = new_loop(tmp_path / "run")
    with pytest.raises(Killed):
        for _ in loop.epochs():
            for number, batch in enumerate(loop.batches(batches_of(loop)), start=1):
                if number == 3:
                    raise Killed
                step(loop, batch)
                loop.network[0].bias.data.fill_(number)  # as BYOL's target is moved
    saved = torch.load(tmp_path / "run" / "last.pt")
    assert saved["step"] == 2 and (saved["network"]["0.bias"] == 2).all()


# -- what it keeps and says ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "epochs, kept", [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (5, [1, 3, 5]), (30, [1, 15, 30])]
)
def test_first_middle_and_last_are_three_epochs_wherever_there_are_three(tmp_path, epochs, kept):
    loop = new_loop(tmp_path / "run", epochs=epochs)
    for epoch in range(1, epochs + 1):
        loop.steps_done = 4 * epoch
        loop.keep_weights({}, {})
    assert run_folder.snapshot_epochs(tmp_path / "run") == kept


def test_the_best_weights_are_those_of_the_score_that_is_named(tmp_path):
    loop = new_loop(tmp_path / "run", score="mean_iou")
    series = [{"urban": 0.9, "mean_iou": 0.1}, {"urban": 0.1, "mean_iou": 0.2}, {}]
    is_best = []
    for epoch, scores in enumerate(series, start=1):
        loop.steps_done = 4 * epoch
        is_best.append(loop.keep_weights({}, scores))
    assert is_best == [True, True, False]
    assert torch.load(tmp_path / "run" / "model.pt")["score"] == series[1]


def test_every_so_many_steps_and_at_the_end_a_line_has_loss_rate_speed_and_what_the_script_adds(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(loop_module, "LOG_EVERY", 5)
    loop, logged = new_loop(tmp_path / "run"), []
    for _ in loop.epochs():
        for batch in loop.batches(batches_of(loop)):
            logged.append(step(loop, batch, spread=torch.tensor(0.25), decay=0.5))
        loop.end_epoch({})
    lines = [line for line in lines_of(tmp_path / "run") if "step_loss" in line]
    assert [line["step"] for line in lines] == [5, 10, 12]
    assert all({"learning_rate", "images_per_second"} <= line.keys() for line in lines)
    assert all((line["spread"], line["decay"]) == (0.25, 0.5) for line in lines)
    assert [step for step, values in enumerate(logged, start=1) if values] == [5, 10, 12]
    assert logged[4] == {"spread": 0.25, "decay": 0.5}


def test_its_end_is_in_the_configuration(tmp_path):
    loop = new_loop(tmp_path / "run")
    train(loop)
    assert not run_folder.is_finished(tmp_path / "run")  # what is checked after the last epoch may yet fail
    loop.finish()
    assert run_folder.is_finished(tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path):
    loop = new_loop(tmp_path / "run")
    with pytest.raises(UserError, match="smaller --lr"):
        step(loop, torch.full((4, 2), math.nan))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    loop = new_loop(tmp_path / "run")
    stopped(loop, steps=1)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    state["network"] = {"0.weight": torch.zeros(5)}
    torch.save(state, tmp_path / "run" / "last.pt")
    loop.run.close()
    with pytest.raises(UserError, match="another version"):
        new_loop(tmp_path / "run")
