"""Which samples an epoch holds, and in which order: from (seed, epoch) alone, so that a resumed run sees the same."""

from __future__ import annotations

from typing import Iterator, Sequence

import numpy as np


def epoch_order(count: int, seed: int, epoch: int, weights: np.ndarray | None) -> np.ndarray:
    """The samples of one epoch: a permutation, or as many draws with the given weights. From (seed, epoch) alone."""
    generator = np.random.default_rng((seed, epoch))
    if weights is None:
        return generator.permutation(count)
    return generator.choice(count, size=count, p=weights)


def batches(order: Sequence[int], epoch: int, batch_size: int, first: int) -> Iterator[list[tuple[int, int, int]]]:
    """Batches of (epoch, position, sample) from the `first` batch on; a short last one is dropped."""
    for start in range(first * batch_size, len(order) - batch_size + 1, batch_size):
        yield [(epoch, position, int(order[position])) for position in range(start, start + batch_size)]
