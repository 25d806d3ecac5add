"""Images and tables are read as they were meant, whatever form they come in."""

from __future__ import annotations

import csv
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.images import ImageError, evaluation_image, path_inside, read_rgb
from datasets.tables import read_table, write_table
from tests.grader import random_image

PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of channels: grey, grey + alpha, RGB, RGBA


def write_16_bit_png(samples: np.ndarray, path: Path) -> Path:
    """(H, W, C) uint16 as a PNG, which Pillow can't write in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = samples.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["grey", "grey and alpha", "RGB", "RGBA"])
def test_of_16_bit_samples_the_high_byte_is_read(tmp_path, channels):
    samples = np.random.default_rng(channels).integers(0, 65536, (9, 7, channels), dtype=np.uint16)
    found = read_rgb(write_16_bit_png(samples, tmp_path / "deep.png"), apply_exif=True)
    high = (samples >> 8).astype(np.uint8)
    assert (found == (high[:, :, :3] if channels > 2 else high[:, :, :1])).all() and found.shape == (9, 7, 3)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *((mode, "a.png") for mode in ("L", "1", "P", "RGBA", "LA")),
        *((mode, "a.jpg") for mode in ("L", "CMYK")),
    ],
)
def test_every_mode_is_read_as_pillow_converts_it(tmp_path, mode, name):
    Image.fromarray(random_image(1)).convert(mode).save(tmp_path / name)
    found = read_rgb(tmp_path / name, apply_exif=False)
    assert found.dtype == np.uint8 and (found == np.array(Image.open(tmp_path / name).convert("RGB"))).all()


def test_a_files_content_counts_and_not_its_name(tmp_path):
    Image.fromarray(random_image(2)).save(tmp_path / "a.jpg", format="PNG")
    assert (read_rgb(tmp_path / "a.jpg", apply_exif=True) == random_image(2)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_exif_orientation_is_undone_where_it_is_asked_for(tmp_path, orientation):
    upright = random_image(3)
    undo = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(upright).save(tmp_path / "a.png", exif=exif)
    assert (read_rgb(tmp_path / "a.png", apply_exif=True) == undo[orientation](upright)).all()
    assert (read_rgb(tmp_path / "a.png", apply_exif=False) == upright).all()


@pytest.mark.parametrize("exif", [b"garbage", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_data_leave_an_image_as_it_is(tmp_path, exif):
    Image.fromarray(random_image(4)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + exif)
    assert (
        read_rgb(tmp_path / "a.jpg", apply_exif=True) == read_rgb(tmp_path / "a.jpg", apply_exif=False)
    ).all()


@given(cut=st.integers(0, 3000), noise=st.binary(max_size=40), place=st.integers(0, 3000))
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_read_or_refused_and_never_breaks_the_run(tmp_path_factory, cut, noise, place):
    folder = tmp_path_factory.mktemp("damaged")
    for name in ("a.jpg", "a.png"):
        Image.fromarray(random_image(5)).save(folder / name)
        data = bytearray((folder / name).read_bytes())
        data[place : place + len(noise)] = noise
        (folder / name).write_bytes(data[: len(data) - cut] if cut else data)
        try:
            assert read_rgb(folder / name, apply_exif=True).ndim == 3
        except ImageError as error:
            assert name in str(error)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_in_every_thread_and_nothing_else_is_said(tmp_path, capfd):
    Image.new("1", (10_000, 9_000)).save(tmp_path / "bomb.png")

    def reason(_: int) -> str:
        with pytest.raises(ImageError) as error:
            read_rgb(tmp_path / "bomb.png", apply_exif=True)
        return str(error.value)

    with ThreadPoolExecutor(4) as pool:
        assert all("bomb" in text for text in pool.map(reason, range(16)))
    assert capfd.readouterr().err == ""


def test_evaluation_resizes_the_whole_image_to_a_square():
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[:, 40:] = 255
    resized = evaluation_image(image, 16)
    assert resized.shape == (16, 16, 3)
    assert (resized[:, :6] == 0).all() and (resized[:, 10:] == 255).all()


@pytest.mark.parametrize("name", ["", "..", "../a", "a/../b", "a/..", "/etc/passwd", "a\0", "\0"])
def test_no_name_leads_out_of_the_folder(name):
    assert path_inside("folder", name) is None


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "..a.jpg", "a..b", "...", " "])
def test_other_names_stay_as_they_are(name):
    assert path_inside("folder", name) == f"folder/{name}"


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@given(rows=st.lists(st.tuples(CELL.filter(str.strip), CELL), max_size=8))
@settings(max_examples=150, deadline=None)
def test_a_table_that_was_written_is_read_back_to_the_letter(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    write_table(path, ("id", "filename"), rows)
    data = path.read_bytes()
    assert data.startswith(b"id,filename\n") and data.endswith(b"\n")
    assert [(row["id"], row["filename"]) for row in read_table(path)] == rows


def test_line_ends_inside_quotes_belong_to_the_cell(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'id,filename\r\n1,"a\r\nb"\r\n2,"c""d"\r3,e')
    assert [row["filename"] for row in read_table(tmp_path / "a.csv")] == ["a\r\nb", 'c"d', "e"]


def test_a_written_table_is_what_other_readers_expect(tmp_path):
    write_table(
        tmp_path / "a.csv", ("id", "filename", "label"), [("0", "a,b.jpg", 7), ("1", 'c"d.jpg', "Größe")]
    )
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "filename", "label"],
            ["0", "a,b.jpg", "7"],
            ["1", 'c"d.jpg', "Größe"],
        ]
