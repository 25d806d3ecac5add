"""Checkpoints: dicts of tensors and plain values, written whole, loaded without running anybody's code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from engine.errors import RunError
from engine.files import write_atomically

MODEL_FORMAT = 1
_MODEL_KEYS = {
    "problem": str,
    "network": str,
    "arguments": dict,
    "state": dict,
    "classes": list,
    "mean": list,
    "std": list,
    "edition": str,
    "score": dict,
    "source": str,
}


def save(path: str | Path, values: dict[str, Any]) -> None:
    """Write `values` with torch.save; the file is whole or the old one stays. RunError when the disk is full."""
    try:
        with write_atomically(path) as temporary, open(temporary, "wb") as file:
            torch.save(values, file)
    except (OSError, RuntimeError) as error:
        disk = ("PytorchStreamWriter", "unexpected pos", "iostream error")  # torch's words for it
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in disk):
            raise
        raise RunError(f"{path}: cannot be written ({error}); make room, then give the same command again") from None


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU with weights_only=True. RunError when it is missing, broken or no dict."""
    if not Path(path).is_file():
        raise RunError(f"{path}: no such checkpoint file")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"{path}: not a readable checkpoint ({str(error)[:100] or type(error).__name__})") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, MemoryError, OverflowError):
        raise RunError(f"{path}: not a checkpoint, or one that wants to run code; it is not loaded") from None
    if not isinstance(values, dict):
        raise RunError(f"{path}: holds a {type(values).__name__}, not the dict of a checkpoint")
    return values


def read_model(path: str | Path) -> dict[str, Any]:
    """Read a `model.pt` and check that it describes itself (see README, "model.pt")."""
    model = read(path)
    if model.get("format") != MODEL_FORMAT:
        raise RunError(f"{path}: not a model.pt of this repository (format {MODEL_FORMAT}); give RUN/model.pt")
    for key, kind in _MODEL_KEYS.items():
        if not isinstance(model.get(key), kind):
            raise RunError(f"{path}: broken model.pt, '{key}' is not a {kind.__name__}; train or download it again")
    if not all(isinstance(value, torch.Tensor) for value in model["state"].values()):
        raise RunError(f"{path}: broken model.pt, 'state' holds something that is no tensor")
    return model
