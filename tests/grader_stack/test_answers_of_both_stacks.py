"""The inference path answers under the course's packages of 2024 as under those of requirements.txt: make
test-grader-stack, which installs them in .venv-grader. With DATA the course's data are looked at, else
made-up ones.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets import sample
from datasets.images import read_rgb
from datasets.tables import read_table
from tests.grader import REPOSITORY, wrapper, wrapper_environment
from tests.test_repository import inference_path

GRADER = REPOSITORY / ".venv-grader" / "bin"
DIFFERENT = 1e-4  # share of pixels: two classes can be equally likely but for the last digit
SHAPES = """
import json
import torch
from models import builders

with torch.device("meta"):
    for name in sorted({**builders.CLASSIFIERS, **builders.SEGMENTERS}):
        state = builders.build_network(name, num_classes=7).state_dict()
        print(json.dumps([name, {key: list(value.shape) for key, value in state.items()}]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    if os.environ.get("DATA"):
        return Path(os.environ["DATA"]).resolve()
    folder = tmp_path_factory.mktemp("sample")
    sample.main([str(folder)])
    return folder / "hw1_data"


def both(script: str, *arguments: object, **environment: object) -> list[Path]:
    """What the wrapper writes under each stack: its last argument, with the stack's name before it."""
    outputs = []
    for stack in ("pinned", "grader"):
        output = Path(arguments[-1]).with_name(f"{stack}_{Path(arguments[-1]).name}")
        path = wrapper_environment()["PATH"]
        path = f"{GRADER}{os.pathsep}{path}" if stack == "grader" else path
        done = wrapper(REPOSITORY / script, *arguments[:-1], output, PATH=path, **environment)
        assert done.returncode == 0, f"{stack}: {done.stdout}"
        outputs.append(output)
    return outputs


def python(code: str, executable: Path | str) -> str:
    command = [str(executable), "-c", code]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def test_these_are_the_versions_of_the_course():
    code = "import torch, torchvision; print(torch.__version__, torchvision.__version__)"
    versions = [version.split("+")[0] for version in python(code, GRADER / "python").split()]
    assert versions == ["2.4.0", "0.19.0"]


def test_every_file_that_inference_imports_is_compiled():
    paths = [str(path) for path in inference_path()]
    code = f"for path in {paths!r}: compile(open(path, encoding='utf-8').read(), path, 'exec')"
    python(code, GRADER / "python")


def test_labels_of_office_are_equal(data, p1_model, tmp_path):
    office = data / "p1_data" / "office"
    ours, theirs = both(
        "hw1_1.sh", office / "val.csv", office / "val", tmp_path / "labels.csv", P1_CHECKPOINT=p1_model
    )
    assert len({row["label"] for row in read_table(ours)}) > 3
    assert ours.read_bytes() == theirs.read_bytes()


def test_labels_of_the_published_network_are_equal(data, tmp_path):
    fifty = data / "p1_data" / "val_50"
    if not fifty.is_dir():
        pytest.skip(f"{data} is of an edition without the 50 classes")
    ours, theirs = both("hw1_1.sh", fifty, tmp_path / "labels.csv", EDITION="2022")
    assert len({row["label"] for row in read_table(ours)}) > 3
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("network", ["published", "random"])
def test_masks_are_equal(network, data, p2_model, tmp_path):
    checkpoint = {} if network == "published" else {"P2_CHECKPOINT": p2_model}
    ours, theirs = both("hw1_2.sh", data / "p2_data" / "validation", tmp_path / "masks", **checkpoint)
    names = sorted(path.name for path in ours.iterdir())
    assert names and names == sorted(path.name for path in theirs.iterdir())
    masks = [[read_rgb(folder / name, apply_exif=False) for name in names] for folder in (ours, theirs)]
    other = [np.any(one != another, axis=-1).mean() for one, another in zip(*masks)]
    print(f"{network}: {np.mean(other):.2e} of the pixels differ, in one mask {max(other):.2e} at most")
    assert np.mean(other) <= DIFFERENT


def test_every_network_has_the_same_weights():
    ours, theirs = (
        python(SHAPES, executable).splitlines() for executable in (sys.executable, GRADER / "python")
    )
    assert len(ours) > 30 and ours == theirs
