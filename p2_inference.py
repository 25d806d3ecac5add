"""Land cover of satellite tiles: a folder of tiles in, a folder with a mask for each out.

    python3 p2_inference.py --images hw1_data/p2_data/validation --output predictions \\
        --checkpoint runs/p2/model.pt

`0013_sat.jpg` gives `0013_mask.png`, in the tile's own size. Masks are written as they are made, each whole.

Exit status: 0 all done; 1 some tiles could not be read (named on stderr), all other masks are there; 2
nothing was.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from functools import partial
from typing import Iterable, Iterator, Sequence

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from engine.arguments import nonempty_path, parser_for, positive_count, positive_number
from engine.base import default_workers
from engine.checkpoint import TTA_CHOICES
from engine.checkpoint_choice import read_models
from engine.packages import begin

BATCH_SIZE = 8  # beside a GPU; a CPU is no faster with more than one tile at a time


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = parser_for(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--images", type=nonempty_path, required=True, help="folder of tiles, NNNN_sat.jpg")
    add("--output", type=nonempty_path, required=True, help="folder for the masks, NNNN_mask.png")
    averaged = "model.pt, several are averaged (default: those of P2_CHECKPOINT, else the published one)"
    add("--checkpoint", type=nonempty_path, nargs="+", default=[], help=averaged)
    scales = "scale of the tiles, several are averaged (default: as trained)"
    add("--scale", type=positive_number, nargs="+", help=scales)
    passes = "mean over mirrored tiles (flip, 4 passes), over turned ones too (d4, 8); "
    add("--tta", choices=TTA_CHOICES["p2"], help=passes + "default: as published, or none")
    # the machine
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--batch-size", type=positive_count, help=f"tiles at a time (default {BATCH_SIZE}, 1 on a CPU)")
    add("--workers", type=positive_count, default=default_workers(), help="threads that read and write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    ARGUMENTS = begin(parse_arguments)

import torch
from torch import Tensor

from datasets.images import ImageError
from datasets.palette import save_mask
from datasets.tiles import find_tiles, read_tile
from engine.base import Progress, UserError, check_writable, run_script, say, write_atomically, writing_into
from engine.device import choose_device, tune_allocator
from engine.lock import one_of_several_writers
from engine.pipeline import Runner, batches_of_one_shape, read_ahead, run_each, write_behind
from models.builders import load_trained
from models.predict import land_cover


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    mask_of_tile = dict(find_tiles(args.images))
    check_output(args.output, args.images, mask_of_tile.values())

    models = read_models("p2", args.checkpoint)
    device = choose_device(args.device)
    batch_size = args.batch_size or (1 if device.type == "cpu" else BATCH_SIZE)
    networks = [load_trained(model) for model in models]
    forward = partial(land_cover, networks, models, scales=args.scale or (), tta=args.tta)
    runner = Runner(networks, forward, device, batch_size)  # uint8 tiles (B, 3, H, W) → classes (B, H, W)
    failed, progress = [], Progress("tiles", total=len(mask_of_tile))

    def fail(name: str, reason: Exception) -> None:
        say(f"no mask for {name}: {reason}")
        failed.append(name)

    def read(name: str) -> Tensor:
        pixels = read_tile(os.path.join(args.images, name))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def readable() -> Iterator[tuple[str, Tensor]]:
        named = [name for name in mask_of_tile if name not in failed]
        for name, tile in read_ahead(read, named, args.workers, batch_size, ImageError):
            if isinstance(tile, ImageError):
                fail(name, tile)
            else:
                yield name, tile

    for name, mask in mask_of_tile.items():
        if is_too_long(args.output, mask):
            fail(name, UserError(f"its mask's name has too many letters for the folder {args.output}"))
    # What a killed process was writing of these masks goes first.
    alone = one_of_several_writers(args.output, mask_of_tile.values())
    written = write_behind(write_mask, args.workers)
    with writing_into(args.output, args.output), alone, written as write:
        for batch in batches_of_one_shape(readable(), batch_size):
            for name, classes in run_each(runner, batch):
                if isinstance(classes, Exception):
                    fail(name, classes)
                else:
                    write(os.path.join(args.output, mask_of_tile[name]), classes)
                    progress.advance(name)
    progress.close()
    if len(failed) == len(mask_of_tile):
        raise UserError(f"{args.images}: none of its {len(failed)} tiles could be used; nothing is written")
    unmade = set(failed)
    masks = [mask for name, mask in mask_of_tile.items() if name not in unmade]
    return conclude(args.output, masks, failed)


def conclude(output: str, masks: Sequence[str], failed: Sequence[str]) -> int:
    """Say how many of the `masks` that were written lie in `output` now; returns the exit status."""
    gone = [mask for mask in masks if not os.path.isfile(os.path.join(output, mask))]
    said = f"{len(masks) - len(gone)} masks in {output}"
    if failed:
        said += f", {len(failed)} tiles without"
    if gone:
        said += f"; {len(gone)} that were written are gone, {gone[0]} first: give the same command again"
    say(said)
    if len(gone) == len(masks):
        return UserError.exit_status
    return 1 if failed or gone else 0


def check_output(output: str, images: str, masks: Iterable[str]) -> None:
    """Raise, before a network is loaded, where a mask can't be written or would replace what lies there."""
    check_writable(output, output)
    is_same_folder = os.path.isdir(output) and os.path.samefile(images, output)
    for mask in masks:
        path = os.path.join(output, mask)
        if is_same_folder and os.path.lexists(path):
            advice = "give --output another folder"
            raise UserError(f"{path}: a mask would replace this file beside the tiles; {advice}")
        if os.path.isdir(path):
            raise UserError(f"{path}: a folder lies where a mask belongs; give another --output")


def is_too_long(output: str, mask: str) -> bool:
    """Whether the file system of the folder, which may not be there yet, has no such long name."""
    folder = os.path.abspath(output)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    try:
        os.lstat(os.path.join(folder, mask))
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def write_mask(path: str, classes: Tensor) -> None:
    """Write (H, W) classes as an RGB PNG, whole or not at all."""
    with writing_into(os.path.dirname(path), path), write_atomically(path) as temporary:
        save_mask(classes.numpy(), temporary)


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
