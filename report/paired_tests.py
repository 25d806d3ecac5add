"""Paired tests of two settings, networks or runs that answered for the same images, or the same tiles.

Accuracies are compared by sign flips over the images, mean IoUs by a bootstrap over the tiles. Both ask how
far the choice of validation images moves a difference. Neither knows how far another seed or another
pre-training would: the runs are taken as they are. The draws have a fixed seed, so the same files give the
same figures. UserError where there is no test, in words that tell why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Sequence

import numpy as np

from datasets.palette import NUM_CLASSES, SCORED_CLASSES
from datasets.tables import read_arrays, read_predictions
from engine.base import UserError
from engine.run_folder import CONFUSIONS, PREDICTIONS, PREDICTIONS_LAST, RunRecord, best, scores

SEED = 0
SIGN_FLIPS = 10_000
BOOTSTRAP_DRAWS = 2_000
INTERVAL = 0.95
FEWEST_TILES = 10  # of fewer, the draws are nearly all alike, and any difference would look certain
A_HINT, CLEAR = 0.05, 0.01  # below these p a difference is called a hint, and more than chance
EXACT = 2**53  # pixels; above, float64 skips whole numbers
ROUNDING = 1e-6  # between a score in metrics.jsonl and the same one from counts
AGAIN = "train the run again in a new folder"
TESTED = ("accuracy", "mean_iou")  # the scores of runs that leave what a test needs

Answers = Sequence["tuple[str, str, str]"]  # (filename, true label, predicted label) of each image


@dataclass(frozen=True)
class PairedTest:
    """What two sides reached on the same images or tiles, and how likely chance alone parts them so far."""

    first: float  # accuracy or mean IoU, in [0, 1]; of several seeds their mean
    second: float
    p: float  # two-sided; not corrected for how many tests are made beside it
    count: int  # of images or tiles
    unit: str  # "images" or "tiles"
    interval: tuple[float, float] | None = None  # 95 % of the difference; a sign-flip test has none

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second


@dataclass(frozen=True)
class Confusions:
    """The confusion matrix of each validation tile: (tiles, 7, 7) int64 pixels, truth by prediction."""

    names: tuple[str, ...]  # of the tiles, each once
    best: np.ndarray  # at the best epoch, which was chosen on these tiles
    last: np.ndarray  # at the last epoch


# -- of runs -------------------------------------------------------------------------------------------------


def compare_runs(one: RunRecord, other: RunRecord, score: str, is_last: bool) -> PairedTest:
    """The test of two finished runs by what they wrote of their best, or their last, epochs.

    `score` is one of TESTED. UserError where a file is missing or of another epoch than the score, or the
    images or tiles are others.
    """
    for run in (one, other):
        if run.gap:
            raise UserError(f"{run.folder}: {run.gap}")
    if score == "accuracy":
        return compare_accuracy([answers_of(one, is_last)], [answers_of(other, is_last)])
    return compare_mean_iou(confusions_of(one, is_last), confusions_of(other, is_last), is_last)


def answers_of(run: RunRecord, is_last: bool) -> Answers:
    """What a run of fine-tuning answered at its best or its last epoch."""
    file = run.folder / (PREDICTIONS_LAST if is_last else PREDICTIONS)
    answers = read_predictions(file)
    right = sum(truth == label for _, truth, label in answers)
    _check_epoch(file, right / len(answers), run, "accuracy", is_last)
    return answers


def confusions_of(run: RunRecord, is_last: bool) -> Confusions:
    """What a run of segmentation predicted; the epoch that is asked for is the one that was scored."""
    file = run.folder / CONFUSIONS
    confusions = read_confusions(file)
    total = (confusions.last if is_last else confusions.best).sum(axis=0).reshape(1, -1).astype(np.float64)
    reached = _mean_ious(np.concatenate([total, total], axis=1))[0, 0]
    _check_epoch(file, reached, run, "mean_iou", is_last)
    return confusions


def last_score(run: RunRecord, score: str) -> float | None:
    """That of the last epoch; None where it was not scored."""
    scored = scores(run, score)
    return scored[-1][1] if scored and scored[-1][0] == run.metrics[-1]["epoch"] else None


def _check_epoch(file: Path, reached: float, run: RunRecord, score: str, is_last: bool) -> None:
    """Text and test must speak of the same epoch."""
    expected = last_score(run, score) if is_last else (best(run, score) or (None, None))[1]
    if expected is None:
        raise UserError(f"{file}: its epoch was not scored; train the run to its end")
    if abs(reached - expected) > ROUNDING:
        wrong = f"is of another epoch, of {reached:.4f} where the run's score is {expected:.4f}"
        raise UserError(f"{file}: {wrong}; {AGAIN}")


# -- accuracy ------------------------------------------------------------------------------------------------


def compare_accuracy(one: Sequence[Answers], other: Sequence[Answers]) -> PairedTest:
    """Sign-flip test of two settings' accuracies, each the mean over its seeds' answers.

    An image's difference is the share of one's seeds that are right about it less the share of the other's.
    If the settings were alike, each difference could as well have the other sign (Edgington, Randomization
    Tests, 1980): p is the share of all choices of signs whose sum is at least as far from 0 as the one
    observed; nearly, with unlike numbers of seeds a side. With one seed a side that is McNemar's exact test;
    with more, signs are drawn 10,000 times, and the observed sum counts as one more draw (Phipson and Smyth
    2010), so that no p is 0.

    UserError unless all the answers are for the same images with the same truths, in whatever order.
    """
    truths = _common_truths([*one, *other])
    ones, others = _is_right(one, truths), _is_right(other, truths)
    first, second = float(ones.mean()), float(others.mean())
    # Whole numbers, by the common denominator, so that equal sums are equal.
    differences = ones.sum(axis=0) * len(others) - others.sum(axis=0) * len(ones)
    if len(ones) == len(others) == 1:
        p = mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))
    else:
        p = _sign_flips(differences)
    return PairedTest(first, second, p, len(truths), "images")


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided p of McNemar's exact test (McNemar 1947, with the binomial in place of his chi-squared).

    Of the n images that just one side has right, each is as likely the first side's as the second's:
    p = min(1, 2 P(X <= min(first_only, second_only))) with X binomial of n and 1/2.
    """
    n = first_only + second_only
    tail = sum(math.comb(n, k) for k in range(min(first_only, second_only) + 1))
    return min(1.0, 2 * tail / 2**n)  # whole numbers so far: nothing overflows, nothing is rounded


