"""p1_inference.py: a row for every row, its label the network's, whatever the CSV and the images look
like.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import p1_inference
from datasets.tables import read_table
from engine import checkpoint
from models.builders import load_trained
from tests.grader import call, random_image, save, save_classifier

HEADER = "id,filename,label\n"


@functools.lru_cache(maxsize=2)
def loaded(model_path: Path) -> tuple[dict, torch.nn.Module]:
    model = checkpoint.read_model(model_path)
    return model, load_trained(model)


def answer(model_path: Path, image: Image.Image | None) -> int:
    """The class by hand: resize, scale to 0..1, normalise, argmax. None is the mean image."""
    model, network = loaded(model_path)
    mean, std = (torch.tensor(model[name])[:, None, None] for name in ("mean", "std"))
    pixels = torch.zeros(3, 32, 32)
    if image is not None:
        resized = np.array(image.convert("RGB").resize((32, 32), Image.BILINEAR))
        pixels = (torch.from_numpy(resized).permute(2, 0, 1) / 255 - mean) / std
    with torch.no_grad():
        return int(network(pixels[None]).argmax())


def rows_of(path: Path) -> list[list[str]]:
    text = path.read_bytes().decode("utf-8")
    assert text.startswith(HEADER) and "\r" not in text and text.endswith("\n")
    return [list(row.values()) for row in read_table(path)]


@pytest.fixture
def images(tmp_path) -> Path:
    """Six images, 0.png to 5.png."""
    for number in range(6):
        save(random_image(number), tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def classify(tmp_path, images, p1_model):
    """Runs the script on a CSV of the given text (or bytes); returns its status.

    The output is tmp_path/out.csv.
    """

    def run(text: str | bytes, *arguments: object) -> int:
        (tmp_path / "in.csv").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        given = ("--csv", tmp_path / "in.csv", "--images", images, "--output", tmp_path / "out.csv")
        given += ("--checkpoint", p1_model, "--device", "cpu", "--batch-size", "4")
        return call(p1_inference, *given, *arguments)

    return run


def test_every_row_gets_the_networks_class_in_the_inputs_order(classify, images, p1_model, tmp_path):
    order = [3, 0, 5, 1, 4, 2]
    assert classify(HEADER + "".join(f"{i + 7},{number}.png,None\n" for i, number in enumerate(order))) == 0
    expected = [
        [str(i + 7), f"{number}.png", str(answer(p1_model, Image.open(images / f"{number}.png")))]
        for i, number in enumerate(order)
    ]
    assert rows_of(tmp_path / "out.csv") == expected
    assert len({label for _, _, label in expected}) > 2  # the network's answers differ, so the order is seen


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,filename,label\n0,3.png,None\n1,0.png,None\n",
        "id,filename,label\r\n0,3.png,None\r\n1,0.png,None\r\n",
        'id,filename,label\n"0","3.png","None"\n"1","0.png","None"',
        "label,colour,filename,size,id\n5,red,3.png,9,0\n,,0.png,,1\n",
        "\n\nid,filename,label\n\n0,3.png,None\n , ,\n\n1,0.png,None\n\n\n",
        "id,filename\n0,3.png\n1,0.png\n",
        " ID , Filename \n0,3.png\n1,0.png\n",
        "filename\n3.png\n0.png\n",
        "id,filename,label\n0,3.png\n1,0.png,None,more,and more\n",
    ],
    ids=["BOM", "CRLF", "quotes", "other columns", "blank lines", "no label", "names", "no id", "ragged"],
)
def test_a_csv_is_read_as_it_was_meant(classify, images, p1_model, tmp_path, text):
    assert classify(text) == 0
    labels = [str(answer(p1_model, Image.open(images / name))) for name in ("3.png", "0.png")]
    assert rows_of(tmp_path / "out.csv") == [["0", "3.png", labels[0]], ["1", "0.png", labels[1]]]


def test_ids_and_names_are_copied_as_they_stand(classify, images, tmp_path):
    for name in ("ü 家.png", "a,b.png", " lead.png"):
        save(random_image(9), images / name)
    assert classify('id,filename,label\n007,ü 家.png,\nx y,"a,b.png",\n1e3, lead.png,\n') == 0
    kept = [row[:2] for row in rows_of(tmp_path / "out.csv")]
    assert kept == [["007", "ü 家.png"], ["x y", "a,b.png"], ["1e3", " lead.png"]]


def test_duplicate_rows_each_get_their_row(classify, tmp_path):
    assert classify(HEADER + "0,1.png,\n0,1.png,\n1,2.png,\n2,1.png,\n") == 0
    rows = rows_of(tmp_path / "out.csv")
    assert [row[:2] for row in rows] == [["0", "1.png"], ["0", "1.png"], ["1", "2.png"], ["2", "1.png"]]
    assert rows[0][2] == rows[1][2] == rows[3][2]


def test_names_of_classes_come_back_as_such(classify, tmp_path):
    named = save_classifier(
        tmp_path / "named.pt", seed=0, classes=[f"Größe_{n}" for n in range(65)], integer_labels=False
    )
    assert classify(HEADER + "0,1.png,\n", "--checkpoint", named) == 0
    [[_, _, label]] = rows_of(tmp_path / "out.csv")
    assert label == f"Größe_{answer(named, Image.open(tmp_path / 'images' / '1.png'))}"


def spoil(folder: Path) -> list[str]:
    """Images that can't be read, one of each kind; their names."""
    good = save(random_image(1, 200, 200), folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    png = save(random_image(1, 200, 200), folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no image\n")
    Image.new("1", (12_000, 8_000)).save(folder / "bomb.png")
    Image.new("1", (20_000, 10_000)).save(folder / "big bomb.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "nowhere.png").symlink_to(folder / "missing.png")
    (folder / "program.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    return [
        "missing.png", "cut.jpg", "cut.png", "empty.png", "text.png", "bomb.png", "big bomb.png",
        "folder.png", "pipe.png", "nowhere.png", "program.png", "",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_unreadable_image_keeps_its_row_with_the_class_of_a_mean_image(
    classify, images, p1_model, tmp_path, capfd
):
    bad = spoil(images)
    names = ["0.png", *bad, "5.png"]
    assert classify(HEADER + "".join(f"{i},{name},None\n" for i, name in enumerate(names))) == 1
    rows = rows_of(tmp_path / "out.csv")
    assert [row[:2] for row in rows] == [[str(i), name] for i, name in enumerate(names)]
    assert {row[2] for row in rows[1:-1]} == {str(answer(p1_model, None))}
    for row in (rows[0], rows[-1]):
        assert row[2] == str(answer(p1_model, Image.open(images / row[1])))
    said = capfd.readouterr().err
    assert all(name in said for name in bad)


def test_a_name_that_leads_out_of_the_folder_is_not_read(classify, images, p1_model, tmp_path):
    outside = save(random_image(2), tmp_path / "outside.png")
    names = ["../outside.png", "sub/../../outside.png", str(outside), "0.png\0", "\0", "0.png/../0.png"]
    save(random_image(3), images / "sub" / "inside.png")
    text = HEADER + "".join(f"{i},{name},\n" for i, name in enumerate([*names, "sub/inside.png"]))
    assert classify(text) == 1
    rows = rows_of(tmp_path / "out.csv")
    assert [row[1] for row in rows] == [*names, "sub/inside.png"]
    mean = str(answer(p1_model, None))
    assert [row[2] for row in rows[:-1]] == [mean] * len(names)
    assert rows[-1][2] == str(answer(p1_model, Image.open(images / "sub" / "inside.png"))) != mean


def test_exif_orientation_is_applied(classify, images, p1_model, tmp_path):
    turned = Image.fromarray(random_image(4))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(images / "turned.png", exif=exif)
    assert classify(HEADER + "0,turned.png,\n") == 0
    upright = answer(p1_model, turned.transpose(Image.Transpose.ROTATE_270))
    assert rows_of(tmp_path / "out.csv")[0][2] == str(upright) != str(answer(p1_model, turned))


def test_no_row_gives_the_header_alone(classify, tmp_path, capfd):
    assert classify(HEADER) == 0
    assert (tmp_path / "out.csv").read_bytes() == HEADER.encode()
    assert "header alone" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,name\n0,1.png\n", "filename"),
        ("", "filename"),
        ("id,filename\n0,ü.png\n".encode("latin-1"), "UTF-8"),
        ("id,filename\n0,1.png\n".encode("utf-16"), "UTF-8"),
        ("id,filename\n0,1.png\n".encode("utf-16-le"), "filename"),
        ("id;filename\n0;1.png\n", "filename"),
        (HEADER + "0,7.png,\n1,8.png,\n", "none of the 2 listed images is there"),
    ],
    ids=["no column", "empty file", "latin-1", "UTF-16", "UTF-16 without BOM", "semicolons", "nothing there"],
)
def test_a_csv_that_is_no_use_is_refused_in_one_line(classify, tmp_path, capfd, text, says):
    assert classify(text) == 2
    said = capfd.readouterr().err
    assert says in said and said.count("\n") == 1 and "in.csv" in said or "images" in said
    assert not (tmp_path / "out.csv").exists()


def test_nothing_is_written_when_no_listed_image_can_be_read(classify, images, tmp_path, capfd):
    (images / "text.png").write_text("no image")
    assert classify(HEADER + "0,text.png,\n1,missing.png,\n", "--output", tmp_path / "new" / "out.csv") == 2
    assert not (tmp_path / "new").exists()
    assert "nothing is written" in capfd.readouterr().err.splitlines()[-1]


def test_a_missing_csv_or_folder_is_named(classify, tmp_path, capfd):
    for arguments in (("--csv", tmp_path / "no.csv"), ("--images", tmp_path / "no"), ("--csv", tmp_path)):
        assert classify(HEADER + "0,0.png,\n", *arguments) == 2
        said = capfd.readouterr().err
        assert str(arguments[1]) in said and said.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_network_is_read(
    classify, images, tmp_path, capfd
):
    (tmp_path / "link.csv").symlink_to(tmp_path / "in.csv")
    before = (images / "0.png").read_bytes()
    for output in (
        tmp_path / "in.csv" / "out.csv",  # a file where a folder should be
        "/proc/out.csv",
        images,  # a folder
        "/dev/null",
        tmp_path / "in.csv",
        tmp_path / "link.csv",
        images / "0.png",
    ):
        assert classify(HEADER + "0,0.png,\n", "--output", output, "--checkpoint", tmp_path / "none.pt") == 2
        said = capfd.readouterr().err
        assert "--output" in said and said.count("\n") == 1 and "none.pt" not in said
    assert (tmp_path / "in.csv").read_text() == HEADER + "0,0.png,\n"
    assert (images / "0.png").read_bytes() == before and not Path("/dev/null").is_file()


def test_missing_folders_of_the_output_are_made_and_an_older_output_is_replaced(classify, tmp_path):
    output = tmp_path / "a" / "b ü" / "out.csv"
    for text in ("0,0.png,\n1,1.png,\n", "0,0.png,\n"):
        assert classify(HEADER + text, "--output", output) == 0
        assert len(rows_of(output)) == text.count("\n")
    assert [path.name for path in output.parent.iterdir()] == ["out.csv"]  # no temporary file stays


def test_several_checkpoints_average_their_probabilities(classify, images, tmp_path):
    paths = [
        save_classifier(tmp_path / f"{seed}.pt", seed=seed, image_size=size)
        for seed, size in ((1, 32), (2, 24))
    ]
    text = HEADER + "".join(f"{i},{i}.png,\n" for i in range(6))
    assert classify(text, "--checkpoint", *paths) == 0
    expected = []
    for number in range(6):
        total = 0
        for path in paths:
            model, network = loaded(path)
            mean, std = (torch.tensor(model[name])[:, None, None] for name in ("mean", "std"))
            size = (model["image_size"],) * 2
            image = np.array(Image.open(images / f"{number}.png").resize(size, Image.BILINEAR))
            with torch.no_grad():
                pixels = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
                total = total + network(pixels[None])[0].softmax(0)
        expected.append(str(int(total.argmax())))
    assert [row[2] for row in rows_of(tmp_path / "out.csv")] == expected


def by_hand_with_its_mirror(model_path: Path, image: Image.Image) -> int:
    model, network = loaded(model_path)
    mean, std = (torch.tensor(model[name])[:, None, None] for name in ("mean", "std"))
    pixels = (
        torch.from_numpy(np.array(image.resize((32, 32), Image.BILINEAR))).permute(2, 0, 1) / 255 - mean
    ) / std
    with torch.no_grad():
        return int(network(torch.stack([pixels, pixels.flip(2)])).softmax(dim=1).mean(dim=0).argmax())


def test_with_flip_the_answer_is_the_mean_over_the_mirrored_image_too(classify, images, p1_model, tmp_path):
    text = HEADER + "".join(f"{i},{i}.png,\n" for i in range(6))
    pictures = [Image.open(images / f"{number}.png") for number in range(6)]
    mirrored = [str(by_hand_with_its_mirror(p1_model, picture)) for picture in pictures]
    assert classify(text, "--tta", "flip") == 0
    assert [row[2] for row in rows_of(tmp_path / "out.csv")] == mirrored
    assert mirrored != [str(answer(p1_model, picture)) for picture in pictures]


def test_a_checkpoint_says_which_test_time_augmentation_it_wants_and_a_flag_overrides_it(
    classify, p1_model, tmp_path
):
    text = HEADER + "".join(f"{i},{i}.png,\n" for i in range(6))
    wants = save_classifier(tmp_path / "wants.pt", seed=0, tta="flip")
    labels = []
    for flags in (("--tta", "flip"), ("--checkpoint", wants), ("--checkpoint", wants, "--tta", "none"), ()):
        assert classify(text, *flags) == 0
        labels.append([row[2] for row in rows_of(tmp_path / "out.csv")])
    assert labels[0] == labels[1] and labels[2] == labels[3] != labels[0]


def test_a_checkpoint_with_an_unknown_test_time_augmentation_is_refused(classify, tmp_path, capfd):
    broken = save_classifier(tmp_path / "broken.pt", seed=0, tta="d4")
    assert classify(HEADER + "0,0.png,\n", "--checkpoint", broken) == 2
    assert "broken model.pt, 'tta', 'd4', is not what a training saves" in capfd.readouterr().err


def test_checkpoints_of_different_classes_are_refused(classify, p1_model, tmp_path, capfd):
    other = save_classifier(
        tmp_path / "other.pt", seed=1, classes=[f"c{n}" for n in range(65)], integer_labels=False
    )
    assert classify(HEADER + "0,0.png,\n", "--checkpoint", p1_model, other) == 2
    assert "different classes" in capfd.readouterr().err


def test_an_images_logits_do_not_depend_on_what_else_is_asked(images, p1_model):
    model = checkpoint.read_model(p1_model)
    how = {"device": torch.device("cpu"), "batch_size": 4, "workers": 1, "tta": "none"}
    together, _ = p1_inference.logits_of(model, str(images), [f"{n}.png" for n in range(6)], **how)
    for name in ("0.png", "5.png"):
        alone, _ = p1_inference.logits_of(model, str(images), [name], **how)
        assert torch.equal(alone[name], together[name])


@pytest.mark.parametrize(
    ("year", "header"), [("2020", "image_id,label"), ("2021", "image_id,label"), ("2023", "filename,label")]
)
def test_a_folder_without_a_csv_is_classified_whole_in_the_form_of_its_edition(
    images, p1_model, tmp_path, monkeypatch, year, header
):
    save(random_image(10), images / "10.png")
    (images / "notes.txt").write_text("no image")
    monkeypatch.setenv("EDITION", year)
    output = tmp_path / "out.csv"
    assert (
        call(
            p1_inference, "--images", images, "--output", output, "--checkpoint", p1_model, "--device", "cpu"
        )
        == 0
    )
    lines = output.read_text().splitlines()
    assert lines[0] == header
    assert [line.split(",")[0] for line in lines[1:]] == [
        f"{number}.png" for number in (0, 1, 2, 3, 4, 5, 10)
    ]


def test_a_file_name_that_is_not_utf_8_keeps_its_bytes(images, p1_model, tmp_path):
    (images / "0.png").rename(images / os.fsdecode(b"\xff.png"))
    output = tmp_path / "out.csv"
    given = ("--images", images, "--output", output, "--checkpoint", p1_model, "--device", "cpu")
    assert call(p1_inference, *given, "--edition", "2022") == 0
    assert [line.split(b",")[0] for line in output.read_bytes().splitlines()[1:]] == [
        *(f"{number}.png".encode() for number in range(1, 6)),
        b"\xff.png",
    ]


def test_an_edition_that_does_not_fit_the_call_is_named(classify, images, tmp_path, p1_model, capfd):
    assert classify(HEADER + "0,0.png,\n", "--edition", "2021") == 2
    assert "2021" in capfd.readouterr().err
    assert (
        call(p1_inference, "--images", images, "--output", tmp_path / "out.csv", "--checkpoint", p1_model)
        == 2
    )
    assert "--csv" in capfd.readouterr().err
