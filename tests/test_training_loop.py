"""Around a training step: the rate follows its schedule, the average its formula, and every way to stop can
go on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import signal

import pytest
import torch
from torch import nn

from engine import loop as loop_module
from engine.base import UserError
from engine.ema import update_average
from engine.loop import Loop
from engine.optimizer import parameter_groups
from engine.run import Run, Stopper
from engine.schedule import average_decay, warmup_cosine


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
    steps_per_epoch = changes.pop("steps_per_epoch", 4)
    values = {"epochs": 3, "budget_minutes": None, "schedule": "cosine", "warmup_steps": 2, "ema_decay": 0.9}
    args = argparse.Namespace(**{**values, **changes})
    run = Run(folder, {"seed": 0}, {})
    return Loop(run, network, torch.optim.SGD(network.parameters(), lr=0.1), args, steps_per_epoch, stopper)


def train(loop, steps=10**9):
    """Train until done, or for some steps; whether it is done."""
    for epoch in loop.epochs_left():
        for _ in range(loop.steps_per_epoch - loop.batch_in_epoch):
            if steps == 0:
                return False
            steps -= 1
            loop.set_learning_rates()
            loss = loop.network(torch.randn(4, 2)).square().mean()
            loop.optimizer.zero_grad()
            loss.backward()
            loop.optimizer.step()
            loop.after_step(loss, 4)
            if loop.must_stop():
                return False
            if loop.is_done():
                break
        loop.end_epoch(score=epoch / 10)
    return True


def test_the_rate_rises_and_falls_as_the_schedule_says():
    factors = [warmup_cosine(step, 110, 10) for step in range(111)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0)
    assert all(a >= b for a, b in zip(factors[10:], factors[11:]))


def test_before_the_length_is_known_there_is_only_the_rise():
    assert [warmup_cosine(step, None, 4) for step in (0, 3, 100)] == [0.25, 1.0, 1.0]


def test_a_short_run_is_not_all_rise():
    assert warmup_cosine(2, 8, 100) == 1.0


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


def test_stopped_anywhere_and_started_again_a_run_ends_with_the_same_weights(tmp_path):
    whole = new_loop(tmp_path / "whole")
    torch.manual_seed(7)
    assert train(whole)
    for steps in range(1, 12):
        folder = tmp_path / f"stopped{steps}"
        first = new_loop(folder)
        torch.manual_seed(7)
        train(first, steps)
        first.stop()
        first.run.close()
        torch.manual_seed(99)  # another process knows nothing of the random numbers so far
        second = new_loop(folder)
        assert train(second)
        for ours, theirs in ((second.network, whole.network), (second.average, whole.average)):
            for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()):
                assert torch.equal(a, b)
        scored = [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert scored == [1, 2, 3]
        second.run.close()


def test_a_budget_of_minutes_becomes_a_number_of_steps_once(tmp_path, monkeypatch):
    now = [0.0]
    seconds_a_step = 0.5
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop_module, "update_average", lambda *_: now.__setitem__(0, now[0] + seconds_a_step))
    loop = new_loop(tmp_path / "run", steps_per_epoch=1000, budget_minutes=10.0)
    train(loop, 29)
    assert loop.total_steps is None
    train(loop, 1)
    assert loop.total_steps == 10 * 60 / seconds_a_step
    assert json.loads((tmp_path / "run" / "config.json").read_text())["total_steps"] == loop.total_steps
    fixed = loop.total_steps
    loop.run.close()
    (tmp_path / "run" / "last.pt").unlink()  # killed before it was written
    assert new_loop(tmp_path / "run", steps_per_epoch=1000, budget_minutes=10.0).total_steps == fixed


def test_a_budget_that_is_over_before_the_speed_is_known_ends_the_run_scored(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop_module, "update_average", lambda *_: now.__setitem__(0, now[0] + 60))
    loop = new_loop(tmp_path / "run", steps_per_epoch=100, budget_minutes=3.0)
    assert train(loop) and loop.step == loop.total_steps == 3
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("steps_per_epoch", [10, 15, 30])
def test_fixing_the_steps_at_the_end_of_an_epoch_does_not_lose_its_score(tmp_path, steps_per_epoch):
    loop = new_loop(tmp_path / "run", steps_per_epoch=steps_per_epoch, budget_minutes=10.0)
    for _ in range(30):  # killed before the epoch is scored
        loop.after_step(torch.ones(()), 4)
        if loop.step < 30 and loop.batch_in_epoch == 0:
            loop.end_epoch()
    assert (
        not (tmp_path / "run" / "last.pt").is_file() or torch.load(tmp_path / "run" / "last.pt")["step"] < 30
    )
    loop.run.close()


def test_asked_to_stop_between_two_runs_the_second_stops_too(tmp_path):
    stopper = Stopper(None)
    first = new_loop(tmp_path / "first", stopper=stopper)
    os.kill(os.getpid(), signal.SIGTERM)
    train(first)
    second = new_loop(tmp_path / "second", stopper=stopper)
    assert not train(second) and second.step == 1


def test_max_minutes_stop_this_invocation_with_status_0(tmp_path, capsys):
    loop = new_loop(tmp_path / "run", max_minutes=0.0)
    assert not train(loop)
    assert loop.step == 1 and loop.stop() == 0
    assert "go on with: python3" in capsys.readouterr().err


def test_sigterm_finishes_the_step_saves_and_tells_the_shell(tmp_path):
    loop = new_loop(tmp_path / "run")
    os.kill(os.getpid(), signal.SIGTERM)
    assert not train(loop)
    assert loop.stop() == 128 + signal.SIGTERM
    loop.run.close()
    assert new_loop(tmp_path / "run").step == 1


def test_an_epoch_is_scored_before_a_stop_at_its_end(tmp_path):
    loop = new_loop(tmp_path / "run", steps_per_epoch=1)
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in loop.epochs_left():
        loop.after_step(torch.ones(()), 4)
        assert not loop.must_stop()
        loop.end_epoch()
        assert loop.must_stop()
        break


def test_a_loss_that_is_no_number_ends_the_run_with_advice(tmp_path):
    loop = new_loop(tmp_path / "run")
    with pytest.raises(UserError, match="smaller --lr"):
        loop.after_step(torch.tensor(math.nan), 4)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    loop = new_loop(tmp_path / "run")
    train(loop, 1)
    loop.stop()
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    state["network"] = {"0.weight": torch.zeros(5)}
    torch.save(state, tmp_path / "run" / "last.pt")
    loop.run.close()
    with pytest.raises(UserError, match="another version"):
        new_loop(tmp_path / "run")
