"""BYOL's views: each sample's own, from (seed, epoch, sample) alone, and each change does what it says, as
often.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from datasets.views import DRAWS, NUMBERS, PROBABILITIES, epoch_numbers, two_views

NO = 0.999  # a number at which nothing happens that happens by chance; the blur of the first view always does
NEUTRAL = {name: NO if name in PROBABILITIES[0] else 0.5 for name in DRAWS}
NEUTRAL["sigma"] = 0.0


def numbers_with(count: int = 1, **changed: float | Tensor) -> Tensor:
    """(count, 2, NUMBERS) that change nothing but what is given, the same in both views."""
    numbers = torch.tensor([NEUTRAL[name] for name in DRAWS]).repeat(count, 2, 1)
    for name, value in changed.items():
        numbers[:, :, DRAWS.index(name)] = value
    return numbers


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def plain(red: int, green: int, blue: int, side: int = 16) -> Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8)[None, :, None, None].expand(1, 3, side, side)


def slopes(side: int) -> Tensor:
    """Red rises to the right, green downwards: a pixel's colour is its place."""
    places = torch.arange(side, dtype=torch.uint8)
    right, down = places.expand(side, side), places[:, None].expand(side, side)
    return torch.stack([right, down, torch.zeros_like(right)])[None]


def luma(view: Tensor) -> Tensor:
    return (view * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1)


# -- whose numbers -------------------------------------------------------------------------------------------


def test_equal_images_in_a_batch_give_unequal_views_and_one_image_two_different_ones():
    images = noise(1, 20).expand(6, 3, 20, 20)
    views = torch.cat(two_views(images, epoch_numbers(6, 0, 0), 16, 0.3))
    for one in range(12):
        for other in range(one):
            assert (views[one] - views[other]).abs().max() > 0.01


def test_views_come_from_seed_and_epoch_alone():
    images = noise(5, 20)
    torch.manual_seed(1)
    once = two_views(images, epoch_numbers(5, 3, 7), 16, 0.3)
    torch.manual_seed(2)
    again = two_views(images, epoch_numbers(5, 3, 7), 16, 0.3)
    assert all(torch.equal(a, b) for a, b in zip(once, again))


@pytest.mark.parametrize(("seed", "epoch"), [(4, 7), (3, 8), (7, 3)])
def test_another_seed_or_epoch_gives_other_views(seed, epoch):
    images = noise(4, 20)
    ours = torch.cat(two_views(images, epoch_numbers(4, 3, 7), 16, 0.3))
    others = torch.cat(two_views(images, epoch_numbers(4, seed, epoch), 16, 0.3))
    assert ((ours - others).abs().flatten(1).max(dim=1).values > 0.01).all()


def test_a_sample_has_its_views_whatever_batch_it_comes_in():
    images, numbers = noise(9, 20), epoch_numbers(9, 0, 0)
    together = two_views(images, numbers, 16, 0.1)
    order = torch.tensor([8, 2, 5])
    for subset in (order, order[:1]):
        apart = two_views(images[subset], numbers[subset], 16, 0.1)
        for ours, theirs in zip(apart, together):
            torch.testing.assert_close(ours, theirs[subset], rtol=0, atol=1e-6)


def test_a_sample_has_its_numbers_however_many_samples_there_are():
    assert torch.equal(epoch_numbers(7, 1, 2), epoch_numbers(30, 1, 2)[:7])


def test_the_numbers_are_uniform_and_no_column_follows_another():
    numbers = epoch_numbers(4000, 0, 0)
    assert numbers.shape == (4000, 2, NUMBERS) and numbers.dtype == torch.float32
    assert numbers.min() >= 0 and numbers.max() < 1
    columns = numbers.flatten(1)
    assert (columns.mean(dim=0) - 0.5).abs().max() < 0.025
    assert (columns.std(dim=0) - math.sqrt(1 / 12)).abs().max() < 0.01
    assert (torch.corrcoef(columns.T) - torch.eye(2 * NUMBERS)).abs().max() < 0.08


# -- what comes out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "size"), [(84, 128), (80, 64), (33, 32), (16, 16)])
def test_views_are_floats_from_0_to_1_of_the_size_asked_for(side, size):
    for view in two_views(noise(40, side), epoch_numbers(40, 0, 0), size, 0.08):
        assert view.shape == (40, 3, size, size) and view.dtype == torch.float32
        assert view.min() >= 0 and view.max() <= 1


def test_views_do_not_depend_on_how_the_bytes_lie_in_memory_nor_change_them():
    rows, numbers = noise(4, 20), epoch_numbers(4, 0, 0)
    kept = rows.clone()
    pixels = rows.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as an array of images has them
    for ours, theirs in zip(two_views(pixels, numbers, 16, 0.3), two_views(rows, numbers, 16, 0.3)):
        assert torch.equal(ours, theirs)
    assert torch.equal(rows, kept)


