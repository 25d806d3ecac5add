"""Problem 2's training: it learns, resumes to the last bit, and says what it refuses."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import mean_iou_evaluate
import p2_inference
import p2_train
from datasets.palette import COLOURS, mask_image
from datasets.tile_pairs import load_pairs, read_mask
from engine import checkpoint
from engine.run_folder import is_finished
from models import builders
from tests.grader import call
from tests.killing import TinySegmenter, assert_same_end, scores_of, train, train_until_killed

STEPS = 12  # of three epochs with batches of 2
QUICK = ("--model", "tiny_segmenter", "--scale", 0.5, "--crop-size", 32, "--batch-size", 2, "--epochs", 3)


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(builders.SEGMENTERS, "tiny_segmenter", builders.Network(TinySegmenter))


@pytest.fixture
def data(tmp_path):
    """Tiles in the colours of their classes, with noise; the course's tree."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 3)):
        (tmp_path / "p2_data" / split).mkdir(parents=True)
        for number in range(count):
            classes = (
                generator.permutation(np.arange(6, dtype=np.uint8)).reshape(2, 3).repeat(48, 0).repeat(32, 1)
            )
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


@pytest.mark.parametrize("recipe", [name for name in p2_train.RECIPES if name.startswith("report")])
def test_a_reports_recipe_trains_on_its_copies_and_snapshots_its_epochs(flags, tmp_path, recipe):
    said = p2_train.RECIPES[recipe]
    given = ("--recipe", recipe, "--weights", "none", "--epochs", 5)
    assert call(p2_train, *flags("run", *given, "--pictures", "0001")) == 0
    model, scores = checkpoint.read_model(tmp_path / "run" / "model.pt"), scores_of(tmp_path / "run")
    assert model["edition"] == said["edition"]
    assert said["mean"] is None or (model["mean"], model["std"]) == (said["mean"], said["std"])
    copies = 3 if said["augment"] == "flips" else len(said["changes"] or [{}])
    assert scores[-1]["step"] == 5 * 8 * copies // 2
    kept = sorted(path.name for path in (tmp_path / "run" / "snapshots").glob("*.pt"))
    wanted = [epoch for epoch in said["snapshot_epochs"] or (1, 3, 5) if epoch <= 5]
    assert kept == [f"epoch_{epoch:04d}.pt" for epoch in wanted]


def test_the_best_weights_describe_themselves(flags, tmp_path, capsys):
    assert call(p2_train, *flags("run")) == 0
    model = checkpoint.read_model(tmp_path / "run" / "model.pt")
    assert (model["problem"], model["network"], model["scale"]) == ("p2", "tiny_segmenter", 0.5)
    assert model["score"]["mean_iou"] == max(line["mean_iou"] for line in scores_of(tmp_path / "run"))
    assert f"best mIoU {model['score']['mean_iou']:.6f}" in capsys.readouterr().out


def test_killed_while_the_stages_are_drawn_a_run_is_not_finished_and_the_next_start_draws_them(
    flags, tmp_path, monkeypatch
):
    def die(*arguments):
        (tmp_path / "run" / ".stages.pdf.abcdefgh.part").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(p2_train, "draw_stages", die)
        assert call(p2_train, *flags("run")) == 130
    assert not is_finished(tmp_path / "run")
    assert call(p2_train, *flags("run")) == 0
    assert is_finished(tmp_path / "run") and (tmp_path / "run" / "stages.pdf").is_file()
    assert not list((tmp_path / "run").rglob(".*.part"))


def test_a_finished_run_whose_model_is_gone_says_so(flags, tmp_path, capsys):
    assert call(p2_train, *flags("run")) == 0
    (tmp_path / "run/model.pt").unlink()
    capsys.readouterr()
    assert call(p2_train, *flags("run")) == 2
    said = capsys.readouterr()
    assert "the run is finished, but its model.pt is gone" in said.err and "model.pt" not in said.out


def test_first_middle_and_last_epoch_are_kept_or_those_asked_for(flags, tmp_path):
    assert call(p2_train, *flags("run", "--epochs", 4)) == 0
    kept = sorted(path.name for path in (tmp_path / "run" / "snapshots").glob("*.pt"))
    assert kept == ["epoch_0001.pt", "epoch_0002.pt", "epoch_0004.pt"]
    assert call(p2_train, *flags("other", "--snapshot-epochs", 3)) == 0
    assert [path.name for path in (tmp_path / "other" / "snapshots").glob("*.pt")] == ["epoch_0003.pt"]


