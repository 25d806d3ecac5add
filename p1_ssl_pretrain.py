"""Pre-train a backbone on images without labels, by BYOL (Grill et al., 2020), for settings C and E.

    python3 p1_ssl_pretrain.py --images hw1_data/p1_data/mini/train --output runs/ssl

Try it in a minute on any machine:

    python3 -m datasets.sample sample
    python3 p1_ssl_pretrain.py --images sample/hw1_data/p1_data/mini/train --output runs/try \\
        --model resnet18 --image-size 64 --batch-size 32 --epochs 2 \\
        --probe-csv sample/hw1_data/p1_data/office/train.csv

On several GPUs: torchrun --nproc-per-node 4 p1_ssl_pretrain.py ... ; --batch-size is that of all of them
together.

The run folder gets backbone.pt (torchvision's keys without `fc`) after every epoch, for p1_finetune.py
--ssl-backbone. Watch `embedding_std` (1 is well spread, near 0 is collapsed) and, with --probe-csv, the
accuracy of nearest neighbours; the loss says little. The same command goes on after Ctrl-C, a crash or a
power cut. On one CPU process a seed gives the same weights bit for bit, on GPUs closely.
"""

from __future__ import annotations

import argparse

from engine.arguments import add_training_flags, fill_in
from recipes.p1_ssl_pretrain import RECIPES

LOG_EVERY = 50  # steps between two lines of metrics.jsonl


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", required=True, help="folder of images; the course's mini/train")
    add("--model", default="resnet50", help="name of a ResNet of models/ (default resnet50)")
    add("--weights", default="none", help="none (what the course asks for), imagenet, or a file")
    # how well
    add(
        "--probe-csv",
        help="labelled images, such as office/train.csv of the folder office/train: how many of them their "
        "nearest neighbours classify",
    )
    add(
        "--probe-every",
        type=int,
        default=5,
        help="epochs between two probes (default 5); first and last are probed",
    )
    # what the recipe says otherwise
    add("--target-decay", type=float, help="of the target network at the start; 0.99 for runs of few steps")
    add("--image-size", type=int, default=128, help="pixels a side of a view (default 128, the course's)")
    # the machine
    add(
        "--seed",
        type=int,
        default=0,
        help="fixes every random choice; bit for bit on a CPU, closely on a GPU",
    )
    add(
        "--compile",
        action="store_true",
        help="torch.compile the backbone: slow at the start, then faster on a GPU",
    )
    add_training_flags(parser, RECIPES)
    args = parser.parse_args(argv)
    fill_in(parser, args, RECIPES[args.recipe])
    if not 0 <= args.target_decay < 1:
        parser.error("--target-decay must be from 0 to less than 1")
    if args.probe_csv and not args.probe_csv.endswith(".csv"):
        parser.error("--probe-csv must end in .csv: its images lie in the folder of its name without that")
    return args


if __name__ == "__main__":
    ARGUMENTS = (
        parse_arguments()
    )  # before torch, which takes two seconds to import: --help and mistakes don't wait

