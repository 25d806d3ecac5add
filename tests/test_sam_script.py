"""p2_sam.py: pictures, run lengths, a sheet and the vote of every image that can be read; never half of
anything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import p2_sam
from benchmarks.bench_sam import SMALL, lively_sam
from datasets import sam_files
from datasets.drawings import draw_tile
from datasets.palette import classes_of_colours, save_mask
from datasets.sam_files import mask_of_runs, vote
from engine import manifest
from engine.base import UserError, write_json
from models.sam import load_sam
from models.sam_masks import MaskGenerator, SamMemoryError
from report.sam import ROWS, Sheet, draw_masks
from tests.grader import REPOSITORY, call, random_image, save

SIDE = 96  # pixels of a tile
GRID = ("--points-per-side", 4, "--stability-score-thresh", 0.9, "--box-nms-thresh", 1.0)


def tile_of(number: int) -> tuple[Image.Image, np.ndarray]:
    return draw_tile(np.random.default_rng(number), SIDE, [number])


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of the official layout, whose network keeps masks of the first tile."""
    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    sam = lively_sam(np.array(tile_of(0)[0]), seed=0, points_per_side=4, **SMALL)
    torch.save(sam.state_dict(), path)
    return path


@pytest.fixture
def tiles(tmp_path) -> Path:
    folder = tmp_path / "tiles"
    folder.mkdir()
    for number in range(2):
        tile, classes = tile_of(number)
        tile.save(folder / f"{number:04d}_sat.jpg", quality=95)
        save_mask(classes, folder / f"{number:04d}_mask.png")
    return folder


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def segment(tiles, out, weights):
    """Runs the script on the folder of tiles; returns its status."""

    def run(*arguments: object) -> int:
        given = ("--images", tiles, "--output", out, "--checkpoint", weights, "--device", "cpu")
        return call(p2_sam, *given, *GRID, *arguments)

    return run


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


# -- what is written -----------------------------------------------------------------------------------------


def test_every_image_gets_its_picture_masks_and_vote_and_all_share_a_sheet(
    segment, out, tiles, p2_model, capfd
):
    assert segment("--vote", p2_model) == 0
    each = [
        name for n in ("0000", "0001") for name in (f"{n}_sam.json", f"{n}_sam.png", f"vote/{n}_mask.png")
    ]
    assert files_in(out) == sorted([*each, "score.json", "sheet.pdf", "sheet.png"])
    assert pixels_of(out / "0000_sam.png").shape == (SIDE, SIDE, 3)
    assert (out / "sheet.pdf").read_bytes().startswith(b"%PDF") and pixels_of(out / "sheet.png").ndim == 3
    said = capfd.readouterr()
    assert "0000_sat.jpg: " in said.out and "vit_32x2" in said.err and "lite_fpn" in said.err


def test_the_json_holds_the_generators_masks_as_uncompressed_run_lengths(segment, out, tiles, weights):
    assert segment() == 0
    found = json.loads((out / "0000_sam.json").read_text())
    assert found["image"] == {"file_name": "0000_sat.jpg", "height": SIDE, "width": SIDE}
    assert found["made_by"]["network"] == "vit_32x2" and found["made_by"]["points_per_side"] == 4
    generator = MaskGenerator(load_sam(weights), 4, 16, stability_score_thresh=0.9, box_nms_thresh=1.0)
    expected = generator.generate(pixels_of(tiles / "0000_sat.jpg"))
    assert len(expected) >= 5
    assert [{**mask, "id": None} for mask in found["annotations"]] == [
        {**mask, "id": None} for mask in expected
    ]
    for mask in found["annotations"]:
        there = mask_of_runs(mask["segmentation"])
        rows, columns = np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
        assert mask["area"] == there.sum()
        assert mask["bbox"] == [columns[0], rows[0], columns[-1] - columns[0], rows[-1] - rows[0]]
        assert (
            mask["predicted_iou"] > 0.88
            and mask["stability_score"] >= 0.9
            and len(mask["point_coords"][0]) == 2
        )


