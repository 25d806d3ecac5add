"""What this repository does on a GPU, in minutes: one table, and all of it in one JSON.

    python3 -m benchmarks.gpu --minutes 5 --data hw1_data

Every training runs for seconds in the precision that it chooses, then the loop that one would write (float32,
as torch comes, the same images again and again), then the training in fp16: images a second, peak memory
beside what benchmarks.memory counts, share of the time spent waiting for input. Then: images a second through
both wrappers, start included; masks of the CPU against the GPU's; a training killed and resumed; a step under
DistributedDataParallel with one process. What fails or finds no time left is said, and the rest goes on.

It needs what training needs, not torch alone: python3 -m pip install -r requirements.txt. Without --data it
makes some.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

from engine.packages import require_packages

if __name__ == "__main__":  # before torch, and what is missing in one line
    require_packages("byol_pytorch", "matplotlib", "segment_anything")

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.memory import Training, fine_tuning, need_of, pretraining, segmentation
from datasets.images import read_rgb
from engine import distributed, run_folder
from engine.loop import Loop

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 3  # steps that are not timed: the first ones choose kernels
SHARE = 0.45  # of the time, for timed steps: starting takes the rest
SAMPLE = {
    False: "--mini-images 1024 --train-images 320 --val-images 320 --train-tiles 16 --val-tiles 16",
    True: "--mini-images 12 --classes 2 --train-images 12 --val-images 4 --train-tiles 4 --val-tiles 2 "
    "--tile-size 64 --image-size 40",
}


class Case(NamedTuple):
    script: str
    run: str  # the run folder below --output
    training: Training
    flags: str


def cases(is_tiny: bool) -> list[Case]:
    if is_tiny:
        byol = pretraining("resnet18", 32)._replace(batch_size=4)
        classifier = fine_tuning("small", num_classes=2)._replace(batch_size=4)
        segmenter = segmentation("default")._replace(side=64, batch_size=2)
        flags = (
            "--model resnet18 --image-size 32 --batch-size 4",
            "--recipe small --batch-size 4",
            "--scale 1 --crop-size 64 --batch-size 2",
        )
    else:
        byol, classifier = pretraining(), fine_tuning("default", num_classes=10)
        segmenter, flags = segmentation("report004"), ("", "", "--recipe report004")
    return [
        Case("p1_ssl_pretrain.py", ".", byol, flags[0]),
        Case("p1_finetune.py", "A-seed0", classifier, flags[1]),
        Case("p2_train.py", ".", segmenter, f"--weights none {flags[2]}"),
    ]


# -- in a process of its own ---------------------------------------------------------------------------------


def wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory_used() -> dict[str, int]:
    if not torch.cuda.is_available():
        return {}
    return {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


def run_timed(how: str, script: str, *flags: str) -> dict[str, Any]:
    """Run a training script as it runs by itself, every step awaited; `how` "joined": as one process of a
    group.
    """
    steps: list[float] = []
    waits: list[float] = []
    loops: list[Loop] = []
    batches = Loop.batches

    def timed_batches(loop: Loop, loader: Callable) -> Iterator:
        loops.append(loop)

        def timed_loader(**place: int) -> Iterator:
            source = iter(loader(**place))
            while True:
                asked = time.perf_counter()
                batch = next(source, None)
                given = time.perf_counter()
                if batch is None:
                    return
                yield batch
                wait_for_gpu()
                waits.append(given - asked)
                steps.append(time.perf_counter() - given)

        yield from batches(loop, timed_loader)

    Loop.batches = timed_batches
    if how == "joined":
        device = flags[flags.index("--device") + 1]
        if device == "cpu":  # torch's SyncBatchNorm refuses it
            distributed.synchronise_batch_norm = lambda network: None
        dist.init_process_group(
            "gloo" if device == "cpu" else "nccl", store=dist.HashStore(), rank=0, world_size=1
        )
    sys.argv = [script, *flags]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        if end.code or not steps:
            sys.exit(f"error: {script} ended with exit status {end.code} after {len(steps)} steps")
    finally:
        Loop.batches = batches
    first = min(WARM_UP, len(steps) - 1)
    steps, waits = steps[first:], waits[first:]
    seconds = sum(steps) + sum(waits)
    stepper = loops[-1]._stepper
    return {
        "images_per_second": len(steps) * loops[-1].batch_size / seconds,
        "waiting": sum(waits) / seconds,
        "steps": len(steps),
        "precision": stepper.precision,
        "micro_batch": stepper.micro_batch,
        **memory_used(),
    }


def run_plain(training: Any, seconds: float, device: str) -> dict[str, Any]:
    """The loop that one would write, for as long."""
    network = training.build().to(device).train()
    trained = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    images = torch.rand(training.batch_size, 3, training.side, training.side, device=device)
    times, end = [], time.perf_counter() + seconds
    while len(times) <= WARM_UP + 1 or time.perf_counter() < end:
        optimizer.zero_grad()
        training.loss(network, images).backward()
        optimizer.step()
        wait_for_gpu()
        times.append(time.perf_counter())
    steps = len(times) - 1 - WARM_UP
    return {"images_per_second": steps * training.batch_size / (times[-1] - times[WARM_UP]), **memory_used()}


def machine(device: str) -> dict[str, Any]:
    found = {"device": device, "torch": torch.__version__}
    if device == "cpu":
        return found
    properties = torch.cuda.get_device_properties(0)
    capability = f"{properties.major}.{properties.minor}"
    return {**found, "name": properties.name, "memory": properties.total_memory, "capability": capability}


# -- what is measured ----------------------------------------------------------------------------------------


class Bench:
    """Where results are gathered, and until when."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.folder, self.device, self.is_tiny = folder, args.device, args.tiny
        self.deadline = time.monotonic() + 60 * args.minutes
        self.cases = cases(args.tiny)
        self.seconds = SHARE * 60 * args.minutes / (3 * len(self.cases))
        data = Path(args.data).resolve() if args.data else folder / "sample" / "hw1_data"
        self.office, self.tiles = data / "p1_data" / "office", data / "p2_data"
        self.inputs = {
            "p1_ssl_pretrain.py": ["--images", data / "p1_data" / "mini" / "train"],
            "p1_finetune.py": ["--data", self.office],
            "p2_train.py": ["--data", self.tiles],
        }
        self.results: dict[str, Any] = {"machine": machine(args.device)}

    def attempt(self, name: str, measure: Callable[..., Any], *given: Any) -> None:
        """Keep what `measure` gives, or why it gave nothing."""
        if time.monotonic() >= self.deadline:
            self.results[name] = {"failed": "no time left"}
            return
        try:
            self.results[name] = measure(*given)
        except Exception as error:  # whatever it is, the other measurements matter
            self.results[name] = {"failed": f"{type(error).__name__}: {error}"}
        print(f"{name}: {json.dumps(self.results[name])}", file=sys.stderr, flush=True)

    def call(self, *command: object, **environment: object) -> str:
        """The stdout of a command that must succeed."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        added = {name: str(value) for name, value in environment.items()}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, "PATH": path, **added},
            capture_output=True,
            text=True,
            timeout=max(60.0, self.deadline + 60 - time.monotonic()),
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["nothing said"]
            raise RuntimeError(f"exit status {done.returncode}: {said[-1]}")
        return done.stdout

    def inside(self, *words: object) -> dict[str, Any]:
        stdout = self.call(sys.executable, "-m", "benchmarks.gpu", "--inside", *words)
        return json.loads(stdout.splitlines()[-1])

    def flags(self, case: Case, output: str) -> list[object]:
        where = ["--device", self.device, "--output", self.folder / output, "--cache", self.folder / "cache"]
        return [*self.inputs[case.script], *case.flags.split(), *where]

    def train(self, case: Case, precision: str, how: str = "alone") -> dict[str, Any]:
        length = ["--epochs", 1] if self.is_tiny else ["--epochs", 1000, "--max-minutes", self.seconds / 60]
        flags = self.flags(case, f"{case.script}-{precision}-{how}")
        return self.inside(how, case.script, *flags, *length, "--precision", precision)

    def plain(self, case: Case) -> dict[str, Any]:
        return self.inside("plain", self.cases.index(case), self.seconds, self.device, int(self.is_tiny))

    def model(self, case: Case) -> Path:
        return self.folder / f"{case.script}-auto-alone" / case.run / run_folder.MODEL

    def classify(self) -> dict[str, float]:
        start, csv = time.monotonic(), self.folder / "answers.csv"
        inputs = (self.office / "val.csv", self.office / "val")
        self.call("bash", "hw1_1.sh", *inputs, csv, P1_CHECKPOINT=self.model(self.cases[1]))
        rows = len(csv.read_text(encoding="utf-8").splitlines()) - 1
        return {"images_per_second": rows / (time.monotonic() - start)}

    def segment(self) -> dict[str, float]:
        start, masks = time.monotonic(), self.folder / "masks"
        checkpoint = self.model(self.cases[2])
        self.call("bash", "hw1_2.sh", self.tiles / "validation", masks, P2_CHECKPOINT=checkpoint)
        return {"images_per_second": len(list(masks.iterdir())) / (time.monotonic() - start)}

    def compare_masks(self) -> dict[str, float]:
        """The share of pixels that are equal in the masks of hw1_2.sh and of the CPU."""
        folder = self.folder / "masks_of_cpu"
        words = ("--images", self.tiles / "validation", "--output", folder, "--device", "cpu")
        self.call(sys.executable, "p2_inference.py", *words, "--checkpoint", self.model(self.cases[2]))
        equal = [
            (read_rgb(mask, False) == read_rgb(self.folder / "masks" / mask.name, False)).all(axis=2).mean()
            for mask in sorted(folder.iterdir())
        ]
        return {"equal_pixels": float(np.mean(equal)), "wanted": 0.9999}

    def kill_and_resume(self) -> dict[str, Any]:
        case = self.cases[1]
        command = [sys.executable, case.script, *map(str, self.flags(case, "killed")), "--epochs", "1000"]
        run = self.folder / "killed" / case.run
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (run / run_folder.LAST).is_file():
            if process.poll() is not None or time.monotonic() > self.deadline + 60:
                process.kill()
                raise RuntimeError("the training to be killed has saved nothing")
            time.sleep(0.1)
        process.kill()
        process.wait()
        self.call(*command, "--max-minutes", 0)
        log = (run / run_folder.LOG).read_text(encoding="utf-8")
        return {"resumed": "resuming from step" in log}


def measure_all(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    bench = Bench(args, folder)
    if not args.data:
        bench.call(sys.executable, "-m", "datasets.sample", folder / "sample", *SAMPLE[args.tiny].split())
    for precision in ("auto", "fp16"):
        for case in bench.cases:
            bench.attempt(f"{case.script} {precision}", bench.train, case, precision)
            if precision == "auto":
                bench.attempt(f"{case.script} plain", bench.plain, case)
    bench.attempt("hw1_1.sh", bench.classify)
    bench.attempt("hw1_2.sh", bench.segment)
    bench.attempt("masks of CPU and GPU", bench.compare_masks)
    bench.attempt("killed and resumed", bench.kill_and_resume)
    bench.attempt("DDP, one process", bench.train, bench.cases[2], "fp32", "joined")
    return bench.results


def table(results: dict[str, Any], of_cases: list[Case]) -> str:
    """The results as two tables; GB are 10^9 bytes, and memory counted is that of benchmarks.memory without
    context and workspaces."""
    device = results["machine"]
    lines = [f"{device.get('name', device['device'])}, torch {device['torch']}", ""]
    lines += ["| training | precision | images/s | plain | ours / plain | peak, counted, GB | waiting |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for case in of_cases:
        plain = results[f"{case.script} plain"].get("images_per_second")
        for asked in ("auto", "fp16"):
            found = results[f"{case.script} {asked}"]
            name = f"{case.training.name}, batch {case.training.batch_size}"
            if "failed" in found:
                lines.append(f"| {name} | {asked} | {found['failed']} |")
                continue
            need = need_of(case.training, None if found["precision"] == "fp32" else torch.float16)
            counted = need.fixed + (found["micro_batch"] or case.training.batch_size) * need.image
            speed, peak = found["images_per_second"], found.get("allocated", 0)
            ratio = f"{plain:.0f} | {speed / plain:.2f}" if plain else "none | none"
            lines.append(
                f"| {name} | {asked}: {found['precision']} | {speed:.0f} | {ratio} | "
                f"{peak / 1e9:.1f}, {counted / 1e9:.1f} | {found['waiting']:.0%} |"
            )
    lines += ["", "| check | result |", "|---|---|"]
    for name, found in results.items():
        if name != "machine" and not name.endswith(("auto", "fp16", "plain")):
            lines.append(f"| {name} | {', '.join(f'{key} {value}' for key, value in found.items())} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="of all (default %(default)s)")
    parser.add_argument("--data", help="the course's hw1_data (default: made up)")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="default %(default)s")
    parser.add_argument("--device", default="cuda", help="default %(default)s")
    parser.add_argument("--tiny", action="store_true", help="sizes to try this script with, on a CPU too")
    parser.add_argument("--inside", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.inside:
        how, *words = args.inside
        if how == "plain":
            number, seconds, device, is_tiny = words
            case = cases(is_tiny == "1")[int(number)]
            print(json.dumps(run_plain(case.training, float(seconds), device)))
        else:
            print(json.dumps(run_timed(how, *words)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = measure_all(args, Path(folder))
        args.output.write_text(json.dumps(results, indent=1), encoding="utf-8")
        print(table(results, cases(args.tiny)))


if __name__ == "__main__":
    main()
