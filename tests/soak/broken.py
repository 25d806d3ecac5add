"""Files of every format that we read, broken in every way that a disk, a download or an editor breaks them,
each given to the commands that read it.

Whatever they get, they end by themselves with the exit status of the contract, without a traceback, and leave
nothing half-written. A flipped bit in weights or in a checkpoint changes no result without a word.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Callable

from PIL import Image

from tests.soak import children, home, trainings

CASES = 300  # of each format
PATIENCE = 300.0  # seconds, on a machine that is busy with other things too
# The format, which file of the home it is, and the commands that read that file.
FORMATS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "jpeg": [
        ("tiles/validation/0000_sat.jpg", (home.INFER_2,)),
        ("tiles/train/0000_sat.jpg", (home.TRAIN_2,)),
        ("office/val/1.jpg", (home.INFER_1,)),
    ],
    "png": [
        ("masks/0000_mask.png", (home.SCORE_2,)),
        ("tiles/validation/0000_mask.png", (home.SCORE_2,)),
        ("tiles/train/0000_mask.png", (home.TRAIN_2,)),
        ("office/val/0.png", (home.INFER_1,)),
        ("office/train/0.png", (home.TRAIN_1,)),
    ],
    "csv": [
        ("office/val.csv", (home.INFER_1, home.SCORE_1)),
        ("office/train.csv", (home.TRAIN_1,)),
        ("predictions.csv", (home.SCORE_1,)),
    ],
    "model.pt": [
        ("p1.pt", (home.INFER_1, home.EXPORT)),
        ("p2.pt", (home.INFER_2,)),
        ("checkpoints/net.pt", (home.PUBLISHED,)),
    ],
    "last.pt": [("run/last.pt", (home.RESUME,))],
    "metrics.jsonl": [
        ("runs/A-seed0/metrics.jsonl", (home.COMPARE, home.TABLE)),
        ("run/metrics.jsonl", (home.RESUME,)),
        ("results/p2/model_b/metrics.jsonl", (home.REPORT_2,)),
    ],
    "config.json": [
        ("runs/A-seed0/config.json", (home.COMPARE, home.TABLE)),
        ("run/config.json", (home.RESUME,)),
        ("results/p1/ssl/config.json", (home.REPORT_1,)),
    ],
    "manifest.json": [("checkpoints/manifest.json", (home.PUBLISHED, home.FETCH))],
    "predictions.csv": [
        ("runs/A-seed0/predictions.csv", (home.TABLE,)),
        ("results/p1/settings/A-seed0/predictions.csv", (home.REPORT_1,)),
    ],
    "confusions.npz": [
        ("run/confusions.npz", (home.COMPARE,)),
        ("results/p2/model_b/confusions.npz", (home.REPORT_2,)),
    ],
    "answers.md": [("answers.md", (home.REPORT_SAM,))],
    "architecture.json": [("results/p2/model_a/architecture.json", (home.REPORT_2,))],
}
Way = Callable[[Path, random.Random], None]


def attack(name: str, shared: Path) -> tuple[int, Callable[[int, Path], None]]:
    """The broken files of one format; none where no command writes such a file."""
    ours = home.make(shared)
    given = [
        (file, command) for file, commands in FORMATS[name] for command in commands if (ours / file).exists()
    ]

    def case(number: int, folder: Path) -> None:
        draw = random.Random(f"{name} {number}")
        file, command = given[number % len(given)]
        how = draw.choice(WAYS)
        shutil.copytree(ours, folder, symlinks=True)
        content = (folder / file).read_bytes()
        how(folder / file, draw)
        what = f"{file} {how.__name__}"
        ended = attacked(command, folder, what)
        if name == "model.pt" and ended.status == 0:
            check_same_answer(folder, ours, file, content, command, what)
        # What is no file was never a checkpoint: the run is refused before anything is touched.
        if name == "last.pt" and "is no file; move it away" not in ended.said:
            assert ended.status == 0, f"{what}: previous.pt is whole, but: {ended.said.strip()[-300:]}"
            trainings.assert_same(folder / "run", shared / "unbroken" / "run", what)

    return (CASES if given else 0), case


def attacked(command: str, folder: Path, what: str) -> children.Ended:
    """Run the command in `folder`. AssertionError, which begins with `what`, where it breaks the contract."""
    before = home.contents(folder)
    try:
        ended = children.run(home.command(command), folder, patience=PATIENCE)
        check_end(ended, folder, before)
    except AssertionError as error:
        raise AssertionError(f"{what}, {command.split()[0]}: {error}") from None
    return ended


def check_end(ended: children.Ended, folder: Path, before: dict[Path, bytes]) -> None:
    """The contract of every command: how it may end, and what may lie there then."""
    assert ended.status in (0, 1, 2), f"status {ended.status}: {ended.said.strip()[-300:]}"
    assert "\x1b" not in ended.said, "escapes reach the terminal"
    after = home.contents(folder)
    parts = [str(path) for path in after if path.suffix == ".part" and path not in before]
    assert not parts, f"left over: {', '.join(parts)}"
    if ended.status == 2:
        assert "error:" in ended.said or "usage:" in ended.said, (
            f"status 2 without a word: {ended.said[-300:]}"
        )
        changed = [str(path) for path in {**before, **after} if before.get(path) != after.get(path)]
        assert not changed, f"status 2, but written or changed: {', '.join(sorted(changed))}"
    for path, content in after.items():
        if before.get(path) != content:
            assert is_whole(folder / path), f"{path} is half-written"


def is_whole(path: Path) -> bool:
    """Whether a file that a command has written can be read to its end."""
    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".csv":
            csv.field_size_limit(sys.maxsize)  # a name of 200 kB is written as the table has it
            with open(path, newline="", encoding="utf-8") as file:
                return len({len(row) for row in csv.reader(file)}) == 1
        elif path.suffix == ".pdf":
            return path.read_bytes().rstrip().endswith(b"%%EOF")
    except (OSError, ValueError):
        return False
    return True


def check_same_answer(folder: Path, ours: Path, file: str, content: bytes, command: str, what: str) -> None:
    """The command took the broken weights: then its answer is that of the whole ones."""
    answers = [name for name in home.contents(folder) if name.parts[0] in ("out", "out.csv")]
    broken = {name: (folder / name).read_bytes() for name in answers}
    as_nothing(folder / file)
    (folder / file).write_bytes(content)
    attacked(command, folder, "the whole weights")
    other = [str(name) for name in answers if broken[name] != (folder / name).read_bytes()]
    assert not other, f"{what}, {command.split()[0]}: said nothing, and {', '.join(other)} is another"


# -- ways to break a file ------------------------------------------------------------------------------------


def with_one_bit_flipped(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def with_bytes_changed(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.randint(2, 30)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(content)


def with_a_hole(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    start = draw.randrange(len(content))
    length = draw.randint(1, len(content))
    hole = content[start : start + length]
    path.write_bytes(content[:start] + bytes(len(hole)) + content[start + length :])


def cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def grown(path: Path, draw: random.Random) -> None:
    path.write_bytes(path.read_bytes() + draw.randbytes(draw.randint(1, 3000)))


def with_a_part_twice(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    start, end = sorted(draw.randrange(len(content)) for _ in range(2))
    path.write_bytes(content[:end] + content[start:])


def with_a_strange_number(path: Path, draw: random.Random) -> None:
    """In text: some number becomes another thing. In bytes there is mostly one somewhere too."""
    content = path.read_bytes()
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", content))
    if not numbers:
        return cut(path, draw)
    number = draw.choice(numbers)
    strange = (
        b"NaN",
        b"-1",
        b"1e999",
        b"9" * 400,
        b'"text"',
        b"null",
        b"[]",
        b"[" * 10_000,
        b"0.1",
        b"\xff\xfe",
    )
    path.write_bytes(content[: number.start()] + draw.choice(strange) + content[number.end() :])


def emptied(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def as_nothing(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()


def as_a_folder(path: Path, draw: random.Random) -> None:
    as_nothing(path)
    path.mkdir()


def as_a_fifo(path: Path, draw: random.Random) -> None:
    as_nothing(path)
    os.mkfifo(path)


def as_a_link(path: Path, draw: random.Random) -> None:
    """To nothing, to itself, or to what never ends."""
    as_nothing(path)
    path.symlink_to(draw.choice(("nothing", path.name, "/dev/zero")))


IN_ITS_BYTES: tuple[Way, ...] = (with_one_bit_flipped, with_bytes_changed, with_a_hole, cut, grown)
IN_ITS_BYTES += (with_a_part_twice, with_a_strange_number)
WAYS = IN_ITS_BYTES * 2 + (emptied, as_a_folder, as_a_fifo, as_a_link, as_a_link)