def test_the_vote_is_scored_as_the_course_scores_beside_the_network_alone(
    segment, out, tiles, p2_model, tmp_path
):
    assert segment("--vote", p2_model) == 0
    alone = ["p2_inference.py", "--images", tiles, "--output", tmp_path / "b", "--checkpoint", p2_model]
    subprocess.run([sys.executable, *map(str, alone), "--device=cpu"], cwd=REPOSITORY, check=True)
    found = json.loads((out / "score.json").read_text())
    assert found["images"] == 2
    for name, folder in (("model B", tmp_path / "b"), ("vote", out / "vote")):
        command = [sys.executable, "mean_iou_evaluate.py", "-g", str(tiles), "-p", str(folder)]
        told = subprocess.run(
            command, cwd=REPOSITORY, check=True, capture_output=True, text=True
        ).stdout.splitlines()
        ious = [float(line.split(":")[1]) for line in told[:6]]
        scored = [found[name].get(label, float("nan")) for label in
                  ("urban", "agriculture", "rangeland", "forest", "water", "barren")]  # fmt: skip
        np.testing.assert_allclose(scored, ious, atol=6e-6)
        common = set(found["model B"]) & set(found["vote"]) - {"mean_iou"}  # the scorer's mean may be nan
        mean = sum(found[name][label] for label in common) / len(common)
        assert found[name]["mean_iou"] == pytest.approx(mean, abs=1e-9) and len(common) >= 2
    for number in range(2):  # what was written is B, and the vote of its masks
        b = classes_of_colours(pixels_of(tmp_path / "b" / f"000{number}_mask.png"))
        masks = json.loads((out / f"000{number}_sam.json").read_text())["annotations"]
        assert (classes_of_colours(pixels_of(out / "vote" / f"000{number}_mask.png")) == vote(b, masks)).all()


def test_the_means_of_network_and_vote_are_over_the_classes_that_both_have():
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    answers = {"model B": [0, 0, 0, 4, 1, 1, 1, 1], "vote": [0, 0, 0, 1, 1, 1, 1, 1]}  # B alone sees water
    scores = p2_sam.scores_of(
        {title: p2_sam.confusion_of(np.array(classes), truth) for title, classes in answers.items()}
    )
    assert scores["model B"] == {"mean_iou": (0.75 + 1) / 2, "urban": 0.75, "agriculture": 1, "water": 0}
    assert scores["vote"] == {"mean_iou": (0.75 + 0.8) / 2, "urban": 0.75, "agriculture": 0.8}
    told = p2_sam.score_table(scores, 1).splitlines()
    assert told[-1].endswith("lacks: rangeland, forest, water, barren") and "every row" in told[-1]
    both = dict.fromkeys(("mean_iou", "urban", "agriculture", "rangeland", "forest", "water", "barren"), 0.5)
    assert len(p2_sam.score_table({"model B": both, "vote": both}, 1).splitlines()) == 3


def as_annotation(mask: np.ndarray) -> dict:
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *([0] if flat[0] else []), *ends, flat.size]).tolist()
    return {"segmentation": {"size": list(mask.shape), "counts": counts}, "area": int(mask.sum())}


def test_a_mask_takes_the_class_of_most_of_its_pixels_smaller_ones_over_larger():
    b = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 1, 3], [2, 2, 3, 3]], dtype=np.uint8)
    small, large, tied, empty = (np.zeros((4, 4), dtype=bool) for _ in range(4))
    small[2:, 2:] = True  # 1 3 3 3: gives 3
    large[1:, 1:] = True  # 0 1 1 2 1 3 2 3 3: 1 and 3 tie at three, the smaller number wins
    tied[3, 1:3] = True  # 2 and 3: gives 2, and comes last since it is smallest
    expected = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [2, 1, 3, 3], [2, 2, 2, 3]])
    for order in ([small, large, tied, empty], [tied, empty, large, small]):
        assert (vote(b, map(as_annotation, order)) == expected).all()
    assert (vote(b, []) == b).all() and b[1, 1] == 0


