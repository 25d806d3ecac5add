"""50 classes in folders, labels in names, are trained and predicted by the same scripts, alone or as an
ensemble.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import p1_finetune
import p1_inference
from datasets.images import natural_key
from datasets.tables import read_table
from engine import checkpoint, manifest
from engine.base import UserError
from engine.checkpoint_choice import read_models
from engine.publish import main as publish_main
from engine.publish import publish
from models import builders
from models.builders import describe_classifier, load_trained, normalisation
from report import settings_table
from tests.grader import call, random_image, save
from tests.killing import TinyClassifier, assert_same_end, scores_of, train_until_killed

FIFTY = [str(label) for label in range(50)]
OTHERS = [*FIFTY[:49], "50"]  # as many, and not those
LABELS = (3, 11, 0, 40)
COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220), (200, 200, 40))
STEPS = 15  # of three epochs with batches of 4
QUICK = ("--model", "tiny_classifier", "--batch-size", 4, "--epochs", 3,
         "--mix", "cutmix", "--edition", 2022)  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(
        builders.CLASSIFIERS,
        "tiny_classifier",
        builders.Network(builders.with_stem(TinyClassifier), arguments=builders.STEM_3X3),
    )


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They have tests of their own, and take seconds."""
    monkeypatch.setattr(settings_table, "write_settings_table", lambda folder: f"the table of {folder}")


