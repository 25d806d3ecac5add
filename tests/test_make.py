"""`make` says what a machine lacks before anything is made; its demo goes on where only some inputs are
unusable.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def make_setup(tmp_path: Path, python: str) -> subprocess.CompletedProcess:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")
    }
    command = ["make", "setup", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "venv").exists()
    return done


def pretended_python(tmp_path: Path, script: str) -> str:
    path = tmp_path / "some python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_without_python_it_says_which_to_install(tmp_path):
    assert "install Python 3.9 or newer" in make_setup(tmp_path, str(tmp_path / "nowhere")).stderr


def test_an_old_python_is_called_old(tmp_path):
    python = pretended_python(tmp_path, '[ "$1" = --version ] && echo Python 3.6.9 && exit 0; exit 1')
    assert "Python 3.6.9 is too old, this needs 3.9 or newer" in make_setup(tmp_path, python).stderr


def test_without_venv_it_says_what_to_install(tmp_path):
    python = pretended_python(tmp_path, 'case "$2" in *ensurepip*) exit 1;; esac; exit 0')
    assert "sudo apt install python3-venv" in make_setup(tmp_path, python).stderr


def test_make_alone_lists_what_there_is():
    done = subprocess.run(["make", "-s"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    targets = ["demo", "check", "all", "laptop", "p1", "p1-50", "p2", "sam", "report", "submission"]
    targets += ["test", "test-real", "test-networks", "test-memory", "test-grader-stack"]
    for target in (*targets, "test-installs", "test-notebook"):
        assert f"make {target} " in done.stdout


def test_the_demo_refuses_a_folder_that_is_no_data(tmp_path):
    command = ["make", "demo", f"DATA={tmp_path}", f"VENV={tmp_path / 'venv'}"]
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "installed").touch()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and f"{tmp_path} is no hw1_data" in done.stderr


@pytest.mark.parametrize(
    ("target", "advice"),
    [(target, "hw1_data") for target in ("p1", "p2", "sam", "check", "all")] + [("p1-50", "hw1_data_2022")],
)
@pytest.mark.parametrize("data", [["DATA={}"], []])
def test_each_problem_asks_for_the_courses_data_before_it_installs(tmp_path, target, advice, data):
    words = [word.format(tmp_path) for word in data]
    command = ["make", target, *words, f"VENV={tmp_path / 'venv'}", f"PYTHON={tmp_path / 'nowhere'}"]
    environment = {name: value for name, value in os.environ.items() if name != "DATA"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and f"make {target} DATA={advice}" in done.stderr
    assert "is no hw1_data" in done.stderr and "Python" not in done.stderr


PYTHON = """#!/bin/sh
# Notes the call and ends with $STATUS; asked whether a run is finished, with $UNFINISHED; asked where a
# network can start, says $START.
case "$*" in *engine.run_folder*) exit "$UNFINISHED";; esac
case "$*" in *models.weights*) echo "$*" >>"$ASKED"; echo "$START"; exit;; esac
echo "$*" >>"$CALLS"
case "$*" in *contact_sheet*) touch "$OUT/contact_sheet.png";; esac
mkdir -p "$RUNS" "$RUNS/../p2" "$RUNS/../fifty"
case "$*" in *contact_sheet*|*report.build*|*p[12]_*.py*) exit "$STATUS";; esac
"""


FIFTY = ("data/p1_data/train_50", "data/p1_data/val_50")


def make_with_pretended_python(tmp_path, *words, status=0, is_finished=True, data="data", start="imagenet"):
    """Run make with a python3 that trains nothing; what it ended with, and the calls of python3."""
    for folder in (
        "bin",
        "venv",
        "data/p1_data/office",
        "data/p1_data/mini/train",
        "data/p2_data/train",
        "data/p2_data/validation",
        *FIFTY,
    ):
        (tmp_path / folder.replace("data", data, 1)).mkdir(parents=True, exist_ok=True)
    (tmp_path / "venv" / "installed").touch()
    (tmp_path / "bin" / "python3").write_text(PYTHON)
    (tmp_path / "bin" / "python3").chmod(0o755)
    (tmp_path / "calls").touch()
    out = tmp_path / "out"
    runs = out / "runs" / "p1" if words[0] == "demo" else out
    pretended = {
        "CALLS": tmp_path / "calls",
        "ASKED": tmp_path / "asked",
        "START": start,
        "STATUS": status,
        "UNFINISHED": int(not is_finished),
        "OUT": out,
        "RUNS": runs,
    }
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **{name: str(value) for name, value in pretended.items()}}
    # OUT on the command line keeps the repository's own demo/ as it is.
    command = ["make", *words, f"DATA={tmp_path / data}", f"VENV={tmp_path / 'venv'}", f"OUT={out}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    return done, (tmp_path / "calls").read_text().splitlines()


@pytest.mark.parametrize("data", ["data", "my data", "my  data (2)", "資料 夾", "data/"])
@pytest.mark.parametrize("has_course_file", [True, False])
def test_problem_1_takes_the_courses_backbone_or_trains_one(tmp_path, has_course_file, data):
    course = tmp_path / data / "p1_data/pretrain_model_SL.pt"
    given = course if has_course_file else course.parent / "mini" / "train_labels.csv"
    given.parent.mkdir(parents=True)
    given.touch()
    done, calls = make_with_pretended_python(tmp_path, "p1", f"P1_OUT={tmp_path / 'out'}", data=data)
    assert done.returncode == 0, done.stderr
    assert len(calls) == (3 if has_course_file else 5)
    own = tmp_path / "out/sl/pretrain_model_SL.pt"
    assert f"--sl-backbone {course if has_course_file else own} " in calls[-2]


def test_problem_1_without_labels_leaves_settings_b_and_d_out(tmp_path):
    done, calls = make_with_pretended_python(tmp_path, "p1", f"P1_OUT={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 3 and "--settings ACE " in calls[1]


def test_problem_1_does_not_go_on_from_a_training_that_was_stopped(tmp_path):
    done, calls = make_with_pretended_python(tmp_path, "p1", f"P1_OUT={tmp_path / 'out'}", is_finished=False)
    assert done.returncode == 2 and len(calls) == 1
    assert "the same command resumes it" in done.stdout


def test_the_50_classes_are_trained_by_each_network_and_predicted_by_all_of_them(tmp_path):
    out = tmp_path / "out"
    words = ("p1-50", f"FIFTY_OUT={out}", "FIFTY_MODELS=resnet34 vgg16", "FIFTY_FLAGS=--epochs 3")
    done, calls = make_with_pretended_python(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert [call.split()[0] for call in calls] == [
        *("p1_finetune.py", "p1_finetune.py", "p1_inference.py", "-m"),
        *["p1_tsne.py"] * 4,
    ]
    assert [call.count("--method pca") for call in calls[-4:]] == [0, 1, 0, 1]
    assert f"--output {out}/pca/vgg16" in calls[-1] and "--snapshots 3" in calls[-1]
    assert all("--epochs 3" in call for call in calls[:2]) and "--model vgg16 " in calls[1]
    assert f"--checkpoint {out}/resnet34/A-seed0/model.pt {out}/vgg16/A-seed0/model.pt" in calls[2]


def test_a_vote_waits_for_trainings_that_were_stopped(tmp_path):
    done, calls = make_with_pretended_python(
        tmp_path, "p1-50", f"FIFTY_OUT={tmp_path / 'out'}", is_finished=False
    )
    assert done.returncode == 2 and len(calls) == 1 and "the same command resumes it" in done.stdout


def test_problem_2_is_trained_predicted_and_scored(tmp_path):
    out = tmp_path / "out"
    done, calls = make_with_pretended_python(tmp_path, "p2", f"P2_OUT={out}", "P2_FLAGS=--epochs 3")
    assert done.returncode == 0, done.stderr
    assert [call.split()[0].split("/")[-1] for call in calls] == [
        "p2_train.py",
        "p2_train.py",
        "p2_inference.py",
        "mean_iou_evaluate.py",
    ]
    assert "--model fcn32s " in calls[0] and f"--output {out}/model_a" in calls[0]
    assert "--epochs 3" in calls[1] and f"--output {out}/model_b" in calls[1]


def test_problem_2_starts_from_what_can_be_had_which_is_asked_before_the_first_step(tmp_path):
    out, own = tmp_path / "my out", tmp_path / "own weights.pt"
    words = ("p2", f"P2_OUT={out}", f"P2_A_WEIGHTS={own}")
    done, calls = make_with_pretended_python(tmp_path, *words, start=own)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert f"--model fcn32s --weights imagenet --instead {own}" in asked[0] and len(asked) == 2
    assert calls[0].endswith(f"--weights {own}") and calls[1].endswith(f"--weights {own}")
    # Of a run that is begun nothing is asked again: it would be refused with other weights.
    for name in ("model_a", "model_b"):
        (out / name).mkdir()
        (out / name / "config.json").touch()
    done, calls = make_with_pretended_python(tmp_path, *words, start="imagenet")
    assert len((tmp_path / "asked").read_text().splitlines()) == 2
    assert calls[-4].endswith(f"--weights {own}")


def test_a_recipe_keeps_its_own_weights(tmp_path):
    words = ("p2", f"P2_OUT={tmp_path / 'out'}", "P2_FLAGS=--recipe report001")
    done, calls = make_with_pretended_python(tmp_path, *words, start="")
    assert done.returncode == 0, done.stderr
    assert "--weights" not in calls[1] and calls[1].endswith("--recipe report001")


def test_all_and_a_laptops_all_are_left_to_the_plan(tmp_path):
    out = tmp_path / "out"
    words = ("all", f"RUNS={out}", "HOURS=9", "SESSION=8.5")
    done, calls = make_with_pretended_python(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert calls == [f"-m engine.plan all {out} --hours 9 --session 8.5"]
    done, calls = make_with_pretended_python(tmp_path, "laptop", f"RUNS={out}")
    assert done.returncode == 0 and calls[1:] == [f"-m engine.plan all {out} --hours 4"]


def test_segment_anything_sees_the_reports_tiles_and_votes_by_model_b(tmp_path):
    out = tmp_path / "out"
    words = ("sam", f"RUNS={out}", "MACHINE_FLAGS=--cache c", "SAM_FLAGS=--device cpu")
    done, calls = make_with_pretended_python(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    tiles = " ".join(
        f"{tmp_path}/data/p2_data/validation/{tile}_sat.jpg" for tile in ("0013", "0062", "0104")
    )
    assert calls == [f"p2_sam.py --images {tiles} --output {out}/sam --device cpu"]
    (out / "problem2" / "model_b").mkdir(parents=True)
    (out / "problem2" / "model_b" / "model.pt").touch()
    calls = make_with_pretended_python(tmp_path, *words)[1]
    assert f"--vote {out}/problem2/model_b/model.pt" in calls[-1]


def test_problem_2_leaves_model_a_out_where_nobody_has_time_for_it(tmp_path):
    done, calls = make_with_pretended_python(tmp_path, "p2", f"P2_OUT={tmp_path / 'out'}", "P2_A_FLAGS=")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 3 and "left out: P2_A_FLAGS is empty" in done.stdout


def test_masks_wait_for_a_training_that_was_stopped(tmp_path):
    done, calls = make_with_pretended_python(tmp_path, "p2", f"P2_OUT={tmp_path / 'out'}", is_finished=False)
    assert done.returncode == 2 and len(calls) == 1 and "the same command resumes it" in done.stdout


@pytest.mark.parametrize(("status", "goes_on"), [(1, True), (2, False)])
def test_the_demo_goes_on_where_some_inputs_could_not_be_used(tmp_path, status, goes_on):
    (tmp_path / "data/p1_data/mini").mkdir(parents=True)
    (tmp_path / "data/p1_data/mini/train_labels.csv").touch()  # as sample data have
    done, calls = make_with_pretended_python(tmp_path, "demo", status=status)
    assert done.returncode == (0 if goes_on else 2), done.stderr
    assert len(calls) == (15 if goes_on else 1)


@pytest.mark.parametrize(
    ("year", "steps"),
    [
        ("2020", "finetune finetune inference score tsne tsne tsne tsne"),
        ("2023", "finetune finetune inference score tsne tsne tsne tsne pretrain finetune tsne"),
        ("2024", "pretrain finetune tsne train train"),
    ],
)
def test_the_demo_does_what_its_edition_asks(tmp_path, year, steps):
    done, calls = make_with_pretended_python(tmp_path, "demo", f"EDITION={year}")
    assert done.returncode == 0, done.stderr
    for call, step in zip(calls, steps.split()):
        assert step in " ".join(call.split()[:2]), calls
    given = " ".join(calls)
    assert ("random_sam" in given) == (year == "2024")
    assert ("contact_sheet" in given) == (year >= "2023")
    runs = tmp_path / "out" / "runs"
    folders = [runs / "fifty"] * (year < "2024") + [runs / "p1"] * (year >= "2023")
    assert f"--p1 {' '.join(map(str, folders))} --p2" in calls[-1]


@pytest.mark.parametrize(("status", "ends"), [(0, 0), (1, 0), (2, 2)])
def test_the_report_is_made_of_what_the_other_targets_left(tmp_path, status, ends):
    words = (
        "report",
        "STUDENT_ID=r12345678",
        'NAME=王 "小" $(x) 明',
        f"SAM_OUT={tmp_path}",
        "P1_OUT=here",
        "P2_OUT=there",
    )
    done, calls = make_with_pretended_python(tmp_path, *words, status=status)
    assert done.returncode == ends, done.stderr
    assert calls[0].startswith(
        f"-m report.build --p1 here --p2 there --sam {tmp_path} --student-id r12345678 --name 王 "
    )
