"""Problem 2's training: it learns, resumes to the last bit, and says what it refuses."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
from PIL import Image

import p2_train
from datasets.palette import COLOURS, mask_image
from engine import checkpoint
from models import builders
from tests.grader import call
from tests.killing import TinySegmenter, assert_same_end, scores_of, train, train_until_killed

STEPS = 12  # of three epochs with batches of 2
QUICK = ("--model", "tiny_segmenter", "--scale", 0.5, "--crop-size", 32, "--batch-size", 2, "--epochs", 3)


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(builders.SEGMENTERS, "tiny_segmenter", TinySegmenter)


@pytest.fixture
def data(tmp_path):
    """Tiles in the colours of their classes, with noise; the course's tree."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 3)):
        (tmp_path / "p2_data" / split).mkdir(parents=True)
        for number in range(count):
            classes = generator.permutation(np.arange(6, dtype=np.uint8)).reshape(2, 3).repeat(48, 0).repeat(32, 1)
            pixels = (COLOURS[classes] * 0.6 + generator.integers(0, 90, (96, 96, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "p2_data" / split / f"{number:04d}_sat.jpg")
            mask_image(classes).save(tmp_path / "p2_data" / split / f"{number:04d}_mask.png")
    return tmp_path / "p2_data"


@pytest.fixture
def flags(data, tmp_path):
    """The arguments of a short training into tmp_path/OUTPUT."""
    here = ("--data", data, "--cache", tmp_path / "cache", "--device", "cpu", *QUICK)
    return lambda output, *more: (*here, "--output", tmp_path / output, *more)


def test_the_loss_falls_and_the_land_cover_is_learned(flags, tmp_path):
    assert call(p2_train, *flags("run", "--epochs", 20, "--lr", 0.02)) == 0
    scores = scores_of(tmp_path / "run")
    assert scores[-1]["loss"] < 0.5 * scores[0]["loss"]
    assert scores[-1]["mean_iou"] > 0.6


def test_the_best_weights_describe_themselves(flags, tmp_path, capsys):
    assert call(p2_train, *flags("run")) == 0
    model = checkpoint.read_model(tmp_path / "run" / "model.pt")
    assert (model["problem"], model["network"], model["scale"]) == ("p2", "tiny_segmenter", 0.5)
    assert model["score"]["mean_iou"] == max(line["mean_iou"] for line in scores_of(tmp_path / "run"))
    assert f"best mIoU {model['score']['mean_iou']:.6f}" in capsys.readouterr().out


def test_first_middle_and_last_epoch_are_kept_or_those_asked_for(flags, tmp_path):
    assert call(p2_train, *flags("run", "--epochs", 4)) == 0
    kept = sorted(path.name for path in (tmp_path / "run" / "snapshots").iterdir())
    assert kept == ["epoch_0001.pt", "epoch_0002.pt", "epoch_0004.pt"]
    assert call(p2_train, *flags("other", "--snapshot-epochs", 3)) == 0
    assert [path.name for path in (tmp_path / "other" / "snapshots").iterdir()] == ["epoch_0003.pt"]


def test_killed_anywhere_and_started_again_it_ends_with_the_same_weights(flags, tmp_path):
    unbroken = train("p2_train.py", *flags("unbroken/run"))
    assert unbroken.returncode == 0, unbroken.stderr
    step = random.SystemRandom().randint(3, STEPS)  # any will do: a failure names it
    train_until_killed(step, "p2_train.py", *flags("killed/run"))
    shutil.copytree(tmp_path / "killed", tmp_path / "truncated")

    went_on = train("p2_train.py", *flags("killed/run"))
    assert went_on.returncode == 0 and "going on from step" in went_on.stderr, (step, went_on.stderr)
    assert_same_end(tmp_path / "killed" / "run", tmp_path / "unbroken" / "run")

    # The power went while the newest checkpoint was on its way to the disk.
    newest = tmp_path / "truncated" / "run" / "last.pt"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    went_on = train("p2_train.py", *flags("truncated/run"))
    assert went_on.returncode == 0 and "trying the one before" in went_on.stderr, (step, went_on.stderr)
    assert_same_end(tmp_path / "truncated" / "run", tmp_path / "unbroken" / "run")


def test_worker_processes_change_no_number(flags, tmp_path):
    assert call(p2_train, *flags("none/run", "--workers", 0)) == 0
    assert call(p2_train, *flags("two/run", "--workers", 2)) == 0
    assert_same_end(tmp_path / "none" / "run", tmp_path / "two" / "run")


def test_a_dry_run_takes_a_step_and_writes_nothing(flags, tmp_path, capsys):
    assert call(p2_train, *flags("run", "--dry-run")) == 0
    assert not (tmp_path / "run").exists()
    assert "all is well" in capsys.readouterr().out


def test_other_arguments_in_the_same_folder_are_refused(flags, capsys):
    assert call(p2_train, *flags("run")) == 0
    assert call(p2_train, *flags("run", "--lr", 0.5)) == 2
    assert "lr was 0.002, now 0.5" in capsys.readouterr().err


def test_a_finished_run_is_left_alone(flags, tmp_path):
    assert call(p2_train, *flags("run")) == 0
    before = (tmp_path / "run" / "model.pt").stat().st_mtime_ns
    assert call(p2_train, *flags("run")) == 0
    assert (tmp_path / "run" / "model.pt").stat().st_mtime_ns == before
    assert len(scores_of(tmp_path / "run")) == 3


def test_an_unreadable_pair_is_named_left_out_and_told_by_the_status(flags, data, capsys):
    (data / "train" / "0003_sat.jpg").write_bytes(b"no image")
    assert call(p2_train, *flags("run")) == 1
    assert "0003_sat.jpg" in capsys.readouterr().err


def test_a_validation_set_without_a_class_still_chooses_weights(flags, data, tmp_path):
    for mask in (data / "validation").glob("*_mask.png"):
        mask_image(np.zeros((96, 96), np.uint8)).save(mask)
    assert call(p2_train, *flags("run")) == 0
    assert 0 <= checkpoint.read_model(tmp_path / "run" / "model.pt")["score"]["mean_iou"] <= 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--data", "nowhere"), "nowhere/train"),
        (("--weights", "nowhere.pt"), "nowhere.pt"),
        (("--model", "unet"), "there are"),
        (("--model", "resnet18"), "there are"),
        (("--device", "abacus"), "--device abacus"),
    ],
)
def test_what_is_wrong_is_one_plain_line(flags, wrong, said, capsys):
    assert call(p2_train, *flags("run", *wrong)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--epochs", 0),
        ("--scale", 0),
        ("--min-crop", 2),
        ("--batch-size", 1),
        ("--lr", -1),
        ("--seed", -1),
        ("--workers", -1),
        ("--budget-minutes", "nan"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_starts(flags, wrong):
    with pytest.raises(SystemExit) as end:
        p2_train.parse_arguments([str(flag) for flag in flags("run", *wrong)])
    assert end.value.code == 2
