"""Images are decoded once; what comes from the cache is what the files hold now."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from PIL import Image

from datasets.cache import cached_images
from datasets.images import read_rgb
from engine.base import UserError


def read(path):
    return read_rgb(path, apply_exif=False)


@pytest.fixture
def images(tmp_path):
    generator = np.random.default_rng(0)
    paths = []
    for index, size in enumerate([(4, 5), (7, 3), (2, 2)]):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(paths[-1])
    return paths


def test_images_of_any_size_come_back_pixel_by_pixel(images, tmp_path):
    for _ in range(2):  # built, then mapped
        cache = cached_images(images, read, "test", tmp_path / "cache")
        assert len(cache) == 3
        for index, path in enumerate(images):
            np.testing.assert_array_equal(cache[index], read(path))


def test_the_second_time_nothing_is_decoded(images, tmp_path):
    cached_images(images, read, "test", tmp_path / "cache")

    def decode(path):
        raise AssertionError(f"{path} was decoded again")

    assert len(cached_images(images, decode, "test", tmp_path / "cache")) == 3


def test_a_changed_image_is_read_again(images, tmp_path):
    cached_images(images, read, "test", tmp_path / "cache")
    Image.new("RGB", (9, 9), (1, 2, 3)).save(images[1])
    assert cached_images(images, read, "test", tmp_path / "cache")[1].shape == (9, 9, 3)


def test_an_unreadable_image_keeps_its_place_and_its_reason(images, tmp_path):
    images[1].write_bytes(b"no image")
    cache = cached_images(images, read, "test", tmp_path / "cache")
    assert cache.shapes[1] == () and "1.png" in cache.errors["1"]
    np.testing.assert_array_equal(cache[2], read(images[2]))


@pytest.mark.parametrize("index", ["", "{", "[]", "3", '{"shapes": 3}', '{"shapes": [["a"]], "errors": {}}'])
def test_a_cache_with_a_broken_index_is_made_anew(images, tmp_path, index, capfd):
    cached_images(images, read, "test", tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("*.json")
    path.write_text(index)
    assert_made_anew(images, tmp_path / "cache", capfd)


@pytest.mark.parametrize("size", [-1, 0])
def test_a_cut_cache_is_made_anew(images, tmp_path, size, capfd):
    cached_images(images, read, "test", tmp_path / "cache")
    (data,) = (tmp_path / "cache").glob("*.bin")
    data.write_bytes(data.read_bytes()[:size])
    assert_made_anew(images, tmp_path / "cache", capfd)


def assert_made_anew(images, folder, capfd):
    capfd.readouterr()
    cache = cached_images(images, read, "test", folder)
    said = capfd.readouterr().err
    assert "again, the ones there are broken" in said and said.count("\n") == 1
    np.testing.assert_array_equal(cache[2], read(images[2]))
    cached_images(images, None, "test", folder)  # nothing is left to be read
    assert capfd.readouterr().err == ""


def test_what_a_killed_process_left_is_removed_after_a_day(images, tmp_path):
    (tmp_path / "cache").mkdir()
    old, young = tmp_path / "cache" / ".reading-old", tmp_path / "cache" / ".reading-young"
    for path, age in ((old, 25), (young, 1)):
        path.touch()
        os.utime(path, (time.time() - age * 3600,) * 2)
    cached_images(images, read, "test", tmp_path / "cache")
    assert not old.exists() and young.exists()


def test_both_files_are_on_the_disk_before_they_get_their_names(images, tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("rename"), replace(*paths)))
    cached_images(images, read, "test", tmp_path / "cache")
    assert done == ["sync", "rename"] * 2


@pytest.mark.parametrize("reason", ["No space left on device", "Read-only file system"])
def test_a_disk_that_takes_nothing_is_one_line(images, tmp_path, monkeypatch, reason):
    def fail(file):
        raise OSError(28, reason)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=rf"\.bin: .*\({reason}\); give --cache another folder") as refusal:
        cached_images(images, read, "test", tmp_path / "cache")
    assert "\n" not in str(refusal.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_is_left_when_reading_is_broken_off(images, tmp_path):
    def fail(path):
        raise MemoryError

    with pytest.raises(MemoryError):
        cached_images(images, fail, "test", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_named(images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--cache"):
        cached_images(images, read, "test", tmp_path / "file" / "cache")
