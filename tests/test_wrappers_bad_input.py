"""Every line of the table of bad input, through the wrappers: the exit status, what is said, what is written.

What exactly is read and written in each case is shown without a process for each by test_inference_*.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.grader import REPOSITORY, random_image, save, wrapper, wrappers

CLASSIFY, SEGMENT = REPOSITORY / "hw1_1.sh", REPOSITORY / "hw1_2.sh"


@pytest.fixture
def images(tmp_path) -> Path:
    save(random_image(1), tmp_path / "images" / "good.png")
    return tmp_path / "images"


def forms(folder: Path, ending: str) -> list[str]:
    """One picture in every form that is read as RGB; the names."""
    picture = Image.fromarray(random_image(2, 64, 64))
    for mode in ("L", "1", "P", "RGBA", "LA"):
        picture.convert(mode).save(folder / f"{mode}{ending}.png")
    picture.convert("CMYK").save(folder / f"CMYK{ending}.jpg")
    deep = random_image(3, 64, 64)[:, :, 0].astype(np.uint16) << 8
    Image.fromarray(deep).save(folder / f"deep{ending}.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / f"turned{ending}.jpg", exif=exif)
    return sorted(path.name for path in folder.iterdir())


def spoiled(folder: Path, ending: str) -> list[str]:
    """Images that can't be read, one of each kind; the names."""
    cut = save(random_image(4, 200, 200), folder / f"cut{ending}.jpg")
    cut.write_bytes(cut.read_bytes()[:2000])
    (folder / f"empty{ending}.png").write_bytes(b"")
    (folder / f"page{ending}.png").write_text("<html></html>")
    Image.new("1", (20_000, 10_000)).save(folder / f"bomb{ending}.png")
    (folder / f"nowhere{ending}.png").symlink_to(folder / "missing")
    return [f"{name}{ending}" for name in ("cut", "empty", "page", "bomb", "nowhere")]


def rows_of(path: Path) -> list[str]:
    """`id,filename` of each row."""
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    assert header == "id,filename,label" and all(row.rsplit(",", 1)[1].isdecimal() for row in rows)
    return [row.rsplit(",", 1)[0] for row in rows]


def test_whatever_can_be_read_as_it_was_meant_is_no_failure(images, tmp_path, p1_model, p2_model):
    names = forms(images, "")
    table = [
        "filename,size,id",
        *(f'"{name}",9,{i}' for i, name in enumerate(names)),
        "",
        "good.png,9,x",
        " , ",
    ]
    (tmp_path / "in.csv").write_bytes("\r\n".join(["\ufeff" + table[0], *table[1:]]).encode())
    (tmp_path / "empty.csv").write_text("id,filename,label\n")
    (tmp_path / "tiles").mkdir()
    tiles = forms(tmp_path / "tiles", "_sat")
    save(random_image(5, 40, 90), tmp_path / "tiles" / "small_sat.png")
    done = wrappers(
        [
            (CLASSIFY, tmp_path / "in.csv", images, tmp_path / "out.csv"),
            (SEGMENT, tmp_path / "tiles", tmp_path / "masks"),
            (CLASSIFY, tmp_path / "empty.csv", images, tmp_path / "header.csv"),
        ],
        P1_CHECKPOINT=p1_model,
        P2_CHECKPOINT=p2_model,
    )
    assert [result.returncode for result in done] == [0, 0, 0], [result.stdout for result in done]
    assert rows_of(tmp_path / "out.csv") == [*(f"{i},{name}" for i, name in enumerate(names)), "x,good.png"]
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "masks").iterdir()}
    assert sizes.pop("small_mask.png") == (90, 40)
    assert sizes == {f"{name.split('_')[0]}_mask.png": (64, 64) for name in tiles}
    assert (tmp_path / "header.csv").read_text() == "id,filename,label\n" and "header" in done[2].stdout