def test_masks_are_coloured_and_outlined_and_the_rest_of_the_image_stays():
    image = np.full((20, 20, 3), 100, dtype=np.uint8)
    large, small = np.zeros((20, 20), dtype=bool), np.zeros((20, 20), dtype=bool)
    large[2:18, 2:18], small[6:14, 6:14] = True, True
    picture = draw_masks(image, [as_annotation(small), as_annotation(large)])
    assert (picture[~large] == 100).all() and (picture[large] != 100).any(axis=-1).all()
    colours = [tuple(picture[y, x]) for y, x in ((3, 3), (2, 2), (7, 7), (6, 6))]  # inside and edge, of both
    assert len(set(colours)) == 4
    assert tuple(picture[3, 14]) == colours[0] and tuple(picture[13, 13]) == colours[3]


def test_the_network_can_be_shown_without_a_vote_and_nothing_need_be_known(segment, out, tiles, p2_model):
    (tiles / "0001_mask.png").unlink()
    assert segment("--model-b", p2_model) == 0
    assert not (out / "vote").exists() and json.loads((out / "score.json").read_text())["images"] == 1
    (tiles / "0000_mask.png").unlink()
    assert segment("--output", out / "plain") == 0
    assert "score.json" not in files_in(out / "plain") and "sheet.png" in files_in(out / "plain")


def test_a_long_sheet_goes_on_in_a_second_file(tmp_path):
    sheet = Sheet(tmp_path / "sheet", ["image", "SAM"])
    for number in range(ROWS + 1):
        sheet.add(str(number), {"image": random_image(number)})
    sheet.write()
    assert [Path(path).name for path in sheet.written] == ["sheet.png", "sheet_2.png"]
    assert pixels_of(tmp_path / "sheet.png").shape[0] > 3 * pixels_of(tmp_path / "sheet_2.png").shape[0]


# -- what comes in -------------------------------------------------------------------------------------------


def test_files_and_folders_may_be_mixed_and_none_is_done_twice(segment, out, tiles, tmp_path):
    other = save(random_image(3, 50, 91), tmp_path / "more" / "photo.png")
    assert segment("--images", tiles / "0001_sat.jpg", tiles, other) == 0
    assert [name for name in files_in(out) if name.endswith(".json")] == [
        "0000_sam.json",
        "0001_sam.json",
        "photo_sam.json",
    ]
    assert pixels_of(out / "photo_sam.png").shape == (50, 91, 3)


def test_an_image_that_cannot_be_read_is_named_and_all_others_are_done(segment, out, tiles, capfd):
    (tiles / "0002_sat.jpg").write_bytes((tiles / "0000_sat.jpg").read_bytes()[:500])
    save(np.zeros((1, 3000, 3), dtype=np.uint8), tiles / "0003_sat.png")
    (tiles / "0001_mask.png").write_text("no mask")
    assert segment("--images", tiles, tiles / "0009_sat.jpg", "--model-b", "--device", "cpu") == 1
    said = capfd.readouterr().err
    assert all(
        said.count(name) == 1 for name in ("0002_sat.jpg", "0003_sat.png", "0009_sat.jpg", "0001_mask.png")
    )
    assert "Traceback" not in said
    assert [name for name in files_in(out) if name.endswith("_sam.json")] == [
        "0000_sam.json",
        "0001_sam.json",
    ]
    assert json.loads((out / "score.json").read_text())["images"] == 1


def test_nothing_is_written_where_no_image_can_be_used(segment, out, tiles, tmp_path, capfd):
    (tiles / "0000_sat.jpg").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for images in (tiles / "0000_sat.jpg", tmp_path / "empty", tmp_path / "nothing"):
        assert segment("--images", images) == 2
        assert str(images) in capfd.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_two_images_of_one_name_stop_the_run_before_it_writes(segment, out, tiles, tmp_path, capfd):
    twin = save(random_image(1), tmp_path / "twin" / "0001.png")
    assert segment("--images", tiles, twin) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and str(twin) in said and "0001_sat.jpg" in said
    assert not out.exists()


