"""Training on small images is random by (seed, epoch, position) alone, and each random change is what it
claims.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import p1_finetune
from datasets.augment import ImageCrops, jitter_colours, mix_images
from datasets.sampling import EpochLoader
from models.builders import normalisation

SHIFT = 4


def noise(height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Images:
    """What ImageCrops needs of LabelledImages."""

    def __init__(self, *images: np.ndarray):
        self.images, self.labels = images, np.arange(len(images))

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        return self.images[index]


# -- shift ---------------------------------------------------------------------------------------------------


def reflected(count: int, start: int) -> list[int]:
    """The pixels that a window of `count` shows which starts at `start`, mirrored at the first and the last
    one.
    """
    return [abs(at) if at < count else 2 * (count - 1) - at for at in range(start, start + count)]


def windows(rgb: np.ndarray, shift: int) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop that a shift allows, as bytes, and how it came about: (x, y, whether it is mirrored)."""
    found, moves = {}, range(-shift, shift + 1)
    for y in moves:
        for x in moves:
            window = rgb[reflected(rgb.shape[0], y)][:, reflected(rgb.shape[1], x)]
            found[window.tobytes()] = (x, y, False)
            found[window[:, ::-1].tobytes()] = (x, y, True)
    assert len(found) == 2 * len(moves) ** 2  # all different
    return found


def as_bytes(image: torch.Tensor) -> bytes:
    return image.permute(1, 2, 0).numpy().tobytes()


def test_a_shifted_crop_is_a_window_of_the_reflected_image_and_every_window_comes():
    rgb = noise()
    crops, known = ImageCrops(Images(rgb), 32, seed=0, shift=SHIFT), windows(rgb, SHIFT)
    # No resampling: every value is one of the image's own.
    seen = [known[as_bytes(crops[0, position, 0][0])] for position in range(1000)]
    assert {(x, y) for x, y, _ in seen} == {(x, y) for x, y, _ in known.values()}
    assert 0.45 < np.mean([is_mirrored for *_, is_mirrored in seen]) < 0.55


def test_a_shift_moves_a_larger_image_by_its_own_pixels_and_then_shrinks_it():
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, :32] = 255  # its middle, column 32, lies between -4 and 4 columns from there
    for position in range(50):
        image = ImageCrops(Images(rgb), 32, seed=0, shift=SHIFT)[0, position, 0][0].numpy()
        assert image.shape == (3, 32, 32)
        assert 14 * 32 <= (image > 127).sum() / 3 <= 18 * 32


@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (4, 1)])
def test_an_image_smaller_than_the_shift_is_reflected_again_and_again(height, width):
    crops = ImageCrops(Images(np.full((height, width, 3), 77, np.uint8)), 32, seed=0, shift=SHIFT)
    for position in range(10):
        assert (crops[0, position, 0][0] == torch.full((3, 32, 32), 77)).all()


def test_seed_epoch_and_position_decide_alone():
    crops = ImageCrops(Images(noise(), 255 - noise()), 32, seed=3, shift=SHIFT)
    first = [crops[1, position, 0][0] for position in range(8)]
    again = [crops[1, position, 0][0] for position in reversed(range(8))][::-1]
    assert all(torch.equal(one, other) for one, other in zip(first, again))
    others = ImageCrops(crops.images, 32, seed=4, shift=SHIFT)
    for changed in (
        [others[1, position, 0][0] for position in range(8)],
        [crops[2, position, 0][0] for position in range(8)],
        [crops[1, 8 + position, 0][0] for position in range(8)],
    ):
        assert sum(torch.equal(one, other) for one, other in zip(first, changed)) < 2


def test_the_image_does_not_change_what_is_drawn():
    crops = ImageCrops(Images(noise(), 255 - noise()), 32, seed=3, shift=SHIFT)
    for position in range(20):
        assert torch.equal(255 - crops[0, position, 0][0], crops[0, position, 1][0])


def test_workers_change_nothing():
    crops = ImageCrops(Images(*(noise(seed=i) for i in range(8))), 32, seed=0, shift=SHIFT)
    alone, helped = (list(EpochLoader(crops, 0, 4, workers)(1, 0)) for workers in (0, 2))
    assert len(alone) == len(helped) == 2
    assert all(torch.equal(a, b) for ours, theirs in zip(alone, helped) for a, b in zip(ours, theirs))


def test_colours_change_by_up_to_the_jitter_and_the_crop_does_not_feel_it():
    images = Images(noise())
    plain = ImageCrops(images, 32, seed=0, shift=SHIFT)
    jittered = ImageCrops(images, 32, seed=0, shift=SHIFT, jitter=0.3)
    for position in range(20):
        assert torch.equal(plain[0, position, 0][0], jittered[0, position, 0][0])
        assert plain[0, position, 0][2].tolist() == [0, 1, 1]
        changes = (jittered[0, position, 0][2] - torch.tensor([0.0, 1.0, 1.0])).abs()
        assert changes.gt(0).all() and changes.le(torch.tensor([0.15, 0.3, 0.3])).all()
    image, unchanged = plain[0, 0, 0][0][None] / 255, plain[0, 0, 0][2][None]
    torch.testing.assert_close(jitter_colours(image, unchanged), image)


# -- mixing --------------------------------------------------------------------------------------------------


def mixed_batches(kind: str, images: torch.Tensor, count: int = 200):
    """(what mix_images gives) for `count` generators, those left alone left out."""
    results = [mix_images(images, kind, np.random.default_rng((7, step, 2))) for step in range(count)]
    mixed = [result for result in results if result[2] != 1]
    assert 0.4 * count < len(mixed) < 0.6 * count
    assert all(torch.equal(result[0], images) for result in results if result[2] == 1)
    return mixed


