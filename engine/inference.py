"""What scripts that use trained networks do before these run: find the packages and the checkpoints.

Importing this imports no torch, which takes two seconds: `--help` and mistakes in a call don't wait for it.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, Sequence

from engine import manifest
from engine.cli import say
from engine.cores import available_cores
from engine.errors import RunError

PACKAGES = ("numpy", "PIL", "torch", "torchvision")
TRAINING = {
    "p1": "python3 p1_finetune.py --data hw1_data/p1_data/office --settings A --output runs/p1",
    "p2": "python3 p2_train.py --data hw1_data/p2_data --weights imagenet --output runs/p2",
}
TRAINED = {"p1": "runs/p1/A-seed0/model.pt", "p2": "runs/p2/model.pt"}  # what these write


def require_packages() -> None:
    """Import the packages that inference needs; leave with one line and status 2 where one is missing or broken."""
    try:
        for package in PACKAGES:
            importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        say(f"error: {sys.executable} lacks a package ({error}); install what is needed: {install_command()}")
        sys.exit(RunError.exit_status)


def install_command() -> str:
    if sys.version_info < (3, 9):  # requirements.txt knows no versions for them
        return "python3 -m pip install torch torchvision numpy pillow"
    return f"python3 -m pip install -r '{Path(__file__).resolve().parent.parent / 'requirements.txt'}'"


def read_models(problem: str, given: Sequence[str]) -> list[dict[str, Any]]:
    """The `model.pt` dicts of the checkpoints to use, several to be averaged; named in one line on stderr.

    Those `given`; else those of P1_CHECKPOINT or P2_CHECKPOINT, separated by ':'; else the manifest's default, which
    is fetched when it is missing and has a URL. RunError when there is none, or one is broken or for the other problem.
    """
    from engine import checkpoint  # imports torch

    variable = f"{problem.upper()}_CHECKPOINT"
    paths = list(given) or [path for path in os.environ.get(variable, "").split(":") if path]
    is_named = False
    if not paths:
        entry = manifest.default_checkpoint(problem)
        if entry is None:
            raise RunError(
                f"no checkpoint for {problem}; train one: {TRAINING[problem]}; then set {variable}="
                f"{TRAINED[problem]}, or publish it: python3 -m engine.publish {TRAINED[problem]} --name NAME "
                f"--problem {problem} --default"
            )
        paths = [str(manifest.entry_path(entry))]
        if not os.path.isfile(paths[0]):
            is_named = bool(entry["urls"])
            if is_named:  # before the download speaks
                say("checkpoint " + _description(paths[0], entry))
            from engine.download import fetch

            fetch(entry)
    paths = [os.path.join(path, "model.pt") if os.path.isdir(path) else path for path in paths]
    models = []
    for path in paths:
        if not os.path.isfile(path):
            raise RunError(f"{path}: no such checkpoint; give --checkpoint or {variable} a model.pt, or leave both out")
        models.append(checkpoint.read_model(path))
        if models[-1]["problem"] != problem:
            raise RunError(f"{path}: a checkpoint for {models[-1]['problem']}, not for {problem}; give another one")
        size = "image_size" if problem == "p1" else "scale"
        if not isinstance(models[-1].get(size), (int, float)):
            raise RunError(f"{path}: broken model.pt, '{size}' is no number; train or download it again")
    if not is_named:
        say("checkpoint " + "; ".join(_description(path, model) for path, model in zip(paths, models)))
    return models


def _description(path: str, model: dict[str, Any]) -> str:
    figures = [(name, model["score"].get(name)) for name in ("accuracy", "mean_iou")]
    score = ", ".join(f"{name} {value:.4f}" for name, value in figures if isinstance(value, (int, float)))
    return f"{path}: {model['network']}, {score or 'no score known'}"


def default_workers() -> int:
    """Threads that read: as many as this process has processors, 8 at most."""
    return min(8, available_cores())
