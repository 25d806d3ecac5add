"""kNN accuracy is the one that a plain loop finds, with no sample its own neighbour."""

from __future__ import annotations

import math

import pytest
import torch

from engine import metrics
from engine.base import UserError
from engine.metrics import class_overlap, knn_accuracy, nearest_neighbours


def blobs(count: int, seed: int, noise: float = 1.2, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, 8) features around a direction a class, and their labels."""
    directions = torch.randn(classes, 8, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    return directions[labels] + noise * torch.randn(count, 8, generator=generator), labels


def accuracy_by_a_loop(features, labels, k, temperature) -> float:
    correct = 0
    for i, feature in enumerate(features):
        cosines = []
        for j, other in enumerate(features):
            if i != j:
                dot = sum(a * b for a, b in zip(feature.tolist(), other.tolist()))
                cosines.append((dot / (feature.norm() * other.norm()).item(), int(labels[j])))
        votes: dict[int, float] = {}
        for cosine, label in sorted(cosines, reverse=True)[:k]:
            votes[label] = votes.get(label, 0) + math.exp(cosine / temperature)
        correct += max(votes, key=votes.get) == int(labels[i])
    return correct / len(features)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0)])
def test_leaving_one_out_equals_a_plain_loop(k, temperature):
    features, labels = blobs(60, seed=0)
    expected = accuracy_by_a_loop(features, labels, k, temperature)
    assert 0.3 < expected < 1
    assert knn_accuracy(features, labels, k=k, temperature=temperature) == pytest.approx(expected)


def test_no_sample_is_its_own_neighbour():
    features, _ = blobs(30, seed=3)
    _, indices = nearest_neighbours(features, 29)
    assert all(sorted(row.tolist()) == sorted(set(range(30)) - {i}) for i, row in enumerate(indices))


def test_alone_in_its_class_a_sample_is_never_right():
    features, labels = torch.eye(6), torch.arange(6)
    assert knn_accuracy(features, labels) == 0


def test_the_size_of_the_portions_changes_nothing(monkeypatch):
    features, labels = blobs(50, seed=4)
    whole = nearest_neighbours(features, 7)[1], knn_accuracy(features, labels, k=7)
    monkeypatch.setattr(metrics, "CHUNK", 8)
    in_portions = nearest_neighbours(features, 7)[1], knn_accuracy(features, labels, k=7)
    assert torch.equal(whole[0], in_portions[0]) and whole[1] == in_portions[1]


def test_lengths_of_the_features_do_not_matter_only_directions():
    features, labels = blobs(50, seed=5)
    longer = features * torch.linspace(0.1, 10, 50)[:, None]
    assert knn_accuracy(longer, labels) == knn_accuracy(features, labels)


def test_more_neighbours_than_there_are_means_all_of_them():
    features, labels = blobs(10, seed=6)
    assert knn_accuracy(features, labels, k=500) == knn_accuracy(features, labels, k=9)


def test_one_sample_has_no_neighbour():
    with pytest.raises(UserError, match="too few"):
        knn_accuracy(torch.ones(1, 3), torch.zeros(1, dtype=torch.long))


def test_the_overlap_counts_whose_the_neighbours_are():
    # Two of class 0 beside each other, and one of class 0 between two of class 1.
    degrees = torch.tensor([0.0, 1.0, 90.0, 89.0, 91.5])
    features = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)
    share = class_overlap(features, torch.tensor([0, 0, 0, 1, 1]), num_classes=3, k=1)
    expected = torch.tensor([[2 / 3, 1 / 3, 0], [1, 0, 0], [0, 0, 0]])
    torch.testing.assert_close(share, expected)