def test_a_snapshot_lies_beside_the_masks_that_inference_makes_with_it(flags, data, tmp_path):
    assert call(p2_train, *flags("run", "--pictures", "0002", "0001", "7777")) == 0
    folder = tmp_path / "run" / "snapshots"
    for epoch in ("epoch_0001", "epoch_0003", "best"):
        weights = tmp_path / "run" / "model.pt" if epoch == "best" else folder / f"{epoch}.pt"
        call(p2_inference, "--images", data / "validation", "--output", tmp_path / epoch, "--device", "cpu",
             "--checkpoint", weights)  # fmt: skip
        pictured = sorted(path.name for path in (folder / epoch).iterdir())
        assert pictured == ["0001_mask.png", "0002_mask.png"]
        for name in pictured:
            assert (folder / epoch / name).read_bytes() == (tmp_path / epoch / name).read_bytes()
    for name in ("stages.png", "stages.pdf"):
        assert (tmp_path / "run" / name).stat().st_size > 5000


def test_without_the_named_tiles_the_first_three_are_pictured(flags, tmp_path):
    assert call(p2_train, *flags("run", "--pictures", "7777")) == 0
    pictured = sorted(path.name for path in (tmp_path / "run" / "snapshots" / "epoch_0001").iterdir())
    assert pictured == ["0000_mask.png", "0001_mask.png", "0002_mask.png"]


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        (("--alpha", 1, 2, 3), "--alpha wants 1 or 6 numbers"),
        (("--alpha", -1), "--alpha wants 1 or 6 numbers"),
        (("--gamma", -1), "none of them below 0"),
        (("--ema-decay", 1), "--ema-decay must be 0 at least and less than 1"),
    ],
)
def test_absurd_numbers_are_refused_before_anything_is_read(flags, flag, complaint, capsys):
    assert call(p2_train, *flags("run", *flag)) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "network", ["resnet34_fcn8s", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
)
def test_without_an_average_the_score_is_that_of_the_masks_that_inference_writes(
    flags, data, tmp_path, network
):
    here = flags("run", "--model", network, "--ema-decay", 0, "--epochs", 1, "--crop-size", 64, "--scale", 1)
    assert call(p2_train, *here) == 0
    call(p2_inference, "--images", data / "validation", "--output", tmp_path / "masks", "--device", "cpu",
         "--checkpoint", tmp_path / "run")  # fmt: skip
    pred, labels = (
        mean_iou_evaluate.read_masks(str(folder)) for folder in (tmp_path / "masks", data / "validation")
    )
    score = mean_iou_evaluate.mean_iou_score(pred, labels)
    assert scores_of(tmp_path / "run")[-1]["mean_iou"] == pytest.approx(score, abs=1e-6)


def test_every_tiles_confusion_is_kept_of_the_best_and_the_last_epoch(flags, data, tmp_path):
    assert call(p2_train, *flags("run", "--epochs", 4, "--lr", 0.02, "--eval-every", 3)) == 0
    with np.load(tmp_path / "run" / "confusions.npz", allow_pickle=False) as kept:
        assert kept["names"].tolist() == ["0000", "0001", "0002"]
        confusions = {name: kept[name] for name in ("best", "last")}
    scored = [line["mean_iou"] for line in scores_of(tmp_path / "run") if "mean_iou" in line]
    for name, score in (("best", max(scored)), ("last", scored[-1])):
        assert confusions[name].shape == (3, 7, 7) and confusions[name].dtype == np.int64
        assert (confusions[name].sum(axis=(1, 2)) == 96 * 96).all()
        assert p2_train.scores_of(torch.from_numpy(confusions[name]))["mean_iou"] == score
    for number, name in enumerate(("0000", "0001", "0002")):  # rows are the truth
        truth = read_mask(data / "validation" / f"{name}_mask.png")
        assert (confusions["last"][number].sum(axis=1) == np.bincount(truth.ravel(), minlength=7)).all()


