"""A recipe is a dict of argument values: its keys are arguments, its values can be seen and overridden."""

from __future__ import annotations

import pytest

import p1_finetune
import p1_ssl_pretrain
import p2_train

GIVEN = {
    p1_ssl_pretrain: ("--images", "x", "--output", "y"),
    p1_finetune: ("--data", "x", "--output", "y"),
    p2_train: ("--data", "x", "--output", "y"),
}
SCRIPTS = pytest.mark.parametrize("script", GIVEN, ids=lambda script: script.__name__)


@SCRIPTS
@pytest.mark.parametrize("name", ["ours", "default"])
def test_a_misspelt_key_is_refused_by_its_name_and_the_recipes(script, name, monkeypatch, capsys):
    recipe = dict(script.RECIPES["default"])
    recipe["epoch"] = recipe.pop("epochs")
    monkeypatch.setitem(script.RECIPES, name, recipe)
    with pytest.raises(SystemExit) as end:
        script.parse_arguments([*GIVEN[script], "--recipe", name])
    said = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2
    assert f"recipe '{name}': there is no argument 'epoch'; is 'epochs' meant?" in said


@SCRIPTS
def test_a_recipe_that_leaves_something_open_is_refused(script, monkeypatch, capsys):
    monkeypatch.setitem(script.RECIPES, "ours", {"epochs": 3})
    with pytest.raises(SystemExit):
        script.parse_arguments([*GIVEN[script], "--recipe", "ours"])
    assert "recipe 'ours' lacks" in capsys.readouterr().err


@SCRIPTS
def test_a_rate_that_is_no_number_is_refused(script, monkeypatch, capsys):
    monkeypatch.setitem(script.RECIPES, "ours", {**script.RECIPES["default"], "lr": "1e-3"})
    with pytest.raises(SystemExit) as end:
        script.parse_arguments([*GIVEN[script], "--recipe", "ours"])
    assert end.value.code == 2 and "--lr must be 0" in capsys.readouterr().err


@SCRIPTS
def test_every_recipe_there_is_can_be_chosen(script):
    for name, recipe in script.RECIPES.items():
        args = script.parse_arguments([*GIVEN[script], "--recipe", name])
        assert all(vars(args)[key] == value for key, value in recipe.items() if key != "assumed")
        assert not hasattr(args, "assumed")  # what a recipe says of itself is no argument of the run


# -- what the reports' authors ran ---------------------------------------------------------------------------

# A row: script, recipe, and what it resolves to: network, weights; optimiser, rate, weight decay; schedule;
# epochs, batch; edition.
SSL, ONE, TWO = p1_ssl_pretrain, p1_finetune, p2_train
TABLE = [
    (SSL, "report001", "resnet50", "none", "adam", 1e-4, 0, "constant", 200, 64, None),
    (SSL, "report004", "resnet50", "none", "adamw", 1e-4, 0.05, "cosine", 1000, 256, None),
    (ONE, "report000", "resnet34", "imagenet", "adam", 5e-4, 2e-4, "step", 25, 64, "2021"),
    (ONE, "report001", "resnet50_fc1000", "none", "adam", 3e-4, 0, "constant", 50, 16, "2024"),
    (ONE, "report002", "vgg16_bn", "imagenet", "adam", 1e-4, 0, "constant", 50, 64, "2021"),
    (ONE, "report003", "vgg16", "imagenet", "sgd", 1e-3, 0, "step", 120, 64, "2021"),
    (ONE, "report004", "resnet50_report004", "none", "adamw", 1e-4, 0.05, "cosine", 500, 128, "2024"),
    (TWO, "report000", "fcn8s_conv2x2", "imagenet", "adam", 2e-4, 1e-5, "constant", 35, 64, "2021"),
    (TWO, "report000_a", "fcn32s_conv2x2", "imagenet", "adam", 2e-4, 1e-5, "constant", 35, 64, "2021"),
    (TWO, "report001", "deeplabv3_resnet101", "coco", "adam", 5e-5, 0, "constant", 20, 32, "2024"),
    (TWO, "report001_a", "fcn32s_staged", "imagenet", "adam", 5e-5, 0, "constant", 20, 64, "2024"),
    (TWO, "report002", "resnet34_fcn8s", "imagenet", "adam", 1e-4, 0, "constant", 50, 16, "2021"),
    (TWO, "report002_a", "fcn32s_paper", "imagenet", "adam", 1e-4, 0, "constant", 50, 16, "2021"),
    (TWO, "report003", "fcn8s", "imagenet", "adam", 2e-4, 0, "constant", 75, 4, "2021"),
    (TWO, "report003_a", "fcn32s_deconv", "imagenet", "adam", 2e-4, 0, "constant", 75, 4, "2021"),
    (TWO, "report004", "deeplabv3_resnet101", "imagenet", "adamw", 1e-4, 0.05, "cosine", 30, 8, "2024"),
    (TWO, "report004_a", "fcn32s_bilinear", "imagenet", "adamw", 1e-4, 0.05, "cosine", 30, 16, "2024"),
]
COLUMNS = ("model", "weights", "optimizer", "lr", "weight_decay", "schedule", "epochs", "batch_size")

