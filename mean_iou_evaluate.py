#!/usr/bin/env python3
"""The course's score of land-cover masks: intersection over union of six classes, and its mean.

    python3 mean_iou_evaluate.py -g hw1_data/p2_data/validation -p predictions

Stands alone: this one file, numpy and Pillow. Prints what the course's script of the same name prints, to the
last digit, but holds only one pair of masks per processor core at a time. `read_masks(folder)` and
`mean_iou_score(pred, labels)` can be imported, and return what the course's return.

Exit status: 0 scored; 2 nothing scored, one line on stderr says why.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

try:
    import numpy as np
    from PIL import Image, UnidentifiedImageError
except ImportError as missing:
    if __name__ != "__main__":
        raise
    print(
        f"error: {sys.executable} lacks a package ({missing}); activate the environment of make setup, or "
        "python3 -m pip install numpy pillow",
        file=sys.stderr,
    )
    sys.exit(2)

CLASS_NAMES = ("urban", "agriculture", "rangeland", "forest", "water", "barren", "unknown")
COLOURS = ((0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0))
NUM_SCORED = 6  # unknown, class 6, has no line of its own, but its pixels count against the other classes

# The class of each code 4R + 2G + B, each channel being 1 from 128 on. No colour has code 4, red: the
# course's array keeps there what the memory held, which is 0 for a large fresh array.
RED = 4
CLASS_OF_CODE = np.zeros(8, dtype=np.intp)
for _class, (_r, _g, _b) in enumerate(COLOURS):
    CLASS_OF_CODE[4 * (_r >= 128) + 2 * (_g >= 128) + (_b >= 128)] = _class

# Masks are opened as these alone, whatever they are called: EPS, for one, starts a program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
LARGEST_FILE = 1 << 30  # bytes
AT_ONCE = 64  # pairs that wait for a thread: all of a large folder would fill the memory

COURSE_NAME = re.compile(r"([0-9]+)(?:_mask)?\.png")  # 0012_mask.png, or 0012.png in 2021 and 2022


class MaskError(ValueError):
    """Masks that cannot be scored. The text is for the user."""

    exit_status = 2


def list_masks(folder: str) -> list[str]:
    """The names in a folder that end in .png, sorted by code point, as the course takes them."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".png"))
    except OSError as error:
        raise MaskError(f"{folder}: {error.strerror}; give a folder of masks") from None
    if not names:
        raise MaskError(f"{folder}: no name in it ends in .png; give a folder of masks")
    return names


def read_rgb(path: str) -> np.ndarray:
    """A mask's colours, (H, W, 3) uint8; of palette and RGBA masks too. MaskError for anything else."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
            raise MaskError(f"{path}: not a regular file; put a mask there")
        if status.st_size > LARGEST_FILE:
            raise MaskError(f"{path}: {status.st_size:,} bytes, too many for a mask; write this mask again")
        with Image.open(path, formats=FORMATS) as image:
            is_grey = len(image.getbands()) < 3 and image.mode not in ("P", "PA")
            rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except (MaskError, MemoryError):
        raise
    except Exception as error:  # what Pillow raises for broken files depends on the byte that is broken
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else reason
        raise MaskError(f"{path}: {reason}; write this mask again") from None
    if is_grey:
        raise MaskError(f"{path}: a grey image, not a mask; save it in the seven colours as RGB")
    return rgb


def codes_of(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 colours → (...) uint8 codes 0 to 7."""
    bits = rgb >> 7
    return bits[..., 0] << 2 | bits[..., 1] << 1 | bits[..., 2]


def size_of(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]} pixels"


def read_masks(filepath: str) -> np.ndarray:
    """All masks of a folder in the order of their names: (n, H, W) float64 classes 0 to 6, red as 0."""
    paths = [os.path.join(filepath, name) for name in list_masks(filepath)]
    masks = np.empty((0,))
    for index, path in enumerate(paths):
        rgb = read_rgb(path)
        if index == 0:
            masks = np.empty((len(paths), *rgb.shape[:2]))
        if rgb.shape[:2] != masks.shape[1:]:
            raise MaskError(f"{path}: {size_of(rgb)}, but {paths[0]} has {size_of(masks[0])}")
        masks[index] = np.take(CLASS_OF_CODE, codes_of(rgb))
    return masks


