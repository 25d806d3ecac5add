"""The report answers every question from whatever run folders there are, and says what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.base import UserError
from engine.run_folder import place_of, read_run
from report import blocks, build, tile_figures
from report.collect import find
from report.problem2 import _verdict
from tests import report_runs

REPOSITORY = Path(__file__).resolve().parent.parent
HOSTILE = "<script>alert(1)</script>"


def run_build(out: Path, *words: object, name: str = "王小明") -> int:
    options = [
        "--student-id",
        "r12345678",
        "--name",
        name,
        "--output",
        str(out),
        "--answers",
        str(out / "answers.md"),
    ]
    return build.main([*map(str, words), *options])


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    report_runs.problem_1(folder / "p1")
    report_runs.problem_2(folder / "p2")
    report_runs.sam(folder / "sam")
    return folder


@pytest.fixture(scope="session")
def built(whole, tmp_path_factory) -> Path:
    """The folder of a complete report."""
    out = tmp_path_factory.mktemp("built")
    assert run_build(out, "--p1", whole / "p1", "--p2", whole / "p2", "--sam", whole / "sam") == 0
    return out


def page_of(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def quick_figures(monkeypatch, built):
    """Figures are put together and not painted, which takes most of a report's time: one stands for all."""

    def copy(figure, path):
        for suffix in ("png", "pdf"):
            shutil.copyfile(built / "figures" / f"ious.{suffix}", f"{path}.{suffix}")

    for module in (blocks, tile_figures):
        monkeypatch.setattr(module, "save_figure", copy)


# -- a complete one ------------------------------------------------------------------------------------------


def test_a_complete_report_has_page_pdf_and_every_figure_as_png_and_pdf(built):
    assert (built / "hw1_r12345678.pdf").read_bytes().startswith(b"%PDF")
    names = {path.stem for path in (built / "figures").glob("*.png")}
    assert names == {path.stem for path in (built / "figures").glob("*.pdf")}
    assert names >= {
        "pretraining",
        "settings_curves",
        "tsne",
        "model_a",
        "model_b",
        "ious",
        "learning_curves",
    }
    assert names >= {"land_confusion", "worst_tiles", "stages_a", "stages_b", "sam"}
    assert {f"confusion_{letter}" for letter in "ABCDE"} <= names


def test_questions_stand_in_the_assignments_order(built):
    page = page_of(built)
    asked = (
        "implementation details",
        "for each of the five settings",
        "learned representations",
        "(model A)",
    )
    asked += ("(model B)", "mIoU of both models", "the early, the middle", "Segment three of")
    places = [page.index(words) for words in asked]
    assert places == sorted(places)
    assert "Not here yet" not in page and "王小明" in page and "r12345678" in page and "2026-09-21" in page


def test_the_page_says_what_the_runs_say(built):
    page = page_of(built)
    for said in (
        "38,400 images of 128 px",
        "batches of 256",
        "0.7050",
        "fcn32s_bilinear",
        "lite_fpn",
        "0.6000",
        "vit_b",
    ):
        assert said in page, said


def test_same_inputs_same_bytes(built, whole, tmp_path):
    assert run_build(tmp_path, "--p1", whole / "p1", "--p2", whole / "p2", "--sam", whole / "sam") == 0
    for path in sorted(built.rglob("*.*")):
        assert (tmp_path / path.relative_to(built)).read_bytes() == path.read_bytes(), path.name


def test_the_students_words_are_merged_and_never_overwritten(whole, quick_figures, tmp_path):
    run_build(tmp_path, "--p2", whole / "p2")
    answers = tmp_path / "answers.md"
    text = answers.read_text(encoding="utf-8").replace("## 2.1", "## 2.1", 1)
    lines = []
    for line in text.splitlines():
        lines += [line, "", "我的模型 is **mine**."] if line.startswith("## 2.1") else [line]
    answers.write_text("\n".join(lines), encoding="utf-8")
    before = answers.read_bytes()
    run_build(tmp_path, "--p2", whole / "p2")
    assert answers.read_bytes() == before
    assert "我的模型 is <strong>mine</strong>" in page_of(tmp_path)


