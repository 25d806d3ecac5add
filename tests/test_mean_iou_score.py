"""mean_iou_evaluate.py prints and returns what the course's scorer does, to the last digit."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import mean_iou_evaluate
from datasets import palette

SCRIPT = Path(mean_iou_evaluate.__file__)


def transcribed_classes(rgb: np.ndarray) -> np.ndarray:
    """The contract's rule 2, written out: (H, W, 3) uint8 → (H, W) float64."""
    classes = np.zeros(rgb.shape[:2])
    bit = (rgb >= 128).astype(int)
    code = 4 * bit[:, :, 0] + 2 * bit[:, :, 1] + bit[:, :, 2]
    classes[code == 3] = 0
    classes[code == 6] = 1
    classes[code == 5] = 2
    classes[code == 2] = 3
    classes[code == 1] = 4
    classes[code == 7] = 5
    classes[code == 0] = 6
    return classes


def transcribed_score(pred: np.ndarray, labels: np.ndarray) -> tuple[str, float]:
    """The contract's rules 3 and 4, written out → what is printed, and the mean."""
    lines = ""
    mean_iou = 0
    for i in range(6):
        tp_fp = np.sum(pred == i)
        tp_fn = np.sum(labels == i)
        tp = np.sum((pred == i) * (labels == i))
        with np.errstate(invalid="ignore"):
            iou = tp / (tp_fp + tp_fn - tp)
        mean_iou += iou / 6
        lines += "class #%d : %1.5f\n" % (i, iou)
    return lines + "\nmean_iou: %f\n\n" % mean_iou, mean_iou


def write_masks(folder: Path, masks: list[np.ndarray]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for index, rgb in enumerate(masks):
        Image.fromarray(rgb).save(folder / f"{index:04d}_mask.png")
    return str(folder)


def score_folders(pred: str, labels: str, *flags: str) -> None:
    mean_iou_evaluate.main(mean_iou_evaluate.get_args(["-g", labels, "-p", pred, *flags]))


def random_masks(rng: np.random.Generator, shape: tuple[int, ...], colours: str) -> np.ndarray:
    """uint8 masks (n, H, W, 3): the seven colours, the eight corners of the cube, or any colour near the
    threshold.
    """
    if colours == "seven":
        return palette.COLOURS[rng.integers(0, 7, shape)]
    if colours == "patches":
        return np.repeat(palette.COLOURS[rng.integers(0, 7, shape[:2])][:, :, None], shape[2], axis=2)
    if colours == "corners":
        return rng.integers(0, 2, (*shape, 3), dtype=np.uint8) * np.uint8(255)
    return rng.choice(np.array([0, 1, 127, 128, 254, 255], dtype=np.uint8), (*shape, 3))


kinds = st.sampled_from(["seven", "patches", "corners", "threshold"])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 13), st.integers(1, 13)),
    kind_of_pred=kinds,
    kind_of_labels=kinds,
    share_right=st.sampled_from([0.0, 0.7, 1.0]),
)
def test_random_masks_score_as_the_transcription_to_the_last_digit(
    tmp_path_factory, seed, shape, kind_of_pred, kind_of_labels, share_right
):
    folder = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(seed)
    labels, pred = random_masks(rng, shape, kind_of_labels), random_masks(rng, shape, kind_of_pred)
    pred = np.where(rng.random((*shape, 1)) < share_right, labels, pred)
    expected, expected_mean = transcribed_score(
        np.stack([transcribed_classes(rgb) for rgb in pred]),
        np.stack([transcribed_classes(rgb) for rgb in labels]),
    )

    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr(
            "builtins.print", lambda *words, **where: "file" in where or lines.append(" ".join(words) + "\n")
        )
        score_folders(
            write_masks(folder / "pred", list(pred)),
            write_masks(folder / "labels", list(labels)),
            "--json",
            str(folder / "score.json"),
        )
    assert "".join(lines) == expected
    mean = json.loads((folder / "score.json").read_text())["mean_iou"]
    assert mean == expected_mean or (mean is None and np.isnan(expected_mean))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([np.float64, np.int64, np.uint8]),
    highest=st.integers(0, 8),
)
def test_mean_iou_score_returns_the_transcriptions_mean(seed, shape, dtype, highest):
    rng = np.random.default_rng(seed)
    pred, labels = (rng.integers(0, highest, shape, endpoint=True).astype(dtype) for _ in range(2))
    mean_iou = mean_iou_evaluate.mean_iou_score(pred, labels)
    np.testing.assert_array_equal(mean_iou, transcribed_score(pred, labels)[1])
    assert type(mean_iou) is np.float64


