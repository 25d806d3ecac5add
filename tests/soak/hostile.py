"""Checkpoints, tables and run folders that somebody made to do harm, and servers that do not end.

No code of theirs runs, no command hangs or shows a traceback, nothing of theirs reaches the terminal raw.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from itertools import product
from pathlib import Path
from typing import Any, Callable

import torch

from tests.soak import home
from tests.soak.broken import attacked

Case = Callable[[int, Path], None]
DEEP: list = []
for _ in range(500):
    DEEP = [DEEP]
STRANGE: tuple[Any, ...] = (None, True, -1, 0, 1e300, float("nan"), float("inf"), 10**400, "", "\x1b[31mred")
STRANGE += (
    "\ud800",
    "../../x",
    "a\0b",
    "x" * 100_000,
    [],
    {},
    [[]],
    {"": None},
    DEEP,
    "<script>",
    "東\u202e",
)

# -- checkpoints --


class Call:
    """Pickled, it is a call of `function` for whoever loads it."""

    def __init__(self, function: Callable, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


PROGRAMS = (Call(os.system, "touch harm"), Call(os.mkdir, "harm"), Call(eval, "open('harm', 'w')"))
PROGRAMS += (Call(exec, "import os; os.mkdir('harm')"), Call(shutil.copy, "p1.pt", "harm"))
PROGRAMS += (Call(open, "harm", "w"), Call(getattr, Call(__import__, "os"), "system"))


def with_program(program: Call, container: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        if container == "pickle":
            path.write_bytes(pickle.dumps({"state": program}))
        else:
            torch.save({"state": program}, path, _use_new_zipfile_serialization=container == "zip")

    return write


def with_value(key: str, value: Any) -> Callable[[Path], None]:
    return lambda path: torch.save({**torch.load(path, weights_only=True), key: value}, path)


def with_weights(change: Callable[[torch.Tensor], Any]) -> Callable[[Path], None]:
    """The first weights of a checkpoint become what `change` makes of them."""

    def write(path: Path) -> None:
        model = torch.load(path, weights_only=True)
        state = model.get("state") or model["network"]
        name = next(name for name, value in state.items() if value.ndim)
        state[name] = change(state[name])
        torch.save(model, path)

    return write


WEIGHTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "nan": lambda weight: weight * float("nan"),
    "inf": lambda weight: weight + float("inf"),
    "of another shape": lambda weight: torch.zeros(7, 3),
    "huge by a trick": lambda weight: torch.zeros(1).expand(10**6, 10**6),
    "complex": lambda weight: weight.to(torch.complex64),
    "whole numbers": lambda weight: weight.to(torch.int8),
    "sparse": lambda weight: weight.to_sparse(),
    "quantized": lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
    "a list": lambda weight: [1.0],
    "on no device": lambda weight: weight.to("meta"),
}


def checkpoints(shared: Path) -> tuple[int, Case]:
    """Every hostile checkpoint for every command that reads one; all are refused."""
    ours = home.make(shared)
    ssl = f"{home.TRAIN_1} --settings C --ssl-backbone p1.pt"
    readers = (
        ("p1.pt", home.INFER_1),
        ("p2.pt", home.INFER_2),
        ("p1.pt", home.EXPORT),
        ("p1.pt", ssl),
        ("run/last.pt", home.RESUME),
    )
    writers = {
        f"{container} that calls {program.function.__name__}": with_program(program, container)
        for program, container in product(PROGRAMS, ("pickle", "zip", "legacy"))
    }
    writers.update((f"weights {kind}", with_weights(change)) for kind, change in WEIGHTS.items())
    keys = [("p1.pt", key) for key in torch.load(ours / "p1.pt", weights_only=True)]
    keys += [("run/last.pt", key) for key in torch.load(ours / "run" / "last.pt", weights_only=True)]
    cases = [(file, line, name, write) for (file, line), (name, write) in product(readers, writers.items())]
    for (file, key), value in product(keys, STRANGE):
        line = home.INFER_1 if file == "p1.pt" else home.RESUME
        cases.append((file, line, f"{key} {str(value)[:20]!a}", with_value(key, value)))

    def case(number: int, folder: Path) -> None:
        file, line, name, write = cases[number]
        shutil.copytree(ours, folder, symlinks=True)
        if file == "run/last.pt":
            (folder / "run" / "previous.pt").unlink(missing_ok=True)
        try:
            write(folder / file)
        except (RuntimeError, OverflowError, UnicodeError, pickle.PicklingError, NotImplementedError):
            return  # no such checkpoint can be written
        what = f"{file}, {name}"
        ended = attacked(line, folder, what)
        assert not (folder / "harm").exists(), f"{what}: ran its code"
        if "calls" in name or ("weights nan" in name and line in (home.INFER_1, home.INFER_2)):
            assert ended.status == 2, f"{what}: status {ended.status}: {ended.said.strip()[-200:]}"

    return len(cases), case


# -- tables --

HEADER = "id,filename,label\n"
GOOD = "".join(f"{number},{number}.{'jpg' if number % 2 else 'png'},{number % 3}\n" for number in range(6))
TABLES: dict[str, str | bytes] = {
    "spaces after commas": (HEADER + GOOD).replace(",", ", "),
    "a cell of 200 kB": HEADER + GOOD + f"6,{'x' * 200_000}.jpg,1\n",
    "100,000 columns": HEADER.strip() + "," * 100_000 + "\n" + GOOD,
    "a row of 100,000 cells": HEADER + GOOD + "6" + "," * 100_000 + "\n",
    "one quote that stays open": HEADER + GOOD + '6,"0.png,1\n' + GOOD,
    "a name of 255 bytes": HEADER + GOOD + f"6,{'n' * 251}.png,1\n",
    "names elsewhere": HEADER + GOOD + "6,../../p1.pt,1\n7,/etc/passwd,1\n8,a\0b.png,1\n",
    "escapes": HEADER + GOOD + "6,\x1b[31mred\x1b]0;title\x07.png,\x1b[1m\n",
    "UTF-16": (HEADER + GOOD).encode("utf-16"),
    "a BOM": b"\xef\xbb\xbf" + (HEADER + GOOD).encode(),
    "CRLF": (HEADER + GOOD).replace("\n", "\r\n"),
    "lone CR": (HEADER + GOOD).replace("\n", "\r"),
    "labels as floats": HEADER
    + GOOD.replace(",0\n", ",0.0\n").replace(",1\n", ",1.0\n").replace(",2\n", ",2.0\n"),
    "labels nan": HEADER + GOOD.replace(",2\n", ",nan\n"),
    "huge labels": HEADER + GOOD + f"6,0.png,{'9' * 5000}\n",
    "no header": GOOD,
    "a header twice": "id,filename,label,label,filename\n" + GOOD,
    "one image 50,000 times": HEADER + "0,0.png,0\n" * 50_000,
    "nothing but commas": "," * 1_000_000,
    "nothing but quotes": '"' * 1_000_001,
    "nothing but line ends": "\n" * 1_000_000,
    "formulas": HEADER + GOOD + '6,=HYPERLINK("x"),=1+1\n',
}
ALL_ANSWERED = ("spaces after commas", "a BOM", "CRLF", "labels as floats", "labels nan")


def tables(shared: Path) -> tuple[int, Case]:
    """Every hostile CSV for every command that reads one."""
    ours = home.make(shared)
    readers = (
        ("office/val.csv", home.INFER_1),
        ("office/val.csv", home.SCORE_1),
        ("predictions.csv", home.SCORE_1),
    )
    cases = list(product(TABLES, (*readers, ("office/train.csv", home.TRAIN_1))))

    def case(number: int, folder: Path) -> None:
        name, (file, line) = cases[number]
        text = TABLES[name]
        shutil.copytree(ours, folder, symlinks=True)
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        what = f"{file} with {name}"
        ended = attacked(line, folder, what)
        if name in ALL_ANSWERED and line == home.INFER_1:
            assert ended.status == 0, f"{what}: status {ended.status}: {ended.said.strip()[-200:]}"
            # The names as the table writes them: with its spaces.
            answer = (folder / "out.csv").read_text().replace(", ", ",")
            assert answer == (ours / "predictions.csv").read_text(), f"{what}: other labels"

    return len(cases), case


# -- run folders --

RUN_FOLDERS = 300
COMMAND_OF = {
    "results/p1": home.REPORT_1,
    "results/p2": home.REPORT_2,
    "results/sam": home.REPORT_SAM,
    "runs": home.TABLE,
}


def run_folders(shared: Path) -> tuple[int, Case]:
    """Results in whose files some value is another: for the report, the table and the comparison."""
    ours = home.make(shared)
    files = [
        path.relative_to(ours)
        for folder in COMMAND_OF
        for path in sorted((ours / folder).rglob("*"))
        if path.suffix in (".json", ".jsonl") and path.name != "table.json"
    ]

    def case(number: int, folder: Path) -> None:
        draw = random.Random(f"run folder {number}")
        shutil.copytree(ours, folder, symlinks=True)
        file = draw.choice(files)
        value = draw.choice(STRANGE)
        lines = [json.loads(line) for line in _documents(folder / file)]
        place = _replace_somewhere(lines, value, draw)
        (folder / file).write_text("\n".join(map(json.dumps, lines)) + "\n")
        line = next(command for start, command in COMMAND_OF.items() if str(file).startswith(f"{start}/"))
        line = home.COMPARE if draw.random() < 0.5 and file.name in ("config.json", "metrics.jsonl") else line
        attacked(line, folder, f"{file}: {place} is {str(value)[:20]!a}")

    return RUN_FOLDERS, case


def _documents(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _replace_somewhere(value: Any, new: Any, draw: random.Random) -> str:
    """Put `new` in place of some part of `value`; returns where."""
    key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if isinstance(value[key], (dict, list)) and value[key] and draw.random() < 0.85:
        return f"{key}.{_replace_somewhere(value[key], new, draw)}"
    value[key] = new
    return str(key)
