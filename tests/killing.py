"""Train in a process of its own, and end that by SIGKILL at a chosen step, as a power cut would.

    python3 -m tests.killing STEP p1_finetune.py --data ... --model tiny_classifier

runs the script with two small networks in models/ (tiny_classifier, tiny_segmenter), saves a checkpoint after
every step, and dies when step STEP (counted from 1; 0 is never) is computed but not yet recorded.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from engine import loop
from models import builders

SPEEDS = ("time", "seconds", "images_per_second")  # what differs between two equal runs

# Of a gradient scaler in fp16: its scale is too high at first, and again after every second step.
OVERFLOWING = {"init_scale": 2.0**20, "growth_interval": 2}

REPOSITORY = Path(__file__).resolve().parent.parent


class TinyClassifier(nn.Module):
    """(B, 3, S, S) → (B, classes). Dropout draws from torch's generator, which a resumed run must restore."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(
            nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2)
        )
        self.fc = nn.Linear(16, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(images)).mean(dim=(2, 3)))


class TinySegmenter(nn.Module):
    """(B, 3, H, W) → {"out": (B, classes, H, W)}."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(8, num_classes, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.backbone(images))}


def train(script: str, *arguments: object, kill_at: int = 0) -> subprocess.CompletedProcess:
    """Run the script to its end, or to its death at step `kill_at`."""
    command = [sys.executable, "-m", "tests.killing", str(kill_at), script, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)


def train_until_killed(step: int, script: str, *arguments: object) -> None:
    done = train(script, *arguments, kill_at=step)
    assert done.returncode == -signal.SIGKILL, f"should have been killed at step {step}: {done.stderr}"


def assert_same_end(run: Path, other: Path, checkpoints: tuple[str, ...] = ("last.pt", "model.pt")) -> None:
    """The two run folders ended alike: every tensor of every checkpoint bit for bit, and every score."""
    for name in checkpoints:
        ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (run, other))
        assert_equal(ours, theirs, name)
    ours, theirs = (lines_of(folder) for folder in (run, other))
    assert ours == theirs


def lines_of(run: Path) -> list[dict]:
    """Every line of metrics.jsonl, but for how long things took."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in SPEEDS} for line in lines]


def scores_of(run: Path) -> list[dict]:
    """The lines at the ends of epochs, with their mean loss and scores."""
    return [line for line in lines_of(run) if "loss" in line]


def assert_equal(ours: object, theirs: object, where: str) -> None:
    if isinstance(ours, Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for name in ours:
            if name != "seconds":  # how long it took
                assert_equal(ours[name], theirs[name], f"{where}, {name}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, (one, another) in enumerate(zip(ours, theirs)):
            assert_equal(one, another, f"{where}, {index}")
    else:
        assert ours == theirs, where


def add_tiny_networks() -> None:
    """The scripts know the two small networks, save after every step, and in fp16 many steps overflow."""
    builders.CLASSIFIERS["tiny_classifier"] = builders.Network(
        builders.with_stem(TinyClassifier), arguments=builders.STEM_3X3
    )
    builders.SEGMENTERS["tiny_segmenter"] = builders.Network(TinySegmenter)
    loop.CHECKPOINT_SECONDS = 0
    torch.amp.GradScaler = partial(torch.amp.GradScaler, **OVERFLOWING)


def run_script_with_tiny_networks(kill_at: int, script: str) -> None:
    add_tiny_networks()
    step = loop.Loop.step

    def die_or_go_on(self: loop.Loop, *arguments: object, **values: object) -> dict:
        if self.steps_done + 1 == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments, **values)

    loop.Loop.step = die_or_go_on
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    STEP = int(sys.argv.pop(0))
    run_script_with_tiny_networks(STEP, sys.argv[0])
