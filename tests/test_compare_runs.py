"""Runs compared in the terminal: what they reached and where their settings differ, whatever state they are
in.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from engine.base import UserError
from report import compare
from report.text import columns

REPOSITORY = Path(compare.__file__).resolve().parents[1]
MARKS = {"pretraining": "target_schedule", "finetuning": "setting", "segmentation": "min_crop"}
SCORES = {"pretraining": "knn_accuracy", "finetuning": "accuracy", "segmentation": "mean_iou"}


def make_run(folder: Path, kind: str, scores: list, *, total_epochs: int | None = None, **arguments) -> Path:
    """A run folder of ten steps and 30 seconds an epoch, with a score (None: not scored) an epoch."""
    folder.mkdir(parents=True)
    own = {
        MARKS[kind]: "A",
        "model": "resnet18",
        "recipe": "default",
        "batch_size": 6,
        "epochs": 3,
        **arguments,
    }
    config = {"arguments": own, "recipe": {}, "total_steps": 10 * (total_epochs or len(scores))}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    lines = [
        {"step": 10 * epoch, "epoch": epoch, "loss": 1.0, "seconds": 30.0 * epoch}
        | ({} if score is None else {SCORES[kind]: score})
        for epoch, score in enumerate(scores, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def compared(capsys, *folders: Path) -> tuple[int, list[str], str]:
    """Status, the lines of the tables, stderr."""
    status = compare.main([str(folder) for folder in folders])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


def row_of(lines: list[str], name: str) -> list[str]:
    """The cells of the first line of a run, in the table of results."""
    return re.split(r"  +", next(line for line in lines if line.startswith(name + " ")))


# -- figures -------------------------------------------------------------------------------------------------


def test_each_run_shows_its_best_epoch_its_last_score_its_minutes_and_its_speed(tmp_path, capsys):
    make_run(tmp_path / "one", "finetuning", [0.2, 0.5, 0.4])
    make_run(tmp_path / "two", "segmentation", [None, 0.25])
    make_run(tmp_path / "three", "pretraining", [0.125])
    status, lines, err = compared(capsys, tmp_path)
    assert status == 0 and err == ""
    # 30 steps of 6 images in 90 seconds
    assert row_of(lines, "one") == ["one", "3", "30", "0.5000", "2", "0.4000", "1.5", "2.0", "finished"]
    assert row_of(lines, "two") == ["two", "2", "20", "0.2500", "2", "0.2500", "1.0", "2.0", "finished"]
    assert row_of(lines, "three") == ["three", "1", "10", "0.1250", "1", "0.1250", "0.5", "2.0", "finished"]
    titles = [line for line in lines if line.startswith("Problem")]
    assert titles == [
        "Problem 1, pre-training: knn_accuracy",
        "Problem 1, fine-tuning: accuracy",
        "Problem 2, land cover: mean_iou",
    ]


def test_speed_that_was_logged_is_taken_and_a_batch_is_no_larger_than_the_data(tmp_path, capsys):
    logged = make_run(tmp_path / "logged", "pretraining", [0.5])
    with open(logged / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "epoch": 1, "images_per_second": 26.64}\n')
    make_run(tmp_path / "few", "segmentation", [0.5], training_tiles=3)
    _, lines, _ = compared(capsys, tmp_path)
    assert row_of(lines, "logged")[7] == "26.6" and row_of(lines, "few")[7] == "1.0"


def test_only_arguments_that_differ_among_runs_of_a_kind_are_shown(tmp_path, capsys):
    common = {"weight_decay": 0.05, "output": "x", "workers": 2}
    make_run(tmp_path / "a", "finetuning", [0.5], **common, lr=0.1, mix=None, is_frozen=True)
    other = {**common, "output": "y", "workers": 3}
    make_run(tmp_path / "b", "finetuning", [0.5], **other, lr=0.2, mix="cutmix", is_frozen=False)
    make_run(tmp_path / "c", "segmentation", [0.5], lr=0.3)
    _, lines, _ = compared(capsys, tmp_path)
    settings = [line for line in lines if line.split(" ")[0] in ("a", "b", "c")]
    assert [re.split(r"  +", line)[3] for line in settings if "resnet18" in line] == [
        "is_frozen=yes, lr=0.1, mix=–",
        "is_frozen=no, lr=0.2, mix=cutmix",
        "–",
    ]


def test_an_argument_that_early_runs_did_not_record_is_no_difference(tmp_path, capsys):
    make_run(tmp_path / "early", "segmentation", [0.5])
    make_run(tmp_path / "late", "segmentation", [0.5], augment="all")
    assert "augment" not in "\n".join(compared(capsys, tmp_path)[1])


# -- paired tests --------------------------------------------------------------------------------------------


def answer(run: Path, right: int, last: int) -> Path:
    """Predictions for a hundred images, of which the first so many are right at the best and last epoch."""
    for name, count in (("predictions.csv", right), ("predictions_last.csv", last)):
        rows = [f"{k}.jpg,{int(k >= count)},0" for k in range(100)]
        (run / name).write_text("\n".join(["filename,label,truth", *rows]))
    return run


def test_runs_are_tested_against_the_best_of_their_kind_at_both_epochs(tmp_path, capsys):
    answer(make_run(tmp_path / "top", "finetuning", [0.75, 0.5]), 75, 50)
    answer(make_run(tmp_path / "near", "finetuning", [0.74, 0.5]), 74, 50)
    answer(make_run(tmp_path / "far", "finetuning", [0.65, 0.55]), 65, 55)
    make_run(tmp_path / "other", "segmentation", [0.9])
    _, lines, _ = compared(capsys, tmp_path)
    start = lines.index("Problem 1, fine-tuning: paired tests")
    assert row_of(lines[start + 1 :], "near") == ["near", "-0.0100, p = 1.000", "+0.0000, p = 1.000"]
    assert row_of(lines[start + 1 :], "top") == ["top", "the others are tested against it"]
    assert row_of(lines[start + 1 :], "far") == ["far", "-0.1000, p = 0.002", "+0.0500, p = 0.062"]
    assert not any("land cover: paired" in line for line in lines)  # one run alone


def test_networks_are_tested_over_their_tiles(tmp_path, capsys):
    right = np.zeros((12, 7, 7), dtype=np.int64)
    right[:, range(6), range(6)] = 100
    half = right.copy()
    half[:, range(6), range(6)], half[:, range(6), 6] = 50, 50
    for name, pixels, score in (("top", right, 1.0), ("half", half, 0.5)):
        run = make_run(tmp_path / name, "segmentation", [score])
        np.savez(run / "confusions.npz", names=np.array(list("abcdefghijkl")), best=pixels, last=pixels)
    _, lines, _ = compared(capsys, tmp_path)
    start = lines.index("Problem 2, land cover: paired tests")
    tested = "-0.5000 (-0.5000 to -0.5000), p below 0.001"
    assert row_of(lines[start + 1 :], "half") == ["half", tested, tested]


def test_a_run_without_what_a_test_needs_says_so(tmp_path, capsys):
    answer(make_run(tmp_path / "top", "finetuning", [0.75]), 75, 75)
    make_run(tmp_path / "without", "finetuning", [0.5])
    answer(make_run(tmp_path / "stale", "finetuning", [0.5]), 40, 50)
    answer(make_run(tmp_path / "short", "finetuning", [0.8], total_epochs=2), 80, 80)
    wrong = answer(make_run(tmp_path / "wrong", "finetuning", [0.5]), 50, 50) / "predictions.csv"
    wrong.write_text(wrong.read_text().replace("0.jpg", "x.jpg"))
    _, lines, _ = compared(capsys, tmp_path)
    lines = lines[lines.index("Problem 1, fine-tuning: paired tests") + 1 :]
    assert (
        row_of(lines, "without")[1].startswith("no test: ")
        and "predictions.csv" in row_of(lines, "without")[1]
    )
    assert "is of another epoch" in row_of(lines, "stale")[1] and row_of(lines, "stale")[2].startswith(
        "-0.2500"
    )
    assert "unfinished: epoch 1" in row_of(lines, "short")[1]
    assert "for other images" in row_of(lines, "wrong")[1]


# -- what is given -------------------------------------------------------------------------------------------


def test_a_folder_stands_for_the_runs_three_deep_below_it_each_once_and_in_natural_order(tmp_path, capsys):
    for name in ("r10", "r9", "p1/vgg/A-seed0", "p1/resnet/A-seed0", "a/b/c/too_deep"):
        make_run(tmp_path / name, "finetuning", [0.5])
    (tmp_path / "table.md").write_text("no run")
    _, lines, _ = compared(capsys, tmp_path, tmp_path / "r9", tmp_path / "table.md")
    names = [line.split(" ")[0] for line in lines if line.endswith("finished")]
    assert names == ["resnet/A-seed0", "vgg/A-seed0", "r9", "r10"]


def test_runs_with_gaps_have_a_row_that_says_so_and_status_1(tmp_path, capsys):
    make_run(tmp_path / "whole", "finetuning", [0.5])
    make_run(tmp_path / "short", "finetuning", [0.75], total_epochs=2)
    started = make_run(tmp_path / "started", "finetuning", [0.5])
    (started / "metrics.jsonl").unlink()
    for name, text in (
        ("empty", ""),
        ("list", "[]"),
        ("other", '{"arguments": {"x": 1}}'),
        ("deep", "[" * 100_000),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    finished = {
        "config.json": '{"arguments": {}, "total_steps": 1}',
        "metrics.jsonl": '{"step": 1, "epoch": 1}',
    }
    (tmp_path / "foreign").mkdir()
    for name, text in finished.items():
        (tmp_path / "foreign" / name).write_text(text)
    status, lines, err = compared(capsys, tmp_path, tmp_path / "nowhere", tmp_path / ("x" * 300))
    assert status == 1
    assert row_of(lines, "short")[3:] == [
        "0.7500",
        "1",
        "0.7500",
        "0.5",
        "2.0",
        "unfinished: epoch 1, step 10 of 20",
    ]
    assert row_of(lines, "started") == ["started", *"–––––––", "no epoch is done yet"]
    strangers = lines[lines.index("No runs") :]
    assert row_of(strangers, "list") == ["list", "its config.json cannot be used (it is no run's)"]
    assert row_of(strangers, "other")[1] == "no epoch is done yet"
    assert row_of(strangers, "foreign")[1] == "no run of these scripts"
    assert row_of(strangers, "nowhere")[1] == "no run folder: it has no config.json"
    assert {"short", "started", "empty", "list", "other", "deep", "nowhere"} <= set(
        re.findall(r"(\w+): ", err)
    )
    assert err.count("\n") == 9


def test_no_figure_is_ever_infinite(tmp_path, capsys):
    run = make_run(tmp_path / "quick", "segmentation", [0.5], batch_size=1e308)
    (run / "metrics.jsonl").write_text('{"step": 10, "epoch": 1, "mean_iou": 0.5, "seconds": 5e-324}\n')
    _, lines, _ = compared(capsys, tmp_path)
    assert row_of(lines, "quick")[6:8] == ["0.0", "–"]


def test_values_that_make_no_sense_are_no_scores_and_no_traceback(tmp_path, capsys):
    odd = make_run(
        tmp_path / "odd", "segmentation", [7.0, -1, "x", None], batch_size="6", model=["a", {}], recipe=3
    )
    with open(odd / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "epoch": 4, "seconds": -5, "images_per_second": 1e300, "mean_iou": NaN}\n')
    _, lines, _ = compared(capsys, odd)
    assert row_of(lines, "odd")[3:8] == ["–", "–", "–", "-0.1", "1.0e+300"]


@pytest.mark.parametrize("given", ["nowhere", "empty", "file", "foreign"])
def test_without_any_run_there_is_one_line_and_status_2(tmp_path, given):
    for name in ("empty", "foreign"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign" / "config.json").write_text('{"arguments": {"epochs": 3}}')
    with pytest.raises(UserError, match="no run folder there") as caught:
        compare.main([str(tmp_path / given)])
    assert caught.value.exit_status == 2


# -- how it looks --------------------------------------------------------------------------------------------

HOSTILE = ("[bold]x[", "龍門" * 20, "a\x1b[31mb\n\u202ec", ":smile: " + "w" * 100)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    for place, name in enumerate(HOSTILE):
        make_run(
            tmp_path / name,
            "segmentation",
            [place / 10],
            model="[red]m[/red]",
            lr=place,
            data="/d/" + "x" * 90,
        )
    make_run(tmp_path / "plain", "segmentation", [0.25], total_epochs=2, data="y", steps="long " * 30)
    return tmp_path


def test_a_pipe_gets_the_same_plain_lines_whatever_the_environment_says(hostile, capsys, monkeypatch):
    outputs = []
    for environment in ({}, {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "xterm-256color"}):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert compare.main([str(hostile)]) == 1
        outputs.append(capsys.readouterr())
        assert "\x1b" not in outputs[-1].out + outputs[-1].err
    assert outputs[0] == outputs[1]
    lines = outputs[0].out.splitlines()
    # Results and settings of five runs, paired tests; two empty lines between.
    assert (
        sum(line.startswith("plain ") for line in lines) == 3
        and len(lines) == (4 + 5) + (2 + 5) + (3 + 5) + 2
    )
    assert any(line.startswith("[bold]x[ ") for line in lines) and "[red]m[/red]" in outputs[0].out
    assert ":smile: " in outputs[0].out and all(line == line.rstrip() for line in lines)


def test_a_terminal_of_80_columns_gets_lines_that_fit_and_hide_no_figure(hostile):
    shown = on_terminal([sys.executable, "-m", "report.compare", str(hostile)], 80)
    assert "\x1b[1m" in shown and "\x1b[3" not in shown  # the best is bold, and nothing outside sets a colour
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(columns, plain.splitlines())) <= 80 and "…" in plain  # a name of a hundred letters is cut
    assert re.search(r"plain +1 +10 +0\.2500 +1 +0\.2500 +0\.5 +2\.0 +unfinished", plain)
    assert "step 10 of 20" in " ".join(plain.split())


def on_terminal(command: list[str], width: int) -> str:
    """What a command writes to a terminal so many columns wide."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
    }
    process = subprocess.Popen(
        command,
        stdin=its,
        stdout=its,
        stderr=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env={**environment, "TERM": "xterm"},
    )
    os.close(its)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's way of saying that the other side is closed
            part = b""
        if not part:
            break
        parts.append(part)
    os.close(ours)
    process.wait()
    return b"".join(parts).decode().replace("\r\n", "\n")
