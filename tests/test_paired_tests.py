"""Paired tests give the p that the textbooks give, the same for both sides, and never more than the files
support.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.base import UserError
from engine.metrics import iou_per_class, mean_iou
from report.paired_tests import (
    BOOTSTRAP_DRAWS,
    SEED,
    Confusions,
    PairedTest,
    compare_accuracy,
    compare_mean_iou,
    in_words,
    mcnemar,
    read_confusions,
)


def answers(rights: list[int]) -> list[tuple[str, str, str]]:
    """(filename, truth, label) of images that are right (1) or wrong (0)."""
    return [(f"{k}.jpg", "7", "7" if right else "3") for k, right in enumerate(rights)]


def tiles(count: int, seed: int, skill: float = 0.5) -> Confusions:
    """Matrices of tiles of 1,000 pixels a class, the more on the diagonal the larger `skill` is."""
    random = np.random.default_rng(seed)
    chances = (1 - skill) * random.dirichlet(np.ones(7), (count, 7)) + skill * np.eye(7)
    pixels = random.multinomial(1000, chances / chances.sum(-1, keepdims=True))
    return Confusions(tuple(f"{k:04d}" for k in range(count)), pixels, pixels[::-1].copy())


# -- accuracy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 0, 1.0),
        (0, 6, 2 / 64),
        (1, 9, 2 * (1 + 10) / 1024),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemars_exact_test_is_the_one_worked_out_by_hand(first_only, second_only, p):
    assert mcnemar(first_only, second_only) == p == mcnemar(second_only, first_only)


def test_mcnemars_exact_test_is_scipys_binomial_test():
    stats = pytest.importorskip("scipy.stats")
    for first_only, second_only in ((3, 17), (40, 61), (700, 812)):
        expected = stats.binomtest(first_only, first_only + second_only, 0.5).pvalue
        assert mcnemar(first_only, second_only) == pytest.approx(expected, rel=1e-9)
    assert 0 <= mcnemar(9_000, 11_000) < 1e-12  # no overflow, and no wait


def test_one_seed_a_side_is_mcnemars_exact_test_whatever_both_have_right_or_wrong():
    one, other = [1] * 9 + [0] * 1 + [1] * 20 + [0] * 30, [0] * 9 + [1] * 1 + [1] * 20 + [0] * 30
    test = compare_accuracy([answers(one)], [answers(other)])
    assert (test.p, test.count, test.unit, test.interval) == (mcnemar(9, 1), 60, "images", None)
    assert test.first == 29 / 60 and test.second == 21 / 60 and test.difference > 0


def test_several_seeds_flip_the_signs_of_whole_images():
    """Against every choice of signs of eight images, and not of sixteen answers."""
    one = [[1, 1, 1, 0, 1, 1, 0, 1], [1, 0, 1, 0, 1, 1, 1, 1]]
    other = [[0, 0, 1, 1, 0, 0, 0, 1], [0, 0, 0, 1, 0, 1, 0, 1]]
    differences = np.array(one).mean(0) - np.array(other).mean(0)
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=8)]
    expected = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)
    test = compare_accuracy([answers(seed) for seed in one], [answers(seed) for seed in other])
    assert test.p == pytest.approx(expected, abs=0.02) and 0 < test.p < 1


def test_sides_may_have_unlike_numbers_of_seeds():
    test = compare_accuracy([answers([1, 1, 0, 0])] * 3, [answers([1, 1, 0, 0])])
    assert (test.first, test.second, test.p) == (0.5, 0.5, 1.0)


def test_the_order_of_the_rows_and_of_the_sides_changes_nothing_but_the_sign():
    random = np.random.default_rng(3)
    one, other = ([answers(seed) for seed in random.integers(0, 2, (2, 50))] for _ in range(2))
    test, turned = compare_accuracy(one, other), compare_accuracy(other, [one[0][::-1], one[1]])
    assert turned.p == test.p and turned.difference == -test.difference
    assert compare_accuracy(one, other) == test  # the draws have a fixed seed


def test_settings_that_are_alike_have_small_p_no_more_often_than_p_says_and_not_much_less():
    """Sums of a few sizes take few values, ties count as far, and so p is a little too careful."""
    random = np.random.default_rng(0)
    difficulty = random.random(400)
    p = []
    for _ in range(300):
        rights = [answers(seed) for seed in random.random((4, 400)) < difficulty]
        p.append(compare_accuracy(rights[:2], rights[2:]).p)
    for level in (0.05, 0.1, 0.25, 0.5, 0.75):
        chance = 3 * (level * (1 - level) / len(p)) ** 0.5
        assert 0.8 * level - chance <= np.mean(np.array(p) <= level) <= level + chance


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (answers([1, 0, 1]), "other images"),
        ([("0.jpg", "7", "7"), ("2.jpg", "7", "7")], "other images"),
        ([("0.jpg", "7", "7"), ("1.jpg", "3", "7")], "other true labels"),
        ([*answers([1, 0]), ("0.jpg", "7", "7")], "listed twice"),
        ([], "other images"),
    ],
)
def test_answers_for_other_images_or_truths_have_no_test(other, reason):
    with pytest.raises(UserError, match=reason):
        compare_accuracy([answers([1, 0])], [other])
    with pytest.raises(UserError):
        compare_accuracy([other], [answers([1, 0])])
    with pytest.raises(UserError, match=reason):  # one seed of several is enough
        compare_accuracy([answers([1, 0]), other], [answers([1, 0])])


def test_no_image_at_all_has_no_test():
    with pytest.raises(UserError, match="no image"):
        compare_accuracy([[]], [[]])


# -- mean IoU ------------------------------------------------------------------------------------------------


def test_the_bootstrap_is_the_one_of_a_plain_loop():
    one, other = tiles(12, seed=1), tiles(12, seed=2)
    one.best[0, :, 4], one.best[1:, 4], one.best[1:, :, 4] = 0, 0, 0  # water is in the first tile alone
    truth = one.best.sum(axis=2)
    other.best[:] = np.stack([[np.bincount([0, c], [0, n], 7) for c, n in enumerate(row)] for row in truth])
    other.best[5, 0] = np.roll(other.best[5, 0], 4)  # where it alone sees water, water counts for neither
    draws = np.random.default_rng(SEED)
    differences, first = [], mean_iou(iou_per_class(torch.tensor(one.best.sum(0)), 6))
    for _ in range(BOOTSTRAP_DRAWS):
        chosen = draws.integers(12, size=12)
        ious = [np.zeros((7, 7), dtype=int), np.zeros((7, 7), dtype=int)]
        for tile in chosen:
            ious[0] += one.best[tile]
            ious[1] += other.best[tile]
        ious = [iou_per_class(torch.tensor(total), 6) for total in ious]
        kept = [c for c in range(6) if not np.isnan(ious[0][c] + ious[1][c])]
        differences.append(np.mean([ious[0][c] for c in kept]) - np.mean([ious[1][c] for c in kept]))
    differences = np.sort(differences)
    far = min((differences <= 0).sum(), (differences >= 0).sum())
    test = compare_mean_iou(one, other, is_last=False)
    assert test.first == pytest.approx(first) and (test.count, test.unit) == (12, "tiles")
    assert test.p == min(1, 2 * (far + 1) / (BOOTSTRAP_DRAWS + 1))
    assert test.interval == pytest.approx((differences[49], differences[-50]))


def test_mean_ious_are_those_of_training():
    one, other = tiles(10, seed=5), tiles(10, seed=6)
    test = compare_mean_iou(one, other, is_last=True)
    for side, reached in ((one, test.first), (other, test.second)):
        assert reached == pytest.approx(mean_iou(iou_per_class(torch.tensor(side.last.sum(0)), 6)))


def test_networks_are_compared_on_the_same_tiles_in_whatever_order_and_either_way():
    one, other = tiles(20, seed=1), tiles(20, seed=2, skill=0.52)
    test, turned = compare_mean_iou(one, other, False), compare_mean_iou(other, one, False)
    assert turned.p == test.p and turned.difference == -test.difference
    assert turned.interval == (-test.interval[1], -test.interval[0])
    order = np.random.default_rng(0).permutation(20)
    mixed = Confusions(tuple(other.names[k] for k in order), other.best[order], other.last[order])
    assert compare_mean_iou(one, mixed, False) == test
    far = compare_mean_iou(one, tiles(20, seed=2, skill=0.9), False)
    assert far.p < 0.01 and far.interval[1] < 0 and far.difference < 0


def test_networks_that_are_alike_have_small_p_about_as_often_as_p_says():
    p = []
    for seed in range(60):
        p.append(compare_mean_iou(tiles(30, seed), tiles(30, 1000 + seed), False).p)
    assert np.mean(np.array(p) < 0.05) <= 0.15 and 0.3 < np.mean(p) < 0.7


def test_a_network_against_itself_differs_by_nothing():
    test = compare_mean_iou(tiles(10, 1), tiles(10, 1), is_last=False)
    assert (test.difference, test.p, test.interval) == (0, 1, (0, 0))


def test_p_below_five_hundredths_is_an_interval_without_zero():
    tests = [
        compare_mean_iou(tiles(10, seed), tiles(10, seed + 50, 0.5 + 0.002 * seed), False)
        for seed in range(15)
    ]
    outside = [not test.interval[0] <= 0 <= test.interval[1] for test in tests]
    assert [test.p < 0.05 for test in tests] == outside and 0 < sum(outside) < 15


def test_other_tiles_other_masks_and_too_few_have_no_test():
    one = tiles(10, seed=1)
    with pytest.raises(UserError, match="other tiles"):
        compare_mean_iou(one, tiles(11, seed=1), False)
    other_truth = Confusions(one.names, one.best * 2, one.last)
    with pytest.raises(UserError, match="other masks"):
        compare_mean_iou(one, other_truth, False)
    assert compare_mean_iou(one, other_truth, True).p == 1
    with pytest.raises(UserError, match="9 tiles are too few"):
        compare_mean_iou(tiles(9, 1), tiles(9, 2), False)


# -- confusions.npz ------------------------------------------------------------------------------------------


def save(path: Path, **arrays) -> Path:
    written = {
        "names": np.array(["a", "b"]),
        "best": np.ones((2, 7, 7), int),
        "last": np.ones((2, 7, 7), int),
    }
    np.savez(path, **{**written, **arrays})
    return path


def test_what_training_wrote_is_read(tmp_path):
    read = read_confusions(save(tmp_path / "confusions.npz", last=np.full((2, 7, 7), 5, dtype=np.int32)))
    assert read.names == ("a", "b") and read.last.dtype == np.int64 and read.last.sum() == 5 * 98


@pytest.mark.parametrize(
    "arrays",
    [
        {"best": np.ones((3, 7, 7), int)},
        {"best": np.ones((2, 6, 7), int)},
        {"last": np.ones((2, 7, 7))},
        {"last": -np.ones((2, 7, 7), int)},
        {"last": np.full((2, 7, 7), 2**62)},
        {"names": np.array(["a", "a"])},
        {"names": np.array([1, 2])},
        {"names": np.array("a")},
        {"names": np.array(["a", None], dtype=object)},
        {"best": np.zeros(2**23 + 1, dtype=np.int64)},
    ],
)
def test_arrays_that_no_training_writes_are_one_line(tmp_path, arrays):
    path = save(tmp_path / "confusions.npz", **arrays)
    with pytest.raises(UserError, match="confusions.npz: "):
        read_confusions(path)


@pytest.mark.parametrize(
    "kind", ["nothing", "text", "cut", "pickle", "folder", "pipe", "other members", "lies"]
)
def test_files_that_are_none_are_one_line(tmp_path, kind):
    path = save(tmp_path / "confusions.npz")
    whole = path.read_bytes()
    path.unlink()
    if kind == "text":
        path.write_text("no archive")
    elif kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"best": 1}))
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("other members", "lies"):
        header = (
            b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999,)}"
        )
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("best.npy" if kind == "lies" else "x", header.ljust(127) + b"\n")
            packed.writestr("names.npy", header.ljust(127) + b"\n")
    with pytest.raises(UserError, match="confusions.npz: "):
        read_confusions(path)


# -- in words ------------------------------------------------------------------------------------------------


def test_a_sentence_says_no_more_than_p_allows():
    near = in_words(PairedTest(0.555, 0.505, 0.063, 100, "images"))
    assert near == (
        "0.5550 lies 0.0500 above 0.5050 on the same 100 images (p = 0.063), "
        "so these runs do not tell them apart"
    )
    hint = in_words(PairedTest(0.4, 0.5, 0.0123, 2500, "images"))
    assert "0.1000 below 0.5000 on the same 2,500 images (p = 0.012), a hint and no proof" in hint
    far = in_words(PairedTest(0.7, 0.6, 0.0005, 257, "tiles", (0.05, 0.15)))
    assert (
        "257 tiles (95 % of the draws between +0.0500 and +0.1500, p below 0.001), more than the choice of t"
        in far
    )
    assert (
        in_words(PairedTest(0.5, 0.5, 1.0, 4, "images")) == "both are 0.5000 on the same 4 images (p = 1.000)"
    )
