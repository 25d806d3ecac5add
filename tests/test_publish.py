"""engine.publish puts trained weights into checkpoints/ and the manifest: both whole, or nothing changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from engine import checkpoint, download, manifest
from engine.base import UserError
from engine.publish import halved, main, publish
from tests.loopback import serve

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(manifest, "FOLDER", tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


@pytest.fixture
def model(tmp_path) -> Path:
    return a_model(tmp_path)


def a_model(tmp_path: Path, **changes) -> Path:
    """A run folder's model.pt of a tiny network."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 7, 1))
    values = {
        "format": 1, "problem": "p2", "network": "tiny", "arguments": {"num_classes": 7},
        "state": network.state_dict(), "classes": list("abcdefg"), "integer_labels": False, "image_size": 32,
        "scale": 0.5, "mean": [0.5] * 3, "std": [0.25] * 3,
        "edition": "2024", "score": {"mean_iou": 0.7}, "source": "run",
    }  # fmt: skip
    (tmp_path / "run").mkdir(exist_ok=True)
    checkpoint.save(tmp_path / "run" / "model.pt", {**values, **changes})
    return tmp_path / "run" / "model.pt"


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype and torch.equal(first[key], second[key]) for key in first
    )


def test_the_published_file_is_the_run_s_and_the_manifest_describes_it(model, folder):
    entry = publish(model, "best", "p2", default=True, urls=("https://example.org/best.pt",))
    assert (folder / "best.pt").read_bytes() == model.read_bytes()
    assert manifest.default_checkpoint("p2") == entry
    assert manifest.is_intact(entry)
    assert sorted(os.listdir(folder)) == ["best.pt", "manifest.json"]
    assert json.loads((folder / "manifest.json").read_text()) == {
        "checkpoints": [
            {
                "name": "best", "problem": "p2", "default": True, "file": "best.pt",
                "sha256": manifest.sha256_of(model), "bytes": model.stat().st_size,
                "urls": ["https://example.org/best.pt"], "network": "tiny", "score": {"mean_iou": 0.7},
            }
        ]
    }  # fmt: skip


def test_a_run_folder_does_as_well_as_its_model(model, folder):
    assert publish(model.parent, "best", "p2")["sha256"] == manifest.sha256_of(model)


def test_only_what_is_published_as_default_is_one_and_it_takes_over(model, folder):
    publish(model, "first", "p2")
    assert manifest.default_checkpoint("p2") is None
    publish(model, "second", "p2", default=True)
    publish(model, "third", "p2", default=True)
    assert [(entry["name"], entry["default"]) for entry in manifest.read()] == [
        ("third", True), ("second", False), ("first", False),
    ]  # fmt: skip


def test_the_default_of_the_other_problem_stays(model, folder, tmp_path):
    publish(model, "tiles", "p2", default=True)
    publish(a_model(tmp_path, problem="p1"), "photos", "p1", default=True)
    assert [manifest.default_checkpoint(problem)["name"] for problem in ("p1", "p2")] == ["photos", "tiles"]


def test_the_same_name_replaces_the_file_and_the_entry(model, folder, tmp_path):
    publish(model, "best", "p2", default=True, urls=("https://example.org/old.pt",))
    publish(a_model(tmp_path, score={"mean_iou": 0.8}), "best", "p2")
    (entry,) = manifest.read()
    assert entry["score"] == {"mean_iou": 0.8}
    assert manifest.is_intact(entry)
    assert entry["urls"] == []  # they gave the old file
    assert entry["default"]  # a wrapper does not lose its checkpoint


def test_publishing_the_same_weights_again_gives_the_same_file_and_keeps_its_urls(model, folder):
    first = publish(model, "best", "p2", fp16=True, urls=("https://example.org/best.pt",))
    assert publish(model, "best", "p2", fp16=True) == first
    assert publish(manifest.entry_path(first), "best", "p2", fp16=True) == first


def test_half_precision_halves_the_file_and_keeps_what_it_would_spoil(folder, tmp_path):
    state = {
        "weight": torch.randn(200, 1000), "running_var": torch.tensor([1e-6, 1e5]), "count": torch.tensor(7),
        "large": torch.full((2, 2), 1e5), "small": torch.full((2, 2), 1e-9), "nothing": torch.zeros(2, 2),
        "wide": torch.randn(4, 4, dtype=torch.float64),
    }  # fmt: skip
    model = a_model(tmp_path, state=state)
    entry = publish(model, "half", "p2", fp16=True)
    assert entry["bytes"] < 0.51 * model.stat().st_size
    published = checkpoint.read_model(manifest.entry_path(entry))["state"]
    assert [key for key, value in published.items() if value.dtype == torch.float16] == [
        "weight",
        "nothing",
        "wide",
    ]
    for key in ("running_var", "count", "large", "small"):
        assert torch.equal(published[key], state[key])
    assert torch.equal(published["weight"], state["weight"].half())


