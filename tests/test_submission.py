"""`make submission` collects what the course takes, under the course's names, in a folder that works by
itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.editions import EDITIONS
from engine import manifest
from engine.base import UserError
from report import OUTPUT, build, submission

REPOSITORY = Path(__file__).resolve().parent.parent


def collect(folder: Path, year: str = "2024") -> Path:
    assert submission.main([f"--edition={year}", f"--output={folder}"]) == 0
    return folder


def publish(folder: Path, monkeypatch, content: bytes, **changes) -> dict:
    """A manifest with one checkpoint in `folder`, in the place of the repository's."""
    entry = {
        "name": "mine",
        "problem": "p2",
        "default": True,
        "file": "mine.pt",
        "bytes": len(content),
        "urls": [],
    }
    entry.update({"sha256": hashlib.sha256(content).hexdigest(), **changes})
    folder.mkdir()
    (folder / "mine.pt").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps({"checkpoints": [entry]}))
    monkeypatch.setattr(manifest, "FOLDER", folder)
    return entry


def test_the_repositorys_wrappers_are_the_tables_without_a_fixed_edition():
    for wrapper in EDITIONS["2024"].wrappers:
        assert (REPOSITORY / wrapper.name).read_text(encoding="utf-8") == submission.wrapper_text(
            wrapper, None
        )


@pytest.mark.parametrize("year", EDITIONS)
def test_an_editions_files_lie_there_under_the_courses_names(tmp_path, year):
    folder = collect(tmp_path / "mine", year)
    wrappers = {path.name for path in folder.glob("hw*_[0-9].sh")}
    assert wrappers == {wrapper.name for wrapper in EDITIONS[year].wrappers}
    for name in (
        "get_checkpoints.sh",
        "p1_inference.py",
        "p2_inference.py",
        "p2_train.py",
        "mean_iou_evaluate.py",
    ):
        assert (folder / name).read_bytes() == (REPOSITORY / name).read_bytes()
    download = folder / EDITIONS[year].download_script
    assert download.read_bytes() == (REPOSITORY / "get_checkpoints.sh").read_bytes()
    assert (folder / "checkpoints" / "manifest.json").is_file()
    assert all((folder / room / "__init__.py").is_file() for room in ("models", "datasets", "engine"))


def test_no_data_and_no_leftovers_are_handed_in(tmp_path):
    folder = collect(tmp_path / "mine")
    endings = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert endings <= {".py", ".html", ".typ", ".sh", ".txt", ".md", ".json", ".pt", ".pdf", ""}
    assert not [path for path in folder.rglob("*") if path.name.startswith(".") or path.name == "__pycache__"]
    assert not (folder / "tests").exists() and os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize("year", EDITIONS)
