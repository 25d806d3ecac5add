"""What a fine-tuned classifier says of the validation images: the predictions.csv of its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from datasets.tables import read_table, write_table
from engine.base import UserError, write_atomically

if TYPE_CHECKING:
    from datasets.labelled import LabelledImages

COLUMNS = ("filename", "label", "predicted")


def write_predictions(path: Path, photographs: LabelledImages, predicted: Sequence[int]) -> None:
    """A row for each photograph: its name, its label and the label predicted, as the classes are called."""
    from engine.run import plain_errors  # imports torch, which no reader of a CSV waits for

    classes = photographs.classes
    rows = [
        (name, classes[label], classes[answer])
        for name, label, answer in zip(photographs.names, photographs.labels, predicted)
    ]
    with plain_errors(path), write_atomically(path) as temporary:
        write_table(temporary, COLUMNS, rows)


def read_predictions(path: str | Path) -> list[tuple[str, str]]:
    """(true, predicted) label of each row of a predictions.csv, at least one; UserError otherwise."""
    rows = read_table(path, COLUMNS)
    if not rows:
        raise UserError(f"{path}: has no row below its header; train the run again in a new folder")
    return [(row["label"].strip(), row["predicted"].strip()) for row in rows]
