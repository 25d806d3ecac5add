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
    "lr": 0,
    "backbone_lr": 0,
}


def fill_in(parser: argparse.ArgumentParser, args: argparse.Namespace, recipe: dict[str, Any]) -> None:
    """Give every argument that was not given by hand its value from the recipe; end with usage where one is absurd."""
    for name, value in recipe.items():
        if vars(args).get(name) is None:
            setattr(args, name, value)
    for name, least in LEAST.items():
        value = vars(args).get(name)
        if value is not None and not least <= value < math.inf:
            parser.error(f"--{name.replace('_', '-')} must be {least} at least")
