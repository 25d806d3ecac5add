"""What the benchmarks share: sides are timed in turns, and told by their median, least and most."""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Any, Callable, Sequence

import engine  # noqa: F401  it says in a line what a Python lacks

MAX_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss
QUANTITIES = ("wall s", "CPU s", "peak MiB")


def in_turns(sides: Sequence[str], rounds: int, measure: Callable[[str], Any]) -> dict[str, list[Any]]:
    """What `measure` gives for each side, `rounds` times; every second round begins with the last side."""
    measured: dict[str, list[Any]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in sides[:: 1 if turn % 2 == 0 else -1]:
            measured[side].append(measure(side))
    return measured


def in_own_process(module: str, *arguments: str) -> str:
    """The stdout of this call of a benchmark in a process of its own, with these arguments more."""
    command = [sys.executable, "-m", module, *sys.argv[1:], *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def spread(values: Sequence[float]) -> str:
    """Such as "1.20 (1.10 to 1.40)": the median, the least and the most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def print_table(measured: dict[str, list[Sequence[float]]]) -> None:
    """A line for each of QUANTITIES: of our side, of the other, and how many times ours the other's is."""
    (ours_name, all_ours), (other_name, all_others) = measured.items()
    print(f"\n{'':10}{ours_name:>29}{other_name:>31}{f'{other_name} / {ours_name}':>27}")
    for column, quantity in enumerate(QUANTITIES):
        ours, others = ([values[column] for values in side] for side in (all_ours, all_others))
        ratios = [other / own for own, other in zip(ours, others)]
        print(f"{quantity:10}{spread(ours):>29}{spread(others):>31}{spread(ratios):>27}")
