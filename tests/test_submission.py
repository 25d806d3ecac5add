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
from engine import checkpoint, manifest
from engine.base import UserError
from report import OUTPUT, build, submission
from tests.entries import an_entry, write_manifest

REPOSITORY = Path(__file__).resolve().parent.parent


def collect(folder: Path, year: str = "2024") -> Path:
    """With what this checkout has: whether that is complete is told by the exit status, 0 or 1."""
    assert submission.main([f"--edition={year}", f"--output={folder}"]) in (0, 1)
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


def handed_on(script: Path, given: list[str], folder: Path, edition: str | None) -> list[str]:
    """EDITION and the arguments that a wrapper gives python3, or its usage and exit status."""
    fake = folder / "bin" / "python3"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    environment.update({} if edition is None else {"EDITION": edition})
    done = subprocess.run(["bash", str(script), *given], env=environment, capture_output=True, text=True)
    said = [line.replace(str(script.parent), "") for line in done.stdout.splitlines()]
    return [*said, done.stderr, str(done.returncode)]


@pytest.mark.parametrize("edition", [None, "", "2024", "2021", "2022", "2023", "2025", "2022 ", "*"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_the_repositorys_first_wrapper_is_that_of_the_edition_in_the_environment(tmp_path, edition, count):
    year = edition if edition in EDITIONS else "2024"
    given = ["a folder", "--images=*", 'out "$HOME".csv', "more"][:count]
    folder = tmp_path / "mine"
    folder.mkdir()
    wrapper = EDITIONS[year].wrappers[0]
    (folder / "hw1_1.sh").write_text(submission.wrapper_text(wrapper, year), encoding="utf-8")
    ours = handed_on(REPOSITORY / "hw1_1.sh", given, tmp_path, edition)
    assert ours == handed_on(folder / "hw1_1.sh", given, tmp_path, edition)
    assert ours[-1] == ("0" if count == len(wrapper.usage.split()) else "2")


def test_the_repositorys_second_wrapper_is_the_tables_without_a_fixed_edition():
    text = submission.wrapper_text(EDITIONS["2024"].wrappers[1], "2024")
    assert (REPOSITORY / "hw1_2.sh").read_text(encoding="utf-8") == text.replace("EDITION=2024 ", "")


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
    (tmp_path / "answers.md").write_text(ANSWERED)
    words = (EDITIONS["2024"], tmp_path / "mine", tmp_path / "out", tmp_path / "answers.md")
    assert "put hw1_<studentID>.pdf" in submission.copy_report(*words)[0]
    (tmp_path / "hw1_r12345678.pdf").write_bytes(b"%PDF by hand")
    assert submission.copy_report(*words) == []
    assert (tmp_path / "mine" / "hw1_r12345678.pdf").read_bytes() == b"%PDF by hand"
    (tmp_path / "hw1_r12345678.pdf").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "hw1_r12345678.pdf").write_bytes(b"%PDF")
    assert submission.copy_report(*words) == []
    assert (tmp_path / "mine" / "hw1_r12345678.pdf").read_bytes() == b"%PDF"


ANSWERED = (
    "# Answers\n\n## 1.1 The pre-training\n\n<!-- what? -->\nBYOL.\n\n## 2.3 Mean IoU\n\n0.5 and 0.7.\n"
)


@pytest.fixture
def complete(tmp_path, monkeypatch, p1_model, p2_model):
    """Everything that edition 2024 wants, in place of the repository's: `main` finds nothing missing."""
    entries = []
    (tmp_path / "published").mkdir()
    for problem, model in (("p1", p1_model), ("p2", p2_model)):
        data = model.read_bytes()
        (tmp_path / "published" / f"{problem}.pt").write_bytes(data)
        entries.append(an_entry(name=problem, problem=problem, default=True, bytes=len(data),
                                sha256=hashlib.sha256(data).hexdigest(), file=f"{problem}.pt"))  # fmt: skip
    write_manifest(tmp_path / "published", *entries)
    monkeypatch.setattr(manifest, "FOLDER", tmp_path / "published")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "hw1_r12345678.pdf").write_bytes(b"%PDF")
    (tmp_path / "answers.md").write_text(ANSWERED, encoding="utf-8")
    return tmp_path