@pytest.fixture
def data(tmp_path) -> Path:
    """train_50 with 20 and val_50 with 8 images of 32 pixels, as {label}_{id}.png, of four classes."""
    generator = np.random.default_rng(0)
    for split, count in (("train_50", 20), ("val_50", 8)):
        for number in range(count):
            pixels = generator.normal(COLOURS[number % 4], 40, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            save(pixels, tmp_path / split / f"{LABELS[number % 4]}_{number}.png")
    return tmp_path


@pytest.fixture
def where(data):
    """The flags that say where everything lies: where(output)."""

    def where(output: str) -> tuple:
        return (
            "--train-images", data / "train_50", "--val-images", data / "val_50", "--output", data / output,
            "--cache", data / "cache", "--device", "cpu",
        )  # fmt: skip

    return where


# -- training ------------------------------------------------------------------------------------------------


def test_killed_anywhere_and_started_again_it_ends_with_the_same_weights(data, where, capsys):
    assert call(p1_finetune, *where("unbroken"), *QUICK) == 0
    step = random.SystemRandom().randint(2, STEPS)  # any will do
    print("killed at step", step)
    train_until_killed(step, "p1_finetune.py", *where("killed"), *QUICK)
    capsys.readouterr()
    assert call(p1_finetune, *where("killed"), *QUICK) == 0
    assert f"resuming from step {step - 1} of {STEPS}" in capsys.readouterr().err
    assert_same_end(data / "unbroken" / "A-seed0", data / "killed" / "A-seed0")
    arguments = json.loads((data / "killed" / "A-seed0" / "config.json").read_text())["arguments"]
    assert [arguments[name] for name in ("recipe", "mix", "is_augmented")] == [
        "small", "cutmix", True,
    ]  # fmt: skip


@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_the_classes_are_learned(data, where, mix):
    flags = (
        "--epochs",
        40,
        "--lr",
        0.05,
        "--mix",
        mix,
        "--ema-decay",
        0.9,
        "--eval-every",
        10,
    )
    assert call(p1_finetune, *where("runs"), *QUICK, *flags) == 0
    scores = scores_of(data / "runs" / "A-seed0")
    assert max(line.get("accuracy", 0) for line in scores) > 0.7


def test_what_is_trained_describes_itself_and_answers_as_it_was_scored(data, where):
    flags = (
        "--model",
        "resnet18",
        "--stem",
        "3x3-nopool",
        "--epochs",
        1,
        "--batch-size",
        10,
        "--edition",
        2021,
    )
    assert call(p1_finetune, *where("runs"), *flags) == 0
    run = data / "runs" / "A-seed0"
    model = checkpoint.read_model(run / "model.pt")
    assert (model["network"], model["image_size"], model["edition"]) == ("resnet18", 32, "2021")
    assert model["arguments"] == {"num_classes": 4, "stem": "3x3-nopool"}
    assert model["classes"] == ["0", "3", "11", "40"] and model["integer_labels"] is True
    network = load_trained(model)
    assert network.conv1.kernel_size == (3, 3) and isinstance(network.maxpool, torch.nn.Identity)

    output = data / "out.csv"
    given = ("--images", data / "val_50", "--output", output, "--checkpoint", run, "--device", "cpu")
    assert call(p1_inference, *given, "--edition", 2022) == 0
    predicted = {row["filename"]: row["label"] for row in read_table(run / "predictions.csv")}
    assert {row["filename"]: row["label"] for row in read_table(output)} == predicted
    right = sum(name.split("_")[0] == label for name, label in predicted.items())
    assert model["score"] == {"accuracy": right / 8} == {"accuracy": scores_of(run)[-1]["accuracy"]}


def test_an_edition_that_there_never_was_is_refused(where, capsys):
    assert call(p1_finetune, *where("runs"), *QUICK, "--edition", 1999) == 2
    assert "edition '1999' is unknown; choose one of 2020" in capsys.readouterr().err.splitlines()[-1]


# -- prediction ----------------------------------------------------------------------------------------------


def save_tiny(path: Path, seed: int, image_size: int = 32, **changes: object) -> Path:
    """A tiny network with random weights that is sure of its answers, which depend on the image."""
    torch.manual_seed(seed)
    network = TinyClassifier(num_classes=50).eval()
    with torch.no_grad():
        pixels = torch.stack([pixels_of(random_image(i, 32, 32), image_size) for i in range(100, 132)])
        for layer in (network.layer1, network.layer2):
            layer[1].momentum = 1.0
        network.train()(pixels)
        logits = network.eval()(pixels)
        network.fc.weight *= 3 / logits.std()
        network.fc.bias -= network(pixels).mean(dim=0)
    classes = [str(number) for number in range(50)]
    description = describe_classifier("tiny_classifier", classes, image_size, "2022", "7x7")
    model = {
        "format": 1,
        **description,
        "state": network.state_dict(),
        "score": {"accuracy": 0.5},
        "source": path.stem,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, {**model, **changes})
    return path


def pixels_of(rgb: np.ndarray, size: int) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in normalisation("tiny_classifier"))
    image = np.array(Image.fromarray(rgb).resize((size, size), Image.BILINEAR))
    return (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std


NAMES = [f"{label}_{number}.png" for number in (7, 8, 9, 10, 11, 100) for label in (2, 10, 9, 33, 0)]


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, name in enumerate(NAMES):
        save(random_image(number, 32, 32), tmp_path / "val_50" / name)
    return tmp_path / "val_50"


def by_hand(folder: Path, paths: list[Path], weights: list[float]) -> list[str]:
    """The labels of the folder's images in natural order: argmax of the weighted mean of the members'
    softmax.
    """
    labels = []
    for name in sorted(NAMES, key=natural_key):
        total = 0
        for path, weight in zip(paths, weights):
            model = checkpoint.read_model(path)
            pixels = pixels_of(np.array(Image.open(folder / name)), model["image_size"])
            with torch.no_grad():
                total = total + weight / sum(weights) * load_trained(model)(pixels[None])[0].softmax(0)
        labels.append(model["classes"][int(total.argmax())])
    return labels


@pytest.fixture
def predict(folder, tmp_path):
    """Predict the folder with these flags; the exit status. The output is tmp_path/out.csv."""

    def predict(*flags: object) -> int:
        given = ("--images", folder, "--output", tmp_path / "out.csv", "--device", "cpu", "--edition", 2022)
        return call(p1_inference, *given, *flags)

    return predict


def labels_of(tmp_path: Path) -> list[str]:
    return [row["label"] for row in read_table(tmp_path / "out.csv")]


@pytest.mark.parametrize("year", [2020, 2021, 2022, 2023])
def test_every_image_of_the_folder_is_there_in_natural_order_in_the_editions_form(
    predict, folder, tmp_path, year
):
    model = save_tiny(tmp_path / "model.pt", seed=0)
    assert predict("--checkpoint", model, "--edition", year) == 0
    header = "image_id,label" if year < 2022 else "filename,label"
    names = [f"{label}_{number}.png" for label in (0, 2, 9, 10, 33) for number in (7, 8, 9, 10, 11, 100)]
    labels = by_hand(folder, [model], [1])
    assert len(set(labels)) > 5  # the network's answers differ, so the order is seen
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels))
    assert (tmp_path / "out.csv").read_bytes() == f"{header}\n{rows}".encode()


