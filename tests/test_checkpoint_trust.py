"""A checkpoint is data: it never runs code, and one that is broken or foreign is refused in one plain
line.
"""

from __future__ import annotations

import resource

import pytest
import torch

from engine import checkpoint
from engine.base import UserError

MODEL = {
    "format": 1,
    "problem": "p2",
    "network": "lite_fpn",
    "arguments": {},
    "state": {"weight": torch.zeros(2)},
    "classes": ["urban"],
    "image_size": None,
    "scale": 0.5,
    "mean": [0.0] * 3,
    "std": [1.0] * 3,
    "edition": "2024",
    "score": {},
    "source": "run",
}


class Attack:
    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_what_is_saved_is_read_back(tmp_path):
    checkpoint.save(tmp_path / "model.pt", MODEL)
    assert checkpoint.read_model(tmp_path / "model.pt")["scale"] == 0.5


def test_a_checkpoint_that_wants_to_run_code_is_not_loaded(tmp_path, capsys):
    torch.save({"step": 1, "payload": Attack()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: not a checkpoint, or one that wants to run code"):
        checkpoint.read(tmp_path / "model.pt")
    assert "must not" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>sign in</html>", b"\x80\x05.", bytes(1000)])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(content, tmp_path):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt"):
        checkpoint.read(tmp_path / "model.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_checkpoint_is_refused_by_name(share, tmp_path):
    path = tmp_path / "model.pt"
    checkpoint.save(path, MODEL)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=r"model\.pt"):
        checkpoint.read_model(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pt: no such"):
        checkpoint.read(tmp_path / "gone.pt")


@pytest.mark.parametrize(
    "key", ["format", "problem", "network", "arguments", "state", "classes", "mean", "score"]
)
def test_a_model_without_its_description_is_refused(key, tmp_path):
    checkpoint.save(tmp_path / "model.pt", {k: v for k, v in MODEL.items() if k != key})
    with pytest.raises(UserError, match=r"model\.pt"):
        checkpoint.read_model(tmp_path / "model.pt")


@pytest.mark.parametrize("value", [torch.zeros(3), [1, 2], "text"])
def test_something_that_is_no_dict_is_refused(value, tmp_path):
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(UserError, match="not the dict"):
        checkpoint.read(tmp_path / "model.pt")


@pytest.mark.parametrize("room", [0, 100_000])  # bytes that the disk still takes
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, room):
    checkpoint.save(tmp_path / "last.pt", {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(UserError, match=r"last\.pt: cannot be written .*make room"):
            checkpoint.save(tmp_path / "last.pt", {"step": 2, "weights": torch.rand(1000, 1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.read(tmp_path / "last.pt")["step"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"state": {1: torch.zeros(2)}},
        {"state": {"weight": 3}},
        {"mean": ["0", "0", "0"]},
        {"mean": [0.0] * 5},
        {"std": [1.0, 0.0, 1.0]},
        {"std": [float("nan")] * 3},
        {"scale": float("inf")},
        {"scale": float("nan")},
        {"scale": 0},
        {"scale": -1},
        {"scale": 1e9},
        {"scale": None},
        {"tta": "sideways"},
        {"tta": ["flip"]},
        {"classes": [1]},
        {"arguments": {"num_classes": 7}},
        {"problem": "p3"},
        {"problem": "p1", "image_size": None},
        {"problem": "p1", "image_size": 32.5},
        {"problem": "p1", "image_size": 10**9},
        {"problem": "p1", "image_size": 32, "integer_labels": True},
        {"problem": "p1", "image_size": 32, "tta": "d4"},
    ],
    ids=str,
)
def test_what_inference_would_stumble_over_is_refused_by_name(tmp_path, change):
    checkpoint.save(tmp_path / "model.pt", {**MODEL, **change})
    with pytest.raises(UserError, match=r"model\.pt: broken model\.pt, '"):
        checkpoint.read_model(tmp_path / "model.pt")
