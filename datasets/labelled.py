"""Labelled images: a folder and its CSV (or names such as 7_123.png) → cached pixels, class numbers, names.

And what one training makes of them.
"""

from __future__ import annotations

import copy
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence, Tuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.cache import ImageCache, cached_images
from datasets.images import ImageError, evaluation_image, path_inside, read_rgb
from datasets.tables import labels_in_names, read_labels
from engine.base import UserError, say

HELD_OUT = 20  # without images to validate on, every 20th image of training is one
MARGIN = 1.25  # kept images are that much larger than the network's input: crops of them stay sharp


class LabelledImages(torch.utils.data.Dataset):
    """Images (H, W, 3) by index; `labels[index]` is the class's number, its name is `classes[number]`.

    They lie in `folder`. `left_out` rows of the table have no usable image.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        labels: list[int],
        classes: list[str],
        images: ImageCache,
        usable: list[int],
        left_out: int,
    ):
        self.folder, self.classes, self.left_out = folder, classes, left_out
        self.names = [names[index] for index in usable]
        self.labels = np.array([labels[index] for index in usable], dtype=np.int64)
        self._images, self._usable = images, usable

    def __len__(self) -> int:
        return len(self._usable)

    def image(self, index: int) -> np.ndarray:
        return self._images[self._usable[index]]

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        """(epoch, position, sample) → (3, H, W) uint8, as it is in every epoch, and its label."""
        image = torch.from_numpy(self.image(key[2]).copy()).permute(2, 0, 1)
        return image.contiguous(), int(self.labels[key[2]])

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(B, 3, S, S) uint8 and classes (B), in order, where all images have one square size."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            images = np.stack([self.image(index) for index in range(start, stop)])
            yield torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(self.labels[start:stop])

    def part(self, indices: Sequence[int]) -> LabelledImages:
        """Those of these indices alone; what was left out stays counted."""
        part = copy.copy(self)
        part.names, part.labels = [self.names[index] for index in indices], self.labels[list(indices)]
        part._usable = [self._usable[index] for index in indices]
        return part


Reading = Tuple[Callable[[Path], np.ndarray], str]  # how a file is read, and what the cache calls that


def load_training(
    folder: str | Path, table: str | Path | None, image_size: int, cache: str | Path | None
) -> LabelledImages:
    """The images of a CSV, kept a little larger than `image_size`; its labels give the classes."""
    side = round(MARGIN * image_size)

    def read(path: Path) -> np.ndarray:
        return shrink(read_rgb(path, apply_exif=True), side)

    rows = _labelled_rows(folder, table)
    return _load(folder, table, rows, None, (read, f"training{side}"), cache)


def load_evaluation(
    folder: str | Path,
    table: str | Path | None,
    image_size: int,
    cache: str | Path | None,
    classes: list[str] | None = None,
    is_padded: bool = False,
) -> LabelledImages:
    """The images of a CSV as inference sees them, (image_size, image_size, 3), see `evaluation_image`.

    `classes` are those of training; without them, those that the CSV names. UserError for any other class.
    """
    rows = _labelled_rows(folder, table)
    return _load(folder, table, rows, classes, reading_of_inference(image_size, is_padded), cache)


def as_inference_sees(
    images: LabelledImages, image_size: int, cache: str | Path | None, is_padded: bool = False
) -> LabelledImages:
    """The same images, (image_size, image_size, 3)."""
    rows = [(name, images.classes[label]) for name, label in zip(images.names, images.labels)]
    reading = reading_of_inference(image_size, is_padded)
    return _load(images.folder, None, rows, images.classes, reading, cache)


def reading_of_inference(image_size: int, is_padded: bool = False) -> Reading:
    def read(path: Path) -> np.ndarray:
        return evaluation_image(read_rgb(path, apply_exif=True), image_size, is_padded)

    return read, f"{'padded' if is_padded else 'evaluation'}{image_size}"


def classes_of(labels: Sequence[str]) -> list[str]:
    """The different labels in the order of their classes: whole numbers by value, names by the alphabet."""
    if are_integers(labels):
        return [str(number) for number in sorted({int(label) for label in labels})]
    return sorted(set(labels))


def are_integers(labels: Sequence[str]) -> bool:
    return all(re.fullmatch("[0-9]{1,9}", label) for label in labels)


def shrink(rgb: np.ndarray, shorter_side: int) -> np.ndarray:
    """(H, W, 3) uint8 → the same image with its shorter side at most `shorter_side`; never upsampled."""
    height, width = rgb.shape[:2]
    if min(height, width) <= shorter_side:
        return rgb
    factor = shorter_side / min(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.array(Image.fromarray(rgb).resize(size, Image.BILINEAR))


def _labelled_rows(folder: str | Path, table: str | Path | None) -> list[tuple[str, str]]:
    """(file name, label) of every row of the table; without one, of every {label}_{number}.png there.

    UserError when one has no label.
    """
    table_rows = labels_in_names(folder) if table is None else read_labels(table)
    rows = [(row["filename"], row["label"]) for row in table_rows]
    for number, (name, label) in enumerate(rows, start=1):
        if not label and table is None:
            advice = "give the CSV with the labels"
            raise UserError(f"{folder}: {name} has no label in its name, as in 7_123.png; {advice}")
        if not label:
            raise UserError(f"{table}: row {number} ({name}) has no label; training needs one in every row")
    return rows


def _load(
    folder: str | Path,
    table: str | Path | None,
    rows: list[tuple[str, str]],
    classes: list[str] | None,
    reading: Reading,
    cache: str | Path | None,
) -> LabelledImages:
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder; it should hold the images of {table}")
    source = table or folder
    classes = classes or classes_of([label for _, label in rows])
    numbers = {name: number for number, name in enumerate(classes)}
    names, labels, paths, escaping = [], [], [], []
    for name, label in rows:
        if label not in numbers:
            known = f"the {len(classes)} classes of training"
            raise UserError(f"{source}: label {label!r} of {name} is none of {known}")
        path = path_inside(folder, name)
        if path is None:
            escaping.append(name)
        else:
            names.append(name)
            labels.append(numbers[label])
            paths.append(Path(path))

    images = cached_images(paths, *reading, cache)
    for name in escaping:
        say(f"left out: {name!a} in {source} is no file name inside {folder}")
    for reason in images.errors.values():
        say(f"left out: {reason}")
    usable = [index for index in range(len(paths)) if str(index) not in images.errors]
    if not usable:
        raise ImageError(f"{folder}: none of the {len(rows)} images that {source} lists can be read")
    left_out = len(rows) - len(usable)
    return LabelledImages(Path(folder), names, labels, classes, images, usable, left_out)


# -- what one training learns from, and what it is validated on ---------------------------------------------


class TrainingData:
    """`images` to crop, a little larger than the network's input, and `validation`, as inference sees them.

    `as_inference_sees` has the former as inference sees them too, for training without augmentation.
    """

    def __init__(
        self,
        images: LabelledImages,
        validation: LabelledImages,
        image_size: int,
        cache: str | Path | None,
        is_padded: bool,
    ):
        self.images, self.validation, self.classes = images, validation, images.classes
        self.left_out = images.left_out + validation.left_out
        self._seen = (image_size, cache, is_padded)
        self.computed: dict[str, Any] = {}  # what scripts make of the images once, for all their runs

    def with_labels_of(self, share: float, seed: int) -> TrainingData:
        """The same, but of each class this share of the images to learn from (at least one), by `seed`.

        UserError when fewer than two are left.
        """
        kept = draw_by_class(self.images.labels, share, seed)
        if len(kept) < 2:  # batch norm needs two
            folder = self.images.folder
            raise UserError(f"{folder}: --label-share {share:g} leaves {len(kept)} images; give a larger one")
        return TrainingData(self.images.part(kept), self.validation, *self._seen)

    @cached_property
    def as_inference_sees(self) -> LabelledImages:
        return as_inference_sees(self.images, *self._seen)


def load_training_data(
    train: tuple[str, str | None],
    validation: tuple[str, str | None],
    image_size: int,
    cache: str | Path | None,
    is_padded: bool = False,
) -> TrainingData:
    """Images to train on and to validate on: a folder and a CSV each (None: labels are in the names).

    Without a folder to validate on every 20th usable image of training is held out.
    """
    images = load_training(*train, image_size, cache)
    if len(images) < 2:  # batch norm needs two
        raise UserError(f"{train[0]}: 1 of its images can be used; 2 at least are needed")
    if validation[0]:
        evaluation = load_evaluation(*validation, image_size, cache, images.classes, is_padded)
        return TrainingData(images, evaluation, image_size, cache, is_padded)
    held_out = range(HELD_OUT - 1, len(images), HELD_OUT)
    if not held_out:
        why = f"none can be held out for validation, which takes every {HELD_OUT}th"
        raise UserError(f"{train[0]}: of {len(images)} images {why}; give --val-images")
    which = f"{len(held_out)} of the {len(images)} images, every {HELD_OUT}th"
    say(f"no --val-images: {which}, are held out for validation")
    kept = images.part([index for index in range(len(images)) if index not in held_out])
    evaluation = as_inference_sees(images.part(held_out), image_size, cache, is_padded)
    return TrainingData(kept, evaluation, image_size, cache, is_padded)


def draw_by_class(labels: np.ndarray, share: float, seed: int) -> list[int]:
    """Indices, in order, of this share of each class (rounded, one at least), by `seed` and class alone."""
    kept: list[int] = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        order = np.random.default_rng((seed, int(label))).permutation(len(of_class))
        kept.extend(of_class[order[: max(1, round(share * len(of_class)))]].tolist())
    return sorted(kept)