def test_no_file_beside_the_images_is_replaced_and_no_folder_taken_for_one(segment, out, tiles, capfd):
    before = save(random_image(2), tiles / "0001_sam.png").read_bytes()
    assert segment("--output", tiles, "--checkpoint", "none.pth") == 2
    assert (tiles / "0001_sam.png").read_bytes() == before
    (out / "0000_sam.json").mkdir(parents=True)
    assert segment("--checkpoint", "none.pth") == 2
    said = capfd.readouterr().err
    assert said.count("--output") == 2 and "none.pth" not in said


def test_a_checkpoint_that_is_none_or_a_networks_of_another_problem_is_refused(
    segment, out, p1_model, p2_model, capfd
):
    assert segment("--checkpoint", p2_model) == 2
    assert segment("--checkpoint", out / "none.pth") == 2
    assert segment("--vote", p1_model) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ["no weights of Segment Anything" in said[0], "none.pth" in said[1], "not for p2" in said[2]] == [
        True
    ] * 3
    assert not out.exists()


def test_default_weights_come_through_the_manifest_or_one_line_says_how(
    segment, out, weights, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(manifest, "FOLDER", tmp_path)
    entry = {"name": "vit_b", "problem": "sam", "file": "sam.pth", "bytes": weights.stat().st_size}
    entry["sha256"] = manifest.sha256_of(weights)
    write_json(
        tmp_path / "manifest.json", {"checkpoints": [{**entry, "urls": [f"file://{tmp_path}/gone.pth"]}]}
    )
    assert segment("--checkpoint", "vit_b") == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("error: vit_b could not be had") and "--checkpoint FILE" in last
    assert not out.exists()
    write_json(tmp_path / "manifest.json", {"checkpoints": [{**entry, "urls": [f"file://{weights}"]}]})
    assert segment("--checkpoint", "vit_b") == 0
    assert (tmp_path / "sam.pth").read_bytes() == weights.read_bytes()


def test_without_a_checkpoint_a_cpu_takes_vit_t_and_a_gpu_vit_b(segment, tiles, out, monkeypatch, capfd):
    def told(name):
        raise UserError(f"asked for {name}")

    monkeypatch.setattr(p2_sam, "weights_of", told)
    for device, name in (("cpu", "vit_t"), ("cuda", "vit_b"), ("mps", "vit_b")):
        monkeypatch.setattr(p2_sam, "choose_device", lambda wanted: torch.device(wanted))
        assert call(p2_sam, "--images", tiles, "--output", out, "--device", device) == 2
        assert capfd.readouterr().err == f"error: asked for {name}\n"


def test_arguments_that_cannot_be_meant_end_with_usage(segment):
    for flags in (
        ("--points-per-side", 0),
        ("--points-per-batch", -1),
        ("--vote", "--model-b"),
        ("--crop-n-layers", 9),
        ("--pred-iou-thresh", "nan"),
    ):
        assert segment(*flags) == 2


# -- what may go wrong on the way ----------------------------------------------------------------------------


def test_an_image_for_which_the_memory_is_too_small_is_named_and_the_next_is_done(
    segment, out, monkeypatch, capfd
):
    generate = MaskGenerator.generate

    def short(self, image, on_points=None):
        if not out.exists():
            out.mkdir()
            raise SamMemoryError("a single point needs more memory than there is")
        return generate(self, image, on_points)

    monkeypatch.setattr(MaskGenerator, "generate", short)
    assert segment() == 1
    assert "0000_sat.jpg: a single point needs more memory" in capfd.readouterr().err
    assert "0001_sam.json" in files_in(out) and "0000_sam.json" not in files_in(out)


def test_a_disk_that_fails_is_told_and_leaves_nothing_half_written(
    segment, out, monkeypatch, p2_model, capfd
):
    def fail(classes, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sam_files, "save_mask", fail)
    assert segment("--vote", p2_model) == 2
    assert "No space left" in capfd.readouterr().err.splitlines()[-1]
    assert files_in(out) == ["0000_sam.json", "0000_sam.png"]
    assert not [name for name in os.listdir(out / "vote") if name]
