"""One table holds what differs between the years, and the rest of the code agrees with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from datasets.editions import EDITIONS, edition
from datasets.tiles import find_tiles
from engine.base import UserError

REPOSITORY = Path(__file__).resolve().parent.parent


def test_without_a_word_it_is_2024(monkeypatch):
    monkeypatch.delenv("EDITION", raising=False)
    assert edition().name == "2024"
    monkeypatch.setenv("EDITION", "")
    assert edition().name == "2024"


def test_the_variable_chooses_and_an_argument_goes_before_it(monkeypatch):
    monkeypatch.setenv("EDITION", "2021")
    assert edition().name == "2021"
    assert edition("2023").name == "2023"


@pytest.mark.parametrize("name", ["2019", "fall 2024", "../2024"])
def test_an_unknown_edition_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match="2020, 2021, 2022, 2023, 2024"):
        edition(name)


@pytest.mark.parametrize(
    ("name", "wrappers", "folder_header", "table_header", "tile", "mask", "images", "download"),
    [
        ("2020", "hw2_1 hw2_2", "image_id,label", "", "_sat", "_mask", "0010 0097 0107", "hw2_download.sh"),
        ("2021", "hw1_1 hw1_2", "image_id,label", "", "", "", "0010 0097 0107", "hw1_download.sh"),
        ("2022", "hw1_1 hw1_2", "filename,label", "", "", "", "0013 0062 0104", "hw1_download.sh"),
        (
            *("2023", "hw1_1 hw1_2 hw1_3", "filename,label", "id,filename,label"),
            *("_sat", "_mask", "0013 0062 0104", "hw1_download_ckpt.sh"),
        ),
        (
            "2024",
            "hw1_1 hw1_2",
            "",
            "id,filename,label",
            "_sat",
            "_mask",
            "0013 0062 0104",
            "hw1_download_ckpt.sh",
        ),
    ],
)
def test_the_table_is_the_contracts(
    name, wrappers, folder_header, table_header, tile, mask, images, download
):
    year = EDITIONS[name]
    assert [wrapper.name for wrapper in year.wrappers] == [f"{wrapper}.sh" for wrapper in wrappers.split()]
    assert ",".join(year.folder_header or ()) == folder_header
    assert ",".join(year.table_header or ()) == table_header
    assert (year.tile_suffix, year.mask_suffix) == (tile, mask)
    assert year.report_images == tuple(images.split())
    assert year.download_script == download
    assert year.homework == ("hw2" if name == "2020" else "hw1")


@pytest.mark.parametrize("name", EDITIONS)
def test_masks_are_named_as_the_edition_says(name, tmp_path):
    year = EDITIONS[name]
    Image.new("RGB", (8, 8)).save(tmp_path / f"0013{year.tile_suffix}.jpg")
    assert find_tiles(tmp_path) == [(f"0013{year.tile_suffix}.jpg", f"0013{year.mask_suffix}.png")]


@pytest.mark.parametrize("wrapper", [wrapper for year in EDITIONS.values() for wrapper in year.wrappers])
def test_every_wrapper_calls_a_script_that_is_there(wrapper):
    assert (REPOSITORY / wrapper.script).is_file()
