"""The machine: which device computes, how its memory is handed out, where random numbers start."""

from __future__ import annotations

import ctypes
import os
import platform
import random

import numpy as np
import torch

from engine.errors import RunError


def choose_device(name: str | None) -> torch.device:
    """The device named, or the best one there is: a GPU, Apple's mps, else the CPU."""
    if name in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        mps = getattr(torch.backends, "mps", None)
        return torch.device("mps" if mps is not None and mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RunError(f"--device {name}: cannot be used here ({str(error).splitlines()[0]}); leave it out") from None
    return device


def tune_allocator() -> None:
    """Let glibc keep freed memory instead of giving it back to the kernel page by page.

    The page faults of large tensors cost 20 to 45 % of training on a CPU. HW1_NO_MALLOPT=1 leaves it alone.
    """
    if os.environ.get("HW1_NO_MALLOPT") or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    mmap_max, trim_threshold, top_pad = -4, -1, -2
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 256 << 20)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
