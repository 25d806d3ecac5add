"""Images without labels: a folder becomes one array of squares, and what can't be used is named."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from datasets.images import evaluation_image, read_rgb
from datasets.unlabelled import common_side, load_unlabelled
from engine.base import UserError


def save_noise(path, width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    """An empty folder for images, beside one for the cache."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def load(folder, tmp_path):
    return lambda image_size=128: load_unlabelled(folder, image_size, tmp_path / "cache")


def test_squares_of_the_common_size_keep_every_byte_in_natural_order(folder, load):
    wanted = [save_noise(folder / f"{number}.png", 84, 84, seed=number) for number in range(12)]
    data = load()
    assert data.pixels.dtype == np.uint8 and data.pixels.shape == (12, 84, 84, 3)
    assert np.array_equal(data.pixels, wanted)
    assert len(data) == 12 and data.left_out == 0


def test_images_of_another_size_are_resized_as_inference_resizes_them(folder, load):
    for number in range(3):
        save_noise(folder / f"{number}.png", 30, 30)
    save_noise(folder / "a.png", 50, 20)
    data = load()
    assert data.pixels.shape == (4, 30, 30, 3)
    wanted = evaluation_image(read_rgb(folder / "a.png", apply_exif=True), 30)
    assert np.array_equal(data.pixels[3], wanted)


def test_large_images_are_kept_a_quarter_larger_than_the_network_sees_them(folder, load):
    for number in range(3):
        save_noise(folder / f"{number}.png", 200 + 10 * number, 100 + 10 * number)
    assert load(image_size=32).pixels.shape == (3, 40, 40, 3)
    assert load(image_size=64).pixels.shape == (3, 80, 80, 3)


def test_the_side_is_that_of_most_images_counted_up_to_the_largest(folder):
    sizes = (20, 20, 30, 30, 90, 95, 99)
    paths = [folder / f"{number}.png" for number in range(len(sizes))]
    for path, size in zip(paths, sizes):
        save_noise(path, size + 7, size)
    assert common_side(paths, 80) == 80
    assert common_side(paths, 1000) == 30  # of equally common ones the longest


def test_images_stand_upright(folder, load):
    pixels = save_noise(folder / "0.png", 24, 24)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(folder / "1.png", exif=exif)
    data = load()
    assert np.array_equal(data.pixels[1], pixels[::-1, ::-1])


def test_broken_images_are_named_and_left_out_and_the_others_keep_their_own_pixels(folder, load, capsys):
    first, last = save_noise(folder / "0.png", 24, 24, seed=1), save_noise(folder / "9.png", 24, 24, seed=2)
    (folder / "1.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "2.jpg").write_bytes(b"")
    (folder / "3.jpg").write_text("no image")
    os.mkfifo(folder / "4.jpg")
    (folder / "5.jpg").symlink_to("nowhere")
    data = load()
    assert np.array_equal(data.pixels, [first, last]) and data.left_out == 5
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 5
    for name in ("1.png", "2.jpg", "3.jpg", "4.jpg", "5.jpg"):
        assert any(str(folder / name) in line for line in lines), name


def test_other_files_are_no_images(folder, load):
    for name in ("0.png", "1.png", ".hidden.png"):
        save_noise(folder / name, 24, 24)
    (folder / "train.csv").write_text("id,filename,label\n")
    (folder / "below.png").mkdir()
    data = load()
    assert len(data) == 2 and data.left_out == 0


def test_a_folder_that_is_not_there_is_named(folder, load):
    folder.rmdir()
    with pytest.raises(UserError, match="images: No such file or directory"):
        load()


def test_a_folder_without_images_is_refused(folder, load):
    (folder / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match="images: no image in it"):
        load()


@pytest.mark.parametrize("good", [0, 1])
def test_fewer_than_two_usable_images_are_refused(folder, load, good):
    (folder / "broken.jpg").write_bytes(b"")
    for number in range(good):
        save_noise(folder / f"{number}.png", 24, 24)
    with pytest.raises(UserError, match=f"{good} of its {good + 1} images can be used"):
        load()


def test_images_are_decoded_once(folder, load, monkeypatch, capsys):
    for number in range(3):
        save_noise(folder / f"{number}.png", 24, 24, seed=number)
    first = np.array(load().pixels)
    assert "reading 3 images" in capsys.readouterr().err
    monkeypatch.setattr("datasets.labelled.read_rgb", lambda *_, **__: pytest.fail("decoded again"))
    assert np.array_equal(load().pixels, first)
    assert capsys.readouterr().err == ""


def test_left_out_images_are_named_again_when_the_cache_is_reused(folder, load, capsys):
    for number in range(2):
        save_noise(folder / f"{number}.png", 24, 24)
    (folder / "2.png").write_bytes(b"")
    load()
    capsys.readouterr()
    assert load().left_out == 1
    assert "left out: " in capsys.readouterr().err


def test_writing_into_the_pixels_leaves_the_cache_as_it_is(folder, load):
    pixels = save_noise(folder / "0.png", 24, 24)
    save_noise(folder / "1.png", 24, 24)
    load().pixels[:] = 0
    assert np.array_equal(load().pixels[0], pixels)