def _sign_flips(differences: np.ndarray) -> float:
    """p of a sum of whole numbers under random signs.

    Of the k numbers of one size s, b get a plus: they sum up to s (2 b - k), with b binomial of k and 1/2.
    """
    draws = np.random.default_rng(SEED)
    sums = np.zeros(SIGN_FLIPS, dtype=np.int64)
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    for size, count in zip(sizes, counts):
        sums += size * (2 * draws.binomial(count, 0.5, SIGN_FLIPS) - count)
    as_far = int((np.abs(sums) >= abs(differences.sum())).sum())
    return (1 + as_far) / (1 + SIGN_FLIPS)


def _common_truths(sides: Sequence[Answers]) -> dict[str, str]:
    """The true label of each image, which must be the same in all the answers."""
    truths = {name: truth for name, truth, _ in sides[0]}
    if not truths:
        raise UserError(f"no image was answered for; {AGAIN}")
    for answers in sides:
        own = {name: truth for name, truth, _ in answers}
        if len(own) < len(answers):
            raise UserError("an image is listed twice, and images are paired by their names")
        if own.keys() != truths.keys():
            raise UserError("their answers are for other images; train both on the same validation images")
        if own != truths:
            raise UserError("the same images have other true labels; train both on the same labels")
    return truths


def _is_right(seeds: Sequence[Answers], names: Iterable[str]) -> np.ndarray:
    """(seeds, images) of 0 and 1, the images in the order of their names."""
    rights = [{name: truth == label for name, truth, label in answers} for answers in seeds]
    return np.array([[right[name] for name in names] for right in rights], dtype=np.int64)


# -- mean IoU ------------------------------------------------------------------------------------------------


