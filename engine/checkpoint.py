"""Checkpoints: dicts of tensors and plain values, written whole, loaded without running anybody's code.

Importing this imports no torch, which takes two seconds: what the commands ask of their arguments is known
before it.
"""

from __future__ import annotations

import errno
import math
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from engine.base import UserError, damage_of_zip, write_atomically

KINDS = {"p1": "p1", "p1_50": "p1", "p2": "p2"}  # what the model.pt for each problem says it was trained for
TTA_CHOICES = {"p1": ("none", "flip"), "p2": ("none", "flip", "d4")}  # of --tta, by that kind
MODEL_FORMAT = 1
_MODEL_KEYS = {
    str: ("problem", "network", "edition", "source"),
    dict: ("arguments", "state", "score"),
    list: ("classes", "mean", "std"),
}


def dump(path: str | Path, values: dict[str, Any]) -> None:
    """torch.save into an open file: given a path, it writes the name too, and no two files would be equal.

    OSError where the disk is full, which torch calls by other names.
    """
    import torch

    try:
        with open(path, "wb") as file:
            torch.save(values, file)
    except RuntimeError as error:
        of_the_disk = ("PytorchStreamWriter", "unexpected pos", "iostream error")
        if not any(words in str(error) for words in of_the_disk):
            raise
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}; torch: {error}") from None


def save(path: str | Path, values: dict[str, Any]) -> None:
    """Write `values` with torch.save; the file is whole or the old one stays. UserError on a full disk."""
    try:
        with write_atomically(path) as temporary:
            dump(temporary, values)
    except OSError as error:
        advice = "make room, then give the same command again"
        raise UserError(f"{path}: cannot be written ({error}); {advice}") from None


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with weights_only=True. UserError when it is missing, broken (by one
    bit) or no dict."""
    import torch

    if not Path(path).is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        damage = damage_of_zip(path)
        if damage:
            raise UserError(f"{path}: not a readable checkpoint ({damage})")
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        said = str(error)[:100] or type(error).__name__
        raise UserError(f"{path}: not a readable checkpoint ({said})") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, MemoryError, OverflowError):
        said = "not a checkpoint, or one that wants to run code; it is not loaded"
        raise UserError(f"{path}: {said}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}, not the dict of a checkpoint")
    return values


def read_last(path: str | Path, total_steps: int | None) -> dict[str, Any]:
    """Read a last.pt or previous.pt of a run that has `total_steps` (None: not known yet). UserError when it
    is broken, or a value is of another kind than a training saves."""
    import torch

    state = read(path)
    step, total, loss_sum = state.get("step"), state.get("total_steps"), state.get("loss_sum")
    best, random = state.get("best"), state.get("random")
    optimizer, scaler = state.get("optimizer"), state.get("scaler", {})
    is_total = total is None or (_is_count(total) and total > 0 and total_steps in (None, total))
    rules = {
        "total_steps": is_total,
        "step": _is_count(step) and (not is_total or total is None or step <= total),
        "best": best == -math.inf or _is_number(best),
        "seconds": _is_number(state.get("seconds")) and state["seconds"] >= 0,
        "loss_sum": isinstance(loss_sum, torch.Tensor) and loss_sum.ndim == 0 and bool(loss_sum.isfinite()),
        "loss_count": _is_count(state.get("loss_count")),
        "network": _is_state(state.get("network")),
        "average": state.get("average") is None or _is_state(state["average"]),
        "optimizer": isinstance(optimizer, dict) and isinstance(optimizer.get("state"), dict),
        "random": isinstance(random, dict) and isinstance(random.get("torch"), torch.Tensor),
        "scaler": isinstance(scaler, dict)
        and all(_is_number(number) and number >= 0 for number in scaler.values()),
        "skipped": _is_count(state.get("skipped", 0)),
    }
    _require(rules, state, f"{path}: its")
    return state


def read_model(path: str | Path) -> dict[str, Any]:
    """Read a `model.pt` and check that it describes itself (see checkpoints/README.md, "What a file is"):
    inference relies on it without a look."""
    model = read(path)
    if model.get("format") != MODEL_FORMAT:
        what = f"not a model.pt of this repository (format {MODEL_FORMAT})"
        raise UserError(f"{path}: {what}; give RUN/model.pt")
    advice = "; train or download it again"
    kinds = {key: isinstance(model.get(key), kind) for kind, keys in _MODEL_KEYS.items() for key in keys}
    _require(kinds, model, f"{path}: broken model.pt,", advice)
    classes, scale, size = model["classes"], model.get("scale"), model.get("image_size")
    is_named = all(isinstance(name, str) and _can_be_written(name) for name in classes)
    are_digits = is_named and all(re.fullmatch("[0-9]{1,9}", name) for name in classes)
    rules = {
        "problem": model["problem"] in TTA_CHOICES,
        "state": _is_state(model["state"]),
        "classes": is_named and model["arguments"].get("num_classes", len(classes)) == len(classes),
        "score": all(isinstance(name, str) for name in model["score"])
        and not any(type(value) is int and abs(value) > 2**53 for value in model["score"].values()),
        "integer_labels": not model.get("integer_labels") or are_digits,
        "mean": _are_three(model["mean"], -math.inf),
        "std": _are_three(model["std"], 0),
        "tta": model.get("tta", "none") in TTA_CHOICES.get(model["problem"], ()),
        "padded": type(model.get("padded", False)) is bool,
        "scale": model["problem"] != "p2" or (_is_number(scale) and 0 < scale <= 4),
        "image_size": model["problem"] != "p1" or (type(size) is int and 1 <= size <= 4096),
    }
    _require(rules, model, f"{path}: broken model.pt,", advice)
    if not _is_finite(model["state"]):  # all of its answers would be one class
        failed = "its weights hold numbers that are not finite, from a training that failed"
        raise UserError(f"{path}: {failed}{advice}")
    return model


def _require(rules: dict[str, bool], values: dict[str, Any], what: str, advice: str = "") -> None:
    """UserError that names the first of the `values` that is not right by its rule."""
    for key, is_right in rules.items():
        if not is_right:
            said = f"{key!r}, {_brief(values.get(key))}, is not what a training saves"
            raise UserError(f"{what} {said}{advice}")


def _brief(value: Any) -> str:
    is_plain = value is None or isinstance(value, (bool, float, str))
    return f"{value!r:.30}" if is_plain or _is_count(value) else f"a {type(value).__name__}"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_state(value: Any) -> bool:
    import torch

    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items()
    )


def _is_finite(state: dict[str, Any]) -> bool:
    try:
        return all(bool(value.isfinite().all()) for value in state.values())
    except RuntimeError:  # sparse, quantised, without storage: no network here has such weights
        return False


def _can_be_written(name: str) -> bool:
    """Into a CSV, where a name that came from a file's may be no UTF-8."""
    try:
        return bool(name.encode("utf-8", "surrogateescape")) or not name
    except UnicodeEncodeError:
        return False


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _are_three(values: list, least: float) -> bool:
    return len(values) == 3 and all(_is_number(value) and value > least for value in values)