def by_number(folder: str, names: list[str]) -> dict[int, str]:
    """Number → name; empty when a name is not one of the course's."""
    table = {}
    for name in names:
        match = COURSE_NAME.fullmatch(name)
        if match is None:
            return {}
        other = table.setdefault(int(match.group(1)), name)
        if other != name:
            raise MaskError(f"{folder}: {other} and {name} have the same number; keep one of them")
    return table


def check_partners(folder: str, names: dict[int, str], partners: dict[int, str]) -> None:
    missing = sorted(set(partners) - set(names))
    if missing:
        first, more = partners[missing[0]], f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MaskError(f"{folder}: no mask that belongs to {first}{more}; each needs its partner")


def pair_masks(pred_folder: str, label_folder: str) -> list[tuple[str, str]]:
    """Paths (prediction, label), paired by number where all names are the course's, else by position."""
    preds, labels = list_masks(pred_folder), list_masks(label_folder)
    pred_of, label_of = by_number(pred_folder, preds), by_number(label_folder, labels)
    if pred_of and label_of:
        check_partners(pred_folder, pred_of, label_of)
        check_partners(label_folder, label_of, pred_of)
        preds, labels = zip(*((pred_of[number], label_of[number]) for number in sorted(label_of)))
    elif len(preds) != len(labels):
        count = f"{len(preds)} masks in {pred_folder}, but {len(labels)} in {label_folder}"
        raise MaskError(f"{count}; each needs its partner")
    elif preds != labels:
        say("note: not all names are like 0012_mask.png: paired by their position in the sort")
    return [
        (os.path.join(pred_folder, pred), os.path.join(label_folder, label))
        for pred, label in zip(preds, labels)
    ]