def test_mean_iou_score_prints_the_courses_lines(capsys):
    pred, labels = np.array([[0, 1, 2, 3, 4, 5, 6, 0]]), np.array([[0, 1, 2, 3, 4, 5, 0, 6]])
    mean_iou_evaluate.mean_iou_score(pred, labels)
    assert capsys.readouterr().out == (
        "class #0 : 0.33333\nclass #1 : 1.00000\nclass #2 : 1.00000\nclass #3 : 1.00000\n"
        "class #4 : 1.00000\nclass #5 : 1.00000\n\nmean_iou: 0.888889\n\n"
    )


def test_mean_iou_score_refuses_arrays_of_different_shapes():
    with pytest.raises(ValueError, match="shape"):
        mean_iou_evaluate.mean_iou_score(np.zeros((1, 4, 4)), np.zeros((3, 4, 4)))


def test_read_masks_gives_float64_classes_in_the_order_of_the_names(tmp_path):
    masks = random_masks(np.random.default_rng(0), (3, 512, 512), "corners")
    for name, rgb in zip(("10.png", "9.png", "B.png"), masks):
        Image.fromarray(rgb).save(tmp_path / name)
    Image.fromarray(masks[0]).save(tmp_path / "0.PNG")  # case counts
    Image.fromarray(masks[0]).save(tmp_path / "0.jpg")
    read = mean_iou_evaluate.read_masks(str(tmp_path))
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, np.stack([transcribed_classes(rgb) for rgb in masks]))


def test_the_signatures_are_the_courses():
    assert list(inspect.signature(mean_iou_evaluate.read_masks).parameters) == ["filepath"]
    assert list(inspect.signature(mean_iou_evaluate.mean_iou_score).parameters) == ["pred", "labels"]


def test_a_class_on_neither_side_is_nan_and_so_is_the_mean(tmp_path, capsys):
    mask = palette.COLOURS[np.array([[0, 1, 2, 3, 4]])]
    folder = write_masks(tmp_path / "masks", [mask])
    score_folders(folder, folder, "--json", str(tmp_path / "score.json"))
    assert capsys.readouterr().out.endswith("class #4 : 1.00000\nclass #5 : nan\n\nmean_iou: nan\n\n")
    scores = json.loads((tmp_path / "score.json").read_text())
    assert scores["mean_iou"] is None
    assert scores["iou"]["barren"] is None


def test_unknown_pixels_count_against_both_sides(tmp_path, capsys):
    labels = write_masks(tmp_path / "labels", [palette.COLOURS[np.array([[0, 0, 6, 1, 2, 3, 4, 5]])]])
    pred = write_masks(tmp_path / "pred", [palette.COLOURS[np.array([[0, 6, 0, 1, 2, 3, 4, 5]])]])
    score_folders(pred, labels)
    assert capsys.readouterr().out.startswith("class #0 : 0.33333\n")


def test_red_pixels_are_scored_as_urban_and_counted_on_stderr(tmp_path, capsys):
    every = palette.COLOURS[np.array([[0, 1, 2, 3, 4, 5, 5]])]
    red = every.copy()
    red[0, 0] = red[0, 6] = (255, 0, 0)
    pred, labels = write_masks(tmp_path / "pred", [every]), write_masks(tmp_path / "labels", [red])
    score_folders(pred, labels)
    output = capsys.readouterr()
    assert output.out.startswith("class #0 : 0.50000\n")
    assert output.err == f"note: {labels}: 2 red pixels, a colour of no class, are scored as class 0\n"


