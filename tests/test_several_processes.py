"""Under torchrun several processes follow one with the same global batch: in loss, in weights, and in when to
stop.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.palette import COLOURS, mask_image
from tests.killing import scores_of

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS = 20


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(40):
        pixels = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32), Image.BILINEAR).save(folder / f"{number}.png")
    return folder


def pretrain(images: Path, run: Path, processes: int, *flags: object) -> subprocess.CompletedProcess:
    words = ["--images", images, "--output", run, "--cache", images.parent / "cache", "--device", "cpu"]
    words += [
        "--model",
        "tiny_classifier",
        "--image-size",
        32,
        "--batch-size",
        8,
        "--epochs",
        4,
        "--lr",
        0.02,
        *flags,
    ]
    return start("p1_ssl_pretrain.py", processes, *words)


def start(script: str, processes: int, *words: object) -> subprocess.CompletedProcess:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "tests.two_processes", script]
    return subprocess.run(
        [*command, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step_loss"] for line in lines if "embedding_std" in line]


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    done = pretrain(images, run, 1)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def together(images, tmp_path_factory):
    """A run of two processes, stopped after its first epoch and started again."""
    run = tmp_path_factory.mktemp("together") / "run"
    for flags in (("--max-minutes", 0), ()):
        done = pretrain(images, run, 2, *flags)
        assert done.returncode == 0, done.stderr
    assert "resuming from step 5 of 20" in (run / "log.txt").read_text()
    return run


def test_two_processes_have_the_losses_of_one(alone, together):
    ours, theirs = losses(alone), losses(together)
    assert len(ours) == STEPS and ours[-1] < ours[0]
    assert theirs == pytest.approx(ours, abs=1e-4)


def test_two_processes_end_with_the_weights_of_one(alone, together):
    ours, theirs = (torch.load(run / "backbone.pt", weights_only=True) for run in (alone, together))
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=1e-6)


def test_the_main_process_alone_speaks(together):
    log = (together / "log.txt").read_text()
    assert log.count("done: 20 steps") == 1 and "2 process(es)" in log


def test_a_batch_that_cannot_be_dealt_out_is_refused(images, tmp_path):
    done = pretrain(images, tmp_path / "run", 3)
    assert done.returncode != 0 and "a batch of 8 does not divide among 3 processes" in done.stderr


# -- fine-tuning ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fine_tunings(images, alone, tmp_path_factory):
    """Settings A and E, the whole network and a head on features, by one process and by two."""
    table = images.parent / "labels.csv"
    rows = [f"{number},{number}.png,{number % 3}" for number in range(40)]
    table.write_text("\n".join(["id,filename,label", *rows]))
    folders = []
    for processes in (1, 2):
        folders.append(tmp_path_factory.mktemp("fine_tuning") / "runs")
        words = ["--train-images", images, "--train-csv", table, "--output", folders[-1], "--device", "cpu"]
        words += [
            "--cache",
            images.parent / "cache",
            "--settings",
            "AE",
            "--ssl-backbone",
            alone / "backbone.pt",
        ]
        words += ["--model", "tiny_classifier", "--image-size", 32, "--batch-size", 8, "--epochs", 3]
        done = start("p1_finetune.py", processes, *words, "--lr", 0.05)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("model.pt") == 2 and (folders[-1] / "table.md").is_file()
    return folders


@pytest.mark.parametrize("run", ["A-seed0", "E-seed0"])
def test_two_processes_fine_tune_as_one_does(fine_tunings, run):
    ours, theirs = (scores_of(folder / run) for folder in fine_tunings)
    assert len(ours) == 3 and ours[-1]["loss"] < ours[0]["loss"]
    for line, other in zip(ours, theirs):
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-4)
        assert other["accuracy"] == line["accuracy"]
    ours, theirs = (
        torch.load(folder / run / "last.pt", weights_only=True)["network"] for folder in fine_tunings
    )
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=1e-6)


# -- segmentation --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Tiles whose every pixel is known: so many in each process's share as in the other's."""
    folder = tmp_path_factory.mktemp("tiles") / "p2_data"
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 3)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            classes = generator.integers(0, 6, (4, 4), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
            Image.fromarray(COLOURS[classes]).save(folder / split / f"{number:04d}_sat.png")
            mask_image(classes).save(folder / split / f"{number:04d}_mask.png")
    return folder


@pytest.fixture(scope="module")
def segmentations(tiles, tmp_path_factory):
    runs = []
    for processes in (1, 2):
        runs.append(tmp_path_factory.mktemp("segmentation") / "run")
        words = ["--data", tiles, "--output", runs[-1], "--cache", tiles.parent / "cache", "--device", "cpu"]
        words += [
            "--model",
            "tiny_segmenter",
            "--scale",
            1,
            "--crop-size",
            32,
            "--batch-size",
            4,
            "--epochs",
            10,
        ]
        done = start("p2_train.py", processes, *words, "--soft-iou", 0, "--lr", 0.05, "--no-balanced")
        assert done.returncode == 0, done.stderr
    return runs


def test_two_processes_segment_as_one_does(segmentations):
    ours, theirs = (scores_of(run) for run in segmentations)
    assert len(ours) == 10 and ours[-1]["loss"] < ours[0]["loss"]
    for line, other in zip(ours, theirs):
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-4)
        assert other["mean_iou"] == pytest.approx(line["mean_iou"], abs=1e-4)


def test_two_processes_end_with_the_segmenter_of_one(segmentations):
    ours, theirs = (torch.load(run / "last.pt", weights_only=True)["network"] for run in segmentations)
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=1e-6)
