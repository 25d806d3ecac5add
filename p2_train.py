"""Train a land-cover segmentation network on satellite tiles.

    python3 p2_train.py --data hw1_data/p2_data --output runs/p2 --weights imagenet --budget-minutes 60

Try it in a minute on any machine:

    python3 -m datasets.sample sample
    python3 p2_train.py --data sample/hw1_data/p2_data --output runs/try --scale 0.25 --epochs 2

The same command resumes after Ctrl-C, a crash or a power cut. RUN/model.pt holds the best weights (chosen on
the validation tiles) for p2_inference.py; RUN/metrics.jsonl every class's IoU after each epoch;
RUN/confusions.npz every tile's counts at the best and the last epoch; RUN/stages.png what named tiles looked
like at the first, middle, last and best epoch. A DeepLabV3-ResNet50 can start from one's own BYOL:
--model deeplabv3_resnet50 --weights runs/ssl/backbone.pt.

On several GPUs: torchrun --nproc-per-node 4 p2_train.py ... ; --batch-size is that of all of them together.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from functools import partial
from pathlib import Path
from typing import Callable, Sequence
from zipfile import BadZipFile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from engine.arguments import SEED, add_scoring_flags, add_training_flags, fill_in, flag_adder, parser_for
from engine.packages import begin
from recipes.p2_train import RECIPES

VALIDATION_BATCH = 8  # tiles at a time on a GPU, as hw1_2.sh


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = parser_for(__doc__)
    add = flag_adder(parser, RECIPES)
    add("--data", required=True, help="the course's p2_data folder, with train/ and validation/")
    holdout = "share of the training tiles, drawn by seed, to score on in place of the validation tiles"
    add("--holdout", type=float, default=0.0, help=f"{holdout} (default 0)")
    add("--edition", help="of the course (default: that of EDITION, else 2024)")
    add("--model", help="name of a network of models/; lite_fpn is fit for a CPU")
    add("--weights", help="none, imagenet (the backbone's), coco, or a file such as another model.pt")
    # how it is trained
    add("--scale", type=float, help="scale of the tiles at inference, 1 = as they are; smaller is faster")
    add("--crop-size", type=int, help="pixels a side of a training crop (default: 3/4 of the scaled tile)")
    add("--min-crop", type=float, help="smallest share of a tile's side that a crop covers")
    augment = "all: crops, turns, colours; flips: three times the tiles; recipe: the recipe's own"
    add("--augment", choices=("all", "flips", "recipe", "none"), help=augment)
    add("--balanced", action=argparse.BooleanOptionalAction, help="draw tiles with rare classes more often")
    add("--backbone-lr", type=float, help="learning rate of pretrained weights")
    add("--gamma", type=float, help="of the focal loss; 0: cross-entropy")
    add("--alpha", type=float, nargs="+", help="weight of every class in the loss: one number, six, or seven")
    add("--soft-iou", type=float, help="weight of the soft-IoU loss beside it")
    add("--ema-decay", type=float, help="of the averaged weights that are scored and kept; 0: no average")
    # what is kept
    add_scoring_flags(parser, "tiles")
    pictures = "validation tiles of stages.png (default: the edition's three)"
    add("--pictures", nargs="+", metavar="NNNN", help=pictures)
    add_training_flags(parser, RECIPES)
    add("--seed", **SEED)
    # what a recipe alone says
    parser.set_defaults(mean=None, std=None, changes=None, learns_unknown=None, auxiliary_weight=None)
    args = parser.parse_args(argv)
    fill_in(parser, args, RECIPES)
    if not (0 < args.scale <= 4 and 0 < args.min_crop <= 1):
        parser.error("--scale must lie above 0 and up to 4, --min-crop above 0 and up to 1")
    if not (0 <= args.gamma <= 10 and 0 <= args.soft_iou <= 100):
        parser.error("--gamma must lie up to 10, --soft-iou up to 100, none of them below 0")
    counts = (1, 6, 7) if args.learns_unknown else (1, 6)
    if len(args.alpha) not in counts or not all(0 < weight <= 100 for weight in args.alpha):
        wanted = " or ".join(map(str, counts))
        parser.error(f"--alpha wants {wanted} numbers, above 0 and up to 100")
    if args.augment == "recipe" and not args.changes:
        parser.error(f"--augment recipe: the recipe {args.recipe} has none of its own")
    return args


if __name__ == "__main__":
    ARGUMENTS = begin(parse_arguments, "matplotlib")

import numpy as np
import torch
from torch import Tensor, nn

from datasets.augment import jitter_colours
from datasets.editions import edition
from datasets.palette import CLASS_NAMES, NUM_CLASSES, SCORED_CLASSES, UNCLAIMED, save_mask
from datasets.sampling import EpochLoader
from datasets.tile_pairs import IGNORED, TileCrops, TilePairs, default_crop_size, load_pairs
from engine import distributed
from engine.base import UserError, plain_errors, run_script, write_atomically
from engine.device import choose_workers, seed_everything, tune_allocator
from engine.loop import Loop
from engine.metrics import confusion_matrix, iou_per_class, mean_iou
from engine.optimizer import Stepper, build_optimizer, parameter_groups
from engine.pipeline import batches_of_one_shape
from engine.run import Run, Stopper
from engine.run_folder import ARCHITECTURE, BEST_MASKS, CONFUSIONS, MODEL, snapshot_masks
from models.builders import (
    SEGMENTERS,
    Normalisation,
    build_network,
    check_network,
    describe_segmenter,
    normalisation,
)
from models.describe import keep_architecture
from models.losses import pixel_loss, soft_iou_loss
from models.predict import COARSEST_STRIDE, normalise, predict_tiles
from models.weights import load_pretrained


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    seed_everything(args.seed)
    args.edition = edition(args.edition).name
    device = distributed.join(args.device)
    network = build_network(args.model, SEGMENTERS, num_classes=NUM_CLASSES)
    with distributed.main_first():
        origin = load_pretrained(network, args.model, args.weights)
        train = load_pairs(f"{args.data}/train", args.cache, least=2)  # as batch norm needs
        if args.holdout:
            train, validation = train.split(args.holdout, args.seed)
        else:
            validation = load_pairs(f"{args.data}/validation", args.cache)
    args.pictures = validation.named(args.pictures, usual=edition(args.edition).report_images)
    crop_size = args.crop_size or default_crop_size(train, args.scale, args.augment)
    how = (args.augment, args.changes, args.learns_unknown)
    crops = TileCrops(train, crop_size, args.min_crop, args.seed, *how)
    check_network(network, args.model, NUM_CLASSES, sizes=(crop_size,))
    batch_size = min(args.batch_size, len(crops))
    workers, weights = choose_workers(args.workers, device), None
    if args.balanced:
        weights = crops.rare_class_weights()
    share, is_pinned = distributed.share_of(batch_size), device.type == "cuda"
    loader = EpochLoader(crops, args.seed, batch_size, workers, weights, share=share, is_pinned=is_pinned)

    network = network.to(device, memory_format=torch.channels_last)
    normal = (args.mean, args.std) if args.mean else normalisation(args.model)
    backbone_lr = args.backbone_lr if args.weights != "none" else None
    groups = parameter_groups(network, args.lr, backbone_lr, decay_all=args.decay_all)
    optimizer = build_optimizer(args.optimizer, groups, args.lr, args.weight_decay, args.nesterov)
    stepper = Stepper(network, optimizer, device, args.precision, args.micro_batch)
    of_loss = ("gamma", "alpha", "soft_iou", "auxiliary_weight")
    losses = partial(loss_of, stepper.forward, **{name: vars(args)[name] for name in of_loss})

    counts = f"{len(train)} + {len(validation)} tiles, crops of {crop_size} px"
    if args.dry_run:
        network.train()
        batch = prepared(next(iter(loader(epoch=0, first_batch=0))), normal, device)
        stepper.dry_run(batch, losses, f"{args.model} {origin}; {counts}")
        return distributed.leave(0)

    arguments = {**vars(args), "training_tiles": len(train)}
    inputs = {"data": [*train.names, *validation.names], "weights": args.weights}
    run = Run(args.output, __file__, arguments, RECIPES[args.recipe], inputs)
    run.say(f"{args.model} {origin}; {counts}; on {device}, {distributed.world_size()} process(es)")
    is_main = distributed.is_main()
    if is_main:
        shorter_side = args.scale * min(train.tile(0).shape[:2])
        side = COARSEST_STRIDE * math.ceil(shorter_side / COARSEST_STRIDE)  # inference pads so, too
        keep_architecture(network, args.model, side, run.folder / ARCHITECTURE)
    stopper, steps_per_epoch = Stopper(args.max_minutes), len(crops) // batch_size
    loop = Loop(run, stepper, stopper, args, steps_per_epoch, batch_size, "mean_iou", args.snapshot_epochs)
    description = describe_segmenter(args.model, list(CLASS_NAMES), args.scale, args.edition, normal)
    masks = partial(keep_masks, loop, validation, args.pictures, args.scale, normal, device)

    for _ in loop.epochs():
        network.train()
        for batch in loop.batches(loader):
            loop.step(prepared(batch, normal, device), losses)
        scores, confusions = {}, None
        if loop.epoch % args.eval_every == 0 or loop.is_done():
            confusions = tile_confusions(loop.scored, validation, args.scale, normal, device)
            scores = scores_of(confusions)
            ious = " ".join(f"{scores.get(name, math.nan):.3f}" for name in CLASS_NAMES[:SCORED_CLASSES])
            run.say(f"epoch {loop.epoch}: mIoU {scores['mean_iou']:.4f} ({ious})")
        is_best = loop.keep_weights(description, scores)
        if confusions is not None and is_main:
            keep_confusions(run, validation.names, confusions, is_best)
        if is_best and is_main:
            masks(folder=run.folder / BEST_MASKS)
        if loop.is_snapshot_epoch() and is_main:
            masks(folder=run.folder / snapshot_masks(loop.epoch))
        loop.end_epoch(scores)
    if is_main:
        run.require(MODEL)
        draw_stages(run, f"{args.data}/{'train' if args.holdout else 'validation'}")
    loop.finish()  # after the pictures: finished is all of it

    if is_main:
        scored_on = "held-out training" if args.holdout else "validation"
        print(f"best mIoU {loop.best:.6f} on {len(validation)} {scored_on} tiles: {run.folder / MODEL}")
    return distributed.leave(1 if train.left_out or validation.left_out else 0)


def prepared(
    batch: list[Tensor], normal: Normalisation, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Crops of bytes (B, 3, S, S), targets (B, S, S) and colour factors (B, 3) → images as the network sees
    them, targets, and the number of known pixels, that of a process on average."""
    images, targets, colours = (part.to(device, non_blocking=True) for part in batch)
    images = normalise(jitter_colours(images.float() / 255, colours), *normal)
    known = distributed.mean_of_all((targets != IGNORED).sum().float()).clamp(min=1)
    return images.contiguous(memory_format=torch.channels_last), targets.long(), known


