"""The photographs of one training: those to learn from, and those to validate on."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datasets.labelled import LabelledImages, as_inference_sees, load_evaluation, load_training
from engine.base import UserError

HELD_OUT = 20  # without images to validate on, every 20th photograph of training is one


class TrainingData:
    """`photographs` to crop, a little larger than the network's input; the same `as_inference_sees` them, for
    training without augmentation; and `validation`, as inference sees them."""

    def __init__(
        self,
        photographs: LabelledImages,
        validation: LabelledImages,
        image_size: int,
        cache: str | Path | None,
    ):
        self.photographs, self.validation, self.classes = photographs, validation, photographs.classes
        self.left_out = photographs.left_out + validation.left_out
        self._image_size, self._cache = image_size, cache
        self.computed: dict[str, Any] = {}  # what scripts make of the photographs once, for all their runs

    def with_labels_of(self, share: float, seed: int) -> TrainingData:
        """The same, but of each class only this share of the photographs to learn from, at least one, drawn
        by `seed`.

        UserError when fewer than two are left.
        """
        kept = draw_by_class(self.photographs.labels, share, seed)
        if len(kept) < 2:  # batch norm needs two
            folder = self.photographs.folder
            raise UserError(
                f"{folder}: --label-share {share:g} leaves {len(kept)} photographs; give a larger one"
            )
        return TrainingData(self.photographs.part(kept), self.validation, self._image_size, self._cache)

    @cached_property
    def as_inference_sees(self) -> LabelledImages:
        return as_inference_sees(self.photographs, self._image_size, self._cache)


def draw_by_class(labels: np.ndarray, share: float, seed: int) -> list[int]:
    """Indices, in order, of this share of each class (rounded, at least one), drawn by `seed` and the
    class alone.
    """
    kept: list[int] = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        order = np.random.default_rng((seed, int(label))).permutation(len(of_class))
        kept.extend(of_class[order[: max(1, round(share * len(of_class)))]].tolist())
    return sorted(kept)


def load_training_data(
    train: tuple[str, str | None],
    validation: tuple[str, str | None],
    image_size: int,
    cache: str | Path | None,
) -> TrainingData:
    """Photographs to train on and to validate on, each given as a folder and a CSV (None: labels are in the
    names).

    Without a folder to validate on every 20th usable photograph of training is held out.
    """
    photographs = load_training(*train, image_size, cache)
    if len(photographs) < 2:  # batch norm needs two
        raise UserError(f"{train[0]}: 1 of its photographs can be used; 2 at least are needed")
    if validation[0]:
        evaluation = load_evaluation(*validation, image_size, cache, photographs.classes)
        return TrainingData(photographs, evaluation, image_size, cache)
    held_out = range(HELD_OUT - 1, len(photographs), HELD_OUT)
    if not held_out:
        raise UserError(
            f"{train[0]}: of {len(photographs)} photographs none can be held out for validation, which takes "
            f"every {HELD_OUT}th; give --val-images"
        )
    print(
        f"no --val-images: {len(held_out)} of the {len(photographs)} photographs, every {HELD_OUT}th, are "
        "held out for validation",
        file=sys.stderr,
    )
    kept = photographs.part([index for index in range(len(photographs)) if index not in held_out])
    evaluation = as_inference_sees(photographs.part(held_out), image_size, cache)
    return TrainingData(kept, evaluation, image_size, cache)