def hand_in(folder: Path, year: str = "2024") -> int:
    given = [f"--report={folder / 'out'}", f"--answers={folder / 'answers.md'}"]
    return submission.main([f"--edition={year}", f"--output={folder / 'mine'}", *given])


def test_what_is_complete_is_ready_and_holds_one_report_and_the_checkpoints_in_use(complete, capsys):
    (complete / "published" / "old.pt").write_bytes(b"unused")
    entries = [*manifest.read(), an_entry(name="old", problem="p2"), an_entry(name="vit_b", problem="sam")]
    write_manifest(complete / "published", *entries)
    assert hand_in(complete) == 0
    said = capsys.readouterr()
    assert said.out.endswith("ready to hand in\n") and said.err == ""
    mine = complete / "mine"
    assert [path.name for path in mine.rglob("*.pdf")] == ["hw1_r12345678.pdf"]
    assert sorted(path.name for path in mine.rglob("*.pt")) == ["p1.pt", "p2.pt"]
    listed = json.loads((mine / "checkpoints" / "manifest.json").read_text())["checkpoints"]
    assert [entry["name"] for entry in listed] == ["p1", "p2", "vit_b"]


def rewritten(model: Path, folder: Path, problem: str, classes: int) -> None:
    """The default of a problem becomes a model that says it knows so many classes."""
    values = checkpoint.read(model)
    values.update(classes=[str(number) for number in range(classes)], arguments={"num_classes": classes})
    checkpoint.save(folder / f"{problem}.pt", values)
    data = (folder / f"{problem}.pt").read_bytes()
    entry = an_entry(name=problem, problem=problem, default=True, bytes=len(data), file=f"{problem}.pt",
                     sha256=hashlib.sha256(data).hexdigest())  # fmt: skip
    others = [other for other in manifest.read() if other["name"] != problem]
    write_manifest(folder, *others, entry)


def lacking(what: str, folder: Path, p1_model: Path, p2_model: Path) -> None:
    report = folder / "out" / "hw1_r12345678.pdf"
    published = folder / "published"
    if what == "two reports":
        (folder / "out" / "hw1_r87654321.pdf").write_bytes(b"%PDF of another")
    elif what == "a draft":
        (folder / "out" / "hw1_draft.pdf").write_bytes(b"%PDF, older")
    elif what == "a placeholder":
        report.rename(folder / "out" / "hw1_r00000000.pdf")
    elif what == "no report":
        report.unlink()
    elif what == "another homework's report":
        report.rename(folder / "out" / "hw2_r12345678.pdf")
    elif what == "empty answers":
        (folder / "answers.md").write_text(
            "# Answers\n\n## 1.1 Why\n\n<!-- a\n\nb -->\n\n## 1.2 What\n\n<!-- c -->\n"
        )
    elif what == "one empty answer":
        (folder / "answers.md").write_text(ANSWERED + "\n## 2.5 SAM\n\n<!-- words -->\n \t\n")
    elif what == "answers without a heading":
        (folder / "answers.md").write_text("BYOL.")
    elif what == "no answers":
        (folder / "answers.md").unlink()
    elif what == "p1 of 50 classes":
        rewritten(p1_model, published, "p1", 50)
    elif what == "p2 of 2 classes":
        rewritten(p2_model, published, "p2", 2)
    elif what == "p2 of problem 1":
        rewritten(p1_model, published, "p2", 7)
    elif what == "no checkpoint":
        write_manifest(published, *[entry for entry in manifest.read() if entry["name"] == "p2"])
    elif what == "weights elsewhere":
        entries = [{**entry, "urls": ["https://example.org/x"]} for entry in manifest.read()]
        write_manifest(published, *entries)
        (published / "p1.pt").unlink()


