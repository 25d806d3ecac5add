"""Masks on disk: COCO's uncompressed run lengths in JSON, as Segment Anything's data set has them; their
vote.
"""

from __future__ import annotations

import json
from typing import Any, Iterable

import numpy as np


def mask_of_runs(runs: dict[str, Any]) -> np.ndarray:
    """{"size": [H, W], "counts": [off, on, off, ...]}, column by column → (H, W) bool."""
    height, width = runs["size"]
    counts = np.asarray(runs["counts"], dtype=np.int64)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def largest_first(annotations: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order of painting: smaller masks come over larger ones, of equal ones the better (the earlier)
    last.
    """
    return sorted(annotations, key=lambda annotation: annotation["area"])[::-1]


def annotations_json(
    name: str, size: tuple[int, int], made_by: dict[str, Any], annotations: list[dict[str, Any]]
) -> str:
    """One image's masks, a line each: {"image": ..., "made_by": ..., "annotations": [...]}."""
    image = {"file_name": name, "height": size[0], "width": size[1]}
    lines = ",\n".join(json.dumps({"id": number, **mask}) for number, mask in enumerate(annotations, start=1))
    head = f'{{"image": {json.dumps(image)},\n"made_by": {json.dumps(made_by)},\n'
    return f'{head}"annotations": [\n{lines}\n]}}\n'


def vote(classes: np.ndarray, annotations: Iterable[dict[str, Any]]) -> np.ndarray:
    """(H, W) classes of a network → each mask gets the class that most of its pixels have, the rest stays.

    Smaller masks come over larger ones; all count the network's own classes. Of two that tie, the smaller
    number wins.
    """
    voted = classes.copy()
    for annotation in largest_first(annotations):
        mask = mask_of_runs(annotation["segmentation"])
        if mask.any():
            voted[mask] = np.bincount(classes[mask]).argmax()
    return voted
