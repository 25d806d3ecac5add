"""Problem 1's training: it learns, resumes to the last bit, keeps what it should keep, and says what it
refuses.
"""

from __future__ import annotations

import csv
import json
import random
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import p1_finetune
import p1_inference
from datasets.images import evaluation_image
from datasets.tables import read_table
from engine import checkpoint
from engine.base import UserError, run_script
from engine.device import choose_precision
from engine.run_folder import is_finished
from models import builders
from models.backbone import backbone_sha256
from models.builders import build_network, load_trained
from models.predict import predict_images
from report import settings_table
from tests.grader import call
from tests.killing import TinyClassifier, assert_same_end, scores_of, train, train_until_killed

COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220))
STEPS = 12  # of three epochs with batches of 4
QUICK = (
    "--model",
    "tiny_classifier",
    "--image-size",
    32,
    "--crop-size",
    32,
    "--batch-size",
    4,
    "--epochs",
    3,
)


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(builders.CLASSIFIERS, "tiny_classifier", builders.Network(TinyClassifier))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """They have tests of their own, and take seconds."""
    monkeypatch.setattr(settings_table, "write_settings_table", lambda folder: f"the table of {folder}")


def write_office(folder, labels=("0", "1", "2"), train=18, val=9):
    """Blots of three colours; the course's tree and CSVs."""
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        (folder / split).mkdir(parents=True)
        rows = [("id", "filename", "label")]
        for number in range(count):
            pixels = generator.normal(COLOURS[number % 3], 40, (40, 40, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{number}.png")
            rows.append((number, f"{number}.png", labels[number % 3]))
        with open(folder / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder


def answers(model_path, images):
    """What p1_inference.py's path makes of the images, as the classes are called."""
    model = checkpoint.read_model(model_path)
    network = load_trained(model)
    pixels = np.stack([evaluation_image(np.array(Image.open(path)), model["image_size"]) for path in images])
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    numbers = predict_images(network, pixels, model["mean"], model["std"]).argmax(dim=1)
    return [model["classes"][number] for number in numbers]


@pytest.fixture
def office(tmp_path):
    return write_office(tmp_path / "office")


@pytest.fixture
def finetune(office, tmp_path):
    """Run p1_finetune.py's main in this process, into tmp_path/runs unless said otherwise: the exit
    status.
    """

    def finetune(*flags, output="runs"):
        where = (
            "--data",
            office,
            "--output",
            tmp_path / output,
            "--cache",
            tmp_path / "cache",
            "--device",
            "cpu",
        )
        args = p1_finetune.parse_arguments([str(word) for word in (*where, *QUICK, *flags)])
        with pytest.raises(SystemExit) as end:
            run_script(lambda: p1_finetune.main(args))
        return end.value.code

    return finetune


# -- it learns -----------------------------------------------------------------------------------------------


def test_the_loss_falls_and_the_classes_are_learned(finetune, tmp_path):
    assert finetune("--epochs", 12, "--lr", 0.02) == 0
    scores = scores_of(tmp_path / "runs" / "A-seed0")
    assert [line["epoch"] for line in scores] == list(range(1, 13))
    assert scores[-1]["loss"] < 0.8 * scores[0]["loss"]
    assert max(line["accuracy"] for line in scores) > 0.8


@pytest.mark.parametrize("recipe", [name for name in p1_finetune.RECIPES if name.startswith("report")])
def test_a_reports_recipe_trains_and_its_model_answers_as_it_was_validated(
    finetune, office, tmp_path, recipe
):
    for path in sorted(office.glob("*/*.png")):  # no squares: padding shows
        Image.open(path).crop((0, 0, 40, 24)).save(path)
    assert finetune("--recipe", recipe, "--weights", "none", "--epochs", 1) == 0
    run = tmp_path / "runs" / "A-seed0"
    model, said = checkpoint.read_model(run / "model.pt"), p1_finetune.RECIPES[recipe]
    assert model.get("padded", False) == said["padded"] and model["edition"] == said["edition"]
    assert said["mean"] is None or (model["mean"], model["std"]) == (said["mean"], said["std"])
    asked = (office / "val.csv", office / "val", tmp_path / "answers.csv")
    flags = zip(("--csv", "--images", "--output", "--checkpoint"), (*asked, run / "model.pt"))
    assert call(p1_inference, *(word for pair in flags for word in pair), "--device", "cpu") == 0
    answered, validated = (
        [(row["filename"], row["label"]) for row in csv.DictReader(path.open())]
        for path in (tmp_path / "answers.csv", run / "predictions.csv")
    )
    assert answered == validated


def test_the_best_weights_describe_themselves(finetune, tmp_path, capsys):
    assert finetune() == 0
    run = tmp_path / "runs" / "A-seed0"
    model = checkpoint.read_model(run / "model.pt")
    assert (model["problem"], model["network"], model["image_size"]) == ("p1", "tiny_classifier", 32)
    assert model["classes"] == ["0", "1", "2"] and model["integer_labels"] is True
    best = max(line["accuracy"] for line in scores_of(run))
    assert model["score"] == {"accuracy": best}
    assert isinstance(load_trained(model), TinyClassifier)
    first_best = next(line["epoch"] for line in scores_of(run) if line["accuracy"] == best)
    last = scores_of(run)[-1]["accuracy"]
    said = capsys.readouterr().out
    assert f"best accuracy {best:.4f} (epoch {first_best}), last {last:.4f} (epoch 3)" in said
    assert said.endswith(f"the table of {tmp_path / 'runs'}\n")


def test_a_finished_run_whose_model_is_gone_says_so(finetune, tmp_path, capsys):
    assert finetune() == 0
    (tmp_path / "runs/A-seed0/model.pt").unlink()
    capsys.readouterr()
    assert finetune() == 2
    said = capsys.readouterr()
    assert "the run is finished, but its model.pt is gone" in said.err and "model.pt" not in said.out


def test_what_the_best_weights_predict_is_a_table_beside_them(finetune, office, tmp_path):
    assert finetune("--lr", 0.01) == 0
    run = tmp_path / "runs" / "A-seed0"
    rows = read_table(run / "predictions.csv")
    assert list(rows[0]) == ["filename", "label", "truth"]
    truth = read_table(office / "val.csv", ("filename", "label"))
    assert [(row["filename"], row["truth"]) for row in rows] == [
        (row["filename"], row["label"]) for row in truth
    ]
    assert [row["label"] for row in rows] == answers(
        run / "model.pt", [office / "val" / row["filename"] for row in rows]
    )
    right = sum(row["label"] == row["truth"] for row in rows)
    assert checkpoint.read_model(run / "model.pt")["score"] == {"accuracy": right / len(rows)}


def test_what_the_last_weights_predict_is_a_table_too(finetune, office, tmp_path):
    assert finetune("--lr", 0.01, "--eval-every", 2) == 0
    run = tmp_path / "runs" / "A-seed0"
    best, last = (read_table(run / name) for name in ("predictions.csv", "predictions_last.csv"))
    assert [(row["filename"], row["truth"]) for row in last] == [
        (row["filename"], row["truth"]) for row in best
    ]
    images = [office / "val" / row["filename"] for row in last]
    assert [row["label"] for row in last] == answers(run / "snapshots" / "epoch_0003.pt", images)


def test_class_names_come_back_as_names(finetune, office, tmp_path):
    shutil.rmtree(office)
    write_office(office, labels=("Mug", "Alarm_Clock", "Bed"))
    assert finetune() == 0
    model = checkpoint.read_model(tmp_path / "runs" / "A-seed0" / "model.pt")
    assert model["classes"] == ["Alarm_Clock", "Bed", "Mug"] and model["integer_labels"] is False


def test_first_middle_and_last_epoch_are_kept(finetune, tmp_path):
    assert finetune("--epochs", 4) == 0
    kept = sorted(path.name for path in (tmp_path / "runs" / "A-seed0" / "snapshots").iterdir())
    assert kept == ["epoch_0001.pt", "epoch_0002.pt", "epoch_0004.pt"]
    assert finetune("--snapshot-epochs", 2, output="other") == 0
    kept = sorted(path.name for path in (tmp_path / "other" / "A-seed0" / "snapshots").iterdir())
    assert kept == ["epoch_0002.pt"]


# -- it resumes ----------------------------------------------------------------------------------------------


def test_killed_anywhere_and_started_again_it_ends_with_the_same_weights(finetune, office, tmp_path, capsys):
    assert finetune(output="unbroken") == 0
    where = (
        "--data",
        office,
        "--output",
        tmp_path / "killed",
        "--cache",
        tmp_path / "cache",
        "--device",
        "cpu",
    )
    step = random.SystemRandom().randint(3, STEPS)  # any will do
    print("killed at step", step)
    train_until_killed(step, "p1_finetune.py", *where, *QUICK)
    shutil.copytree(tmp_path / "killed", tmp_path / "truncated")

    again = train("p1_finetune.py", *where, *QUICK)
    assert again.returncode == 0, f"killed at step {step}: {again.stderr}"
    assert f"resuming from step {step - 1} of {STEPS}" in again.stderr
    assert_same_end(tmp_path / "unbroken" / "A-seed0", tmp_path / "killed" / "A-seed0")

    newest = tmp_path / "truncated" / "A-seed0" / "last.pt"
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    capsys.readouterr()
    assert finetune(output="truncated") == 0
    said = capsys.readouterr().err
    assert "last.pt: broken" in said and f"resuming from step {step - 2} of {STEPS}" in said
    assert_same_end(tmp_path / "unbroken" / "A-seed0", tmp_path / "truncated" / "A-seed0")


def test_stopped_by_its_minutes_it_goes_on_to_the_same_weights(finetune, tmp_path, capsys):
    assert finetune(output="unbroken") == 0
    assert finetune("--max-minutes", 0, output="stopped") == 0
    assert "stopped at step 1 of 12; resume with: " in capsys.readouterr().err
    assert finetune(output="stopped") == 0
    assert_same_end(tmp_path / "unbroken" / "A-seed0", tmp_path / "stopped" / "A-seed0")


def test_a_finished_run_is_left_alone(finetune, tmp_path, capsys):
    assert finetune() == 0
    run = tmp_path / "runs" / "A-seed0"
    written = {path: path.stat().st_mtime_ns for path in run.glob("*.pt")}
    said = capsys.readouterr().out
    assert finetune() == 0
    assert capsys.readouterr().out == said
    assert written == {path: path.stat().st_mtime_ns for path in run.glob("*.pt")}


def test_a_finished_run_on_features_computes_none(finetune, backbone, tmp_path, capsys, monkeypatch):
    flags = ("--settings", "DE", "--sl-backbone", tmp_path / "backbone.pt", "--ssl-backbone")
    assert finetune(*flags, tmp_path / "backbone.pt") == 0
    said = capsys.readouterr().out
    monkeypatch.setattr(p1_finetune.backbone, "head_inputs", None)  # calling it would be an error
    assert finetune(*flags, tmp_path / "backbone.pt") == 0
    assert capsys.readouterr().out == said


def test_a_run_that_failed_after_its_last_epoch_is_not_finished(finetune, backbone, tmp_path, monkeypatch):
    def find_a_change(*_):
        raise UserError("the backbone has changed")

    flags = ("--settings", "D", "--sl-backbone", tmp_path / "backbone.pt")
    with monkeypatch.context() as patch:
        patch.setattr(p1_finetune.backbone, "prove_unchanged", find_a_change)
        assert finetune(*flags) == 2
    assert not is_finished(tmp_path / "runs" / "D-seed0")
    assert finetune(*flags) == 0 and is_finished(tmp_path / "runs" / "D-seed0")


def test_other_arguments_in_the_same_folder_are_refused_by_name(finetune, capsys):
    assert finetune() == 0
    assert finetune("--lr", 0.5, "--epochs", 4) == 2
    assert "epochs was 3, now 4; lr was 0.001, now 0.5" in capsys.readouterr().err


def test_a_dry_run_writes_no_run(finetune, tmp_path, capsys):
    assert finetune("--dry-run") == 0
    assert not (tmp_path / "runs").exists()
    assert "all is well" in capsys.readouterr().out


# -- settings and seeds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, is_advised",
    [
        (["--epochs", 10], True),
        (["--epochs", 11], False),
        (["--epochs", 10, "--augment", "none"], False),
        (["--recipe", "short"], False),
    ],
)
def test_in_few_epochs_the_short_recipe_is_advised(finetune, capsys, flags, is_advised):
    assert finetune("--dry-run", *flags) == 0
    assert ("--recipe short" in capsys.readouterr().err) == is_advised


@pytest.fixture
def backbone(tmp_path):
    """A backbone as the course's: a bare state_dict, with a head of other classes."""
    torch.manual_seed(7)
    state = build_network("tiny_classifier", num_classes=100).state_dict()
    torch.save(state, tmp_path / "backbone.pt")
    return state


def state_of(run):
    return checkpoint.read_model(run / "model.pt")["state"]


def test_each_setting_and_seed_has_a_run_folder_of_its_own(finetune, backbone, tmp_path):
    flags = ("--settings", "ca", "--seeds", 0, 1, "--ssl-backbone", tmp_path / "backbone.pt", "--epochs", 1)
    assert finetune(*flags) == 0
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders == ["A-seed0", "A-seed1", "C-seed0", "C-seed1"]
    assert not torch.equal(
        state_of(tmp_path / "runs/A-seed0")["fc.weight"], state_of(tmp_path / "runs/A-seed1")["fc.weight"]
    )
    # Alone, a setting is the same run: it is found finished.
    assert finetune("--settings", "A", "--epochs", 1) == 0


@pytest.mark.parametrize(
    "augment", ["unfrozen", "all"]
)  # on features computed once, and through the whole network
@pytest.mark.parametrize("setting, flag", [("D", "--sl-backbone"), ("E", "--ssl-backbone")])
def test_a_frozen_backbone_does_not_change_in_a_single_bit(
    finetune, backbone, tmp_path, setting, flag, augment
):
    assert finetune("--settings", setting, flag, tmp_path / "backbone.pt", "--augment", augment) == 0
    trained = state_of(tmp_path / "runs" / f"{setting}-seed0")
    for key, value in trained.items():
        if not key.startswith("fc."):
            assert torch.equal(value, backbone[key]), key
    config = json.loads((tmp_path / "runs" / f"{setting}-seed0" / "config.json").read_text())
    assert config["arguments"]["is_frozen"] is True


def test_a_frozen_run_says_by_its_sha256_that_its_backbone_did_not_change(
    finetune, backbone, tmp_path, capsys
):
    assert finetune("--settings", "D", "--sl-backbone", tmp_path / "backbone.pt", "--epochs", 1) == 0
    (said,) = re.findall("the backbone did not change: sha256 ([0-9a-f]{64})", capsys.readouterr().err)
    network = build_network("tiny_classifier", num_classes=3)
    assert said == backbone_sha256(network, backbone) != backbone_sha256(network)
    config = json.loads((tmp_path / "runs" / "D-seed0" / "config.json").read_text())
    assert config["arguments"]["backbone_sha256"] == said


@pytest.mark.parametrize("augment", ["none", "all"])
def test_a_backbone_that_changed_all_the_same_is_an_error(
    finetune, backbone, tmp_path, capsys, monkeypatch, augment
):
    def forget_to_freeze(network, is_frozen):
        network.train()(torch.rand(4, 3, 32, 32))  # moves the statistics of batch norm

    monkeypatch.setattr(p1_finetune.backbone, "set_training_mode", forget_to_freeze)
    flags = (
        "--settings",
        "D",
        "--sl-backbone",
        tmp_path / "backbone.pt",
        "--epochs",
        1,
        "--augment",
        augment,
    )
    assert finetune(*flags) == 2
    assert "D-seed0: the backbone has changed, which it must not" in capsys.readouterr().err


def test_the_features_of_a_frozen_backbone_are_computed_once_for_all_epochs_and_seeds(
    finetune, backbone, office, tmp_path, monkeypatch
):
    seen = []

    def count(network, images, *arguments):
        seen.append(len(images))
        return predict_images(network, images, *arguments)

    monkeypatch.setattr("models.backbone.predict_images", count)
    assert finetune("--settings", "E", "--seeds", 0, 1, "--ssl-backbone", tmp_path / "backbone.pt") == 0
    assert seen == [18, 9]
    run = tmp_path / "runs" / "E-seed1"
    assert torch.load(run / "last.pt", weights_only=True)["network"].keys() == {"weight", "bias"}
    rows = read_table(run / "predictions.csv", ("filename", "label"))
    # What was scored is what the whole network answers.
    assert [row["label"] for row in rows] == answers(
        run / "model.pt", [office / "val" / row["filename"] for row in rows]
    )


@pytest.mark.parametrize("average", [0, 0.9])
def test_a_killed_training_on_features_ends_with_the_same_weights(
    finetune, backbone, office, tmp_path, average
):
    flags = ("--settings", "D", "--sl-backbone", tmp_path / "backbone.pt", "--ema-decay", average)
    assert finetune(*flags, output="unbroken") == 0
    where = (
        "--data",
        office,
        "--output",
        tmp_path / "killed",
        "--cache",
        tmp_path / "cache",
        "--device",
        "cpu",
    )
    step = random.SystemRandom().randint(2, STEPS)  # any will do
    print("killed at step", step)
    train_until_killed(step, "p1_finetune.py", *where, *QUICK, *flags)
    assert finetune(*flags, output="killed") == 0
    assert_same_end(tmp_path / "unbroken" / "D-seed0", tmp_path / "killed" / "D-seed0")


def test_a_frozen_run_does_not_go_on_with_another_backbone(finetune, backbone, tmp_path, capsys):
    flags = ("--settings", "D", "--sl-backbone", tmp_path / "backbone.pt")
    assert finetune(*flags, "--max-minutes", 0) == 0
    torch.save(build_network("tiny_classifier", num_classes=2).state_dict(), tmp_path / "backbone.pt")
    assert finetune(*flags) == 2
    assert "backbone_sha256 was" in capsys.readouterr().err


def test_without_an_average_the_networks_own_weights_are_kept(finetune, tmp_path):
    assert finetune("--ema-decay", 0, "--epochs", 1) == 0
    last = torch.load(tmp_path / "runs" / "A-seed0" / "last.pt", weights_only=True)
    trained = state_of(tmp_path / "runs" / "A-seed0")
    assert all(torch.equal(value, trained[key]) for key, value in last["network"].items())


@pytest.mark.parametrize("setting, flag", [("B", "--sl-backbone"), ("C", "--ssl-backbone")])
def test_a_backbone_is_the_start_and_is_trained(finetune, backbone, tmp_path, setting, flag):
    assert finetune("--settings", setting, flag, tmp_path / "backbone.pt", "--epochs", 1, "--lr", 1e-5) == 0
    started, trained = (
        backbone["layer1.0.weight"],
        state_of(tmp_path / "runs" / f"{setting}-seed0")["layer1.0.weight"],
    )
    assert not torch.equal(trained, started)
    torch.testing.assert_close(trained, started, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda state: state.pop("layer2.0.weight"), r"lacks layer2\.0\.weight"),
        (
            lambda state: state.update({"online_encoder.net": torch.zeros(1)}),
            r"has an unknown online_encoder\.net",
        ),
        (
            lambda state: state.update({"layer1.0.bias": torch.zeros(9)}),
            r"has another shape of layer1\.0\.bias",
        ),
    ],
)
def test_what_is_no_backbone_of_the_network_is_refused_by_its_keys(
    finetune, backbone, tmp_path, capsys, change, complaint
):
    change(backbone)
    torch.save(backbone, tmp_path / "backbone.pt")
    assert finetune("--settings", "C", "--ssl-backbone", tmp_path / "backbone.pt") == 2
    assert re.search(complaint, capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (("--settings", "AF"), "--settings AF: there are only A, B, C, D, E"),
        (("--settings", "B"), "setting B starts from a backbone: give --sl-backbone FILE"),
        (("--settings", "E", "--sl-backbone", "x.pt"), "give --ssl-backbone FILE"),
        (
            ("--settings", "C", "--ssl-backbone", "x.pt", "--weights", "imagenet"),
            "--weights is for setting A alone",
        ),
        (("--batch-size", "1"), "--batch-size must be 2 at least"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_read(flags, complaint, capsys):
    with pytest.raises(SystemExit) as end:
        p1_finetune.parse_arguments(["--data", "nowhere", "--output", "runs", *flags])
    assert end.value.code == 2 and complaint in capsys.readouterr().err


# -- what it is given ----------------------------------------------------------------------------------------


def test_an_unreadable_image_is_named_and_left_out(finetune, office, tmp_path, capsys):
    (office / "train" / "4.png").write_bytes(b"no image")
    assert finetune() == 1
    assert "left out: " + str(office / "train" / "4.png") in capsys.readouterr().err
    assert (tmp_path / "runs" / "A-seed0" / "model.pt").is_file()


def test_a_missing_table_is_one_line_and_leaves_nothing(finetune, office, tmp_path, capsys):
    (office / "train.csv").unlink()
    assert finetune() == 2
    assert "train.csv: No such file" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_one_image_is_too_few(finetune, office, capsys):
    shutil.rmtree(office)
    write_office(office, train=1, val=1)
    assert finetune() == 2
    assert "1 of its images can be used; 2 at least are needed" in capsys.readouterr().err


def test_half_precision_is_used_where_the_processor_is_made_for_it(monkeypatch):
    network = build_network("tiny_classifier", num_classes=3)
    for has_amx, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda answer=has_amx: answer, raising=False)
        assert choose_precision("auto", torch.device("cpu"), network) == wanted
