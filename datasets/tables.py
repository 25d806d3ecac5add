"""The tables of problem 1: CSVs, read as they were meant and written in the course's form; logits, as .npz.

In every table of predictions `label` is our answer, as in the file that hw1_1.sh writes; the true label,
where there is one, is called `truth`.
"""

from __future__ import annotations

import csv
import io
import os
import re
import zipfile
from pathlib import Path
from typing import Iterable, NamedTuple, Sequence

import numpy as np

from datasets.images import list_images
from engine.base import LARGEST_TEXT, UserError, cannot_write, open_regular, read_regular, write_atomically

NO_LABEL = ("", "None", "NONE", "nan", "NaN")  # the course's test files, and pandas where there is none
# The course's office is Office-Home's Real World: its label k is the k-th of the 65 names by the alphabet.
OFFICE_HOME = """
    Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards
    Computer Couch Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder Fork
    Glasses Hammer Helmet Kettle Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug Notebook
    Oven Pan Paper_Clip Pen Pencil Postit_Notes Printer Push_Pin Radio Refrigerator Ruler Scissors
    Screwdriver Shelf Sink Sneakers Soda Speaker Spoon TV Table Telephone ToothBrush Toys Trash_Can Webcam
"""
_WHOLE_NUMBER = re.compile(r"0*([0-9]{1,9})(\.0*)?")  # 3, 03 and pandas' 3.0
COLUMNS = ("id", "filename", "image_id", "label", "truth")  # what any table of the course's or ours has
LARGEST_ARRAYS = 64 << 20  # bytes of a .npz, unpacked too; 2,500 images of 50 classes take 0.6 MB
PREDICTIONS = ("filename", "label", "truth")  # the columns of a run's own predictions


def read_table(path: str | Path, required: Sequence[str] = ("filename",)) -> list[dict[str, str]]:
    """One dict for each row below the header, cell by column name (of COLUMNS), as it stands in the file.

    A byte-order mark, either line end, quotes, spaces after commas, blank lines, more columns and other
    orders of them are taken as they are meant; cells that a short row lacks are "". UserError when it can't
    be read, isn't UTF-8, or lacks a column.
    """
    needs = f"give a CSV with the column{'s' if len(required) > 1 else ''} {', '.join(required)}"
    try:
        text = read_regular(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}; {needs}") from None
    # The csv module refuses NUL before Python 3.11: a character that the text lacks stands in for it.
    stand_in, used = "\0", set(text)
    if "\0" in used:
        stand_in = next(chr(code) for code in range(0xE000, 0x110000) if chr(code) not in used)
    lines = io.StringIO(text.replace("\0", stand_in), newline="")
    csv.field_size_limit(LARGEST_TEXT)
    try:
        # A quote after a space is meant to open a quoted cell; then no cell begins with a space.
        reader = csv.reader(lines, skipinitialspace=', "' in text)
        rows = (row for row in reader if any(cell.strip() for cell in row))
        header = [name.strip().lower() for name in next(rows, [])]
        for column in required:
            if column not in header:
                found = f"only {', '.join(header)}"[:200] if header else "the file is empty"
                raise UserError(f"{path}: no column '{column}' ({found}); {needs}")
        # Of two columns with one name, the first.
        columns = {name: header.index(name) for name in (*COLUMNS, *required) if name in header}
        return [
            {name: row[i].replace(stand_in, "\0") if i < len(row) else "" for name, i in columns.items()}
            for row in rows
        ]
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV ({error}); {needs}") from None


