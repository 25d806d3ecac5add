"""A file system that cannot map files: put this folder into PYTHONPATH."""

import errno

import numpy as np


class NoMap(np.memmap):
    def __new__(cls, *arguments, **more):
        raise OSError(errno.ENODEV, "No such device")


np.memmap = NoMap
