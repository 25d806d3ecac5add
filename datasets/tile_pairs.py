"""Satellite tiles with their masks: pairs found by number, cached as bytes, cut into training crops."""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from datasets.augment import changed, known_changes
from datasets.cache import ImageCache, cached_images
from datasets.images import ImageError, list_images, open_image, read_rgb
from datasets.palette import (
    IGNORED,
    NUM_CLASSES,
    SCORED_CLASSES,
    UNCLAIMED,
    UNKNOWN,
    classes_of_colours,
    is_of_a_class,
)
from datasets.tiles import satellite_masks
from engine.base import UserError, say

STRANGE = 8  # added, in the cache, to the class of a pixel whose colour is not exactly a class's
MOST_STRANGE = 0.001  # share of pixels; the course's own masks have 27 in all
LOSS = 8  # what a lossy format may add to a channel, or take from it
_READ_AGAIN = 8  # masks, to say which colours are strange


class TilePairs:
    """Tiles (H, W, 3) and masks (H, W; classes 0 to 7) by index."""

    def __init__(self, names: list[str], tiles: ImageCache, masks: ImageCache, indices: list[int]):
        self.names, self._tiles, self._masks, self._indices = names, tiles, masks, indices
        self.left_out = len(tiles) - len(indices)  # how many pairs could not be read

    def __len__(self) -> int:
        return len(self._indices)

    def tile(self, index: int) -> np.ndarray:
        return self._tiles[self._indices[index]]

    def mask(self, index: int) -> np.ndarray:
        return self._masks[self._indices[index]] & (STRANGE - 1)

    def marked_mask(self, index: int) -> np.ndarray:
        """As mask, with STRANGE added where a pixel's colour is not exactly a class's."""
        return self._masks[self._indices[index]]

    def split(self, share: float, seed: int) -> tuple[TilePairs, TilePairs]:
        """The rest, and a `share` of the pairs drawn by `seed`, in order. UserError if either has too few."""
        order = np.random.default_rng((seed, 3)).permutation(len(self))
        drawn = set(order[: round(share * len(self))].tolist())
        rest = [index for index in range(len(self)) if index not in drawn]
        if not drawn or len(rest) < 2:  # batch norm needs two
            sizes = f"{len(rest)} to train on and {len(drawn)} to score on"
            raise UserError(f"--holdout {share:g} of {len(self)} tiles leaves {sizes}; give another share")
        return self._part(rest), self._part(sorted(drawn))

    def _part(self, indices: list[int]) -> TilePairs:
        part = copy.copy(self)
        part.names = [self.names[index] for index in indices]
        part._indices = [self._indices[index] for index in indices]
        return part

    def named(self, asked: Sequence[str] | None, usual: Sequence[str]) -> list[str]:
        """The names `asked` for, as far as they are here; without any the `usual` ones, else others."""
        wanted = list(asked or usual)
        found = [name for name in wanted if name in self.names]
        if not (asked and found):
            found += [name for name in self.names if name not in found][: len(usual) - len(found)]
        if asked and found != wanted:
            say(f"not all of the tiles {', '.join(wanted)} are there; taken: {', '.join(found)}")
        return found


def find_pairs(folder: str | Path) -> list[tuple[str, Path, Path]]:
    """(name, tile, mask) of each `NAME_sat.*` with a `NAME_mask.png`. UserError when there is none."""
    folder = Path(folder)
    names = set(list_images(folder))
    pairs, alone = [], []
    for name, mask in satellite_masks(sorted(names)):
        if mask in names:
            pairs.append((mask[: -len("_mask.png")], folder / name, folder / mask))
        else:
            alone.append(name)
    if not pairs:
        raise UserError(
            f"{folder}: no pair of NNNN_sat.jpg and NNNN_mask.png; give --data the course's p2_data folder"
        )
    if alone:
        say(f"{folder}: {len(alone)} tiles have no mask and are left out, {alone[0]} first")
    return pairs


def read_mask(path: str | Path) -> np.ndarray:
    """(H, W) classes 0 to 7 of a mask; ImageError when it cannot be read, or has no colours."""
    return classes_of_colours(read_colours(path))


