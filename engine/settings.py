"""Settings A to E of problem 1: where the backbone starts, whether it is trained, and what a run of one
depends on.
"""

from __future__ import annotations

import argparse

# Which flag names the file of the backbone (None: random weights), and whether the backbone stays as it is.
SETTINGS = {
    "A": (None, False),
    "B": ("sl_backbone", False),
    "C": ("ssl_backbone", False),
    "D": ("sl_backbone", True),
    "E": ("ssl_backbone", True),
}


def check_settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Bring --settings and --seeds into order; end with usage where a setting lacks its backbone."""
    if not args.settings:
        parser.error("--settings wants at least one letter")
    args.settings = "".join(dict.fromkeys(args.settings.upper()))
    args.seeds = list(dict.fromkeys(args.seeds))
    for setting in args.settings:
        if setting not in SETTINGS:
            parser.error(f"--settings {args.settings}: there are only {', '.join(SETTINGS)}")
        source = SETTINGS[setting][0]
        if source is not None and vars(args)[source] is None:
            parser.error(f"setting {setting} starts from a backbone: give --{source.replace('_', '-')} FILE")
        if source is not None and args.weights != "none":
            parser.error(f"--weights is for setting A alone; {setting} starts from its backbone")
    if args.weights == "imagenet" and args.stem != "7x7":
        parser.error("ImageNet's weights are for the published stem: give --stem 7x7 too")


def arguments_of_run(args: argparse.Namespace, setting: str, seed: int) -> argparse.Namespace:
    """What one run depends on: the other settings, seeds and backbones of the same command are none of it."""
    others = ("settings", "seeds", "sl_backbone", "ssl_backbone")
    own = {name: value for name, value in vars(args).items() if name not in others}
    source, is_frozen = SETTINGS[setting]
    own.update(setting=setting, seed=seed, is_frozen=is_frozen, backbone=source and vars(args)[source])
    own.update(is_augmented=args.augment == "all" or (args.augment == "unfrozen" and not is_frozen))
    return argparse.Namespace(**own)
