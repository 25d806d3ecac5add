"""Draw what a classifier sees: t-SNE of the penultimate layer's output, after the first and the last epoch.

    python3 p1_tsne.py --run runs/p1/C-seed0 --data hw1_data/p1_data/office --output runs/p1/tsne

It shows the run's first and last snapshot, with --snapshots 3 the middle one too; --checkpoint names one to
three others by hand. The images are those of DATA/train (--split val: DATA/val), seen as at inference. The
50-class set has its labels in its file names:

    python3 p1_tsne.py --run runs/p1-50/A-seed0 --images hw1_data/p1_data/val_50 --output runs/p1-50/tsne

Into --output go tsne.png and .pdf with all classes, tsne_classes_00-09.png and so on with ten classes each
(their names from classes.txt, if it lies beside the folder of images), coordinates.csv, and scores.json,
whose figures are printed as a table: silhouettes, the kNN accuracy, the classes most scattered and most mixed
up.

The same command gives the same points on the same machine. 4,000 images of 64 px take two minutes on one
core.

Exit status: 0 all done; 1 some images could not be read, or a class has one image alone (named on stderr); 2
nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, Sequence

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from engine.arguments import nonempty_path, parser_for, positive_count, positive_number
from engine.checkpoint_choice import read_models
from engine.packages import begin

LEAST_IMAGES = 10  # fewer points are no picture
COMPONENTS = 50  # what is left of the features before t-SNE
PERPLEXITY = 30  # at most


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = parser_for(__doc__, allow_abbrev=False)
    add = parser.add_argument
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--run", type=nonempty_path, help="a run folder: its first and last snapshot")
    others = "one to three snapshots or model.pt instead"
    whose.add_argument("--checkpoint", type=nonempty_path, nargs="+", help=others)
    what = parser.add_mutually_exclusive_group(required=True)
    office = "the course's office folder: train/, train.csv, val/, val.csv"
    what.add_argument("--data", type=nonempty_path, help=office)
    what.add_argument("--images", type=nonempty_path, help="another folder of images")
    add("--split", choices=("train", "val"), default="train", help="which images of --data (default train)")
    add("--csv", type=nonempty_path, help="labels of --images (default: those in names such as 13_207.png)")
    add("--output", type=nonempty_path, required=True, help="the folder for the pictures and tables")
    add("--snapshots", type=int, choices=(2, 3), default=2, help="of --run: 3 shows its middle one too")
    add("--method", choices=("tsne", "pca"), default="tsne", help="how the plane is found (default tsne)")
    further = "of t-SNE's early steps; more parts the clusters further (default 12)"
    add("--exaggeration", type=positive_number, default=12.0, help=further)
    add("--seed", type=int, default=0, help="of the random numbers with which PCA starts (default 0)")
    # the machine
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--batch-size", type=positive_count, default=64, help="images at a time (default %(default)s)")
    add("--cache", help="folder for decoded images (default: the user's cache folder)")
    args = parser.parse_args(argv)
    if args.checkpoint and len(args.checkpoint) > 3:
        parser.error("--checkpoint takes three at most")
    if args.csv and not args.images:
        parser.error("--csv goes with --images; --data has its own")
    if not 0 <= args.seed < 2**32:
        parser.error("--seed must be from 0 to 4294967295")
    return args


if __name__ == "__main__":
    ARGUMENTS = begin(parse_arguments, "sklearn", "matplotlib")

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
    check_writable,
    run_script,
    say,
    write_atomically,
    write_json,
    writing_into,
)
from engine.device import choose_device, tune_allocator
from engine.lock import sole_writer
from engine.run_folder import SNAPSHOTS, read_run, snapshot_epochs, snapshot_weights
from models.backbone import penultimate
from models.builders import load_trained
from report.style import save_figure
from report.text import one_line
from report.tsne_figure import as_text, draw_all_classes, draw_ten_classes, measure, named, tens


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    folder = args.images or f"{args.data}/{args.split}"
    table = f"{folder}.csv" if args.data else args.csv
    if os.path.realpath(args.output) == os.path.realpath(folder):
        raise UserError(f"{args.output}: is the folder of images; give --output another one")
    paths = snapshots_of(Path(args.run), args.snapshots) if args.run else args.checkpoint
    keys = keys_of(paths)
    ends = ["/".join(Path(key).parts[-3:]) for key in keys]
    titles = [re.sub("^epoch_0*([0-9]+)$", r"after epoch \1", end) for end in ends]
    if args.run and is_last_epoch(args.run, paths[-1]):
        titles[-1] += " (last)"
    check_writable(args.output, args.output)

    models = read_models("p1", paths)
    if len(models) != len(paths):
        raise UserError(f"{paths[0]}: an ensemble has no features of its own; give its members' model.pt")
    classes = models[0]["classes"]
    if any(model["classes"] != classes for model in models):
        raise UserError("the checkpoints know different classes; give those of one training set")
    names = read_class_names(Path(folder).parent / "classes.txt", classes)
    legend = {label: f"{label} {names[label]}" if label in names else label for label in classes}
    device = choose_device(args.device)
    kinds = [(model["image_size"], model.get("padded", False)) for model in models]
    images_of = {kind: load_images(folder, table, kind, args.cache, classes) for kind in dict.fromkeys(kinds)}

    planes, scores, coordinates = [], [], []
    for path, key, title, model, kind in zip(paths, keys, titles, models, kinds):
        images = images_of[kind]
        features = penultimate_features(model, images, device, args.batch_size, path)
        say(f"{key}: {args.method} of {len(features)} images with {features.shape[1]} features each")
        plane = project(features, args.method, args.seed, args.exaggeration)
        planes.append(plane)
        score = measure(features, plane, images.labels, classes)
        scores.append(named({"checkpoint": str(path), "title": title, **score}, legend))
        for name, label, (x, y) in zip(images.names, images.labels, plane):
            coordinates.append((name, classes[label], key, f"{x:.6f}", f"{y:.6f}"))

    method = {"tsne": "t-SNE", "pca": "PCA"}[args.method]
    whose = Path(args.run).resolve().name if args.run else "the checkpoints"
    heading = f"{method} of {whose}, {len(images)} images of {Path(folder).name}"
    with writing_into(args.output, args.output), sole_writer(args.output):
        with write_atomically(f"{args.output}/coordinates.csv") as temporary:
            write_table(temporary, ("filename", "label", "checkpoint", "x", "y"), coordinates)
        write_json(f"{args.output}/scores.json", scores)
        draw(f"{args.output}/{args.method}", heading, planes, images.labels, list(legend.values()), scores)
    print(as_text(scores))
    images_of_class = np.bincount(images.labels, minlength=len(classes))
    lonely = [name for name, count in zip(classes, images_of_class) if count == 1]
    if lonely:
        say(f"drawn, but left out of the scores, since it has one image alone: class {', '.join(lonely)}")
    return 1 if lonely or images.left_out else 0


# -- which checkpoints, and what they are called -----


def snapshots_of(run: Path, count: int) -> list[Path]:
    """The first, of three the middle, and the last snapshot of a run folder; UserError if there is none."""
    found = [run / snapshot_weights(epoch) for epoch in snapshot_epochs(run)]
    found = [path for path in found if path.is_file()]
    if not found:
        raise UserError(f"{run}: no {SNAPSHOTS}/epoch_*.pt in it; give --run a run folder of p1_finetune.py")
    middle = found[(len(found) - 1) // 2 :][:1] if count == 3 else []
    return list(dict.fromkeys([found[0], *middle, found[-1]]))


def keys_of(paths: Sequence[str | Path]) -> list[str]:
    """What each checkpoint is called in the CSV: its stem, or its path where two have one stem."""
    keys = [Path(path).stem for path in paths]
    if len(set(keys)) < len(keys):
        keys = [str(path) for path in paths]
    if len(set(keys)) < len(keys):
        raise UserError("--checkpoint names a file twice; give different ones")
    return keys


def is_last_epoch(folder: str, snapshot: Path) -> bool:
    """Whether a snapshot is of the last epoch of a finished run; where it is not, the user is told."""
    run, epoch = read_run(folder), int(snapshot.stem[len("epoch_") :])
    if run.is_finished and run.metrics[-1]["epoch"] == epoch:
        return True
    say(f"{folder}: {run.gap or 'its last epoch has no snapshot'}; shown is epoch {epoch}")
    return False


# -- images, features and the plane -----


def load_images(
    folder: str, table: str | None, kind: tuple[int, bool], cache: str | None, classes: list[str]
) -> LabelledImages:
    """The images as inference sees them, with labels; their `kind` is a size, and whether they are padded
    to a square. UserError when they are too few for a picture."""
    images = load_evaluation(folder, table, kind[0], cache, classes, is_padded=kind[1])
    counts = np.bincount(images.labels)
    if len(images) < LEAST_IMAGES or (counts > 1).sum() < 2:
        raise UserError(
            f"{folder}: {len(images)} images of {(counts > 0).sum()} classes are too few for a picture; "
            f"give {LEAST_IMAGES} at least, and two classes with two or more"
        )
    return images


def penultimate_features(
    model: dict[str, Any], images: LabelledImages, device: torch.device, batch_size: int, path: str | Path
) -> np.ndarray:
    """Output of the penultimate layer for every image, (N, features) float32; UserError if of no use."""
    network = load_trained(model).to(device, memory_format=torch.channels_last)
    progress = Progress(Path(path).name, total=-(-len(images) // batch_size))
    parts = []
    for batch, _ in images.batches(batch_size):
        features = penultimate(network, batch.to(device), model["mean"], model["std"])
        parts.append(features.flatten(1).cpu())
        progress.advance(f"{len(batch)} images each")
    progress.close()
    features = torch.cat(parts).numpy()
    if not np.isfinite(features).all() or (features == features[0]).all():
        what = "gives all images the same features, or no finite ones"
        raise UserError(f"{path}: {what}; take another checkpoint")
    return features


def project(features: np.ndarray, method: str, seed: int, exaggeration: float = 12.0) -> np.ndarray:
    """(N, features) → (N, 2) by "tsne" or "pca", of mean square distance 1 from the centre: the planes of
    several checkpoints fit into the same limits."""
    components = 2 if method == "pca" else COMPONENTS
    # On one thread: several would add up in another order each time, and t-SNE makes much of the last bit.
    with threadpool_limits(limits=1):
        pca = PCA(min(components, *features.shape), svd_solver="randomized", random_state=seed)
        points = pca.fit_transform(features.astype(np.float64))
        if method == "tsne":
            perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
            tsne = TSNE(init="pca", perplexity=perplexity, early_exaggeration=exaggeration, random_state=seed)
            points = tsne.fit_transform(points)
    points = points.astype(np.float64) - points.mean(axis=0)
    return points / np.sqrt((points**2).sum(axis=1).mean())


# -- what is written -----


def draw(
    stem: str,
    heading: str,
    planes: list[np.ndarray],
    labels: np.ndarray,
    legend: list[str],
    scores: list[dict[str, Any]],
) -> None:
    """All classes in one picture, `stem`.png and .pdf, then ten of them in each; a panel a checkpoint."""
    panels = []
    for score, plane in zip(scores, planes):
        silhouette, accuracy = score["silhouette_features"], score["knn_accuracy"]
        title = f"{one_line(score['title'], 45)}\nsilhouette {silhouette:.2f}, kNN accuracy {accuracy:.1%}"
        panels.append((title, plane))
    digits = max(2, len(str(len(legend) - 1)))
    save_figure(draw_all_classes(panels, labels, legend, heading), stem)
    for chosen in tens(np.unique(labels).tolist(), len(legend)):
        first = chosen[0] // 10 * 10
        last = min(first + 9, len(legend) - 1)
        figure = draw_ten_classes(panels, labels, chosen, legend, heading)
        save_figure(figure, f"{stem}_classes_{first:0{digits}d}-{last:0{digits}d}")


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
