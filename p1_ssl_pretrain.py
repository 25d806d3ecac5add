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
accuracy of kNN; the loss says little. The same command resumes after Ctrl-C, a crash or a power cut. On one
CPU process a seed gives the same weights bit for bit, on GPUs closely.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import Callable

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from engine.arguments import SEED, add_training_flags, fill_in, flag_adder, parser_for
from engine.packages import begin
from recipes.p1_ssl_pretrain import RECIPES


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = parser_for(__doc__)
    add = flag_adder(parser, RECIPES)
    add("--images", required=True, help="folder of images; the course's mini/train")
    add("--model", default="resnet50", help="name of a ResNet of models/ (default resnet50)")
    add("--weights", default="none", help="none (what the course asks for), imagenet, or a file")
    add("--image-size", type=int, default=128, help="pixels a side of a view (default 128, the course's)")
    add("--target-decay", type=float, help="of the target network at the start; 0.99 for runs of few steps")
    # how well
    probe = "labelled images, such as office/train.csv of the folder office/train: how many of them kNN "
    add("--probe-csv", help=probe + "classifies")
    every = "epochs between two probes (default 5); first and last are probed"
    add("--probe-every", type=int, default=5, help=every)
    add_training_flags(parser, RECIPES)
    add("--seed", **SEED)
    slow = "torch.compile the backbone: slow at the start, then faster on a GPU"
    add("--compile", action="store_true", help=slow)
    # what a recipe alone says
    parser.set_defaults(image_share=None, views=None, min_area=None, target_schedule=None, ema_decay=None)
    args = parser.parse_args(argv)
    fill_in(parser, args, RECIPES)
    if args.probe_csv and not args.probe_csv.endswith(".csv"):
        parser.error("--probe-csv must end in .csv: its images lie in the folder of its name without that")
    return args


if __name__ == "__main__":
    ARGUMENTS = begin(parse_arguments, "byol_pytorch", "matplotlib")

import torch
from torch import Tensor, nn
from torch.nn import functional

from datasets.images import list_images
from datasets.labelled import LabelledImages, load_evaluation
from datasets.unlabelled import load_unlabelled
from datasets.views import epoch_images, two_views
from engine import distributed
from engine.base import UserError, run_script
from engine.device import seed_everything, tune_allocator
from engine.loop import Loop
from engine.metrics import knn_accuracy
from engine.optimizer import Stepper, build_optimizer, parameter_groups
from engine.run import Run, Stopper
from engine.run_folder import BACKBONE, COLLAPSED
from engine.schedule import target_decay
from models.backbone import head_name
from models.builders import CLASSIFIERS, Normalisation, build_network, normalisation
from models.byol import BYOL
from models.predict import normalise, predict_images
from models.small_maps import use_matrix_products
from models.weights import load_pretrained