def test_the_best_confusions_survive_a_stop(flags, tmp_path):
    ways = ("--epochs", 3, "--lr", 0.02)
    assert call(p2_train, *flags("unbroken", *ways)) == 0
    while not is_finished(tmp_path / "stopped"):
        assert call(p2_train, *flags("stopped", *ways, "--max-minutes", 0)) == 0  # one step each
    ours, theirs = (np.load(tmp_path / name / "confusions.npz") for name in ("stopped", "unbroken"))
    assert all(np.array_equal(ours[name], theirs[name]) for name in ("best", "last", "names"))


def test_rare_classes_can_be_drawn_more_often_among_three_times_the_tiles(flags, tmp_path):
    assert call(p2_train, *flags("run", "--augment", "flips", "--epochs", 1)) == 0
    assert scores_of(tmp_path / "run")[-1]["step"] == 12  # three times 8 tiles in batches of 2


def test_choices_can_be_made_on_held_out_training_tiles_alone(flags, data, tmp_path, capsys):
    shutil.rmtree(data / "validation")
    assert call(p2_train, *flags("run", "--holdout", 0.25)) == 0
    assert "on 2 held-out training tiles" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["arguments"]["training_tiles"] == 6
    pairs = load_pairs(data / "train", tmp_path / "cache")
    (trained, scored), other = pairs.split(0.25, 0), pairs.split(0.25, 5)[1]
    assert sorted(trained.names + scored.names) == pairs.names and other.names != scored.names
    assert np.array_equal(scored.tile(0), pairs.tile(pairs.names.index(scored.names[0])))
    assert call(p2_train, *flags("few", "--holdout", 0.9)) == 2 and "--holdout 0.9" in capsys.readouterr().err


def test_snapshots_that_were_never_due_leave_the_training_whole(flags, tmp_path, capsys):
    assert call(p2_train, *flags("run", "--epochs", 2, "--snapshot-epochs", 50)) == 0
    assert "best mIoU" in capsys.readouterr().out
    assert not list((tmp_path / "run" / "snapshots").glob("epoch*"))
    assert (tmp_path / "run" / "stages.png").is_file()  # of the best epoch alone


@pytest.mark.parametrize(
    "ways",
    [
        ("--gamma", 2, "--alpha", 1, 1, 2, 1, 1, 1, "--schedule", "poly", "--optimizer", "sgd", "--lr", 0.1),
        (
            "--augment",
            "flips",
            "--no-balanced",
            "--soft-iou",
            0,
            "--schedule",
            "constant",
            "--optimizer",
            "adam",
        ),
        ("--augment", "none", "--ema-decay", 0),
    ],
)
def test_every_way_of_training_learns(flags, tmp_path, ways):
    assert call(p2_train, *flags("run", "--epochs", 12, "--lr", 0.02, *ways)) == 0
    scores = scores_of(tmp_path / "run")
    assert scores[-1]["loss"] < 0.8 * scores[0]["loss"]


def test_killed_anywhere_and_started_again_it_ends_with_the_same_weights(flags, tmp_path):
    unbroken = train("p2_train.py", *flags("unbroken/run"))
    assert unbroken.returncode == 0, unbroken.stderr
    step = random.SystemRandom().randint(3, STEPS)  # any will do: a failure names it
    train_until_killed(step, "p2_train.py", *flags("killed/run"))
    shutil.copytree(tmp_path / "killed", tmp_path / "truncated")

    went_on = train("p2_train.py", *flags("killed/run"))
    assert went_on.returncode == 0 and "resuming from step" in went_on.stderr, (step, went_on.stderr)
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


def test_the_same_data_under_another_path_are_the_same_run(flags, data, tmp_path, monkeypatch, capsys):
    assert call(p2_train, *flags("run", "--max-minutes", 0)) == 0
    monkeypatch.chdir(tmp_path)
    for place in (f"{data}/", "p2_data", "./p2_data//"):
        assert call(p2_train, *flags("run", "--data", place, "--max-minutes", 0)) == 0, (
            capsys.readouterr().err
        )
    data.rename(tmp_path / "moved")
    assert call(p2_train, *flags("run", "--data", "moved")) == 0
    assert is_finished(tmp_path / "run")


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
        (("--model", "no_such_network"), "there are"),
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