import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.labelled import LabelledImages, load_evaluation
from datasets.unlabelled import load_unlabelled
from datasets.views import epoch_images, two_views
from engine import distributed
from engine.base import UserError, run_script
from engine.device import autocast, seed_everything, tune_allocator
from engine.loop import Loop
from engine.metrics import knn_accuracy
from engine.optimizer import build_optimizer, parameter_groups
from engine.run import Run, Stopper
from engine.run_folder import BACKBONE, COLLAPSED
from engine.schedule import target_decay
from models.backbone import head_name
from models.builders import CLASSIFIERS, build_network, normalisation
from models.byol import BYOL
from models.predict import normalise, predict_images
from models.small_maps import use_matrix_products
from models.weights import load_pretrained


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    seed_everything(args.seed)
    backbone = build_network(
        args.model, CLASSIFIERS, num_classes=2
    )  # however many: the head is dropped at once
    if head_name(backbone) != "fc":
        raise UserError(f"--model {args.model} is no plain ResNet, whose features BYOL trains; give resnet50")
    origin = load_pretrained(backbone, args.model, args.weights)
    backbone.fc = nn.Identity()  # what comes out are the pooled features
    byol = BYOL(backbone, args.image_size)  # before the processes join, see there
    device = distributed.join(args.device)
    with distributed.main_first():
        images = load_unlabelled(args.images, args.image_size, args.cache)
        probe = load_probe(args)
    byol = byol.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        use_matrix_products(byol)
    optimizer = build_optimizer(args.optimizer, parameter_groups(byol, args.lr), args.lr, args.weight_decay)

    run = Run(args.output, {**vars(args), "training_images": len(images)}, RECIPES[args.recipe])
    run.say(
        f"BYOL of {args.model} {origin}, {len(images)} images; on {device}, {distributed.world_size()} "
        "process(es)"
    )
    args.batch_size = min(args.batch_size, len(images))
    loop = Loop(run, byol, optimizer, args, len(images) // args.batch_size, Stopper(args.max_minutes))
    pixels = torch.from_numpy(images.pixels).to(device)  # a CPU leaves them in the cache's file
    status = pretrain(loop, byol, pixels, probe, args, device)
    if status is None:
        status = 1 if images.left_out or (probe is not None and probe.left_out) else 0
        if distributed.is_main():
            print(f"backbone for settings C and E: {run.folder / BACKBONE}")
    return distributed.leave(status)


def pretrain(
    loop: Loop,
    byol: BYOL,
    pixels: Tensor,
    probe: LabelledImages | None,
    args: argparse.Namespace,
    device: torch.device,
) -> int | None:
    """The loop. Returns the exit status when it was asked to stop before its end, else None."""
    network = distributed.wrap(byol, device)
    if args.compile:
        byol.backbone.compile()
        byol.target_encoder.net.compile()
    share = distributed.share_of(args.batch_size)
    for epoch in loop.epochs_left():
        byol.train()
        for images, numbers in epoch_images(
            pixels, args.seed, epoch, args.batch_size, loop.batch_in_epoch, share
        ):
            loop.set_learning_rates()
            first, second = make_views(byol, images.to(device), numbers.to(device), args)
            with autocast(device):
                loss, embedding_std = network(first, second)
            loop.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            loop.optimizer.step()
            decay = target_decay(loop.step, loop.total_steps, args.target_decay, args.target_schedule)
            byol.update_target(decay)
            loop.after_step(loss, args.batch_size)
            if loop.step % LOG_EVERY == 0 or loop.is_done():
                log(loop, loss, embedding_std, decay)
            if loop.must_stop():
                return loop.stop()
            if loop.is_done():
                break
        scores = probe_score(loop, epoch + 1, byol.backbone, probe, args, device)
        loop.run.save(BACKBONE, {name: value.cpu() for name, value in byol.backbone.state_dict().items()})
        loop.end_epoch(**scores)
        if loop.must_stop():
            return loop.stop()
    loop.close()
    return None


def make_views(
    byol: BYOL, images: Tensor, numbers: Tensor, args: argparse.Namespace
) -> tuple[Tensor, Tensor]:
    """(B, 3, K, K) uint8 and their random numbers (B, 2, N) → two views (B, 3, S, S), normalised."""
    mean, std = normalisation(args.model)
    if args.views == "two":
        first, second = two_views(images, numbers, args.image_size, args.min_area)
        return normalise(first, mean, std), normalise(second, mean, std)
    images = functional.interpolate(images.float() / 255, (args.image_size, args.image_size), mode="bilinear")
    images = normalise(images, mean, std)
    return byol.stock_views(images), byol.stock_views(images)


def log(loop: Loop, loss: Tensor, embedding_std: Tensor, decay: float) -> None:
    spread = distributed.mean_of_all(embedding_std).item()
    loop.run.log_metrics(
        loop.step,
        loop.epoch_in_hand,
        step_loss=round(distributed.mean_of_all(loss.detach()).item(), 6),
        embedding_std=round(spread, 4),
        target_decay=round(decay, 6),
        learning_rate=loop.optimizer.param_groups[-1]["lr"],
        images_per_second=round(loop.images_per_second, 1),
    )
    if spread < COLLAPSED:
        loop.run.say(
            f"warning, step {loop.step}: the network has collapsed, its embeddings hardly differ "
            f"(embedding_std {spread:.3f}, good is above 0.5); start again with a smaller --lr or a larger "
            "--batch-size"
        )


def load_probe(args: argparse.Namespace) -> LabelledImages | None:
    if not args.probe_csv:
        return None
    probe = load_evaluation(args.probe_csv[: -len(".csv")], args.probe_csv, args.image_size, args.cache)
    if len(probe) < 2:
        raise UserError(f"{args.probe_csv}: one image has no neighbours; give more, or leave --probe-csv out")
    return probe


def probe_score(
    loop: Loop,
    epoch: int,
    backbone: nn.Module,
    probe: LabelledImages | None,
    args: argparse.Namespace,
    device: torch.device,
) -> dict[str, float]:
    """How many of the labelled images their nearest neighbours classify after `epoch` (from 1), when it is
    time.
    """
    if (
        probe is None
        or (epoch % args.probe_every and epoch > 1 and not loop.is_done())
        or not distributed.is_main()
    ):
        return {}
    backbone.eval()
    normal = normalisation(args.model)
    features = torch.cat(
        [predict_images(backbone, images.to(device), *normal) for images, _ in probe.batches(64)]
    )
    accuracy = knn_accuracy(features, torch.from_numpy(probe.labels).to(device))
    loop.run.say(
        f"epoch {epoch}: {100 * accuracy:.1f} % of {len(probe)} images are classified by their neighbours"
    )
    return {"knn_accuracy": round(accuracy, 6)}


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
