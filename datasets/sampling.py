"""Which samples an epoch holds, and their order: from (seed, epoch) alone, so a resumed run sees the same."""

from __future__ import annotations

from typing import Iterator, Sequence

import numpy as np
import torch


def epoch_order(count: int, seed: int, epoch: int, weights: np.ndarray | None) -> np.ndarray:
    """The samples of one epoch: a permutation, or as many draws with the given weights."""
    generator = np.random.default_rng((seed, epoch))
    if weights is None:
        return generator.permutation(count)
    return generator.choice(count, size=count, p=weights)


def batches(
    order: Sequence[int], epoch: int, batch_size: int, first: int
) -> Iterator[list[tuple[int, int, int]]]:
    """Batches of (epoch, position, sample) from the `first` batch on; a short last one is dropped."""
    for start in range(first * batch_size, len(order) - batch_size + 1, batch_size):
        yield [(epoch, position, int(order[position])) for position in range(start, start + batch_size)]


def epoch_loader(
    dataset: torch.utils.data.Dataset,
    seed: int,
    epoch: int,
    first_batch: int,
    batch_size: int,
    workers: int,
    weights: np.ndarray | None = None,
    share: slice = slice(None),
) -> torch.utils.data.DataLoader:
    """The batches of an epoch from the `first_batch` on; `dataset` is asked for (epoch, position, sample).

    Of each batch only the `share`, where several processes train together.
    """
    order = epoch_order(len(dataset), seed, epoch, weights)
    return torch.utils.data.DataLoader(
        dataset,
        batch_sampler=[batch[share] for batch in batches(order, epoch, batch_size, first_batch)],
        num_workers=workers,
        # Its own: drawing the workers' seed from torch's would make a resumed run differ.
        generator=torch.Generator(),
    )
