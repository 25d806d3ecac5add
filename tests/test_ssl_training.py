"""Pre-training without labels: it learns, resumes to the last bit, and leaves a backbone that fine-tuning
takes.
"""

from __future__ import annotations

import csv
import json
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import p1_ssl_pretrain
from engine import loop
from engine.base import run_script
from models import builders
from models.backbone import load_backbone
from models.builders import build_network
from tests.killing import TinyClassifier, assert_same_end, scores_of, train, train_until_killed

QUICK = ("--model", "tiny_classifier", "--image-size", 32, "--batch-size", 8, "--epochs", 3)
STEPS = 9  # of three epochs of 24 images
COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(builders.CLASSIFIERS, "tiny_classifier", builders.Network(TinyClassifier))


@pytest.fixture
def images(tmp_path):
    """24 striped squares of three colours in a folder, and a CSV of their labels beside it."""
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    rows = [("id", "filename", "label")]
    for number in range(24):
        pixels = generator.normal(COLOURS[number % 3], 40, (40, 40, 3)).clip(0, 255).astype(np.uint8)
        pixels[:: 2 + number % 5] //= 2
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append((number, f"{number}.png", number % 3))
    with open(tmp_path / "images.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture
def where(images, tmp_path):
    def where(output):
        return (
            "--images",
            images,
            "--output",
            tmp_path / output,
            "--cache",
            tmp_path / "cache",
            "--device",
            "cpu",
        )

    return where


@pytest.fixture
def pretrain(where):
    """Run p1_ssl_pretrain.py's main in this process, into tmp_path/run unless said otherwise: the exit
    status.
    """

    def pretrain(*flags, output="run"):
        args = p1_ssl_pretrain.parse_arguments([str(word) for word in (*where(output), *QUICK, *flags)])
        with pytest.raises(SystemExit) as end:
            run_script(lambda: p1_ssl_pretrain.main(args))
        return end.value.code

    return pretrain


def test_the_loss_falls(pretrain, tmp_path):
    assert pretrain("--epochs", 10, "--lr", 1e-3) == 0
    losses = [line["loss"] for line in scores_of(tmp_path / "run") if "loss" in line]
    assert len(losses) == 10 and losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("recipe", ["report001", "report004"])
def test_the_reports_recipes_run(pretrain, tmp_path, recipe):
    assert pretrain("--recipe", recipe, "--epochs", 1) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["arguments"]["views"] == "stock" and config["arguments"]["lr"] == 1e-4
    assert "zero-initialised residuals" in config["recipe"]["assumed"]


# Their views are drawn from our numbers, from torch.
@pytest.mark.parametrize("recipe", ["default", "report001"])
def test_killed_anywhere_and_started_again_it_ends_with_the_same_weights(where, tmp_path, recipe):
    # In a process too, where the scaler of half precision starts too high (tests/killing.py).
    unbroken = train("p1_ssl_pretrain.py", *where("unbroken"), *QUICK, "--recipe", recipe)
    assert unbroken.returncode == 0, unbroken.stderr
    flags = (*where("killed"), *QUICK, "--recipe", recipe)
    step = random.SystemRandom().randint(3, STEPS)  # any will do
    print("killed at step", step)
    train_until_killed(step, "p1_ssl_pretrain.py", *flags)
    again = train("p1_ssl_pretrain.py", *flags)
    assert again.returncode == 0, f"killed at step {step}: {again.stderr}"
    assert f"resuming from step {step - 1} of {STEPS}" in again.stderr
    assert_same_end(tmp_path / "unbroken", tmp_path / "killed", ("last.pt", "backbone.pt"))


def test_stopped_by_its_minutes_it_goes_on_to_the_same_end(pretrain, tmp_path):
    assert pretrain(output="unbroken") == 0
    while (
        not (tmp_path / "run" / "backbone.pt").is_file()
        or sum("loss" in line for line in scores_of(tmp_path / "run")) < 3
    ):
        assert pretrain("--max-minutes", 0) == 0  # one step each
    assert_same_end(tmp_path / "unbroken", tmp_path / "run", ("last.pt", "backbone.pt"))


def test_a_finished_run_whose_backbone_is_gone_says_so(pretrain, tmp_path, capsys):
    assert pretrain() == 0
    (tmp_path / "run/backbone.pt").unlink()
    capsys.readouterr()
    assert pretrain() == 2
    said = capsys.readouterr()
    assert "the run is finished, but its backbone.pt is gone" in said.err and "backbone.pt" not in said.out


def test_fine_tuning_takes_the_backbone_it_leaves(pretrain, tmp_path, capsys):
    assert pretrain() == 0
    path = tmp_path / "run" / "backbone.pt"
    network = build_network("tiny_classifier", num_classes=3)
    load_backbone(network, path)
    state = torch.load(path, weights_only=True)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    assert str(path) in capsys.readouterr().out


def test_labelled_images_say_how_good_the_features_are(pretrain, images, tmp_path, capsys):
    assert pretrain("--probe-csv", f"{images}.csv", "--probe-every", 2, "--epochs", 4) == 0
    lines = [line for line in scores_of(tmp_path / "run") if "knn_accuracy" in line]
    assert [line["epoch"] for line in lines] == [1, 2, 4]
    assert lines[-1]["knn_accuracy"] > 0.5  # of three colours
    assert "collapsed" not in capsys.readouterr().err


def test_the_log_has_loss_spread_decay_and_speed(pretrain, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    assert pretrain() == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "embedding_std" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 9]
    assert lines[0]["target_decay"] < lines[-1]["target_decay"] < 1
    assert all({"step_loss", "learning_rate", "images_per_second"} <= line.keys() for line in lines)


def test_a_collapse_is_said_in_plain_words(pretrain, monkeypatch, capsys):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    monkeypatch.setattr("models.byol.embedding_std", lambda projections: torch.tensor(0.01))
    assert pretrain("--epochs", 1) == 0
    assert "the network has collapsed" in capsys.readouterr().err


def test_a_dry_run_takes_a_step_and_writes_nothing(pretrain, tmp_path, capsys):
    assert pretrain("--dry-run") == 0
    assert not (tmp_path / "run").exists()
    assert "all is well" in capsys.readouterr().out


def test_a_broken_image_is_named_and_left_out(pretrain, images, capsys):
    (images / "7.png").write_bytes(b"no image")
    assert pretrain("--epochs", 1) == 1
    assert "7.png" in capsys.readouterr().err


def test_weights_of_a_file_are_where_it_starts(pretrain, tmp_path, capsys):
    assert pretrain(output="first") == 0
    shutil.copy(tmp_path / "first" / "backbone.pt", tmp_path / "start.pt")
    assert pretrain("--weights", tmp_path / "start.pt", "--lr", 0, "--epochs", 1) == 0
    ours, theirs = (
        torch.load(path, weights_only=True) for path in (tmp_path / "run/backbone.pt", tmp_path / "start.pt")
    )
    weights = [key for key in theirs if "running" not in key and "tracked" not in key]
    assert all(torch.equal(ours[key], theirs[key]) for key in weights)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--target-decay", 1), "--target-decay"),
        (("--batch-size", 1), "--batch-size"),
        (("--probe-csv", "labels.txt"), "--probe-csv must end"),
        (("--epochs", 0), "--epochs"),
    ],
)
def test_absurd_arguments_end_with_usage(pretrain, flags, message, capsys):
    with pytest.raises(SystemExit) as end:
        p1_ssl_pretrain.parse_arguments(["--images", "a", "--output", "b", *map(str, flags)])
    assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [("--images", "nowhere"), ("--probe-csv", "nowhere.csv"), ("--model", "resnet7")]
)
def test_what_is_not_there_is_named_in_one_line(pretrain, tmp_path, flags, capsys):
    assert pretrain(*flags) == 2
    assert flags[1] in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