@pytest.mark.parametrize("mode", ["P", "RGBA", "PA", "CMYK"])
def test_masks_of_other_modes_are_read_as_their_rgb(tmp_path, capsys, mode):
    rgb = random_masks(np.random.default_rng(1), (1, 20, 30), "seven")[0]
    labels = write_masks(tmp_path / "labels", [rgb])
    image = Image.fromarray(rgb)
    if mode in ("P", "PA"):
        image = image.quantize(8)
    if mode in ("RGBA", "PA"):
        image.putalpha(7)  # nearly transparent
    image = image.convert(mode)
    (tmp_path / "pred").mkdir()
    # A PNG holds no CMYK and no PA, but the name alone decides what is read.
    image.save(tmp_path / "pred" / "0000_mask.png", format="TIFF" if mode in ("CMYK", "PA") else "PNG")
    score_folders(str(tmp_path / "pred"), labels)
    output = capsys.readouterr()
    assert "mean_iou: 1.000000" in output.out
    assert output.err == ""


def test_confusion_and_json_hold_every_pixel(tmp_path, capsys):
    rng = np.random.default_rng(2)
    labels, pred = (random_masks(rng, (2, 16, 16), "corners") for _ in range(2))
    score_folders(
        write_masks(tmp_path / "pred", list(pred)),
        write_masks(tmp_path / "labels", list(labels)),
        "--confusion",
        "--json",
        str(tmp_path / "new folder" / "score.json"),
    )
    expected = np.zeros((7, 7), dtype=int)
    for label_mask, pred_mask in zip(labels, pred):
        rows, columns = (
            transcribed_classes(label_mask).astype(int),
            transcribed_classes(pred_mask).astype(int),
        )
        np.add.at(expected, (rows, columns), 1)
    scores = json.loads((tmp_path / "new folder" / "score.json").read_text())
    assert scores["confusion"] == expected.tolist()
    assert list(scores["iou"]) == list(palette.CLASS_NAMES[:6])
    assert scores["masks"] == 2
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["score.json"]
    table = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert table[1].split() == list(palette.CLASS_NAMES)
    assert [line.split() for line in table[2:]] == [
        [name, *map(str, row)] for name, row in zip(palette.CLASS_NAMES, expected)
    ]


def test_colours_names_and_codes_are_those_of_datasets():
    assert mean_iou_evaluate.CLASS_NAMES == palette.CLASS_NAMES
    np.testing.assert_array_equal(mean_iou_evaluate.COLOURS, palette.COLOURS)
    corners = np.array([[[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)]], dtype=np.uint8)
    ours = mean_iou_evaluate.CLASS_OF_CODE[mean_iou_evaluate.codes_of(corners)]
    theirs = palette.classes_of_colours(corners)
    np.testing.assert_array_equal(ours, np.where(theirs == palette.UNCLAIMED, 0, theirs))


def test_the_file_stands_alone(tmp_path):
    copy = tmp_path / "scorer.py"
    copy.write_bytes(SCRIPT.read_bytes())
    seen = "import sys, scorer; print(*{name.partition('.')[0] for name in sys.modules})"
    modules = subprocess.run(
        [sys.executable, "-c", seen], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    foreign = {"torch", "torchvision", "scipy", "imageio", "datasets", "models", "engine", "report"}
    assert not foreign & set(modules.stdout.split())


def test_the_file_is_python_3_8():
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_the_script_prints_only_the_courses_lines_and_ends_with_0(tmp_path):
    mask = palette.COLOURS[np.arange(7).reshape(1, 7)]
    folder = write_masks(tmp_path / "masks with spaces, 遮罩", [mask])
    for flags in (["-g", folder, "-p", folder], ["--labels", folder, "--pred", folder]):
        done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True)
        lines = "".join(f"class #{index} : 1.00000\n" for index in range(6))
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{lines}\nmean_iou: 1.000000\n\n", "")