# What else a report's recipe has that is not the plain choice of PLAINLY.
ADAMW_4000 = {"warmup_steps": 4000, "last_rate": 0.005, "decay_all": True, "image_share": 0.85}
FIRST_CLASS_HALF = [2, 1, 2, 2, 2, 2, 2]  # agriculture, the second
PIXELS_AS_THEY_ARE = {"mean": [0, 0, 0], "std": [1, 1, 1]}
OF_000 = {
    "scale": 0.5,
    "mean": [0.4092, 0.3792, 0.2816],
    "std": [0.1375, 0.1025, 0.0919],
    "learns_unknown": True,
    "snapshot_epochs": [5, 10, 30],
    "pictures": ["0010", "0097", "0107"],
}
OF_001 = {
    "augment": "recipe",
    "learns_unknown": True,
    "snapshot_epochs": [5, 10, 11, 15, 20],
    "pictures": ["0013", "0062", "0104"],
}
OF_002 = {"snapshot_epochs": [5, 25, 50]}
OF_003 = {
    "augment": "recipe",
    "changes": [{"hflip": 0.5, "vflip": 0.5}],
    "alpha": FIRST_CLASS_HALF,
    "learns_unknown": True,
    **PIXELS_AS_THEY_ARE,
}
MORE = {
    (SSL, "report001"): {"views": "stock", "precision": "fp16"},
    (SSL, "report004"): {"views": "stock", **ADAMW_4000},
    (ONE, "report000"): {
        "image_size": 224,
        "decay_all": True,
        "milestones": {"epochs": [9, 14], "factor": 0.1},
        "augment": "all",
        "changes": [{"jitter": [0.3, 0.3, 0, 0, 1], "hflip": 0.5, "rotation": 35}],
    },
    (ONE, "report001"): {"padded": True, "augment": "all"},
    (ONE, "report002"): {"image_size": 224},
    (ONE, "report003"): {
        "image_size": 40,
        "milestones": {"steps": [8000, 16000, 24000, 32000, 40000], "factor": 0.7},
        "augment": "all",
        **PIXELS_AS_THEY_ARE,
    },
    (ONE, "report004"): {"augment": "all", "warmup_steps": 100},
    **{(TWO, name): OF_000 for name in ("report000", "report000_a")},
    **{(TWO, name): OF_001 for name in ("report001", "report001_a")},
    **{(TWO, name): OF_002 for name in ("report002", "report002_a")},
    **{(TWO, name): OF_003 for name in ("report003", "report003_a")},
    (TWO, "report004"): {"augment": "flips", "gamma": 2, "alpha": [0.25], "warmup_steps": 500},
    (TWO, "report004_a"): {"warmup_steps": 500},
}
PLAINLY = {
    "precision": "auto",
    "views": "two",
    "warmup_steps": 0,
    "last_rate": 0,
    "milestones": None,
    "nesterov": False,
    "decay_all": False,
    "augment": "none",
    "mean": None,
    "std": None,
    "scale": 1,
    "gamma": 0,
    "alpha": [1],
    "learns_unknown": False,
    "auxiliary_weight": 0,
    "soft_iou": 0,
    "balanced": False,
    "ema_decay": 0,
    "label_smoothing": 0,
    "mix": "none",
    "shift": 0,
    "stem": "7x7",
    "image_size": 128,
    "padded": False,
    "image_share": 1,
    "snapshot_epochs": None,
    "pictures": None,
}
MAY_BE_MORE = {"changes", "nesterov"}  # told below, or of no effect


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0].__name__}-{row[1]}")
def test_a_reports_recipe_is_what_its_author_ran(row):
    script, recipe, *values = row
    args = vars(script.parse_arguments([*GIVEN[script], "--recipe", recipe]))
    *wanted, year = values
    assert [args[name] for name in COLUMNS] == wanted
    assert args.get("edition") == year
    more = MORE[script, recipe]
    for name, plainly in PLAINLY.items():
        if name in args and name not in MAY_BE_MORE:
            assert args[name] == more.get(name, plainly), name
    assert more.get("changes") in (None, args.get("changes"))


