"""What p1_finetune.py can be told: where images lie, recipes, heads; and what it loads of whose
backbone.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import p1_finetune
from datasets import sampling
from datasets.augment import ImageCrops
from datasets.labelled import LabelledImages, load_training_data
from engine.base import UserError, run_script
from models.backbone import head_of, load_backbone, with_other_head
from models.builders import build_network


def parse(*flags):
    return p1_finetune.parse_arguments([str(flag) for flag in ("--output", "runs", *flags)])


# -- images ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """45 images, {label}_{number}.png, of three classes."""
    (tmp_path / "train_50").mkdir()
    for number in range(45):
        pixels = np.full((32, 32, 3), 5 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "train_50" / f"{number % 3}_{number}.png")
    return tmp_path / "train_50"


@pytest.fixture
def load(tmp_path):
    def load(*flags):
        args = parse("--image-size", 32, "--cache", tmp_path / "cache", *flags)
        train, validation = (args.train_images, args.train_csv), (args.val_images, args.val_csv)
        return load_training_data(train, validation, args.image_size, args.cache)

    return load


def test_labels_are_in_the_names_where_no_csv_is_given(load, folder):
    split = load("--train-images", folder, "--val-images", folder)
    assert split.classes == ["0", "1", "2"] and len(split.images) == len(split.validation) == 45
    for images in (split.images, split.validation):
        assert [name.split("_")[0] for name in images.names] == [str(label) for label in images.labels]


def test_every_20th_usable_image_is_held_out_where_none_are_given_for_validation(load, folder, capsys):
    everything = load("--train-images", folder, "--val-images", folder).images.names
    (folder / everything[3]).write_bytes(b"no image")
    split = load("--train-images", folder)
    usable = [name for name in everything if name != everything[3]]
    assert split.validation.names == [usable[19], usable[39]]
    assert split.images.names == [name for name in usable if name not in split.validation.names]
    for images in (split.images, split.validation):
        for index, name in enumerate(images.names):
            label, number = name[:-4].split("_")
            assert images.labels[index] == int(label)
            assert (images.image(index) == 5 * int(number)).all()
    assert split.left_out == 1
    assert "2 of the 44 images, every 20th, are held out" in capsys.readouterr().err


def test_a_share_of_the_labels_is_drawn_by_class_and_seed(load, folder):
    everything = load("--train-images", folder, "--val-images", folder)
    part, again, other = (everything.with_labels_of(0.2, seed) for seed in (0, 0, 1))
    assert np.bincount(part.images.labels).tolist() == [3, 3, 3] and len(part.validation) == 45
    assert part.images.names == again.images.names != other.images.names
    few = everything.with_labels_of(0.01, 0)  # never a class without an image
    assert np.bincount(few.images.labels).tolist() == [1, 1, 1]


def test_a_table_names_the_labels_and_too_few_to_hold_one_out_are_refused(load, folder, tmp_path):
    (tmp_path / "train.csv").write_text("filename,label\n0_0.png,Mug\n1_1.png,Bed\n")
    split = load("--train-images", folder, "--train-csv", tmp_path / "train.csv", "--val-images", folder,
                 "--val-csv", tmp_path / "train.csv")  # fmt: skip
    assert split.classes == ["Bed", "Mug"] and split.validation.names == ["0_0.png", "1_1.png"]
    with pytest.raises(UserError, match="of 2 images none can be held out .*give --val-images"):
        load("--train-images", folder, "--train-csv", tmp_path / "train.csv")


def test_a_name_without_a_label_is_named(load, folder):
    (folder / "0_0.png").rename(folder / "photo.png")
    with pytest.raises(UserError, match="photo.png has no label in its name"):
        load("--train-images", folder)


@pytest.mark.parametrize(
    "flags, complaint",
    [
        ((), "--data FOLDER, or --train-images FOLDER, one of the two"),
        (("--data", "a", "--train-images", "b"), "one of the two"),
        (("--data", "a", "--val-images", "b"), "--val-images goes with --train-images FOLDER"),
        (("--data", "a", "--train-csv", "b"), "--train-csv goes with --train-images FOLDER"),
        (("--train-images", "a", "--val-csv", "b"), "--val-csv goes with --val-images FOLDER"),
        (("--data", "a", "--label-smoothing", 1), "--label-smoothing must be"),
        (("--data", "a", "--ema-decay", -0.1), "--ema-decay must be"),
        (("--data", "a", "--stem", "5x5"), "invalid choice: '5x5'"),
        (("--data", "a", "--mix", "blend"), "invalid choice: 'blend'"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, complaint, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*flags)
    assert end.value.code == 2 and complaint in capsys.readouterr().err


def test_augmentation_is_for_the_settings_that_it_is_asked_for(load, folder, tmp_path):
    for augment, settings in (("all", "ABCDE"), ("unfrozen", "ABC"), ("none", "")):
        args = parse("--data", "x", "--augment", augment, "--settings", "ABCDE", "--sl-backbone", "x",
                     "--ssl-backbone", "x")  # fmt: skip
        runs = [p1_finetune.arguments_of_run(args, setting, 0) for setting in "ABCDE"]
        assert "".join(run.setting for run in runs if run.is_augmented) == settings


@pytest.mark.parametrize("augment, seen", [("all", ImageCrops), ("none", LabelledImages)])
def test_without_augmentation_training_sees_what_inference_sees(folder, tmp_path, monkeypatch, augment, seen):
    given = []

    def loader_of(samples, *arguments, **more):
        given.append(samples)
        return sampling.EpochLoader(samples, *arguments, **more)

    monkeypatch.setattr(p1_finetune, "EpochLoader", loader_of)
    small = ("--model", "resnet18", "--batch-size", 2, "--image-size", 32, "--cache", tmp_path / "cache")
    args = parse("--train-images", folder, *small, "--augment", augment, "--device", "cpu", "--dry-run")
    assert p1_finetune.main(args) == 0
    assert [type(samples) for samples in given] == [seen]


# -- recipes -------------------------------------------------------------------------------------------------


def test_images_with_labels_in_their_names_are_taken_for_small_ones_and_others_are_not():
    named = parse("--train-images", "train_50", "--val-images", "val_50")
    assert (named.recipe, named.model, named.image_size, named.crop_size, named.stem) == (
        "small", "resnet34", 32, 32, "3x3",
    )  # fmt: skip
    assert (named.weights, named.augment) == ("none", "unfrozen") and named.shift > 0
    for flags in (("--data", "x"), ("--train-images", "x", "--train-csv", "x.csv")):
        listed = parse(*flags)
        assert (listed.recipe, listed.model, listed.image_size, listed.crop_size, listed.stem) == (
            "default", "resnet50", 128, 112, "7x7",
        )  # fmt: skip
        assert (listed.shift, listed.mix) == (0, "none")
    assert parse("--train-images", "x", "--recipe", "default").recipe == "default"
    assert parse("--data", "x", "--recipe", "small").image_size == 32


def test_weights_that_cannot_be_had_end_a_report_s_recipe_in_one_line_with_the_way_out(
    folder, tmp_path, monkeypatch, capsys
):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    flags = (
        "--train-images",
        folder,
        "--recipe",
        "report000",
        "--image-size",
        32,
        "--cache",
        tmp_path / "cache",
    )
    args = parse(*flags, "--device", "cpu", "--output", tmp_path / "runs")
    with pytest.raises(SystemExit) as end:
        run_script(lambda: p1_finetune.main(args))
    said = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "no route to host" in line]
    assert line == said.splitlines()[-1] and "--weights none" in line
    assert not (tmp_path / "runs").exists()


def test_a_vgg_starts_at_a_rate_that_it_can_learn_at():
    assert parse("--data", "x", "--model", "vgg16_bn").lr == 2e-4 and parse("--data", "x").lr == 1e-3
    assert parse("--data", "x", "--model", "vgg16_bn", "--recipe", "report003").lr == 1e-3  # its own, by SGD
    assert parse("--data", "x", "--model", "vgg16_bn", "--lr", 0.01).lr == 0.01


def test_a_flag_overrides_the_recipe():
    args = parse(
        "--data", "x", "--recipe", "report004", "--epochs", 3, "--model", "resnet18", "--ema-decay", 0.9
    )
    assert (args.epochs, args.model, args.ema_decay, args.batch_size) == (3, "resnet18", 0.9, 128)
    args = parse("--data", "x", "--ema-decay", 0, "--label-smoothing", 0, "--augment", "none")
    assert (args.ema_decay, args.label_smoothing, args.augment) == (0, 0, "none")


def test_all_recipes_decide_the_same_things():
    assert len({frozenset({*recipe, "assumed"}) for recipe in p1_finetune.RECIPES.values()}) == 1


# -- heads ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def course_file(tmp_path_factory):
    """As pretrain_model_SL.pt: a bare state_dict of a ResNet50 with a 1000-way fc; its state and its path."""
    path = tmp_path_factory.mktemp("course") / "pretrain_model_SL.pt"
    state = build_network("resnet50", num_classes=1000).state_dict()
    torch.save(state, path)
    return state, path


@pytest.mark.parametrize("name", ["resnet50", "resnet50_bn", "resnet50_mlp", "resnet50_fc1000"])
def test_every_head_takes_the_same_backbone_and_says_what_stays_new(name, course_file):
    state, path = course_file
    network = build_network(name, num_classes=5)
    before = {key: value.clone() for key, value in head_of(network).state_dict().items()}
    said = load_backbone(network, path)
    new = [
        key for key in network.state_dict() if key.startswith("classifier." if "fc1000" in name else "fc.")
    ]
    assert said == f"{path}: {len(network.state_dict()) - len(new)} tensors loaded; new: {', '.join(new)}"
    for key, value in network.state_dict().items():
        assert key in new or torch.equal(value, state[key]), key
    assert all(torch.equal(value, before[key]) for key, value in head_of(network).state_dict().items())


def test_the_fc_of_report001_stays_random_where_the_file_has_none_of_its_shape(course_file, tmp_path):
    state, _ = course_file
    without = {key: value for key, value in state.items() if not key.startswith("fc.")}
    for number, file in enumerate(
        (without, {**without, "fc.weight": torch.ones(65, 2048), "fc.bias": torch.ones(65)})
    ):
        torch.save(file, tmp_path / f"{number}.pt")
        network = build_network("resnet50_fc1000", num_classes=5)
        random_fc = network.fc.weight.clone()
        said = load_backbone(network, tmp_path / f"{number}.pt")
        assert said.endswith("new: fc.weight, fc.bias, classifier.weight, classifier.bias")
        assert torch.equal(network.fc.weight, random_fc)


@pytest.mark.parametrize("name", ["resnet50", "resnet50_fc1000"])
def test_a_key_that_is_nobodys_is_refused_by_every_head(name, course_file, tmp_path):
    state, _ = course_file
    torch.save({**state, "projector.weight": torch.zeros(1)}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=r"has an unknown projector\.weight"):
        load_backbone(build_network(name, num_classes=5), tmp_path / "odd.pt")


def test_the_state_with_another_head_is_the_network_but_for_that():
    network, head = build_network("resnet18", num_classes=5), torch.nn.Linear(512, 5)
    state, expected = with_other_head(network, head), network.state_dict()
    expected.update({"fc.weight": head.weight.detach(), "fc.bias": head.bias.detach()})
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)
