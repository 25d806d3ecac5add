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
import sys

# What a flag given by hand overrides. Crops cover `min_crop` to all of a tile's side and are scaled to the crop size.
RECIPES = {
    "default": {
        "lr": 2e-3,
        "backbone_lr": 5e-4,  # the backbone's, where it starts from ready-made weights
        "weight_decay": 0.02,
        "warmup_steps": 100,
        "batch_size": 16,
        "scale": 0.75,
        "min_crop": 0.5,
        "soft_iou": 0.5,  # weight of the soft-IoU loss beside cross-entropy
        "balanced": True,  # draw tiles with rare classes more often
        "ema_decay": 0.998,
    },
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="the course's p2_data folder, with train/ and validation/")
    add("--output", required=True, help="run folder; given again, the run goes on")
    add("--model", default="lite_fpn", help="name of a network of models/ (default: the light one, fit for a CPU)")
    add("--weights", default="none", help="none, imagenet (the backbone's), coco, or a file such as another model.pt")
    add("--recipe", default="default", choices=sorted(RECIPES), help="the arguments not given by hand")
    # how long
    add("--epochs", type=int, default=30, help="passes over the training tiles (default 30)")
    add("--budget-minutes", type=float, help="instead of --epochs: as many steps as these minutes hold, fixed once")
    add("--max-minutes", type=float, help="stop this invocation then; the same command goes on")
    add("--eval-every", type=int, default=1, help="epochs between two scorings of the validation tiles")
    # what the recipe says otherwise
    add("--batch-size", type=int, help="tiles a step; halve it when the GPU's memory is short")
    add("--lr", type=float, help="learning rate of the head, at its highest")
    add("--backbone-lr", type=float, help="learning rate of ready-made weights")
    add("--scale", type=float, help="scale of the tiles at inference, 1 = as they are; smaller is faster")
    add("--crop-size", type=int, help="pixels a side of a training crop (default: 3/4 of the scaled tile)")
    add("--min-crop", type=float, help="smallest share of a tile's side that a crop covers")
    # the machine
    add("--seed", type=int, default=0, help="fixes every random choice; bit for bit on a CPU, closely on a GPU")
    add("--device", help="cuda, mps or cpu (default: the best there is)")
    add("--workers", type=int, help="processes that cut crops (default: none on a CPU, up to 8 beside a GPU)")
    add("--cache", help="folder for decoded tiles (default: the user's cache folder)")
    add("--dry-run", action="store_true", help="check the data, build everything, run one step, write nothing")
    args = parser.parse_args(argv)
    for name, value in RECIPES[args.recipe].items():
        if vars(args).get(name) is None:
            setattr(args, name, value)
    return args


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before torch, which takes two seconds to import: --help and mistakes don't wait

import torch
from torch import Tensor, nn

