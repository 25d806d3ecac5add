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
predictions.csv; a table of all runs lies beside them. The same command goes on after Ctrl-C, a crash or a
power cut, and leaves finished runs alone. On a CPU a seed gives the same weights bit for bit, on a GPU
closely.

Where labels are in the names (50 classes), the usual recipe is `small`. For want of pretrain_model_SL.pt see
`make p1`.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from itertools import product
from typing import Any

from engine.arguments import add_photograph_flags, add_training_flags, check_photograph_flags, fill_in
from engine.settings import arguments_of_run, check_settings
from recipes.p1_finetune import RECIPES, VGG_LR


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_photograph_flags(parser)
    add("--settings", default="A", help="letters of the settings, such as A or ABCDE (default A)")
    add("--seed", "--seeds", dest="seeds", type=int, nargs="+", default=[0], help="a run each (default 0)")
    add("--sl-backbone", help="for B and D: the course's pretrain_model_SL.pt")
    add("--ssl-backbone", help="for C and E: backbone.pt of p1_ssl_pretrain.py")
    add("--weights", help="of setting A: none (what the course asks), imagenet, or a file")
    # how long
    add("--eval-every", type=int, default=1, help="epochs between two scorings of the validation images")
    add(
        "--snapshot-epochs",
        type=int,
        nargs="+",
        help="epochs whose weights are kept (default: first, middle, last)",
    )
    # what the recipe says otherwise
    add(
        "--model",
        help="name of a classifier of models/: resnet50, resnet50_bn, resnet50_mlp, resnet50_fc1000 ...",
    )
    add(
        "--image-size",
        type=int,
        help="pixels a side of what the network sees at inference (the course's is 128)",
    )
    add("--crop-size", type=int, help="pixels a side of a training crop (default: 7/8 of --image-size)")
    add(
        "--stem",
        choices=("7x7", "3x3", "3x3-nopool"),
        help="how it begins: as published, or for small images",
    )
    add("--augment", choices=("all", "unfrozen", "none"), help="random crops and all below in these settings")
    add("--mix", choices=("none", "mixup", "cutmix"), help="two photographs in one, in half of the batches")
    add("--backbone-lr", type=float, help="learning rate of weights that are not new (default: --lr)")
    add(
        "--label-share",
        type=float,
        default=1.0,
        help="share of each class's training images to use, drawn by seed",
    )
    add("--label-smoothing", type=float, help="share of the target that is spread over all classes")
    add("--edition", help="of the course, for p1_inference.py (default: that of EDITION, else 2024)")
    add("--ema-decay", type=float, help="of the averaged weights that are scored and kept; 0: no average")
    # the machine
    add("--workers", type=int, help="processes that cut crops (default: none on a CPU, up to 8 beside a GPU)")
    add(
        "--dry-run",
        action="store_true",
        help="check the data, build everything, run one step, write no run folder",
    )
    add_training_flags(parser, RECIPES)
    parser.set_defaults(recipe=None)
    args = parser.parse_args(argv)
    args.recipe = args.recipe or ("default" if args.data or args.train_csv else "small")
    recipe = RECIPES[args.recipe]
    if (args.model or recipe["model"]).startswith("vgg"):
        recipe = {**recipe, "lr": min(recipe["lr"], VGG_LR)}
    fill_in(parser, args, recipe)
    check_arguments(parser, args)
    return args


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    check_photograph_flags(parser, args)
    check_settings(parser, args)
    if not (0 <= args.label_smoothing < 1 and 0 <= args.ema_decay < 1):
        parser.error("--label-smoothing and --ema-decay must be 0 at least and less than 1")
    if not 0 < args.label_share <= 1:
        parser.error("--label-share must lie above 0 and up to 1")
    # Crops enlarge what they show, so the network is trained a little smaller than it is used (Touvron et
    # al., 2019).
    args.crop_size = args.crop_size or (args.image_size if args.shift else max(32, args.image_size * 7 // 8))


if __name__ == "__main__":
    ARGUMENTS = (
        parse_arguments()
    )  # before torch, which takes two seconds to import: --help and mistakes don't wait

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from datasets.augment import ImageCrops, jitter_colours, mix_images
from datasets.editions import edition
from datasets.labelled import TrainingData, load_training_data
from datasets.sampling import epoch_loader
from datasets.score import accuracy
from datasets.tables import write_predictions
from engine.base import run_script
from engine.device import autocast, choose_device, choose_workers, seed_everything, tune_allocator
from engine.loop import Loop
from engine.optimizer import build_optimizer, parameter_groups
from engine.run import Run, Stopper
from engine.run_folder import ARCHITECTURE, MODEL, PREDICTIONS, best_and_last
from models.backbone import (
    HeadInputs,
    backbone_sha256,
    head_name,
    head_of,
    prove_unchanged,
    set_training_mode,
    start_from,
    with_other_head,
)
from models.builders import CLASSIFIERS, build_network, check_network, describe_classifier, normalisation
from models.describe import keep_architecture
from models.predict import normalise, predict_classes
from models.small_maps import use_matrix_products


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    args.edition = edition(args.edition).name
    # What can't be seen or had is told before thousands of images are read.
    network = build_network(args.model, CLASSIFIERS, num_classes=2, stem=args.stem)
    crops = () if args.augment == "none" else (args.crop_size,)
    check_network(network, args.model, num_classes=2, sizes=(args.image_size, *crops))
    if args.weights != "none":
        start_from(network, args.model, args.weights, None, False)
    train, validation = (args.train_images, args.train_csv), (args.val_images, args.val_csv)
    data, stopper = (
        load_training_data(train, validation, args.image_size, args.cache),
        Stopper(args.max_minutes),
    )
    for setting, seed in product(args.settings, args.seeds):
        part = data if args.label_share == 1 else data.with_labels_of(args.label_share, seed)
        status = fine_tune(arguments_of_run(args, setting, seed), part, stopper)
        if status is not None:
            return status
    if not args.dry_run:
        from report.settings_table import write_settings_table  # imports matplotlib, which takes a second

        print(write_settings_table(args.output))
    return 1 if data.left_out else 0


def fine_tune(args: argparse.Namespace, data: TrainingData, stopper: Stopper) -> int | None:
    """One run. Returns the exit status when it was asked to stop before its end, else None."""
    seed_everything(args.seed)
    device = choose_device(args.device)
    network = build_network(args.model, CLASSIFIERS, num_classes=len(data.classes), stem=args.stem)
    origin = start_from(network, args.model, args.weights, args.backbone, args.is_frozen)
    is_random = args.backbone is None and args.weights == "none"
    args.backbone_sha256 = (
        None if is_random else backbone_sha256(network)
    )  # another file under the name is refused
    network = network.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        use_matrix_products(network)
    print(f"{args.setting}, seed {args.seed}: {args.model} {origin}; on {device}", file=sys.stderr)
    trained, samples, validation = what_is_trained(args, network, data, device)
    backbone_lr = None if is_random or trained is not network else args.backbone_lr
    head = head_name(network) + "."
    groups = parameter_groups(
        trained, args.lr, backbone_lr, is_backbone=lambda name: not name.startswith(head)
    )
    optimizer = build_optimizer(args.optimizer, groups, args.lr, args.weight_decay)
    batch_size, workers = min(args.batch_size, len(samples)), choose_workers(args.workers, device)
    set_training_mode(network, args.is_frozen)
    if args.dry_run:
        batch = next(iter(epoch_loader(samples, args.seed, 0, 0, batch_size, workers)))
        loss = loss_of(trained, batch, args, device, step=0)
        loss.backward()
        optimizer.step()
        print(
            f"dry run: {len(samples)} + {len(validation)} photographs, one step, loss {loss.item():.4f}: all "
            "is well"
        )
        return None

    arguments = {**vars(args), "training_images": len(samples), "num_classes": len(data.classes)}
    run = Run(f"{args.output}/{args.setting}-seed{args.seed}", arguments, RECIPES[args.recipe])
    keep_architecture(network, args.model, args.image_size, run.folder / ARCHITECTURE)
    loop = Loop(run, trained, optimizer, args, len(samples) // batch_size, stopper)
    description = describe_classifier(args.model, data.classes, args.image_size, args.edition, args.stem)
    for epoch in loop.epochs_left():
        set_training_mode(network, args.is_frozen)
        for batch in epoch_loader(samples, args.seed, epoch, loop.batch_in_epoch, batch_size, workers):
            loop.set_learning_rates()
            loss = loss_of(trained, batch, args, device, loop.step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loop.after_step(loss, batch_size)
            if loop.must_stop():
                return loop.stop()
            if loop.is_done():
                break
        scores, predicted = predict(loop, epoch + 1, validation, args, device)
        state = with_other_head(network, loop.average) if trained is head_of(network) else None
        if loop.keep_weights(description, scores, args.snapshot_epochs, state):
            images, classes = data.validation, data.classes
            answers, truth = ([classes[label] for label in labels] for labels in (predicted, images.labels))
            write_predictions(run.folder / PREDICTIONS, images.names, answers, truth)
        loop.end_epoch(**scores)
        if loop.must_stop():
            return loop.stop()
    if args.is_frozen:
        prove_unchanged(network, run.folder / MODEL, args.backbone_sha256)
        run.say(
            f"the backbone did not change: sha256 {args.backbone_sha256} before and after, statistics "
            "included"
        )
    loop.close()
    print(f"{args.setting}, seed {args.seed}: {best_and_last(run.folder)}: {run.folder / MODEL}")
    return None


def what_is_trained(
    args: argparse.Namespace, network: nn.Module, data: TrainingData, device: torch.device
) -> tuple[nn.Module, Dataset, Any]:
    """The network, or the head of a frozen one; and what it is given to train on and to be scored on."""
    if args.is_augmented:
        changes = (args.min_area, args.shift, args.jitter)
        crops = ImageCrops(data.images, args.crop_size, args.seed, *changes)
        return network, crops, data.validation
    if not args.is_frozen:
        return network, data.as_inference_sees, data.validation
    if (
        args.backbone_sha256 not in data.computed
    ):  # a photograph's features are the same in every epoch, for every seed
        look = (*normalisation(args.model), device)
        data.computed[args.backbone_sha256] = [
            HeadInputs(photographs, network, *look)
            for photographs in (data.as_inference_sees, data.validation)
        ]
    return head_of(network), *data.computed[args.backbone_sha256]


def predict(
    loop: Loop, epoch: int, validation: Any, args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, float], Tensor | None]:
    """The averaged weights' accuracy after `epoch` (from 1) and the classes they predict, when it is time."""
    if epoch % args.eval_every and not loop.is_done():
        return {}, None
    predicted = predict_classes(loop.scored, validation.batches(64), *normalisation(args.model), device)
    share, error = accuracy(int((predicted == torch.as_tensor(validation.labels)).sum()), len(predicted))
    loop.run.say(f"{args.setting}, epoch {epoch}: accuracy {share:.4f} +- {error:.4f}")
    return {"accuracy": share}, predicted


def loss_of(
    network: nn.Module, batch: list[Tensor], args: argparse.Namespace, device: torch.device, step: int
) -> Tensor:
    """Of bytes (B, 3, S, S), labels (B) and, with augmentation, colour factors (B, 3); or of features (B,
    C).
    """
    inputs, labels, *colours = (part.to(device, non_blocking=True) for part in batch)
    criterion = partial(functional.cross_entropy, label_smoothing=args.label_smoothing)
    if inputs.dtype != torch.uint8:  # features, for a head alone
        return criterion(network(inputs), labels)
    images = jitter_colours(inputs.float() / 255, *colours) if colours else inputs.float() / 255
    mix = args.mix if args.is_augmented else "none"
    images, partners, share = mix_images(images, mix, np.random.default_rng((args.seed, step, 2)))
    images = normalise(images, *normalisation(args.model)).contiguous(memory_format=torch.channels_last)
    with autocast(device, network):
        logits = network(images).float()
    if share == 1:
        return criterion(logits, labels)
    return share * criterion(logits, labels) + (1 - share) * criterion(logits, labels[partners])


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
