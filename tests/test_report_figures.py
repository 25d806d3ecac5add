"""The report's figures of runs and of predicted masks show what the files say, in whatever state they are."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mean_iou_evaluate
from datasets import sample
from datasets.palette import COLOURS, save_mask
from engine.base import UserError
from engine.run_folder import RunRecord, read_run
from report import tile_figures
from report.run_figures import draw_ious, draw_learning, draw_pretraining, steps_per_epoch
from report.style import save_figure, styled
from report.tile_figures import compare_masks, draw_land_cover_confusion, draw_worst, write_stages

IOUS = {"mean_iou": 0.5, "urban": 0.75, "agriculture": 1.0, "rangeland": 0.0, "forest": 0.25, "water": 0.5}
PAPER_WIDTH = 17 / 2.54  # inches of a printed page between its margins


def make_run(folder: Path, lines: list[dict], **arguments) -> RunRecord:
    folder.mkdir(parents=True)
    total = lines[-1]["step"] if lines else 10
    config = {"arguments": arguments, "recipe": {}, "total_steps": total}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_run(folder)


def pretraining(folder: Path) -> RunRecord:
    """Two and a half epochs of ten steps, logged every five steps."""
    lines = []
    for step in range(5, 26, 5):
        lines.append({"step": step, "epoch": -(-step // 10), "step_loss": 3.0, "embedding_std": 0.8})
        if step in (10, 20, 25):
            end = {"step": step, "epoch": -(-step // 10), "loss": 10 / step, "seconds": 2.0 * step}
            lines.append({**end, "knn_accuracy": step / 100})
    return make_run(folder, lines, training_images=107, batch_size=10, target_schedule="cosine")


def points(axes) -> list[list[tuple[float, float]]]:
    """Of each line the points that it goes through."""
    lines = [line.get_xydata().tolist() for line in axes.lines]
    return [[(round(x, 6), round(y, 6)) for x, y in line] for line in lines if len(line)]


def words(figure) -> list[str]:
    """Every text of a figure, legends' too."""
    found = [
        text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title, *axes.get_xticklabels())
    ]
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return found + [text.get_text() for legend in legends for text in legend.get_texts()]


def inches(figure) -> tuple[float, float]:
    """Width and height of a figure as save_figure would cut it out."""
    file = io.BytesIO()
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, format="png", dpi=40, bbox_inches="tight", pad_inches=0.08)
    with Image.open(file) as picture:
        return picture.width / 40, picture.height / 40


def smallest_letters_on_paper(figure) -> float:
    """In points, of a figure that is shrunk to the width of a page."""
    shrunk = min(1.0, PAPER_WIDTH / inches(figure)[0])
    texts = [
        text
        for text in figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
        if text.get_text().strip()
    ]
    return shrunk * min(text.get_fontsize() for text in texts if text.get_visible())


# -- pre-training --------------------------------------------------------------------------------------------


def test_pre_training_shows_each_value_where_it_was_measured(tmp_path):
    run = pretraining(tmp_path / "ssl")
    loss, accuracy, spread = draw_pretraining([run]).axes
    # 107 images in batches of 10 are ten steps an epoch, so the third epoch is half done.
    assert [y for _, y in points(loss)[0]] == [3.0, 3.0, 3.0, 3.0, 3.0]
    assert points(loss)[1] == [(0.5, 1.0), (1.5, 0.5), (2.25, 0.4)]
    assert points(accuracy) == [[(1.0, 0.1), (2.0, 0.2), (2.5, 0.25)]]
    assert points(spread)[0] == [(0.5, 0.8), (1.0, 0.8), (1.5, 0.8), (2.0, 0.8), (2.5, 0.8)]


def test_several_pre_trainings_have_a_colour_and_a_name_each(tmp_path):
    runs = [pretraining(tmp_path / name) for name in ("one", "two", "three")]
    figure = draw_pretraining(runs)
    colours = [line.get_color() for line in figure.axes[1].lines]
    assert len(set(colours)) == 3 and {"one", "two", "three"} <= set(words(figure))


def test_a_run_without_a_probe_has_an_empty_panel_that_says_so(tmp_path):
    run = make_run(
        tmp_path / "ssl", [{"step": 1, "epoch": 1, "loss": 1.0, "seconds": 2.0, "embedding_std": 0.5}]
    )
    loss, accuracy, spread = draw_pretraining([run]).axes
    said = [[text.get_text() for text in axes.texts] for axes in (loss, accuracy, spread)]
    assert said == [[], ["nothing to show yet"], ["collapsed", "evenly spread"]]
    assert loss.lines[0].get_marker() == "o"  # one point is no line