def test_a_wrapper_hands_on_its_arguments_and_its_own_edition(tmp_path, year):
    folder = collect(tmp_path / "mine", year)
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$EDITION" "$@"\nexit 7\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}", "EDITION": "another"}
    for wrapper in EDITIONS[year].wrappers:
        given = [f"the {word.lower()}" for word in wrapper.usage.split()]
        done = subprocess.run(
            ["bash", str(folder / wrapper.name), *given],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 7, done.stderr
        edition, script, *options = done.stdout.splitlines()
        assert (edition, Path(script)) == (year, folder / wrapper.script)
        # --images="$1" and the like, with what the call has there
        meant = wrapper.options.replace("${2:+$2/test_pred.csv}", "$2/test_pred.csv")
        for number, value in enumerate(given, start=1):
            meant = meant.replace(f"${number}", value)
        assert options == meant.replace('"', "").replace(" --", "\n--").split("\n")


def test_an_empty_folder_for_the_csv_of_2020_is_refused(tmp_path):
    folder = collect(tmp_path / "mine", "2020")
    (tmp_path / "images").mkdir()
    command = ["bash", str(folder / "hw2_1.sh"), str(tmp_path / "images"), ""]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "--output: is empty" in done.stderr


@pytest.mark.parametrize("year", EDITIONS)
def test_a_wrapper_with_another_number_of_arguments_says_how_to_call_it(tmp_path, year):
    folder = collect(tmp_path / "mine", year)
    for wrapper in EDITIONS[year].wrappers:
        done = subprocess.run(["bash", str(folder / wrapper.name), "one"], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr == f"usage: bash {wrapper.name} {wrapper.usage}\n"


def test_the_collected_scripts_start_without_the_repository(tmp_path):
    folder = collect(tmp_path / "mine")
    for script in ("p1_inference.py", "p2_inference.py", "p2_train.py"):
        command = [sys.executable, str(folder / script), "--help"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_published_weights_go_with_it(tmp_path, monkeypatch, capsys):
    publish(tmp_path / "published", monkeypatch, b"weights")
    folder = collect(tmp_path / "mine")
    assert (folder / "checkpoints" / "mine.pt").read_bytes() == b"weights"
    err = capsys.readouterr().err
    assert "hw1_1.sh will find no checkpoint" in err and "hw1_2.sh will find" not in err


def test_weights_too_large_for_git_stay_out_and_need_a_url(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(submission, "LARGEST_IN_GIT", 3)
    publish(tmp_path / "published", monkeypatch, b"weights")
    folder = collect(tmp_path / "mine")
    assert not (folder / "checkpoints" / "mine.pt").exists()
    assert "mine is too large for git and has no URL" in capsys.readouterr().err


def test_damaged_weights_are_not_handed_in(tmp_path, monkeypatch):
    publish(tmp_path / "published", monkeypatch, b"weights", sha256="0" * 64)
    with pytest.raises(UserError, match="not the published file"):
        submission.main([f"--output={tmp_path / 'mine'}"])
    assert not (tmp_path / "mine").exists()


def test_the_report_goes_with_it_and_its_absence_is_said(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(submission, "REPOSITORY", tmp_path)
    words = (EDITIONS["2024"], tmp_path / "mine", tmp_path / "out")
    assert "put hw1_<studentID>.pdf" in submission.copy_report(*words)[0]
    (tmp_path / "hw1_r12345678.pdf").write_bytes(b"%PDF by hand")
    assert submission.copy_report(*words) == []
    assert (tmp_path / "mine" / "hw1_r12345678.pdf").read_bytes() == b"%PDF by hand"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "hw1_r12345678.pdf").write_bytes(b"%PDF")
    assert submission.copy_report(*words) == []
    assert (tmp_path / "mine" / "hw1_r12345678.pdf").read_bytes() == b"%PDF"


def test_the_report_is_looked_for_where_it_is_written_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = build.parse_arguments(["--p1", "runs", "--student-id", "r1", "--name", "x"])
    assert given.output == OUTPUT == REPOSITORY / "report" / "out"
    assert given.answers == REPOSITORY / "report" / "answers.md"
    assert given.p1 == ["runs"]


def test_make_looks_for_the_report_where_make_report_wrote_it():
    make = ["make", "--dry-run", "report", "submission", "REPORT_OUT=mine"]
    said = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True).stdout
    assert '--output "mine"' in said and 'report.submission --report "mine"' in said


def test_without_published_weights_the_hint_names_what_the_course_grades(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(submission.manifest, "default_checkpoint", lambda problem: None)
    collect(tmp_path / "mine", "2023")
    said = capsys.readouterr().err
    assert "hw1_1.sh will find no checkpoint: train one with make p1-50" in said
    assert "hw1_2.sh will find no checkpoint: train one with make p1, then" in said
    assert "C-seed0/model.pt --name NAME --problem p1 --default" in said
    assert "model_b/model.pt --name NAME --problem p2 --default" in said


def test_made_again_it_is_replaced_unless_something_would_be_lost(tmp_path):
    folder = collect(tmp_path / "mine")
    (folder / "README_old.md").write_text("mine")
    with pytest.raises(UserError, match=r"README_old\.md would be lost"):
        collect(folder)
    (folder / "README_old.md").unlink()
    (folder / "hw1_1.sh").write_text("changed")
    assert (collect(folder) / "hw1_1.sh").read_text() != "changed"
    assert os.listdir(tmp_path) == ["mine"]


def test_make_hands_the_edition_on():
    make = ["make", "submission", f"PYTHON={sys.executable}", "EDITION=1999"]
    done = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and "edition '1999' is unknown" in done.stderr
