"""The machine: which device computes, how its memory is handed out, where random numbers start."""

from __future__ import annotations

import ctypes
import os
import platform
import random
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch

from engine.base import UserError, default_workers


def choose_device(name: str | None) -> torch.device:
    """The device named, or the best one there is: a GPU, Apple's mps, else the CPU.

    There float32 is float32, as torch's own default is not; training's steps alone are `fast_float32`.
    """
    _set_fast_float32(False)
    if name in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        mps = getattr(torch.backends, "mps", None)
        return torch.device("mps" if mps is not None and mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--device {name}: cannot be used here ({str(error).splitlines()[0]}); leave it out"
        ) from None
    return device


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it faster than float32, else None: GPUs from Ampere on, CPUs
    with AMX.

    On such a CPU a training step of ResNet50 takes half the time; depthwise convolutions gain nothing.
    """
    if device.type == "cuda":
        is_fast = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)  # a private name of torch, from 2.6 on
        is_fast = device.type == "cpu" and has_amx is not None and has_amx()
    return torch.bfloat16 if is_fast else None


def autocast(device: torch.device, network: torch.nn.Module | None = None) -> torch.autocast:
    """The context in which networks run: in bfloat16 where that is faster.

    On a CPU the `network` that is trained decides too: backwards, depthwise convolutions in bfloat16 take
    five times as long.
    """
    dtype = autocast_dtype(device)
    if (
        network is not None
        and device.type == "cpu"
        and any(getattr(m, "groups", 1) > 1 for m in network.modules())
    ):
        dtype = None
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


@contextmanager
def fast_float32() -> Iterator[None]:
    """Within it a GPU multiplies float32 as TF32 (11 bits of each factor, from Ampere on), and cuDNN tries
    its convolutions to take the fastest.
    """
    _set_fast_float32(True)
    try:
        yield
    finally:
        _set_fast_float32(False)


def _set_fast_float32(is_fast: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = is_fast
    torch.backends.cudnn.allow_tf32 = is_fast
    torch.backends.cudnn.benchmark = is_fast


def choose_workers(wanted: int | None, device: torch.device) -> int:
    """Processes that prepare batches: the number wanted; else up to 8 beside a GPU, none on a CPU, which is
    busy.
    """
    if wanted is not None:
        return wanted
    return default_workers() if device.type == "cuda" else 0


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