def test_a_long_pre_training_shows_a_mean_an_epoch_and_no_smear(tmp_path):
    lines = [
        {"step": step, "epoch": -(-step // 4), "step_loss": 2.0, "embedding_std": 0.5 + step % 2 / 10}
        | ({"loss": 1.0, "seconds": 1.0 * step} if step % 4 == 0 else {})
        for step in range(1, 401)
    ]
    loss, _, spread = draw_pretraining([make_run(tmp_path / "ssl", lines)]).axes
    assert [len(line) for line in points(loss)] == [100] and len(points(spread)[0]) == 100
    assert {y for _, y in points(spread)[0]} == {0.55}


@pytest.mark.parametrize("arguments", [{}, {"training_images": "many", "batch_size": 0}])
def test_an_epoch_has_as_many_steps_as_the_run_says_or_shows(tmp_path, arguments):
    assert (
        steps_per_epoch(
            make_run(tmp_path / "a", [{"step": 7, "epoch": 0}, {"step": 12, "epoch": 2}], **arguments)
        )
        == 6
    )
    assert steps_per_epoch(make_run(tmp_path / "b", [], **arguments)) == 1


# -- learning curves -----------------------------------------------------------------------------------------


def segmentation(folder: Path, ious: list) -> RunRecord:
    lines = [
        {"step": 10 * epoch, "epoch": epoch, "loss": 1 / epoch, "seconds": 1.0}
        | ({} if iou is None else {"mean_iou": iou})
        for epoch, iou in enumerate(ious, start=1)
    ]
    return make_run(folder, lines)


def test_learning_curves_of_several_runs_lie_over_one_another(tmp_path):
    runs = [
        ("A: fcn32s", segmentation(tmp_path / "a", [0.1, None, 0.3])),
        ("B", segmentation(tmp_path / "b", [0.2])),
    ]
    figure = draw_learning([*runs, ("none", read_run(tmp_path / "nowhere"))], "mean_iou", "Mean IoU")
    score, loss = figure.axes
    assert points(score) == [[(1, 0.1), (3, 0.3)], [(1, 0.2)]]
    assert points(loss)[0] == [(1, 1.0), (2, 0.5), (3, 0.333333)]
    assert [text.get_text() for text in score.texts] == ["A", "B"] and score.get_title(
        loc="left"
    ) == "Mean IoU"
    assert {"A: fcn32s", "none (no run folder)"} <= set(words(figure))


def test_seven_curves_differ_in_colour_and_neighbours_in_dashes_too(tmp_path):
    runs = [(f"run {place}", segmentation(tmp_path / str(place), [0.1, 0.2])) for place in range(14)]
    looks = [
        (line.get_color(), line._dash_pattern) for line in draw_learning(runs, "mean_iou", "").axes[0].lines
    ]
    assert len({colour for colour, _ in looks[:7]}) == 7 and len(set(map(str, looks))) == 14
    assert all(one[1] != other[1] for one, other in zip(looks[:3], looks[1:4]))


# -- IoU of the classes --------------------------------------------------------------------------------------


def test_bars_of_ious_stand_in_their_class_with_their_value(tmp_path):
    figure = draw_ious([("A", IOUS), ("B", {**IOUS, "mean_iou": 0.625, "barren": 0.125})])
    (axes,) = figure.axes
    bars = [(round(bar.get_x() + bar.get_width() / 2), bar.get_height()) for bar in axes.patches[:13]]
    first, second = bars[:6], bars[6:]
    assert first == [(0, 0.5), (1, 0.75), (2, 1.0), (3, 0.0), (4, 0.25), (5, 0.5)]
    assert second[0] == (0, 0.625) and second[-1] == (6, 0.125)
    assert [text.get_text() for text in axes.texts[:6]] == ["0.50", "0.75", "1.00", "0.00", "0.25", "0.50"]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["mean", "urban", "agriculture", "rangeland", "forest", "water", "barren"]


def test_each_class_shows_its_colour_in_the_masks_with_an_edge(tmp_path):
    (axes,) = draw_ious([("A", IOUS)]).axes
    patches = axes.patches[-6:]
    assert [tuple(round(255 * part) for part in patch.get_facecolor()[:3]) for patch in patches] == [
        tuple(colour) for colour in COLOURS[:6].tolist()
    ]
    assert all(patch.get_linewidth() > 0 and patch.get_edgecolor()[:3] != (1, 1, 1) for patch in patches)


# -- any state, and on paper ---------------------------------------------------------------------------------


def test_runs_in_any_state_and_names_of_any_kind_can_be_drawn(tmp_path):
    odd = [
        {"step": 0, "epoch": 0, "loss": 1e308, "seconds": 1},
        {"step": 1, "epoch": 2**53, "loss": -1e308, "seconds": 2},
        {"step": 2, "epoch": 1, "loss": 1.0, "seconds": 3, "knn_accuracy": 9, "embedding_std": -1e11},
    ]
    runs = [
        make_run(tmp_path / "$x_{龍}", odd),
        make_run(tmp_path / "none", []),
        read_run(tmp_path / "nowhere"),
    ]
    for these in (runs, []):
        named = [(f"{run.name}\n<b>$" * 9, run) for run in these]
        rows = [(name, {"mean_iou": None, "urban": "x", "water": 7.0, "forest": True}) for name, _ in named]
        for figure in (draw_pretraining(these), draw_learning(named, "accuracy", ""), draw_ious(rows)):
            width, height = inches(figure)
            assert 5 < width < 14 and 2 < height < 8


def test_figures_of_runs_are_readable_on_paper(tmp_path):
    runs = [pretraining(tmp_path / "one"), pretraining(tmp_path / "two")]
    named = [("A: one", runs[0]), ("a longer name", runs[1])]
    assert smallest_letters_on_paper(draw_pretraining(runs)) >= 6.5
    assert smallest_letters_on_paper(draw_learning(named, "knn_accuracy", "Accuracy")) >= 6.5
    assert smallest_letters_on_paper(draw_ious([(str(place), IOUS) for place in range(5)])) >= 6.5


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = pretraining(tmp_path / "run")
    for name in ("one", "two"):
        save_figure(draw_pretraining([run]), tmp_path / name)
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_scores_and_ious_outside_0_and_1_are_not_drawn(tmp_path):
    run = segmentation(tmp_path / "run", [0.1, 7.0, -0.5, 0.3])
    assert points(draw_learning([("A", run)], "mean_iou", "Mean IoU").axes[0]) == [[(1, 0.1), (4, 0.3)]]
    figure = draw_ious([("A", {"mean_iou": 7.0, "urban": -0.1, "forest": float("nan"), "water": 0.5})])
    assert [text for text in words(figure) if text[:1].isdigit()] == ["0.50"]


# -- stages of a training ------------------------------------------------------------------------------------


@pytest.fixture
def trained(tiles, masks, tmp_path) -> Path:
    """A run with the masks of two tiles after epochs 1 and 17."""
    for epoch in (1, 17):
        folder = tmp_path / "run" / "snapshots" / f"epoch_{epoch:04d}"
        folder.mkdir(parents=True)
        for path in sorted(masks.iterdir())[:2]:
            shutil.copy(path, folder)
    return tmp_path / "run"


def test_the_stages_that_are_drawn_are_told(trained, tiles, monkeypatch):
    drawn = []
    monkeypatch.setattr(tile_figures, "save_figure", lambda figure, path: drawn.append((figure, path)))
    assert write_stages(trained, tiles) == ["epoch 1", "epoch 17"]
    ((figure, path),) = drawn
    assert (
        path == trained / "stages" and len(figure.axes) == 2 * 5 and {"epoch 1", "epoch 17"} <= titles(figure)
    )


def titles(figure) -> set[str]:
    return {axes.get_title() for axes in figure.axes}


@pytest.mark.parametrize("is_truth", [False, True])
def test_a_mask_of_another_size_than_its_tile_is_an_error_that_names_it(trained, tiles, tmp_path, is_truth):
    shutil.copytree(tiles, tmp_path / "truth")
    name = sorted(path.name for path in tiles.glob("*_mask.png"))[1]
    folder = tmp_path / "truth" if is_truth else trained / "snapshots" / "epoch_0017"
    Image.new("RGB", (32, 64)).save(folder / name)
    with pytest.raises(
        UserError, match=rf"{folder.name}/{name}: 32x64 pixels, but its tile .*_sat\.jpg has 64x64"
    ):
        write_stages(trained, tmp_path / "truth")
    assert not (trained / "stages.png").exists()


# -- predicted masks -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five tiles of 64 pixels with their true masks."""
    folder = tmp_path_factory.mktemp("tiles")
    few = ["--classes=2", "--train-images=2", "--val-images=2", "--image-size=32", "--mini-images=1"]
    assert sample.main([str(folder), *few, "--train-tiles=1", "--val-tiles=5", "--tile-size=64"]) == 0
    return folder / "hw1_data" / "p2_data" / "validation"


@pytest.fixture
def masks(tiles: Path, tmp_path: Path) -> Path:
    """The truth as if it had been predicted; in tile k the first 8 k rows are another class."""
    (tmp_path / "masks").mkdir()
    for place, path in enumerate(sorted(tiles.glob("*_mask.png"))):
        classes = mean_iou_evaluate.read_masks(str(tiles))[place].astype(np.uint8)
        classes[: 8 * place] = (classes[: 8 * place] + 1) % 6
        save_mask(classes, tmp_path / "masks" / path.name)
    return tmp_path / "masks"


def test_agreement_is_the_share_of_right_pixels_and_the_worst_tiles_come_first(tiles, masks):
    comparison = compare_masks(masks, tiles)
    assert [tile.agreement for tile in comparison.tiles] == [1, 0.875, 0.75, 0.625, 0.5]
    names = [tile.name for tile in comparison.tiles]
    assert [tile.name for tile in comparison.worst(3)] == names[:1:-1] and comparison.gaps == []
    assert comparison.agreement == pytest.approx(0.75)


def test_the_confusion_is_that_of_the_courses_scorer_with_red_as_urban(tiles, masks, tmp_path, capsys):
    shutil.copytree(tiles, tmp_path / "truth")
    first = sorted((tmp_path / "truth").glob("*_mask.png"))[0]
    with Image.open(first) as image:
        pixels = np.array(image.convert("RGB"))
    pixels[:3], pixels[3:5] = (255, 0, 0), (0, 0, 0)
    Image.fromarray(pixels).save(first)
    scored = tmp_path / "scored.json"
    mean_iou_evaluate.main(
        mean_iou_evaluate.get_args(["-g", str(tmp_path / "truth"), "-p", str(masks), "--json", str(scored)])
    )
    assert (
        compare_masks(masks, tmp_path / "truth").confusion.tolist()
        == json.loads(scored.read_text())["confusion"]
    )


def test_missing_broken_and_misshapen_masks_are_gaps_with_a_reason(tiles, masks):
    names = sorted(path.name for path in masks.iterdir())
    (masks / names[0]).unlink()
    (masks / names[1]).write_bytes(b"no image")
    Image.new("L", (64, 64)).save(masks / names[2])
    Image.new("RGB", (32, 64)).save(masks / names[3])
    (masks / "9999_mask.png").write_bytes(b"of no tile")
    comparison = compare_masks(masks, tiles)
    assert [tile.name for tile in comparison.tiles] == [names[4][:4]]
    missing, broken, grey, small = comparison.gaps
    assert missing == f"{names[0]} is not among the predictions."
    assert names[1] in broken and "not an image" in broken and "a grey image" in grey
    assert small.endswith(f"{names[3]}: 32x64 pixels, but the true mask has 64x64.")


@pytest.mark.parametrize("content", ["nothing", "no folder", "broken"])
def test_where_nothing_can_be_compared_the_error_says_how_to_make_masks(tiles, tmp_path, content):
    if content != "no folder":
        (tmp_path / "masks").mkdir()
    if content == "broken":
        for path in tiles.glob("*_mask.png"):
            (tmp_path / "masks" / path.name).write_bytes(b"")
    with pytest.raises(UserError, match="give a folder|bash hw1_2.sh"):
        compare_masks(tmp_path / "masks", tiles)


def test_worst_tiles_are_drawn_as_image_truth_prediction_and_wrong_pixels(tiles, masks):
    comparison = compare_masks(masks, tiles)
    figure = draw_worst(comparison, count=2)
    assert len(figure.axes) == 8 and [axes.get_ylabel() for axes in figure.axes[::4]] == [
        tile.name for tile in comparison.worst(2)
    ]
    assert figure.axes[3].get_xlabel() == "50.0% of its pixels agree"
    wrong = figure.axes[3].images[0].get_array()
    is_grey = (wrong[..., 0] == wrong[..., 1]) & (wrong[..., 1] == wrong[..., 2])
    assert not is_grey[:32].any() and is_grey[32:].all()
    assert {"urban", "unknown", "wrong"} <= set(words(figure))
    assert smallest_letters_on_paper(figure) >= 6.5
    assert smallest_letters_on_paper(draw_land_cover_confusion(comparison)) >= 6.5


def test_a_satellite_image_that_cannot_be_read_hides_no_mask(tiles, masks, tmp_path):
    shutil.copytree(tiles, tmp_path / "truth")
    for path in (tmp_path / "truth").glob("*_sat.jpg"):
        path.write_bytes(b"broken")
    figure = draw_worst(compare_masks(masks, tmp_path / "truth"), count=9)
    assert len(figure.axes) == 20 and words(figure).count("image cannot be read") == 5
