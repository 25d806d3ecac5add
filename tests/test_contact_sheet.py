"""The contact sheet shows images and tiles of any hw1_data with what was predicted for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from datasets import sample
from engine.base import UserError
from report import contact_sheet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hw1_data, and beside it the truth as if it were predictions."""
    folder = tmp_path_factory.mktemp("sheet")
    few = ["--classes=3", "--train-images=3", "--val-images=10", "--image-size=32", "--mini-images=1"]
    assert sample.main([str(folder), *few, "--train-tiles=1", "--val-tiles=3", "--tile-size=64"]) == 0
    shutil.copy(folder / "hw1_data" / "p1_data" / "office" / "val.csv", folder / "predictions.csv")
    (folder / "masks").mkdir()
    for mask in (folder / "hw1_data" / "p2_data" / "validation").glob("*_mask.png"):
        shutil.copy(mask, folder / "masks")
    return folder


def draw(folder: Path, output: Path, **changes: Path) -> int:
    given = {"data": folder / "hw1_data", "labels": folder / "predictions.csv", "masks": folder / "masks"}
    return contact_sheet.main(
        [f"--{name}={value}" for name, value in {**given, "output": output, **changes}.items()]
    )


def colours(path: Path) -> set[tuple[int, int, int]]:
    with Image.open(path) as image:
        return {colour for _, colour in image.getcolors(1 << 24)}


def test_right_predictions_are_marked_right(folder, tmp_path):
    draw(folder, tmp_path / "new" / "sheet.png")
    found = colours(tmp_path / "new" / "sheet.png")
    assert contact_sheet.RIGHT in found and contact_sheet.WRONG not in found


def test_wrong_predictions_are_marked_wrong(folder, tmp_path):
    wrong = (folder / "predictions.csv").read_text().replace(",0\n", ",1\n")
    (tmp_path / "wrong.csv").write_text(wrong)
    draw(folder, tmp_path / "sheet.png", labels=tmp_path / "wrong.csv")
    assert {contact_sheet.RIGHT, contact_sheet.WRONG} <= colours(tmp_path / "sheet.png")


def test_images_and_tiles_without_a_prediction_are_left_out(folder, tmp_path):
    (tmp_path / "masks").mkdir()
    shutil.copy(folder / "masks" / "0001_mask.png", tmp_path / "masks")
    draw(folder, tmp_path / "all.png")
    draw(folder, tmp_path / "one.png", masks=tmp_path / "masks")
    with Image.open(tmp_path / "all.png") as whole, Image.open(tmp_path / "one.png") as one:
        assert one.height < whole.height


def test_what_cannot_be_read_is_named_and_left_out(folder, tmp_path, capfd):
    shutil.copytree(folder, tmp_path / "copy")
    office, tiles = (
        tmp_path / "copy" / "hw1_data" / name for name in ("p1_data/office/val", "p2_data/validation")
    )
    picture = sorted(office.iterdir())[0]
    for path in (picture, tiles / "0001_sat.jpg", tmp_path / "copy" / "masks" / "0002_mask.png"):
        path.write_bytes(path.read_bytes()[:100])
    assert draw(tmp_path / "copy", tmp_path / "sheet.png") == 1
    assert (tmp_path / "sheet.png").is_file()
    said = capfd.readouterr().err
    assert said.count("\n") == 3
    assert all(name in said for name in (picture.name, "0001_sat.jpg", "0002_mask.png"))
    for path in tiles.glob("*_sat.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the tiles and masks can be read"):
        draw(tmp_path / "copy", tmp_path / "none.png")


def test_tiles_may_be_of_any_kind(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    tiles = tmp_path / "copy" / "hw1_data" / "p2_data" / "validation"
    for path in tiles.glob("*_sat.jpg"):
        Image.open(path).save(tiles / path.name.replace("_sat.jpg", "_SAT.png"))
        path.unlink()
    assert draw(tmp_path / "copy", tmp_path / "sheet.png") == 0


def test_predictions_of_other_data_are_refused(folder, tmp_path):
    (tmp_path / "other.csv").write_text("id,filename,label\n0,other.jpg,1\n")
    with pytest.raises(UserError, match=r"other\.csv: has no image of"):
        draw(folder, tmp_path / "sheet.png", labels=tmp_path / "other.csv")
    with pytest.raises(UserError, match="has no mask of"):
        draw(folder, tmp_path / "sheet.png", masks=folder / "hw1_data" / "p1_data" / "office" / "val")
    assert not (tmp_path / "sheet.png").exists()


def test_long_names_are_shortened_to_their_place():
    text = contact_sheet.shortened("a very long name of a class " * 5, 13, 140)
    assert text.endswith("...") and contact_sheet.font(13).getlength(text) <= 140
    assert contact_sheet.shortened("short", 13, 140) == "short"
