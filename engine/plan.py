"""How `make check` looks at the trainings before hours go into them, and how `make all` divides the hours.

    make check DATA=hw1_data HOURS=9
    make all DATA=hw1_data HOURS=9 SESSION=8.5

The Makefile names the trainings in TRAININGS, a line NAME: COMMAND each. Each is tried by its --dry-run, as a
process. RUNS/plan.json keeps what was found and what each training may take; later calls read it, and resume.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Sequence

from engine.arguments import positive_number
from engine.base import UserError, check_writable, clock, run_script, say, write_json
from engine.packages import requirements
from engine.run_folder import read_json

# What each training gets of the hours, and the variable by which the Makefile hands it on. Where one is left
# out, such as the backbone that the course gives, the others share its part.
SHARES = {
    "pre-training": (0.40, "SSL_TIME"),
    "labels": (0.12, "SL_TIME"),
    "settings": (0.24, "SETTINGS_TIME"),
    "model A": (0.10, "P2_A_TIME"),
    "model B": (0.14, "P2_TIME"),
}
REST_MINUTES = 2  # of the hours, for Segment Anything and the report: they train nothing
TRAINED_WHOLE = 3  # settings A, B and C; the heads of D and E take no time
SEEDS, FEWEST_EPOCHS, MOST_EPOCHS = 3, 30, 100  # of the settings: one seed where three would get fewer epochs
FEWEST_STEPS = 100  # of a training from which something can be expected
# Bytes on the disk for each weight: weights, their average and Adam's two means in last.pt, model.pt, three
# snapshots, in float32. previous.pt goes when a run is done.
BYTES_A_WEIGHT = 4 * (4 + 1 + 3)

DRY_RUN = re.compile(
    r"dry run: (?:(?P<origin>.*); )?(?P<images>\d+)(?: \+ \d+)? (?:images|tiles)[^;]*; (?P<machine>[^,]*)"
    r", .*?(?P<millions>[\d.]+) M weights, (?P<seconds>[\d.]+) s for a step of (?P<batch>\d+), loss"
)


@dataclass(frozen=True)
class Training:
    """What a dry run told: images to train on, files that cannot be used, where it starts, what computes,
    weights in millions, seconds for a step of `batch` images."""

    name: str
    origin: str
    images: int
    left_out: int
    machine: str
    millions: float
    seconds: float
    batch: int

    @property
    def seconds_an_epoch(self) -> float:
        return self.seconds * max(1, self.images // self.batch)


def measure() -> list[Training]:
    """Try each training of TRAININGS. UserError with its own words where one cannot begin."""
    lines = [line.partition(": ") for line in os.environ.get("TRAININGS", "").splitlines() if line.strip()]
    if not lines:
        raise UserError("no TRAININGS to look at; call it by make check or make all")
    found = []
    for name, _, command in lines:
        say(f"trying {name}")
        tried = subprocess.run(f"{command} --dry-run", shell=True, capture_output=True, text=True)
        said = DRY_RUN.search(tried.stdout)
        if said is None:
            reason = (tried.stderr.strip() or tried.stdout)[-600:].partition("error: ")
            raise UserError(f"{name} cannot begin: {reason[2] or reason[0]}")
        left_out = [line for line in tried.stderr.splitlines() if line.startswith("left out: ")]
        for line in left_out[:5]:
            say(line)
        origin = said["origin"] or "from random weights"
        images, batch = int(said["images"]), int(said["batch"])
        millions, seconds = float(said["millions"]), float(said["seconds"])
        found.append(Training(name, origin, images, len(left_out), said["machine"], millions, seconds, batch))
    return found


def minutes_of(trainings: Sequence[Training], hours: float) -> dict[str, float]:
    """The minutes of each training."""
    whole = sum(SHARES[training.name][0] for training in trainings)
    minutes = max(1.0, 60 * hours - REST_MINUTES)
    return {training.name: minutes * SHARES[training.name][0] / whole for training in trainings}


def settings_within(minutes: float, seconds_an_epoch: float) -> tuple[int, int]:
    """(seeds, epochs) of each of settings A to E: three seeds, where each then still learns something."""
    epochs = 60 * minutes / max(1e-9, TRAINED_WHOLE * seconds_an_epoch)
    seeds = SEEDS if epochs / SEEDS >= FEWEST_EPOCHS else 1
    return seeds, max(1, min(MOST_EPOCHS, int(epochs / seeds)))


def flags_of(trainings: Sequence[Training], hours: float) -> dict[str, str]:
    """What the Makefile's variables become."""
    flags = {}
    for training in trainings:
        minutes, variable = minutes_of(trainings, hours)[training.name], SHARES[training.name][1]
        flags[variable] = f"--budget-minutes {minutes:.4g}"
        if training.name == "settings":
            seeds, epochs = settings_within(minutes, training.seconds_an_epoch)
            flags[variable] = f"--epochs {epochs} --seeds {' '.join(map(str, range(seeds)))}"
    return flags


