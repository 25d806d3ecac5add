"""`make check` shows each training before hours go into it; `make all` divides the hours once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import plan
from engine.base import UserError
from tests.grader import REPOSITORY


def training(name: str, **other: object) -> plan.Training:
    usual = {"origin": "from random weights", "images": 3951, "left_out": 0, "machine": "fp32 on cpu"}
    return plan.Training(name, **{**usual, "millions": 23.6, "seconds": 0.5, "batch": 32, **other})


ALL = [training(name) for name in plan.SHARES]


def test_the_hours_are_divided_whole():
    assert sum(share for share, _ in plan.SHARES.values()) == pytest.approx(1)
    for trainings in (ALL, ALL[:1] + ALL[2:], ALL[2:]):
        minutes = plan.minutes_of(trainings, hours=9)
        assert set(minutes) == {part.name for part in trainings}
        assert sum(minutes.values()) == pytest.approx(9 * 60 - plan.REST_MINUTES)


def test_settings_have_equal_epochs_and_three_seeds_where_these_learn_something():
    assert plan.settings_within(minutes=180, seconds_an_epoch=10) == (3, 100)
    assert plan.settings_within(minutes=60, seconds_an_epoch=10) == (3, 40)
    assert plan.settings_within(minutes=20, seconds_an_epoch=10) == (1, 40)
    assert plan.settings_within(minutes=1, seconds_an_epoch=1000) == (1, 1)


def test_each_training_gets_flags_that_its_script_takes():
    flags = plan.flags_of(ALL, hours=9)
    assert set(flags) == {variable for _, variable in plan.SHARES.values()}
    assert flags["SSL_TIME"].split()[0] == "--budget-minutes"
    assert flags["SETTINGS_TIME"] == "--epochs 41 --seeds 0"
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert all(f"$({variable})" in makefile for variable in flags)


def test_the_table_shows_what_hours_would_come_to(tmp_path):
    slow = [training("pre-training", seconds=60.0, left_out=2), training("settings")]
    text = plan.table(slow, tmp_path / "runs", hours=1)
    assert "60.00 s of 32" in text and "fewer than 100" in text and "epoch(s), 1 seed(s)" in text
    assert "packages: " in text and "GB are free" in text
    assert "make laptop" in text and "make laptop" not in plan.table(ALL, tmp_path / "runs", hours=9)
    assert "gets" not in plan.table(slow, tmp_path / "runs", hours=None)


def test_a_plan_is_made_once_and_read_from_then_on(monkeypatch, tmp_path):
    path = tmp_path / "runs" / "plan.json"
    with pytest.raises(UserError, match="HOURS=9"):
        plan.read_or_make(path, None)
    monkeypatch.setattr(plan, "measure", lambda: ALL)
    made = plan.read_or_make(path, 9.0)
    monkeypatch.setattr(plan, "measure", lambda: pytest.fail("measured again"))
    for hours in (9.0, None):
        assert plan.read_or_make(path, hours)["flags"] == made["flags"]
    with pytest.raises(UserError, match="begun for 9"):
        plan.read_or_make(path, 3.0)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"flags": 1}', '{"flags": {"SSL_TIME": "$(shell x)"}}', '{"flags": {"SHELL": "x"}}']
)
def test_a_plan_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match="delete it"):
        plan.read_or_make(tmp_path / "plan.json", 9.0)


def test_a_training_that_cannot_begin_says_why(monkeypatch, capsys):
    monkeypatch.setenv("TRAININGS", "model B: echo error: no such file of weights >&2; false")
    with pytest.raises(UserError, match="model B cannot begin: no such file of weights"):
        plan.measure()


MAKE = """#!/bin/sh
echo "$2 $SESSION_END $*" >>"$CALLS"
case "$2" in "$FAILS") exit 2;; esac
"""


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """Follow a plan with a make that makes nothing; returns its status and what it was called with."""
    (tmp_path / "make").write_text(MAKE)
    (tmp_path / "make").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("SESSION_END", "")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def follow(fails: str = "", session: float | None = None) -> tuple[int, list[str]]:
        (tmp_path / "calls").write_text("")
        monkeypatch.setenv("FAILS", fails)
        status = plan.follow({"flags": {"SSL_TIME": "--budget-minutes 3"}}, session)
        return status, (tmp_path / "calls").read_text().splitlines()

    yield follow
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers):
        signal.signal(number, handler)


def test_all_is_both_problems_segment_anything_and_the_report(followed):
    status, calls = followed()
    assert status == 0 and [call.split()[0] for call in calls] == ["p1", "p2", "sam", "report"]
    assert all(call.endswith("SSL_TIME=--budget-minutes 3") for call in calls)


def test_what_fails_ends_it_but_for_segment_anything_whose_weights_may_be_out_of_reach(followed):
    assert followed(fails="p2")[0] == 2
    status, calls = followed(fails="sam")
    assert status == 0 and len(calls) == 4


def test_a_session_that_is_over_is_no_failure(followed, capsys):
    status, calls = followed(fails="p1", session=0.01)
    assert status == 0 and len(calls) == 1
    assert "the same command resumes" in capsys.readouterr().out
    assert 0 <= int(calls[0].split()[1]) - time.time() <= 36
    assert followed(fails="p1", session=2.0)[0] == 2  # with time left it is one


def sample(tmp_path: Path) -> Path:
    command = [sys.executable, "-m", "datasets.sample", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return tmp_path / "hw1_data"


def test_check_tries_every_training_of_the_makefile(tmp_path):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "installed").touch()
    data = sample(tmp_path)
    (data / "p1_data" / "office" / "train" / "broken.jpg").touch()
    csv = data / "p1_data" / "office" / "train.csv"
    csv.write_text(csv.read_text() + "9999,broken.jpg,0\n")
    words = ["check", f"DATA={data}", f"VENV={tmp_path / 'venv'}", f"RUNS={tmp_path / 'my runs'}", "HOURS=2"]
    words += ["P1_FLAGS=--model resnet18 --image-size 32", "SSL_FLAGS=--batch-size 8"]
    words += ["P2_FLAGS=--scale 0.25", "P2_A_FLAGS=--model fcn32s_vgg16bn --scale 0.125 --batch-size 2"]
    words += [f"MACHINE_FLAGS=--device cpu --cache {tmp_path / 'cache'}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["make", *words], cwd=REPOSITORY, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(tuple(plan.SHARES))]
    assert [row.split("  ")[0] for row in rows] == list(plan.SHARES)
    assert "left out: " in done.stderr and "broken.jpg" in done.stderr
    assert rows[2].split()[2] == "1"  # of the settings' images one cannot be used
    assert not list((tmp_path / "my runs").rglob("config.json"))


def test_the_plans_words_are_those_of_the_dry_runs():
    line = (
        "dry run: fcn32s imagenet: 26 tensors loaded; new: head; 2000 + 257 tiles, crops of 288 px; fp16 on "
    )
    line += "cuda, 8 images at a time, 134.3 M weights, 1.25 s for a step of 16, loss 1.2345: all is well"
    said = plan.DRY_RUN.search(line)
    assert said["origin"] == "fcn32s imagenet: 26 tensors loaded; new: head" and said["images"] == "2000"
    assert (said["machine"], said["millions"], said["batch"]) == ("fp16 on cuda", "134.3", "16")
    assert json.dumps(said.groupdict())
