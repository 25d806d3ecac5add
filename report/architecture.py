"""What a training left in its run folder about its network, for the report, which imports no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.run_folder import ARCHITECTURE, is_number, read_json
from report.text import one_line

MOST = 1e15  # parameters or operations; far more than any network has


@dataclass(frozen=True)
class Architecture:
    """What architecture.json says in short."""

    network: str
    size: int  # pixels a side of the image that it was described for
    parameters: int
    auxiliary_parameters: int
    gflops: float
    scored_at: str  # the stride of the map that is enlarged to the scores of every pixel, and how
    merged_at: str  # the strides at which maps are put together, in order of computing


def read_architecture(run: Path) -> Architecture | None:
    """None when there is none, or it cannot be used."""
    try:
        said = read_json(run / f"{ARCHITECTURE}.json")
        blocks = {block["name"]: block for block in said["blocks"] if not block["is_auxiliary"]}
        numbers = [
            said["input"][1],
            *(said[name] for name in ("parameters", "auxiliary_parameters", "gflops")),
        ]
        if not all(is_number(number) and 0 <= number < MOST for number in numbers):
            return None
        return Architecture(one_line(said["network"], 60), *numbers, _scored_at(blocks), _merged_at(blocks))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _scored_at(blocks: dict[str, dict[str, Any]]) -> str:
    """Goes back from the output to the last block that makes its input finer; "–" where it meets none."""
    block = next((block for block in reversed(list(blocks.values())) if block["role"] == "output"), None)
    seen = set()
    while (
        block and block["inputs"] and block["name"] not in seen
    ):  # a file that is not ours may lead in a circle
        seen.add(block["name"])
        before = blocks[block["inputs"][0]]
        if before["stride"] and block["stride"] and before["stride"] > block["stride"]:
            return f"stride {before['stride']:g}, then {one_line(block['layers'], 60)}"
        block = before
    return "–"


def _merged_at(blocks: dict[str, dict[str, Any]]) -> str:
    strides = [block["stride"] for block in blocks.values() if len(block["inputs"]) > 1 and block["stride"]]
    return ", ".join(f"stride {stride:g}" for stride in dict.fromkeys(strides)) or "nowhere"
