"""Trainings, inference and the report killed, given the same command again, and compared with one that nobody
killed.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Callable

from tests.soak import children, home, operations, trainings

MOMENTS_AT_RANDOM = 50  # of each signal, for each script
MOST_KILLS = 3  # in one case, before the run may end

Case = Callable[[int, Path], None]


def at_random(script: str, number: signal.Signals, shared: Path) -> tuple[int, Case]:
    """Cases that send a signal once or several times, at moments drawn over the length of a whole run."""
    data = _data(script, shared)
    unbroken, seconds = _unbroken(script, shared, data)

    def case(case_number: int, folder: Path) -> None:
        draw = random.Random(f"{script} {number.name} {case_number}")
        trainings.with_data(folder, data)
        killed_at = []
        for _ in range(draw.randint(1, MOST_KILLS)):
            moment = draw.uniform(0, seconds)
            killed_at.append(round(moment, 2))
            ended = children.run(trainings.command(script), folder, kill=(moment, number))
            if ended.status == 0:
                break
            right = (-number, 128 + number) if number == signal.SIGTERM else (-number,)
            assert ended.status in right, (
                f"killed at {killed_at} s: status {ended.status}, {ended.said[-300:]}"
            )
        _ends_as(unbroken, script, folder, f"killed after {killed_at} s")

    return MOMENTS_AT_RANDOM, case


def at_operations(script: str, shared: Path) -> tuple[int, Case]:
    """A case for each moment of each file operation of a whole run: SIGKILL there."""
    data = _data(script, shared)
    unbroken, _ = _unbroken(script, shared, data)

    def count() -> None:
        operations.watch()
        try:
            trainings.command(script)()
        finally:
            Path("moments").write_text(str(operations.moments()))

    counted = trainings.with_data(shared / f"{script}-counted", data)
    children.run(count, counted)

    def case(case_number: int, folder: Path) -> None:
        trainings.with_data(folder, data)

        def until_killed() -> None:
            operations.watch(kill_at=case_number + 1)
            trainings.command(script)()

        ended = children.run(until_killed, folder)
        right = (trainings.ENDS_WITH.get(script, 0), -signal.SIGKILL)
        assert ended.status in right, f"status {ended.status}: {ended.said[-300:]}"
        _ends_as(unbroken, script, folder, "killed")

    return int((counted / "moments").read_text()), case


def _data(script: str, shared: Path) -> Path:
    """The folder with what the script reads; made once."""
    if script in trainings.WRITERS:
        return home.make(shared)
    if not (shared / "data").exists():
        trainings.draw_data(shared / "data")
    return shared / "data"


def _unbroken(script: str, shared: Path, data: Path) -> tuple[Path, float]:
    """The run that nobody kills, and the seconds it took; made once."""
    folder = shared / f"{script}-unbroken"
    seconds = shared / f"{script}-seconds"
    if not seconds.exists():
        trainings.with_data(folder, data)
        ended, took = children.timed(trainings.command(script), folder)
        assert ended.status == trainings.ENDS_WITH.get(script, 0), (
            f"the run that nobody kills: status {ended.status}, {ended.said[-300:]}"
        )
        seconds.write_text(str(took))
    return folder / "run", float(seconds.read_text())


def _ends_as(unbroken: Path, script: str, folder: Path, how: str) -> None:
    """The same command, given again, ends the run in `folder` as the unbroken one ended."""
    again = children.run(trainings.command(script), folder)
    right = trainings.ENDS_WITH.get(script, 0)
    assert again.status == right, f"{how}; then status {again.status}: {again.said.strip()[-300:]}"
    trainings.assert_same(folder / "run", unbroken, how)
