"""macOS and Windows start processes by spawn, Python 3.14 on Linux by forkserver: HOW in the environment."""

import multiprocessing
import os

multiprocessing.set_start_method(os.environ.get("HOW", "spawn"), force=True)