@pytest.mark.parametrize("count", [2, 3])
def test_several_checkpoints_vote_by_the_mean_of_their_probabilities(predict, folder, tmp_path, count):
    paths = [save_tiny(tmp_path / f"{seed}.pt", seed, image_size=32 + 8 * seed) for seed in range(count)]
    assert predict("--checkpoint", *paths) == 0
    labels = labels_of(tmp_path)
    assert labels == by_hand(folder, paths, [1] * count)
    assert all(labels != by_hand(folder, [path], [1]) for path in paths)


def test_votes_have_weights(predict, folder, tmp_path):
    paths = [save_tiny(tmp_path / f"{seed}.pt", seed) for seed in range(2)]
    found = []
    for weights in ((3, 1), (1, 3), (1, 1), (0.5, 0.5)):
        assert predict("--checkpoint", *paths, "--vote-weights", *weights) == 0
        assert labels_of(tmp_path) == by_hand(folder, paths, weights)
        found.append(labels_of(tmp_path))
    assert found[2] == found[3]
    assert len({tuple(labels) for labels in found}) == 3


@pytest.mark.parametrize(
    "weights, complaint",
    [
        ((1,), "1 --vote-weights for 2 checkpoints; give one for each"),
        ((1, 2, 3), "3 --vote-weights for 2 checkpoints; give one for each"),
        ((1, 0), "0 is not a number above 0"),
        ((-1, 2), "-1 is not a number above 0"),
        (("nan", 1), "nan is not a number above 0"),
        (("inf", 1), "inf is not a number above 0"),
        (("much", 1), "'much'"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(predict, tmp_path, capfd, weights, complaint):
    paths = [save_tiny(tmp_path / f"{seed}.pt", seed) for seed in range(2)]
    assert predict("--checkpoint", *paths, "--vote-weights", *weights) == 2
    said = capfd.readouterr().err
    assert complaint in said.splitlines()[-1] and "Traceback" not in said
    assert not (tmp_path / "out.csv").exists()


def test_of_an_ensemble_one_network_is_in_memory_at_a_time(predict, tmp_path, monkeypatch):
    paths = [save_tiny(tmp_path / f"{seed}.pt", seed) for seed in range(3)]
    networks, states, most = [], [], {"networks": 0, "states": 0}

    def count() -> None:
        for name, references in (("networks", networks), ("states", states)):
            most[name] = max(most[name], sum(reference() is not None for reference in references))

    def read_model(path):
        count()
        model = checkpoint_read_model(path)
        states.append(weakref.ref(model["state"]["fc.weight"]))
        count()
        return model

    def load(model):
        network = load_trained(model)
        networks.append(weakref.ref(network))
        count()
        return network

    checkpoint_read_model = checkpoint.read_model
    monkeypatch.setattr(checkpoint, "read_model", read_model)
    monkeypatch.setattr(p1_inference, "load_trained", load)
    assert predict("--checkpoint", *paths) == 0
    assert len(networks) == 3 and len(states) >= 3
    assert most == {"networks": 1, "states": 1}


def test_an_ensemble_with_an_unreadable_image_still_answers_for_it(predict, folder, tmp_path, capfd):
    paths = [save_tiny(tmp_path / f"{seed}.pt", seed) for seed in range(2)]
    assert predict("--checkpoint", *paths) == 0
    before = labels_of(tmp_path)
    (folder / "2_8.png").write_bytes(b"no image")
    assert predict("--checkpoint", *paths) == 1
    assert "2_8.png" in capfd.readouterr().err
    bad = sorted(NAMES, key=natural_key).index("2_8.png")
    after = labels_of(tmp_path)
    mean_image = sum(
        load_trained(checkpoint.read_model(path))(torch.zeros(1, 3, 32, 32))[0].softmax(0) for path in paths
    )
    assert after == [*before[:bad], str(int(mean_image.argmax())), *before[bad + 1 :]]


# -- the architecture ----------------------------------------------------------------------------------------


def test_the_architecture_is_printed_without_images(tmp_path, capfd):
    path = save_tiny(tmp_path / "model.pt", seed=0)
    assert call(p1_inference, "--print-architecture", "--checkpoint", path) == 0
    printed = capfd.readouterr().out
    network = TinyClassifier(num_classes=50)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert printed == f"tiny_classifier, {parameters:,} parameters, for images of 32 pixels\n{network}\n"


def test_the_architecture_of_every_member_is_printed(tmp_path, capfd):
    paths = [save_tiny(tmp_path / f"{size}.pt", seed=0, image_size=size) for size in (32, 40)]
    assert call(p1_inference, "--print-architecture", "--checkpoint", *paths) == 0
    printed = capfd.readouterr().out
    assert printed.count("TinyClassifier(") == 2 and "of 32 pixels" in printed and "of 40 pixels" in printed


@pytest.mark.parametrize("flags", [(), ("--images", "x"), ("--output", "x"), ("--csv", "x", "--output", "y")])
def test_images_and_output_are_needed_for_anything_else(flags, capfd):
    assert call(p1_inference, *flags) == 2
    said = capfd.readouterr().err
    assert said.startswith("usage: ") and "--images, --output" in said


# -- which checkpoint answers --------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path, monkeypatch) -> Path:
    """An empty checkpoints/ in place of the repository's."""
    monkeypatch.setattr(manifest, "FOLDER", tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def sources(problem: str) -> list[str]:
    return [model["source"] for model in read_models(problem, [])]


def test_folders_have_a_default_of_their_own_beside_that_of_tables(
    predict, checkpoints, folder, tmp_path, monkeypatch
):
    office = save_tiny(tmp_path / "office.pt", seed=0, classes=OTHERS)
    publish(office, "office", "p1", default=True)
    assert sources("p1") == ["office"]
    with pytest.raises(UserError, match="knows 50 classes, not the 50, 0 to 49"):  # never in silence
        read_models("p1_50", [])

    fifty = save_tiny(tmp_path / "fifty.pt", seed=1)
    command = ["publish", str(fifty), "--name", "fifty", "--problem", "p1_50", "--default"]
    monkeypatch.setattr(sys, "argv", command)
    publish_main()
    assert (sources("p1"), sources("p1_50")) == (["office"], ["fifty"])
    assert [(entry["name"], entry["problem"], entry["default"]) for entry in manifest.read()] == [
        ("fifty", "p1_50", True), ("office", "p1", True),
    ]  # fmt: skip

    assert predict() == 0
    assert labels_of(tmp_path) == by_hand(folder, [fifty], [1])
    (tmp_path / "in.csv").write_text(
        "".join(f"{line}\n" for line in ("filename", *sorted(NAMES, key=natural_key)))
    )
    assert predict("--csv", tmp_path / "in.csv", "--edition", 2023) == 0
    assert labels_of(tmp_path) == by_hand(folder, [office], [1]) != by_hand(folder, [fifty], [1])


def test_a_folders_default_answers_no_table(checkpoints, tmp_path):
    publish(save_tiny(tmp_path / "fifty.pt", seed=1), "fifty", "p1_50", default=True)
    with pytest.raises(UserError, match="no checkpoint for p1;"):
        read_models("p1", [])


def test_the_variables_go_before_both_defaults_and_that_of_folders_before_the_other(
    checkpoints, tmp_path, monkeypatch
):
    for seed, (name, problem, classes) in enumerate((("office", "p1", OTHERS), ("fifty", "p1_50", FIFTY))):
        publish(save_tiny(tmp_path / f"{name}.pt", seed, classes=classes), name, problem, default=True)
    paths = {}
    for name, classes in (("csv", OTHERS), ("one", FIFTY), ("two", FIFTY)):
        paths[name] = save_tiny(tmp_path / f"{name}.pt", seed=2, classes=classes)
    monkeypatch.setenv("P1_CHECKPOINT", str(paths["one"]))
    assert sources("p1_50") == ["one"]  # that of 2020 to 2022, where there is no other
    monkeypatch.setenv("P1_CHECKPOINT", str(paths["csv"]))
    monkeypatch.setenv("P1_50_CHECKPOINT", f"{paths['two']}:{paths['one']}")
    assert (sources("p1"), sources("p1_50")) == (["csv"], ["two", "one"])
    monkeypatch.delenv("P1_CHECKPOINT")
    assert (sources("p1"), sources("p1_50")) == (["office"], ["two", "one"])


TEN = [str(label) for label in range(10)]


@pytest.mark.parametrize(
    ("problem", "classes", "is_refused"),
    [
        ("p1", FIFTY, True),
        ("p1", OTHERS, False),
        ("p1", TEN, False),  # made-up data
        ("p1", ["cat", "dog"], False),  # a student's own
        ("p1_50", FIFTY, False),
        ("p1_50", FIFTY[::-1], True),
        ("p1_50", [str(label) for label in range(65)], True),
        ("p1_50", TEN, True),
        ("p1_50", ["cat", "dog"], True),
    ],
)
def test_a_wrapper_answers_with_no_model_of_the_other_question_and_a_user_with_any(
    tmp_path, monkeypatch, problem, classes, is_refused
):
    numbers = {"arguments": {"num_classes": len(classes)}, "integer_labels": classes[0].isdigit()}
    path = save_tiny(tmp_path / "model.pt", seed=0, classes=classes, edition="1999", **numbers)
    monkeypatch.setenv(f"{problem.upper()}_CHECKPOINT", str(path))
    if is_refused:
        with pytest.raises(
            UserError, match=rf"model\.pt: knows {len(classes)} classes, .*set {problem.upper()}_"
        ):
            read_models(problem, [])
    else:
        assert sources(problem) == ["model"]
    assert read_models(problem, [str(path)])[0]["classes"] == classes


def test_a_tile_network_is_published_and_used_for_neither(checkpoints, tmp_path, p2_model):
    with pytest.raises(UserError, match="was trained for p2, not for p1_50"):
        publish(p2_model, "fifty", "p1_50")
    with pytest.raises(UserError, match="for p2, not for p1"):
        read_models("p1_50", [str(p2_model)])


def test_without_any_checkpoint_each_is_told_how_to_train_its_own(
    predict, checkpoints, folder, tmp_path, capfd
):
    assert predict() == 2
    of_folders = capfd.readouterr().err
    (tmp_path / "in.csv").write_text(f"filename\n{NAMES[0]}\n")
    assert predict("--csv", tmp_path / "in.csv", "--edition", 2024) == 2
    of_tables = capfd.readouterr().err
    for said, flags, problem, run in (
        (of_folders, "--train-images train_50 --val-images val_50", "p1_50", "A-seed0"),
        (of_tables, "--data hw1_data/p1_data/office --settings C", "p1", "C-seed0"),
    ):
        assert said.count("\n") == 1 and "train one: python3 " in said
        assert f"python3 p1_finetune.py {flags}" in said and f"--problem {problem} --default" in said
        assert f"{problem.upper()}_CHECKPOINT=runs/p1/{run}/model.pt" in said
    assert not (tmp_path / "out.csv").exists() and not checkpoints.exists()


def test_a_folder_is_fetched_from_the_url_of_its_own_default(checkpoints, tmp_path):
    fifty = save_tiny(tmp_path / "fifty.pt", seed=1)
    entry = publish(fifty, "fifty", "p1_50", default=True, urls=(fifty.as_uri(),))
    shutil.rmtree(checkpoints)
    checkpoints.mkdir()
    manifest.write([entry])
    assert sources("p1_50") == ["fifty"]
    assert manifest.is_intact(entry)
