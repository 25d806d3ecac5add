"""The photographs of one training: those to learn from, in the form that is wanted, and those to validate on."""

from __future__ import annotations

import argparse
import sys
from functools import cached_property
from pathlib import Path

from datasets.augment import PhotoCrops
from datasets.errors import DataError
from datasets.labelled import LabelledImages, as_inference_sees, load_training, load_validation

HELD_OUT = 20  # without images to validate on, every 20th photograph of training is one


class Split:
    """`photographs` to train on, a little larger than the network's input, and `validation` as inference sees it."""

    def __init__(
        self, photographs: LabelledImages, validation: LabelledImages, image_size: int, cache: str | Path | None
    ):
        self.photographs, self.validation, self.classes = photographs, validation, photographs.classes
        self.left_out = photographs.left_out + validation.left_out
        self._image_size, self._cache = image_size, cache

    def samples(self, args: argparse.Namespace) -> PhotoCrops | LabelledImages:
        """What a run trains on: random crops, or without augmentation the photographs as inference sees them."""
        if args.is_augmented:
            return PhotoCrops(self.photographs, args.crop_size, args.min_area, args.jitter, args.seed)
        return self._unaugmented

    @cached_property
    def _unaugmented(self) -> LabelledImages:
        return as_inference_sees(self.photographs, self._image_size, self._cache)


def load_split(args: argparse.Namespace) -> Split:
    """What the flags of datasets.flags name. Without --val-images every 20th usable photograph is held out."""
    image_size, cache = args.image_size, args.cache
    if args.data:
        train, validation = ((f"{args.data}/{name}", f"{args.data}/{name}.csv") for name in ("train", "val"))
    else:
        train, validation = (args.train_images, args.train_csv), (args.val_images, args.val_csv)
    photographs = load_training(*train, image_size, cache, least=2)
    if validation[0]:
        return Split(
            photographs, load_validation(*validation, image_size, photographs.classes, cache), image_size, cache
        )
    held_out = range(HELD_OUT - 1, len(photographs), HELD_OUT)
    if not held_out:
        raise DataError(
            f"{train[0]}: of {len(photographs)} photographs none can be held out for validation, which takes every "
            f"{HELD_OUT}th; give --val-images"
        )
    print(
        f"no --val-images: {len(held_out)} of the {len(photographs)} photographs, every {HELD_OUT}th, are held out for "
        "validation",
        file=sys.stderr,
    )
    kept = photographs.part([index for index in range(len(photographs)) if index not in held_out])
    return Split(kept, as_inference_sees(photographs.part(held_out), image_size, cache), image_size, cache)