def loss_of(
    network: Callable[[Tensor], dict[str, Tensor]],
    images: Tensor,
    targets: Tensor,
    known: Tensor,
    share: float,
    gamma: float,
    alpha: list[float],
    soft_iou: float,
    auxiliary_weight: float,
) -> dict[str, Tensor]:
    """Of images (b, 3, S, S) and targets (b, S, S), that share of a batch that has so many `known` pixels."""
    alpha = [*alpha, 1.0] if len(alpha) == SCORED_CLASSES else alpha  # unknown, the seventh
    loss = images.new_zeros(())
    for name, logits in network(images).items():
        weight, logits = (1.0 if name == "out" else auxiliary_weight), logits.float()
        loss = loss + weight * pixel_loss(logits, targets, IGNORED, gamma, alpha) / known
        if soft_iou:
            shapes = soft_iou_loss(logits, targets, IGNORED, SCORED_CLASSES)
            loss = loss + weight * soft_iou * share * shapes
    return {"loss": loss}


def tile_confusions(
    network: nn.Module, pairs: TilePairs, scale: float, normal: Normalisation, device: torch.device
) -> Tensor:
    """(tiles, 7, 7) counts of pixels, truth by prediction, as mean_iou_evaluate.py counts: red as urban."""
    confusions = torch.zeros(len(pairs), NUM_CLASSES, NUM_CLASSES, dtype=torch.int64, device=device)
    own = range(distributed.rank(), len(pairs), distributed.world_size())
    tiles = ((index, torch.from_numpy(pairs.tile(index).copy()).permute(2, 0, 1)) for index in own)
    for batch in batches_of_one_shape(tiles, 1 if device.type == "cpu" else VALIDATION_BATCH):
        images = torch.stack([tile for _, tile in batch]).to(device)
        predicted = predict_tiles(network, images, scale, *normal).argmax(dim=1)
        for (index, _), classes in zip(batch, predicted):
            target = torch.from_numpy(pairs.mask(index).astype("int64")).to(device)
            confusions[index] = confusion_matrix(classes, target.where(target != UNCLAIMED, 0), NUM_CLASSES)
    return distributed.sum_of_all(confusions)


