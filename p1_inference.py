"""Classify images: a CSV of their names and their folder in, a CSV with a label for each row out.

    python3 p1_inference.py --csv hw1_data/p1_data/office/val.csv --images hw1_data/p1_data/office/val \\
        --output predictions.csv --checkpoint runs/p1/C-seed0/model.pt

Without --csv every image of the folder is classified (the editions with 50 classes: --edition 2020 to 2023):

    python3 p1_inference.py --images val_50 --output predictions.csv --edition 2022 \\
        --checkpoint runs/resnet34/A-seed0/model.pt runs/vgg16/A-seed0/model.pt

Several checkpoints vote by the mean of their probabilities, an ensemble.json (python3 -m report.ensemble) as
it says; only one of them is in memory at a time. Labels in the CSV are never read. An image that can't be
read keeps its row, with the class that the network gives to a mean image.

Exit status: 0 all done; 1 some images could not be read (named on stderr), all rows are there; 2 nothing was
written.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Iterator, Sequence

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from engine.arguments import nonempty_path, parser_for, positive_count, positive_number
from engine.base import default_workers
from engine.checkpoint import TTA_CHOICES
from engine.checkpoint_choice import read_models, with_state
from engine.packages import begin


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_for(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--csv", type=nonempty_path, help="the images to classify, in its column filename")
    add("--images", type=nonempty_path, help="the folder of these images")
    add("--output", type=nonempty_path, help="the CSV to write")
    models = "model.pt, several are averaged, or one ensemble.json (default: those of P1_CHECKPOINT, without "
    models += "--csv of P1_50_CHECKPOINT; else the published one)"
    add("--checkpoint", type=nonempty_path, nargs="+", default=[], help=models)
    logits = "also write the one checkpoint's logits for every image, for python3 -m report.ensemble"
    add("--save-logits", type=nonempty_path, metavar="FILE.npz", help=logits)
    votes = "of several checkpoints, in their order (default: equal)"
    add("--vote-weights", type=positive_number, nargs="+", help=votes)
    only = "print the checkpoints' networks and classify nothing"
    add("--print-architecture", action="store_true", help=only)
    mirrored = "flip: mean with the mirrored image (default: as published, or none)"
    add("--tta", choices=TTA_CHOICES["p1"], help=mirrored)
    add("--edition", help="year whose form the CSV has (default: that of EDITION, else 2024)")
    # the machine
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--batch-size", type=positive_count, default=32, help="images at a time (default %(default)s)")
    add("--workers", type=positive_count, default=default_workers(), help="threads that read images")
    args = parser.parse_args(argv)
    if not args.print_architecture and not (args.images and args.output):
        parser.error("the following arguments are required: --images, --output")
    return args


if __name__ == "__main__":
    ARGUMENTS = begin(parse_arguments)

import torch
from torch import Tensor

from datasets.editions import edition
from datasets.images import ImageError, evaluation_image, list_images, path_inside, read_rgb
from datasets.tables import Logits, read_table, write_logits, write_table
from engine.base import (
    Progress,
    UserError,
    check_writable,
    refuse_replacing,
    run_script,
    say,
    write_atomically,
    writing_into,
)
from engine.device import choose_device, tune_allocator
from engine.lock import one_of_several_writers
from engine.manifest import sha256_of
from engine.pipeline import Runner, batches_of_one_shape, read_ahead
from models.builders import load_trained
from models.predict import predict_images, require_finite
from models.small_maps import use_matrix_products


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    if args.print_architecture:
        of_folder = args.csv is None and (args.images or edition(args.edition).table_header is None)
        print_architecture(read_models("p1_50" if of_folder else "p1", args.checkpoint, with_states=False))
        return 0
    header, rows = listed_rows(args.csv, args.images, args.edition)
    names = list(dict.fromkeys(row["filename"] for row in rows))
    output = check_paths(args.output, args.csv, args.images, names)
    if args.save_logits and check_paths(args.save_logits, args.csv, args.images, names) == output:
        raise UserError(f"{args.output}: cannot be table and logits; give --save-logits another file")

    models = read_models("p1_50" if args.csv is None else "p1", args.checkpoint, with_states=False)
    if any(model["classes"] != models[0]["classes"] for model in models):
        raise UserError("the checkpoints know different classes; give those of one training set")
    if args.save_logits and len(models) > 1:
        raise UserError(f"--save-logits writes those of one checkpoint, not of {len(models)}; give one")
    given = args.vote_weights or [model["votes"] for model in models]
    if len(given) != len(models):
        raise UserError(f"{len(given)} --vote-weights for {len(models)} checkpoints; give one for each")
    weights = [weight / max(given) for weight in given]  # the largest 1: equal ones change no bit
    device = choose_device(args.device)
    scores, unreadable = {}, {}
    for model, weight in zip(models, weights) if names else ():  # one network in memory at a time
        tta = args.tta or model.get("tta", "none")
        logits, failed = logits_of(
            with_state(model), args.images, names, device, args.batch_size, args.workers, tta
        )
        for name in names:
            votes = logits[name] if model["mean_of"] == "logits" else logits[name].softmax(dim=0)
            scores[name] = scores.get(name, 0) + weight * votes
        for name, reason in failed.items():
            if name not in unreadable:  # said once, not by every network
                say(f"cannot be read: {reason}")
        unreadable.update(failed)

    if args.save_logits and names:
        save_logits(args.save_logits, models[0], names, logits, tta)
    labels = {name: label_of(models[0], scores[name]) for name in names}
    table = [[{**row, "label": labels[row["filename"]]}[column] for column in header] for row in rows]
    folder, name = os.path.split(output)
    alone, written = one_of_several_writers(folder, [name]), write_atomically(output)
    with writing_into(folder, args.output), alone, written as temporary:
        write_table(temporary, header, table)
    if not rows:
        say(f"{args.csv}: no row below its header, so the header alone is written")
    say(f"{len(rows)} rows in {args.output}" + (f", {len(unreadable)} images unread" if unreadable else ""))
    return 1 if unreadable else 0


def print_architecture(models: Sequence[dict[str, Any]]) -> None:
    for model in models:
        network = load_trained(with_state(model))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        print(f"{model['network']}, {parameters:,} parameters, for images of {model['image_size']} pixels")
        print(network)


def listed_rows(
    csv: str | None, folder: str, edition_name: str | None
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The header to write; and for each image asked for a dict of its columns, without the label."""
    year, images = edition(edition_name), list_images(folder)
    if csv is None:
        if year.folder_header is None:
            asked = f"edition {year.name} classifies the images of a CSV"
            raise UserError(f"{asked}; give --csv, or another --edition")
        if not images:
            raise UserError(f"{folder}: no image in it; give a folder of images")
        return year.folder_header, [{"filename": name, "image_id": name} for name in images]
    if year.table_header is None:
        asked = f"edition {year.name} classifies every image of a folder"
        raise UserError(f"{asked}; leave --csv out, or give --edition")
    return year.table_header, [{"id": str(number), **row} for number, row in enumerate(read_table(csv))]


