"""Train a land-cover segmentation network on satellite tiles.

    python3 p2_train.py --data hw1_data/p2_data --output runs/p2 --weights imagenet --budget-minutes 60

Try it in a minute on any machine:

    python3 -m datasets.sample sample
    python3 p2_train.py --data sample/hw1_data/p2_data --output runs/try --scale 0.25 --epochs 2

The same command goes on after Ctrl-C, a crash or a power cut. RUN/model.pt holds the best weights (chosen on
the validation tiles) for p2_inference.py; RUN/metrics.jsonl every class's IoU after each epoch;
RUN/stages.png what named tiles looked like at the first, middle and last epoch. A DeepLabV3-ResNet50 can
start from one's own BYOL: --model deeplabv3_resnet50 --weights runs/ssl/backbone.pt.

On several GPUs: torchrun --nproc-per-node 4 p2_train.py ... ; --batch-size is that of all of them together.
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from typing import Callable, Iterable

from engine.arguments import add_training_flags, fill_in
from recipes.p2_train import RECIPES

AUXILIARY_WEIGHT = 0.4  # of the loss of a head on earlier features, as torchvision trains its own


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="the course's p2_data folder, with train/ and validation/")
    add("--model", help="name of a network of models/ (default: lite_fpn, fit for a CPU)")
    add("--weights", help="none, imagenet (the backbone's), coco, or a file such as another model.pt")
    add(
        "--holdout",
        type=float,
        default=0.0,
        help="share of the training tiles, drawn by seed, to score on in place of the validation tiles",
    )
    # how long
    add("--eval-every", type=int, default=1, help="epochs between two scorings of the validation tiles")
    add(
        "--snapshot-epochs",
        type=int,
        nargs="+",
        help="epochs kept in snapshots/ (default: first, middle and last)",
    )
    add(
        "--pictures",
        nargs="+",
        metavar="NNNN",
        help="validation tiles of stages.png (default: the edition's three)",
    )
    add("--edition", help="of the course (default: that of EDITION, else 2024)")
    # what the recipe says otherwise
    add("--backbone-lr", type=float, help="learning rate of ready-made weights")
    add("--scale", type=float, help="scale of the tiles at inference, 1 = as they are; smaller is faster")
    add("--crop-size", type=int, help="pixels a side of a training crop (default: 3/4 of the scaled tile)")
    add("--min-crop", type=float, help="smallest share of a tile's side that a crop covers")
    add(
        "--augment",
        choices=("all", "flips", "none"),
        help="all: crops, turns, colours; flips: three times the tiles",
    )
    add("--balanced", action=argparse.BooleanOptionalAction, help="draw tiles with rare classes more often")
    add("--gamma", type=float, help="of the focal loss; 0: cross-entropy")
    add("--alpha", type=float, nargs="+", help="weight of every class in the loss: one number, or six")
    add("--soft-iou", type=float, help="weight of the soft-IoU loss beside it")
    add("--optimizer", choices=("adamw", "adam", "sgd"))
    add("--schedule", choices=("cosine", "poly", "constant"), help="of the learning rate, after its warm-up")
    add("--ema-decay", type=float, help="of the averaged weights that are scored and kept; 0: no average")
    # the machine
    add(
        "--seed",
        type=int,
        default=0,
        help="fixes every random choice; bit for bit on a CPU, closely on a GPU",
    )
    add("--workers", type=int, help="processes that cut crops (default: none on a CPU, up to 8 beside a GPU)")
    add(
        "--dry-run",
        action="store_true",
        help="check the data, build everything, run one step, write no run folder",
    )
    add_training_flags(parser, RECIPES)
    args = parser.parse_args(argv)
    fill_in(parser, args, RECIPES[args.recipe])
    if not (0 < args.scale <= 4 and 0 < args.min_crop <= 1):
        parser.error("--scale must lie above 0 and up to 4, --min-crop above 0 and up to 1")
    if not (0 <= args.ema_decay < 1 and 0 <= args.gamma <= 10 and 0 <= args.soft_iou <= 100):
        parser.error(
            "--ema-decay must lie below 1, --gamma up to 10, --soft-iou up to 100, none of them below 0"
        )
    if not 0 <= args.holdout < 1:
        parser.error("--holdout must lie from 0 to below 1")
    if len(args.alpha) not in (1, 6) or not all(0 < weight <= 100 for weight in args.alpha):
        parser.error("--alpha wants one number or six, above 0 and up to 100")
    return args


if __name__ == "__main__":
    ARGUMENTS = (
        parse_arguments()
    )  # before torch, which takes two seconds to import: --help and mistakes don't wait

import torch
from torch import Tensor, nn

from datasets.augment import jitter_colours
from datasets.editions import edition
from datasets.palette import CLASS_NAMES, NUM_CLASSES, SCORED_CLASSES, UNCLAIMED, save_mask
from datasets.sampling import epoch_loader
from datasets.tile_pairs import IGNORED, TileCrops, TilePairs, default_crop_size, load_pairs
from engine import distributed
from engine.base import UserError, run_script, write_atomically
from engine.device import autocast, choose_workers, seed_everything, tune_allocator
from engine.loop import Loop
from engine.metrics import confusion_matrix, iou_per_class, mean_iou
from engine.optimizer import build_optimizer, parameter_groups
from engine.run import Run, Stopper
from engine.run_folder import ARCHITECTURE, MODEL, snapshot_masks
from models.builders import SEGMENTERS, build_network, check_network, describe_segmenter, normalisation
from models.describe import keep_architecture
from models.losses import pixel_loss, soft_iou_loss
from models.predict import normalise, predict_tiles
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
    crop_size = args.crop_size or default_crop_size(train, args.scale, args.augment)
    crops = TileCrops(train, crop_size, args.min_crop, args.seed, args.augment)
    args.pictures = validation.named(args.pictures, usual=edition(args.edition).report_images)

    check_network(network, args.model, NUM_CLASSES, sizes=(crop_size,))
    network = network.to(device, memory_format=torch.channels_last)
    groups = parameter_groups(network, args.lr, args.backbone_lr if args.weights != "none" else None)
    optimizer = build_optimizer(args.optimizer, groups, args.lr, args.weight_decay)
    if distributed.is_main():
        print(
            f"{args.model} {origin}; {len(train)} tiles, crops of {crop_size} px, on {device}",
            file=sys.stderr,
        )
    batch_size = min(args.batch_size, len(crops))
    loader = partial(
        epoch_loader,
        crops,
        args.seed,
        batch_size=batch_size,
        workers=choose_workers(args.workers, device),
        weights=crops.rare_class_weights() if args.balanced else None,
        share=distributed.share_of(batch_size),
    )
    if args.dry_run:
        loss = loss_of(network, next(iter(loader(epoch=0, first_batch=0))), args, device)
        loss.backward()
        optimizer.step()
        if distributed.is_main():
            print(
                f"dry run: {len(train)} + {len(validation)} tiles, one step, loss {loss.item():.4f}: all is "
                "well"
            )
        return distributed.leave(0)

    run = Run(args.output, {**vars(args), "training_tiles": len(train)}, RECIPES[args.recipe])
    if distributed.is_main():
        side = round(args.scale * min(train.tile(0).shape[:2]))
        keep_architecture(network, args.model, side, run.folder / ARCHITECTURE)
    loop = Loop(run, network, optimizer, args, len(crops) // batch_size, Stopper(args.max_minutes))
    status = fit(loop, loader, validation, args, device)
    if status is None:
        status = 1 if train.left_out or validation.left_out else 0
        if distributed.is_main():
            draw_stages(run, f"{args.data}/{'train' if args.holdout else 'validation'}")
            scored_on = "held-out training" if args.holdout else "validation"
            print(f"best mIoU {loop.best:.6f} on {len(validation)} {scored_on} tiles: {run.folder / MODEL}")
    return distributed.leave(status)


def fit(
    loop: Loop,
    loader: Callable[..., Iterable],
    validation: TilePairs,
    args: argparse.Namespace,
    device: torch.device,
) -> int | None:
    """The loop. Returns the exit status when it was asked to stop before its end, else None."""
    network = distributed.wrap(loop.network, device)
    description = describe_segmenter(args.model, list(CLASS_NAMES), args.scale, args.edition)
    for epoch in loop.epochs_left():
        network.train()
        for batch in loader(epoch=epoch, first_batch=loop.batch_in_epoch):
            loop.set_learning_rates()
            loss = loss_of(network, batch, args, device)
            loop.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            loop.optimizer.step()
            loop.after_step(loss, len(batch[0]) * distributed.world_size())
            if loop.must_stop():
                return loop.stop()
            if loop.is_done():
                break
        scores = score(loop, epoch + 1, validation, args, device)
        loop.keep_weights(description, scores, args.snapshot_epochs)
        if loop.is_snapshot_epoch(args.snapshot_epochs) and distributed.is_main():
            keep_masks(loop, validation, args, device)
        loop.end_epoch(**scores)
        if loop.must_stop():
            return loop.stop()
    loop.close()
    return None


def loss_of(
    network: nn.Module, batch: list[Tensor], args: argparse.Namespace, device: torch.device
) -> Tensor:
    """The loss of one batch of crops: bytes (B, 3, S, S), targets (B, S, S), colour factors (B, 3)."""
    images, targets, colours = (part.to(device, non_blocking=True) for part in batch)
    targets = targets.long()
    images = normalise(jitter_colours(images.float() / 255, colours), *normalisation(args.model))
    with autocast(device, network):
        outputs = network(images.contiguous(memory_format=torch.channels_last))
    known = distributed.mean_of_all((targets != IGNORED).sum().float()).clamp(
        min=1
    )  # a process's, on average
    alpha = args.alpha if len(args.alpha) == 1 else [*args.alpha, 1.0]  # unknown, the seventh, is no target
    loss = images.new_zeros(())
    for name, logits in outputs.items():
        weight, logits = (1.0 if name == "out" else AUXILIARY_WEIGHT), logits.float()
        loss = loss + weight * pixel_loss(logits, targets, IGNORED, args.gamma, alpha) / known
        if args.soft_iou:
            loss = loss + weight * args.soft_iou * soft_iou_loss(logits, targets, IGNORED, SCORED_CLASSES)
    return loss


def score(
    loop: Loop, epoch: int, validation: TilePairs, args: argparse.Namespace, device: torch.device
) -> dict[str, float]:
    """The averaged weights' mIoU and each class's IoU after `epoch` (from 1), or nothing when it is not
    time.
    """
    if epoch % args.eval_every and not loop.is_done():
        return {}
    ious = evaluate(loop.scored, validation, args.scale, *normalisation(args.model), device)
    # A small validation set may lack a class; the scorer then says nan, by which no epoch could be chosen.
    of_class = {name: iou for name, iou in zip(CLASS_NAMES, ious) if not math.isnan(iou)}
    scores = {"mean_iou": mean_iou(list(of_class.values())), **of_class}
    loop.run.say(
        f"epoch {epoch}: mIoU {scores['mean_iou']:.4f} (" + " ".join(f"{iou:.3f}" for iou in ious) + ")"
    )
    return scores


def keep_masks(loop: Loop, validation: TilePairs, args: argparse.Namespace, device: torch.device) -> None:
    """What the averaged weights see in the tiles to be pictured, as masks beside the epoch's snapshot."""
    folder = loop.run.folder / snapshot_masks(loop.epoch_in_hand)
    folder.mkdir(exist_ok=True)
    for name in args.pictures:
        tile = (
            torch.from_numpy(validation.tile(validation.names.index(name)).copy())
            .permute(2, 0, 1)[None]
            .to(device)
        )
        found = predict_tiles([loop.scored], tile, args.scale, *normalisation(args.model)).argmax(dim=1)
        with write_atomically(folder / f"{name}_mask.png") as temporary:
            save_mask(found[0].cpu().numpy(), temporary)


def draw_stages(run: Run, tiles: str) -> None:
    from report.tile_figures import write_stages  # imports matplotlib, which takes a second

    try:
        write_stages(run.folder, tiles)
    except (
        UserError
    ) as error:  # no masks at --snapshot-epochs that were never reached, say: the weights are there
        run.say(f"no picture of the stages: {error}")


def evaluate(
    network: nn.Module,
    pairs: TilePairs,
    scale: float,
    mean: list[float],
    std: list[float],
    device: torch.device,
) -> list[float]:
    """IoU of the six scored classes, counted as mean_iou_evaluate.py counts: red as urban, unknown not
    left out.
    """
    confusion = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64, device=device)
    for index in range(distributed.rank(), len(pairs), distributed.world_size()):
        tile = torch.from_numpy(pairs.tile(index).copy()).permute(2, 0, 1)[None].to(device)
        predicted = predict_tiles([network], tile, scale, mean, std).argmax(dim=1)
        target = torch.from_numpy(pairs.mask(index).astype("int64"))[None].to(device)
        confusion += confusion_matrix(predicted, target.where(target != UNCLAIMED, 0), NUM_CLASSES)
    return iou_per_class(distributed.sum_of_all(confusion), SCORED_CLASSES)


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
