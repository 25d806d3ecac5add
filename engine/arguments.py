"""The flags that training scripts share, what a recipe fills in, and numbers that no training can do with."""

from __future__ import annotations

import argparse
import difflib
import math
from typing import Any, Callable

from engine.schedule import SCHEDULES

LEAST = {
    **dict.fromkeys(("epochs", "eval_every", "probe_every"), 1),
    **dict.fromkeys(("batch_size", "micro_batch"), 2),  # as batch norm needs
    **dict.fromkeys(("image_size", "crop_size"), 32),
    **dict.fromkeys(("lr", "backbone_lr", "weight_decay", "warmup_steps", "max_minutes", "workers"), 0),
    "budget_minutes": 0.01,
}
SHARES = ("ema_decay", "holdout", "label_smoothing", "target_decay")  # from 0 to less than 1
OF_ITSELF = "assumed"  # the key under which a recipe speaks of itself; it is no argument
SEED = {  # of the flag --seed, where a script makes one run
    "type": int,
    "default": 0,
    "help": "fixes every random choice; bit for bit on a CPU, closely on a GPU (default 0)",
}


def parser_for(doc: str, **options: Any) -> argparse.ArgumentParser:
    """A parser whose help begins with a module's docstring, as it stands."""
    layout = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, formatter_class=layout, **options)


def flag_adder(
    parser: argparse.ArgumentParser, recipes: dict[str, dict[str, Any]]
) -> Callable[..., argparse.Action]:
    """The parser's add_argument; the help of a flag that recipes fill in ends with the default value."""

    def add(*names: str, **options: Any) -> argparse.Action:
        action = parser.add_argument(*names, **options)
        value = recipes["default"].get(action.dest)
        if value is not None:
            shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            action.help = f"{action.help} (default recipe: {shown})"
        return action

    return add


def add_training_flags(parser: argparse.ArgumentParser, recipes: dict[str, dict[str, Any]]) -> None:
    """The flags that every training script has. Those without a default get their value from the recipe."""
    add = flag_adder(parser, recipes)
    output = "folder for what a run writes; given again, the run resumes"
    add("--output", type=nonempty_path, required=True, help=output)
    add("--recipe", default="default", choices=sorted(recipes), help="the arguments not given by hand")
    # how long
    add("--epochs", type=int, help="passes over the training images")
    budget = "instead of --epochs: as many steps as these minutes hold, by 15 of them, which are undone"
    add("--budget-minutes", type=float, help=budget)
    add("--max-minutes", type=float, help="stop this invocation then; the same command resumes")
    # how it steps
    add("--batch-size", type=int, help="images a step")
    parts = "images at a time, of which a step adds up the gradients (default: all, halved where memory is "
    parts += "short); batch norm, dropout, BYOL's embedding_std and soft IoU are each part's own"
    add("--micro-batch", type=int, help=parts)
    add("--optimizer", choices=("adamw", "adam", "sgd"), help="what makes the steps")
    add("--lr", type=float, help="learning rate at its highest")
    add("--schedule", choices=sorted(SCHEDULES), help="of the learning rate, after its warm-up")
    add("--warmup-steps", type=int, help="over which the learning rate rises; a quarter of the run at most")
    add("--weight-decay", type=float, help="of weights; biases and norms have none, but in some recipes")
    # what a recipe alone says
    parser.set_defaults(nesterov=None, decay_all=None, last_rate=None, milestones=None)
    # the machine
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    how = "of the network in training (auto: bf16 from Ampere on and on CPUs with AMX, fp16 on Volta and "
    how += "Turing, else fp32, by TF32 where it is there); losses, validation and inference are fp32"
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), help=how)
    add("--cache", help="folder for decoded images (default: the user's cache folder)")
    dry_run = "check the data, build everything, run a few steps, write no run folder"
    add("--dry-run", action="store_true", help=dry_run)


def add_scoring_flags(parser: argparse.ArgumentParser, what: str) -> None:
    """The flags of scripts that score `what` after epochs, and keep weights of some."""
    add, scorings = parser.add_argument, f"epochs between two scorings of the validation {what} (default 1)"
    add("--eval-every", type=int, default=1, help=scorings)
    kept = "epochs whose weights are kept (default: first, middle, last)"
    add("--snapshot-epochs", type=int, nargs="+", help=kept)
    add("--workers", type=int, help="processes that cut crops (default: none on a CPU, up to 8 beside a GPU)")


def fill_in(
    parser: argparse.ArgumentParser, args: argparse.Namespace, recipes: dict[str, dict[str, Any]]
) -> None:
    """Give what was not given by hand its value from the recipe that `args` name. End with usage where that
    has a key that is no argument, or lacks one, and where a value is absurd."""
    recipe, known = recipes[args.recipe], {*vars(args), OF_ITSELF}
    for name in recipe:
        if name not in known:
            alike = difflib.get_close_matches(name, known, n=1)
            meant = f"; is {alike[0]!r} meant?" if alike else ""
            parser.error(f"recipe {args.recipe!r}: there is no argument {name!r}{meant}")
    for name in recipes["default"]:
        if name not in recipe:
            parser.error(f"recipe {args.recipe!r} lacks {name!r}; begin it with **RECIPES['default']")
    for name, value in recipe.items():
        if name != OF_ITSELF and vars(args)[name] is None:
            setattr(args, name, value)
    if args.schedule == "step" and args.milestones is None:
        parser.error("--schedule step falls at milestones, which a recipe names; this one has none")
    for seed in (vars(args).get("seeds") or []) + [vars(args).get("seed") or 0]:
        if not 0 <= seed < 2**32:
            parser.error("seeds must be from 0 to 4294967295")
    for name in SHARES:
        value = vars(args).get(name) or 0
        if not (isinstance(value, (int, float)) and 0 <= value < 1):  # a recipe may hold anything
            parser.error(f"{dashed(name)} must be 0 at least and less than 1")
    for name, least in LEAST.items():
        value = vars(args).get(name)
        if value is not None and not (isinstance(value, (int, float)) and least <= value < math.inf):
            parser.error(f"{dashed(name)} must be {least} at least, and a finite number")


def dashed(name: str) -> str:
    """The flag of an argument: image_size → --image-size."""
    return f"--{name.replace('_', '-')}"


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