def table(trainings: Sequence[Training], runs: Path, hours: float | None) -> str:
    """What was found, in lines of text; with `hours` also what comes of them."""
    rows = [("training", "images", "unusable", "starts", "on", "a step", "an epoch", "gets" if hours else "")]
    for training in trainings:
        step, epoch = f"{training.seconds:.2f} s of {training.batch}", clock(training.seconds_an_epoch)
        gets = _what_it_gets(training, minutes_of(trainings, hours)) if hours else ""
        counts = (str(training.images), str(training.left_out))
        rows.append((training.name, *counts, training.origin[:60], training.machine, step, epoch, gets))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += ["", packages_here(), disk(trainings, runs)]
    if any(row[0] == "pre-training" and "hardly" in row[-1] and "cpu" in row[4] for row in rows):
        lines.append("`make laptop` trains smaller networks, which on a CPU learn more in the same hours")
    return "\n".join(lines)


def _what_it_gets(training: Training, minutes: dict[str, float]) -> str:
    of_it = minutes[training.name]
    if training.name == "settings":
        seeds, epochs = settings_within(of_it, training.seconds_an_epoch)
        return f"{clock(60 * of_it)}: {epochs} epoch(s), {seeds} seed(s)"
    steps = int(60 * of_it / max(1e-9, training.seconds))
    few = f", fewer than {FEWEST_STEPS}: hardly a training" if steps < FEWEST_STEPS else ""
    return f"{clock(60 * of_it)}: {steps} steps{few}"


def packages_here() -> str:
    """Whether what requirements.txt pins is what is installed."""
    other = []
    for name, pinned in requirements().items():
        wanted = pinned.partition("==")[2]
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        if version.partition("+")[0] != wanted:
            other.append(f"{name} {version}, not {wanted}")
    return f"packages: {'; '.join(other) or f'all {len(requirements())} of requirements.txt are here'}"


def disk(trainings: Sequence[Training], runs: Path) -> str:
    """What the runs leave at most, estimated from their weights, against what is free."""
    runs_of = {"settings": 5 * SEEDS}
    weights = sum(1e6 * training.millions * runs_of.get(training.name, 1) for training in trainings)
    there = next(folder for folder in (runs.resolve(), *runs.resolve().parents) if folder.is_dir())
    needed, free = weights * BYTES_A_WEIGHT, shutil.disk_usage(there).free
    short = "; TOO LITTLE: make room, or give RUNS=FOLDER on another disk" if free < needed else ""
    return f"disk: the runs leave up to {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free{short}"


# -- make all ------------------------------------------------------------------------------------------------


def read_or_make(path: Path, hours: float | None) -> dict[str, Any]:
    """The plan that lies at `path`, or one made now for so many hours."""
    if path.is_file():
        try:
            plan = read_json(path)
            are_flags = all(re.fullmatch(r"[-\w. ]*", flags) for flags in plan["flags"].values())
            if not are_flags or not set(plan["flags"]) <= {variable for _, variable in SHARES.values()}:
                raise ValueError("its flags are none of ours")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); delete it, or give RUNS=FOLDER") from None
        begun = plan.get("hours")
        if hours not in (None, begun):
            advice = f"give HOURS={begun}, or RUNS=FOLDER for new runs"
            raise UserError(f"{path}: begun for {begun} hours: {advice}")
        return plan
    if hours is None:
        raise UserError("say how many hours all trainings may take: make all DATA=hw1_data HOURS=9")
    check_writable(str(path.parent), str(path))
    trainings = measure()
    print(table(trainings, path.parent, hours), flush=True)
    plan = {"hours": hours, "flags": flags_of(trainings, hours)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**plan, "found": [asdict(training) for training in trainings]})
    return plan


def follow(plan: dict[str, Any], session_hours: float | None) -> int:
    """Make both problems, Segment Anything and the report; 0 also where the session's time is over."""
    end = None if session_hours is None else time.time() + 3600 * session_hours
    if end is not None:
        os.environ["SESSION_END"] = str(int(end))
    variables = [f"{name}={flags}" for name, flags in plan["flags"].items()]
    for target in ("p1", "p2", "sam", "report"):
        if _make(target, variables) == 0:
            continue
        if end is not None and time.time() > end - 120:  # trainings stop at the last whole minute
            print("the session's time is over; the same command resumes")
            return 0
        if target != "sam":
            return UserError.exit_status
        say("Segment Anything is left out (see above); `make sam` and `make report` add it")
    return 0


def _make(target: str, variables: list[str]) -> int:
    """The status of make, to which a signal for us alone is passed on; Ctrl-C reaches it by itself."""
    made = subprocess.Popen(["make", "--no-print-directory", target, *variables])
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: made.send_signal(signal.SIGTERM))
    return made.wait()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m engine.plan",
        description="What make check and make all do: try each training, divide the hours, follow the plan.",
    )
    parser.add_argument("what", choices=("check", "all"), help="look alone, or train too")
    parser.add_argument("runs", type=Path, help="folder of the runs; plan.json lies in it")
    parser.add_argument("--hours", type=positive_number, help="of training in all")
    parser.add_argument("--session", type=positive_number, help="hours after which this call ends")
    args = parser.parse_args(argv)
    if args.what == "check":
        trainings = measure()
        print(table(trainings, args.runs, args.hours))
        return 1 if any(training.left_out for training in trainings) else 0
    return follow(read_or_make(args.runs / "plan.json", args.hours), args.session)


if __name__ == "__main__":
    run_script(main)
