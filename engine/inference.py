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
from engine.base import UserError, available_cores, say

KINDS = {"p1": "p1", "p1_50": "p1", "p2": "p2"}  # what the model.pt for each problem says it was trained for
VIEWS = {"p1": ("none", "flip"), "p2": ("none", "flip", "d4")}  # of test-time augmentation, by problem
PACKAGES = ("numpy", "PIL", "torch", "torchvision")
TRAINING = {
    "p1_50": "python3 p1_finetune.py --train-images train_50 --val-images val_50 --output runs/p1",
    "p1": "python3 p1_finetune.py --data hw1_data/p1_data/office --settings A --output runs/p1",
    "p2": "python3 p2_train.py --data hw1_data/p2_data --weights imagenet --output runs/p2",
}
TRAINED = {"p1": "runs/p1/A-seed0/model.pt", "p2": "runs/p2/model.pt"}  # what these write


def require_packages() -> None:
    """Import the packages that inference needs; leave with one line and status 2 where one is missing or
    broken.
    """
    try:
        for package in PACKAGES:
            importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        say(f"error: {sys.executable} lacks a package ({error}); install what is needed: {install_command()}")
        sys.exit(UserError.exit_status)


def install_command() -> str:
    if sys.version_info < (3, 9):  # requirements.txt knows no versions for them
        return "python3 -m pip install torch torchvision numpy pillow"
    return f"python3 -m pip install -r '{Path(__file__).resolve().parent.parent / 'requirements.txt'}'"


def read_models(problem: str, given: Sequence[str], with_states: bool = True) -> list[dict[str, Any]]:
    """The `model.pt` dicts of the checkpoints to use, several to be averaged; named in one line on stderr.

    `problem` is p1, p1_50 (the editions with 50 classes) or p2. Those `given`; else those of P1_CHECKPOINT,
    or P1_50_CHECKPOINT or P2_CHECKPOINT, separated by ':'; else the manifest's default, which is fetched when
    it is not there and has a URL. UserError when there is none, or one is broken or for the other problem.

    Not `with_states`, several come without their weights, for which `with_state` reads each file when its
    turn comes.
    """
    from engine import checkpoint  # imports torch

    kind = KINDS[problem]
    variable = f"{kind.upper()}_CHECKPOINT"
    listed = os.environ.get(f"{problem.upper()}_CHECKPOINT") or os.environ.get(variable, "")
    paths = list(given) or [path for path in listed.split(":") if path]
    is_named = False
    if not paths:
        entry = manifest.default_checkpoint(problem) or manifest.default_checkpoint(kind)
        if entry is None:
            raise UserError(
                f"no checkpoint for {problem}; train one: {TRAINING[problem]}; then set {variable}="
                f"{TRAINED[kind]}, or publish it: python3 -m engine.publish {TRAINED[kind]} --name NAME "
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
            raise UserError(
                f"{path}: no such checkpoint; give --checkpoint or {variable} a model.pt, or leave both out"
            )
        model = {**checkpoint.read_model(path), "path": path}
        if model["problem"] != kind:
            raise UserError(f"{path}: a checkpoint for {model['problem']}, not for {kind}; give another one")
        if not with_states and len(paths) > 1:
            model["state"] = None
        models.append(model)
    if not is_named:
        say("checkpoint " + "; ".join(_description(path, model) for path, model in zip(paths, models)))
    return models


def with_state(model: dict[str, Any]) -> dict[str, Any]:
    """The same `model.pt` with its weights, read now if they were left out."""
    from engine import checkpoint  # imports torch

    return model if model["state"] is not None else checkpoint.read_model(model["path"])


def _description(path: str, model: dict[str, Any]) -> str:
    figures = [(name, model["score"].get(name)) for name in ("accuracy", "mean_iou")]
    score = ", ".join(f"{name} {value:.4f}" for name, value in figures if isinstance(value, (int, float)))
    return f"{path}: {model['network']}, {score or 'no score known'}"


def default_workers() -> int:
    """Threads that read: as many as this process has processors, 8 at most."""
    return min(8, available_cores())
