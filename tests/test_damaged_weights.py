"""Weights of which one bit is wrong are used nowhere: by inference, publishing, export or as a start."""

from __future__ import annotations

import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.bench_sam import SMALL
from engine import checkpoint, manifest
from engine.base import UserError, damage_of_zip
from engine.export import export
from engine.publish import publish
from models.backbone import load_backbone
from models.builders import build_network
from models.sam import build_sam, load_sam
from models.weights import load_pretrained, state_of_file


def flip_one_bit(path: Path, seed: int = 0) -> Path:
    """The highest exponent bit of one weight of the first tensor: still a file that torch reads without a
    word.
    """
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start, size = next(
            (part.header_offset, part.file_size)
            for part in archive.infolist()
            if part.filename.endswith("data/0")
        )
    name, extra = struct.unpack("<HH", data[start + 26 : start + 30])
    number = random.Random(seed).randrange(size // 4)
    data[start + 30 + name + extra + 4 * number + 3] ^= 0x40
    path.write_bytes(data)
    torch.load(path, weights_only=True)
    return path


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.save(build_network("resnet18", num_classes=5).state_dict(), tmp_path / "weights.pt")
    return flip_one_bit(tmp_path / "weights.pt")


def test_inference_publishing_and_export_refuse_it(p1_model, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "FOLDER", tmp_path / "checkpoints")
    path = tmp_path / "model.pt"
    path.write_bytes(p1_model.read_bytes())
    flip_one_bit(path)
    for use in (
        lambda: checkpoint.read_model(path),
        lambda: publish(path, "mine", "p1", default=True),
        lambda: export(path, tmp_path / "out.pt"),
        lambda: load_pretrained(build_network("resnet18", num_classes=5), "resnet18", str(path)),
    ):
        with pytest.raises(
            UserError, match=r"model\.pt: .*damaged: the bytes of '.*data/0' are not those that"
        ):
            use()
    assert not (tmp_path / "out.pt").exists() and not (tmp_path / "checkpoints").exists()


def test_no_training_starts_from_it(weights):
    network = build_network("resnet18", num_classes=5)
    for use in (load_backbone, lambda net, path: load_pretrained(net, "resnet18", str(path))):
        with pytest.raises(UserError, match="damaged"):
            use(network, weights)


def test_segment_anything_refuses_it(tmp_path):
    torch.save(build_sam(**SMALL).state_dict(), tmp_path / "sam.pth")
    load_sam(tmp_path / "sam.pth")
    with pytest.raises(UserError, match="damaged"):
        load_sam(flip_one_bit(tmp_path / "sam.pth"))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_bit_of_a_file_is_wrong_what_is_read_is_what_was_saved(seed, tmp_path):
    saved = {"a": torch.arange(1000.0), "b": torch.ones(3, 3), "c": torch.tensor(1)}
    path = tmp_path / "weights.pt"
    torch.save(saved, path)
    data = path.read_bytes()
    draw = random.Random(seed)
    for _ in range(25):
        bit = draw.randrange(8 * len(data))
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            read = state_of_file(path)
        except UserError:
            continue
        # In the paddings between the parts, and where headers repeat themselves, nothing is lost.
        assert read.keys() == saved.keys() and all(torch.equal(read[key], saved[key]) for key in saved)


def test_older_files_of_torch_are_read_as_ever(tmp_path):
    state = build_network("resnet18", num_classes=5).state_dict()
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert damage_of_zip(tmp_path / "old.pt") == ""
    assert state_of_file(tmp_path / "old.pt").keys() == state.keys()


def test_a_zip_file_that_unpacks_to_more_than_it_is_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))
    with pytest.raises(UserError, match=r"bomb\.pt: .*parts are larger than the file"):
        checkpoint.read(tmp_path / "bomb.pt")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
def test_a_file_that_is_cut_is_named(share, weights):
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * share)])
    with pytest.raises(UserError, match=r"weights\.pt: cannot be read as weights \(damaged or cut off"):
        state_of_file(weights)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_weights_that_are_no_numbers_are_refused_by_inference(value, kind, p2_model, tmp_path):
    model = checkpoint.read(p2_model)
    key = next(key for key, tensor in model["state"].items() if tensor.ndim == 4)
    model["state"][key] = model["state"][key].to(kind)
    model["state"][key][0, 0, 0, 0] = value
    checkpoint.save(tmp_path / "model.pt", model)
    with pytest.raises(UserError, match=r"model\.pt: its weights hold numbers that are not finite"):
        checkpoint.read_model(tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "odd",
    [torch.ones(2, 2).to_sparse(), torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)],
    ids=["sparse", "quantised"],
)
def test_tensors_of_an_odd_kind_are_one_line(odd, p2_model, tmp_path):
    model = checkpoint.read(p2_model)
    model["state"]["odd"] = odd
    checkpoint.save(tmp_path / "model.pt", model)
    with pytest.raises(UserError, match=r"model\.pt"):
        checkpoint.read_model(tmp_path / "model.pt")
