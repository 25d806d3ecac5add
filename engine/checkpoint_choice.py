"""Which checkpoint a script answers with: the one named, else the variable's, else the published default.

Importing this imports no torch, which takes two seconds: `--help` and mistakes in a call don't wait for it.
"""

from __future__ import annotations

import os
from typing import Any, Sequence

from engine import checkpoint, manifest
from engine.base import UserError, say
from engine.checkpoint import KINDS
from engine.run_folder import MODEL

# How to get one where there is none. Of problem 1's settings the course grades C.
TRAINING = {
    "p1": "python3 p1_ssl_pretrain.py --images hw1_data/p1_data/mini/train --output runs/ssl, then "
    "python3 p1_finetune.py --data hw1_data/p1_data/office --settings C --ssl-backbone runs/ssl/backbone.pt "
    "--output runs/p1",
    "p1_50": "python3 p1_finetune.py --train-images train_50 --val-images val_50 --output runs/p1",
    "p2": "python3 p2_train.py --data hw1_data/p2_data --weights imagenet --output runs/p2",
}
TRAINED = {  # what these write
    "p1": f"runs/p1/C-seed0/{MODEL}",
    "p1_50": f"runs/p1/A-seed0/{MODEL}",
    "p2": f"runs/p2/{MODEL}",
}


def read_models(problem: str, given: Sequence[str], with_states: bool = True) -> list[dict[str, Any]]:
    """The `model.pt` dicts of the checkpoints to use, several to be averaged; named in one line on stderr.

    `problem` is p1, p1_50 (the editions with 50 classes) or p2. Those `given`; else those of P1_CHECKPOINT,
    or P1_50_CHECKPOINT or P2_CHECKPOINT, separated as in PATH (os.pathsep); else the manifest's default,
    which is fetched when it is not there or not the published file (size, sha256) and has a URL. UserError
    when there is none, or one is broken or for the other problem.

    Not `with_states`, several come without their weights, for which `with_state` reads each file when its
    turn comes.
    """
    kind, variable = KINDS[problem], f"{problem.upper()}_CHECKPOINT"
    paths = list(given) or _paths_of_variable(problem)
    is_named = False
    if not paths:
        entry = _published(problem)
        paths = [str(manifest.entry_path(entry))]
        if not manifest.is_intact(entry):
            is_named = bool(entry["urls"])
            if is_named:  # before the download speaks
                say("checkpoint " + _description(paths[0], entry))
            from engine.download import fetch  # a grader's machine needs nothing of it

            fetch(entry)
    paths = [os.path.join(path, MODEL) if os.path.isdir(path) else path for path in paths]
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
    return model if model["state"] is not None else checkpoint.read_model(model["path"])


def _paths_of_variable(problem: str) -> list[str]:
    """Those that P1_50_CHECKPOINT, P1_CHECKPOINT or P2_CHECKPOINT names; none when it is not set.

    The 50 classes take problem 1's when they have none of their own.
    """
    own = os.environ.get(f"{problem.upper()}_CHECKPOINT")
    listed = own or os.environ.get(f"{KINDS[problem].upper()}_CHECKPOINT", "")
    return [path for path in listed.split(os.pathsep) if path]


def _published(problem: str) -> dict[str, Any]:
    """The manifest's default for the problem. UserError, which says how to get one, when there is none."""
    entry = manifest.default_checkpoint(problem) or manifest.default_checkpoint(KINDS[problem])
    if entry is None:
        model = TRAINED[problem]
        raise UserError(
            f"no checkpoint for {problem}; train one: {TRAINING[problem]}; then set "
            f"{problem.upper()}_CHECKPOINT={model}, or publish it: python3 -m engine.publish {model} "
            f"--name NAME --problem {problem} --default"
        )
    return entry


def _description(path: str, model: dict[str, Any]) -> str:
    figures = [(name, model["score"].get(name)) for name in ("accuracy", "mean_iou")]
    score = ", ".join(f"{name} {value:.4f}" for name, value in figures if isinstance(value, (int, float)))
    return f"{path}: {model['network']}, {score or 'no score known'}"
