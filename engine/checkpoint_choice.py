"""Which checkpoint a script answers with: the one named, else the variable's, else the published default.

Importing this imports no torch, which takes two seconds: `--help` and mistakes in a call don't wait for it.
"""

from __future__ import annotations

import json
import os
from typing import Any, Sequence

from engine import checkpoint, manifest
from engine.base import UserError, read_regular, say
from engine.checkpoint import KINDS, TTA_CHOICES
from engine.run_folder import MODEL

LARGEST_ENSEMBLE = 1 << 20  # bytes of an ensemble.json; a hundred members take 30,000
MOST_MEMBERS = 100
MOST_VOTES = 1000  # of one member
MEANS = ("logits", "probabilities")  # of what several answers are averaged
FIFTY = [str(label) for label in range(50)]  # the classes of the editions that are asked for a folder

# How to get one where there is none. Of problem 1's settings the course grades C.
TRAINING = {
    "p1": "python3 p1_ssl_pretrain.py --images hw1_data/p1_data/mini/train --output runs/ssl, then "
    "python3 p1_finetune.py --data hw1_data/p1_data/office --settings C --ssl-backbone runs/ssl/backbone.pt "
    "--output runs/p1",
    "p1_50": "python3 p1_finetune.py --train-images train_50 --val-images val_50 --output runs/p1",
    "p2": "python3 p2_train.py --data hw1_data/p2_data --weights imagenet --output runs/p2",
}
# What these write.
TRAINED = {"p1": f"runs/p1/C-seed0/{MODEL}", "p1_50": f"runs/p1/A-seed0/{MODEL}", "p2": f"runs/p2/{MODEL}"}


def read_models(problem: str, given: Sequence[str], with_states: bool = True) -> list[dict[str, Any]]:
    """The `model.pt` dicts of the checkpoints to use, several to be averaged; named in one line on stderr.

    `problem` is p1, p1_50 (the editions with 50 classes) or p2. Those `given`; else those of P1_CHECKPOINT,
    P1_50_CHECKPOINT or P2_CHECKPOINT, separated as in PATH; else the manifest's default, which is fetched
    where it is not the published file and has a URL. An ensemble.json stands for its members. Beside what its
    file says a model has its `votes`, and `mean_of`. Not `with_states`, several come without their weights,
    for which `with_state` reads each file when its turn comes.

    UserError when there is none, or one is broken or for the other problem; and where none was `given` also
    when one answers the other question of problem 1.
    """
    kind, variable = KINDS[problem], f"{problem.upper()}_CHECKPOINT"
    paths = list(given) or _paths_of_variable(problem)
    is_named, begin = False, "checkpoint "
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
    extra = [{"votes": 1, "mean_of": "probabilities"} for _ in paths]
    ensembles = [path for path in paths if str(path).endswith(".json")]
    if ensembles:
        if len(paths) > 1 or kind != "p1":
            rule = "an ensemble answers alone, and problem 1 alone"
            raise UserError(f"{ensembles[0]}: {rule}; give model.pt files")
        extra = read_ensemble(paths[0])
        begin += f"{paths[0]}, the mean of {extra[0]['mean_of']} of "
        paths = [member.pop("path") for member in extra]
    models = []
    for path, said in zip(paths, extra):
        if not os.path.isfile(path):
            advice = f"give --checkpoint or {variable} a model.pt, or leave both out"
            raise UserError(f"{path}: no such checkpoint; {advice}")
        model = {**checkpoint.read_model(path), **said, "path": path}
        if model["problem"] != kind:
            raise UserError(f"{path}: a checkpoint for {model['problem']}, not for {kind}; give another one")
        if not given:
            refuse_other_classes(problem, path, model["classes"])
        if not with_states and len(paths) > 1:
            model["state"] = None
        models.append(model)
    if not is_named:
        say(begin + "; ".join(_description(path, model) for path, model in zip(paths, models)))
    return models