# -- what the numbers support --------------------------------------------------------------------------------


def test_close_settings_are_called_so_and_far_ones_too(tmp_path, built, quick_figures):
    # 0.505 against 0.555 of 100 images, half of them others
    close = "0.5550 lies 0.0500 above 0.5050 on the same 100 images"
    assert close in page_of(built) and "these runs do not tell them apart" in page_of(built)
    run = tmp_path / "p1" / "settings" / "A-seed0"
    report_runs.problem_1(tmp_path / "p1", seeds=1)
    rows = [f"{i}.jpg,{i % 3 if i < 5 else (i + 1) % 3},{i % 3}" for i in range(100)]
    for name in ("predictions.csv", "predictions_last.csv"):
        (run / name).write_text("\n".join(["filename,label,truth", *rows]))
    lines = report_runs.epochs(4, accuracy=lambda e: 0.05)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_build(tmp_path / "out", "--p1", tmp_path / "p1")
    assert "more than the choice of images explains" in page_of(tmp_path / "out")


# -- gaps ----------------------------------------------------------------------------------------------------


def test_without_any_run_each_question_names_the_command_that_fills_it(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run_build(tmp_path / "out", "--p1", tmp_path / "empty", "--p2", tmp_path / "missing") == 1
    page, said = page_of(tmp_path / "out"), capsys.readouterr().err
    for script in ("p1_ssl_pretrain.py", "p1_finetune.py", "p1_tsne.py", "--model fcn32s", "p2_sam.py"):
        assert script in page, script
    # They write, and read, where make p1 and make p2 do.
    assert "--vote runs/problem2/model_b/model.pt" in page and "--output runs/problem2/model_b" in page
    assert "--run runs/problem1/settings/C-seed0" in page and "--output runs/problem1/settings" in page
    assert "there is no such folder" in said and "no run folder and no result" in said
    assert all(f"gap: {key} " in said for key in ("1.1", "1.2", "1.3", "2.1", "2.2", "2.3", "2.4", "2.5"))


def break_json(path: Path) -> None:
    path.write_text('{"arguments": ')


def strange_config(path: Path) -> None:
    arguments = dict.fromkeys(json.loads(path.read_text())["arguments"], {"a": [None, float("nan"), HOSTILE]})
    path.write_text(
        json.dumps({"arguments": arguments, "total_steps": "many", "machine": 3, "command": ["x"]})
    )


def strange_metrics(path: Path) -> None:
    path.write_text(
        '{"step": 10, "epoch": 1, "loss": "low", "mean_iou": 1e999, "accuracy": null, "time": 1e300}\nhalf a '
        "li"
    )


DAMAGE = [
    ("config.json", Path.unlink),
    ("config.json", break_json),
    ("config.json", strange_config),
    ("metrics.jsonl", Path.unlink),
    ("metrics.jsonl", strange_metrics),
    ("metrics.jsonl", lambda path: path.write_bytes(path.read_bytes()[:200])),
    ("metrics.jsonl", lambda path: path.write_bytes(bytes(range(256)))),
    ("architecture.json", break_json),
    (
        "architecture.json",
        lambda path: path.write_text('{"blocks": [{"inputs": ["x"], "role": "output"}], "input": 3}'),
    ),
    ("architecture.png", lambda path: path.write_bytes(b"GIF89a")),
    ("predictions.csv", lambda path: path.write_text("a,b\n1")),
    ("scores.json", lambda path: path.write_text('[{"most_scattered": [{"name": {}}], "checkpoint": 3}, 7]')),
    ("tsne.pdf", Path.unlink),
    ("score.json", lambda path: path.write_text('{"model B": {"mean_iou": "high"}, "vote": 3}')),
    ("*_sam.json", lambda path: path.write_text('{"image": [], "annotations": {}}')),
    ("*_sat.jpg", lambda path: path.write_bytes(b"no picture")),
    ("*_mask.png", lambda path: path.write_bytes(path.read_bytes()[:60])),
    ("sheet.png", lambda path: path.write_bytes(b"")),
    ("snapshots", shutil.rmtree),
    ("data", shutil.rmtree),
]


@pytest.mark.parametrize(
    ("name", "damage"), DAMAGE, ids=[f"{n}-{name}" for n, (name, _) in enumerate(DAMAGE)]
)
def test_damaged_folders_leave_a_gap_and_no_traceback(whole, quick_figures, tmp_path, name, damage):
    for part in ("p1", "p2", "sam"):
        shutil.copytree(whole / part, tmp_path / part)
    config = tmp_path / "p2" / "model_b" / "config.json"
    config.write_text(config.read_text().replace(str(whole), str(tmp_path)))
    for path in sorted(tmp_path.rglob(name)):
        damage(path)
    words = ("--p1", tmp_path / "p1", "--p2", tmp_path / "p2", "--sam", tmp_path / "sam")
    assert run_build(tmp_path / "out", *words) in (0, 1)
    assert HOSTILE not in page_of(tmp_path / "out")
    assert (tmp_path / "out" / "hw1_r12345678.pdf").stat().st_size > 10_000


def test_a_killed_run_is_shown_with_how_far_it_came(whole, quick_figures, tmp_path):
    shutil.copytree(whole / "p2", tmp_path / "p2")
    config = tmp_path / "p2" / "model_b" / "config.json"
    config.write_text(config.read_text().replace('"total_steps": 30', '"total_steps": 300'))
    assert run_build(tmp_path / "out", "--p2", tmp_path / "p2") == 1
    assert "unfinished: epoch 3, step 30 of 300" in page_of(tmp_path / "out")


def test_a_foreign_folder_is_named_and_the_rest_is_used(whole, quick_figures, tmp_path, capsys):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"arguments": {"learning_rate": 1}}')
    assert run_build(tmp_path / "out", "--p2", whole / "p2", foreign) == 1
    assert str(foreign) in capsys.readouterr().err and "lite_fpn" in page_of(tmp_path / "out")


