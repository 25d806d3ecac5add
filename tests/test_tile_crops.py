"""Training crops show a tile and its mask alike, from (seed, epoch, position) alone, and rare classes more
often.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.augment import jitter_colours
from datasets.palette import COLOURS, UNCLAIMED, UNKNOWN, classes_of_colours, mask_image
from datasets.sampling import batches, epoch_order
from datasets.tile_pairs import IGNORED, TileCrops, find_pairs, load_pairs, rare_class_weights
from datasets.tiles import find_tiles
from engine.base import UserError


def write_pair(folder, name, classes, tile=None):
    folder.mkdir(exist_ok=True)
    mask_image(classes).save(folder / f"{name}_mask.png")
    # As if the satellite saw the map's own colours: then tile and mask can be compared after any crop.
    Image.fromarray(COLOURS[classes] if tile is None else tile).save(folder / f"{name}_sat.png")


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(1)
    for index in range(4):
        coarse = generator.integers(0, 6, (4, 4), dtype=np.uint8)
        write_pair(tmp_path / "train", f"{index:04d}", coarse.repeat(16, 0).repeat(16, 1))
    return tmp_path / "train"


def test_a_crop_and_its_target_show_the_same_place(folder, tmp_path):
    crops = TileCrops(load_pairs(folder, tmp_path / "cache"), crop_size=64, min_crop=1.0, seed=0)
    turned = set()
    for position in range(24):
        image, target, _ = crops[0, position, position % 4]
        np.testing.assert_array_equal(classes_of_colours(image.permute(1, 2, 0).numpy()), target.numpy())
        turned.add((position % 4, target.numpy().tobytes()))
    assert len(turned) > 8  # turned and mirrored in several ways


def test_a_zoomed_crop_agrees_but_at_the_borders_of_its_fields(folder, tmp_path):
    crops = TileCrops(load_pairs(folder, tmp_path / "cache"), crop_size=64, min_crop=0.5, seed=0)
    for position in range(8):
        image, target, _ = crops[0, position, 0]
        agree = classes_of_colours(image.permute(1, 2, 0).numpy()) == target.numpy()
        assert agree.mean() > 0.85


def test_the_same_numbers_give_the_same_crop_and_others_another(folder, tmp_path):
    pairs = load_pairs(folder, tmp_path / "cache")
    first = TileCrops(pairs, 32, 0.5, seed=3)[1, 2, 0]
    again = TileCrops(pairs, 32, 0.5, seed=3)[1, 2, 0]
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    for seed, key in ((4, (1, 2, 0)), (3, (2, 2, 0)), (3, (1, 3, 0))):
        assert not torch.equal(first[2], TileCrops(pairs, 32, 0.5, seed)[key][2])


def test_unknown_and_red_pixels_are_not_learned(tmp_path):
    classes = np.zeros((64, 64), np.uint8)
    classes[:16] = UNKNOWN
    write_pair(tmp_path / "train", "0000", classes)
    mask = np.array(mask_image(classes))
    mask[48:] = (255, 0, 0)
    Image.fromarray(mask).save(tmp_path / "train" / "0000_mask.png")
    pairs = load_pairs(tmp_path / "train", tmp_path / "cache")
    assert (pairs.mask(0)[48:] == UNCLAIMED).all()
    _, target, _ = TileCrops(pairs, 64, 1.0, 0)[0, 0, 0]
    assert sorted(target.unique().tolist()) == [0, IGNORED]
    assert (target == IGNORED).float().mean() == 0.5


def test_an_epoch_is_a_permutation_of_its_own(folder):
    orders = [epoch_order(50, 0, epoch, None).tolist() for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50))


def test_an_epoch_can_be_taken_up_at_any_batch():
    order = epoch_order(11, 0, 0, None)
    whole = list(batches(order, 0, 3, 0))
    assert [len(batch) for batch in whole] == [3, 3, 3]
    assert list(batches(order, 0, 3, 2)) == whole[2:]


def test_tiles_with_rare_classes_are_drawn_more_often(tmp_path):
    common, rare = np.ones((32, 32), np.uint8), np.ones((32, 32), np.uint8)
    rare[:8] = 4
    for index in range(3):
        write_pair(tmp_path / "train", f"{index:04d}", common)
    write_pair(tmp_path / "train", "0003", rare)
    weights = rare_class_weights(load_pairs(tmp_path / "train", tmp_path / "cache"))
    # By the formula: shares of agriculture 1, 1, 1, .75 (mean .9375), of water 0, 0, 0, .25 (mean .0625).
    wanted = np.array([1, 1, 1, 0.75]) / np.sqrt(0.9375) + np.array([0, 0, 0, 0.25]) / np.sqrt(0.0625)
    np.testing.assert_allclose(weights, wanted / wanted.sum())
    drawn = np.bincount(epoch_order(4, 0, 0, weights), minlength=4)
    assert drawn.sum() == 4


def test_broken_pairs_are_named_and_left_out(folder, tmp_path, capsys):
    (folder / "0001_sat.png").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(folder / "0002_mask.png")
    pairs = load_pairs(folder, tmp_path / "cache")
    assert pairs.names == ["0000", "0003"]
    said = capsys.readouterr().err
    assert "0001_sat.png" in said and "0002_mask.png" in said


def test_tiles_are_found_by_inferences_rule(folder, tmp_path):
    (folder / "0001_sat.png").rename(folder / "0001_SAT.PNG")
    assert load_pairs(folder, tmp_path / "cache").names == ["0000", "0001", "0002", "0003"]
    assert {tile.name for _, tile, _ in find_pairs(folder)} == {name for name, _ in find_tiles(folder)}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_a_grey_mask_is_named_and_left_out(folder, tmp_path, mode, capsys):
    Image.new(mode, (64, 64)).save(folder / "0002_mask.png")
    assert load_pairs(folder, tmp_path / "cache").names == ["0000", "0001", "0003"]
    assert (
        "0002_mask.png: a grey image, not a mask; save it in the seven colours as RGB"
        in capsys.readouterr().err
    )


def test_a_mask_with_a_palette_is_read_by_its_colours(folder, tmp_path):
    path = folder / "0002_mask.png"
    before = load_pairs(folder, tmp_path / "cache").mask(2).copy()
    with Image.open(path) as mask:
        mask.quantize(8).save(path)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(load_pairs(folder, tmp_path / "cache").mask(2), before)


def test_a_folder_without_pairs_is_refused(tmp_path):
    with pytest.raises(UserError, match="no pair"):
        find_pairs(tmp_path)


def test_colours_change_sample_by_sample_and_stay_colours():
    images = torch.rand(2, 3, 8, 8)
    neutral = torch.tensor([[0.0, 1.0, 1.0]])
    colours = torch.cat([neutral, torch.tensor([[0.1, 1.2, 0.0]])])
    jittered = jitter_colours(images, colours)
    torch.testing.assert_close(jittered[0], images[0])
    assert jittered.min() >= 0 and jittered.max() <= 1
    grey = jittered[1]
    torch.testing.assert_close(grey[0], grey[1])