def compare_mean_iou(one: Confusions, other: Confusions, is_last: bool) -> PairedTest:
    """Bootstrap of two networks' mean IoUs over the tiles (Efron 1979), at the best or the last epoch.

    As many tiles as there are, are drawn with replacement, 2,000 times, the same ones for both networks. Each
    draw's matrices are summed up and give two mean IoUs over the first six classes, as engine.metrics counts
    them; a class that one of the networks lacks is left out of both means. The interval lies between the 50th
    smallest and the 50th largest difference; p is twice the share of draws on the far side of 0, and the
    observed one counts as one more, so that p < 0.05 is the same as an interval without 0.

    UserError unless both are of the same tiles with the same truth, in whatever order, and at least ten.
    """
    if sorted(one.names) != sorted(other.names):
        raise UserError("their predictions are for other tiles; train both on the same validation tiles")
    place = {name: index for index, name in enumerate(other.names)}
    order = [place[name] for name in one.names]
    ours, theirs = (one.last, other.last[order]) if is_last else (one.best, other.best[order])
    if not np.array_equal(ours.sum(axis=2), theirs.sum(axis=2)):
        raise UserError("the same tiles have other masks; train both on the same validation tiles")
    tiles = len(ours)
    if tiles < FEWEST_TILES:
        raise UserError(f"{tiles} tiles are too few to draw from; validate on {FEWEST_TILES} or more")
    both = np.concatenate([ours.reshape(tiles, -1), theirs.reshape(tiles, -1)], axis=1).astype(np.float64)
    first, second = _mean_ious(both.sum(axis=0, keepdims=True))[0]

    draws = np.random.default_rng(SEED)
    drawn = (draws.integers(tiles, size=tiles) for _ in range(BOOTSTRAP_DRAWS))
    ious = _mean_ious(np.stack([np.bincount(numbers, minlength=tiles) @ both for numbers in drawn]))
    differences = np.sort(ious[:, 0] - ious[:, 1])
    far_side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p = min(1.0, 2 * (1 + far_side) / (1 + BOOTSTRAP_DRAWS))
    outside = int(BOOTSTRAP_DRAWS * (1 - INTERVAL) / 2 + 0.5)  # draws beyond either end
    interval = (float(differences[outside - 1]), float(differences[-outside]))
    return PairedTest(float(first), float(second), p, tiles, "tiles", interval)


def _mean_ious(sums: np.ndarray) -> np.ndarray:
    """(draws, 2 x 7 x 7) pixels of two networks → (draws, 2) mean IoUs over the same classes."""
    pixels = sums.reshape(len(sums), 2, NUM_CLASSES, NUM_CLASSES)
    both = np.diagonal(pixels, axis1=2, axis2=3)[..., :SCORED_CLASSES]
    union = (pixels.sum(axis=2) + pixels.sum(axis=3))[..., :SCORED_CLASSES] - both
    is_counted = (union > 0).all(axis=1, keepdims=True)
    total = (both / np.maximum(union, 1) * is_counted).sum(axis=2)
    return total / np.maximum(is_counted.sum(axis=2), 1)


def read_confusions(path: str | Path) -> Confusions:
    """What p2_train.py wrote of its validation tiles; UserError where there is no such file, or another."""
    path = Path(path)
    try:
        names, best, last = read_arrays(path, ("names", "best", "last"))
    except ValueError as error:
        raise UserError(f"{path}: no confusion matrices to read ({error}); {AGAIN}") from None
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise UserError(f"{path}: its names are no list of tiles; {AGAIN}")
    shape = (len(names), NUM_CLASSES, NUM_CLASSES)
    for name, pixels in (("best", best), ("last", last)):
        if pixels.dtype.kind not in "iu" or pixels.shape != shape:
            wrong = f"{name} is {pixels.dtype} of {pixels.shape}, not whole numbers of {shape}"
            raise UserError(f"{path}: {wrong}; {AGAIN}")
        if pixels.size and (pixels.min() < 0 or pixels.sum(dtype=np.float64) > EXACT):
            raise UserError(f"{path}: {name} counts what no tile has; {AGAIN}")
    return Confusions(tuple(names.tolist()), best.astype(np.int64), last.astype(np.int64))


# -- in words ------------------------------------------------------------------------------------------------


def in_words(test: PairedTest) -> str:
    """What was reached, and how far the images support it; no capital, no full stop.

    '0.5550 lies 0.0500 above 0.5050 on the same 100 images (p = 0.063), so these runs do not tell them apart'
    """
    said = [p_in_words(test.p)]
    if test.interval:
        said.insert(0, "95 % of the draws between {:+.4f} and {:+.4f}".format(*test.interval))
    basis = f"on the same {test.count:,} {test.unit} ({', '.join(said)})"
    if not test.difference:
        return f"both are {test.first:.4f} {basis}"
    side = "above" if test.difference > 0 else "below"
    distance = f"{test.first:.4f} lies {abs(test.difference):.4f} {side} {test.second:.4f}"
    verdict = f"more than the choice of {test.unit} explains"
    if test.p >= CLEAR:
        verdict = "so these runs do not tell them apart" if test.p >= A_HINT else "a hint and no proof"
    return f"{distance} {basis}, {verdict}"


def in_short(test: PairedTest) -> str:
    """'+0.0500, p = 0.063', with the interval where there is one: for tables."""
    between = " ({:+.4f} to {:+.4f})".format(*test.interval) if test.interval else ""
    return f"{test.difference:+.4f}{between}, {p_in_words(test.p)}"


def p_in_words(p: float) -> str:
    return "p below 0.001" if p < 0.001 else f"p = {p:.3f}"
