"""Training steps of a classifier on the CPU, ours against a student's: images per second, in turns.

    OMP_NUM_THREADS=1 python3 -m benchmarks.bench_training --model resnet34 --image-size 32 --stem 3x3

`plain` is the loop that one would write: float32, as torch comes. `ours` is what p1_finetune.py does on a CPU
that is made for it: bfloat16, channels_last, the allocator's settings, and convolutions of small maps as
matrix products (models/small_maps.py), without which `no products` is timed. Each turn is a process of its
own. Before anything is timed the three must agree: equal first losses to a hundredth, which then fall alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from benchmarks.in_turns import in_own_process, in_turns, spread

SIDES = ("ours", "no products", "plain")
WARM_UP = 3  # steps that are not timed: the first ones choose kernels and fill the allocator


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """The losses and the seconds of each step, of the side that this process is."""
    from engine.device import tune_allocator

    is_plain = args.side == "plain"
    if not is_plain:
        tune_allocator()

    import torch
    from torch.nn import functional

    from engine.device import autocast, choose_precision
    from models.builders import build_network
    from models.small_maps import use_matrix_products

    torch.manual_seed(0)
    network = build_network(args.model, num_classes=50, stem=args.stem).train()
    images = torch.rand(args.batch_size, 3, args.image_size, args.image_size)
    labels = torch.randint(50, (args.batch_size,))
    device = torch.device("cpu")
    if not is_plain:
        network, images = (what.to(memory_format=torch.channels_last) for what in (network, images))
    if args.side == "ours":
        use_matrix_products(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=not is_plain)
    losses, seconds = [], []
    for _ in range(WARM_UP + args.steps):
        start = time.perf_counter()
        if is_plain:
            logits = network(images)
        else:
            with autocast(device, choose_precision("auto", device, network)):
                logits = network(images).float()
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    return {"losses": losses, "seconds": seconds[WARM_UP:]}


def run_side(side: str) -> dict[str, list[float]]:
    return json.loads(in_own_process("benchmarks.bench_training", "--side", side))


def check_equal(first: dict[str, dict[str, list[float]]]) -> None:
    """The sides start from one loss and learn alike, as far as half precision allows."""
    for side in SIDES[:-1]:
        ours, plain = first[side]["losses"], first["plain"]["losses"]
        if abs(ours[0] - plain[0]) > 0.01 * plain[0] or abs(ours[-1] - plain[-1]) > 0.1 * plain[0]:
            sys.exit(f"{side} and plain do not learn alike: {ours} and {plain}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet34", help="a classifier of models/ (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--stem", default="3x3", help="7x7, 3x3 or 3x3-nopool (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a turn (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default %(default)s)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args)))
        return
    first = {side: run_side(side) for side in SIDES}
    check_equal(first)
    losses = {side: first[side]["losses"] for side in SIDES}
    told = ", ".join(f"{side} {of_side[0]:.4f} to {of_side[-1]:.4f}" for side, of_side in losses.items())
    print(f"{args.model}, {args.image_size} px, batches of {args.batch_size}; losses: {told}")

    def speed(side: str) -> float:
        return args.batch_size / statistics.median(run_side(side)["seconds"])

    speeds = in_turns(SIDES, args.rounds, speed)
    print(f"{args.rounds} rounds in turns, images/s, median (min to max)\n")
    for side in SIDES:
        ratios = [ours / other for ours, other in zip(speeds["ours"], speeds[side])]
        faster = "" if side == "ours" else f"   ours is faster by {spread(ratios)}"
        print(f"{side:12}{spread(speeds[side]):>28}{faster}")


if __name__ == "__main__":
    main()
