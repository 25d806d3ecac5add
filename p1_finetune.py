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
(chosen on the validation images) in model.pt for p1_inference.py and what they predict in predictions.csv; a table of
all runs lies beside them. The same command goes on after Ctrl-C, a crash or a power cut, and leaves finished runs
alone. On a CPU a seed gives the same weights bit for bit, on a GPU closely.

Who lacks the course's pretrain_model_SL.pt makes one: setting A with --model resnet50 on --train-images
hw1_data/p1_data/mini/train --train-csv hw1_data/p1_data/mini/train_labels.csv, then python3 -m models.export.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from typing import Any

from datasets.flags import add_photograph_flags, check_photograph_flags
from engine.arguments import add_training_flags, fill_in

# Which flag names the file of the backbone (None: random weights), and whether the backbone stays as it is.
SL, SSL = BACKBONES = ("sl_backbone", "ssl_backbone")
SETTINGS = {"A": (None, False), "B": (SL, False), "C": (SSL, False), "D": (SL, True), "E": (SSL, True)}

# What a flag given by hand overrides. min_area: smallest share of a photograph that a crop covers. jitter: how far
# contrast and saturation change at most, and twice the brightness. assumed: what a report does not state.
COMMON = {"weights": "none", "image_size": 128, "min_area": 0.3, "jitter": 0.3, "assumed": []}
PLAIN = {**COMMON, "augment": "none", "label_smoothing": 0.0, "ema_decay": 0.0}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.05, "schedule": "cosine", "warmup_steps": 100}
ADAM = {"optimizer": "adam", "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0}
AUGMENTED = {"augment": "unfrozen", "label_smoothing": 0.1, "ema_decay": 0.995}
RECIPES = {
    "default": {**COMMON, **AUGMENTED, **ADAMW, "model": "resnet50", "epochs": 100, "lr": 1e-3, "batch_size": 32},
    "report001": {**PLAIN, **ADAM, "model": "resnet50_fc1000", "epochs": 50, "lr": 1e-4, "batch_size": 64},
    "report004": {**PLAIN, **ADAMW, "model": "resnet50", "epochs": 500, "lr": 1e-4, "batch_size": 128},
}
RECIPES["report001"]["assumed"] = ["augment", "ema_decay", "label_smoothing", "lr", "batch_size", *ADAM]
RECIPES["report004"]["assumed"] = ["augment", "ema_decay", "label_smoothing", "model"]


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_photograph_flags(parser)
    add("--output", required=True, help="folder of the run folders; given again, the runs go on")
    add("--settings", default="A", help="letters of the settings, such as A or ABCDE (default A)")
    add("--seed", "--seeds", dest="seeds", type=int, nargs="+", default=[0], help="a run each (default 0)")
    add("--sl-backbone", help="pre-trained with labels: the course's pretrain_model_SL.pt, for B and D")
    add("--ssl-backbone", help="pre-trained without labels: backbone.pt of p1_ssl_pretrain.py, for C and E")
    add("--weights", help="of setting A: none (what the course asks), imagenet, or a file")
    # how long
    add("--eval-every", type=int, default=1, help="epochs between two scorings of the validation images")
    add("--snapshot-epochs", type=int, nargs="+", help="epochs whose weights are kept (default: first, middle, last)")
    # what the recipe says otherwise
    add("--model", help="name of a classifier of models/: resnet50, resnet50_bn, resnet50_mlp, resnet50_fc1000 ...")
    add("--image-size", type=int, help="pixels a side of what the network sees at inference (the course's is 128)")
    add("--crop-size", type=int, help="pixels a side of a training crop (default: 7/8 of --image-size)")
    add("--augment", choices=("all", "unfrozen", "none"), help="random crops and colours in these settings")
    add("--label-smoothing", type=float, help="share of the target that is spread over all classes")
    add("--ema-decay", type=float, help="of the averaged weights that are scored and kept; 0: no average")
    # the machine
    add("--workers", type=int, help="processes that cut crops (default: none on a CPU, up to 8 beside a GPU)")
    add("--dry-run", action="store_true", help="check the data, build everything, run one step, write no run folder")
    add_training_flags(parser, RECIPES)
    args = parser.parse_args(argv)
    fill_in(parser, args, RECIPES[args.recipe])
    check_arguments(parser, args)
    return args


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    check_photograph_flags(parser, args)
    if not args.settings or min(args.seeds) < 0:
        parser.error("--settings wants at least one letter, --seeds no number below 0")
    if not (0 <= args.label_smoothing < 1 and 0 <= args.ema_decay < 1):
        parser.error("--label-smoothing and --ema-decay must be 0 at least and less than 1")
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

from datasets.augment import jitter_colours
from datasets.editions import edition
from datasets.sampling import epoch_loader
from datasets.score import accuracy
from datasets.splits import Split, load_split
from engine.checkpoint import read_model
from engine.cli import run_script
from engine.device import autocast_dtype, choose_device, choose_workers, seed_everything, tune_allocator
from engine.errors import RunError
from engine.loop import Loop
from engine.optimizer import build_optimizer, parameter_groups
from engine.run import Run, Stopper
from engine.schedule import SCHEDULES
from models import CLASSIFIERS, build_network, describe_classifier, normalisation
from models.backbone import backbone_sha256, head_of, set_training_mode, start_from, with_head
from models.frozen import Features
from models.predict import normalise, predict_classes
from report.predictions import best_and_last, write_predictions


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    data, stopper = load_split(args), Stopper(args.max_minutes)
    for setting, seed in product(args.settings, args.seeds):
        status = fine_tune(arguments_of_run(args, setting, seed), data, stopper)
        if status is not None:
            return status
    if not args.dry_run:
        from report.settings_table import write_settings_table  # imports matplotlib, which takes a second

        print(write_settings_table(args.output))
    return 1 if data.left_out else 0


def arguments_of_run(args: argparse.Namespace, setting: str, seed: int) -> argparse.Namespace:
    """What one run depends on: the other settings, seeds and backbones of the same command are none of it."""
    own = {name: value for name, value in vars(args).items() if name not in ("settings", "seeds", *BACKBONES)}
    source, is_frozen = SETTINGS[setting]
    own.update(setting=setting, seed=seed, is_frozen=is_frozen, backbone=source and vars(args)[source])
    own.update(is_augmented=args.augment == "all" or (args.augment == "unfrozen" and not is_frozen))
    return argparse.Namespace(**own)


def fine_tune(args: argparse.Namespace, data: Split, stopper: Stopper) -> int | None:
    """One run. Returns the exit status when it was asked to stop before its end, else None."""
    seed_everything(args.seed)
    device = choose_device(args.device)
    network = build_network(args.model, CLASSIFIERS, num_classes=len(data.classes))
    origin = start_from(network, args.model, args.weights, args.backbone, args.is_frozen)
    args.backbone_sha256 = backbone_sha256(network) if args.is_frozen else None
    network = network.to(device, memory_format=torch.channels_last)
    print(f"{args.setting}, seed {args.seed}: {args.model} {origin}; on {device}", file=sys.stderr)

    trained, samples, validation = network, data.samples(args), data.validation
    batch_size, workers = min(args.batch_size, len(samples)), choose_workers(args.workers, device)
    if args.is_frozen and not args.is_augmented:  # a photograph's features are the same in every epoch
        look = (network, args.backbone_sha256, *normalisation(args.model), device)
        trained, samples, validation = head_of(network), Features(samples, *look), Features(validation, *look)
        workers = 0
    optimizer = build_optimizer(args.optimizer, parameter_groups(trained, args.lr), args.lr, args.weight_decay)
    if args.dry_run:
        set_training_mode(network, args.is_frozen)
        loss = loss_of(trained, next(iter(epoch_loader(samples, args.seed, 0, 0, batch_size, workers))), args, device)
        loss.backward()
        optimizer.step()
        print(f"dry run: {len(samples)} + {len(validation)} photographs, one step, loss {loss.item():.4f}: all is well")
        return None

    arguments = {**vars(args), "training_images": len(samples), "num_classes": len(data.classes)}
    run = Run(f"{args.output}/{args.setting}-seed{args.seed}", arguments, RECIPES[args.recipe])
    limits = {name: vars(args)[name] for name in ("epochs", "budget_minutes", "warmup_steps", "ema_decay")}
    steps_per_epoch, schedule = len(samples) // batch_size, SCHEDULES[args.schedule]
    loop = Loop(run, trained, optimizer, steps_per_epoch=steps_per_epoch, stopper=stopper, schedule=schedule, **limits)
    description = describe_classifier(args.model, data.classes, args.image_size, edition().name)
    for epoch in loop.epochs_left():
        set_training_mode(network, args.is_frozen)
        for batch in epoch_loader(samples, args.seed, epoch, loop.batch_in_epoch, batch_size, workers):
            loop.set_learning_rates()
            loss = loss_of(trained, batch, args, device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loop.after_step(loss, batch_size)
            if loop.must_stop():
                return loop.stop()
            if loop.is_done():
                break
        scores, predicted = score(loop, epoch + 1, validation, args, device)
        whole = None if trained is network else with_head(network, loop.average)
        if loop.keep_weights(description, scores, args.snapshot_epochs, whole):
            write_predictions(run.folder / "predictions.csv", data.validation, predicted)
        loop.end_epoch(**scores)
        if loop.must_stop():
            return loop.stop()
    if args.is_frozen:
        prove_unchanged(run, network, args.backbone_sha256)
    loop.close()
    print(f"{args.setting}, seed {args.seed}: {best_and_last(run.folder)}: {run.folder / 'model.pt'}")
    return None


def prove_unchanged(run: Run, network: nn.Module, before: str) -> None:
    """The backbone's sha256 is still what it was `before` the training, in the network and in model.pt, or RunError."""
    kept = read_model(run.folder / "model.pt")["state"]
    if {backbone_sha256(network), backbone_sha256(network, kept)} != {before}:
        raise RunError(f"{run.folder}: the backbone has changed, which it must not; its scores are worth nothing")
    run.say(f"the backbone did not change: sha256 {before} before and after, over all its parameters and statistics")


def loss_of(network: nn.Module, batch: list[Tensor], args: argparse.Namespace, device: torch.device) -> Tensor:
    """Of bytes (B, 3, S, S), labels (B) and, with augmentation, colour factors (B, 3); or of features (B, C)."""
    inputs, labels, *colours = (part.to(device, non_blocking=True) for part in batch)
    dtype = autocast_dtype(device) if inputs.dtype == torch.uint8 else None
    if inputs.dtype == torch.uint8:
        images = jitter_colours(inputs.float() / 255, *colours) if colours else inputs.float() / 255
        inputs = normalise(images, *normalisation(args.model)).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        logits = network(inputs)
    return functional.cross_entropy(logits.float(), labels, label_smoothing=args.label_smoothing)


def score(
    loop: Loop, epoch: int, validation: Any, args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, float], Tensor | None]:
    """The averaged weights' accuracy after `epoch` (from 1) and the classes they predict, when it is time."""
    if epoch % args.eval_every and not loop.is_done():
        return {}, None
    predicted = predict_classes(loop.average.eval(), validation.batches(64), *normalisation(args.model), device)
    correct = int((predicted == torch.as_tensor(validation.labels)).sum())
    share, error = accuracy(correct, len(predicted))
    loop.run.say(f"{args.setting}, epoch {epoch}: accuracy {share:.4f} +- {error:.4f}")
    return {"accuracy": share}, predicted


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
