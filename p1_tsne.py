"""Draw what a classifier sees: t-SNE of the second last layer's output, after the first and the last epoch.

    python3 p1_tsne.py --run runs/p1/C-seed0 --data hw1_data/p1_data/office --output runs/p1/tsne

It shows the run's first and last snapshot; --checkpoint names one to three others by hand. The images are
those of DATA/train (--split val: DATA/val), seen as at inference. The 50-class set has its labels in its file
names:

    python3 p1_tsne.py --run runs/p1-50/A-seed0 --images hw1_data/p1_data/val_50 --output runs/p1-50/tsne

Into --output go tsne.png and .pdf with all classes, tsne_classes_00-09.png and so on with ten classes each
(their names from classes.txt, if it lies beside the folder of images), coordinates.csv, and scores.json,
whose figures are printed as a table: silhouettes, the accuracy of the nearest neighbours, the classes most
scattered and most mixed up.

The same command gives the same points on the same machine. 4,000 images of 64 px take two minutes on one
core.

Exit status: 0 all done; 1 some images could not be read, or a class has one image alone (named on stderr); 2
nothing.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any, Sequence

from engine.arguments import nonempty_path, positive_count
from engine.checkpoint_choice import read_models

LEAST_IMAGES = 10  # fewer points are no picture
COMPONENTS = 50  # what is left of the features before t-SNE
PERPLEXITY = 30  # at most


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--run", type=nonempty_path, help="a run folder: its first and last snapshot")
    whose.add_argument(
        "--checkpoint", type=nonempty_path, nargs="+", help="one to three snapshots or model.pt instead"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--data", type=nonempty_path, help="the course's office folder: train/, train.csv, val/, val.csv"
    )
    what.add_argument("--images", type=nonempty_path, help="another folder of images")
    add("--split", choices=("train", "val"), default="train", help="which images of --data (default train)")
    add("--csv", type=nonempty_path, help="labels of --images (default: those in names such as 13_207.png)")
    add("--output", type=nonempty_path, required=True, help="the folder for the pictures and tables")
    add("--method", choices=("tsne", "pca"), default="tsne", help="how the plane is found (default tsne)")
    add("--seed", type=int, default=0, help="of the random numbers with which PCA starts (default 0)")
    # the machine
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--batch-size", type=positive_count, default=64, help="images at a time (default %(default)s)")
    add("--cache", help="folder for decoded photographs (default: the user's cache folder)")
    args = parser.parse_args(argv)
    if args.checkpoint and len(args.checkpoint) > 3:
        parser.error("--checkpoint takes three at most")
    if args.csv and not args.images:
        parser.error("--csv goes with --images; --data has its own")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 4294967295")
    return args


if __name__ == "__main__":
    ARGUMENTS = (
        parse_arguments()
    )  # before torch, which takes two seconds to import: --help and mistakes don't wait

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from datasets.labelled import LabelledImages, load_evaluation
from datasets.tables import read_class_names, write_table
from engine.base import (
    Progress,
    UserError,
    cannot_write,
    check_writable,
    run_script,
    say,
    write_atomically,
    write_json,
)
from engine.device import choose_device, tune_allocator
from engine.run_folder import SNAPSHOTS, read_run, snapshot_epochs, snapshot_weights
from models.builders import load_trained
from models.features import second_last
from report.embedding_figure import draw_all_classes, draw_ten_classes, tens
from report.embedding_scores import as_text, measure, named
from report.style import save_figure
from report.text import one_line


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    paths = snapshots_of(Path(args.run)) if args.run else args.checkpoint
    keys, titles = names_of(args, paths)
    check_writable(args.output, args.output)
    models = read_models("p1", paths)
    classes = models[0]["classes"]
    if any(model["classes"] != classes for model in models):
        raise UserError("the checkpoints know different classes; give those of one training set")
    device, entries = choose_device(args.device), legend_entries(args, classes)
    seen = {
        size: load_images(args, size, classes)
        for size in dict.fromkeys(model["image_size"] for model in models)
    }

    planes, scores, rows = [], [], []
    for path, key, title, model in zip(paths, keys, titles, models):
        images = seen[model["image_size"]]
        features = features_of(model, images, device, args, path)
        say(f"{key}: {args.method} of {len(features)} images with {features.shape[1]} features each")
        plane = plane_of(features, args)
        planes.append(plane)
        score = measure(features, plane, images.labels, classes)
        scores.append(named({"checkpoint": str(path), "title": title, **score}, entries))
        rows += [
            (name, classes[label], key, f"{x:.6f}", f"{y:.6f}")
            for name, label, (x, y) in zip(images.names, images.labels, plane)
        ]
    write_tables(args.output, rows, scores)
    draw(args, planes, images.labels, list(entries.values()), scores)
    print(as_text(scores))
    lonely = [
        label
        for label, count in zip(classes, np.bincount(images.labels, minlength=len(classes)))
        if count == 1
    ]
    if lonely:
        say(f"drawn, but left out of the scores, since it has one image alone: class {', '.join(lonely)}")
    return 1 if lonely or images.left_out else 0


def snapshots_of(run: Path) -> list[Path]:
    """The first and the last snapshot of a run folder; one, where there is one only.

    UserError where there is none.
    """
    found = [run / snapshot_weights(epoch) for epoch in snapshot_epochs(run)]
    found = [path for path in found if path.is_file()]
    if not found:
        raise UserError(f"{run}: no {SNAPSHOTS}/epoch_*.pt in it; give --run a run folder of p1_finetune.py")
    return found[:1] + found[1:][-1:]


def epoch_of(path: Path) -> int:
    return int(path.stem[len("epoch_") :])


def names_of(args: argparse.Namespace, paths: Sequence[str | Path]) -> tuple[list[str], list[str]]:
    """For each checkpoint its name in the CSV and its title in the pictures, all different."""
    keys = [Path(path).stem for path in paths]
    if len(set(keys)) < len(keys):
        keys = [str(path) for path in paths]
    if len(set(keys)) < len(keys):
        raise UserError("--checkpoint names a file twice; give different ones")
    titles = [re.sub("^epoch_0*([0-9]+)$", r"after epoch \1", "/".join(Path(key).parts[-3:])) for key in keys]
    if args.run:
        run, epoch = read_run(args.run), epoch_of(paths[-1])
        if run.is_finished and run.metrics[-1]["epoch"] == epoch:
            titles[-1] += " (last)"
        else:
            say(f"{args.run}: {run.gap or 'its last epoch has no snapshot'}; shown is epoch {epoch}")
    return keys, titles


def legend_entries(args: argparse.Namespace, classes: list[str]) -> dict[str, str]:
    """Label → what the pictures call it: "7 Camera" with a classes.txt beside the folder of images, else
    "7".
    """
    names = read_class_names((Path(args.images).parent if args.images else Path(args.data)) / "classes.txt")
    return {label: f"{label} {names[label]}" if label in names else label for label in classes}


def load_images(args: argparse.Namespace, size: int, classes: list[str]) -> LabelledImages:
    """The images as inference sees them, (size, size, 3), with their labels.

    UserError when they are no picture.
    """
    folder = args.images or f"{args.data}/{args.split}"
    if os.path.realpath(args.output) == os.path.realpath(folder):
        raise UserError(f"{args.output}: is the folder of images; give --output another one")
    images = load_evaluation(folder, f"{folder}.csv" if args.data else args.csv, size, args.cache, classes)
    counts = np.bincount(images.labels)
    if len(images) < LEAST_IMAGES or (counts > 1).sum() < 2:
        raise UserError(
            f"{folder}: {len(images)} images of {(counts > 0).sum()} classes are too few for a picture; "
            f"give {LEAST_IMAGES} at least, and two classes with two or more"
        )
    return images


def features_of(
    model: dict[str, Any],
    images: LabelledImages,
    device: torch.device,
    args: argparse.Namespace,
    path: str | Path,
) -> np.ndarray:
    """Output of the second last layer for every image, (N, features) float32.

    UserError when it is of no use.
    """
    network = load_trained(model).to(device, memory_format=torch.channels_last)
    progress = Progress(Path(path).name, total=-(-len(images) // args.batch_size))
    parts = []
    for batch, _ in images.batches(args.batch_size):
        parts.append(second_last(network, batch.to(device), model["mean"], model["std"]).flatten(1).cpu())
        progress.advance(f"{len(batch)} images each")
    progress.close()
    features = torch.cat(parts).numpy()
    if not np.isfinite(features).all() or (features == features[0]).all():
        raise UserError(
            f"{path}: gives all images the same features, or no finite ones; take another checkpoint"
        )
    return features


def plane_of(features: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    """(N, features) → (N, 2), of mean square distance 1 from the centre: several of them fit into the same
    limits.
    """
    count = 2 if args.method == "pca" else COMPONENTS
    # On one thread: several would add up in another order each time, and t-SNE makes much of the last bit.
    with threadpool_limits(limits=1):
        pca = PCA(min(count, *features.shape), svd_solver="randomized", random_state=args.seed)
        points = pca.fit_transform(features.astype(np.float64))
        if args.method == "tsne":
            perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
            points = TSNE(init="pca", perplexity=perplexity, random_state=args.seed).fit_transform(points)
    points = points.astype(np.float64) - points.mean(axis=0)
    return points / np.sqrt((points**2).sum(axis=1).mean())


def write_tables(output: str, rows: list[tuple[str, ...]], scores: list[dict[str, Any]]) -> None:
    try:
        os.makedirs(output, exist_ok=True)
        with write_atomically(f"{output}/coordinates.csv") as temporary:
            write_table(temporary, ("filename", "label", "checkpoint", "x", "y"), rows)
        write_json(f"{output}/scores.json", scores)
    except OSError as error:
        raise cannot_write(output, error) from None


def draw(
    args: argparse.Namespace,
    planes: list[np.ndarray],
    labels: np.ndarray,
    entries: list[str],
    scores: list[dict[str, Any]],
) -> None:
    """All classes in one picture, then ten of them in each."""
    titles = [
        f"{one_line(score['title'], 45)}\n"
        f"silhouette {score['silhouette_features']:.2f}, kNN accuracy {score['knn_accuracy']:.1%}"
        for score in scores
    ]
    panels = list(zip(titles, planes))
    method = {"tsne": "t-SNE", "pca": "PCA"}[args.method]
    whose = Path(args.run).resolve().name if args.run else "the checkpoints"
    what = f"{method} of {whose}, {len(labels)} images of {Path(args.images or args.split).name}"
    digits = max(2, len(str(len(entries) - 1)))
    try:
        save_figure(draw_all_classes(panels, labels, entries, what), f"{args.output}/{args.method}")
        for chosen in tens(np.unique(labels).tolist(), len(entries)):
            first = chosen[0] // 10 * 10
            last = min(first + 9, len(entries) - 1)
            name = f"{args.method}_classes_{first:0{digits}d}-{last:0{digits}d}"
            save_figure(draw_ten_classes(panels, labels, chosen, entries, what), f"{args.output}/{name}")
    except OSError as error:
        raise cannot_write(args.output, error) from None


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
