"""Every segmentation network there is, trained by p2_train.py and asked by hw1_2.sh: make test-networks."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.palette import COLOURS, mask_image
from engine import checkpoint
from models.builders import SEGMENTERS
from tests.grader import REPOSITORY, wrapper
from tests.killing import scores_of

SIDE = 64  # pixels of a tile: with the coarsest stride, 32, still a map of 2x2
CLASSES = (
    1,
    4,
)  # agriculture and water, yellow and blue: even a VGG without batch norm finds them in few steps
# A fixed rate, and nothing random but the order of the tiles and dropout: whatever falls, falls by learning.
RECIPE = (
    *("--weights", "none", "--batch-size", 4, "--scale", 1),
    *("--augment", "none", "--no-balanced", "--soft-iou", 0, "--ema-decay", 0),
    # Adam adds its decay to the gradient, and what starts at random has small ones.
    *("--optimizer", "adam", "--schedule", "constant", "--weight-decay", 0),
)
EPOCHS_AND_RATE = {  # others than the usual
    "lite_fpn": (3, 2e-3),  # its own recipe's
    "fcn32s_staged": (4, 5e-4),  # five stages that start at random
    "fcn32s_conv2x2": (4, 5e-4),  # its upsampler does
    "fcn32s_deconv": (4, 1e-3),
    "fcn8s": (4, 1e-3),
    "fcn32s_bilinear": (6, 2e-4),  # dropout on the scores themselves makes its loss a restless one
    "deeplabv3_resnet101": (4, 2e-4),  # deep, and of two losses
}
USUAL = (3, 2e-4)
FALLEN = 0.8  # of the first epoch's loss, at most, is left in the last
PATIENCE = 900  # seconds for any one process, on a busy machine


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The course's tree, of tiles whose halves are of two classes; one validation tile is no square."""
    folder = tmp_path_factory.mktemp("data") / "p2_data"
    generator = np.random.default_rng(0)
    for split, sizes in (
        ("train", 32 * [(SIDE, SIDE)]),
        ("validation", [(SIDE, SIDE), (SIDE, SIDE), (50, 75)]),
    ):
        (folder / split).mkdir(parents=True)
        for number, (height, width) in enumerate(sizes):
            first, second = generator.permutation(np.array(CLASSES, dtype=np.uint8))
            classes = np.full((height, width), first)
            classes[height // 2 :, :] = second
            if number % 2:
                classes = np.broadcast_to(
                    np.where(np.arange(width) < width // 2, first, second), (height, width)
                )
            pixels = COLOURS[classes] * 0.6 + generator.integers(0, 90, (height, width, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / split / f"{number:04d}_sat.jpg")
            mask_image(classes).save(folder / split / f"{number:04d}_mask.png")
    return folder


def train(command: Sequence[object], log: Path, stop_after: Path | None = None) -> tuple[int, str]:
    """p2_train.py's exit status and all that it said; with Ctrl-C as soon as `stop_after` has a line."""
    with open(log, "w") as output:
        process = subprocess.Popen(
            [sys.executable, "p2_train.py", *map(str, command)],
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            if stop_after is not None:
                deadline = time.monotonic() + PATIENCE
                while process.poll() is None and time.monotonic() < deadline:
                    if stop_after.is_file() and stop_after.stat().st_size:
                        process.send_signal(signal.SIGINT)
                        break
                    time.sleep(0.02)
            status = process.wait(PATIENCE)
        finally:
            process.kill()
    return status, log.read_text()


def weights_that_never_moved(run: Path, epochs: int) -> list[str]:
    """Names of parameters that the last epoch's snapshot has as the first's had them."""
    first, last = (
        checkpoint.read_model(run / "snapshots" / f"epoch_{n:04d}.pt")["state"] for n in (1, epochs)
    )
    return [name for name in last if torch.equal(first[name], last[name])]


# What a passed test wrote is removed after it (pyproject.toml), so the disk holds one network's checkpoints
# at a time.
@pytest.mark.parametrize("network", SEGMENTERS)
def test_it_learns_goes_on_after_ctrl_c_and_answers_through_the_wrapper(network, data, tmp_path, capsys):
    start = time.monotonic()
    run, masks = tmp_path / "run", tmp_path / "masks"
    epochs, rate = EPOCHS_AND_RATE.get(network, USUAL)
    command = ("--data", data, "--cache", data.parent / "cache", "--device", "cpu")
    command = (*command, "--model", network, "--output", run, *RECIPE, "--epochs", epochs, "--lr", rate)

    status, said = train(command, tmp_path / "stopped.log", stop_after=run / "metrics.jsonl")
    assert status == 128 + signal.SIGINT, said
    step, steps = map(int, re.search(r"stopped at step (\d+) of (\d+)", said).groups())
    assert 0 < step < steps
    status, said = train(command, tmp_path / "finished.log")
    assert status == 0, said
    assert f"resuming from step {step} of {steps}" in said and f"done: {steps} steps" in said

    scores = scores_of(run)
    assert [line["epoch"] for line in scores] == list(range(1, epochs + 1))
    losses = [line["loss"] for line in scores]
    with capsys.disabled():
        print(f"\n{network}: losses {losses}, trained after {time.monotonic() - start:.0f} s", flush=True)
    assert losses[-1] < FALLEN * losses[0]
    assert not weights_that_never_moved(run, epochs)

    done = wrapper(REPOSITORY / "hw1_2.sh", data / "validation", masks, P2_CHECKPOINT=run / "model.pt")
    assert done.returncode == 0, done.stdout
    assert network in done.stdout  # it names the network that answers
    tiles = sorted((data / "validation").glob("*_sat.jpg"))
    assert sorted(path.name for path in masks.iterdir()) == [f"{tile.name[:4]}_mask.png" for tile in tiles]
    for tile in tiles:
        with Image.open(tile) as image, Image.open(masks / f"{tile.name[:4]}_mask.png") as mask:
            assert (mask.mode, mask.size) == ("RGB", image.size)
            colours = {colour for _, colour in mask.getcolors()}
        assert colours <= set(map(tuple, COLOURS.tolist()))
