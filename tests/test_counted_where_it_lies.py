"""What inference says it wrote is what lies there; answers that are no numbers are no answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import p1_inference
import p2_inference
from engine import checkpoint
from tests.grader import call, random_image, save


@pytest.fixture
def tiles(tmp_path) -> Path:
    for number in range(6):
        save(random_image(number, 64, 64), tmp_path / "tiles" / f"{number:04d}_sat.png")
    return tmp_path / "tiles"


def segment(tiles: Path, output: Path, model: Path) -> int:
    given = ("--images", tiles, "--output", output, "--checkpoint", model, "--workers", 1, "--device", "cpu")
    return call(p2_inference, *given)


@pytest.mark.parametrize(
    ("removed_after", "status", "said"),
    [
        ((3,), 1, "3 masks in {}; 3 that were written are gone, 0000_mask.png first"),
        ((6,), 2, "0 masks in {}; 6 that were written are gone"),
        ((2, 4), 1, "2 masks in {}; 4 that were written are gone"),
        ((), 0, "6 masks in {}\n"),
    ],
)
def test_masks_that_vanish_while_others_are_made_are_not_counted(
    removed_after, status, said, tiles, tmp_path, p2_model, monkeypatch, capfd
):
    output, written, write_mask = tmp_path / "masks", [], p2_inference.write_mask

    def write(path: str, classes: torch.Tensor) -> None:
        write_mask(path, classes)
        written.append(path)
        if len(written) in removed_after:
            shutil.rmtree(output)

    monkeypatch.setattr(p2_inference, "write_mask", write)
    assert segment(tiles, output, p2_model) == status
    assert said.format(output) in capfd.readouterr().err


def test_one_mask_that_vanishes_is_named_beside_a_tile_without(tiles, tmp_path, p2_model, monkeypatch, capfd):
    (tiles / "0005_sat.png").write_text("broken")
    write_mask = p2_inference.write_mask

    def write(path: str, classes: torch.Tensor) -> None:
        write_mask(path, classes)
        if path.endswith("0002_mask.png"):
            Path(path).unlink()

    monkeypatch.setattr(p2_inference, "write_mask", write)
    assert segment(tiles, tmp_path / "masks", p2_model) == 1
    assert "4 masks in" in (said := capfd.readouterr().err) and "1 tiles without; 1 that were written" in said
    assert "0002_mask.png first" in said


def broken(model: Path, path: Path, value: float) -> Path:
    """A copy whose widest weights are all `value`: finite, and too large or not for what is made of them."""
    values = checkpoint.read(model)
    for key, tensor in values["state"].items():
        if tensor.ndim == 4:
            values["state"][key] = torch.full_like(tensor, value)
    checkpoint.save(path, values)
    return path


def test_weights_whose_answers_are_no_numbers_give_no_mask_and_no_label(
    tiles, tmp_path, p1_model, p2_model, capfd
):
    (tmp_path / "in.csv").write_text("id,filename\n0,0000_sat.png\n")
    assert segment(tiles, tmp_path / "masks", broken(p2_model, tmp_path / "p2.pt", 3e38)) == 2
    given = ("--csv", tmp_path / "in.csv", "--images", tiles, "--output", tmp_path / "out.csv")
    model = broken(p1_model, tmp_path / "p1.pt", 3e38)
    assert call(p1_inference, *given, "--checkpoint", model, "--device", "cpu") == 2
    assert capfd.readouterr().err.count("the network's answers are not finite") == 2
    assert not (tmp_path / "masks").exists() and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_nan_are_refused_before_anything_is_written(value, tiles, tmp_path, p2_model, capfd):
    assert segment(tiles, tmp_path / "masks", broken(p2_model, tmp_path / "p2.pt", value)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "p2.pt: its weights hold numbers that are not finite" in line and not (tmp_path / "masks").exists()
