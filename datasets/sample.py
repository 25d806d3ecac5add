"""A small hw1_data/ of made-up pictures, in the course's exact tree and formats, to try everything with.

    python3 -m datasets.sample sample

    sample/hw1_data/p1_data/mini/train/*.jpg     unlabelled images, 84x84, and train_labels.csv, classes.txt
                            office/train/*.jpg   labelled images, and val/, train.csv, val.csv, classes.txt
                    train_50/*.png       labelled images of 2020 to 2023, 32x32, {label}_{k}.png; val_50/
                    p2_data/train/               0000_sat.jpg, 0000_mask.png ...; validation/ beside it

Objects differ in shape, paint and pattern, land cover in colour and texture: networks learn both in minutes
on a CPU. The same seed and counts give the same files. DIR/hw1_data appears whole or not at all, and must be
new or empty.

Exit status: 0 written; 2 nothing written, the reason is one line on stderr.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from datasets.drawings import OBJECT_CLASSES, draw_object, draw_tile, object_name
from datasets.palette import NUM_CLASSES, save_mask
from engine.base import UserError, available_cores, run_script

MINI_CLASSES = 20  # none of them is a class of office
MINI_SIZE = (84, 84)
JPEG_QUALITY = 90
FIFTY_CLASSES, FIFTY_IMAGES, FIFTY_SIZE = 50, {"train_50": 10, "val_50": 2}, (32, 32)  # images of a class
_OFFICE, _MINI, _TRAIN_TILES, _VALIDATION_TILES, _FIFTY = range(5)  # streams of the random generator


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    start = time.monotonic()
    write_sample(args)
    fifty = FIFTY_CLASSES * sum(FIFTY_IMAGES.values())
    print(
        f"{args.folder / 'hw1_data'}: {args.train_images} + {args.val_images} images of {args.classes} "
        f"classes, {args.mini_images} of mini, {fifty} of 50 classes, {args.train_tiles} + {args.val_tiles} "
        f"tiles in {time.monotonic() - start:.1f} s"
    )
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m datasets.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder to make hw1_data/ in")

    def add(flag: str, default: int, lowest: int, highest: int, text: str) -> None:
        number, text = _whole_number(lowest, highest), f"{text} (default {default})"
        parser.add_argument(flag, type=number, default=default, metavar="N", help=text)

    add("--classes", 10, 2, OBJECT_CLASSES - MINI_CLASSES, "classes of office; the course has 65")
    add("--train-images", 480, 1, 10**6, "images of office/train")
    add("--val-images", 120, 1, 10**6, "images of office/val")
    add("--image-size", 128, 16, 4096, "about the side of an office image in pixels")
    add("--mini-images", 300, 1, 10**6, "images of mini/train")
    add("--train-tiles", 40, 1, 10**4, "tiles of p2_data/train")
    add("--val-tiles", 14, 1, 10**4, "tiles of p2_data/validation")
    add("--tile-size", 512, 32, 4096, "side of a tile in pixels; the course's is the default")
    add("--seed", 0, 0, 2**32 - 1, "another number, other pictures")
    return parser.parse_args(argv)


def _whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{value} is not from {lowest} to {highest}")
        return value

    parse.__name__ = "whole number"  # argparse says "invalid whole number value" with it
    return parse


def write_sample(args: argparse.Namespace) -> None:
    """Write the tree under another name and rename it. UserError where DIR/hw1_data is there, not empty."""
    folder = args.folder / "hw1_data"
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            why = "is there already, and made-up data never replaces anything"
            raise UserError(f"{folder}: {why}; give a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            p1, p2, seed = temporary / "p1_data", temporary / "p2_data", args.seed
            counts = {"train": args.train_images, "val": args.val_images}
            _write_office(p1 / "office", seed, args.classes, counts, args.image_size)
            _write_mini(p1 / "mini", seed, args.mini_images)
            _write_fifty(p1, seed)
            _write_tiles(p2 / "train", [seed, _TRAIN_TILES], args.train_tiles, args.tile_size)
            _write_tiles(p2 / "validation", [seed, _VALIDATION_TILES], args.val_tiles, args.tile_size)
            with suppress(OSError):  # a share without modes
                temporary.chmod(0o755)  # mkdtemp's folders are for their owner alone
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); give another folder") from None


def _write_office(folder: Path, seed: int, classes: int, counts: dict[str, int], image_size: int) -> None:
    """Labelled images named {label}_{k}.jpg, k counting a class over both splits, rows in no order."""
    order = np.random.default_rng([seed, _OFFICE])
    numbers = [order.permutation(sum(counts.values()) // classes + 2) for _ in range(classes)]
    offset = 0
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        labels = order.permutation(np.arange(offset, offset + count) % classes)
        rows = []
        for label in labels.tolist():
            number, numbers[label] = numbers[label][0], numbers[label][1:]
            rows.append((f"{label}_{number}.jpg", label))

        def draw(position: int, split: str = split, rows: list = rows, offset: int = offset) -> None:
            rng = np.random.default_rng([seed, _OFFICE, offset + position])
            height, width = (image_size * rng.uniform(0.85, 1.25, 2)).astype(int).tolist()
            name, label = rows[position]
            draw_object(rng, label, (height, width)).save(folder / split / name, quality=JPEG_QUALITY)

        _for_each(draw, count)
        _write_table(folder / f"{split}.csv", rows)
        offset += count
    _write_names(folder / "classes.txt", range(classes))


def _write_mini(folder: Path, seed: int, count: int) -> None:
    """Images of other classes than office's; `train_labels.csv` is for supervised pre-training alone."""
    (folder / "train").mkdir(parents=True)
    order = np.random.default_rng([seed, _MINI])
    labels = order.permutation(np.arange(count) % MINI_CLASSES).tolist()
    first = OBJECT_CLASSES - MINI_CLASSES

    def draw(index: int) -> None:
        rng = np.random.default_rng([seed, _MINI, index])
        image = draw_object(rng, first + labels[index], MINI_SIZE)
        image.save(folder / "train" / f"{index}.jpg", quality=JPEG_QUALITY)

    _for_each(draw, count)
    _write_table(folder / "train_labels.csv", [(f"{index}.jpg", label) for index, label in enumerate(labels)])
    _write_names(folder / "classes.txt", range(first, OBJECT_CLASSES))


