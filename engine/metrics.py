"""Scores of predictions and of features, computed on the device where these are: confusion matrix, mean IoU,
and how well classes lie apart by k nearest neighbours (kNN), without training anything on the features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engine.base import UserError

CHUNK = 512  # samples compared at a time: 80 MB beside 40,000 others


def confusion_matrix(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Two integer tensors of one shape → (num_classes, num_classes) counts; rows are the truth."""
    pairs = target.flatten().long() * num_classes + predicted.flatten().long()
    counts = pairs.new_zeros(num_classes**2)  # bincount would wait for a GPU
    return counts.scatter_add_(0, pairs, torch.ones_like(pairs)).reshape(num_classes, num_classes)


def iou_per_class(confusion: Tensor, scored_classes: int) -> list[float]:
    """Intersection over union of the first `scored_classes`; the rows and columns of the others still count
    against them, as in the course's script. A class on neither side is nan."""
    confusion = confusion.cpu().double()  # in this order: mps knows no float64
    both = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - both
    return [(both[c] / union[c]).item() for c in range(scored_classes)]


def mean_iou(ious: list[float]) -> float:
    """The mean in the course's order of summation, so that the last digit is the same."""
    total = 0.0
    for iou in ious:
        total += iou / len(ious)
    return total


@torch.no_grad()
def nearest_neighbours(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities and indices (N, k) of the k others (or all, if fewer) nearest to each of (N, D),
    nearest first. UserError when there is none, or features are not finite."""
    if not features.isfinite().all():
        advice = "the training has failed, start it again with a smaller --lr"
        raise UserError(f"the features are not finite; {advice}")
    units = functional.normalize(features.float(), dim=1)
    k = min(k, len(units) - 1)
    if k < 1:
        raise UserError(f"{len(units)} images are too few to look for neighbours among them; give more")
    found = []
    for start in range(0, len(units), CHUNK):
        similarities = units[start : start + CHUNK] @ units.T
        similarities.diagonal(offset=start).fill_(-2)  # none is its own neighbour; below any cosine
        found.append(similarities.topk(k, dim=1))
    return torch.cat([top.values for top in found]), torch.cat([top.indices for top in found])


def knn_accuracy(features: Tensor, labels: Tensor, k: int = 20, temperature: float = 0.07) -> float:
    """Share of (N, D) samples whose class, of `labels` (N,) from 0 on, their k nearest neighbours vote for; a
    vote weighs exp(cosine similarity / temperature), as in eval_knn.py of DINO (Caron et al., 2021)."""
    labels = labels.to(features.device)
    similarities, indices = nearest_neighbours(features, k)
    weights, voted = (similarities / temperature).exp(), labels[indices]
    num_classes, correct = int(labels.max()) + 1, 0
    for start in range(0, len(labels), CHUNK):
        part = slice(start, start + CHUNK)
        # Sums over a one-hot array: scatter_add_ would sum in any order on a GPU.
        ballots = functional.one_hot(voted[part], num_classes) * weights[part, :, None]
        correct += int((ballots.sum(dim=1).argmax(dim=1) == labels[part]).sum())
    return correct / len(labels)


def class_overlap(features: Tensor, labels: Tensor, num_classes: int, k: int = 20) -> Tensor:
    """(C, C): in row a, column b, the share of class b among the k nearest neighbours of class a."""
    labels = labels.to(features.device)
    _, indices = nearest_neighbours(features, k)
    pairs = labels[:, None] * num_classes + labels[indices]
    counts = torch.bincount(pairs.flatten(), minlength=num_classes**2).view(num_classes, num_classes)
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
