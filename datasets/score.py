"""Accuracy of predicted labels: overall and a class, each with its standard error.

    python3 -m datasets.score predictions.csv hw1_data/p1_data/office/val.csv
    python3 -m datasets.score predictions.csv hw1_data/p1_data/val_50    # labels in the images' names

Rows are matched by file name (`filename`, or `image_id` in early editions), and by `id` where both files have
it; their order may differ. Labels are numbers or class names, read as in training: `3`, `3.0` and `03` are 3.

Exit status: 0 scored; 2 nothing scored, the reason is one line on stderr.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Iterable, Sequence

from datasets.images import natural_key
from datasets.tables import labels_in_names, read_labels
from engine.base import UserError, run_script

Key = tuple  # (filename,) or (id, filename)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m datasets.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("predictions", metavar="PRED.csv", type=Path, help="the CSV that inference wrote")
    add("truth", metavar="TRUTH.csv", type=Path, help="the true labels: a CSV, or a folder of 7_123.png")
    args = parser.parse_args(argv)
    print(describe(matched_labels(args.predictions, args.truth)))
    return 0


def matched_labels(predictions: str | Path, truth: str | Path) -> list[tuple[str, str]]:
    """(predicted, true) labels of each row of `truth`.

    UserError when a row of either has no partner, or no truth.
    """
    predicted_rows = read_labels(predictions)
    true_rows = read_truth(truth)
    with_id = all("id" in rows[0] for rows in (predicted_rows, true_rows))
    predicted, true = _labels_by_row(predicted_rows, with_id), _labels_by_row(true_rows, with_id)
    sides = [(predictions, predicted), (truth, true)]
    for (path, keys), (other_path, others) in (sides, sides[::-1]):
        alone = [key for key in others if len(others[key]) > len(keys.get(key, ()))]
        if alone:
            raise UserError(
                f"{path}: lacks {len(alone)} of the rows of {other_path}, {_row(alone[0])} first; "
                "give the prediction of this very CSV"
            )
    pairs = [pair for key in true for pair in zip(predicted[key], true[key])]
    unlabelled = sum(not label for _, label in pairs)
    if unlabelled:
        rows = f"{unlabelled} of {len(pairs)} rows"
        raise UserError(f"{truth}: {rows} have no label; give a CSV with the true labels")
    return pairs


def read_truth(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV, or of a folder of 7_123.png, each with its true `label`, or "" for none."""
    rows = labels_in_names(path) if Path(path).is_dir() else read_labels(path)
    # A run's predictions.csv has our answer as `label`; given as the truth, it is its `truth` that is meant.
    return [{**row, "label": row.get("truth", row["label"])} for row in rows]


def _labels_by_row(rows: Iterable[dict[str, str]], with_id: bool) -> dict[Key, list[str]]:
    """The labels of each row's key, in the file's order; a row that stands twice has two."""
    labels = defaultdict(list)
    for row in rows:
        labels[(row["id"], row["filename"]) if with_id else (row["filename"],)].append(row["label"])
    return dict(labels)


def _row(key: Key) -> str:
    return key[0] if len(key) == 1 else f"{key[1]} (id {key[0]})"


def accuracy(correct: int, count: int) -> tuple[float, float]:
    """(share of correct ones, its standard error: the binomial's sqrt(p (1 - p) / n))."""
    share = correct / count
    return share, math.sqrt(share * (1 - share) / count)


def describe(pairs: Sequence[tuple[str, str]]) -> str:
    """The result as text: a line a class in natural order, then the whole."""
    counts = Counter(true for _, true in pairs)
    hits = Counter(true for predicted, true in pairs if predicted == true)
    width = max(len("class"), *map(len, counts))
    lines = [f"{'class':<{width}}  right     of  accuracy  std.err."]
    for label in sorted(counts, key=natural_key):
        share, error = accuracy(hits[label], counts[label])
        lines.append(f"{label:<{width}}  {hits[label]:5d}  {counts[label]:5d}    {share:.4f}    {error:.4f}")
    share, error = accuracy(sum(hits.values()), len(pairs))
    lines += ["", f"accuracy: {share:.4f} +- {error:.4f} ({sum(hits.values())} of {len(pairs)} images)"]
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
