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
def test_every_recipe_there_is_can_be_chosen(script):
    for name, recipe in script.RECIPES.items():
        args = script.parse_arguments([*GIVEN[script], "--recipe", name])
        assert all(vars(args)[key] == value for key, value in recipe.items() if key != "assumed")
        assert not hasattr(args, "assumed")  # what a recipe says of itself is no argument of the run


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