def test_what_cannot_be_read_is_named_and_all_else_is_done(images, tmp_path, p1_model, p2_model):
    bad = [*spoiled(images, ""), "missing", "../in", str(images / "good"), "a\0b"]
    files = {path.stem: path.name for path in images.iterdir()}
    names = ["good.png", *(files.get(name, f"{name}.png") for name in bad), "good.png"]
    (tmp_path / "in.csv").write_text(
        "id,filename\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names))
    )
    save(random_image(5, 64, 64), tmp_path / "tiles" / "good_sat.png")
    bad_tiles = spoiled(tmp_path / "tiles", "_sat")
    classified, segmented = wrappers(
        [
            (CLASSIFY, tmp_path / "in.csv", images, tmp_path / "out.csv"),
            (SEGMENT, tmp_path / "tiles", tmp_path / "masks"),
        ],
        P1_CHECKPOINT=p1_model,
        P2_CHECKPOINT=p2_model,
    )
    assert (classified.returncode, segmented.returncode) == (1, 1), classified.stdout + segmented.stdout
    assert rows_of(tmp_path / "out.csv") == [f"{i},{name}" for i, name in enumerate(names)]
    assert all(name.replace("\0", "\\x00") in classified.stdout for name in bad)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["good_mask.png"]
    assert all(name in segmented.stdout for name in bad_tiles)


def test_a_call_of_hw1_1_that_cannot_succeed_says_so_in_one_line_and_writes_nothing(
    images, tmp_path, p1_model
):
    (tmp_path / "in.csv").write_text("id,filename\n0,good.png\n")
    (tmp_path / "name.csv").write_text("id,name\n0,good.png\n")
    (tmp_path / "latin.csv").write_bytes("id,filename\n0,gut für.png\n".encode("latin-1"))
    (tmp_path / "page.csv").write_text("id,filename\n0,page.png\n1,cut.jpg\n")
    (tmp_path / "bad").mkdir()
    spoiled(tmp_path / "bad", "")
    (tmp_path / "none").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    cases = [  # what is wrong, and what the line must name
        (("no.csv", "images", "out.csv"), "no.csv"),
        (("in.csv", "no folder", "out.csv"), "no folder"),
        (("in.csv", "none", "out.csv"), "none"),
        (("page.csv", "bad", "new/out.csv"), "bad"),
        (("in.csv", "images", "in.csv/out.csv"), "in.csv/out.csv"),
        (("name.csv", "images", "out.csv"), "'filename'"),
        (("latin.csv", "images", "out.csv"), "UTF-8"),
        (("in.csv", "images", "in.csv"), "in.csv"),
    ]
    done = wrappers([(CLASSIFY, *arguments) for arguments, _ in cases], cwd=tmp_path, P1_CHECKPOINT=p1_model)
    for (arguments, named), result in zip(cases, done):
        errors = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
        assert result.returncode == 2 and len(errors) == 1 and named in errors[0], (arguments, result.stdout)
    # The images that turn out unreadable are named too; every other failure is told in one line.
    assert [result.stdout.count("\n") for result in done] == [1, 1, 1, 4, 1, 1, 1, 1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_a_call_of_hw1_2_that_cannot_succeed_says_so_in_one_line_and_writes_nothing(
    images, tmp_path, p2_model
):
    (tmp_path / "bad").mkdir()
    spoiled(tmp_path / "bad", "_sat")
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "1_mask.png").touch()
    save(random_image(1), tmp_path / "twice" / "1.png")
    save(random_image(1), tmp_path / "twice" / "1.jpg")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    cases = [
        (("no folder", "masks"), "no folder"),
        (("none", "masks"), "none"),
        (("bad", "new/masks"), "bad"),
        (("images", "images/good.png/masks"), "images/good.png/masks"),
        (("images", "images"), "images/good.png"),
        (("twice", "masks"), "1.png"),
    ]
    done = wrappers([(SEGMENT, *arguments) for arguments, _ in cases], cwd=tmp_path, P2_CHECKPOINT=p2_model)
    for (arguments, named), result in zip(cases, done):
        errors = [line for line in result.stdout.splitlines() if line.startswith("error: ")]
        assert result.returncode == 2 and len(errors) == 1 and named in errors[0], (arguments, result.stdout)
    assert [result.stdout.count("\n") for result in done] == [1, 1, 7, 1, 1, 1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists() and not (tmp_path / "masks").exists()


def test_output_into_a_pipe_is_refused_and_the_pipe_stays(images, tmp_path, p1_model):
    (tmp_path / "in.csv").write_text("id,filename\n0,good.png\n")
    done = wrapper(CLASSIFY, tmp_path / "in.csv", images, "/dev/stdout", P1_CHECKPOINT=p1_model)
    assert done.returncode == 2 and Path("/dev/stdout").is_symlink()
