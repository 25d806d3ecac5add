"""Arguments that a recipe fills in, and numbers that no training can do with."""

from __future__ import annotations

import argparse
import math
from typing import Any

LEAST = {
    "epochs": 1,
    "eval_every": 1,
    "batch_size": 2,  # batch norm needs two
    "image_size": 32,
    "crop_size": 32,
    "budget_minutes": 0.01,
    "max_minutes": 0,
    "seed": 0,
    "workers": 0,
    "probe_every": 1,
    "lr": 0,
    "backbone_lr": 0,
}


def add_training_flags(parser: argparse.ArgumentParser, recipes: dict[str, dict[str, Any]]) -> None:
    """The flags that every training script has. Those without a default get their value from the recipe."""
    add = parser.add_argument
    add("--recipe", default="default", choices=sorted(recipes), help="the arguments not given by hand")
    # how long
    add("--epochs", type=int, help="passes over the training images")
    add("--budget-minutes", type=float, help="instead of --epochs: as many steps as these minutes hold, fixed once")
    add("--max-minutes", type=float, help="stop this invocation then; the same command goes on")
    # what the recipe says otherwise
    add("--batch-size", type=int, help="images a step; halve it when the GPU's memory is short")
    add("--lr", type=float, help="learning rate at its highest")
    # the machine
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--cache", help="folder for decoded images (default: the user's cache folder)")


def fill_in(parser: argparse.ArgumentParser, args: argparse.Namespace, recipe: dict[str, Any]) -> None:
    """Give every argument that was not given by hand its value from the recipe; end with usage where one is absurd."""
    for name, value in recipe.items():
        if vars(args).get(name) is None:
            setattr(args, name, value)
    for name, least in LEAST.items():
        value = vars(args).get(name)
        if value is not None and not least <= value < math.inf:
            parser.error(f"--{name.replace('_', '-')} must be {least} at least")
