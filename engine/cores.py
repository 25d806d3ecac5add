"""How much of the machine is ours."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Processor cores that this process may use: fewer than the machine has under taskset or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
