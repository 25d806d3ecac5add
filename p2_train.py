"""Train a land-cover segmentation network on satellite tiles.

    python3 p2_train.py --data hw1_data/p2_data --output runs/p2 --weights imagenet --budget-minutes 60

Try it in a minute on any machine:

    python3 -m datasets.sample sample
    python3 p2_train.py --data sample/hw1_data/p2_data --output runs/try --scale 0.25 --epochs 2

The same command goes on after Ctrl-C, a crash or a power cut. RUN/model.pt holds the best weights (chosen on the
validation tiles) for p2_inference.py; RUN/metrics.jsonl every class's IoU after each epoch.
"""

from __future__ import annotations

import argparse
import math
import sys

from engine.arguments import add_training_flags, fill_in
from recipes.p2_train import RECIPES


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="the course's p2_data folder, with train/ and validation/")
    add("--model", default="lite_fpn", help="name of a network of models/ (default: the light one, fit for a CPU)")
    add("--weights", help="none, imagenet (the backbone's), coco, or a file such as another model.pt")
    # how long
    add("--eval-every", type=int, default=1, help="epochs between two scorings of the validation tiles")
    add("--snapshot-epochs", type=int, nargs="+", help="epochs kept in snapshots/ (default: first, middle and last)")
    # what the recipe says otherwise
    add("--backbone-lr", type=float, help="learning rate of ready-made weights")
    add("--scale", type=float, help="scale of the tiles at inference, 1 = as they are; smaller is faster")
    add("--crop-size", type=int, help="pixels a side of a training crop (default: 3/4 of the scaled tile)")
    add("--min-crop", type=float, help="smallest share of a tile's side that a crop covers")
    # the machine
    add("--seed", type=int, default=0, help="fixes every random choice; bit for bit on a CPU, closely on a GPU")
    add("--workers", type=int, help="processes that cut crops (default: none on a CPU, up to 8 beside a GPU)")
    add("--dry-run", action="store_true", help="check the data, build everything, run one step, write no run folder")
    add_training_flags(parser, RECIPES)
    args = parser.parse_args(argv)
    fill_in(parser, args, RECIPES[args.recipe])
    if not (0 < args.scale <= 4 and 0 < args.min_crop <= 1):
        parser.error("--scale must lie above 0 and up to 4, --min-crop above 0 and up to 1")
    return args


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before torch, which takes two seconds to import: --help and mistakes don't wait

import torch
from torch import Tensor, nn