def check_paths(wanted: str, csv: str | None, folder: str, names: list[str]) -> str:
    """The file to write for the one `wanted`. Raises, before a network is loaded, where it cannot be done."""
    paths = list(filter(None, (path_inside(folder, name) for name in names)))
    # Through a link to what it leads to: /dev/stdout, say, must not be replaced by a file.
    output = os.path.realpath(wanted)
    refuse_replacing(output, [csv, *paths] if csv else paths)
    check_writable(os.path.dirname(output), wanted)
    if names and not any(map(os.path.isfile, paths)):
        raise UserError(f"{folder}: none of the {len(names)} listed images is there; give their folder")
    return output


def save_logits(
    path: str, model: dict[str, Any], names: list[str], logits: dict[str, Tensor], tta: str
) -> None:
    """Write what the model answered, image by image, and which file it is."""
    array = torch.stack([logits[name] for name in names]).numpy()
    said = Logits(names, model["classes"], array, model["path"], sha256_of(model["path"]), tta)
    with writing_into(os.path.dirname(os.path.realpath(path)), path):
        write_logits(path, said)


def label_of(model: dict[str, Any], scores: Tensor) -> int | str:
    """What the CSV calls the model's class with the highest score."""
    name = model["classes"][int(scores.argmax())]
    return int(name) if model.get("integer_labels") else name


def logits_of(
    model: dict[str, Any],
    folder: str,
    names: list[str],
    device: torch.device,
    batch_size: int,
    workers: int,
    tta: str,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """One network's logits (classes,) of each image, and why some can't be read: they get a mean image's."""
    network, size = load_trained(model), model["image_size"]
    if device.type == "cpu":  # as in training
        use_matrix_products(network)

    def read(name: str) -> Tensor:
        path = path_inside(folder, name)
        if path is None:
            raise ImageError(f"{name}: not a name inside the folder of images")
        pixels = evaluation_image(read_rgb(path, apply_exif=True), size, model.get("padded", False))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def forward(images: Tensor) -> Tensor:
        logits = predict_images(network, images, model["mean"], model["std"], tta)
        require_finite(logits)
        return logits

    runner = Runner([network], forward, device, batch_size)
    found, failed, progress = {}, {}, Progress("images", total=len(names))

    def readable() -> Iterator[tuple[str, Tensor]]:
        for name, image in read_ahead(read, names, workers, batch_size, ImageError):
            progress.advance(name)
            if isinstance(image, ImageError):
                failed[name] = str(image)
            else:
                yield name, image

    for batch in batches_of_one_shape(readable(), batch_size):
        images = torch.stack([image for _, image in batch])
        # Always full, with black images behind: in a smaller batch a CPU may sum in another order.
        black = images.new_zeros(batch_size - len(images), *images.shape[1:])
        found.update(zip((name for name, _ in batch), runner(torch.cat([images, black]))))
    progress.close()
    if len(failed) == len(names):
        for reason in failed.values():
            say(f"cannot be read: {reason}")
        raise UserError(f"{folder}: none of the {len(names)} images can be read; nothing is written")
    if failed:
        mean_image = 255 * torch.tensor(model["mean"])[:, None, None].expand(3, size, size)
        found.update(dict.fromkeys(failed, runner(mean_image.repeat(batch_size, 1, 1, 1))[0]))
    return found, failed


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