def test_no_recipe_of_a_report_is_without_its_row():
    rows = {(script, name) for script, name, *_ in TABLE}
    assert rows == {(script, name) for script in GIVEN for name in script.RECIPES if "report" in name}


@pytest.mark.parametrize("script, name, count", [(ONE, "report001", 8), (TWO, "report001", 7),
                                                 (TWO, "report001_a", 6)])  # fmt: skip
def test_report001_shows_each_image_so_often(script, name, count):
    changes = script.RECIPES[name]["changes"]
    assert len(changes) == count and changes[0] == {} and {"hflip": 1} in changes and {"vflip": 1} in changes


def test_report004_draws_byol_pytorchs_augmentation_for_each_image():
    (changes,) = ONE.RECIPES["report004"]["changes"]
    assert changes["jitter"] == [0.8, 0.8, 0.8, 0.2, 0.3] and changes["grey"] == 0.2
    assert changes["blur"][0] == 0.2 and "hflip" in changes and "crop" in changes


@SCRIPTS
def test_what_a_recipe_assumes_is_an_argument_or_told_in_words(script):
    for name, recipe in script.RECIPES.items():
        assert ("assumed" in recipe) == name.startswith("report")
        args = vars(script.parse_arguments([*GIVEN[script], "--recipe", name]))
        assert all(said in args or " " in said for said in recipe.get("assumed", [])), name


def test_a_flag_beats_the_recipe_and_the_recipe_the_environment(monkeypatch):
    monkeypatch.setenv("EDITION", "2022")
    given = [*GIVEN[TWO], "--recipe", "report000"]
    assert TWO.parse_arguments(given).edition == "2021"
    args = TWO.parse_arguments([*given, "--edition", "2020", "--snapshot-epochs", "7", "--pictures", "0001"])
    assert (args.edition, args.snapshot_epochs, args.pictures) == ("2020", [7], ["0001"])
    assert TWO.parse_arguments([*GIVEN[TWO]]).edition is None  # then it is EDITION's


@pytest.mark.parametrize(
    "flags, complaint",
    [
        (["--schedule", "step"], "falls at milestones"),
        (["--augment", "recipe"], "has none of its own"),
        (["--alpha", *"1234567"], "--alpha wants 1 or 6 numbers"),
    ],
)
def test_what_a_recipe_alone_says_cannot_be_asked_of_one_that_does_not(flags, complaint, capsys):
    with pytest.raises(SystemExit):
        TWO.parse_arguments([*GIVEN[TWO], *flags])
    assert complaint in capsys.readouterr().err


# -- flags ---------------------------------------------------------------------------------------------------


@SCRIPTS
def test_flags_that_make_the_steps_are_the_same_everywhere(script):
    flags = "--optimizer sgd --schedule poly --warmup-steps 7 --weight-decay 0.5 --lr 0.25 --batch-size 6"
    args = script.parse_arguments([*GIVEN[script], *flags.split(), "--epochs", "9", "--dry-run"])
    assert (args.optimizer, args.schedule, args.warmup_steps, args.weight_decay) == ("sgd", "poly", 7, 0.5)
    assert (args.lr, args.batch_size, args.epochs, args.dry_run) == (0.25, 6, 9, True)


@SCRIPTS
def test_the_help_shows_what_the_recipe_says(script, capsys):
    with pytest.raises(SystemExit):
        script.parse_arguments(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for key in ("epochs", "lr", "batch_size", "optimizer", "schedule", "warmup_steps", "weight_decay"):
        assert f"(default recipe: {script.RECIPES['default'][key]})" in said, key