def scores_of(confusions: Tensor) -> dict[str, float]:
    """mIoU and each class's IoU of (tiles, 7, 7) counts."""
    ious = iou_per_class(confusions.sum(dim=0), SCORED_CLASSES)
    # A small validation set may lack a class; the scorer then says nan, by which no epoch could be chosen.
    of_class = {name: iou for name, iou in zip(CLASS_NAMES, ious) if not math.isnan(iou)}
    return {"mean_iou": mean_iou(list(of_class.values())), **of_class}


def keep_confusions(run: Run, names: Sequence[str], confusions: Tensor, is_best: bool) -> None:
    """The counts of the epoch just scored as `last`, and those of the best one so far."""
    path = run.folder / CONFUSIONS
    last = confusions.cpu().numpy()
    try:
        best = last if is_best else np.load(path, allow_pickle=False)["best"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        run.say(f"{path}: cannot be read ({error}); this run can't be compared with others tile by tile")
        return
    with plain_errors(path), write_atomically(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, best=best, last=last, names=np.array(names))


def keep_masks(
    loop: Loop,
    validation: TilePairs,
    names: Sequence[str],
    scale: float,
    normal: Normalisation,
    device: torch.device,
    folder: Path,
) -> None:
    """What the averaged weights see in the tiles to be pictured, as masks in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = torch.from_numpy(validation.tile(validation.names.index(name)).copy())
        tile = pixels.permute(2, 0, 1)[None].to(device)
        found = predict_tiles(loop.scored, tile, scale, *normal).argmax(dim=1)
        with write_atomically(folder / f"{name}_mask.png") as temporary:
            save_mask(found[0].cpu().numpy(), temporary)


def draw_stages(run: Run, tiles: str) -> None:
    from report.tile_figures import write_stages  # imports matplotlib, which takes a second

    try:
        write_stages(run.folder, tiles)
    except UserError as error:
        # No masks at --snapshot-epochs that were never reached, say: the weights are there.
        run.say(f"no picture of the stages: {error}")


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