def main(args: argparse.Namespace) -> int:
    tune_allocator()
    seed_everything(args.seed)
    backbone, origin = build_backbone(args.model, args.weights)
    byol = BYOL(backbone, args.image_size)  # runs a forward pass, which must not wait for other processes
    device = distributed.join(args.device)

    with distributed.main_first():
        images = load_unlabelled(args.images, args.image_size, args.cache, args.image_share, args.seed)
        probe = load_probe(args.probe_csv, args.image_size, args.cache)
    pixels = torch.from_numpy(images.pixels).to(device)  # a CPU leaves them in the cache's file
    batch_size = min(args.batch_size, len(images))
    share = distributed.share_of(batch_size)
    loader = partial(epoch_images, pixels, args.seed, batch_size=batch_size, share=share)

    byol = byol.to(device, memory_format=torch.channels_last)
    if device.type == "cpu":
        use_matrix_products(byol)
    normal = normalisation(args.model)
    if args.views == "two":
        views = partial(paper_views, size=args.image_size, min_area=args.min_area, normal=normal)
    else:
        views = partial(stock_views, byol, size=args.image_size, normal=normal)
    groups = parameter_groups(byol, args.lr, decay_all=args.decay_all)
    optimizer = build_optimizer(args.optimizer, groups, args.lr, args.weight_decay, args.nesterov)
    stepper = Stepper(byol, optimizer, device, args.precision, args.micro_batch)
    losses = partial(loss_of, stepper.forward)

    if args.dry_run:
        byol.train()
        batch, numbers = next(iter(loader(epoch=0, first_batch=0)))
        stepper.dry_run(views(batch.to(device), numbers.to(device)), losses, f"{len(images)} images")
        return distributed.leave(0)

    arguments = {**vars(args), "training_images": len(images)}
    names = list_images(args.images)
    inputs = {"images": names, "probe_csv": args.probe_csv, "weights": args.weights}
    run = Run(args.output, __file__, arguments, RECIPES[args.recipe], inputs)
    processes = distributed.world_size()
    run.say(f"{args.model} {origin}; {len(images)} images; on {device}, {processes} process(es)")
    loop = Loop(run, stepper, Stopper(args.max_minutes), args, len(images) // batch_size, batch_size)
    if args.compile:
        byol.backbone.compile()
        byol.target_encoder.net.compile()

    for _ in loop.epochs():
        byol.train()
        for batch, numbers in loop.batches(loader):
            decay = target_decay(loop.steps_done, loop.total_steps, args.target_decay, args.target_schedule)
            pair = views(batch.to(device), numbers.to(device))
            logged = loop.step(pair, losses, target_decay=decay)
            if not stepper.is_skipped:
                byol.update_target(decay)
            warn_of_collapse(loop, logged)
        scores = {}
        is_due = loop.epoch == 1 or loop.epoch % args.probe_every == 0 or loop.is_done()
        if probe is not None and is_due and distributed.is_main():
            accuracy = probe_accuracy(byol.backbone, probe, normal, device)
            run.say(f"epoch {loop.epoch}: kNN classifies {100 * accuracy:.1f} % of {len(probe)} images")
            scores = {"knn_accuracy": round(accuracy, 6)}
        run.save(BACKBONE, {name: value.cpu() for name, value in byol.backbone.state_dict().items()})
        loop.end_epoch(scores)
    loop.finish()

    if distributed.is_main():
        run.require(BACKBONE)
        print(f"backbone for settings C and E: {run.folder / BACKBONE}")
    is_all_used = images.left_out == 0 and (probe is None or probe.left_out == 0)
    return distributed.leave(0 if is_all_used else 1)


def build_backbone(model: str, weights: str) -> tuple[nn.Module, str]:
    """A ResNet whose output are its pooled features, and a line that says where its weights come from."""
    backbone = build_network(model, CLASSIFIERS, num_classes=2)  # however many: the head is dropped at once
    if head_name(backbone) != "fc":
        raise UserError(f"--model {model} is no plain ResNet, whose features BYOL trains; give resnet50")
    origin = load_pretrained(backbone, model, weights)
    backbone.fc = nn.Identity()
    return backbone, origin


def paper_views(
    images: Tensor, numbers: Tensor, size: int, min_area: float, normal: Normalisation
) -> tuple[Tensor, Tensor]:
    """(B, 3, K, K) uint8 and their random numbers (B, 2, N) → two views (B, 3, size, size), normalised."""
    first, second = two_views(images, numbers, size, min_area)
    return normalise(first, *normal), normalise(second, *normal)


def stock_views(
    byol: BYOL, images: Tensor, numbers: Tensor, size: int, normal: Normalisation
) -> tuple[Tensor, Tensor]:
    """The same as byol-pytorch draws them: from torch's generator, without the `numbers`."""
    images = functional.interpolate(images.float() / 255, (size, size), mode="bilinear")
    images = normalise(images, *normal)
    return byol.stock_views(images), byol.stock_views(images)


def loss_of(
    network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], first: Tensor, second: Tensor, share: float
) -> dict[str, Tensor]:
    """Of two views (b, 3, S, S) of the images of a part, which is that share of its batch."""
    loss, spread = network(first, second)
    return {"loss": share * loss, "embedding_std": share * spread}


def warn_of_collapse(loop: Loop, logged: dict[str, float]) -> None:
    spread = logged.get("embedding_std", 1.0)
    if spread < COLLAPSED:
        collapsed = "the network has collapsed, its embeddings hardly differ"
        advice = "good is above 0.5); start again with a smaller --lr or a larger --batch-size"
        loop.run.say(f"warning, step {loop.steps_done}: {collapsed} (embedding_std {spread:.3f}, {advice}")


def load_probe(table: str | None, image_size: int, cache: str | None) -> LabelledImages | None:
    """The labelled images of --probe-csv, which lie in the folder of its name without .csv."""
    if not table:
        return None
    probe = load_evaluation(table[: -len(".csv")], table, image_size, cache)
    if len(probe) < 2:
        raise UserError(f"{table}: one image has no neighbours; give more, or leave --probe-csv out")
    return probe


def probe_accuracy(
    backbone: nn.Module, probe: LabelledImages, normal: Normalisation, device: torch.device
) -> float:
    """Share of the labelled images that kNN classifies by the features of the others."""
    backbone.eval()
    features = torch.cat(
        [predict_images(backbone, images.to(device), *normal) for images, _ in probe.batches(64)]
    )
    return knn_accuracy(features, torch.from_numpy(probe.labels).to(device))


if __name__ == "__main__":
    run_script(lambda: main(ARGUMENTS))
