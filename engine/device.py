"""The machine: which device computes, how its memory is handed out, where random numbers start."""

from __future__ import annotations

import ctypes
import os
import platform
import random
from contextlib import contextmanager
from typing import Any, Iterator

import numpy as np
import torch

from engine.base import UserError, default_workers


def choose_device(name: str | None) -> torch.device:
    """The device named, or the best one there is: a GPU, Apple's mps, else the CPU. There float32 is float32,
    as torch's own default is not; training's steps alone are `fast_float32`."""
    _set_fast_float32(False)
    if name in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: cannot be used here ({reason}); leave it out") from None
    return device


def choose_precision(name: str, device: torch.device, network: torch.nn.Module) -> str:
    """fp32, bf16 or fp16: the one named, or of "auto" the fastest that the device can compute `network` in.

    That is bf16 on GPUs from Ampere on (compute capability 8) and on CPUs with AMX, where a training step of
    ResNet50 takes half the time; fp16 on Volta and Turing (7.x); elsewhere fp32.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        generation = torch.cuda.get_device_capability(device)[0]
        return "bf16" if generation >= 8 else "fp16" if generation == 7 else "fp32"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)  # a private name of torch, from 2.6 on
    # Backwards, depthwise convolutions in bfloat16 take five times as long on a CPU.
    is_depthwise = any(getattr(module, "groups", 1) > 1 for module in network.modules())
    is_fast = device.type == "cpu" and has_amx is not None and has_amx() and not is_depthwise
    return "bf16" if is_fast else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network runs in that precision; weights and gradients stay float32."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


@contextmanager
def fast_float32() -> Iterator[None]:
    """Within it a GPU multiplies float32 as TF32 (11 bits of each factor), by cuDNN's fastest ways."""
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
    """Processes that prepare batches: those wanted, else up to 8 beside a GPU, none on a busy CPU."""
    if wanted is not None:
        return wanted
    return default_workers() if device.type == "cuda" else 0


def tune_allocator() -> None:
    """Let glibc keep freed memory: the page faults of large tensors cost 20 to 45 % of training on a CPU.
    HW1_NO_MALLOPT=1 leaves it alone."""
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


def random_state() -> dict[str, Any]:
    """What networks and byol-pytorch's views draw from; our data draw from (seed, epoch, sample)."""
    state = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if torch.cuda.is_available() and len(state.get("cuda", [])) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
