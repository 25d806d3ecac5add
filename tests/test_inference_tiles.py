"""p2_inference.py: for every tile a mask of its own size, each pixel the network's best class but unknown."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import p2_inference
from datasets.palette import COLOURS, classes_of_colours
from datasets.tiles import find_tiles
from engine import checkpoint
from models.builders import load_trained
from models.predict import TTA_PASSES, predict_tiles
from tests.grader import call, random_image, save, save_segmenter

MEAN, STD = 127 / 255, 128 / 255


def logits_by_hand(network: torch.nn.Module, tile: np.ndarray, scale: float = 0.5) -> torch.Tensor:
    """(1, 7, H, W) as described: scale, pad right and below to 32, crop, bring back."""
    images = torch.from_numpy(tile).permute(2, 0, 1)[None]
    size = [round(side * scale) for side in tile.shape[:2]]
    images = functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    images = (images / 255 - MEAN) / STD
    images = functional.pad(images, (0, -size[1] % 32, 0, -size[0] % 32), mode="replicate")
    with torch.no_grad():
        logits = network(images)["out"][..., : size[0], : size[1]]
    return functional.interpolate(logits, tile.shape[:2], mode="bilinear", align_corners=False)


@pytest.fixture(scope="module")
def network(p2_model) -> torch.nn.Module:
    return load_trained(checkpoint.read_model(p2_model))


@pytest.fixture
def tiles(tmp_path) -> Path:
    return tmp_path / "tiles"


@pytest.fixture
def masks(tmp_path) -> Path:
    return tmp_path / "masks"


@pytest.fixture
def segment(tiles, masks, p2_model):
    """Runs the script on the folder of tiles; returns its status."""

    def run(*arguments: object) -> int:
        given = ("--images", tiles, "--output", masks, "--checkpoint", p2_model, "--device", "cpu")
        return call(p2_inference, *given, *arguments)

    return run


def classes_in(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        pixels = np.array(image)
    assert (pixels[:, :, None] == COLOURS[:6]).all(axis=-1).any(axis=-1).all()  # six colours alone
    return classes_of_colours(pixels)


def test_a_mask_is_the_best_of_six_classes_in_the_tiles_own_size(segment, tiles, masks, network):
    shapes = [(64, 64), (64, 64), (50, 91), (128, 64), (7, 300), (1, 1)]
    pictures = [random_image(seed, *shape) for seed, shape in enumerate(shapes)]
    for number, picture in enumerate(pictures):
        save(picture, tiles / f"{number:04d}_sat.png")
    assert segment() == 0
    assert sorted(path.name for path in masks.iterdir()) == [f"{n:04d}_mask.png" for n in range(len(shapes))]
    seen = set()
    for number, picture in enumerate(pictures[:-1]):
        found, logits = classes_in(masks / f"{number:04d}_mask.png"), logits_by_hand(network, picture)
        # Where two classes are equal to six digits, either is right.
        highest_two = logits[0, :6].topk(2, dim=0).values
        is_clear = (highest_two[0] - highest_two[1] > 1e-5).numpy()
        assert is_clear.mean() > 0.99
        assert (found == logits[0, :6].argmax(0).numpy())[is_clear].all()
        assert (
            logits[0].argmax(0) == 6
        ).any()  # unknown's logit is the highest somewhere, and yet never taken
        seen |= set(np.unique(found))
    assert len(seen) > 2
    assert classes_in(masks / "0005_mask.png").shape == (1, 1)


def test_masks_do_not_depend_on_the_batch(segment, tiles, masks, tmp_path):
    for number in range(5):
        save(random_image(number, 64, 64 + 32 * (number == 3)), tiles / f"{number}_sat.png")
    assert segment() == 0
    assert segment("--batch-size", 4, "--workers", 3, "--output", tmp_path / "others") == 0
    for path in masks.iterdir():
        assert path.read_bytes() == (tmp_path / "others" / path.name).read_bytes()


def test_validation_in_training_and_inference_give_the_same_classes(segment, tiles, masks, network):
    picture = random_image(3, 72, 100)
    save(picture, tiles / "3_sat.png")
    assert segment() == 0
    tile = torch.from_numpy(picture).permute(2, 0, 1)[None]
    logits = predict_tiles(network, tile, 0.5, [MEAN] * 3, [STD] * 3)
    assert (logits.argmax(1)[0].numpy() == classes_in(masks / "3_mask.png")).all()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["0013_sat.jpg", "0013_mask.png", "2_sat.png"],
            {"0013_sat.jpg": "0013_mask.png", "2_sat.png": "2_mask.png"},
        ),
        (["0001_SAT.JPG", "a_Sat.jpeg"], {"0001_SAT.JPG": "0001_mask.png", "a_Sat.jpeg": "a_mask.png"}),
        (["10.jpg", "9.JPEG", "8.PNG"], {"8.PNG": "8.png", "9.JPEG": "9.png", "10.jpg": "10.png"}),
        (["1.jpg", "1_mask.png", "2_MASK.PNG"], {"1.jpg": "1.png"}),
        (["1_sat.jpg", "2.jpg", "3.png", "3_mask.png"], {"1_sat.jpg": "1_mask.png"}),
        (["ü 家_sat.jpg", "x.y_sat.jpg"], {"x.y_sat.jpg": "x.y_mask.png", "ü 家_sat.jpg": "ü 家_mask.png"}),
        (["1.jpg", ".2.jpg", "._1.jpg", "Thumbs.db", "notes_sat.txt", "3.gif"], {"1.jpg": "1.png"}),
    ],
)
def test_tiles_are_found_by_name(tiles, names, expected):
    tiles.mkdir()
    (tiles / "sub_sat.jpg").mkdir()
    for name in names:
        (tiles / name).touch()
    assert dict(find_tiles(tiles)) == expected


@pytest.mark.parametrize(
    "names", [["1.jpg", "1.png"], ["1_sat.jpg", "1_sat.png"], ["1_sat.jpg", "1_SAT.jpg"]]
)
def test_two_tiles_that_would_give_one_mask_stop_the_run_before_it_writes(
    segment, tiles, masks, names, capfd
):
    for name in names:
        save(random_image(1), tiles / name)
    assert segment() == 2
    said = capfd.readouterr().err
    assert all(name in said for name in names) and said.count("\n") == 1
    assert not masks.exists()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_tile_that_cannot_be_read_gets_no_mask_and_all_others_do(segment, tiles, masks, capfd):
    for number in (0, 9):
        save(random_image(number, 64, 64), tiles / f"{number}_sat.png")
    whole = save(random_image(1, 200, 200), tiles / "1_sat.jpg").read_bytes()
    (tiles / "1_sat.jpg").write_bytes(whole[: len(whole) // 2])
    (tiles / "2_sat.jpg").write_bytes(b"")
    (tiles / "3_sat.jpg").write_text("<html>")
    Image.new("1", (12_000, 8_000)).save(tiles / "4_sat.png")
    Image.new("1", (20_000, 10_000)).save(tiles / "5_sat.png")
    (tiles / "6_sat.jpg").symlink_to(tiles / "missing.jpg")
    os.mkfifo(tiles / "7_sat.jpg")
    assert segment() == 1
    assert sorted(path.name for path in masks.iterdir()) == ["0_mask.png", "9_mask.png"]
    said = capfd.readouterr().err
    assert all(f"{number}_sat" in said for number in range(1, 8))


def test_nothing_is_written_when_no_tile_can_be_read(segment, tiles, masks, capfd):
    tiles.mkdir()
    for number in range(3):
        (tiles / f"{number}_sat.jpg").write_bytes(b"\xff\xd8")
    assert segment() == 2
    assert "nothing is written" in capfd.readouterr().err.splitlines()[-1]
    assert not masks.exists()


def test_a_folder_that_is_missing_or_without_a_tile_is_named(segment, tiles, masks, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    save(random_image(1), tmp_path / "masks only" / "1_mask.png")
    (tmp_path / "file").touch()
    for name in ("no", "empty", "masks only", "file"):
        assert segment("--images", tmp_path / name) == 2
        said = capfd.readouterr().err
        assert str(tmp_path / name) in said and said.count("\n") == 1
    assert not masks.exists()


def test_exif_orientation_is_not_applied_to_tiles(segment, tiles, masks):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(random_image(4, 64, 96), tiles / "1_sat.png", exif=exif)
    save(random_image(4, 64, 96), tiles / "2_sat.png")
    assert segment() == 0
    assert (masks / "1_mask.png").read_bytes() == (masks / "2_mask.png").read_bytes()


def test_an_older_mask_is_replaced_whole(segment, tiles, masks):
    save(random_image(1, 64, 64), tiles / "1_sat.png")
    masks.mkdir()
    (masks / "1_mask.png").write_bytes(b"old" * 10_000)
    assert segment() == 0
    assert classes_in(masks / "1_mask.png").shape == (64, 64)
    assert [path.name for path in masks.iterdir()] == ["1_mask.png"]  # no temporary file stays


def test_masks_may_go_beside_the_tiles_unless_one_would_replace_a_file_there(segment, tiles, capfd):
    save(random_image(1, 64, 64), tiles / "1_sat.png")
    assert segment("--output", tiles) == 0
    assert classes_in(tiles / "1_mask.png").shape == (64, 64)
    before = (tiles / "1_mask.png").read_bytes()
    save(random_image(2, 64, 64), tiles / "2_sat.png")
    assert segment("--output", f"{tiles}/../tiles/", "--checkpoint", "none.pt") == 2
    assert "1_mask.png" in capfd.readouterr().err
    assert (tiles / "1_mask.png").read_bytes() == before and not (tiles / "2_mask.png").exists()


def test_a_tile_is_never_replaced_by_its_mask(segment, tiles):
    before = save(random_image(1, 64, 64), tiles / "1.png").read_bytes()
    assert segment("--output", tiles) == 2
    assert (tiles / "1.png").read_bytes() == before


def test_an_output_that_cannot_be_written_is_refused_before_the_network_is_read(
    segment, tiles, tmp_path, capfd
):
    save(random_image(1, 64, 64), tiles / "1_sat.png")
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "1_mask.png").mkdir(parents=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for output in ("file", "file/below", "/proc/masks", "taken", "dangling"):
        assert segment("--output", tmp_path / output, "--checkpoint", "none.pt") == 2
        said = capfd.readouterr().err
        assert "--output" in said and said.count("\n") == 1 and "none.pt" not in said


def test_a_disk_that_fails_half_way_is_told_and_leaves_no_half_mask(
    segment, tiles, masks, monkeypatch, capfd
):
    for number in range(6):
        save(random_image(number, 64, 64), tiles / f"{number}_sat.png")
    save_mask = p2_inference.save_mask

    def fail_at_the_third(classes, file):
        save_mask(classes, file)
        if "2_mask" in str(file):
            with open(file, "wb") as half:
                half.write(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(p2_inference, "save_mask", fail_at_the_third)
    assert segment() == 2
    assert "No space left" in capfd.readouterr().err.splitlines()[-1]
    assert not list(masks.glob(".*"))
    assert not (masks / "2_mask.png").exists()
    for path in masks.iterdir():
        assert classes_in(path).shape == (64, 64)


def test_several_checkpoints_average_their_probabilities(segment, tiles, masks, tmp_path):
    picture = random_image(5, 64, 64)
    save(picture, tiles / "5_sat.png")
    paths = [
        save_segmenter(tmp_path / f"{seed}.pt", seed=seed, scale=scale)
        for seed, scale in ((1, 0.5), (2, 1.0))
    ]
    assert segment("--checkpoint", *paths) == 0
    total = 0
    for path, scale in zip(paths, (0.5, 1.0)):
        logits = logits_by_hand(load_trained(checkpoint.read_model(path)), picture, scale)
        total = total + logits[0, :6].softmax(0)
    highest_two = total.topk(2, dim=0).values
    is_clear = (highest_two[0] - highest_two[1] > 1e-5).numpy()
    assert is_clear.mean() > 0.99
    assert (classes_in(masks / "5_mask.png") == total.argmax(0).numpy())[is_clear].all()


def test_a_scale_given_by_hand_overrides_the_trained_one(segment, tiles, masks, network):
    picture = random_image(6, 64, 64)
    save(picture, tiles / "6_sat.png")
    assert segment("--scale", 1) == 0
    logits = logits_by_hand(network, picture, 1.0)[0, :6]
    assert (classes_in(masks / "6_mask.png") == logits.argmax(0).numpy()).mean() > 0.99
    assert (logits_by_hand(network, picture)[0, :6].argmax(0) != logits.argmax(0)).any()


def test_several_scales_are_averaged_in_probability(segment, tiles, masks, network):
    picture = random_image(9, 64, 64)
    save(picture, tiles / "9_sat.png")
    assert segment("--scale", 0.5, 1) == 0
    told = [logits_by_hand(network, picture, scale)[:, :6].softmax(1) for scale in (0.5, 1.0)]
    assert (classes_in(masks / "9_mask.png") == sum(told)[0].argmax(0).numpy()).mean() > 0.999
    assert (sum(told)[0].argmax(0) != told[0][0].argmax(0)).any()


def test_published_test_time_augmentation_is_used_unless_another_is_asked_for(
    segment, tiles, masks, p2_model, capsys
):
    save(random_image(9, 64, 64), tiles / "9_sat.png")
    published = {**checkpoint.read(p2_model), "tta": "d4"}
    checkpoint.save(tiles / "model.pt", published)
    found = []
    for flags in (("--tta", "d4"), ("--checkpoint", tiles / "model.pt"), ("--tta", "none")):
        assert segment(*flags) == 0
        found.append(classes_in(masks / "9_mask.png"))
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()
    checkpoint.save(tiles / "model.pt", {**published, "tta": "sideways"})
    assert segment("--checkpoint", tiles / "model.pt") == 2
    assert "broken model.pt, 'tta', 'sideways', is not what a training saves" in capsys.readouterr().err


@pytest.mark.parametrize("tta", ["flip", "d4"])
def test_test_time_augmentation_is_the_mean_over_its_views(network, tta):
    tile = torch.from_numpy(random_image(7, 64, 96)).permute(2, 0, 1)[None]
    arguments = (1.0, [MEAN] * 3, [STD] * 3)
    found = predict_tiles(network, tile, *arguments, tta).softmax(1)
    total = 0
    for turns, mirrored in TTA_PASSES[tta]:
        seen = torch.rot90(tile, turns, (2, 3))
        seen = seen.flip(3) if mirrored else seen
        told = predict_tiles(network, seen.contiguous(), *arguments).softmax(1)
        total = total + torch.rot90(told.flip(3) if mirrored else told, -turns, (2, 3))
    torch.testing.assert_close(found, total / len(TTA_PASSES[tta]), atol=1e-5, rtol=0)


def test_four_fold_and_eight_fold_views_are_all_there(network):
    tile = torch.from_numpy(random_image(8, 64, 64)).permute(2, 0, 1)[None]
    arguments = (1.0, [MEAN] * 3, [STD] * 3)
    for tta, moves in (("flip", [(0, True), (2, False)]), ("d4", [(1, False), (0, True)])):
        straight = predict_tiles(network, tile, *arguments, tta)
        for turns, mirrored in moves:  # these generate the whole group, so the answer turns with the tile
            moved = torch.rot90(tile, turns, (2, 3))
            moved = (moved.flip(3) if mirrored else moved).contiguous()
            answer = predict_tiles(network, moved, *arguments, tta)
            answer = torch.rot90(answer.flip(3) if mirrored else answer, -turns, (2, 3))
            torch.testing.assert_close(answer, straight, atol=1e-4, rtol=0)
