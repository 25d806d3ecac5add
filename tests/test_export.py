"""python3 -m models.export writes the course's kind of backbone: torchvision's keys, a 1000-way fc, whole or not."""

from __future__ import annotations

import pytest
import torch
import torchvision

from models import build_network
from models.export import main
from tests.grader import save_classifier


def save(path, name, classes=65):
    state = build_network(name, num_classes=classes).state_dict()
    torch.save({"format": 1, "problem": "p1", "network": name, "arguments": {}, "state": state}, path)
    return state


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_file_loads_strictly_into_torchvisions_network(name, tmp_path):
    trained = save(tmp_path / "model.pt", name)
    assert main([str(tmp_path / "model.pt"), str(tmp_path / "pretrain_model_SL.pt")]) == 0
    state = torch.load(tmp_path / "pretrain_model_SL.pt", weights_only=True)
    network = getattr(torchvision.models, name)(weights=None)
    network.load_state_dict(state)
    assert network.fc.weight.shape[0] == 1000
    assert torch.equal(state["fc.weight"][:65], trained["fc.weight"]) and not state["fc.weight"][65:].any()
    assert torch.equal(state["fc.bias"][:65], trained["fc.bias"]) and not state["fc.bias"][65:].any()
    assert all(torch.equal(state[key], value) for key, value in trained.items() if not key.startswith("fc."))
    assert list(state) == list(network.state_dict())


def test_half_precision_and_a_run_folder_do_as_well(tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in save(tmp_path / "x.pt", "resnet18").items()}
    (tmp_path / "run").mkdir()
    save_classifier(tmp_path / "run" / "model.pt", seed=0, state=state)
    assert main([str(tmp_path / "run"), str(tmp_path / "out.pt")]) == 0
    exported = torch.load(tmp_path / "out.pt", weights_only=True)
    assert {value.dtype for value in exported.values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        (b"no model", "not a model.pt"),
        ({"conv1.weight": torch.zeros(1)}, "not a model.pt"),
        ({"network": "lite_fpn", "state": {}}, "a lite_fpn, which has other layers"),
        ({"network": "resnet50_mlp", "state": {}}, "a resnet50_mlp, which has other layers"),
        ({"network": "resnet18", "state": {"fc.bias": torch.zeros(2)}}, "its weights are no resnet18's"),
    ],
)
def test_what_is_no_such_classifier_is_refused_in_one_line(content, complaint, tmp_path, capsys):
    if isinstance(content, bytes):
        (tmp_path / "model.pt").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "model.pt")
    assert main([str(tmp_path / "model.pt"), str(tmp_path / "out.pt")]) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
    assert not (tmp_path / "out.pt").exists() and not list(tmp_path.glob(".*"))


def test_the_model_itself_and_a_place_that_cannot_be_written_are_refused(tmp_path, capsys):
    save(tmp_path / "model.pt", "resnet18")
    before = (tmp_path / "model.pt").read_bytes()
    for output in (tmp_path / "model.pt", tmp_path, tmp_path / "none" / "out.pt"):
        assert main([str(tmp_path / "model.pt"), str(output)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
    assert (tmp_path / "model.pt").read_bytes() == before
