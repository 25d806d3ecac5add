"""What files from outside say, however strange, is cleaned at the door: no endless work, no "nan", no
traceback.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.run_folder import best, best_and_last, is_number, read_json, read_run, scores, series
from report.collect import class_names_of, read_architecture
from report.document import Gap, Table, Text
from report.sam import sam_blocks
from report.text import columns, one_line

# -- text ----------------------------------------------------------------------------------------------------


def test_megabytes_are_cut_like_any_other_text():
    assert one_line("x" * 5_000_000, 10) == "x" * 9 + "…"
    assert one_line(" \n" * 1_000_000 + "龍" * 1_000_000, 10) == "龍" * 4 + "…"
    assert one_line("x y " * 50_000, 1_000_000) == "x y " * 49_999 + "x y"


@given(st.text("ab 龍\n\t\0\u202e𠮷", max_size=30), st.integers(1, 12))
def test_a_line_is_the_longest_beginning_that_fits_with_its_ellipsis(text, width):
    whole = one_line(text, 1000)
    assert whole == " ".join(text.replace("\0", " ").replace("\u202e", " ").split())
    if columns(whole) <= width:
        assert one_line(text, width) == whole
    else:
        beginnings = (whole[:end].rstrip() for end in range(len(whole)) if columns(whole[:end]) < width)
        assert one_line(text, width) == max(beginnings, key=len) + "…"


# -- numbers and JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 2**53 + 1, 10**400, True, None, "1", [1]]
)
def test_what_no_report_can_show_is_no_number(value):
    assert not is_number(value)


@pytest.mark.parametrize("value", [0, -1, 2**53, -(2**53), 0.5, 1e308])
def test_finite_numbers_are_numbers(value):
    assert is_number(value)


def test_json_comes_without_what_no_report_can_show(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(f'{{"a": [NaN, Infinity, 1e999, {10**400}, 1], "b\\u0000": "c\\u0000\\ud800"}}')
    assert read_json(path) == {"a": [None, None, None, None, 1], "b\ufffd": "c\ufffd?"}


@pytest.mark.parametrize(
    "data", [None, b"", b"{", b"\xff", b"[" * 100_000, b"[" * 700 + b"]" * 700, b"[" + b"9" * 5000 + b"]"]
)
def test_json_that_cannot_be_read_is_an_os_error_or_a_value_error(tmp_path, data):
    if data is not None:
        (tmp_path / "a.json").write_bytes(data)
    with pytest.raises((OSError, ValueError)):
        read_json(tmp_path / "a.json")


def make_run(folder: Path, *lines: dict, **arguments):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"arguments": arguments, "total_steps": len(lines)}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(folder)


def test_scores_outside_0_and_1_count_nowhere_and_the_first_of_equal_ones_is_the_best(tmp_path):
    values = [0.25, 7.0, 0.5, float("nan"), 0.5, -1]
    run = make_run(
        tmp_path / "run", *({"step": n, "epoch": n, "accuracy": x} for n, x in enumerate(values, start=1))
    )
    assert len(series(run, "accuracy")) == 5 and scores(run, "accuracy") == [(1, 0.25), (3, 0.5), (5, 0.5)]
    assert best(run, "accuracy") == (3, 0.5) and best(run, "mean_iou") is None
    assert best_and_last(tmp_path / "run") == "best accuracy 0.5000 (epoch 3), last 0.5000 (epoch 5)"
    assert best_and_last(tmp_path / "nowhere") == "no epoch is scored"


def test_a_path_with_nul_in_it_leads_nowhere_and_stops_nothing(tmp_path):
    run = make_run(tmp_path / "run", data="a\0b")
    assert "\0" not in run.arguments["data"] and class_names_of(run, []) == {}
    assert not (Path(run.arguments["data"]) / "validation").exists()


# -- architectures -------------------------------------------------------------------------------------------


def block(name: str, inputs: list, stride: object = 1, role: str = "") -> dict:
    return {
        "name": name,
        "inputs": inputs,
        "stride": stride,
        "role": role,
        "layers": "x2",
        "is_auxiliary": False,
    }


def read_drawn(folder: Path, *blocks: dict, **fields):
    said = {
        "network": "n",
        "input": [3, 64, 64],
        "parameters": 5,
        "auxiliary_parameters": 0,
        "multiply_adds": 9,
    }
    (folder / "architecture.json").write_text(json.dumps({**said, "blocks": blocks, **fields}))
    return read_architecture(folder)


@pytest.mark.parametrize(
    "blocks",
    [
        [block("a", ["a"], role="output")],
        [block("a", ["b"]), block("b", ["a"], role="output")],
        [block("a", ["b"]), block("b", ["a"]), block("c", ["a"], role="output")],
        [block("a", [])],
        [],
    ],
    ids=["itself", "circle", "into a circle", "no output", "nothing"],
)
def test_an_architecture_that_leads_in_a_circle_or_nowhere_has_a_dash(tmp_path, blocks):
    drawing = read_drawn(tmp_path, *blocks)
    assert drawing.scored_at == "–" and drawing.merged_at == "nowhere"


def test_an_architecture_says_where_its_scores_come_from(tmp_path):
    drawing = read_drawn(tmp_path, block("a", [], 8), block("b", ["a"], 1), block("c", ["b"], 1, "output"))
    assert drawing.scored_at == "stride 8, then x2" and drawing.size == 64


@pytest.mark.parametrize("number", [float("nan"), 1e400, 10**400, -1, 1e300, "5", None])
def test_an_architecture_with_impossible_numbers_is_none(tmp_path, number):
    assert read_drawn(tmp_path, block("a", [], role="output"), multiply_adds=number) is None


# -- Segment Anything ----------------------------------------------------------------------------------------

MADE_BY = {"network": "vit_b", "points_per_side": 8, "box_nms_thresh": 0.7}


def write_masks(folder: Path, name: str, areas: list, made_by: object = MADE_BY, **image) -> None:
    said = {"image": {"height": 10, "width": 10, **image}, "annotations": [{"area": area} for area in areas]}
    (folder / f"{name}_sam.json").write_text(json.dumps({**said, "made_by": made_by}))


def text_of(blocks) -> str:
    return " ".join(block.text for block in blocks if isinstance(block, Text))


def test_the_method_speaks_of_boxes_only_where_masks_were_chosen_by_them(tmp_path):
    write_masks(tmp_path, "1", [50])
    text = text_of(sam_blocks(tmp_path, tmp_path))
    assert "at each point of a grid of 8 by 8 points." in text and "nearly the same box" in text
    for threshold in (1.0, None, "x"):
        write_masks(tmp_path, "1", [50], {**MADE_BY, "box_nms_thresh": threshold})
        assert "box" not in text_of(sam_blocks(tmp_path, tmp_path))


def test_images_that_were_made_otherwise_are_named(tmp_path):
    for name in ("1", "2", "10"):
        write_masks(tmp_path, name, [50])
    assert "made with others" not in text_of(sam_blocks(tmp_path, tmp_path))
    write_masks(tmp_path, "2", [50], {**MADE_BY, "points_per_side": 32})
    assert "These are the settings of 1; made with others: 2." in text_of(sam_blocks(tmp_path, tmp_path))


def test_the_median_of_an_even_number_of_masks_lies_between_two(tmp_path):
    write_masks(tmp_path, "1", [10, 40, 20, 0])
    tables = [block for block in sam_blocks(tmp_path, tmp_path) if isinstance(block, Table)]
    assert tables[-1].rows == (("1", "4", "40.0%", "15.00%"),)


@pytest.mark.parametrize(
    ("areas", "image"),
    [
        ([-1], {}),
        ([101], {}),
        ([float("nan")], {}),
        ([1], {"height": -10, "width": -10}),
        ([1], {"height": "x", "width": 10**15}),
        ([1], {"height": 0}),
        ([None], {}),
    ],
)
def test_masks_that_no_image_can_have_are_not_ours(tmp_path, areas, image):
    write_masks(tmp_path, "1", areas, **image)
    (gap,) = sam_blocks(tmp_path, tmp_path)
    assert isinstance(gap, Gap) and "no result of p2_sam.py" in gap.text


@pytest.mark.parametrize(("images", "is_few"), [(3, True), (29, True), (30, False), (None, False)])
def test_only_few_images_are_called_few(tmp_path, images, is_few):
    write_masks(tmp_path, "1", [50])
    scored = {"images": images, "model B": {"mean_iou": 0.5, "urban": 7.0}, "vote": {"mean_iou": 0.6}}
    (tmp_path / "score.json").write_text(json.dumps(scored))
    blocks = sam_blocks(tmp_path, tmp_path)
    assert "raises the mean IoU of these images by 0.1000" in text_of(blocks)
    assert ("so few images" in text_of(blocks)) == is_few
    assert not any(
        "7.0" in cell for block in blocks if isinstance(block, Table) for row in block.rows for cell in row
    )


@pytest.mark.parametrize("score", [7.0, -0.5, float("nan"), 1e999])
def test_a_mean_iou_outside_0_and_1_is_no_comparison(tmp_path, score):
    write_masks(tmp_path, "1", [50])
    (tmp_path / "score.json").write_text(
        json.dumps({"model B": {"mean_iou": score}, "vote": {"mean_iou": score}})
    )
    assert isinstance(sam_blocks(tmp_path, tmp_path)[-1], Gap)
