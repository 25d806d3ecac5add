"""Which checkpoint answers: the flag's, else the variable's, else the manifest's default; and what is said of
it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest

import p1_inference
import p2_inference
from engine import manifest
from engine.base import UserError
from engine.checkpoint_choice import read_models
from tests.grader import call, random_image, save, save_segmenter


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty checkpoints/ in place of the repository's."""
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(manifest, "FOLDER", tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def publish(folder: Path, model: Path, problem: str, **changes) -> None:
    data = model.read_bytes()
    entry = {
        "name": f"published-{problem}", "problem": problem, "default": True, "file": f"{problem}.pt",
        "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "urls": [], "network": "light",
        "score": {"mean_iou": 0.6999}, **changes,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({"checkpoints": [entry]}))


def sources(problem: str, *given: object) -> list[str]:
    return [model["source"] for model in read_models(problem, [str(path) for path in given])]


def test_the_flag_goes_before_the_variable_and_that_before_the_default(folder, tmp_path, monkeypatch):
    paths = {}
    for name in ("flag", "variable", "second", "default"):
        paths[name] = save_segmenter(tmp_path / f"{name}.pt", seed=0, source=name)
    shutil.copy(paths["default"], folder / "p2.pt")
    publish(folder, paths["default"], "p2")
    assert sources("p2") == ["default"]
    monkeypatch.setenv("P2_CHECKPOINT", "")
    assert sources("p2") == ["default"]
    monkeypatch.setenv("P2_CHECKPOINT", f"{paths['variable']}{os.pathsep}{paths['second']}")
    monkeypatch.setenv("P1_CHECKPOINT", "another problem's")
    assert sources("p2") == ["variable", "second"]
    assert sources("p2", paths["flag"]) == ["flag"]


def test_a_run_folder_stands_for_its_model(tmp_path):
    save_segmenter(tmp_path / "run" / "model.pt", seed=0, source="run")
    assert sources("p2", tmp_path / "run") == ["run"]


def test_the_first_line_names_checkpoint_network_and_score(p1_model, p2_model, tmp_path, capfd):
    save(random_image(1, 64, 64), tmp_path / "tiles" / "1_sat.png")
    (tmp_path / "tiles" / "0_sat.png").write_text("broken")
    (tmp_path / "in.csv").write_text("id,filename\n0,0_sat.png\n1,1_sat.png\n")
    given = ("--images", tmp_path / "tiles", "--output", tmp_path / "out", "--device", "cpu", "--checkpoint")
    assert call(p2_inference, *given, p2_model, p2_model) == 1
    assert capfd.readouterr().err.splitlines()[0] == (
        f"checkpoint {p2_model}: lite_fpn, mean_iou 0.7000; {p2_model}: lite_fpn, mean_iou 0.7000"
    )
    given = ("--csv", tmp_path / "in.csv", "--images", tmp_path / "tiles", "--output", tmp_path / "o.csv")
    assert call(p1_inference, *given, "--device", "cpu", "--checkpoint", p1_model) == 1
    assert capfd.readouterr().err.splitlines()[0] == f"checkpoint {p1_model}: resnet18, accuracy 0.5000"


@pytest.mark.parametrize(
    ("problem", "script", "model"),
    [
        ("p1", "p1_finetune.py", "runs/p1/C-seed0/model.pt"),
        ("p1_50", "p1_finetune.py", "runs/p1/A-seed0/model.pt"),
        ("p2", "p2_train.py", "runs/p2/model.pt"),
    ],
)
def test_no_checkpoint_gives_the_command_that_trains_one_and_what_it_writes(folder, problem, script, model):
    with pytest.raises(UserError) as error:
        read_models(problem, [])
    assert f"python3 {script} " in str(error.value) and f"{problem.upper()}_CHECKPOINT={model}" in str(
        error.value
    )
    assert error.value.exit_status == 2


def test_problem_1_s_hint_is_the_setting_that_the_course_grades(folder):
    with pytest.raises(UserError) as error:
        read_models("p1", [])
    pretraining, finetuning = str(error.value).split(", then ", 1)
    assert "p1_ssl_pretrain.py" in pretraining and "p1_finetune.py" in finetuning
    assert "--settings C --ssl-backbone runs/ssl/backbone.pt " in finetuning


def test_several_checkpoints_are_separated_as_the_machine_separates_paths(tmp_path, monkeypatch):
    paths = [save_segmenter(tmp_path / name, seed=0, source=name) for name in ("one:1.pt", "two.pt")]
    monkeypatch.setattr(os, "pathsep", ";")
    monkeypatch.setenv("P2_CHECKPOINT", ";".join(map(str, paths)))
    assert sources("p2") == ["one:1.pt", "two.pt"]


def test_a_default_whose_file_is_missing_is_fetched_where_a_url_is_known(folder, p2_model, capfd):
    publish(folder, p2_model, "p2", urls=[p2_model.as_uri()])
    assert sources("p2") == ["a test"]
    assert (folder / "p2.pt").read_bytes() == p2_model.read_bytes()
    assert capfd.readouterr().err.splitlines()[0] == f"checkpoint {folder / 'p2.pt'}: light, mean_iou 0.6999"


def test_a_default_whose_file_is_missing_without_a_url_is_named(folder, p2_model):
    publish(folder, p2_model, "p2")
    with pytest.raises(UserError, match=re.escape(str(folder / "p2.pt"))):
        read_models("p2", [])


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:9def70c3\nsize 6595919\n"
NOT_THE_PUBLISHED = {  # what lies there in the place of the published bytes, and how it is said
    "cut": (lambda data: data[: len(data) // 2], "is cut off, or another file"),
    "cut by one byte": (lambda data: data[:-1], "is cut off, or another file"),
    "empty": (lambda data: b"", r"\(0 bytes, not "),
    "a Git LFS pointer": (
        lambda data: LFS,
        "is a Git LFS pointer in the place of the weights .*git lfs pull",
    ),
    "one wrong bit": (lambda data: data[:-5000] + bytes([data[-5000] ^ 1]) + data[-4999:], "sha256 differs"),
    "longer": (lambda data: data + b"x", "is another file"),
    "a page": (lambda data: b"<html>sign in</html>", "is cut off, or another file"),
}


@pytest.mark.parametrize("what", NOT_THE_PUBLISHED)
def test_a_default_that_is_not_the_published_file_is_fetched_again_or_explained(
    what, folder, p2_model, capfd
):
    change, said = NOT_THE_PUBLISHED[what]
    data = change(p2_model.read_bytes())
    (folder / "p2.pt").write_bytes(data)
    publish(folder, p2_model, "p2")
    with pytest.raises(UserError, match=f"{re.escape(str(folder / 'p2.pt'))} .*{said}") as error:
        read_models("p2", [])
    assert "\n" not in str(error.value) and "git checkout -- " in str(error.value)
    assert (folder / "p2.pt").read_bytes() == data
    publish(folder, p2_model, "p2", urls=[p2_model.as_uri()])
    assert sources("p2") == ["a test"]
    assert (folder / "p2.pt").read_bytes() == p2_model.read_bytes()
    assert re.search(f"is not the published file: it .*{said}", capfd.readouterr().err)


def test_a_checkpoint_that_is_missing_broken_or_for_the_other_problem_is_named(p1_model, tmp_path):
    (tmp_path / "broken.pt").write_bytes(p1_model.read_bytes()[:5000])
    (tmp_path / "page.pt").write_text("<html>")
    for path, problem in (
        (tmp_path / "none.pt", "p2"),
        (tmp_path / "broken.pt", "p1"),
        (tmp_path / "page.pt", "p1"),
        (tmp_path, "p2"),
        (p1_model, "p2"),
        (save_segmenter(tmp_path / "no scale.pt", seed=0, scale=None), "p2"),
    ):
        with pytest.raises(UserError, match=re.escape(str(path))):
            read_models(problem, [str(path)])
