"""p1_tsne.py draws what the penultimate layer gives, the same points each time, in panels that can be
compared.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score
from torch import nn

import p1_tsne
from datasets.labelled import load_evaluation
from engine import checkpoint
from engine.base import UserError, run_script
from models import builders
from models.backbone import penultimate
from models.builders import build_network, load_trained, normalisation
from models.predict import normalise
from report.tsne_figure import TEN_COLOURS, TEN_MARKERS
from tests.grader import random_image, save
from tests.killing import TinyClassifier

CLASSES = [str(label) for label in range(12)]
EACH = 5  # images of a class
EPOCHS = (1, 3, 10)
PICTURES = ["tsne", "tsne_classes_00-09", "tsne_classes_10-11"]


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(builders.CLASSIFIERS, "tiny_classifier", builders.Network(TinyClassifier))


def write_images(folder: Path, name: str = "{label}_{number}.png") -> list[tuple[str, str]]:
    """Blots whose colour tells their class, more or less: (file name, label) of each."""
    rows = []
    for label in CLASSES:
        for number in range(EACH):
            seed = int(label) * EACH + number
            pixels = random_image(seed, 32, 32) // 3 + random_image(500 + int(label), 1, 1) // 2
            rows.append((name.format(label=label, number=number), label))
            save(pixels.astype(np.uint8), folder / rows[-1][0])
    return rows


def write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("id", "filename", "label"), *((i, *row) for i, row in enumerate(rows))])


def save_snapshot(path: Path, seed: int, classes: list[str] = CLASSES, **changes) -> Path:
    torch.manual_seed(seed)
    mean, std = normalisation("tiny_classifier")
    model = {
        "format": 1,
        "problem": "p1",
        "network": "tiny_classifier",
        "arguments": {"num_classes": len(classes)},
        "state": build_network("tiny_classifier", num_classes=len(classes)).state_dict(),
        "classes": classes,
        "image_size": 32,
        "mean": mean,
        "std": std,
        "edition": "2024",
        "score": {},
        "source": "C-seed0",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, {**model, **changes})
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """office/ with train images, CSV and names; and run/, a finished run of ten epochs with three
    snapshots.
    """
    folder = tmp_path_factory.mktemp("tsne")
    write_table(
        folder / "office" / "train.csv", write_images(folder / "office" / "train", "{label} {number}.png")
    )
    (folder / "office" / "classes.txt").write_text("".join(f"Thing_{label}\n" for label in CLASSES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(builders.CLASSIFIERS, "tiny_classifier", builders.Network(TinyClassifier))
        for epoch in EPOCHS:
            save_snapshot(folder / "run" / "snapshots" / f"epoch_{epoch:04d}.pt", seed=epoch)
    (folder / "run" / "config.json").write_text(json.dumps({"arguments": {"epochs": 10}, "total_steps": 100}))
    write_metrics(folder / "run", epoch=10)
    return folder


def write_metrics(run: Path, epoch: int) -> None:
    (run / "metrics.jsonl").write_text(json.dumps({"step": 10 * epoch, "epoch": epoch}) + "\n")


def call(*flags: object) -> int:
    return p1_tsne.main(p1_tsne.parse_arguments([str(flag) for flag in (*flags, "--device", "cpu")]))


def usual(made: Path, output: Path) -> list[object]:
    return ["--run", made / "run", "--data", made / "office", "--output", output, "--cache", made / "cache"]


def into(folder: Path) -> list[object]:
    return ["--output", folder / "out", "--cache", folder / "cache"]


@pytest.fixture(scope="module")
def drawn(made) -> Path:
    """The output folder of the usual command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(builders.CLASSIFIERS, "tiny_classifier", builders.Network(TinyClassifier))
        assert call(*usual(made, made / "out")) == 0
    return made / "out"


@pytest.fixture
def figures(monkeypatch) -> dict:
    """Figures by name instead of files, which take the longer time."""
    kept = {}
    monkeypatch.setattr(p1_tsne, "save_figure", lambda figure, path: kept.update({Path(path).name: figure}))
    return kept


def coordinates(output: Path) -> list[dict[str, str]]:
    with open(output / "coordinates.csv", newline="") as file:
        return list(csv.DictReader(file))


