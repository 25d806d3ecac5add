"""What a fine-tuned classifier says of the validation images, and how well it did: predictions.csv, best and last."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from datasets.labelled import LabelledImages
from datasets.tables import write_table
from engine.files import write_atomically
from engine.run import plain_errors
from report.runs import read_run, series


def write_predictions(path: Path, photographs: LabelledImages, predicted: Sequence[int]) -> None:
    """A row for each photograph: its name, its label and the label predicted, as the classes are called."""
    classes = photographs.classes
    rows = [
        (name, classes[label], classes[answer])
        for name, label, answer in zip(photographs.names, photographs.labels, predicted)
    ]
    with plain_errors(path), write_atomically(path) as temporary:
        write_table(temporary, ("filename", "label", "predicted"), rows)


def best_and_last(folder: str | Path) -> str:
    """The run's best accuracy and its last, in words. The best is chosen on the images that it is measured on."""
    accuracies = series(read_run(folder), "accuracy")
    (best_epoch, best), (last_epoch, last) = max(accuracies, key=lambda pair: pair[1]), accuracies[-1]
    return f"best accuracy {best:.4f} (epoch {best_epoch}), last {last:.4f} (epoch {last_epoch})"