def test_none_leaves_every_batch_as_it_is():
    images = torch.rand(3, 3, 8, 8)
    for step in range(20):
        result, _, share = mix_images(images, "none", np.random.default_rng(step))
        assert result is images and share == 1


def test_mixup_adds_the_partner_with_the_rest_of_the_share():
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = mixed_batches("mixup", images)
    for result, partners, share in batches:
        torch.testing.assert_close(result, share * images + (1 - share) * images[partners])
    shares = [share for *_, share in batches]
    assert min(shares) < 0.1 and max(shares) > 0.9 and 0.4 < np.mean(shares) < 0.6


@pytest.mark.parametrize("height, width", [(16, 16), (12, 20), (1, 1)])
def test_cutmix_shows_a_rectangle_of_the_partner_and_the_share_is_what_is_left(height, width):
    images = torch.rand(5, 3, height, width, generator=torch.Generator().manual_seed(0))
    batches = [mix_images(images, "cutmix", np.random.default_rng((7, step, 2))) for step in range(200)]
    for result, partners, share in batches:
        is_other = (result != images).all(dim=1)  # (5, H, W)
        assert (is_other == is_other[0]).all()
        assert torch.equal(result, torch.where(is_other[:, None], images[partners], images))
        rows, columns = is_other[0].any(dim=1).sum().item(), is_other[0].any(dim=0).sum().item()
        assert rows * columns == is_other[0].sum()  # all of its bounding box, but only if that is one piece:
        assert (is_other[0].any(dim=1).int().diff() != 0).sum() <= 2
        assert (is_other[0].any(dim=0).int().diff() != 0).sum() <= 2
        assert share == 1 - rows * columns / (height * width)
    if height > 1:
        shares = [share for *_, share in mixed_batches("cutmix", images)]
        assert min(shares) < 0.3 and max(shares) > 0.9


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_is_drawn_from_the_generator_alone_and_leaves_its_input(kind):
    images = torch.rand(4, 3, 8, 8)
    before = images.clone()
    torch.manual_seed(0)
    first = mixed_batches(kind, images)
    torch.manual_seed(1)
    for (ours, _, share), (theirs, _, other) in zip(first, mixed_batches(kind, images)):
        assert torch.equal(ours, theirs) and share == other
    assert torch.equal(images, before)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_everybody_is_somebody_elses_partner(size):
    images = torch.rand(size, 3, 8, 8)
    for kind in ("none", "mixup", "cutmix"):
        _, partners, _ = mix_images(images, kind, np.random.default_rng(0))
        assert sorted(partners.tolist()) == list(range(size))
        assert (partners != torch.arange(size)).all()


def test_an_image_alone_is_mixed_with_itself():
    image = torch.rand(1, 3, 8, 8)
    for kind in ("mixup", "cutmix"):
        torch.testing.assert_close(mix_images(image, kind, np.random.default_rng(2))[0], image)


# -- the loss of a mixed batch -------------------------------------------------------------------------------


class Answers(torch.nn.Module):
    """Gives the same logits whatever it sees, and keeps that."""

    def __init__(self):
        super().__init__()
        self.logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in normalisation("resnet34"))
        self.seen = images * std + mean
        return self.logits


def loss_and_share(mix: str, step: int, is_augmented: bool = True, seed: int = 3) -> tuple[float, float]:
    """The loss of four grey images of four classes; and the share of itself that the network saw of each."""
    levels = torch.tensor([0, 51, 153, 255], dtype=torch.uint8)
    inputs = levels[:, None, None, None].expand(4, 3, 8, 8)
    network, labels = Answers(), torch.tensor([5, 1, 0, 2])
    batch = [inputs, labels] + ([torch.tensor([[0.0, 1.0, 1.0]]).expand(4, 3)] if is_augmented else [])
    ready = p1_finetune.prepared(batch, normalisation("resnet34"), mix, torch.device("cpu"), (seed, step, 2))
    loss = p1_finetune.loss_of(network, *ready, share=1.0, label_smoothing=0.1)["loss"]
    means, own = network.seen.mean(dim=(1, 2, 3)), levels / 255
    shares = (means - own.roll(1)) / (own - own.roll(1))  # of itself, the rest is of the one before
    torch.testing.assert_close(shares, shares[:1].expand(4), atol=1e-4, rtol=0)
    share = shares[0].item()
    wanted = sum(
        part * functional.cross_entropy(network.logits, targets, label_smoothing=0.1).item()
        for part, targets in ((share, labels), (1 - share, labels.roll(1)))
    )
    assert loss.item() == pytest.approx(wanted, abs=1e-3)
    return loss.item(), share


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_a_mixed_batch_is_to_give_both_labels_each_by_its_share(mix):
    drawn = [loss_and_share(mix, step) for step in range(40)]
    is_mixed = [share < 0.999 for _, share in drawn]
    assert 10 < sum(is_mixed) < 30
    assert len({round(loss, 6) for (loss, _), mixed in zip(drawn, is_mixed) if not mixed}) == 1
    assert drawn == [loss_and_share(mix, step) for step in range(40)]
    assert drawn != [loss_and_share(mix, step, seed=4) for step in range(40)]


def test_nothing_is_mixed_where_nothing_is_asked_for_or_nothing_is_augmented():
    for mix, is_augmented in (("none", True), ("cutmix", False), ("mixup", False)):
        for step in range(20):
            assert loss_and_share(mix, step, is_augmented)[1] == pytest.approx(1, abs=1e-4)