def test_views_keep_their_digits_under_autocast():
    images, numbers = noise(4, 20), epoch_numbers(4, 0, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = two_views(images, numbers, 16, 0.3)
    for ours, theirs in zip(inside, two_views(images, numbers, 16, 0.3)):
        assert torch.equal(ours, theirs)


def test_numbers_that_change_nothing_give_the_image_back():
    images = noise(3, 24)
    for view in two_views(images, numbers_with(3), 24, min_area=1.0):
        torch.testing.assert_close(view, images / 255, rtol=0, atol=1e-5)


# -- crop and mirror -----------------------------------------------------------------------------------------


def test_a_mirrored_view_is_the_image_the_other_way_round():
    images = noise(2, 24)
    for view in two_views(images, numbers_with(2, mirror=0.1), 24, min_area=1.0):
        torch.testing.assert_close(view, images.flip(3) / 255, rtol=0, atol=1e-5)


def test_the_same_box_is_cut_mirrored_or_not():
    box = {"area": 0.2, "aspect": 0.8, "x": 0.1, "y": 0.7}
    straight, _ = two_views(slopes(256), numbers_with(**box), 32, 0.1)
    mirrored, _ = two_views(slopes(256), numbers_with(mirror=0.1, **box), 32, 0.1)
    torch.testing.assert_close(mirrored, straight.flip(3), rtol=0, atol=1e-4)


def test_crops_keep_to_their_bounds_and_use_them():
    count, side, size, least = 1000, 64, 16, 0.2
    changed = numbers_with(count)
    drawn = [DRAWS.index(name) for name in ("area", "aspect", "x", "y", "mirror")]
    changed[:, :, drawn] = epoch_numbers(count, 0, 0)[:, :, drawn]
    # Both views at once: which one it is makes no difference to a crop. Places are in pixels of the image.
    views = (
        torch.cat(two_views((4 * slopes(side)).expand(count, 3, side, side), changed, size, least)) * 255 / 4
    )
    across, down = views[:, 0, 0].sort(dim=1).values, views[:, 1, :, 0]
    width, height = ((line[:, -1] - line[:, 0]) * size / (size - 1) for line in (across, down))
    area, aspect = width * height / side**2, width / height
    assert least - 0.005 < area.min() < least + 0.02 and 0.97 < area.max() < 1.005
    assert 0.74 < aspect.min() < 0.77 and 1.30 < aspect.max() < 1.35
    assert abs(area.mean() - (1 + least) / 2) < 0.02 and abs(aspect.log().mean()) < 0.02
    # Inside the image, and up to its edges.
    for line, length in ((across, width), (down, height)):
        start = line[:, 0] + 0.5 - length / size / 2
        assert -0.1 < start.min() < 0.5 and side - 0.5 < (start + length).max() < side + 0.1


def test_a_crop_of_the_whole_area_is_the_whole_image_whatever_its_aspect():
    images = noise(1, 24)
    for aspect in (0.0, 0.99):
        view, _ = two_views(images, numbers_with(aspect=aspect, x=0.9, y=0.1), 24, min_area=1.0)
        torch.testing.assert_close(view, images / 255, rtol=0, atol=1e-5)


# -- colours -------------------------------------------------------------------------------------------------


def test_a_grey_view_has_three_channels_equal_to_the_luma():
    images = noise(2, 16)
    for view in two_views(images, numbers_with(2, grey=0.1), 16, min_area=1.0):
        torch.testing.assert_close(view, luma(images / 255)[:, None].expand_as(view), rtol=0, atol=1e-5)


def test_a_jittered_grey_view_is_still_grey():
    numbers = numbers_with(3, grey=0.1, jitter=0.1, hue=0.9, saturation=0.1, brightness=0.4, contrast=0.3)
    for view in two_views(noise(3, 16), numbers, 16, min_area=1.0):
        assert (view - view[:, :1]).abs().max() < 1e-5


@pytest.mark.parametrize(("number", "factor"), [(0.0, 0.6), (0.5, 1.0), (1.0, 1.4)])
def test_brightness_multiplies(number, factor):
    view, _ = two_views(plain(100, 150, 50), numbers_with(jitter=0.1, brightness=number), 16, 1.0)
    torch.testing.assert_close(view, plain(100, 150, 50) / 255 * factor, rtol=0, atol=1e-5)


def test_what_gets_too_bright_is_clipped():
    view, _ = two_views(plain(250, 250, 10), numbers_with(jitter=0.1, brightness=1.0), 16, 1.0)
    assert view[0, :2].min() == 1 and abs(view[0, 2].mean() - 14 / 255) < 1e-5


@pytest.mark.parametrize(("number", "factor"), [(0.0, 0.6), (1.0, 1.4)])
def test_contrast_spreads_about_the_mean_luma(number, factor):
    images = noise(2, 16) // 4 + 96
    view, _ = two_views(images, numbers_with(2, jitter=0.1, contrast=number), 16, 1.0)
    before = images / 255
    middle = luma(before).mean(dim=(1, 2))[:, None, None, None]
    torch.testing.assert_close(view, middle + factor * (before - middle), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("number", "factor"), [(0.0, 0.8), (1.0, 1.2)])
def test_saturation_spreads_about_each_pixels_luma(number, factor):
    images = noise(2, 16) // 4 + 96
    view, _ = two_views(images, numbers_with(2, jitter=0.1, saturation=number), 16, 1.0)
    before = images / 255
    middle = luma(before)[:, None]
    torch.testing.assert_close(view, middle + factor * (before - middle), rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", [0.0, 0.3, 1.0])
def test_hue_turns_the_colour_in_yiq_and_keeps_the_luma(number):
    images = noise(2, 16) // 4 + 96
    view, _ = two_views(images, numbers_with(2, jitter=0.1, hue=number), 16, 1.0)
    before = images / 255
    torch.testing.assert_close(luma(view), luma(before), rtol=0, atol=1e-5)

    def colour(pictures: Tensor) -> Tensor:
        """I and Q of each pixel as one complex number."""
        axes = torch.tensor([(0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
        in_phase, quadrature = torch.einsum("ac,bchw->abhw", axes, pictures)
        return torch.complex(in_phase, quadrature)

    turn = torch.polar(torch.tensor(1.0), torch.tensor((2 * number - 1) * 0.1 * 2 * math.pi))
    torch.testing.assert_close(colour(view), colour(before) * turn, rtol=0, atol=1e-5)


def test_hue_leaves_greys_alone():
    view, _ = two_views(plain(120, 120, 120), numbers_with(jitter=0.1, hue=1.0), 16, 1.0)
    torch.testing.assert_close(view, plain(120, 120, 120) / 255, rtol=0, atol=1e-5)


def test_the_first_view_is_never_solarised_and_the_second_by_the_formula():
    images = noise(2, 16)
    first, second = two_views(images, numbers_with(2, solarise=0.0), 16, 1.0)
    before = images / 255
    torch.testing.assert_close(first, before, rtol=0, atol=1e-5)
    torch.testing.assert_close(second, torch.where(before >= 0.5, 1 - before, before), rtol=0, atol=1e-5)


# -- blur ----------------------------------------------------------------------------------------------------


def test_blur_keeps_a_plain_image():
    images = plain(30, 120, 210, side=32)
    for view in two_views(images, numbers_with(blur=0.0, sigma=1.0), 32, 1.0):
        torch.testing.assert_close(view, images / 255, rtol=0, atol=1e-5)


def test_more_blur_leaves_less_variance_and_the_same_mean():
    images = noise(1, 112)
    views = [two_views(images, numbers_with(blur=0.0, sigma=sigma), 112, 1.0)[1] for sigma in (0.0, 0.5, 1.0)]
    variances = [view.var().item() for view in views]
    assert variances[0] > 1.5 * variances[1] > 1.5 * 1.2 * variances[2]
    for view in views:
        assert abs(view.mean() - views[0].mean()) < 0.002


@pytest.mark.parametrize("size", [64, 224])
def test_a_blurred_point_is_a_gaussian_of_the_sigma_that_goes_with_the_size(size):
    images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    images[..., size // 2, size // 2] = 255
    view, _ = two_views(images, numbers_with(sigma=1.0), size, 1.0)
    sigma = 2.0 * size / 224
    line = (-0.5 * ((torch.arange(size) - size // 2) / sigma) ** 2).exp()
    wanted = torch.outer(line, line) / line.sum() ** 2
    torch.testing.assert_close(view[0, 0], wanted, rtol=0, atol=1e-5)


def test_each_image_has_its_own_sigma():
    images = noise(1, 64).expand(2, 3, 64, 64)
    numbers = numbers_with(2, sigma=torch.tensor([[0.0], [1.0]]))
    view, _ = two_views(images, numbers, 64, 1.0)
    assert view[0].var() > 1.05 * view[1].var()


# -- how often -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        ("mirror", 0.5, 0.5),
        ("jitter", 0.8, 0.8),
        ("grey", 0.2, 0.2),
        ("blur", 1.0, 0.1),
        ("solarise", 0.0, 0.2),
    ],
)
def test_each_change_is_made_as_often_as_the_paper_says(change, first, second):
    count, size = 2000, 32
    column = DRAWS.index(change)
    numbers = numbers_with(count, sigma=1.0 if change == "blur" else 0.0, brightness=0.0)
    numbers[:, :, column] = epoch_numbers(count, 0, 0)[:, :, column]
    image = noise(1, size)
    views = two_views(image.expand(count, 3, size, size), numbers, size, 1.0)
    for view, wanted in zip(views, (first, second)):
        share = ((view - image / 255).abs().flatten(1).max(dim=1).values > 1e-4).float().mean().item()
        assert abs(share - wanted) < 0.03
        assert wanted not in (0, 1) or share == wanted