def test_names_from_outside_are_text_and_nothing_else(whole, quick_figures, tmp_path):
    folder = tmp_path / "p2 <u> & $x$ #panic"
    shutil.copytree(whole / "p2", folder)
    run_build(tmp_path / "out", "--p2", folder, name=f"{HOSTILE} \\ * _ $ # [ ]")
    page = page_of(tmp_path / "out")
    assert HOSTILE not in page and "<u>" not in page and "&lt;script&gt;" in page


def test_figures_of_an_earlier_report_go_and_foreign_ones_stay(whole, quick_figures, tmp_path):
    run_build(tmp_path, "--p2", whole / "p2")
    mine = tmp_path / "figures" / "holiday.png"
    mine.write_bytes(b"mine")
    run_build(tmp_path, "--p1", whole / "p1")
    assert mine.read_bytes() == b"mine"
    assert not (tmp_path / "figures" / "ious.png").exists()


@pytest.mark.parametrize("student_id", ["", "../r1", "r1 2", "學號", "r" * 21])
def test_an_impossible_student_id_is_refused_before_anything_is_written(tmp_path, student_id):
    words = [
        "--p1",
        str(tmp_path),
        "--student-id",
        student_id,
        "--name",
        "x",
        "--output",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as end:
        build.main(words)
    assert end.value.code == 2 and not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_one_line_and_status_2(whole, tmp_path):
    (tmp_path / "out").write_text("")
    words = ["--p1", whole / "p1", "--student-id", "r1", "--name", "x", "--output", tmp_path / "out"]
    command = [sys.executable, "-m", "report.build", *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "another --output" in done.stderr


# -- where runs lie ------------------------------------------------------------------------------------------


def test_a_run_counts_once_however_it_is_named(whole, tmp_path):
    (tmp_path / "link").symlink_to(whole / "p2" / "model_b")
    found = find([whole / "p2", whole / "p2" / "model_b", tmp_path])
    assert sorted(run.name for run in found.segmentation) == ["model_a", "model_b"] and not found.remarks


def test_runs_behind_links_are_found(whole, tmp_path):
    (tmp_path / "storage").symlink_to(whole / "p2")
    assert [run.name for run in find([tmp_path]).segmentation] == ["model_a", "model_b"]


def test_one_run_of_a_setting_stands_for_its_table(whole):
    found = find([whole / "p1" / "settings" / "C-seed0"])
    assert found.settings == [whole / "p1" / "settings"]


def test_the_data_of_a_run_are_found_from_any_folder(whole, tmp_path, monkeypatch):
    shutil.copytree(whole / "p2", tmp_path / "home" / "p2")
    config = tmp_path / "home" / "p2" / "model_b" / "config.json"
    config.write_text(config.read_text().replace(str(whole), "."))
    monkeypatch.chdir(tmp_path)
    assert place_of(read_run(config.parent), "data") == (tmp_path / "home" / "p2" / "data")


# -- sentences that say no more than is known ----------------------------------------------------------------


def test_a_class_is_called_gained_or_lost_only_where_it_is():
    worse = _verdict(
        {"mean_iou": 0.7, "urban": 0.8, "water": 0.6}, {"mean_iou": 0.6, "urban": 0.7, "water": 0.5}
    )
    assert "0.1000 below A's" in worse and "gains" not in worse and "loses most in" in worse
    equal = _verdict({"mean_iou": 0.7, "urban": 0.8}, {"mean_iou": 0.7, "urban": 0.8})
    assert "is A's" in equal and "gains" not in equal and "loses" not in equal


def test_networks_are_compared_on_the_same_tiles_and_a_missing_test_says_why(
    whole, built, quick_figures, tmp_path
):
    for epochs in ("best", "last"):
        tested = (
            f"B against A at their {epochs} epochs: 0.6000 lies 0.1000 above 0.5000 on the same 12 tiles ("
        )
        assert tested in page_of(built)
    shutil.copytree(whole / "p2", tmp_path / "p2")
    (tmp_path / "p2" / "model_a" / "confusions.npz").unlink()
    run_build(tmp_path / "out", "--p2", tmp_path / "p2")
    assert "B against A at their best epochs: no paired test, " in page_of(tmp_path / "out")


def test_settings_that_cannot_be_compared_are_named(whole, quick_figures, tmp_path):
    shutil.copytree(whole / "p1", tmp_path / "p1")
    for path in (tmp_path / "p1" / "settings").glob("C-seed*/predictions*.csv"):
        path.unlink()
    run_build(tmp_path / "out", "--p1", tmp_path / "p1")
    page = page_of(tmp_path / "out")
    assert (
        "Not compared: C" in page
        and "C against" not in page
        and "No predictions.csv that can be read" in page
    )


def test_one_wrong_image_of_many_is_no_hint(tmp_path, quick_figures):
    report_runs.problem_1(tmp_path / "p1", seeds=1, settings="AB")
    for name, right in (("A-seed0", 99), ("B-seed0", 100)):
        run = tmp_path / "p1" / "settings" / name
        lines = report_runs.epochs(4, accuracy=lambda e, right=right: right / 100)
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        rows = [f"{i}.jpg,{int(i >= right)},0" for i in range(100)]
        (run / "predictions_last.csv").write_text("\n".join(["filename,label,truth", *rows]))
    run_build(tmp_path / "out", "--p1", tmp_path / "p1")
    page = page_of(tmp_path / "out")
    assert "1.0000 lies 0.0100 above 0.9900" in page and "these runs do not tell them apart" in page


# -- a report that fails leaves the one before it ------------------------------------------------------------


def test_answers_that_cannot_be_read_leave_the_old_report_as_it_was(whole, quick_figures, tmp_path):
    run_build(tmp_path, "--p2", whole / "p2")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    (tmp_path / "answers.md").write_bytes("我的答案".encode("big5"))
    before[tmp_path / "answers.md"] = (tmp_path / "answers.md").read_bytes()
    with pytest.raises(UserError, match="UTF-8"):
        run_build(tmp_path, "--p1", whole / "p1")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before
