"""The table of settings A to E says what the run folders say, whatever state they are in."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import p1_finetune
from engine.base import UserError
from engine.run_folder import read_run
from report import settings_table
from report.collect import STARTS, class_names_of
from report.run_figures import spread
from report.settings_table import write_settings_table
from report.text import columns, markdown, one_line

NAMES = ["cat", "dog", "cow"]
HOSTILE = ["a | b\\|c", "<html>&\"'", "龍門_水餃", "x" * 200, "$\\frac{1}$", "=1,2\u202e"]


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(settings_table, "draw_all", lambda folder, rows: None)


def make_run(
    folder: Path,
    name: str,
    accuracies: list,
    *,
    predictions=None,
    predictions_last=None,
    total_epochs=None,
    **arguments,
) -> Path:
    """A run folder with an accuracy (None: not scored) an epoch, ten steps and 30 seconds each."""
    run = folder / name
    run.mkdir(parents=True)
    own = {
        "setting": name[0],
        "seed": int(name[6:]),
        "epochs": len(accuracies),
        "backbone": None,
        "is_frozen": name[0] in "DE",
        **arguments,
    }
    config = {"arguments": own, "recipe": {}, "total_steps": 10 * (total_epochs or len(accuracies))}
    (run / "config.json").write_text(json.dumps(config))
    lines = [
        {"step": 10 * epoch, "epoch": epoch, "loss": 3 / epoch, "seconds": 30.0 * epoch}
        | ({} if accuracy is None else {"accuracy": accuracy})
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, rows in (("predictions.csv", predictions), ("predictions_last.csv", predictions_last)):
        if rows is not None:
            with open(run / name, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("filename", "label", "truth"), *rows])
    return run


def said(pairs: dict[tuple, int]) -> list[tuple]:
    """Rows of a predictions.csv: each (true, predicted) so many times."""
    return [
        (f"{true}_{said}_{k}.jpg", said, true) for (true, said), count in pairs.items() for k in range(count)
    ]


HALF = said({(0, 0): 25, (1, 1): 25, (0, 1): 30, (1, 2): 20})  # 50 of 100 are right


def row_of(table: str, letter: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {letter} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def details(folder: Path) -> dict[str, dict]:
    return {row["setting"]: row for row in json.loads((folder / "table.json").read_text())["settings"]}


# -- figures -------------------------------------------------------------------------------------------------


def test_means_spreads_and_standard_errors_are_those_worked_out_by_hand(tmp_path, no_pictures):
    for seed, accuracies in enumerate(([0.2, 0.5, 0.4], [0.6, 0.1, 0.3], [0.1, 0.4, 0.4])):
        make_run(tmp_path, f"A-seed{seed}", accuracies, predictions=HALF)
    cells = row_of(write_settings_table(tmp_path), "A")
    # best: .5 .6 .4, mean .5, deviations 0 .1 .1, sqrt(.02 / 2) = .1; last: .4 .3 .4, mean .3667, sqrt(.00667
    # / 2)
    assert cells[3:8] == ["3", "0.5000 ± 0.1000", "0.3667 ± 0.0577", "2, 1, 2", "1.5"]
    assert cells[8] == f"{math.sqrt(0.5 * 0.5 / 100):.4f}" == "0.0500"
    row = details(tmp_path)["A"]
    assert [(run["best"], run["best_epoch"], run["last"]) for run in row["runs"]] == [
        (0.5, 2, 0.4),
        (0.6, 1, 0.3),
        (0.4, 2, 0.4),
    ]
    with open(tmp_path / "table.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["setting"] for line in table] == list("ABCDE")
    assert float(table[0]["best_std"]) == pytest.approx(0.1) and table[1]["best_mean"] == ""


def test_one_seed_has_no_spread_and_says_so(tmp_path, no_pictures):
    make_run(tmp_path, "C-seed4", [0.25, None, 0.5], backbone="pre/backbone.pt")
    cells = row_of(write_settings_table(tmp_path), "C")
    assert cells[1] == "own SSL (backbone.pt)" and cells[4:6] == ["0.5000 (one seed)", "0.5000 (one seed)"]
    make_run(tmp_path, "D-seed4", [0.25])
    assert row_of(write_settings_table(tmp_path), "E")[3:5] == ["no run", "–"]


def test_what_a_kill_left_beside_the_table_goes_when_it_is_written_again(tmp_path, no_pictures):
    make_run(tmp_path, "C-seed4", [0.25, None, 0.5], backbone="pre/backbone.pt")
    for name in (".curves.pdf.abcd_123.part", ".confusion_A.pdf.5d__3rkq.part", "mine.part"):
        (tmp_path / name).touch()
    write_settings_table(tmp_path)
    assert [path.name for path in tmp_path.glob("*.part")] == ["mine.part"]
    assert not list(tmp_path.glob(".*.part"))


def test_where_one_setting_alone_has_runs_the_others_are_not_listed(tmp_path, no_pictures):
    make_run(tmp_path, "A-seed0", [0.5])
    table = write_settings_table(tmp_path)
    assert "| A |" in table and "no run" not in table


def test_the_best_is_said_to_be_chosen_on_validation(tmp_path, no_pictures):
    make_run(tmp_path, "A-seed0", [0.5])
    assert "chosen on the validation images" in write_settings_table(tmp_path)


def right(count: int) -> list[tuple]:
    """Rows of predictions for a hundred images, of which the first so many are right."""
    return [(f"{k}.jpg", int(k >= count), 0) for k in range(100)]


def test_settings_are_tested_in_pairs_on_the_same_images_at_both_epochs(tmp_path, no_pictures):
    for letter, best, last in (("A", 50, 40), ("B", 51, 50), ("C", 60, 40)):
        make_run(
            tmp_path,
            f"{letter}-seed0",
            [best / 100, last / 100],
            predictions=right(best),
            predictions_last=right(last),
        )
    lines = write_settings_table(tmp_path).splitlines()
    # McNemar: one image of one, 10 of 10, 9 of 9; then 10 of 10, none, 10 of 10. 2 / 2**10 is .002.
    assert [line for line in lines if line.startswith("- Paired tests of")] == [
        "- Paired tests of the best epochs: B - A +0.0100, p = 1.000; C - A +0.1000, p = 0.002; "
        "C - B +0.0900, p = 0.004.",
        "- Paired tests of the last epochs: B - A +0.1000, p = 0.002; C - A +0.0000, p = 1.000; "
        "C - B -0.1000, p = 0.002.",
    ]
    assert any("knows nothing of other seeds" in line for line in lines)
    assert not any("No paired test" in line for line in lines)


def test_seeds_are_averaged_before_they_are_tested(tmp_path, no_pictures):
    for seed, (a, b) in enumerate(((40, 60), (60, 40))):
        make_run(tmp_path, f"A-seed{seed}", [a / 100], predictions=right(a))
        make_run(tmp_path, f"B-seed{seed}", [b / 100], predictions=right(b))
    assert "- Paired tests of the best epochs: B - A +0.0000, p = 1.000." in write_settings_table(tmp_path)


def test_settings_without_answers_for_the_same_images_have_no_test_and_the_table_says_so(
    tmp_path, no_pictures
):
    make_run(tmp_path, "A-seed0", [0.5], predictions=right(50), predictions_last=right(50))
    make_run(tmp_path, "A-seed1", [0.5], predictions=right(50))
    make_run(tmp_path, "B-seed0", [0.5], predictions=HALF, predictions_last=HALF)
    make_run(tmp_path, "C-seed0", [0.5], predictions=right(40), predictions_last=right(50))
    lines = write_settings_table(tmp_path).splitlines()
    best, last = (line for line in lines if line.startswith("- No paired test of"))
    assert best.startswith("- No paired test of the best epochs of C, B - A (") and "another epoch" in best
    assert last.startswith("- No paired test of the last epochs of A, C - B (") and "A-seed1" in last
    assert not any(line.startswith("- Paired") or "A paired test" in line for line in lines)


def test_one_setting_alone_is_tested_against_nothing(tmp_path, no_pictures):
    make_run(tmp_path, "A-seed0", [0.5])
    assert "aired test" not in write_settings_table(tmp_path)


def test_arguments_that_differ_are_named_with_the_runs(tmp_path, no_pictures):
    for name, epochs in (("A-seed0", 1), ("A-seed1", 1), ("B-seed0", 1), ("B-seed1", 2)):
        make_run(tmp_path, name, [0.5] * epochs, recipe="default", backbone=name if name[0] == "B" else None)
    notes = [line for line in write_settings_table(tmp_path).splitlines() if "differ in" in line]
    assert notes == [
        '- Runs differ in backbone (labels): "B-seed0" in B-seed0; "B-seed1" in B-seed1.',
        "- Runs differ in epochs: 1 in A, B-seed0; 2 in B-seed1.",
    ]


def test_what_differs_between_settings_by_nature_is_no_remark_and_augmentation_is_said_in_words(
    tmp_path, no_pictures
):
    for name, is_augmented, epochs in (("A-seed0", True, 1), ("D-seed0", False, 2), ("E-seed0", False, 2)):
        make_run(
            tmp_path,
            name,
            [0.5] * epochs,
            is_augmented=is_augmented,
            augment="all" if is_augmented else "unfrozen",
            backbone=None if is_augmented else f"{name}.pt",
            backbone_sha256=None if is_augmented else 64 * name[0],
            output=name,
            workers=epochs,
            snapshot_epochs=[epochs],
        )
    table = write_settings_table(tmp_path)
    assert [line for line in table.splitlines() if "differ in" in line] == [
        "- Runs differ in epochs: 1 in A; 2 in D, E."
    ]
    assert "- D, E saw every image as inference does, without random crops and colours." in table.splitlines()


def test_augmentation_that_is_the_same_in_all_runs_is_not_spoken_of(tmp_path, no_pictures):
    for name in ("A-seed0", "D-seed0"):
        make_run(tmp_path, name, [0.5], is_augmented=False)
    assert "random crops" not in write_settings_table(tmp_path)


def test_the_settings_start_where_fine_tuning_starts_them():
    words = {None: "random", "sl_backbone": "labels", "ssl_backbone": "own SSL"}
    assert {letter: words[source] for letter, (source, _) in p1_finetune.SETTINGS.items()} == STARTS


def test_what_is_trained_is_what_the_runs_say(tmp_path, no_pictures):
    for name, is_frozen in (("A-seed0", True), ("D-seed0", False), ("E-seed0", [])):
        make_run(tmp_path, name, [0.5], is_frozen=is_frozen)
    table = write_settings_table(tmp_path)
    assert [row_of(table, letter)[2] for letter in "ABDE"] == ["classifier", "–", "whole network", "–"]


# -- gaps ----------------------------------------------------------------------------------------------------


def test_an_unfinished_run_is_marked_and_not_averaged(tmp_path, no_pictures, capsys):
    make_run(tmp_path, "A-seed0", [0.5, 0.5])
    make_run(tmp_path, "A-seed1", [0.9], total_epochs=2)
    assert settings_table.main([str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert row_of(out, "A")[3:5] == ["1 (and 1 not averaged)", "0.5000 (one seed)"]
    assert (
        "A-seed1 is not averaged: unfinished: epoch 1, step 10 of 20; best so far 0.9000 at epoch 1." in out
    )
    assert err.count("\n") == 1 and "A-seed1: unfinished" in err


@pytest.mark.parametrize("strange", [["x"], {"a": 1}, 3, True])
def test_arguments_of_another_kind_are_no_names_of_weights(tmp_path, no_pictures, strange):
    make_run(tmp_path, "B-seed0", [0.5], backbone=strange)
    make_run(tmp_path, "C-seed0", [0.5], weights=strange)
    for seed, backbone in enumerate(("a.pt", strange)):
        make_run(tmp_path, f"E-seed{seed}", [0.5], backbone=backbone)
    table = write_settings_table(tmp_path)
    assert [row_of(table, letter)[1] for letter in "BCE"] == ["labels", "own SSL", "own SSL"]


def test_scores_outside_0_and_1_and_impossible_times_count_nowhere(tmp_path, no_pictures):
    for seed in (0, 1):
        run = make_run(tmp_path, f"A-seed{seed}", [0.5, 7.0, -1.0, 0.25])
        with open(run / "metrics.jsonl", "a") as file:
            file.write('{"step": 40, "epoch": 4, "seconds": 1.7e308}\n')
    cells = row_of(write_settings_table(tmp_path), "A")
    assert cells[4:8] == ["0.5000 ± 0.0000", "0.2500 ± 0.0000", "1, 1", "1.5"]


def test_killed_foreign_empty_and_renamed_folders_leave_gaps(tmp_path, no_pictures, capsys):
    make_run(tmp_path, "A-seed0", [0.5, 0.25], predictions=HALF)
    killed = make_run(tmp_path, "A-seed1", [0.5, 0.75]) / "metrics.jsonl"
    killed.write_bytes(killed.read_bytes()[:-20])
    (tmp_path / "B-seed0").mkdir()
    for seed, text in enumerate(("", "[]", '{"arguments": 3}', "[" * 100_000, '{"arguments": {}}\xff')):
        (tmp_path / f"C-seed{seed}").mkdir()
        (tmp_path / f"C-seed{seed}" / "config.json").write_bytes(text.encode("latin-1"))
    make_run(tmp_path, "D-seed0", [0.5]).rename(tmp_path / "E-seed7")
    make_run(tmp_path, "E-seed1", [None, 7.0, float("nan")])
    (tmp_path / "A-seed3").write_text("a file")
    (tmp_path / "A-seed03").mkdir()
    (tmp_path / "notes").mkdir()
    assert settings_table.main([str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert row_of(out, "A")[4] == "0.5000 (one seed)"
    assert "A-seed1 is not averaged: unfinished: epoch 1" in out
    assert "B-seed0 is not averaged: no run folder" in out
    assert out.count("its config.json cannot be used") == 6
    assert "E-seed7 is not averaged: its config.json is of another run" in out
    assert "E-seed1 is not averaged: no epoch is scored" in out
    assert err.count("\n") == 10 and "seed03" not in out


def test_metrics_of_any_kind_are_read_as_far_as_they_go(tmp_path):
    run = make_run(tmp_path, "A-seed0", [0.5, 0.75])
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(
            b'null\n3\n{"step": true, "epoch": 1}\n{"step": 1e999, "epoch": 3}\n\xff\xfe\n{"step": 20, "ep'
        )
    record = read_run(run)
    assert [line["step"] for line in record.metrics] == [10, 20] and record.is_finished and record.gap == ""
    (run / "metrics.jsonl").unlink()
    assert read_run(run).gap == "no epoch is done yet"
    assert "no config.json" in read_run(tmp_path / "nowhere").gap


def test_predictions_that_are_missing_or_of_another_epoch_are_named(tmp_path, no_pictures):
    make_run(tmp_path, "A-seed0", [0.5])
    make_run(tmp_path, "B-seed0", [0.8], predictions=HALF)
    table = write_settings_table(tmp_path)
    assert "No predictions.csv that can be read, so no confusion matrix: A." in table
    assert "B-seed0: its predictions.csv has an accuracy of 0.5000" in table
    assert row_of(table, "A")[8] == "–"


@pytest.mark.parametrize("content", ["nothing", "empty run", "no folder"])
def test_without_a_scored_run_there_is_one_line_and_status_2(tmp_path, content):
    folder = tmp_path / "runs"
    if content != "no folder":
        folder.mkdir()
    if content == "empty run":
        (folder / "A-seed0").mkdir()
    command = [sys.executable, "-m", "report.settings_table", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(settings_table.__file__).parents[1]
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {folder}: ") and done.stderr.count("\n") == 1
    assert not folder.exists() or {path.name for path in folder.iterdir()} <= {"A-seed0"}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, no_pictures):
    make_run(tmp_path, "A-seed0", [0.5])
    (tmp_path / "table.md").mkdir()
    with pytest.raises(UserError, match="the table cannot be written"):
        write_settings_table(tmp_path)


# -- classes -------------------------------------------------------------------------------------------------


def test_the_most_confused_pairs_come_with_names_and_counts(tmp_path, no_pictures):
    (tmp_path / "office").mkdir()
    (tmp_path / "office" / "classes.txt").write_text("\n".join(NAMES))
    make_run(tmp_path, "A-seed0", [0.4])
    make_run(tmp_path, "A-seed1", [0.5], predictions=HALF, train_images=str(tmp_path / "office" / "train"))
    assert "30 of 55" not in write_settings_table(tmp_path)  # too long for a terminal with five settings
    assert (
        tmp_path / "confused_A.csv"
    ).read_text() == "truth,predicted,count,of\ncat,dog,30,55\ndog,cow,20,45\n"
    assert "| cat | dog | 30 of 55 |" in (tmp_path / "table.md").read_text()
    (tmp_path / "A-seed1" / "predictions.csv").unlink()
    write_settings_table(tmp_path)
    assert not (tmp_path / "confused_A.csv").exists()


def test_hostile_class_names_break_no_table_and_no_picture(tmp_path):
    (tmp_path / "office").mkdir()
    (tmp_path / "office" / "classes.txt").write_text("\n".join(HOSTILE), encoding="utf-8")
    wrong = said({(k, (k + 1) % len(HOSTILE)): 2 for k in range(len(HOSTILE))})
    wrong.append(("x.jpg", "<script>", "two\nlines|²"))
    make_run(
        tmp_path, "B-seed0", [0.0], predictions=wrong, data=str(tmp_path / "office"), backbone="<b>|\n.pt"
    )
    table = write_settings_table(tmp_path)
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines if line.startswith("|")]
    assert set(bars) == {10, 4} and bars.count(4) == 2 + 7
    assert not any(mark in line for line in lines for mark in ("<html", "<script", "<b>"))
    assert "龍門" in "".join(lines) and len(row_of(table.replace("\\|", ""), "B")) == 9
    with open(tmp_path / "confused_B.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [len(row) for row in rows] == [4] * 8 and rows[1][:2] == ["a | b\\|c", "<html>&\"'"]
    with Image.open(tmp_path / "confusion_B.png") as picture:
        assert picture.width > picture.height > 300


def test_class_names_that_cannot_be_read_are_labels(tmp_path):
    for seed, data in enumerate((None, 3, "", "\0", "x" * 5000, str(tmp_path))):
        assert class_names_of(read_run(make_run(tmp_path, f"A-seed{seed}", [0.5], data=data)), []) == {}


def test_text_of_any_kind_is_one_short_line_without_markup():
    assert one_line("a\nb\t\0c\u202ed", 60) == "a b c d"
    assert columns(one_line("龍" * 100, 21)) <= 21 and one_line("x" * 200, 10) == "x" * 9 + "…"
    assert markdown("<a> | *b* `c` _d_ e_f") == "&lt;a&gt; \\| \\*b\\* \\`c\\` \\_d\\_ e_f"


# -- pictures ------------------------------------------------------------------------------------------------


def test_the_same_runs_give_the_same_bytes_and_whole_pictures(tmp_path):
    contents = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        for seed in (0, 1):
            make_run(folder, f"A-seed{seed}", [0.2, 0.4, 0.5 - 0.1 * seed], predictions=HALF)
        make_run(folder, "C-seed0", [0.5], total_epochs=2)
        write_settings_table(folder)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    assert contents[0] == contents[1]
    assert {name for name in contents[0] if name.endswith((".png", ".pdf"))} == {
        f"{stem}.{suffix}" for stem in ("curves", "confusion_A") for suffix in ("png", "pdf")
    }
    for name, content in contents[0].items():
        if name.endswith(".pdf"):
            assert content.startswith(b"%PDF") and b"/FontFile2" in content and b"CreationDate" not in content


def test_labels_at_line_ends_keep_their_distance_and_order():
    for places in ([0.5] * 5, [0.0, 0.01, 0.99, 1.0, 0.5], [0.9, 0.2, 0.91, 0.92, 0.1], [1.0, 1.0], [0.3]):
        moved = spread(places, 0.06)
        ordered = sorted(moved)
        assert all(after - before >= 0.06 - 1e-9 for before, after in zip(ordered, ordered[1:]))
        assert ordered[0] >= -1e-9 and ordered[-1] <= 1 + 1e-9
        assert all(
            moved[i] < moved[j]
            for i in range(len(places))
            for j in range(len(places))
            if places[i] < places[j]
        )
