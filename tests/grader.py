"""For tests of inference: images as they come, networks whose answers differ, scripts and wrappers as a
grader calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from PIL import Image

from engine import checkpoint
from engine.base import run_script
from models.builders import build_network, normalisation

REPOSITORY = Path(__file__).resolve().parent.parent
COVER = ["urban", "agriculture", "rangeland", "forest", "water", "barren", "unknown"]


def random_image(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    """(H, W, 3) uint8: smooth coloured blobs, different for each seed."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.BICUBIC))


def save(pixels: np.ndarray, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def _samples(count: int, size: int, name: str) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in normalisation(name))
    images = np.stack([random_image(1000 + number, size, size) for number in range(count)])
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


def _calibrated(network: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """In eval mode, its batch norms fit to the images: else activations fade to numbers that CPUs are slow
    with.
    """
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return network.eval()


@torch.no_grad()
def save_classifier(path: Path, seed: int, count: int = 65, **changes) -> Path:
    """A ResNet18 with random weights, shifted so that its answer depends on the image."""
    torch.manual_seed(seed)
    network = _calibrated(build_network("resnet18", num_classes=count), _samples(64, 32, "resnet18"))
    network.fc.bias -= network(_samples(64, 32, "resnet18")).mean(dim=0)
    changes = {"classes": [str(number) for number in range(count)], **changes}
    return _save(path, "p1", "resnet18", {"num_classes": count}, network, changes)


@torch.no_grad()
def save_segmenter(path: Path, seed: int, **changes) -> Path:
    """The light network with random weights, shifted so that every class, and unknown most of all, is
    found.
    """
    torch.manual_seed(seed)
    network = _calibrated(build_network("lite_fpn", num_classes=7), _samples(8, 64, "lite_fpn"))
    logits = network(_samples(8, 64, "lite_fpn"))["out"]
    network.classifier[-1].bias -= logits.mean(dim=(0, 2, 3))
    network.classifier[-1].bias[6] += logits.std()
    return _save(path, "p2", "lite_fpn", {"num_classes": 7}, network, changes)


def _save(
    path: Path, problem: str, name: str, arguments: dict, network: torch.nn.Module, changes: dict
) -> Path:
    mean, std = normalisation(name)
    is_photo = problem == "p1"
    model = {
        "format": 1,
        "problem": problem,
        "network": name,
        "arguments": arguments,
        "state": network.state_dict(),
        "classes": COVER,
        "integer_labels": is_photo,
        "image_size": 32 if is_photo else None,
        "scale": None if is_photo else 0.5,
        "mean": mean,
        "std": std,
        "edition": "2024",
        "score": {"accuracy": 0.5} if is_photo else {"mean_iou": 0.7},
        "source": "a test",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, {**model, **changes})
    return path


def call(script, *arguments: object) -> int:
    """The exit status of a script's main, in this process."""
    try:
        run_script(lambda: script.main(script.parse_arguments([str(argument) for argument in arguments])))
    except SystemExit as end:
        return end.code
    raise AssertionError("a script always ends with a status")


def wrapper(script: Path, *arguments: object, cwd: Path | None = None, **environment: object):
    """A wrapper as a grader calls it, with this Python as `python3`; stdout and stderr together, in
    `.stdout`.
    """
    return subprocess.run(
        ["bash", str(script), *map(str, arguments)],
        cwd=cwd,
        env=wrapper_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


def wrapper_environment(**more: object) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Small networks: a second thread for each of two processes at once would only be in the way.
    return {
        **os.environ,
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        **{name: str(value) for name, value in more.items()},
    }


def wrappers(calls: Sequence[tuple], **environment: object) -> list:
    """Several calls (script, *arguments), two at a time since each imports torch first; results in their
    order.
    """
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda arguments: wrapper(*arguments, **environment), calls))
