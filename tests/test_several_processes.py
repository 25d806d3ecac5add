"""Under torchrun several processes follow one with the same global batch: in loss, in weights, and in when to stop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["--images", images, "--output", run, "--cache", images.parent / "cache", "--device", "cpu"]
    words += ["--model", "tiny_classifier", "--image-size", 32, "--batch-size", 8, "--epochs", 4, "--lr", 0.02, *flags]
    command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "tests.two_processes", "p1_ssl_pretrain.py"]
    return subprocess.run([*command, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True, timeout=300)


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
    assert "going on from step 5 of 20" in (run / "log.txt").read_text()
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