LACKING = {
    "two reports": "more than one report",
    "a draft": "more than one report",
    "a placeholder": "r00000000 is no student",
    "no report": "no report in",
    "another homework's report": "no report in",
    "empty answers": "no words of yours under 1.1, 1.2",
    "one empty answer": "no words of yours under 2.5",
    "answers without a heading": "holds no answer",
    "no answers": "your answers cannot be read",
    "p1 of 50 classes": "hw1_1.sh would answer with p1, which knows 50 classes, not the 65",
    "p2 of 2 classes": "hw1_2.sh would answer with p2, which knows 2 classes, not the 7",
    "p2 of problem 1": "hw1_2.sh would answer with p2, which knows 7 classes",
    "no checkpoint": "hw1_1.sh will find no checkpoint",
    "weights elsewhere": "its classes are not known: bash get_checkpoints.sh",
}


@pytest.mark.parametrize("what", LACKING)
def test_what_is_not_complete_is_not_ready(what, complete, p1_model, p2_model, capsys):
    lacking(what, complete, p1_model, p2_model)
    assert hand_in(complete) == 1
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("missing: ") and LACKING[what] in line
    assert "ready" not in said.out and "not complete" in said.out
    assert len(list((complete / "mine").glob("*.pdf"))) == (0 if "report" in what or what == "a draft" else 1)


def test_one_report_in_two_places_is_one(complete, capsys, monkeypatch):
    words = (EDITIONS["2024"], complete / "mine", complete / "out", complete / "answers.md")
    (complete / "mine").mkdir()
    monkeypatch.setattr(submission, "REPOSITORY", complete)
    (complete / "hw1_r12345678.pdf").write_bytes(b"%PDF")
    assert submission.copy_report(*words) == []
    (complete / "hw1_r12345678.pdf").write_bytes(b"%PDF, by hand")
    assert "more than one report" in submission.copy_report(*words)[0]


def test_each_wrapper_of_2023_is_asked_for_its_own_classes(complete, p1_model, capsys):
    assert hand_in(complete, "2023") == 1
    assert "hw1_1.sh would answer with p1, which knows 65 classes, not the 50" in capsys.readouterr().err
    rewritten(p1_model, complete / "published", "p1_50", 50)
    assert hand_in(complete, "2023") == 0
    assert sorted(path.name for path in (complete / "mine").rglob("*.pt")) == ["p1.pt", "p1_50.pt", "p2.pt"]


def test_the_50_classes_of_2022_may_be_problem_1s_only_default(complete, p1_model, capsys):
    assert hand_in(complete, "2022") == 1
    rewritten(p1_model, complete / "published", "p1", 50)
    assert hand_in(complete, "2022") == 0


def test_what_is_ours_alone_stays_out(complete, monkeypatch, tmp_path):
    for room in submission.ROOMS:
        (tmp_path / "ours" / room).mkdir(parents=True)
        (tmp_path / "ours" / room / "code.py").write_bytes(b"a = 1\r\nb = 2\r\n")
    for name in (
        "report/pictures/a.png",
        "report/results/a.json",
        "report/RESULTS.md",
        "RESULTS.md",
        "tests/a.py",
    ):
        (tmp_path / "ours" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "ours" / name).write_text("ours")
    (tmp_path / "ours" / "report" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    (tmp_path / "ours" / "get_checkpoints.sh").write_bytes(b"#!/usr/bin/env bash\r\nexit\r\n")
    (tmp_path / "ours" / "get_checkpoints.sh").chmod(0o755)
    monkeypatch.setattr(submission, "REPOSITORY", tmp_path / "ours")
    assert hand_in(complete) == 0
    names = {path.relative_to(complete / "mine").as_posix() for path in (complete / "mine").rglob("*")}
    assert not {name for name in names if "pictures" in name or "results" in name.lower() or "tests" in name}
    text = [path for path in (complete / "mine").rglob("*") if path.suffix in (".py", ".sh", ".md", ".json")]
    assert len(text) > 8 and not [path for path in text if b"\r" in path.read_bytes()]
    assert (complete / "mine" / "report" / "a.png").read_bytes() == b"\x89PNG\r\n\x1a\n\0"
    assert os.access(complete / "mine" / "get_checkpoints.sh", os.X_OK)


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