def plane(output: Path, key: str) -> tuple[np.ndarray, list[str]]:
    rows = [row for row in coordinates(output) if row["checkpoint"] == key]
    return np.array([(float(row["x"]), float(row["y"])) for row in rows]), [row["label"] for row in rows]


# -- the penultimate layer -----------------------------------------------------------------------------------


def some_images() -> torch.Tensor:
    return torch.from_numpy(np.stack([random_image(n, 32, 32) for n in range(3)])).permute(0, 3, 1, 2)


@torch.no_grad()
def pooled(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a ResNet gives its `fc`."""
    values = normalise(images.float() / 255, *normalisation("resnet18"))
    for child in list(network.eval().children())[:-1]:
        values = child(values)
    return values.flatten(1)


def test_features_of_a_resnet_are_what_its_last_layer_is_given():
    torch.manual_seed(0)
    network = build_network("resnet18", num_classes=5)
    found = penultimate(network.train(), some_images(), *normalisation("resnet18"))
    assert found.shape == (3, 512) and found.dtype == torch.float32
    torch.testing.assert_close(found, pooled(network, some_images()))


def test_features_of_a_head_of_two_layers_are_between_them():
    torch.manual_seed(0)
    network = build_network("resnet18", num_classes=5)
    network.fc = nn.Sequential(nn.Linear(512, 7), nn.ReLU(), nn.Linear(7, 5))
    found = penultimate(network, some_images(), *normalisation("resnet18"))
    with torch.no_grad():
        expected = network.fc[0](pooled(network, some_images())).relu()
    assert found.shape == (3, 7)
    torch.testing.assert_close(found, expected)


def test_no_hook_is_left_behind():
    network = TinyClassifier(5)
    penultimate(network, some_images(), *normalisation("tiny_classifier"))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(UserError, match="no linear layer"):
        penultimate(nn.Sequential(nn.Conv2d(3, 4, 1)), some_images(), *normalisation("resnet18"))


# -- what comes out ------------------------------------------------------------------------------------------


def test_there_are_pictures_of_all_classes_and_of_ten_each_and_the_tables(drawn):
    expected = [f"{name}.{suffix}" for name in PICTURES for suffix in ("png", "pdf")]
    assert sorted(path.name for path in drawn.iterdir()) == sorted(
        [*expected, "coordinates.csv", "scores.json"]
    )
    assert all(path.stat().st_size > 500 for path in drawn.iterdir())


def test_every_image_is_in_the_table_once_for_the_first_and_once_for_the_last_snapshot(made, drawn):
    with open(made / "office" / "train.csv", newline="") as file:
        images = [(row["filename"], row["label"]) for row in csv.DictReader(file)]
    rows = coordinates(drawn)
    assert list(rows[0]) == ["filename", "label", "checkpoint", "x", "y"]
    for key in ("epoch_0001", "epoch_0010"):
        assert [(row["filename"], row["label"]) for row in rows if row["checkpoint"] == key] == images
    assert len(rows) == 2 * len(images)


def test_the_same_command_gives_the_same_bytes(made, drawn, tmp_path):
    assert call(*usual(made, tmp_path / "again")) == 0
    for path in drawn.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_validation_images_can_be_shown_instead(made, figures, tmp_path):
    rows = write_images(tmp_path / "office" / "val")[: 4 * EACH]
    write_table(tmp_path / "office" / "val.csv", rows)
    assert call("--run", made / "run", "--data", tmp_path / "office", "--split", "val", *into(tmp_path)) == 0
    assert [(row["filename"], row["label"]) for row in coordinates(tmp_path / "out")] == 2 * rows
    assert "20 images of val" in figures["tsne"].get_suptitle()


def test_the_points_depend_on_the_features_and_the_seed_alone():
    features = np.random.default_rng(0).normal(size=(80, 300)).astype(np.float32)
    first, again, other = (p1_tsne.project(features, "tsne", seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert not np.array_equal(first, p1_tsne.project(features, "tsne", 0, exaggeration=20))
    assert (first**2).sum(axis=1).mean() == pytest.approx(1)


def test_silhouettes_are_sklearns(made, drawn):
    for score, epoch in zip(json.loads((drawn / "scores.json").read_text()), (1, 10)):
        model = checkpoint.read_model(made / "run" / "snapshots" / f"epoch_{epoch:04d}.pt")
        office = made / "office"
        images = load_evaluation(office / "train", office / "train.csv", 32, made / "cache", CLASSES)
        pixels = torch.cat([batch for batch, _ in images.batches(64)])
        features = penultimate(load_trained(model), pixels, model["mean"], model["std"]).numpy()
        assert score["silhouette_features"] == pytest.approx(
            silhouette_score(features, images.labels), abs=1e-4
        )
        points, labels = plane(drawn, f"epoch_{epoch:04d}")
        assert score["silhouette_plane"] == pytest.approx(silhouette_score(points, labels), abs=1e-3)


def test_the_most_scattered_and_most_overlapping_classes_are_named(drawn):
    for score in json.loads((drawn / "scores.json").read_text()):
        scatter = [row["scatter"] for row in score["most_scattered"]]
        assert len(scatter) == 5 and scatter == sorted(scatter, reverse=True)
        shares = [sum(row["shares"]) for row in score["most_overlapping"]]
        assert len(shares) == 5 and shares == sorted(shares, reverse=True)
        assert all(row["name"] == f"{row['label']} Thing {row['label']}" for row in score["most_scattered"])
        assert all(len(set(row["labels"])) == 2 for row in score["most_overlapping"])


def test_the_scores_are_printed_as_a_table(made, figures, tmp_path, capsys):
    call(*usual(made, tmp_path / "out"))
    text = capsys.readouterr().out
    for score in json.loads((tmp_path / "out" / "scores.json").read_text()):
        assert f"{score['silhouette_features']:.4f}" in text and f"{score['knn_accuracy']:.4f}" in text
        assert all(row["name"] in text for row in score["most_scattered"])


# -- pictures ------------------------------------------------------------------------------------------------


def test_all_panels_have_the_same_limits_and_every_image_in_them(made, figures, tmp_path):
    call(*usual(made, tmp_path / "out"))
    assert list(figures) == PICTURES
    axes = [axis for figure in figures.values() for axis in figure.axes]
    assert len(axes) == 6
    assert {(axis.get_xlim(), axis.get_ylim()) for axis in axes} == {(axes[0].get_xlim(), axes[0].get_ylim())}
    for axis in axes:
        points = np.concatenate([np.asarray(marks.get_offsets()) for marks in axis.collections])
        assert len(points) == EACH * len(CLASSES)
        assert (points > [axis.get_xlim()[0], axis.get_ylim()[0]]).all()
        assert (points < [axis.get_xlim()[1], axis.get_ylim()[1]]).all()


def test_titles_say_which_epoch_and_how_well_its_classes_part(made, figures, tmp_path):
    call(*usual(made, tmp_path / "out"))
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [score["title"] for score in scores] == ["after epoch 1", "after epoch 10 (last)"]
    for figure in figures.values():
        for axis, score in zip(figure.axes, scores):
            title = axis.get_title(loc="left")
            assert (
                title.startswith(score["title"] + "\n")
                and f"silhouette {score['silhouette_features']:.2f}" in title
            )


def test_the_last_epoch_of_an_unfinished_run_is_not_called_its_last(made, figures, tmp_path, capsys):
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "run" / "snapshots" / "epoch_0010.pt").unlink()
    write_metrics(tmp_path / "run", epoch=5)
    flags = usual(made, tmp_path / "out")
    flags[1] = tmp_path / "run"
    assert call(*flags) == 0
    assert "unfinished" in capsys.readouterr().err
    titles = [axis.get_title(loc="left").split("\n")[0] for axis in figures["tsne"].axes]
    assert titles == ["after epoch 1", "after epoch 3"]


def test_ten_classes_have_ten_colours_and_markers_and_their_names_in_the_legend(made, figures, tmp_path):
    call(*usual(made, tmp_path / "out"))
    assert len(set(TEN_COLOURS)) == len(set(TEN_MARKERS)) == 10
    legend = [text.get_text() for text in figures["tsne_classes_10-11"].legends[0].get_texts()]
    assert legend == ["10 Thing 10", "11 Thing 11"]
    for axis in figures["tsne_classes_00-09"].axes:
        others, *own = axis.collections
        assert len(others.get_offsets()) == 2 * EACH  # those of classes 10 and 11
        assert len({tuple(marks.get_facecolor()[0]) for marks in (others, *own)}) == 11


def test_heading_titles_panels_and_legend_lie_below_each_other_inside_the_picture(made, figures, tmp_path):
    call(*usual(made, tmp_path / "out"))
    for figure in figures.values():
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width
        assert all(box.y1 <= axis.get_window_extent().y0 for axis in figure.axes)
        titles = [axis._left_title.get_window_extent() for axis in figure.axes]
        assert all(
            title.y1 + 5 <= figure._suptitle.get_window_extent().y0 for title in titles
        )  # pixels apart
        assert titles[0].x1 < titles[1].x0


# -- other inputs --------------------------------------------------------------------------------------------


def test_labels_may_be_in_the_names_of_a_folder_of_png(made, figures, tmp_path):
    rows = write_images(tmp_path / "val_50")
    snapshot = made / "run" / "snapshots" / "epoch_0010.pt"
    assert call("--checkpoint", snapshot, "--images", tmp_path / "val_50", *into(tmp_path)) == 0
    assert [(row["filename"], row["label"]) for row in coordinates(tmp_path / "out")] == rows
    assert [text.get_text() for text in figures["tsne_classes_10-11"].legends[0].get_texts()] == ["10", "11"]


def test_three_checkpoints_by_hand_give_three_panels(made, figures, tmp_path):
    paths = [made / "run" / "snapshots" / f"epoch_{epoch:04d}.pt" for epoch in EPOCHS]
    flags = usual(made, tmp_path / "out")[2:]
    assert call("--checkpoint", *paths, *flags) == 0
    titles = [axis.get_title(loc="left").split("\n")[0] for axis in figures["tsne"].axes]
    assert titles == ["after epoch 1", "after epoch 3", "after epoch 10"]


def test_pca_gives_two_axes_without_correlation_the_longer_first(made, figures, tmp_path):
    assert call(*usual(made, tmp_path / "out"), "--method", "pca") == 0
    assert list(figures) == [name.replace("tsne", "pca") for name in PICTURES]
    points, _ = plane(tmp_path / "out", "epoch_0010")
    covariance = np.cov(points.T)
    assert abs(covariance[0, 1]) < 1e-4 and covariance[0, 0] > covariance[1, 1] > 0


def test_snapshots_of_one_epoch_of_two_runs_are_told_apart_by_their_folders(made, figures, tmp_path):
    other = save_snapshot(tmp_path / "D-seed0" / "snapshots" / "epoch_0010.pt", seed=7)
    path = made / "run" / "snapshots" / "epoch_0010.pt"
    assert call("--checkpoint", path, other, *usual(made, tmp_path / "out")[2:]) == 0
    assert {row["checkpoint"] for row in coordinates(tmp_path / "out")} == {str(path), str(other)}
    titles = [axis.get_title(loc="left").split("\n")[0] for axis in figures["tsne"].axes]
    assert titles == ["run/snapshots/epoch_0010.pt", "D-seed0/snapshots/epoch_0010.pt"]


# -- what is wrong -------------------------------------------------------------------------------------------


def refused(capsys, *flags: object) -> str:
    """The one line with which the script ends, nothing being written."""
    with pytest.raises(SystemExit) as end:
        run_script(lambda: call(*flags))
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_folder_without_snapshots_is_refused(made, tmp_path, capsys):
    flags = usual(made, tmp_path / "out")
    flags[1] = tmp_path
    assert "no snapshots/epoch_*.pt" in refused(capsys, *flags)
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_different_classes_are_refused(made, tmp_path, capsys):
    other = save_snapshot(tmp_path / "other.pt", seed=0, classes=CLASSES[:-1])
    flags = usual(made, tmp_path / "out")[2:]
    message = refused(capsys, "--checkpoint", made / "run" / "snapshots" / "epoch_0001.pt", other, *flags)
    assert "different classes" in message


def test_the_same_checkpoint_twice_is_refused(made, tmp_path, capsys):
    path = made / "run" / "snapshots" / "epoch_0001.pt"
    assert "twice" in refused(capsys, "--checkpoint", path, path, *usual(made, tmp_path / "out")[2:])


def test_a_checkpoint_that_sees_no_difference_is_refused(made, tmp_path, capsys):
    state = {
        key: torch.zeros_like(value)
        for key, value in build_network("tiny_classifier", num_classes=12).state_dict().items()
    }
    blind = save_snapshot(tmp_path / "blind.pt", seed=0, state=state)
    assert "same features" in refused(capsys, "--checkpoint", blind, *usual(made, tmp_path / "out")[2:])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda name, label: label in "01" and " 0" not in name, "too few"),
        (lambda name, label: label == "3", "too few"),
        (lambda name, label: name.endswith(" 0.png"), "too few"),
    ],
    ids=["eight images", "one class", "one image a class"],
)
def test_too_few_images_are_refused(made, tmp_path, capsys, keep, message):
    rows = [(f"{label} {n}.png", label) for label in CLASSES for n in range(EACH)]
    write_table(tmp_path / "few.csv", [row for row in rows if keep(*row)])
    flags = ["--run", made / "run", "--images", made / "office" / "train", "--csv", tmp_path / "few.csv"]
    assert message in refused(capsys, *flags, *into(tmp_path))


def test_a_label_that_the_network_does_not_know_is_refused(made, tmp_path, capsys):
    write_table(tmp_path / "odd.csv", [("0 0.png", "0"), ("0 1.png", "77")])
    flags = ["--run", made / "run", "--images", made / "office" / "train", "--csv", tmp_path / "odd.csv"]
    assert "'77'" in refused(capsys, *flags, *into(tmp_path))


def test_a_class_with_one_image_is_drawn_but_not_scored(made, figures, tmp_path, capsys):
    rows = [(f"{label} {n}.png", label) for label in CLASSES for n in range(EACH)]
    write_table(tmp_path / "one.csv", rows[EACH - 1 :])  # the last image of class 0, and all the others
    flags = ["--run", made / "run", "--images", made / "office" / "train", "--csv", tmp_path / "one.csv"]
    assert call(*flags, *into(tmp_path)) == 1
    assert "one image alone: class 0" in capsys.readouterr().err
    assert len(coordinates(tmp_path / "out")) == 2 * (len(rows) - EACH + 1)
    assert {score["images"] for score in json.loads((tmp_path / "out" / "scores.json").read_text())} == {55}


def test_an_image_that_cannot_be_read_is_named_and_left_out(made, figures, tmp_path, capsys):
    rows = write_images(tmp_path / "images")
    (tmp_path / "images" / rows[7][0]).write_bytes(b"no image")
    snapshot = made / "run" / "snapshots" / "epoch_0001.pt"
    assert call("--checkpoint", snapshot, "--images", tmp_path / "images", *into(tmp_path)) == 1
    assert rows[7][0] in capsys.readouterr().err
    assert [row["filename"] for row in coordinates(tmp_path / "out")] == [
        n for n, _ in rows if n != rows[7][0]
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ("--images", "x"),
        ("--run", "x"),
        ("--run", "x", "--checkpoint", "y", "--images", "z"),
        ("--run", "x", "--data", "y", "--csv", "z"),
        ("--checkpoint", "a", "b", "c", "d", "--images", "x"),
        ("--run", "x", "--images", "y", "--seed", "-1"),
    ],
)
def test_calls_that_make_no_sense_end_with_the_usage(flags):
    with pytest.raises(SystemExit) as end:
        p1_tsne.parse_arguments([*flags, "--output", "out"])
    assert end.value.code == 2


def test_of_a_run_the_first_and_the_last_snapshot_are_shown_or_the_middle_one_too(tmp_path):
    for epoch in (1, 5, 7, 30):
        (tmp_path / "snapshots").mkdir(exist_ok=True)
        (tmp_path / "snapshots" / f"epoch_{epoch:04d}.pt").touch()
    shown = {count: [path.stem[-2:] for path in p1_tsne.snapshots_of(tmp_path, count)] for count in (2, 3)}
    assert shown == {2: ["01", "30"], 3: ["01", "05", "30"]}
    for epoch in (5, 7, 30):
        (tmp_path / "snapshots" / f"epoch_{epoch:04d}.pt").unlink()
    assert [path.stem for path in p1_tsne.snapshots_of(tmp_path, 3)] == ["epoch_0001"]
