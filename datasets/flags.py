"""The flags that say where labelled photographs lie. Imports nothing slow: mistakes don't wait."""

from __future__ import annotations

import argparse


def add_photograph_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="the course's office folder: train/, train.csv, val/, val.csv")
    parser.add_argument("--train-images", help="instead of --data: a folder of images")
    parser.add_argument("--train-csv", help="their labels (default: those in names such as 7_123.png)")
    parser.add_argument("--val-images", help="images to validate on (default: every 20th of --train-images)")
    parser.add_argument("--val-csv", help="their labels (default: those in the names)")


def check_photograph_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if bool(args.data) == bool(args.train_images):
        parser.error("say where the photographs are: --data FOLDER, or --train-images FOLDER, one of the two")
    for flag, needed in (("train_csv", "train_images"), ("val_images", "train_images"), ("val_csv", "val_images")):
        if vars(args)[flag] and not vars(args)[needed]:
            parser.error(f"--{flag.replace('_', '-')} goes with --{needed.replace('_', '-')} FOLDER: give both")
