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
    "workers": 0,
    "probe_every": 1,
    "lr": 0,
    "backbone_lr": 0,
}


def add_training_flags(parser: argparse.ArgumentParser, recipes: dict[str, dict[str, Any]]) -> None:
    """The flags that every training script has. Those without a default get their value from the recipe."""
    add = parser.add_argument
    add(
        "--output",
        type=nonempty_path,
        required=True,
        help="folder for what a run writes; given again, the run goes on",
    )
    add("--recipe", default="default", choices=sorted(recipes), help="the arguments not given by hand")
    # how long
    add("--epochs", type=int, help="passes over the training images")
    add(
        "--budget-minutes",
        type=float,
        help="instead of --epochs: as many steps as these minutes hold, fixed once",
    )
    add("--max-minutes", type=float, help="stop this invocation then; the same command goes on")
    # what the recipe says otherwise
    add("--batch-size", type=int, help="images a step; halve it when the GPU's memory is short")
    add("--lr", type=float, help="learning rate at its highest")
    # the machine
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--cache", help="folder for decoded images (default: the user's cache folder)")


def add_photograph_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="the course's office folder: train/, train.csv, val/, val.csv")
    parser.add_argument("--train-images", help="instead of --data: a folder of images")
    parser.add_argument("--train-csv", help="their labels (default: those in names such as 7_123.png)")
    parser.add_argument("--val-images", help="images to validate on (default: every 20th of --train-images)")
    parser.add_argument("--val-csv", help="their labels (default: those in the names)")


def check_photograph_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with usage where a flag lacks its partner; turn --data into the four others."""
    if bool(args.data) == bool(args.train_images):
        parser.error("say where the photographs are: --data FOLDER, or --train-images FOLDER, one of the two")
    for flag, needed in (
        ("train_csv", "train_images"),
        ("val_images", "train_images"),
        ("val_csv", "val_images"),
    ):
        if vars(args)[flag] and not vars(args)[needed]:
            parser.error(
                f"--{flag.replace('_', '-')} goes with --{needed.replace('_', '-')} FOLDER: give both"
            )
    if args.data:
        args.train_images, args.train_csv = f"{args.data}/train", f"{args.data}/train.csv"
        args.val_images, args.val_csv = f"{args.data}/val", f"{args.data}/val.csv"


def fill_in(parser: argparse.ArgumentParser, args: argparse.Namespace, recipe: dict[str, Any]) -> None:
    """Give every argument that was not given by hand its value from the recipe; end with usage where one is
    absurd.
    """
    for name, value in recipe.items():
        if vars(args).get(name) is None:
            setattr(args, name, value)
    for seed in (vars(args).get("seeds") or []) + [vars(args).get("seed") or 0]:
        if not 0 <= seed < 2**32:
            parser.error("seeds must be from 0 to 4294967295")
    for name, least in LEAST.items():
        value = vars(args).get(name)
        if value is not None and not least <= value < math.inf:
            parser.error(f"--{name.replace('_', '-')} must be {least} at least, and finite")


def nonempty_path(text: str) -> str:
    """For argparse: a path, which an empty argument is not (it would mean the working directory)."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a path")
    return text


def positive_count(text: str) -> int:
    """For argparse: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def positive_number(text: str) -> float:
    """For argparse: a number above 0."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value
