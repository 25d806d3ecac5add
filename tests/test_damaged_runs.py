"""A run whose checkpoints are damaged resumes from the one before, or is refused and not touched."""

from __future__ import annotations

import math
import signal
import zipfile
from pathlib import Path

import pytest
import torch

from engine.base import UserError
from engine.run import Run
from tests.test_damaged_weights import flip_one_bit
from tests.test_training_loop import new_loop, signals_as_before, stopped, train

assert signals_as_before  # a fixture for every test here


@pytest.fixture
def half(tmp_path) -> Path:
    """A run of 12 steps, stopped after its sixth; previous.pt is of its fourth."""
    loop = new_loop(tmp_path / "run")
    assert stopped(loop, steps=6) == 128 + signal.SIGTERM
    assert torch.load(tmp_path / "run" / "previous.pt")["step"] == 4
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def change(path: Path, **values: object) -> None:
    torch.save({**torch.load(path), **values}, path)


def test_one_wrong_bit_in_the_newest_checkpoint_and_the_one_before_is_taken(half, tmp_path, capsys):
    whole = new_loop(tmp_path / "whole")
    train(whole)
    flip_one_bit(half / "last.pt")
    loop = new_loop(half)
    assert loop.steps_done == 4 and "damaged: the bytes of" in capsys.readouterr().err
    assert (half / "last.pt.broken").is_file()
    train(loop)
    ended, other = (torch.load(folder / "last.pt") for folder in (half, tmp_path / "whole"))
    assert all(torch.equal(ended["network"][key], other["network"][key]) for key in other["network"])


@pytest.mark.parametrize("damage", ["a bit", "cut", "a value"])
def test_with_both_damaged_the_run_is_refused_and_nothing_touched(damage, half):
    (half / ".last.pt.x.part").write_bytes(b"half")
    for name in ("last.pt", "previous.pt"):
        if damage == "a bit":
            flip_one_bit(half / name)
        elif damage == "cut":
            (half / name).write_bytes((half / name).read_bytes()[:-100])
        else:
            change(half / name, step=-1)
    before = contents(half)
    with pytest.raises(UserError, match=r"none of its checkpoints can be read .*nothing is changed") as error:
        new_loop(half)
    assert "\n" not in str(error.value) and contents(half) == before


WRONG = {
    "step": ["3", -1, math.nan, True, 2**60, 10**30, None, 3.0, 13, torch.tensor(3)],
    "total_steps": ["12", -1, 0, math.nan, True, 2**60, 5, 13, 12.0, [12]],
    "best": ["0.5", math.nan, math.inf, True, None, torch.tensor(0.5)],
    "seconds": ["1", -1.0, math.nan, math.inf, True, None],
    "loss_sum": ["1", 0.5, True, None, torch.zeros(2), torch.tensor(math.nan), torch.tensor(math.inf)],
    "loss_count": ["1", -1, math.nan, True, 2**60, None, 1.0],
    "network": [None, [], "weights", torch.zeros(3), {"0.weight": 3}],
    "average": ["weights", [], {"0.weight": None}],
    "optimizer": [None, [], {}, {"state": []}, "sgd"],
    "random": [None, {}, [], {"torch": 3}],
    "scaler": [None, [], "fp16", {"scale": "1"}, {"scale": math.nan}, {"scale": -1.0}],
    "skipped": ["1", -1, math.nan, True, None],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_value_of_the_wrong_kind_is_one_line_and_metrics_stay(name, value, half, capsys):
    for path in (half / "last.pt", half / "previous.pt"):
        change(path, **{name: value})
    before = contents(half)
    with pytest.raises(UserError, match=f"last.pt: its '{name}', .*, is not what a training saves") as error:
        new_loop(half)
    assert "\n" not in str(error.value) and contents(half) == before


DEEPER = {  # of the right kind, and nothing that this network can take
    "weights of other shapes": {"network": {"0.weight": torch.zeros(1)}},
    "no average": {"average": None},
    "an optimizer of other groups": {"optimizer": {"state": {}, "param_groups": []}},
    "an optimizer without groups": {"optimizer": {"state": {}}},
    "groups that are none": {"optimizer": {"state": {}, "param_groups": [3]}},
    "random numbers of another kind": {"random": {"torch": torch.zeros(3), "python": (3, (1,), None)}},
    "random numbers without Python's": {"random": {"torch": torch.get_rng_state()}},
    "Python's that are none": {"random": {"torch": torch.get_rng_state(), "python": (3, (-1,), None)}},
    "Python's that are a number": {"random": {"torch": torch.get_rng_state(), "python": 3}},
}


@pytest.mark.parametrize("what", DEEPER)
def test_what_does_not_fit_the_network_is_one_line_and_metrics_stay(what, half):
    change(half / "last.pt", **DEEPER[what])
    before = contents(half)
    with pytest.raises(UserError, match="its checkpoint is of another version of this program") as error:
        new_loop(half)
    assert "\n" not in str(error.value) and contents(half) == before


def test_a_value_of_the_wrong_kind_beside_a_good_checkpoint_costs_the_steps_between(half, capsys):
    change(half / "last.pt", step=True)
    assert new_loop(half).steps_done == 4
    said = capsys.readouterr().err
    assert "its 'step', True, is not what a training saves" in said and "set aside as last.pt.broken" in said


def test_what_a_training_saves_at_any_step_is_what_it_reads(tmp_path):
    for steps in range(1, 12):
        loop = new_loop(tmp_path / "run")
        stopped(loop, steps=1)
        assert new_loop(tmp_path / "run").run.load_last()["step"] == steps
    with zipfile.ZipFile(tmp_path / "run" / "last.pt") as archive:
        assert archive.testzip() is None


def test_a_missing_result_is_named(tmp_path):
    run = Run(tmp_path / "run", "script.py", {}, {})
    with pytest.raises(UserError, match=r"its backbone\.pt is gone; bring it back, or train again"):
        run.require("backbone.pt")
