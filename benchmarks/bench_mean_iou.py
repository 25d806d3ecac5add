"""mean_iou_evaluate.py against a plain transcription: time and peak memory of whole processes, in turns.

    python3 -m benchmarks.bench_mean_iou
    python3 -m benchmarks.bench_mean_iou --labels hw1_data/p2_data/validation --pred predictions

Without folders it makes pairs of masks like the real ones. Output must be equal before anything is timed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.in_turns import MAX_RSS_UNIT, in_turns, print_table

if TYPE_CHECKING:
    import numpy as np  # where it is used: Linux hands this process's peak memory on to others

ROOT = Path(__file__).resolve().parent.parent


# -- the course's score in the plain way: every mask as float64 in memory, then class by class --------------


def read_masks(folder: str) -> np.ndarray:
    """The masks of a folder as (n, 512, 512) float64 classes."""
    import numpy as np
    from PIL import Image

    names = sorted(name for name in os.listdir(folder) if name.endswith(".png"))
    masks = np.zeros((len(names), 512, 512))
    for i, name in enumerate(names):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            sys.exit(f"{path!a}: not a regular file")
        mask = np.array(Image.open(path, formats=["PNG"]))
        mask = (mask >= 128).astype(int)
        mask = 4 * mask[:, :, 0] + 2 * mask[:, :, 1] + mask[:, :, 2]
        masks[i, mask == 3] = 0  # cyan, urban
        masks[i, mask == 6] = 1  # yellow, agriculture
        masks[i, mask == 5] = 2  # magenta, rangeland
        masks[i, mask == 2] = 3  # green, forest
        masks[i, mask == 1] = 4  # blue, water
        masks[i, mask == 7] = 5  # white, barren
        masks[i, mask == 0] = 6  # black, unknown
    return masks


def mean_iou_score(pred: np.ndarray, labels: np.ndarray) -> float:
    """Print the IoU of six classes and their mean."""
    import numpy as np

    mean_iou = 0
    for i in range(6):
        tp_fp = np.sum(pred == i)
        tp_fn = np.sum(labels == i)
        tp = np.sum((pred == i) * (labels == i))
        iou = tp / (tp_fp + tp_fn - tp)
        mean_iou += iou / 6
        print(f"class #{i} : {iou:1.5f}")
    print(f"\nmean_iou: {mean_iou:f}\n")
    return mean_iou


# -- the comparison -----------------------------------------------------------------------------------------


def make_pairs(folder: str, pairs: int) -> None:
    """Write 512x512 masks: patches of the six scored classes, and predictions whose borders lie elsewhere."""
    import numpy as np

    from datasets.palette import SCORED_CLASSES, save_mask

    for side in ("labels", "pred"):
        os.makedirs(os.path.join(folder, side))
    for index in range(pairs):
        patches = np.random.default_rng(index).integers(SCORED_CLASSES, size=(8, 8))
        classes = patches.repeat(64, axis=0).repeat(64, axis=1)
        for side, mask in (("labels", classes), ("pred", np.roll(classes, 9, axis=(0, 1)))):
            save_mask(mask, os.path.join(folder, side, f"{index:04d}_mask.png"))


def run_once(command: list[str]) -> tuple[str, tuple[float, float, float]]:
    """Run a process to its end → its stdout, and (wall seconds, CPU seconds, peak MiB)."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = status  # Popen need not wait for it
        if status:
            sys.exit(f"{' '.join(command)}: failed")
        output.seek(0)
        return output.read(), (wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * MAX_RSS_UNIT / 2**20)


def compare(labels: str, pred: str, rounds: int) -> None:
    commands = {
        "ours": [sys.executable, str(ROOT / "mean_iou_evaluate.py"), "-g", labels, "-p", pred],
        "plain": [sys.executable, "-m", "benchmarks.bench_mean_iou", "--plain", labels, pred],
    }
    # These runs also bring the files into the system's cache for both sides.
    outputs = [run_once(command)[0] for command in commands.values()]
    if outputs[0] != outputs[1]:
        sys.exit(f"not equal, ours first:\n{outputs[0]}\n{outputs[1]}")
    print(f"{outputs[0]}equal output; {rounds} rounds in turns, median (min to max)")

    print_table(in_turns(list(commands), rounds, lambda name: run_once(commands[name])[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", help="folder with true masks of 512x512; needs --pred")
    parser.add_argument("--pred", help="folder with predicted masks")
    parser.add_argument("--pairs", type=int, default=257, help="pairs to make when no folder is given")
    parser.add_argument("--rounds", type=int, default=5, help="times that each side is timed")
    parser.add_argument("--plain", nargs=2, metavar="DIR", help="print their plain score alone")
    args = parser.parse_args()
    if (args.labels is None) != (args.pred is None):
        parser.error("give both --labels and --pred, or neither")
    if args.plain:
        labels, pred = map(read_masks, args.plain)
        mean_iou_score(pred, labels)
        return
    if args.labels:
        compare(args.labels, args.pred, args.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own, so that this one stays small: Linux hands peak memory on to children.
        maker = multiprocessing.get_context("spawn").Process(target=make_pairs, args=(folder, args.pairs))
        maker.start()
        maker.join()
        if maker.exitcode:
            sys.exit("the masks could not be made")
        compare(os.path.join(folder, "labels"), os.path.join(folder, "pred"), args.rounds)


if __name__ == "__main__":
    main()