def read_colours(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 of a mask; ImageError as read_mask."""
    rgb = read_rgb(path, apply_exif=False)
    with open_image(path) as image:
        is_grey = Image.getmodebase(image.mode) == "L"  # 1, L, LA, I, F
    if is_grey:  # class numbers as grey values: as colours they would all be black
        raise ImageError(f"{path}: a grey image, not a mask; save it in the seven colours as RGB")
    return rgb


def _read_marked(path: Path) -> np.ndarray:
    rgb = read_colours(path)
    return np.where(is_of_a_class(rgb), 0, STRANGE).astype(np.uint8) | classes_of_colours(rgb)


def load_pairs(folder: str | Path, cache: str | Path | None, least: int = 1) -> TilePairs:
    """Every usable pair of a folder; those that cannot be read, or whose sizes differ, are named and left
    out. UserError when fewer than `least` are usable.
    """
    pairs = find_pairs(folder)
    tiles = cached_images([tile for _, tile, _ in pairs], partial(read_rgb, apply_exif=False), "tile", cache)
    masks = cached_images([mask for _, _, mask in pairs], _read_marked, "marked-mask", cache)
    usable = []
    for index, (_, tile, mask) in enumerate(pairs):
        reason = tiles.errors.get(str(index)) or masks.errors.get(str(index))
        if reason is None and tiles.shapes[index][:2] != masks.shapes[index]:
            reason = f"{mask}: its size is not that of {tile.name}"
        if reason is None:
            usable.append(index)
        else:
            say(f"left out: {reason}")
    if len(usable) < least:
        raise UserError(
            f"{folder}: {len(usable)} of its {len(pairs)} pairs can be used; {least} at least are needed"
        )
    found = TilePairs([pairs[index][0] for index in usable], tiles, masks, usable)
    check_colours(folder, found, [pairs[index][2] for index in usable])
    return found


def check_colours(folder: str | Path, pairs: TilePairs, paths: Sequence[Path]) -> None:
    """Whether these are masks at all, judged by the colours of all of them; `paths` are their files.

    UserError when no pixel has one of the six scored colours; a warning when many have none of the seven.
    """
    masks = [pairs.marked_mask(index) for index in range(len(pairs))]
    strange = [np.count_nonzero(mask >= UNCLAIMED) for mask in masks]
    share = sum(strange) / max(1, sum(mask.size for mask in masks))
    is_mask = any((mask < SCORED_CLASSES).any() for mask in masks) or any(map(_has_scored_colour, paths))
    if is_mask and share <= MOST_STRANGE:
        return
    most = sorted(range(len(masks)), key=lambda index: -strange[index])[:_READ_AGAIN]
    colours = commonest_colours([paths[index] for index in most if strange[index]])
    there = f"; the commonest such colours (R,G,B): {colours}" if colours else ""
    if not is_mask:
        raise UserError(
            f"{folder}: no pixel of its {len(masks)} masks has one of the six scored colours{there}; "
            "save the masks in the course's colours as RGB, not as class numbers"
        )
    say(
        f"warning: {folder}: {share:.1%} of the pixels of its masks are red or of no class's colour{there}; "
        "look whether they are the course's masks, with red before green and blue"
    )


def _has_scored_colour(path: Path) -> bool:
    """Whether a pixel has one of the six scored colours as a lossy format leaves them."""
    rgb = read_colours(path)
    return bool((is_of_a_class(rgb, LOSS) & (classes_of_colours(rgb) < SCORED_CLASSES)).any())


def commonest_colours(paths: Sequence[Path]) -> str:
    """The three commonest colours of these masks that are red or not exactly a class's."""
    counts: Counter = Counter()
    for path in paths:
        rgb = read_colours(path)
        is_strange = ~is_of_a_class(rgb) | (classes_of_colours(rgb) == UNCLAIMED)
        colours, numbers = np.unique(rgb[is_strange], axis=0, return_counts=True)
        counts.update(dict(zip(map(tuple, colours.tolist()), numbers.tolist())))
    total = max(1, sum(counts.values()))
    return ", ".join(
        f"({red},{green},{blue}) {number / total:.0%}" for (red, green, blue), number in counts.most_common(3)
    )


def rare_class_weights(pairs: TilePairs) -> np.ndarray:
    """How often each tile should be drawn; sums to 1.

    The sum over the classes of the tile's share of a class over the square root of the class's mean share.
    """
    counts = [np.bincount(pairs.mask(i).ravel(), minlength=NUM_CLASSES + 1) for i in range(len(pairs))]
    shares = np.stack(counts)[:, :SCORED_CLASSES].astype(np.float64)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1)
    weights = (shares / np.sqrt(np.maximum(shares.mean(axis=0), 1e-6))).sum(axis=1)
    weights = np.maximum(weights, 1e-6)
    return weights / weights.sum()


