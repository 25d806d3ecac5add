"""`python3 -m datasets.score` matches rows as they were meant, and says what does not match."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import score
from datasets.tables import write_predictions
from engine.base import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
TRUTH = "id,filename,label\n0,7_1.jpg,7\n1,10_3.jpg,10\n2,7_2.jpg,7\n3,2_5.jpg,2\n"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def run(folder: Path, predictions: str, truth: str = TRUTH) -> subprocess.CompletedProcess:
    write(folder / "predictions.csv", predictions)
    write(folder / "truth.csv", truth)
    command = [
        sys.executable,
        "-m",
        "datasets.score",
        str(folder / "predictions.csv"),
        str(folder / "truth.csv"),
    ]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8")


def pairs(folder: Path, predictions: str, truth: str = TRUTH) -> list[tuple[str, str]]:
    return score.matched_labels(write(folder / "p.csv", predictions), write(folder / "t.csv", truth))


def refusal(folder: Path, predictions: str, truth: str = TRUTH) -> str:
    with pytest.raises(UserError) as error:
        pairs(folder, predictions, truth)
    return str(error.value)


def test_accuracy_is_printed_for_every_class_and_the_whole_with_standard_errors(tmp_path):
    done = run(tmp_path, "id,filename,label\n0,7_1.jpg,7\n1,10_3.jpg,10\n2,7_2.jpg,2\n3,2_5.jpg,2\n")
    assert done.returncode == 0 and not done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1:4] == [
        ["2", "1", "1", "1.0000", "0.0000"],
        ["7", "1", "2", "0.5000", f"{math.sqrt(0.5 * 0.5 / 2):.4f}"],
        ["10", "1", "1", "1.0000", "0.0000"],
    ]
    assert (
        done.stdout.splitlines()[-1]
        == f"accuracy: 0.7500 +- {math.sqrt(0.75 * 0.25 / 4):.4f} (3 of 4 images)"
    )


def test_rows_are_matched_by_name_whatever_their_order(tmp_path):
    shuffled = "id,filename,label\n3,2_5.jpg,2\n1,10_3.jpg,10\n2,7_2.jpg,7\n0,7_1.jpg,7\n"
    assert pairs(tmp_path, shuffled) == [("7", "7"), ("10", "10"), ("7", "7"), ("2", "2")]


def test_a_file_without_ids_is_matched_by_name_alone(tmp_path):
    assert pairs(tmp_path, "filename,label\n7_2.jpg,7\n2_5.jpg,1\n7_1.jpg,7\n10_3.jpg,3\n")[3] == ("1", "2")


def test_early_editions_call_the_name_image_id(tmp_path):
    early = "image_id,label\n0_1.png,0\n1_1.png,0\n"
    assert pairs(tmp_path, early, "filename,label\n1_1.png,1\n0_1.png,0\n") == [("0", "1"), ("0", "0")]


def test_labels_are_text_so_that_class_names_can_be_scored(tmp_path):
    truth = "id,filename,label\n0,a.jpg,Alarm_Clock\n1,b.jpg,Backpack\n"
    assert pairs(tmp_path, truth, truth) == [("Alarm_Clock",) * 2, ("Backpack",) * 2]
    assert pairs(tmp_path, truth.replace("Backpack", "07"), truth.replace("Backpack", "7"))[1] == ("07", "7")


def test_byte_order_mark_crlf_quotes_and_blank_lines_are_read_as_meant(tmp_path):
    odd = '\ufeffid,filename,label\r\n"0","7_1.jpg","7"\r\n\r\n'
    odd += "1,10_3.jpg,10\r\n2,7_2.jpg,7\r\n3,2_5.jpg,2\r\n\r\n"
    assert pairs(tmp_path, odd) == pairs(tmp_path, TRUTH)


def test_a_row_that_stands_twice_is_counted_twice(tmp_path):
    twice = TRUTH + "0,7_1.jpg,7\n"
    assert len(pairs(tmp_path, twice, twice)) == 5
    assert "7_1.jpg (id 0)" in refusal(tmp_path, TRUTH, twice)


@pytest.mark.parametrize(
    ("predictions", "words"),
    [
        (TRUTH.replace("2,7_2.jpg,7\n", ""), ("p.csv: lacks 1 of the rows", "7_2.jpg (id 2)")),
        (TRUTH + "4,9_9.jpg,9\n", ("t.csv: lacks 1 of the rows", "9_9.jpg (id 4)")),
        (TRUTH.replace("2,7_2.jpg", "9,7_2.jpg"), ("lacks 1 of the rows", "7_2.jpg (id 2)")),
        ("id,filename,label\n", ("p.csv", "no row")),
        ("id,filename\n0,7_1.jpg\n", ("p.csv", "'label'")),
        ("id,label\n0,7\n", ("p.csv", "'filename'")),
        ("", ("p.csv", "empty")),
    ],
    ids=[
        "missing row",
        "extra row",
        "other id",
        "header only",
        "no label column",
        "no filename column",
        "empty file",
    ],
)
def test_what_does_not_match_is_named(tmp_path, predictions, words):
    message = refusal(tmp_path, predictions)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("label", ["None", "NONE", ""])
def test_a_truth_without_labels_is_refused(tmp_path, label):
    assert "1 of 4 rows have no label" in refusal(
        tmp_path, TRUTH, TRUTH.replace("2_5.jpg,2", f"2_5.jpg,{label}")
    )


def test_an_error_is_one_line_on_stderr_with_status_2(tmp_path):
    done = run(tmp_path, TRUTH.replace("2,7_2.jpg,7\n", ""))
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_folder_of_images_is_a_truth_by_their_names(tmp_path):
    (tmp_path / "val").mkdir()
    for name in ("7_1.png", "7_2.png", "12_3.png"):
        write(tmp_path / "val" / name, "an image")
    predictions = write(tmp_path / "p.csv", "filename,label\n12_3.png,12\n7_1.png,7\n7_2.png,3\n")
    assert sorted(score.matched_labels(predictions, tmp_path / "val")) == [
        ("12", "12"),
        ("3", "7"),
        ("7", "7"),
    ]
    write(tmp_path / "val" / "unnamed.png", "an image")
    write(predictions, predictions.read_text() + "unnamed.png,1\n")
    with pytest.raises(UserError, match="1 of 4 rows have no label"):
        score.matched_labels(predictions, tmp_path / "val")


def test_what_a_run_predicted_is_scored_as_what_inference_answers(tmp_path):
    names, predicted, truth = ("7_1.jpg", "7_2.jpg", "2_5.jpg"), ("7", "3", "7"), ("7", "7", "2")
    write_predictions(tmp_path / "predictions.csv", names, predicted, truth)
    write(tmp_path / "val.csv", "id,filename,label\n0,2_5.jpg,2\n1,7_1.jpg,7\n2,7_2.jpg,7\n")
    for true_labels in ("val.csv", "predictions.csv"):
        found = score.matched_labels(tmp_path / "predictions.csv", tmp_path / true_labels)
        assert sorted(found) == [("3", "7"), ("7", "2"), ("7", "7")]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv: No such file"):
        score.matched_labels(tmp_path / "nowhere.csv", tmp_path / "nowhere.csv")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30), st.randoms())
def test_accuracy_is_the_share_of_equal_labels_in_any_order(tmp_path_factory, labels, random):
    folder = tmp_path_factory.mktemp("random")
    lines = [f"{i},{i}.jpg,{said}\n" for i, (said, _) in enumerate(labels)]
    random.shuffle(lines)
    truth = "".join(f"{i},{i}.jpg,{true}\n" for i, (_, true) in enumerate(labels))
    found = pairs(folder, "id,filename,label\n" + "".join(lines), "id,filename,label\n" + truth)
    assert [(int(said), int(true)) for said, true in found] == labels
    share = sum(said == true for said, true in labels) / len(labels)
    assert f"accuracy: {share:.4f} +- {math.sqrt(share * (1 - share) / len(labels)):.4f}" in score.describe(
        found
    )