def read_ensemble(path: str) -> list[dict[str, Any]]:
    """Each member of an ensemble.json (see report/ensemble.py): its `path`, `votes` and `tta`, and `mean_of`.
    UserError unless it says what report.ensemble says, and its members lie beside it as they were then."""
    advice = "make it again: python3 -m report.ensemble"
    try:
        said = json.loads(read_regular(path, LARGEST_ENSEMBLE).decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {advice}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not JSON; {advice}") from None
    said = said if isinstance(said, dict) else {}
    mean_of, members = said.get("mean_of"), said.get("members")
    if mean_of not in MEANS or not isinstance(members, list) or not 0 < len(members) <= MOST_MEMBERS:
        raise UserError(f"{path}: no ensemble, it lacks its members or what is averaged; {advice}")
    found = []
    for number, member in enumerate(members, start=1):
        member = member if isinstance(member, dict) else {}
        name, votes, tta = member.get("checkpoint"), member.get("votes"), member.get("tta")
        is_right = isinstance(name, str) and type(votes) is int and 0 < votes <= MOST_VOTES
        if not is_right or os.path.isabs(name) or tta not in TTA_CHOICES["p1"]:
            raise UserError(f"{path}: its member {number} is not said as report.ensemble says it; {advice}")
        file = os.path.normpath(os.path.join(os.path.dirname(os.path.realpath(path)), name))
        if not os.path.isfile(file):
            raise UserError(f"{path}: its member {file} is not there; put it there, or {advice}")
        if manifest.sha256_of(file) != member.get("sha256"):
            raise UserError(f"{path}: its member {file} is another file than then (sha256); {advice}")
        found.append({"path": file, "votes": votes, "tta": tta, "mean_of": mean_of})
    return found


def refuse_other_classes(problem: str, path: object, classes: Sequence[str]) -> None:
    """UserError where a model of the 50 classes is to answer a CSV, or one of any others a folder. How many
    classes a CSV's model knows is not asked: made-up data have ten, a student's own any number."""
    knows = f"{path}: knows {len(classes)} classes"
    if problem == "p1" and classes == FIFTY:
        raise UserError(f"{knows}, the 50 of 2020 to 2023, and answers no CSV; set P1_CHECKPOINT to another")
    if problem == "p1_50" and classes != FIFTY:
        advice = "set P1_50_CHECKPOINT to another, or name this one: p1_inference.py --checkpoint"
        raise UserError(f"{knows}, not the 50, 0 to 49, that a folder of images is asked for; {advice}")


def with_state(model: dict[str, Any]) -> dict[str, Any]:
    """The same `model.pt` with its weights, read now if they were left out."""
    return model if model["state"] is not None else checkpoint.read_model(model["path"])


def _paths_of_variable(problem: str) -> list[str]:
    """Those that the problem's variable names; the 50 classes take problem 1's when they have no own."""
    own = os.environ.get(f"{problem.upper()}_CHECKPOINT")
    listed = own or os.environ.get(f"{KINDS[problem].upper()}_CHECKPOINT", "")
    return [path for path in listed.split(os.pathsep) if path]


def _published(problem: str) -> dict[str, Any]:
    """The manifest's default for the problem. UserError, which says how to get one, when there is none."""
    entry = manifest.default_checkpoint(problem) or manifest.default_checkpoint(KINDS[problem])
    if entry is None:
        model = TRAINED[problem]
        publish = f"python3 -m engine.publish {model} --name NAME --problem {problem} --default"
        train = f"train one: {TRAINING[problem]}; then set {problem.upper()}_CHECKPOINT={model}"
        raise UserError(f"no checkpoint for {problem}; {train}, or publish it: {publish}")
    return entry


def _description(path: str, model: dict[str, Any]) -> str:
    figures = [(name, model["score"].get(name)) for name in ("accuracy", "mean_iou")]
    score = ", ".join(f"{name} {value:.4f}" for name, value in figures if isinstance(value, (int, float)))
    times = f"{model['votes']} x " if model.get("votes", 1) > 1 else ""
    return f"{times}{path}: {model['network']}, {score or 'no score known'}"