def _write_fifty(folder: Path, seed: int) -> None:
    """The editions with 50 classes: small images, a class is numbered through both splits."""
    first = 0
    for split, count in FIFTY_IMAGES.items():
        (folder / split).mkdir()

        def draw(index: int, split: str = split, count: int = count, first: int = first) -> None:
            label, number = index // count, first + index % count
            rng = np.random.default_rng([seed, _FIFTY, label, number])
            draw_object(rng, label, FIFTY_SIZE).save(folder / split / f"{label}_{number}.png")

        _for_each(draw, FIFTY_CLASSES * count)
        first += count


def _write_tiles(folder: Path, seed: list[int], count: int, side: int) -> None:
    """Tiles with masks; each of the seven classes is in one of them at least, however few they are."""
    folder.mkdir(parents=True)

    def draw(index: int) -> None:
        wanted = [label for label in range(NUM_CLASSES) if label % count == index]
        tile, classes = draw_tile(np.random.default_rng([*seed, index]), side, wanted)
        tile.save(folder / f"{index:04d}_sat.jpg", quality=JPEG_QUALITY)
        save_mask(classes, folder / f"{index:04d}_mask.png")

    _for_each(draw, count)


def _for_each(draw: Callable[[int], None], count: int) -> None:
    """Call `draw` with 0 to count - 1, several at a time; the first error comes back."""
    with ThreadPoolExecutor(available_cores()) as pool:
        for _ in pool.map(draw, range(count)):
            pass


def _write_table(path: Path, rows: list[tuple[str, int]]) -> None:
    """The course's form: `id,filename,label`, id from 0, CRLF."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "filename", "label"))
        writer.writerows((number, *row) for number, row in enumerate(rows))


def _write_names(path: Path, classes: range) -> None:
    path.write_text("".join(f"{object_name(label)}\n" for label in classes), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
