"""Attack the scripts until the time is over, and count what did not hold.

    python3 -m tests.soak --minutes 30                         # make soak MINUTES=30
    python3 -m tests.soak --minutes 0                          # every case there is
    python3 -m tests.soak --attack operations-p2_train --case 17

Cases are drawn evenly over the attacks. One number is one case, today and tomorrow, as long as the code under
attack does the same file operations. Exit status: 0 all held; 1 some did not; 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

from tests.soak.attacks import ATTACKS, SAMPLE
from tests.soak.commands import import_all


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=30, help="how long (default 30); 0: every case")
    parser.add_argument("--attack", nargs="+", choices=sorted(ATTACKS), metavar="NAME", help="these alone")
    parser.add_argument(
        "--case", type=int, nargs="+", help="of the --attack these alone; what one left is kept"
    )
    parser.add_argument("--sample", action="store_true", help="the few fixed cases of `make test`")
    args = parser.parse_args(argv)
    if args.case is not None and len(args.attack or ()) != 1:
        parser.error("--case wants one --attack")
    chosen: dict[str, list[int] | None] = dict.fromkeys(args.attack or ATTACKS)
    if args.case is not None:
        chosen[args.attack[0]] = args.case
    if args.sample:
        chosen = {name: list(numbers) for name, numbers in SAMPLE.items()}
    is_endless = args.minutes == 0 or args.sample or args.case is not None
    deadline = float("inf") if is_endless else time.monotonic() + 60 * args.minutes
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it ends with the table
    import_all()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        return draw_cases(chosen, folder, deadline, is_kept=args.case is not None)
    finally:
        if args.case is None:
            shutil.rmtree(folder, ignore_errors=True)


def draw_cases(chosen: dict[str, list[int] | None], folder: Path, deadline: float, is_kept: bool) -> int:
    """Case after case, the attacks in turn, until the time is over or there are none left."""
    (folder / "shared").mkdir()
    functions, left, totals = {}, {}, {}
    cases, failures = dict.fromkeys(chosen, 0), dict.fromkeys(chosen, 0)

    def next_case(name: str, numbers: list[int] | None) -> None:
        if name not in left:
            left[name] = []
            try:
                totals[name], functions[name] = ATTACKS[name](folder / "shared")
            except Exception as error:  # the other attacks can go on
                failures[name] += 1
                print(f"FAILED --attack {name}: no case can begin: {error}", flush=True)
                return
            left[name] = numbers or random.SystemRandom().sample(range(totals[name]), totals[name])
        if not left[name]:
            return
        number = left[name].pop()
        case = folder / f"case{number}"
        problem = failure(functions[name], number, case)
        cases[name] += 1
        if problem:
            failures[name] += 1
            print(f"FAILED --attack {name} --case {number}: {problem}", flush=True)
        if is_kept:
            print(f"case {number} left {case}; what was said last: {case}.said")
        else:
            shutil.rmtree(case, ignore_errors=True)

    try:
        while time.monotonic() < deadline and any(left.get(name, [0]) for name in chosen):
            for name, numbers in chosen.items():
                if time.monotonic() < deadline:
                    next_case(name, numbers)
    except KeyboardInterrupt:  # Ctrl-C, or SIGTERM: what is known by now is told all the same
        print("stopped before the time was over")
    print_table(cases, totals, failures)
    return 1 if any(failures.values()) else 0


def failure(case: Callable[[int, Path], None], number: int, folder: Path) -> str:
    """What did not hold in this case, on one line, or nothing."""
    try:
        case(number, folder)
    except Exception as error:  # one of the soak's own would otherwise end an hour's work
        kind = "" if isinstance(error, AssertionError) else f"the soak itself, {type(error).__name__}: "
        return kind + " ".join(str(error).split())[:600]
    return ""


def print_table(cases: dict[str, int], totals: dict[str, int], failures: dict[str, int]) -> None:
    width = max(map(len, cases))
    print(f"\n{'attack':{width}}  {'cases':>6} {'of':>6} {'failures':>9}")
    for name in cases:
        print(f"{name:{width}}  {cases[name]:>6} {totals.get(name, 0):>6} {failures[name]:>9}")
    sums = [sum(counts.values()) for counts in (cases, totals, failures)]
    print(f"{'all':{width}}  {sums[0]:>6} {sums[1]:>6} {sums[2]:>9}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
