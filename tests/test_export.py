"""python3 -m engine.export writes the course's kind of backbone: torchvision's keys, a 1000-way fc, whole or
not.
"""

from __future__ import annotations

import pytest
import torch
import torchvision

from engine import export
from engine.base import run_script
from models.builders import build_network
from tests.grader import save_classifier

MODEL = {
    **{"format": 1, "problem": "p1", "network": "resnet18", "arguments": {}, "state": {}, "classes": []},
    **{
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "image_size": 64,
        "edition": "2024",
        "score": {},
        "source": "run",
    },
}


def save(path, name, classes=65):
    state = build_network(name, num_classes=classes).state_dict()
    torch.save({**MODEL, "network": name, "state": state}, path)
    return state


def exit_status(monkeypatch, *words):
    """What `python3 -m engine.export` with these words ends with."""
    monkeypatch.setattr("sys.argv", ["export", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        run_script(export.main)
    return end.value.code


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_file_loads_strictly_into_torchvisions_network(name, tmp_path, monkeypatch):
    trained = save(tmp_path / "model.pt", name)
    assert exit_status(monkeypatch, tmp_path / "model.pt", tmp_path / "pretrain_model_SL.pt") == 0
    state = torch.load(tmp_path / "pretrain_model_SL.pt", weights_only=True)
    network = getattr(torchvision.models, name)(weights=None)
    network.load_state_dict(state)
    assert network.fc.weight.shape[0] == 1000
    assert torch.equal(state["fc.weight"][:65], trained["fc.weight"]) and not state["fc.weight"][65:].any()
    assert torch.equal(state["fc.bias"][:65], trained["fc.bias"]) and not state["fc.bias"][65:].any()
    assert all(torch.equal(state[key], value) for key, value in trained.items() if not key.startswith("fc."))
    assert list(state) == list(network.state_dict())


def test_half_precision_and_a_run_folder_do_as_well(tmp_path, monkeypatch):
    state = {
        k: v.half() if v.is_floating_point() else v for k, v in save(tmp_path / "x.pt", "resnet18").items()
    }
    (tmp_path / "run").mkdir()
    save_classifier(tmp_path / "run" / "model.pt", seed=0, state=state)
    assert exit_status(monkeypatch, tmp_path / "run", tmp_path / "out.pt") == 0
    exported = torch.load(tmp_path / "out.pt", weights_only=True)
    assert {value.dtype for value in exported.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such checkpoint file"),
        (b"no model", "not a checkpoint"),
        ({"conv1.weight": torch.zeros(1)}, "not a model.pt"),
        ({**MODEL, "network": "lite_fpn"}, "a lite_fpn, which has other layers"),
        ({**MODEL, "network": "resnet50_mlp"}, "a resnet50_mlp, which has other layers"),
        ({**MODEL, "state": {"fc.bias": torch.zeros(2)}}, "its weights are no resnet18's"),
        ({**MODEL, "state": {"fc.bias": torch.tensor(2.0)}}, "its weights are no resnet18's"),
    ],
)
def test_what_is_no_such_classifier_is_refused_in_one_line(content, complaint, tmp_path, capsys, monkeypatch):
    if isinstance(content, bytes):
        (tmp_path / "model.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "model.pt")
    assert exit_status(monkeypatch, tmp_path / "model.pt", tmp_path / "out.pt") == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
    assert not (tmp_path / "out.pt").exists() and not list(tmp_path.glob(".*"))


def test_the_model_itself_and_a_place_that_cannot_be_written_are_refused(tmp_path, capsys, monkeypatch):
    save(tmp_path / "model.pt", "resnet18")
    before = (tmp_path / "model.pt").read_bytes()
    for output in (tmp_path / "model.pt", tmp_path, tmp_path / "none" / "out.pt"):
        assert exit_status(monkeypatch, tmp_path / "model.pt", output) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
    assert (tmp_path / "model.pt").read_bytes() == before
