"""What the table of settings A to E shows, in sentences that say no more than its figures support."""

from __future__ import annotations

import math
from typing import Sequence

from report.settings_runs import Row

# (one, other, what is different in the first), in the order of the report.
COMPARED = (
    ("B", "A", "pre-training with labels instead of random weights, everything fine-tuned"),
    ("C", "A", "own pre-training without labels instead of random weights, everything fine-tuned"),
    ("C", "B", "pre-training without labels instead of with, everything fine-tuned"),
    ("E", "D", "pre-training without labels instead of with, classifier alone"),
    ("B", "D", "fine-tuning everything instead of the classifier alone, pre-trained with labels"),
    ("C", "E", "fine-tuning everything instead of the classifier alone, pre-trained without labels"),
)
LEAST_ANSWERS = 10  # right ones, and wrong ones, of both together: below that no bell curve is near


def analyse(rows: Sequence[Row], chance: float | None) -> list[str]:
    """A sentence for each two settings that both have finished runs, after one that says how to read them.

    `chance` is the accuracy of guessing, where the number of classes is known.
    """
    finished = [row for row in rows if row.best]
    known = {row.setting: row for row in finished if row.validation_images}
    # Best epochs flatter, each by as much as it was scored often; last ones were chosen by nothing.
    is_last = all(row.last for row in known.values())
    which = "last-epoch" if is_last else "best-epoch"
    sentences = []
    for one, other, what in COMPARED:
        if one in known and other in known:
            sentences.append(_compare(known[one], known[other], what, is_last))
    if sentences:
        sentences.insert(
            0,
            f"The sentences below compare {which} accuracies, means over the seeds. The standard error of a "
            "difference is sqrt(p (1 - p) (1 / n1 + 1 / n2)), with p their mean and n images of validation; "
            "it says nothing of how far another pre-training would move a setting.",
        )
    unknown = [row.setting for row in finished if row.setting not in known]
    if unknown:
        sentences.append(
            f"Not compared: {', '.join(unknown)}, since the number of validation images is not known, or not "
            "the same in all seeds."
        )
    if chance is not None:
        for row in known.values():
            accuracy, error = (
                _accuracy(row, is_last),
                math.sqrt(chance * (1 - chance) / row.validation_images),
            )
            if accuracy < chance + 2 * error:
                where = "within two standard errors of" if accuracy > chance - 2 * error else "below"
                sentences.append(
                    f"{row.setting} ({accuracy:.4f}) lies {where} what guessing would reach ({chance:.4f})."
                )
    return sentences


def _compare(one: Row, other: Row, what: str, is_last: bool) -> str:
    first, second = _accuracy(one, is_last), _accuracy(other, is_last)
    n, m = one.validation_images, other.validation_images
    mean = (first * n + second * m) / (n + m)
    error = math.sqrt(mean * (1 - mean) * (1 / n + 1 / m))
    apart = abs(first - second)
    if not apart:
        return f"{one.setting} against {other.setting} ({what}): both are {first:.4f}."
    if min(mean, 1 - mean) * (n + m) < LEAST_ANSWERS:
        few = "wrong" if mean > 0.5 else "right"
        verdict = f"{apart * n:.1f} of {n} images, and too few are {few} for a standard error to say anything"
    elif apart < error:
        verdict = (
            f"within one standard error of the difference ({error:.4f}), so these runs do not tell them apart"
        )
    elif apart < 2 * error:
        verdict = f"{apart / error:.1f} standard errors of the difference ({error:.4f}), a hint and no proof"
    else:
        times = f"{apart / error:.1f} standard errors of the difference ({error:.4f})"
        verdict = f"{times}, more than the choice of images explains"
    side = "above" if first > second else "below"
    distance = f"{first:.4f} lies {apart:.4f} {side} {second:.4f}"
    return f"{one.setting} against {other.setting} ({what}): {distance}, {verdict}."


def _accuracy(row: Row, is_last: bool) -> float:
    return (row.last if is_last else row.best)[0]