from datasets.augment import jitter_colours
from datasets.palette import CLASS_NAMES, NUM_CLASSES, SCORED_CLASSES, UNCLAIMED
from datasets.sampling import batches, epoch_order
from datasets.tile_pairs import IGNORED, TileCrops, TilePairs, load_pairs, rare_class_weights
from engine import checkpoint
from engine.cli import run_script
from engine.device import choose_device, seed_everything, tune_allocator
from engine.loop import Loop
from engine.metrics import confusion_matrix, iou_per_class, mean_iou
from engine.optimizer import parameter_groups
from engine.run import Run
from models import build_network, normalisation
from models.losses import segmentation_loss
from models.predict import normalise, predict_tiles
from models.weights import load_ready_made


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    seed_everything(args.seed)
    device = choose_device(args.device)

    train = load_pairs(f"{args.data}/train", args.cache)
    validation = load_pairs(f"{args.data}/validation", args.cache)
    crop_size = args.crop_size or 32 * max(2, round(0.75 * args.scale * min(train.tile(0).shape[:2]) / 32))
    crops = TileCrops(train, crop_size, args.min_crop, args.seed)
    tile_weights = rare_class_weights(train) if args.balanced else None
    batch_size = min(args.batch_size, len(train))

    network = build_network(args.model, num_classes=NUM_CLASSES)
    origin = load_ready_made(network, args.model, args.weights)
    mean, std = normalisation(args.model)
    network = network.to(device, memory_format=torch.channels_last)
    backbone_lr = args.backbone_lr if args.weights != "none" else None
    optimizer = torch.optim.AdamW(
        parameter_groups(network, args.lr, backbone_lr), lr=args.lr, weight_decay=args.weight_decay
    )
    print(f"{args.model} {origin}; {len(train)} tiles, crops of {crop_size} px, on {device}", file=sys.stderr)

    def criterion(logits: Tensor, targets: Tensor) -> Tensor:
        return segmentation_loss(logits.float(), targets.long(), IGNORED, SCORED_CLASSES, args.soft_iou)

    def loss_of(batch: list[Tensor]) -> Tensor:
        images, targets, colours = (part.to(device, non_blocking=True) for part in batch)
        images = normalise(jitter_colours(images.float() / 255, colours), mean, std)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(images.contiguous(memory_format=torch.channels_last))
        loss = criterion(logits["out"], targets)
        if "aux" in logits:
            loss = loss + 0.4 * criterion(logits["aux"], targets)
        return loss

    def loader(epoch: int, first_batch: int) -> torch.utils.data.DataLoader:
        order = epoch_order(len(train), args.seed, epoch, tile_weights)
        sampler = list(batches(order, epoch, batch_size, first_batch))
        # Its own generator: drawing the workers' seed from torch's would make a resumed run differ.
        return torch.utils.data.DataLoader(
            crops, batch_sampler=sampler, num_workers=workers(args, device), generator=torch.Generator()
        )

    if args.dry_run:
        loss = loss_of(next(iter(loader(0, 0))))
        loss.backward()
        print(f"dry run: {len(train)} + {len(validation)} tiles, one step, loss {loss.item():.4f}: all is well")
        return 0

    print("arguments: " + " ".join(f"{name}={value}" for name, value in vars(args).items()), file=sys.stderr)
    run = Run(args.output, vars(args), RECIPES[args.recipe])
    loop = Loop(
        run,
        network,
        optimizer,
        steps_per_epoch=len(train) // batch_size,
        epochs=args.epochs,
        budget_minutes=args.budget_minutes,
        max_minutes=args.max_minutes,
        warmup_steps=args.warmup_steps,
        ema_decay=args.ema_decay,
    )

    def model_file(score: dict[str, float]) -> dict:
        return {
            "format": checkpoint.MODEL_FORMAT,
            "problem": "p2",
            "network": args.model,
            "arguments": {"num_classes": NUM_CLASSES},
            "state": loop.average.state_dict(),
            "classes": list(CLASS_NAMES),
            "image_size": None,
            "scale": args.scale,
            "mean": mean,
            "std": std,
            "edition": "2024",
            "score": score,
            "source": run.folder.name,
        }

    for epoch in loop.epochs_left():
        network.train()
        for batch in loader(epoch, loop.batch_in_epoch):
            loop.set_learning_rates()
            loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loop.after_step(loss, batch_size)
            if loop.must_stop():
                return loop.stop()
            if loop.is_done():
                break

        scores = {}
        if (epoch + 1) % args.eval_every == 0 or loop.is_done():
            ious = evaluate(loop.average, validation, args.scale, mean, std, device)
            scores = {"mean_iou": mean_iou(ious), **dict(zip(CLASS_NAMES, ious))}
            of_classes = " ".join(f"{iou:.3f}" for iou in ious)
            run.say(f"epoch {epoch + 1}: mIoU {scores['mean_iou']:.4f} ({of_classes})")
            if scores["mean_iou"] > loop.best:
                loop.best = scores["mean_iou"]
                checkpoint.save(run.folder / "model.pt", model_file(scores))
        if epoch + 1 in {1, max(1, (loop.total_epochs or 2) // 2), loop.total_epochs}:
            checkpoint.save(run.folder / "snapshots" / f"epoch_{epoch + 1:04d}.pt", model_file(scores))
        loop.end_epoch(**scores)
        if loop.must_stop():
            return loop.stop()

    loop.close()
    print(f"best mIoU {loop.best:.6f} on {len(validation)} validation tiles: {run.folder / 'model.pt'}")
    return 0


def workers(args: argparse.Namespace, device: torch.device) -> int:
    if args.workers is not None:
        return args.workers
    return min(8, torch.multiprocessing.cpu_count()) if device.type == "cuda" else 0


def evaluate(
    network: nn.Module, pairs: TilePairs, scale: float, mean: list[float], std: list[float], device: torch.device
) -> list[float]:
    """IoU of the six scored classes, counted as mean_iou_evaluate.py counts: red as urban, unknown not left out."""
    confusion = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64, device=device)
    for index in range(len(pairs)):
        tile = torch.from_numpy(pairs.tile(index).copy()).permute(2, 0, 1)[None].to(device)
        predicted = predict_tiles([network], tile, scale, mean, std)[:, :SCORED_CLASSES].argmax(dim=1)
        target = torch.from_numpy(pairs.mask(index).astype("int64"))[None].to(device)
        confusion += confusion_matrix(predicted, target.where(target != UNCLAIMED, 0), NUM_CLASSES)
    return iou_per_class(confusion, SCORED_CLASSES)


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
