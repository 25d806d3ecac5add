"""Entries of a manifest, and the bytes that they are about."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

CONTENT = random.Random(0).getrandbits(8 * 200_000).to_bytes(200_000, "big")


def an_entry(*urls: str, name: str = "net", **changes) -> dict:
    entry = {"name": name, "problem": "p2", "default": False, "file": f"{name}.pt", "urls": list(urls)}
    entry.update(
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        bytes=len(CONTENT),
        network="lite",
        score={"mean_iou": 0.7},
    )
    return {**entry, **changes}


def write_manifest(folder: Path, *entries: dict) -> None:
    (folder / "manifest.json").write_text(json.dumps({"checkpoints": entries}))
