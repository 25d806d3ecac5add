"""What a report did to its images is done as its recipe names it, and to a tile and its target alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import p1_finetune
import p2_train
from datasets.augment import CHANGES, ChangedImages, changed
from datasets.images import evaluation_image
from datasets.palette import COLOURS, IGNORED, UNCLAIMED, UNKNOWN, classes_of_colours
from datasets.tile_pairs import TileCrops
from engine.base import UserError
from tests.test_small_images import Images as LabelledOnes
from tests.test_small_images import noise

# A name and an amount that does something for certain.
MOVES = {
    "hflip": 1,
    "vflip": 1,
    "rotation": 40,
    "affine": [10, 0.1, 0.1],
    "perspective": [0.2, 1],
    "crop": 0.08,
    "window": 450 / 512,
}
COLOURINGS = {"blur": [1, 1.0, 2.0], "jitter": [0.4, 0.4, 0.4, 0.2, 1], "grey": 1}


class Images(LabelledOnes):
    """What datasets need of LabelledImages, and of TilePairs."""

    def tile(self, index: int) -> np.ndarray:
        return COLOURS[np.minimum(self.images[index], UNKNOWN)]

    def mask(self, index: int) -> np.ndarray:
        return self.images[index]


def land(seed: int = 0) -> np.ndarray:
    """(64, 64) classes 0 to 5 in fields of 16 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 6, (4, 4), dtype=np.uint8)
    return coarse.repeat(16, 0).repeat(16, 1)


def test_every_change_there_is_has_its_place_here():
    assert {**MOVES, **COLOURINGS}.keys() == CHANGES.keys()


@pytest.mark.parametrize("name", MOVES)
def test_tile_and_target_are_moved_alike(name):
    tiles = Images(land())
    crops = TileCrops(tiles, 64, 1.0, 0, "recipe", [{name: MOVES[name]}])
    seen = set()
    for position in range(6):
        image, target, _ = crops[0, position, 0]
        assert image.shape == (3, 64, 64) and target.shape == (64, 64)
        is_known = target.numpy() != IGNORED
        found = classes_of_colours(image.permute(1, 2, 0).numpy())
        assert (found == target.numpy())[is_known].mean() > 0.85  # borders of fields are mixed colours
        assert is_known.mean() > 0.5 and not np.array_equal(target.numpy(), land())
        seen.add(target.numpy().tobytes())
    assert len(seen) == (1 if name.endswith("flip") else 6)


@pytest.mark.parametrize("name", COLOURINGS)
def test_colours_change_and_targets_stay(name):
    image, target = torch.from_numpy(noise()).permute(2, 0, 1), torch.zeros(32, 32)
    found, same = changed(image, target, {name: COLOURINGS[name]}, np.random.default_rng(0))
    assert same is target and found.shape == image.shape and found.dtype == torch.uint8
    assert not torch.equal(found, image)
    if name == "grey":
        assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])


@pytest.mark.parametrize(
    "name, amount",
    [
        *(("hflip", 0), ("vflip", 0), ("grey", 0), ("perspective", [0.5, 0])),
        *(("blur", [0, 1.0, 2.0]), ("jitter", [0.4, 0.4, 0.4, 0.2, 0]), ("window", 1.0)),
    ],
)
def test_what_has_no_chance_does_not_happen(name, amount):
    image = torch.from_numpy(noise()).permute(2, 0, 1)
    found, target = changed(image, None, {name: amount}, np.random.default_rng(0))
    assert torch.equal(found, image) and target is None


def test_a_change_that_there_is_not_is_refused_by_name():
    for make in (
        lambda changes: ChangedImages(Images(noise()), 32, 0, changes, False),
        lambda changes: TileCrops(Images(land()), 64, 1.0, 0, "recipe", changes),
    ):
        with pytest.raises(UserError, match="the change 'rotate'; there are hflip, .*rotation"):
            make([{}, {"rotate": 40}])


@pytest.mark.parametrize("script", [p1_finetune, p2_train])
def test_the_recipes_changes_are_drawn_from_seed_epoch_and_position_alone(script):
    for name, recipe in script.RECIPES.items():
        for changes in recipe["changes"] or ():
            image = torch.from_numpy(noise(40, 30)).permute(2, 0, 1)
            torch.manual_seed(0)
            first, _ = changed(image, None, changes, np.random.default_rng((0, 1, 2, 1)))
            again, _ = changed(image, None, changes, np.random.default_rng((0, 1, 2, 1)))
            assert torch.equal(first, again), name
            assert torch.initial_seed() == 0 and torch.equal(
                torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0))
            )


def test_copies_are_the_images_once_for_each_of_the_changes():
    images = Images(noise(), 255 - noise())
    samples = ChangedImages(images, 32, 0, [{}, {"hflip": 1}, {"vflip": 1}], is_padded=False)
    assert len(samples) == 6
    plain, mirrored, upside_down = (samples[0, 0, 1 + 2 * copy] for copy in range(3))
    assert plain[1] == mirrored[1] == upside_down[1] == 1
    assert torch.equal(plain[0], torch.from_numpy(255 - noise()).permute(2, 0, 1))
    assert torch.equal(mirrored[0].flip(2), plain[0]) and torch.equal(upside_down[0].flip(1), plain[0])


@pytest.mark.parametrize("height, width", [(20, 40), (40, 20), (41, 20)])
def test_padding_to_a_square_keeps_the_shape_in_black(height, width):
    rgb = np.full((height, width, 3), 200, np.uint8)
    side = max(height, width)
    found = evaluation_image(rgb, side, is_padded=True)
    assert found.shape == (side, side, 3) and (found > 0).sum() == rgb.size
    middle = found[side // 2, side // 2]
    assert (middle == 200).all() and (found[0, 0] == 0).all()
    assert (evaluation_image(rgb, side) == 200).all()


@pytest.mark.parametrize("learns_unknown, labels", [(False, [0, IGNORED]), (True, [0, UNKNOWN, IGNORED])])
def test_unknown_is_a_class_to_learn_where_a_recipe_says_so(learns_unknown, labels):
    classes = np.zeros((64, 64), np.uint8)
    classes[:16], classes[48:] = UNKNOWN, UNCLAIMED
    crops = TileCrops(Images(classes), 64, 1.0, 0, "none", learns_unknown=learns_unknown)
    assert sorted(crops[0, 0, 0][1].unique().tolist()) == labels
