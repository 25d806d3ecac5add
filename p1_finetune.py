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

Every setting and seed has a run folder of its own below --output, such as runs/p1/A-seed0, with the best weights
(chosen on the validation images) in model.pt for p1_inference.py. The same command goes on after Ctrl-C, a crash or a
power cut, and leaves finished runs alone. On a CPU a seed gives the same weights bit for bit, on a GPU closely.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product

from engine.arguments import fill_in

# Which flag names the file of the backbone (None: random weights), and whether the backbone stays as it is.
SETTINGS = {
    "A": (None, False),
    "B": ("sl_backbone", False),
    "C": ("ssl_backbone", False),
    "D": ("sl_backbone", True),
    "E": ("ssl_backbone", True),
}
BACKBONES = ("sl_backbone", "ssl_backbone")

# What a flag given by hand overrides.
RECIPES = {
    "default": {
        "weights": "none",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "warmup_steps": 100,
        "batch_size": 32,
        "image_size": 128,
        "min_area": 0.3,  # smallest share of a photograph that a crop covers
        "jitter": 0.3,  # how far contrast and saturation change at most, and twice the brightness
        "label_smoothing": 0.1,
        "ema_decay": 0.995,
    },
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="the course's office folder: train/, train.csv, val/, val.csv")
    add("--output", required=True, help="folder of the run folders; given again, the runs go on")
    add("--settings", default="A", help="letters of the settings, such as A or ABCDE (default A)")
    add("--seed", "--seeds", dest="seeds", type=int, nargs="+", default=[0], help="a run each (default 0)")
    add("--sl-backbone", help="pre-trained with labels: the course's pretrain_model_SL.pt, for B and D")
    add("--ssl-backbone", help="pre-trained without labels: backbone.pt of p1_ssl_pretrain.py, for C and E")
    add("--model", default="resnet50", help="name of a classifier of models/ (default resnet50)")
    add("--weights", help="of setting A: none (what the course asks), imagenet, or a file")
    add("--recipe", default="default", choices=sorted(RECIPES), help="the arguments not given by hand")
    # how long
    add("--epochs", type=int, default=100, help="passes over the training images (default 100)")
    add("--budget-minutes", type=float, help="instead of --epochs: as many steps as these minutes hold, fixed once")
    add("--max-minutes", type=float, help="stop this invocation then; the same command goes on")
    add("--eval-every", type=int, default=1, help="epochs between two scorings of the validation images")
    add("--snapshot-epochs", type=int, nargs="+", help="epochs whose weights are kept (default: first, middle, last)")
    # what the recipe says otherwise
    add("--batch-size", type=int, help="images a step; halve it when the GPU's memory is short")
    add("--lr", type=float, help="learning rate at its highest")
    add("--image-size", type=int, help="pixels a side of what the network sees at inference (the course's is 128)")
    add("--crop-size", type=int, help="pixels a side of a training crop (default: 7/8 of --image-size)")
    # the machine
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--workers", type=int, help="processes that cut crops (default: none on a CPU, up to 8 beside a GPU)")
    add("--cache", help="folder for decoded photographs (default: the user's cache folder)")
    add("--dry-run", action="store_true", help="check the data, build everything, run one step, write no run folder")
    args = parser.parse_args(argv)
    fill_in(parser, args, RECIPES[args.recipe])
    check_arguments(parser, args)
    return args


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not args.settings or min(args.seeds) < 0:
        parser.error("--settings wants at least one letter, --seeds no number below 0")
    args.settings = "".join(dict.fromkeys(args.settings.upper()))
    args.seeds = list(dict.fromkeys(args.seeds))
    # Crops enlarge what they show, so the network is trained a little smaller than it is used (Touvron et al., 2019).
    args.crop_size = args.crop_size or max(32, args.image_size * 7 // 8)
    for setting in args.settings:
        if setting not in SETTINGS:
            parser.error(f"--settings {args.settings}: there are only {', '.join(SETTINGS)}")
        source = SETTINGS[setting][0]
        if source is not None and vars(args)[source] is None:
            parser.error(f"setting {setting} starts from a backbone: give --{source.replace('_', '-')} FILE")
        if source is not None and args.weights != "none":
            parser.error(f"--weights is for setting A alone; {setting} starts from its backbone")


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before torch, which takes two seconds to import: --help and mistakes don't wait

import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.augment import PhotoCrops, jitter_colours
from datasets.editions import edition
from datasets.labelled import LabelledImages, are_integers, load_training, load_validation
from datasets.sampling import epoch_loader
from datasets.score import accuracy
from engine.cli import run_script
from engine.device import autocast_dtype, choose_device, choose_workers, seed_everything, tune_allocator
from engine.loop import Loop
from engine.optimizer import parameter_groups
from engine.run import Run, Stopper
from models import CLASSIFIERS, build_network, normalisation
from models.backbone import set_training_mode, start_from
from models.predict import normalise, predict_images


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    train = load_training(f"{args.data}/train", f"{args.data}/train.csv", args.image_size, args.cache, least=2)
    validation = load_validation(f"{args.data}/val", f"{args.data}/val.csv", args.image_size, train.classes, args.cache)
    stopper = Stopper(args.max_minutes)
    for setting, seed in product(args.settings, args.seeds):
        status = fine_tune(arguments_of_run(args, setting, seed), train, validation, stopper)
        if status is not None:
            return status
    return 1 if train.left_out or validation.left_out else 0


def arguments_of_run(args: argparse.Namespace, setting: str, seed: int) -> argparse.Namespace:
    """What one run depends on: the other settings, seeds and backbones of the same command are none of it."""
    own = {name: value for name, value in vars(args).items() if name not in ("settings", "seeds", *BACKBONES)}
    source, is_frozen = SETTINGS[setting]
    backbone = source and vars(args)[source]
    return argparse.Namespace(setting=setting, seed=seed, backbone=backbone, is_frozen=is_frozen, **own)


def fine_tune(
    args: argparse.Namespace, train: LabelledImages, validation: LabelledImages, stopper: Stopper
) -> int | None:
    """One run. Returns the exit status when it was asked to stop before its end, else None."""
    seed_everything(args.seed)
    device = choose_device(args.device)
    network = build_network(args.model, CLASSIFIERS, num_classes=len(train.classes))
    origin = start_from(network, args.model, args.weights, args.backbone, args.is_frozen)
    network = network.to(device, memory_format=torch.channels_last)
    groups = parameter_groups(network, args.lr)
    optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay, fused=True)
    crops = PhotoCrops(train, args.crop_size, args.min_area, args.jitter, args.seed)
    batch_size, workers = min(args.batch_size, len(train)), choose_workers(args.workers, device)
    print(f"{args.setting}, seed {args.seed}: {args.model} {origin}; on {device}", file=sys.stderr)
    set_training_mode(network, args.is_frozen)
    if args.dry_run:
        loss = loss_of(network, next(iter(epoch_loader(crops, args.seed, 0, 0, batch_size, workers))), args, device)
        loss.backward()
        optimizer.step()
        print(f"dry run: {len(train)} + {len(validation)} photographs, one step, loss {loss.item():.4f}: all is well")
        return None

    arguments = {**vars(args), "training_images": len(train), "num_classes": len(train.classes)}
    run = Run(f"{args.output}/{args.setting}-seed{args.seed}", arguments, RECIPES[args.recipe])
    loop = Loop(
        run,
        network,
        optimizer,
        steps_per_epoch=len(train) // batch_size,
        epochs=args.epochs,
        budget_minutes=args.budget_minutes,
        stopper=stopper,
        warmup_steps=args.warmup_steps,
        ema_decay=args.ema_decay,
    )
    for epoch in loop.epochs_left():
        set_training_mode(network, args.is_frozen)
        for batch in epoch_loader(crops, args.seed, epoch, loop.batch_in_epoch, batch_size, workers):
            loop.set_learning_rates()
            loss = loss_of(network, batch, args, device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loop.after_step(loss, batch_size)
            if loop.must_stop():
                return loop.stop()
            if loop.is_done():
                break
        scores = score(loop, epoch + 1, validation, args, device)
        loop.keep_weights(description(args, train.classes), scores, args.snapshot_epochs)
        loop.end_epoch(**scores)
        if loop.must_stop():
            return loop.stop()

    loop.close()
    print(f"{args.setting}, seed {args.seed}: best accuracy {loop.best:.4f} on validation: {run.folder / 'model.pt'}")
    return None


def loss_of(network: nn.Module, batch: list[Tensor], args: argparse.Namespace, device: torch.device) -> Tensor:
    images, labels, colours = (part.to(device, non_blocking=True) for part in batch)
    images = normalise(jitter_colours(images.float() / 255, colours), *normalisation(args.model))
    dtype = autocast_dtype(device)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    return functional.cross_entropy(logits.float(), labels, label_smoothing=args.label_smoothing)


def score(
    loop: Loop, epoch: int, validation: LabelledImages, args: argparse.Namespace, device: torch.device
) -> dict[str, float]:
    """The averaged weights' accuracy after `epoch` (from 1), or nothing when it is not time."""
    if epoch % args.eval_every and not loop.is_done():
        return {}
    correct = 0
    for batch, labels in validation.batches(64):
        predicted = predict_images(loop.average, batch.to(device), *normalisation(args.model)).argmax(dim=1)
        correct += int((predicted.cpu() == labels).sum())
    share, error = accuracy(correct, len(validation))
    loop.run.say(f"{args.setting}, epoch {epoch}: accuracy {share:.4f} +- {error:.4f}")
    return {"accuracy": share}


def description(args: argparse.Namespace, classes: list[str]) -> dict:
    mean, std = normalisation(args.model)
    return {
        "problem": "p1",
        "network": args.model,
        "arguments": {"num_classes": len(classes)},
        "classes": classes,
        "integer_labels": are_integers(classes),
        "image_size": args.image_size,
        "mean": mean,
        "std": std,
        "edition": edition().name,
    }


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
