"""Figures beside the eye: how well classes lie apart among features (N, D), and in the plane that is drawn of
them.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np
import torch
from sklearn.metrics import silhouette_score

from engine.metrics import class_overlap, knn_accuracy
from report.text import columns, one_line

NEIGHBOURS = 20
LISTED = 5  # scattered classes, and overlapping pairs


def measure(
    features: np.ndarray, plane: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Scores of one checkpoint's features (N, D) and plane (N, 2); `classes` are the labels' names.

    The only image of a class has no part in them: it has no neighbour of its own. Scatter is the mean
    distance of a class's features to their mean, divided by that of all features; overlap is the share of the
    nearest neighbours (by cosine) of one class's images that are of the other.
    """
    several = np.bincount(labels)[labels] > 1
    features, plane, labels = features[several].astype(np.float64), plane[several], labels[several]
    vectors, numbers = torch.from_numpy(features).float(), torch.from_numpy(labels)
    scatter = {label: mean_distance(features[labels == label]) for label in np.unique(labels).tolist()}
    spread = mean_distance(features)
    share = class_overlap(vectors, numbers, len(classes), NEIGHBOURS).numpy().astype(np.float64)
    pairs = zip(*(side.tolist() for side in np.triu_indices(len(classes), 1)))
    pairs = sorted((pair for pair in pairs if overlap(share, pair)), key=lambda pair: -overlap(share, pair))
    return {
        "images": len(features),
        "features": features.shape[1],
        "silhouette_features": round(float(silhouette_score(features, labels)), 4),
        "silhouette_plane": round(float(silhouette_score(plane, labels)), 4),
        "neighbours": min(NEIGHBOURS, len(features) - 1),
        "knn_accuracy": round(knn_accuracy(vectors, numbers, k=NEIGHBOURS), 4),
        "most_scattered": [
            {"label": classes[label], "scatter": round(scatter[label] / spread, 4)}
            for label in sorted(scatter, key=lambda label: -scatter[label])[:LISTED]
        ],
        "most_overlapping": [
            {"labels": [classes[a], classes[b]], "shares": [round(share[a, b], 4), round(share[b, a], 4)]}
            for a, b in pairs[:LISTED]
        ],
    }


def mean_distance(features: np.ndarray) -> float:
    """Of (N, D) to their mean."""
    return float(np.linalg.norm(features - features.mean(axis=0), axis=1).mean())


def overlap(share: np.ndarray, pair: tuple[int, int]) -> float:
    """Of two classes, both directions together."""
    return share[pair] + share[pair[::-1]]


def named(scores: dict[str, Any], entries: Mapping[str, str]) -> dict[str, Any]:
    """The scores with the names of their classes, `entries[label]`, beside the labels."""
    scattered = [{**row, "name": entries[row["label"]]} for row in scores["most_scattered"]]
    pairs = [
        {**row, "names": [entries[label] for label in row["labels"]]} for row in scores["most_overlapping"]
    ]
    return {**scores, "most_scattered": scattered, "most_overlapping": pairs}


def as_text(scores: Sequence[dict[str, Any]]) -> str:
    """Plain tables for a terminal, of scores that are `named` and have a title: a line a checkpoint, then the
    lists.
    """
    titles = [one_line(score["title"], 40) for score in scores]
    width = max(map(columns, titles))
    lines = [f"{'':{width}}  silhouette of   silhouette of   accuracy of the"]
    lines += [f"{'':{width}}  the features    the plane       {scores[0]['neighbours']} nearest"]
    for title, score in zip(titles, scores):
        figures = (score[name] for name in ("silhouette_features", "silhouette_plane", "knn_accuracy"))
        lines.append(
            _padded(title, width) + "  " + "".join(f"{figure:<16.4f}" for figure in figures).rstrip()
        )
    for title, score in zip(titles, scores):
        lines += [
            "",
            f"{title}: most scattered classes (distance to their middle; 1: as all images to theirs)",
        ]
        lines += [
            f"  {_padded(one_line(row['name'], 30), 62)} {row['scatter']:.2f}"
            for row in score["most_scattered"]
        ]
        lines += [
            f"{title}: most mixed-up pairs (share of the nearest neighbours that are the other class's)"
        ]
        for row in score["most_overlapping"]:
            pair = " / ".join(one_line(name, 29) for name in row["names"])
            lines.append(f"  {_padded(pair, 62)} " + " / ".join(f"{share:.2f}" for share in row["shares"]))
    return "\n".join(lines)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))
