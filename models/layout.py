"""In which row and lane each block of a network is drawn; no lengths yet, those are models.diagram's.

The longest way from the input to the output is the main column. What leaves it and comes back has a lane to
the right, the farther out the more rows it spans, so that nested skip connections do not cross; so has an
output of its own. Blocks side by side between the same two others share a row of the main column.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    main: list[str] = field(default_factory=list)  # blocks of the main column: one, or several side by side
    side: dict[str, int] = field(default_factory=dict)  # blocks in lanes, and the lane of each


@dataclass
class Layout:
    rows: list[Row]
    edges: list[tuple[str, str]]  # from block to block
    row_of: dict[str, int]
    lane_of: dict[str, int]  # of blocks in lanes
    lane_of_line: dict[
        tuple[str, str], int
    ]  # of edges past rows of the main column, with no block on their way
    lane_has_blocks: list[bool]


@dataclass
class _Branch:
    """What leaves the main column in row `start` and comes back in row `end`, or ends there."""

    start: int
    end: int
    names: list[str]
    line: tuple[str, str] | None = None


def lay_out(blocks: list[dict[str, Any]]) -> Layout:
    """`blocks` as models.describe gives them, each after those that it depends on."""
    inputs = {block["name"]: block["inputs"] for block in blocks}
    edges = [(start, end) for end, starts in inputs.items() for start in starts]
    main = _longest_way(blocks, inputs)
    rows = [Row([name]) for name in main]
    row_of = {name: number for number, name in enumerate(main)}
    branches = []
    for names in _components([name for name in inputs if name not in row_of], edges):
        starts = [row_of[start] for start, end in edges if end in names and start in main]
        ends = [row_of[end] for start, end in edges if start in names and end in main]
        if len(names) == len(starts) == len(ends) == 1 and ends[0] - starts[0] == 2:
            rows[starts[0] + 1].main.append(names[0])
            row_of[names[0]] = starts[0] + 1
        else:
            branches.append(_Branch(starts[0], max([*ends, starts[0] + len(names) - 1]), names))
    for start, end in edges:
        if start in main and end in main and row_of[end] - row_of[start] > 1:
            branches.append(_Branch(row_of[start], row_of[end], [], (start, end)))

    layout = Layout(rows, edges, row_of, {}, {}, [])
    lanes: list[list[_Branch]] = []
    for branch in sorted(branches, key=lambda branch: branch.end - branch.start):
        lane = next((n for n, others in enumerate(lanes) if _is_free(others, branch)), len(lanes))
        lanes[lane:] = lanes[lane:] or [[]]
        lanes[lane].append(branch)
        if branch.line:
            layout.lane_of_line[branch.line] = lane
        for row, name in enumerate(branch.names, start=branch.start):
            rows += [Row() for _ in range(row - len(rows) + 1)]
            rows[row].side[name] = lane
            row_of[name], layout.lane_of[name] = row, lane
    layout.lane_has_blocks = [any(branch.names for branch in branches) for branches in lanes]
    return layout


def _longest_way(blocks: list[dict[str, Any]], inputs: dict[str, list[str]]) -> list[str]:
    """Names from the input to the first output; of two equally long ways the one that is computed first."""
    length: dict[str, int] = {}
    for name, before in inputs.items():
        length[name] = 1 + max((length[other] for other in before), default=0)
    way = [next(block["name"] for block in blocks if block["role"] == "output")]
    while inputs[way[0]]:
        way.insert(0, max(inputs[way[0]], key=lambda name: length[name]))
    return way


def _components(names: list[str], edges: list[tuple[str, str]]) -> list[list[str]]:
    """Names that hang together among themselves, in their order."""
    component = {name: {name} for name in names}
    for start, end in edges:
        if start in component and end in component:
            joined = component[start] | component[end]
            component.update((name, joined) for name in joined)
    found: list[list[str]] = []
    for name in names:
        if not any(name in others for others in found):
            found.append([other for other in names if other in component[name]])
    return found


def _is_free(others: list[_Branch], branch: _Branch) -> bool:
    return all(other.end < branch.start or branch.end < other.start for other in others)