def write_table(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV as the course reads it: UTF-8 without byte-order mark, `\\n` line ends, quotes if needed.

    A file name that isn't UTF-8 keeps the bytes that it has in its folder.
    """
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.writelines(",".join(map(_quoted, row)) + "\n" for row in (header, *rows))


def _quoted(cell: object) -> str:
    # The csv module leaves a lone \r bare (before Python 3.13), and readers then see two rows.
    text = str(cell)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def read_labels(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV with `filename` (or `image_id`) and `label`, at least one; UserError otherwise.

    Labels, and true ones in a column `truth`, are read as `as_labels` says.
    """
    rows = read_table(path, ("label",))
    if not rows:
        raise UserError(f"{path}: has no row below its header; give a CSV with labels")
    if "filename" not in rows[0]:
        if "image_id" not in rows[0]:
            raise UserError(f"{path}: no column 'filename'; give a CSV with file names")
        rows = [{**row, "filename": row["image_id"]} for row in rows]
    rows = [{column: cell.strip() for column, cell in row.items()} for row in rows]
    return _with_labels(rows)


def as_labels(cells: Iterable[str]) -> list[str]:
    """The one reading of a table's labels, in training, inference and scoring.

    `3`, `3.0` and `03` are "3" where all are whole numbers; what is no label (NO_LABEL) is "".
    """
    labels = ["" if cell.strip() in NO_LABEL else cell.strip() for cell in cells]
    numbers = [_WHOLE_NUMBER.fullmatch(label) for label in labels]
    if not all(number or not label for number, label in zip(numbers, labels)):
        return labels
    return [str(int(number.group(1))) if number else "" for number in numbers]


def _with_labels(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same rows, their labels read as they are meant."""
    for column in ("label", "truth"):
        if column in rows[0]:
            labels = as_labels(row[column] for row in rows)
            rows = [{**row, column: label} for row, label in zip(rows, labels)]
    return rows


def write_predictions(
    path: str | Path, names: Sequence[str], predicted: Sequence[str], truth: Sequence[str]
) -> None:
    """Write a run's answers for its validation images, all or nothing. UserError when it cannot."""
    try:
        with write_atomically(path) as temporary:
            write_table(temporary, PREDICTIONS, zip(names, predicted, truth))
    except OSError as error:
        raise cannot_write(str(path), error) from None


def read_predictions(path: str | Path) -> list[tuple[str, str, str]]:
    """(filename, true label, predicted label) of each row of a run's predictions; UserError if none."""
    rows = read_table(path, PREDICTIONS)
    if not rows:
        raise UserError(f"{path}: has no row below its header; train the run again in a new folder")
    return [(row["filename"], row["truth"], row["label"]) for row in _with_labels(rows)]


def read_class_names(path: str | Path, labels: Iterable[str]) -> dict[str, str]:
    """Label → name from a classes.txt, a name a line. Where there is none, or none that can be read,
    Office-Home's where the `labels` are its 65 numbers, else none at all.
    """
    try:
        text = read_regular(path).decode("utf-8-sig", errors="replace")
        names = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    except OSError:
        names = OFFICE_HOME.split()
        if set(labels) != {str(label) for label in range(len(names))}:
            return {}
    return {str(label): name.strip().replace("_", " ") for label, name in enumerate(names) if name.strip()}


def labels_in_names(folder: str | Path) -> list[dict[str, str]]:
    """As read_labels, of every image {label}_{number}.png in the folder; "" where a name has no label."""
    rows = [{"filename": name, "label": name.rpartition("_")[0]} for name in list_images(folder)]
    if not rows:
        raise UserError(f"{folder}: no image in it; give a folder of labelled images")
    return _with_labels(rows)


# -- arrays --------------------------------------------------------------------------------------------------


def read_arrays(path: str | Path, names: Sequence[str]) -> list[np.ndarray]:
    """The arrays of these names in a .npz; nothing in it is run. ValueError tells why there are none."""
    try:
        with open_regular(path, LARGEST_ARRAYS) as file, zipfile.ZipFile(file) as packed:
            if sum(part.file_size for part in packed.infolist()) > LARGEST_ARRAYS:
                raise OSError(0, f"larger than {LARGEST_ARRAYS / 1e6:,.0f} MB")
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except Exception as error:  # zipfile and numpy raise a dozen kinds at files that are none of theirs
        raise ValueError(getattr(error, "strerror", None) or "it holds something else") from None


class Logits(NamedTuple):
    """What one checkpoint answered for images, each once."""

    names: list[str]  # of N images
    classes: list[str]  # C
    logits: np.ndarray  # (N, C) float32, as the network gives them; of several TTA passes, see models.predict
    checkpoint: str  # its path
    sha256: str  # of its bytes
    tta: str


def write_logits(path: str | Path, logits: Logits) -> None:
    """Write them as .npz, the checkpoint's path relative to it; OSError when the disk does not take it."""
    path = os.path.realpath(path)
    checkpoint = os.path.relpath(os.path.realpath(logits.checkpoint), os.path.dirname(path))
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **logits._replace(checkpoint=checkpoint)._asdict())


def read_logits(path: str | Path) -> Logits:
    """What p1_inference.py --save-logits wrote. UserError where there is no such file, or another."""
    advice = "write it with p1_inference.py --save-logits"
    try:
        names, classes, logits, *said = read_arrays(path, Logits._fields)
    except ValueError as error:
        raise UserError(f"{path}: no logits to read ({error}); {advice}") from None
    for what, texts in (("names", names), ("classes", classes)):
        if texts.dtype.kind != "U" or texts.ndim != 1 or not 0 < len(set(texts.tolist())) == len(texts):
            raise UserError(f"{path}: its {what} are no list without repetition; {advice}")
    is_matrix = logits.dtype.kind == "f" and logits.shape == (len(names), len(classes))
    if not is_matrix or not np.isfinite(logits).all():
        raise UserError(f"{path}: its logits are no finite numbers, images by classes; {advice}")
    if any(text.dtype.kind != "U" or text.ndim for text in said):
        raise UserError(f"{path}: does not say which checkpoint it is of; {advice}")
    checkpoint, sha256, tta = map(str, said)
    checkpoint = os.path.join(os.path.dirname(os.path.realpath(path)), checkpoint)
    return Logits(names.tolist(), classes.tolist(), logits, checkpoint, sha256, tta)