def count_pair(pair: tuple[str, str]) -> np.ndarray:
    """Pixels of one pair (prediction, label) by their codes: (8 of the label, 8 of the prediction) int64."""
    pred, label = read_rgb(pair[0]), read_rgb(pair[1])
    if pred.shape != label.shape:
        raise MaskError(f"{pair[0]}: {size_of(pred)}, but its label {pair[1]} has {size_of(label)}")
    pred, label = pred.reshape(-1), label.reshape(-1)
    # Masks are flat patches, so only the first pixel of a run in which neither mask changes is looked at. A
    # pixel starts a run when one of its three bytes differs from the byte three before it.
    changed = pred[3:] != pred[:-3]
    changed |= label[3:] != label[:-3]
    starts = np.concatenate(([0], np.flatnonzero(changed) // 3 + 1))
    lengths = np.diff(starts, append=len(pred) // 3)  # 0 where a pixel stands twice, differing in two bytes
    codes = 8 * codes_of(label.reshape(-1, 3)[starts]) + codes_of(pred.reshape(-1, 3)[starts])
    return np.bincount(codes, weights=lengths, minlength=64).astype(np.int64).reshape(8, 8)


def count_masks(pairs: list[tuple[str, str]]) -> np.ndarray:
    """The sum of `count_pair` over all pairs, by threads: Pillow and numpy let go of the GIL."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = np.zeros((8, 8), dtype=np.int64)
    with ThreadPoolExecutor(min(cores, len(pairs))) as pool:
        for start in range(0, len(pairs), AT_ONCE):
            counts += sum(pool.map(count_pair, pairs[start : start + AT_ONCE]))
    return counts


def iou_of(tp: int, tp_fp: int, tp_fn: int) -> float:
    """Intersection over union of one class; nan where neither side has it."""
    union = int(tp_fp) + int(tp_fn) - int(tp)
    return int(tp) / union if union else float("nan")


def mean_of(ious: list[float]) -> np.float64:
    """The mean as the course adds it up: one by one (sum() corrects its rounding, from Python 3.12 on)."""
    mean_iou = np.float64(0)
    for iou in ious:
        mean_iou += iou / NUM_SCORED
    return mean_iou


def print_scores(ious: list[float]) -> None:
    for index, iou in enumerate(ious):
        tell(f"class #{index} : {iou:1.5f}")
    tell(f"\nmean_iou: {mean_of(ious):f}\n")


def mean_iou_score(pred: np.ndarray, labels: np.ndarray) -> np.float64:
    """Print and return the mean IoU over six classes of two arrays of classes, both (n, H, W), say."""
    pred, labels = np.asarray(pred), np.asarray(labels)
    if pred.shape != labels.shape:
        raise MaskError(f"predictions of shape {pred.shape}, but labels of shape {labels.shape}")
    ious = []
    for index in range(NUM_SCORED):
        is_pred, is_label = pred == index, labels == index
        both = np.count_nonzero(is_pred & is_label)
        ious.append(iou_of(both, np.count_nonzero(is_pred), np.count_nonzero(is_label)))
    print_scores(ious)
    return mean_of(ious)


def print_confusion(confusion: np.ndarray) -> None:
    tell("pixels of each label (rows) and prediction (columns)")
    for name, row in zip(("", *CLASS_NAMES), (CLASS_NAMES, *confusion.tolist())):
        tell(f"{name:11}" + "".join(f"{entry:>12}" for entry in row))


def write_json(path: str, value: dict) -> None:
    """Write under another name first, so that the file is whole or not there."""
    part = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(part, "w", encoding="utf-8") as file:
            file.write(json.dumps(value) + "\n")
            file.flush()
            with suppress(OSError):  # some network shares know no fsync
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if os.path.exists(part):
            os.remove(part)
        raise MaskError(f"{path}: {error.strerror}; give --json a file that can be written") from None


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-g", "--labels", required=True, help="folder with the true masks")
    add("-p", "--pred", required=True, help="folder with the predicted masks")
    add("--json", metavar="FILE", help="write scores and confusion matrix to this file as well")
    add("--confusion", action="store_true", help="print the confusion matrix below the scores")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    pairs = pair_masks(args.pred, args.labels)
    codes = count_masks(pairs)
    red = {"labels": int(codes[RED].sum()), "pred": int(codes[:, RED].sum())}
    for side, count in red.items():
        if count:
            say(f"note: {vars(args)[side]}: {count} red pixels, a colour of no class, are scored as class 0")

    # Rows are labels, columns predictions.
    confusion = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), dtype=np.int64)
    np.add.at(confusion, (CLASS_OF_CODE[:, None], CLASS_OF_CODE[None, :]), codes)
    ious = [iou_of(confusion[i, i], confusion[:, i].sum(), confusion[i].sum()) for i in range(NUM_SCORED)]
    if args.json:
        # JSON has no nan.
        mean_iou, *per_class = [None if np.isnan(score) else float(score) for score in (mean_of(ious), *ious)]
        scores = {"mean_iou": mean_iou, "iou": dict(zip(CLASS_NAMES, per_class)), "masks": len(pairs)}
        write_json(args.json, {**scores, "red_pixels": red, "confusion": confusion.tolist()})
    print_scores(ious)
    if args.confusion:
        print_confusion(confusion)


def tell(text: str) -> None:
    """Print a result; a disk that is full or a reader that has left stops nothing."""
    with suppress(OSError, ValueError):
        print(text)


def say(text: str) -> None:
    """One line on stderr, where there is one, without what moves a terminal."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def finish(status: int) -> None:
    """Leave with this status, also where nobody reads the scores any more, or the disk is full."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the last flush, which is Python's own
    sys.exit(status)


if __name__ == "__main__":
    try:
        main(get_args())
    except MaskError as error:
        say("error: " + " ".join(str(error).split()))
        finish(error.exit_status)
    except KeyboardInterrupt:
        finish(130)
    finish(0)