def default_crop_size(pairs: TilePairs, scale: float, augment: str) -> int:
    """Three quarters of a scaled tile, in whole strides of 32; all of it where there are no crops.

    Crops zoom in, so tiles are scored at a larger scale.
    """
    share = 0.75 if augment == "all" else 1.0
    return 32 * max(2, round(share * scale * min(pairs.tile(0).shape[:2]) / 32))


FLIPS = ({}, {"hflip": 1}, {"vflip": 1})  # each tile as it is, mirrored, and upside down


class TileCrops(torch.utils.data.Dataset):
    """What training sees of the tiles; what is random is drawn from (seed, epoch, position) and nothing else.

    `augment` "all": crops of `min_crop` to all of a tile's side, scaled to one size, turned, mirrored,
    recoloured; "recipe": whole tiles, a copy changed by each of `changes` (datasets/augment.py); "flips":
    those of FLIPS; "none": whole tiles. Of a tile that is no square, whole means a square of its shorter
    side. Unknown pixels are IGNORED, or the seventh class if `learns_unknown`.
    """

    def __init__(
        self,
        pairs: TilePairs,
        crop_size: int,
        min_crop: float,
        seed: int,
        augment: str = "all",
        changes: Sequence[Mapping[str, Any]] = ({},),
        learns_unknown: bool = False,
    ):
        self.pairs, self.crop_size, self.seed, self.augment = pairs, crop_size, seed, augment
        self.min_crop = min_crop if augment == "all" else 1.0
        self.changes = known_changes({"recipe": changes, "flips": FLIPS}.get(augment, ({},)))
        self.copies = len(self.changes)
        self.ignored_from = UNCLAIMED if learns_unknown else UNKNOWN

    def __len__(self) -> int:
        return len(self.pairs) * self.copies

    def rare_class_weights(self) -> np.ndarray:
        """How often each should be drawn, as its tile: see there. Sums to 1."""
        return np.tile(rare_class_weights(self.pairs), self.copies) / self.copies

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """→ tile (3, S, S) uint8, target (S, S) uint8 with IGNORED, and three colour factors (float32)."""
        epoch, position, index = key
        copy, index = divmod(index, len(self.pairs))
        generator = np.random.default_rng((self.seed, epoch, position, 1))
        image, target = self._crop(generator, index)
        colours = torch.tensor([0.0, 1.0, 1.0])
        image, target = self._to_size(*changed(image, target, self.changes[copy], generator))
        if self.augment == "all":
            turns, is_flipped = int(generator.integers(4)), generator.integers(2) == 1
            image, target = torch.rot90(image, turns, (1, 2)), torch.rot90(target, turns, (0, 1))
            if is_flipped:
                image, target = image.flip(2), target.flip(1)
            brightness = generator.uniform(-0.12, 0.12)
            contrast, saturation = generator.uniform(0.75, 1.25, size=2)
            colours = torch.tensor([brightness, contrast, saturation], dtype=torch.float32)
        return image.contiguous(), target.contiguous(), colours

    def _crop(self, generator: np.random.Generator, index: int) -> tuple[Tensor, Tensor]:
        """A square of the tile (3, S, S) and of its target (S, S)."""
        tile, mask = self.pairs.tile(index), self.pairs.mask(index)
        height, width = mask.shape
        side = max(1, round(min(height, width) * generator.uniform(self.min_crop, 1.0)))
        top, left = generator.integers(height - side + 1), generator.integers(width - side + 1)
        box = (slice(top, top + side), slice(left, left + side))
        image = torch.from_numpy(np.array(tile[box])).permute(2, 0, 1)
        target = np.where(mask[box] >= self.ignored_from, IGNORED, mask[box]).astype(np.uint8)
        return self._to_size(image, torch.from_numpy(target))

    def _to_size(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        size = (self.crop_size, self.crop_size)
        if target.shape == size:
            return image, target
        image = functional.interpolate(
            image[None], size, mode="bilinear", antialias=True, align_corners=False
        )[0]
        return image, functional.interpolate(target[None, None], size, mode="nearest-exact")[0, 0]