def test_a_view_is_published_without_the_tensor_that_it_looks_into():
    large = torch.randn(1000, 1000)
    state = halved({"bias": large[0], "weight": large[:2]})
    assert [value.untyped_storage().nbytes() for value in state.values()] == [4000, 4000]


def test_the_measured_test_time_augmentation_goes_with_the_weights(model, folder):
    entry = publish(model, "turned", "p2", tta="flip", score=0.75)
    published = torch.load(manifest.entry_path(entry), weights_only=True)
    assert published["tta"] == "flip"
    assert published["score"] == entry["score"] == {"mean_iou": 0.75}
    assert equal(published["state"], torch.load(model, weights_only=True)["state"])
    with pytest.raises(UserError, match="--tta d4 is not for p1"):
        publish(model, "photos", "p1", tta="d4", score=0.75)
    with pytest.raises(UserError, match="--tta and --score go together"):
        publish(model, "turned", "p2", tta="flip")


def test_the_test_time_augmentation_of_classifiers_is_measured_as_accuracy(folder, tmp_path):
    entry = publish(a_model(tmp_path, problem="p1"), "mirrored", "p1", tta="flip", score=0.6)
    published = torch.load(manifest.entry_path(entry), weights_only=True)
    assert published["tta"] == "flip"
    assert published["score"] == entry["score"] == {"accuracy": 0.6}


def test_without_half_precision_the_state_is_the_run_s(model, folder):
    entry = publish(model, "full", "p2")
    assert equal(
        checkpoint.read_model(manifest.entry_path(entry))["state"], checkpoint.read_model(model)["state"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problem": "p1"}, "was trained for p2, not for p1"),
        ({"name": "../best"}, "name '../best' must be"),
        ({"name": ""}, "must be letters"),
        ({"name": "taken"}, "the name taken is taken by a checkpoint of sam"),
        ({"name": "other"}, "two entries have the file 'other.pt'"),
        ({"urls": ("ftp://example.org/x",)}, "not an http, https or file URL"),
        ({"urls": ("https://drive.google.com/drive/folders/1a",)}, "link to a folder"),
    ],
)
def test_what_cannot_be_published_changes_nothing(arguments, message, model, folder):
    publish(model, "best", "p2", default=True)
    (best,) = manifest.read()
    taken = {**best, "name": "taken", "file": "taken.pth", "problem": "sam", "default": False}
    manifest.write([best, taken, {**best, "name": "renamed", "file": "other.pt", "default": False}])
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(UserError, match=message):
        publish(model, **{"name": "next", "problem": "p2", "default": True, **arguments})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("changes", [{"format": 2}, {"state": [1]}, {"score": {"mean_iou": float("nan")}}])
def test_a_broken_model_is_not_published(changes, folder, tmp_path):
    with pytest.raises(UserError):
        publish(a_model(tmp_path, **changes), "best", "p2")
    assert not folder.exists() or os.listdir(folder) == []


def test_a_broken_manifest_is_not_overwritten(model, folder):
    folder.mkdir()
    (folder / "manifest.json").write_text("mine")
    with pytest.raises(UserError, match="not JSON"):
        publish(model, "best", "p2")
    assert os.listdir(folder) == ["manifest.json"]
    assert (folder / "manifest.json").read_text() == "mine"


def test_the_command_says_hash_size_and_total_and_warns_above_what_git_carries(
    model, folder, monkeypatch, capsys
):
    monkeypatch.setattr(
        sys, "argv", ["publish", str(model), "--name", "best", "--problem", "p2", "--default"]
    )
    main()
    said = capsys.readouterr().out
    assert manifest.sha256_of(model) in said
    assert f"{model.stat().st_size} bytes" in said
    assert "default of p2" in said
    assert "checkpoints/ holds 0.0 MB" in said
    assert "warning" not in said
    with open(folder / "large.pt", "wb") as file:
        file.truncate(26_000_000)
    with open(folder / "sam.pth", "wb") as file:
        file.truncate(90_000_000)
    main()
    said = capsys.readouterr().out
    assert "checkpoints/ holds 26.0 MB" in said
    assert "warning: more than 25 MB" in said


def test_help_comes_without_torch():
    program = "import sys; from engine.publish import main\ntry: main()\nfinally: print(*sys.modules)"
    command = [sys.executable, "-c", program, "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "--fp16" in done.stdout
    assert "torch" not in done.stdout.split()


def test_what_is_published_with_a_url_comes_back_from_there(model, folder):
    server = serve(model.read_bytes())
    loopback = next(server)
    entry = publish(model, "best", "p2", default=True, urls=(loopback.url("good"),))
    manifest.entry_path(entry).unlink()
    path = download.fetch(manifest.default_checkpoint("p2"))
    assert checkpoint.read_model(path)["network"] == "tiny"
    server.close()
