"""All attacks by name. Each is a function of a folder that its cases share; it gives how many cases there
are, and the function that runs case N in a folder of its own (AssertionError: what did not hold).
"""

from __future__ import annotations

import signal
from functools import partial

from tests.soak import broken, hostile, kills, servers, trainings

KILLED = (*trainings.SCRIPTS, *trainings.WRITERS)
ATTACKS = {
    **{f"operations-{script}": partial(kills.at_operations, script) for script in KILLED},
    **{
        f"{number.name.lower()}-{script}": partial(kills.at_random, script, number)
        for script in trainings.SCRIPTS
        for number in (signal.SIGKILL, signal.SIGTERM)
    },
    **{f"broken-{name}": partial(broken.attack, name) for name in broken.FORMATS},
    "hostile-checkpoints": hostile.checkpoints,
    "hostile-tables": hostile.tables,
    "hostile-run-folders": hostile.run_folders,
    "hostile-servers": servers.attack,
}

# For `make test`: cases that differ, in half a minute of one core.
SAMPLE = {
    "operations-p1_ssl_pretrain": (700,),
    "operations-p2_train": (0, 120, 400),
    "operations-p2_inference": (12, 30),
    "broken-jpeg": range(4),
    "broken-png": range(5),
    "broken-csv": range(4),
    "broken-model.pt": range(4),
    "broken-last.pt": range(2),
    "broken-manifest.json": range(4),
    "broken-config.json": range(2),
    "hostile-checkpoints": (0, 1, 2, 100),
    "hostile-tables": (2, 40),
    "hostile-run-folders": (1,),
    "hostile-servers": (0, 20, 40),
}
