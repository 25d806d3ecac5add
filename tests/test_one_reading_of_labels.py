"""Labels are read alike in training, inference and scoring: `3`, `3.0` and `03` are 3, nan is no label."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

import p1_inference
from datasets.labelled import load_evaluation, load_training
from datasets.score import describe, matched_labels
from datasets.tables import as_labels, labels_in_names, read_labels, read_predictions
from engine.base import UserError
from tests.grader import call

CASES = Path(__file__).resolve().parent / "cases" / "csv"
WRITTEN = {  # how spreadsheets, pandas and hands write the numbers 0, 3 and 12
    "plain": ("0", "3", "12"),
    "floats": ("0.0", "3.0", "12.0"),
    "more digits": ("0.00", "3.000", "12.000000"),
    "a point alone": ("0.", "3.", "12."),
    "zeros before": ("000", "03", "0012"),
    "both": ("00.0", "03.0", "012.0"),
    "many zeros": ("0" * 40, "0" * 40 + "3", "0" * 40 + "12"),
    "spaces": (" 0", "3 ", "\t12"),
    "mixed": ("0", "3.0", "012"),
}


def table(path: Path, labels, column: str = "label") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = [(number, f"{number}.png", label) for number, label in enumerate(labels)]
        csv.writer(file).writerows([("id", "filename", column), *rows])
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 90, 30)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("how", WRITTEN)
def test_whole_numbers_are_numbers_however_they_are_written(how, folder, tmp_path):
    labels = WRITTEN[how]
    assert as_labels(labels) == ["0", "3", "12"]
    written = table(tmp_path / "written.csv", labels)
    trained = load_training(folder, written, 16, tmp_path / "cache")
    assert trained.classes == ["0", "3", "12"] and trained.labels.tolist() == [0, 1, 2]
    plain = table(tmp_path / "plain.csv", WRITTEN["plain"])
    seen = load_evaluation(folder, written, 16, tmp_path / "cache", ["0", "3", "12"])
    assert seen.labels.tolist() == [0, 1, 2]
    assert all(answer == truth for answer, truth in matched_labels(plain, written))
    assert all(answer == truth for answer, truth in matched_labels(written, plain))


@pytest.mark.parametrize(
    "labels",
    [("3.0", "Alarm_Clock"), ("03", "3.5"), ("3.0", "-1.0"), ("3.0", "1e3"), ("3.0", "1" * 10), ("3.0", "٣")],
)
def test_where_one_is_no_whole_number_all_are_names(labels):
    assert as_labels(labels) == list(labels)


def test_names_of_classes_come_back_as_they_stand():
    assert as_labels(("007", "Bike", " Mug ")) == ["007", "Bike", "Mug"]


@pytest.mark.parametrize("absent", ["", "None", "NONE", "nan", "NaN", " nan "])
def test_what_is_no_label_is_no_class_and_no_truth(absent, folder, tmp_path):
    assert as_labels(("3.0", absent)) == ["3", ""]
    half = table(tmp_path / "half.csv", ("3", absent))
    with pytest.raises(UserError, match="row 2 .*has no label"):
        load_training(folder, half, 16, tmp_path / "cache")
    whole = table(tmp_path / "whole.csv", ("3.0", "1.0"))
    with pytest.raises(UserError, match="1 of 2 rows have no label"):
        matched_labels(whole, half)
    assert matched_labels(half, whole) == [("3", "3"), ("", "1")]  # no answer is a wrong one


def test_the_course_rows_as_pandas_writes_them_score_what_they_are(tmp_path):
    """Compared as text, all of them were wrong."""
    rows = read_labels(CASES / "float_labels_val.csv")
    names = [row["filename"] for row in rows]
    assert [row["label"] for row in rows] == [name.split("_")[0] for name in names]
    with open(tmp_path / "answers.csv", "w", encoding="utf-8") as file:
        file.write("id,filename,label\n")
        file.writelines(f"{number},{name},{name.split('_')[0]}\n" for number, name in enumerate(names))
    assert "accuracy: 1.0000" in describe(
        matched_labels(tmp_path / "answers.csv", CASES / "float_labels_val.csv")
    )


def test_a_run_trained_on_floats_answers_in_whole_numbers(folder, tmp_path, p1_model):
    rows = read_labels(CASES / "float_labels_train.csv")
    assert all(row["label"].isdecimal() for row in rows)
    out = tmp_path / "out.csv"
    listed = table(tmp_path / "listed.csv", ("3.0", "nan", "", "1.0"))
    assert (
        call(p1_inference, "--csv", listed, "--images", folder, "--output", out, "--checkpoint", p1_model)
        == 0
    )
    assert all(row["label"].isdecimal() for row in read_labels(out))


def test_predictions_and_their_truth_are_read_alike(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("filename,label,truth\na.png,3,3.0\nb.png,1,01\n", encoding="utf-8")
    assert read_predictions(path) == [("a.png", "3", "3"), ("b.png", "1", "1")]
    assert matched_labels(path, path) == [("3", "3"), ("1", "1")]


def test_labels_in_names_are_read_alike(folder, tmp_path):
    named = tmp_path / "named"
    named.mkdir()
    for name in ("07_1.png", "7_2.png", "012_3.png"):
        shutil.copy(folder / "0.png", named / name)
    assert sorted(row["label"] for row in labels_in_names(named)) == ["12", "7", "7"]
