"""Train an image classifier: settings A to E of problem 1.

    python3 p1_finetune.py --data hw1_data/p1_data/office --settings A --output runs/p1

Try it in a minute on any machine:

    python3 -m datasets.sample sample
    python3 p1_finetune.py --data sample/hw1_data/p1_data/office --output runs/try --image-size 64 --epochs 3

    setting   backbone starts from    what is trained
    A         random weights          the whole network
    B         --sl-backbone           the whole network
    C         --ssl-backbone          the whole network
    D         --sl-backbone           the classifier alone
    E         --ssl-backbone          the classifier alone

Every setting and seed has a run folder of its own below --output, such as runs/p1/A-seed0, with the best
weights (chosen on the validation images) in model.pt for p1_inference.py and what they predict in
predictions.csv; a table of all runs lies beside them. The same command resumes after Ctrl-C, a crash or a
power cut, and leaves finished runs alone. On a CPU a seed gives the same weights bit for bit, on a GPU
closely.

On several GPUs: torchrun --nproc-per-node 4 p1_finetune.py ... ; --batch-size is that of all together.

Where labels are in the names (50 classes), the usual recipe is `small`. For want of pretrain_model_SL.pt see
`make p1`.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from engine.arguments import add_scoring_flags, add_training_flags, dashed, fill_in, flag_adder, parser_for
from engine.packages import begin
from recipes.p1_finetune import RECIPES, VGG_LR

# Which flag names the file of the backbone (None: random weights), and whether the backbone stays as it is.
SETTINGS = {
    "A": (None, False),
    "B": ("sl_backbone", False),
    "C": ("ssl_backbone", False),
    "D": ("sl_backbone", True),
    "E": ("ssl_backbone", True),
}


def parse_arguments(argv: list[str] | None = None) -> Namespace:
    parser = parser_for(__doc__)
    add = flag_adder(parser, RECIPES)
    add("--data", help="the course's office folder: train/, train.csv, val/, val.csv")
    add("--train-images", help="instead of --data: a folder of images")
    add("--train-csv", help="their labels (default: those in names such as 7_123.png)")
    add("--val-images", help="images to validate on (default: every 20th of --train-images)")
    add("--val-csv", help="their labels (default: those in the names)")
    add("--label-share", type=float, default=1.0, help="of each class's images, drawn by seed (default 1)")
    add("--edition", help="of the course, for p1_inference.py (default: that of EDITION, else 2024)")
    # what is trained
    add("--settings", default="A", help="letters of the settings, such as A or ABCDE (default A)")
    add("--seed", "--seeds", dest="seeds", type=int, nargs="+", default=[0], help="a run each (default 0)")
    add("--sl-backbone", help="for B and D: the course's pretrain_model_SL.pt")
    add("--ssl-backbone", help="for C and E: backbone.pt of p1_ssl_pretrain.py")
    add("--weights", help="of setting A: none (what the course asks), imagenet, or a file")
    add("--model", help="name of a classifier of models/: resnet50, resnet50_bn, resnet50_mlp ...")
    add("--stem", choices=("7x7", "3x3", "3x3-nopool"), help="as published, or for small images")
    add("--image-size", type=int, help="pixels a side of what the network sees at inference")
    # how it is trained
    add("--crop-size", type=int, help="pixels a side of a training crop (default: 7/8 of --image-size)")
    add("--augment", choices=("all", "unfrozen", "none"), help="random crops and all below in these settings")
    add("--mix", choices=("none", "mixup", "cutmix"), help="two images in one, in half of the batches")
    add("--backbone-lr", type=float, help="learning rate of weights that are not new (default: --lr)")
    add("--label-smoothing", type=float, help="share of the target that is spread over all classes")
    add("--ema-decay", type=float, help="of the averaged weights that are scored and kept; 0: no average")
    # what is kept
    add_scoring_flags(parser, "images")
    add_training_flags(parser, RECIPES)
    # what a recipe alone says
    alone = ("recipe", "min_area", "shift", "jitter", "mean", "std", "padded", "changes")
    parser.set_defaults(**dict.fromkeys(alone))
    args = parser.parse_args(argv)
    args.recipe = args.recipe or ("default" if args.data or args.train_csv else "small")
    is_lr_given = args.lr is not None
    fill_in(parser, args, RECIPES)
    if not is_lr_given and args.recipe in ("default", "short", "small") and args.model.startswith("vgg"):
        args.lr = min(args.lr, VGG_LR)
    check(parser, args)
    # Crops enlarge what they show, so training is a little smaller than use (Touvron et al., 2019).
    enlarges = not (args.shift or args.changes)
    args.crop_size = args.crop_size or (max(32, args.image_size * 7 // 8) if enlarges else args.image_size)
    return args


def check(parser: ArgumentParser, args: Namespace) -> None:
    """End with usage where a flag lacks what it goes with; bring --data, --settings, --seeds into order."""
    if bool(args.data) == bool(args.train_images):
        parser.error("say where the images are: --data FOLDER, or --train-images FOLDER, one of the two")
    partners = {"train_csv": "train_images", "val_images": "train_images", "val_csv": "val_images"}
    for flag, needed in partners.items():
        if vars(args)[flag] and not vars(args)[needed]:
            parser.error(f"{dashed(flag)} goes with {dashed(needed)} FOLDER: give both")
    if args.data:
        args.train_images, args.train_csv = f"{args.data}/train", f"{args.data}/train.csv"
        args.val_images, args.val_csv = f"{args.data}/val", f"{args.data}/val.csv"
    if not 0 < args.label_share <= 1:
        parser.error("--label-share must lie above 0 and up to 1")
    if not args.settings:
        parser.error("--settings wants at least one letter")
    args.settings, args.seeds = "".join(dict.fromkeys(args.settings.upper())), list(dict.fromkeys(args.seeds))
    for setting in args.settings:
        if setting not in SETTINGS:
            parser.error(f"--settings {args.settings}: there are only {', '.join(SETTINGS)}")
        source = SETTINGS[setting][0]
        if source is not None and vars(args)[source] is None:
            parser.error(f"setting {setting} starts from a backbone: give {dashed(source)} FILE")
        if source is not None and args.weights != "none":
            parser.error(f"--weights is for setting A alone; {setting} starts from its backbone")
    if args.weights == "imagenet" and args.stem != "7x7":
        parser.error("ImageNet's weights are for the published stem: give --stem 7x7 too")


if __name__ == "__main__":
    ARGUMENTS = begin(parse_arguments, "matplotlib", "sklearn")

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.augment import ChangedImages, ImageCrops, jitter_colours, mix_images
from datasets.editions import edition
from datasets.labelled import TrainingData, load_training_data
from datasets.sampling import EpochLoader
from datasets.score import accuracy
from datasets.tables import write_predictions
from engine import distributed
from engine.base import run_script, say
from engine.device import choose_workers, seed_everything, tune_allocator
from engine.loop import Loop
from engine.optimizer import Stepper, build_optimizer, parameter_groups
from engine.run import Run, Stopper
from engine.run_folder import ARCHITECTURE, MODEL, PREDICTIONS, PREDICTIONS_LAST, best_and_last
from models import backbone
from models.builders import (
    CLASSIFIERS,
    Normalisation,
    build_network,
    check_network,
    describe_classifier,
    normalisation,
)
from models.describe import keep_architecture
from models.predict import normalise, predict_classes
from models.small_maps import use_matrix_products


def main(args: Namespace) -> int:
    tune_allocator()
    args.edition = edition(args.edition).name
    # What can't be seen or had is told before thousands of images are read.
    network = build_network(args.model, CLASSIFIERS, num_classes=2, stem=args.stem)
    crops = () if args.augment == "none" else (args.crop_size,)
    check_network(network, args.model, num_classes=2, sizes=(args.image_size, *crops))
    backbone.start_from(network, args.model, args.weights, None, False)
    device = distributed.join(args.device)
    is_short = args.recipe in ("short", "small") or args.augment == "none"
    if args.epochs and args.epochs <= 10 and not is_short and distributed.is_main():
        say("ten epochs are too few for random crops and colours: --recipe short learns more in them")
    train, validation = (args.train_images, args.train_csv), (args.val_images, args.val_csv)
    with distributed.main_first():
        data = load_training_data(train, validation, args.image_size, args.cache, args.padded)
    stopper = Stopper(args.max_minutes)
    for setting, seed in product(args.settings, args.seeds):
        part = data if args.label_share == 1 else data.with_labels_of(args.label_share, seed)
        fine_tune(arguments_of_run(args, setting, seed), part, stopper, device)
    if distributed.is_main() and not args.dry_run:
        from report.settings_table import write_settings_table  # imports matplotlib, which takes a second

        print(write_settings_table(args.output))
    return distributed.leave(1 if data.left_out else 0)


def arguments_of_run(args: Namespace, setting: str, seed: int) -> Namespace:
    """What one run depends on: the other settings, seeds and backbones of the same command are none of it."""
    others = ("settings", "seeds", "sl_backbone", "ssl_backbone")
    own = {name: value for name, value in vars(args).items() if name not in others}
    source, is_frozen = SETTINGS[setting]
    own.update(setting=setting, seed=seed, is_frozen=is_frozen, backbone=source and vars(args)[source])
    own.update(is_augmented=args.augment == "all" or (args.augment == "unfrozen" and not is_frozen))
    return Namespace(**own)


def fine_tune(args: Namespace, data: TrainingData, stopper: Stopper, device: torch.device) -> None:
    """One run; `args` are those of one setting and one seed."""
    seed_everything(args.seed)
    network, origin = starting_network(args, len(data.classes), device)
    name = f"{args.setting}-seed{args.seed}"
    counts, is_main = f"{len(data.images)} + {len(data.validation)} images", distributed.is_main()
    if not args.dry_run:
        run = run_of(args, data, f"{args.output}/{name}")
        if run.is_finished:
            run.require(MODEL)
            run.close()
            print_result(name, run.folder)
            return
        machine = f"on {device}, {distributed.world_size()} process(es)"
        run.say(f"{name}: {args.model} {origin}; {counts}; {machine}")
        if is_main:
            keep_architecture(network, args.model, args.image_size, run.folder / ARCHITECTURE)

    normal = (args.mean, args.std) if args.mean else normalisation(args.model)
    with distributed.main_first():
        trained, samples, validation = trained_part(args, network, data, normal, device)
    batch_size, workers = min(args.batch_size, len(samples)), choose_workers(args.workers, device)
    share, is_pinned = distributed.share_of(batch_size), device.type == "cuda"
    loader = EpochLoader(samples, args.seed, batch_size, workers, share=share, is_pinned=is_pinned)

    is_head = trained is not network  # on features, which have no need of half precision
    head = backbone.head_name(network) + "."
    backbone_lr = None if is_head or args.backbone_sha256 is None else args.backbone_lr
    groups = parameter_groups(
        trained, args.lr, backbone_lr, lambda name: not name.startswith(head), args.decay_all
    )
    optimizer = build_optimizer(args.optimizer, groups, args.lr, args.weight_decay, args.nesterov)
    stepper = Stepper(trained, optimizer, device, "fp32" if is_head else args.precision, args.micro_batch)
    ready = partial(prepared, normal=normal, mix=args.mix, device=device)
    losses = partial(loss_of, stepper.forward, label_smoothing=args.label_smoothing)

    if args.dry_run:
        backbone.set_training_mode(network, args.is_frozen)
        batch = ready(next(iter(loader(epoch=0, first_batch=0))), seed=(args.seed, 0, 2))
        stepper.dry_run(batch, losses, f"{name} {origin}; {counts}")
        return

    steps_per_epoch = len(samples) // batch_size
    loop = Loop(run, stepper, stopper, args, steps_per_epoch, batch_size, "accuracy", args.snapshot_epochs)
    description = describe_classifier(
        args.model, data.classes, args.image_size, args.edition, args.stem, normal, args.padded
    )
    for _ in loop.epochs():
        backbone.set_training_mode(network, args.is_frozen)
        for batch in loop.batches(loader):
            loop.step(ready(batch, seed=(args.seed, loop.steps_done, 2)), losses)
        scores, predicted = {}, None
        if loop.epoch % args.eval_every == 0 or loop.is_done():
            found = predict_classes(loop.scored, validation.batches(64), *normal, device) if is_main else None
            predicted = distributed.from_main(found)
            right = int((predicted == torch.as_tensor(validation.labels)).sum())
            share, error = accuracy(right, len(predicted))
            run.say(f"{name}, epoch {loop.epoch}: accuracy {share:.4f} +- {error:.4f}")
            scores = {"accuracy": share}
        state = backbone.with_other_head(network, loop.average) if is_head else None
        if loop.keep_weights(description, scores, state) and is_main:
            keep_predictions(run.folder / PREDICTIONS, data, predicted)
        if loop.is_done() and is_main:
            keep_predictions(run.folder / PREDICTIONS_LAST, data, predicted)
        loop.end_epoch(scores)
    if args.is_frozen and is_main:
        backbone.prove_unchanged(network, run.folder / MODEL, args.backbone_sha256)
        said = f"sha256 {args.backbone_sha256} before and after, statistics included"
        run.say(f"the backbone did not change: {said}")
    loop.finish()
    print_result(name, run.folder)


def starting_network(args: Namespace, num_classes: int, device: torch.device) -> tuple[nn.Module, str]:
    """The classifier on its device, and a line that says where it starts."""
    network = build_network(args.model, CLASSIFIERS, num_classes=num_classes, stem=args.stem)
    origin = backbone.start_from(network, args.model, args.weights, args.backbone, args.is_frozen)
    is_random = args.backbone is None and args.weights == "none"
    # Another file under the name of the backbone is refused by it.
    args.backbone_sha256 = None if is_random else backbone.backbone_sha256(network)
    network = network.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        use_matrix_products(network)
    return network, origin


def run_of(args: Namespace, data: TrainingData, folder: str) -> Run:
    arguments = {**vars(args), "training_images": len(data.images), "num_classes": len(data.classes)}
    inputs = {
        "data": None,  # the four below
        "train_images": data.images.names,
        "train_csv": args.train_csv,
        "val_images": data.validation.names,
        "val_csv": args.val_csv,
        "weights": args.weights,
        "backbone": None,  # compared by backbone_sha256
    }
    return Run(folder, __file__, arguments, RECIPES[args.recipe], inputs)


def trained_part(
    args: Namespace, network: nn.Module, data: TrainingData, normal: Normalisation, device: torch.device
) -> tuple[nn.Module, Any, Any]:
    """What is trained, what on, and what it is validated on: the network on images or, where its backbone
    stays as it is and sees them as they are, the head on features."""
    common = (data.images, args.crop_size, args.seed)
    if args.is_augmented and args.changes:
        return network, ChangedImages(*common, args.changes, args.padded), data.validation
    if args.is_augmented:
        return network, ImageCrops(*common, args.min_area, args.shift, args.jitter), data.validation
    if not args.is_frozen:
        return network, data.as_inference_sees, data.validation
    features = backbone.head_inputs(network, data, args.backbone_sha256, *normal, device)
    return backbone.head_of(network), *features


def prepared(
    batch: list[Tensor], normal: Normalisation, mix: str, device: torch.device, seed: tuple[int, int, int]
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Bytes (B, 3, S, S), labels (B) and, with augmentation, colour factors (B, 3) → images as the network
    sees them, their labels, those of what was mixed into them (drawn from `seed`; nothing without colour
    factors), and the images' own share in that. Features (B, C) stay as they are."""
    inputs, labels, *colours = (part.to(device, non_blocking=True) for part in batch)
    if inputs.dtype != torch.uint8:  # features, for a head alone
        return inputs, labels, labels, 1.0
    images, others, own = inputs.float() / 255, labels, 1.0
    if colours:
        images = jitter_colours(images, *colours)
        images, partners, own = mix_images(images, mix, np.random.default_rng(seed))
        others = labels[partners]
    images = normalise(images, *normal).contiguous(memory_format=torch.channels_last)
    return images, labels, others, own


def loss_of(
    network: Callable[[Tensor], Tensor],
    inputs: Tensor,
    labels: Tensor,
    others: Tensor,
    own: float,
    share: float,
    label_smoothing: float,
) -> dict[str, Tensor]:
    """Cross-entropy of a part, which is that share of its batch; see `prepared`."""
    logits = network(inputs).float()
    criterion = partial(functional.cross_entropy, logits, label_smoothing=label_smoothing)
    if own == 1:
        return {"loss": share * criterion(labels)}
    return {"loss": share * (own * criterion(labels) + (1 - own) * criterion(others))}


def keep_predictions(path: Path, data: TrainingData, predicted: Tensor) -> None:
    """What the averaged weights answer for the validation images, beside the truth."""
    answers = [data.classes[label] for label in predicted]
    truth = [data.classes[label] for label in data.validation.labels]
    write_predictions(path, data.validation.names, answers, truth)


def print_result(name: str, folder: Path) -> None:
    if distributed.is_main():
        print(f"{name}: {best_and_last(folder)}: {folder / MODEL}")


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
