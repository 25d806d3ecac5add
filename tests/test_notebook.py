"""The notebook for Colab and Kaggle is a dozen cells of commands that exist."""

from __future__ import annotations

import json
import re
import subprocess

from tests.grader import REPOSITORY

NOTEBOOK = json.loads((REPOSITORY / "notebooks" / "colab_kaggle.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
VARIABLES = {"REPO", "DATA", "RUNS", "HOURS", "SESSION", "REPORT", "TARGET"}


def commands() -> list[list[str]]:
    """The words of every command that a shell runs."""
    shells = [cell.split("\n", 1)[1] for cell in CELLS if cell.startswith("%%bash")]
    lines = [line for shell in shells for line in shell.splitlines()]
    lines += [
        line.strip()[1:] for cell in CELLS for line in cell.splitlines() if line.strip().startswith("!")
    ]
    return [line.split() for line in lines]


def test_it_is_short_and_holds_no_results():
    assert 8 <= len(NOTEBOOK["cells"]) <= 15
    assert not any(cell.get("outputs") for cell in NOTEBOOK["cells"])
    assert not re.search(r"^(def|class|for|while) ", "\n".join(CELLS), re.MULTILINE)


def test_every_command_in_it_exists():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    called = set()
    for name, *words in commands():
        if name == "make":
            called.add(words[0])
            assigned = [word.partition("=")[0] for word in words if "=" in word]
            assert all(re.search(rf"^{a} \?=|\$\({a}\)", makefile, re.MULTILINE) for a in assigned), words
        else:
            assert name in ("git", "case")
    assert called - {"$TARGET"} <= targets and called >= {"setup", "check", "submission", "$TARGET"}
    assert re.search(r'"TARGET", "all"', CELLS[0]) and "all" in targets


def test_what_it_takes_from_the_environment_stands_in_its_first_cell():
    given = set(re.findall(r'setdefault\("([A-Z]+)"', CELLS[0]))
    assert given == VARIABLES
    used = {name for cell in CELLS for name in re.findall(r"\$([A-Z]+)", cell)}
    assert used <= VARIABLES


def test_the_shells_of_it_are_bash():
    for cell in CELLS:
        if cell.startswith("%%bash"):
            subprocess.run(["bash", "-n", "-c", cell.split("\n", 1)[1]], check=True)