from datasets.augment import jitter_colours
from datasets.editions import edition
from datasets.palette import CLASS_NAMES, NUM_CLASSES, SCORED_CLASSES, UNCLAIMED
from datasets.sampling import epoch_loader
from datasets.tile_pairs import IGNORED, TileCrops, TilePairs, load_pairs, rare_class_weights
from engine.cli import run_script
from engine.device import autocast_dtype, choose_device, choose_workers, seed_everything, tune_allocator
from engine.loop import Loop
from engine.metrics import confusion_matrix, iou_per_class, mean_iou
from engine.optimizer import parameter_groups
from engine.run import Run, Stopper
from models.builders import SEGMENTERS, build_network, normalisation
from models.losses import segmentation_loss
from models.predict import normalise, predict_tiles
from models.weights import load_ready_made


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    seed_everything(args.seed)
    device = choose_device(args.device)

    train = load_pairs(f"{args.data}/train", args.cache, least=2)  # as batch norm needs
    validation = load_pairs(f"{args.data}/validation", args.cache)
    crops = TileCrops(train, args.crop_size or default_crop_size(train, args.scale), args.min_crop, args.seed)
    batch_size, workers = min(args.batch_size, len(train)), choose_workers(args.workers, device)
    tile_weights = rare_class_weights(train) if args.balanced else None

    network = build_network(args.model, SEGMENTERS, num_classes=NUM_CLASSES)
    origin = load_ready_made(network, args.model, args.weights)
    network = network.to(device, memory_format=torch.channels_last)
    groups = parameter_groups(network, args.lr, args.backbone_lr if args.weights != "none" else None)
    optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay)
    print(f"{args.model} {origin}; {len(train)} tiles, crops of {crops.crop_size} px, on {device}", file=sys.stderr)
    if args.dry_run:
        loss = loss_of(network, next(iter(epoch_loader(crops, args.seed, 0, 0, batch_size, workers))), args, device)
        loss.backward()
        optimizer.step()
        print(f"dry run: {len(train)} + {len(validation)} tiles, one step, loss {loss.item():.4f}: all is well")
        return 0

    run = Run(args.output, {**vars(args), "training_tiles": len(train)}, RECIPES[args.recipe])
    loop = Loop(run, network, optimizer, args, len(train) // batch_size, Stopper(args.max_minutes))
    for epoch in loop.epochs_left():
        network.train()
        for batch in epoch_loader(crops, args.seed, epoch, loop.batch_in_epoch, batch_size, workers, tile_weights):
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
        loop.keep_weights(description(args), scores, args.snapshot_epochs)
        loop.end_epoch(**scores)
        if loop.must_stop():
            return loop.stop()

    loop.close()
    print(f"best mIoU {loop.best:.6f} on {len(validation)} validation tiles: {run.folder / 'model.pt'}")
    return 1 if train.left_out or validation.left_out else 0


def default_crop_size(pairs: TilePairs, scale: float) -> int:
    """Three quarters of a scaled tile, in whole strides of 32. Crops zoom in, so tiles are scored at a larger scale."""
    return 32 * max(2, round(0.75 * scale * min(pairs.tile(0).shape[:2]) / 32))


def loss_of(network: nn.Module, batch: list[Tensor], args: argparse.Namespace, device: torch.device) -> Tensor:
    """The loss of one batch of crops: bytes (B, 3, S, S), targets (B, S, S), colour factors (B, 3)."""
    images, targets, colours = (part.to(device, non_blocking=True) for part in batch)
    images = normalise(jitter_colours(images.float() / 255, colours), *normalisation(args.model))
    # Not on a CPU: its depthwise convolutions in bfloat16 are five times slower backwards.
    dtype = autocast_dtype(device) if device.type == "cuda" else None
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        logits = network(images.contiguous(memory_format=torch.channels_last))
    losses = {
        name: segmentation_loss(values.float(), targets.long(), IGNORED, SCORED_CLASSES, args.soft_iou)
        for name, values in logits.items()
    }
    return losses["out"] + 0.4 * losses.get("aux", 0)


def score(
    loop: Loop, epoch: int, validation: TilePairs, args: argparse.Namespace, device: torch.device
) -> dict[str, float]:
    """The averaged weights' mIoU and each class's IoU after `epoch` (from 1), or nothing when it is not time."""
    if epoch % args.eval_every and not loop.is_done():
        return {}
    ious = evaluate(loop.average, validation, args.scale, *normalisation(args.model), device)
    # A small validation set may lack a class; the scorer then says nan, by which no epoch could be chosen.
    of_class = {name: iou for name, iou in zip(CLASS_NAMES, ious) if not math.isnan(iou)}
    scores = {"mean_iou": mean_iou(list(of_class.values())), **of_class}
    loop.run.say(f"epoch {epoch}: mIoU {scores['mean_iou']:.4f} (" + " ".join(f"{iou:.3f}" for iou in ious) + ")")
    return scores


def description(args: argparse.Namespace) -> dict:
    """What inference needs to know beside the weights."""
    mean, std = normalisation(args.model)
    return {
        "problem": "p2",
        "network": args.model,
        "arguments": {"num_classes": NUM_CLASSES},
        "classes": list(CLASS_NAMES),
        "scale": args.scale,
        "mean": mean,
        "std": std,
        "edition": edition().name,
    }


def evaluate(
    network: nn.Module, pairs: TilePairs, scale: float, mean: list[float], std: list[float], device: torch.device
) -> list[float]:
    """IoU of the six scored classes, counted as mean_iou_evaluate.py counts: red as urban, unknown not left out."""
    confusion = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64, device=device)
    for index in range(len(pairs)):
        tile = torch.from_numpy(pairs.tile(index).copy()).permute(2, 0, 1)[None].to(device)
        predicted = predict_tiles([network], tile, scale, mean, std).argmax(dim=1)
        target = torch.from_numpy(pairs.mask(index).astype("int64"))[None].to(device)
        confusion += confusion_matrix(predicted, target.where(target != UNCLAIMED, 0), NUM_CLASSES)
    return iou_per_class(confusion, SCORED_CLASSES)


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
