"""hw1_1.sh and hw1_2.sh from anywhere, with any name in any path, without a network and without a GPU."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.grader import (
    REPOSITORY,
    random_image,
    save,
    save_classifier,
    wrapper,
    wrapper_environment,
    wrappers,
)

WRAPPERS = ("hw1_1.sh", "hw1_2.sh")
# Ends the process at the first attempt to open a socket or to look up a host, from Python or from a C
# extension.
NO_NETWORK = """
import os, sys
def hook(event, arguments):
    if event.startswith("socket."):
        sys.stderr.write("NETWORK: %s %r\\n" % (event, arguments))
        os._exit(97)
sys.addaudithook(hook)
"""
# As if the package named by LACKS were not installed.
NO_PACKAGE = """
import os, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == os.environ["LACKS"]:
            raise ModuleNotFoundError("No module named %r" % name, name=name)
sys.meta_path.insert(0, Blocker())
"""


def clone(folder: Path, *models: tuple[str, Path]) -> Path:
    """A copy of what inference needs; its manifest has a default for each (problem, model.pt)."""
    for name in ("engine", "datasets", "models"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("p1_inference.py", "p2_inference.py", *WRAPPERS):
        shutil.copy(REPOSITORY / name, folder / name)
    entries = []
    (folder / "checkpoints").mkdir()
    for problem, model in models:
        shutil.copy(model, folder / "checkpoints" / f"{problem}.pt")
        data = model.read_bytes()
        entries.append({
            "name": problem, "problem": problem, "default": True, "file": f"{problem}.pt", "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(), "urls": [], "network": "small", "score": {},
        })  # fmt: skip
    (folder / "checkpoints" / "manifest.json").write_text(json.dumps({"checkpoints": entries}))
    return folder


def site(folder: Path, code: str) -> Path:
    """A folder for PYTHONPATH whose code runs when Python starts."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    """A folder with odd characters, in it a CSV, two images and two tiles."""
    folder = tmp_path / "Jürgen's $HOME “家” 100% & * [a]"
    for number in range(2):
        save(random_image(number), folder / "my images" / f"ä {number}.png")
        save(random_image(number, 64, 64), folder / "tiles ü" / f"000{number}_sat.png")
    (folder / "in put.csv").write_text(
        "id,filename,label\n0,ä 1.png,None\n1,ä 0.png,None\n", encoding="utf-8"
    )
    return folder


def is_right(csv: Path, masks: Path) -> bool:
    lines = csv.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id,filename,label"
    assert [line.rsplit(",", 1)[0] for line in lines[1:]] == ["0,ä 1.png", "1,ä 0.png"]
    assert all(0 <= int(line.rsplit(",", 1)[1]) < 65 for line in lines[1:])
    assert sorted(path.name for path in masks.iterdir()) == ["0000_mask.png", "0001_mask.png"]
    assert all(Image.open(path).size == (64, 64) for path in masks.iterdir())
    return True


def test_with_odd_paths_from_another_folder_without_network_and_gpu(data, tmp_path, p1_model, p2_model):
    repository = clone(tmp_path / "my répo 'q' 家", ("p1", p1_model), ("p2", p2_model))
    csv, masks = data / "not yet" / "out 家.csv", data / "not yet" / "masks é"
    done = wrappers(
        [
            (repository / "hw1_1.sh", data / "in put.csv", data / "my images", csv),
            (repository / "hw1_2.sh", f"{data / 'tiles ü'}/", f"{masks}/"),
        ],
        PYTHONPATH=site(tmp_path / "site", NO_NETWORK),
        CUDA_VISIBLE_DEVICES="",
    )
    assert [result.returncode for result in done] == [0, 0], "\n".join(result.stdout for result in done)
    assert is_right(csv, masks)
    assert done[0].stdout.startswith(
        f"checkpoint {repository / 'checkpoints' / 'p1.pt'}: resnet18, accuracy 0.5000\n"
    )
    assert done[1].stdout.startswith(
        f"checkpoint {repository / 'checkpoints' / 'p2.pt'}: lite_fpn, mean_iou 0.7000\n"
    )


def test_with_relative_paths_and_checkpoints_from_the_environment(data, tmp_path, p1_model, p2_model):
    repository = clone(data / "repo")
    shutil.copy(p1_model, data / "my images" / "p1 ü.pt")
    shutil.copy(p2_model, data / "my images" / "p2 ü.pt")
    done = wrappers(
        [
            ("../repo/hw1_1.sh", "../in put.csv", ".", "out.csv"),
            ("../repo/hw1_2.sh", "../tiles ü", "-masks"),
        ],
        cwd=data / "my images",
        P1_CHECKPOINT="p1 ü.pt",
        P2_CHECKPOINT="p2 ü.pt:./p2 ü.pt",
        LC_ALL="C",
    )
    assert [result.returncode for result in done] == [0, 0], "\n".join(result.stdout for result in done)
    assert is_right(data / "my images" / "out.csv", data / "my images" / "-masks")
    assert repository.is_dir()


def test_from_the_repositorys_own_folder(data, tmp_path, p2_model):
    repository = clone(tmp_path / "repo", ("p2", p2_model))
    done = wrapper("hw1_2.sh", data / "tiles ü", "masks", cwd=repository)
    assert done.returncode == 0, done.stdout
    assert len(list((repository / "masks").iterdir())) == 2


@pytest.mark.parametrize(("name", "right"), [("hw1_1.sh", 3), ("hw1_2.sh", 2)])
def test_a_wrong_number_of_arguments_prints_the_usage(name, right, tmp_path):
    for number in set(range(6)) - {right}:
        done = wrapper(REPOSITORY / name, *["x"] * number, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout.startswith(f"usage: bash {name} ")
    done = wrapper(REPOSITORY / name, *[""] * right, cwd=tmp_path)
    assert done.returncode == 2 and "usage: " in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_is_one_command_with_quoted_arguments_and_nothing_that_the_course_forbids(name):
    text = (REPOSITORY / name).read_text()
    assert not re.search(r"\b(rm|sudo|cp|mv|mkdir|cd|pip|CUDA_VISIBLE_DEVICES)\b", text)
    code = [line for line in text.splitlines() if not line.startswith("#")]
    assert ('if [ "$#" -ne "$count" ]; then' if name == "hw1_1.sh" else 'if [ "$#" -ne 2 ]; then') in code
    assert not re.search(r"\$[0-9@]", re.sub(r'"[^"]*"', "", "\n".join(code)))
    assert code[-1].startswith('exec python3 "') and sum("python" in line for line in code) == 1
    assert not re.sub(r'"[^"]*"', "", code[-1]).count("$")  # every expansion stands inside quotes
    assert "/" not in re.sub(r'"[^"]*"', "", code[-1])


@pytest.mark.parametrize(("edition", "header"), [("2021", "image_id,label"), ("2023", "filename,label")])
def test_with_an_edition_of_50_classes_a_folder_is_classified(edition, header, data, tmp_path):
    fifty = save_classifier(tmp_path / "fifty.pt", seed=0, count=50)
    output = tmp_path / "not yet" / "out 家.csv"
    done = wrapper(
        REPOSITORY / "hw1_1.sh",
        data / "my images",
        output,
        cwd=tmp_path,
        EDITION=edition,
        P1_50_CHECKPOINT=fifty,
        P1_CHECKPOINT="office's, which is not asked",
    )
    assert done.returncode == 0, done.stdout
    lines = output.read_text(encoding="utf-8").splitlines()
    assert lines[0] == header and [line.split(",")[0] for line in lines[1:]] == ["ä 0.png", "ä 1.png"]


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_without_torch_or_torchvision_the_install_command_is_given(data, tmp_path, package):
    done = wrappers(
        [
            (REPOSITORY / "hw1_1.sh", data / "in put.csv", data / "my images", tmp_path / "out.csv"),
            (REPOSITORY / "hw1_2.sh", data / "tiles ü", tmp_path / "masks"),
        ],
        PYTHONPATH=site(tmp_path / "site", NO_PACKAGE),
        LACKS=package,
    )
    for result in done:
        assert result.returncode == 2
        assert (
            result.stdout.count("\n") == 1
            and f"'{package}'" in result.stdout
            and "pip install" in result.stdout
        )
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "masks").exists()


def test_without_a_checkpoint_the_command_that_trains_one_is_given(data, tmp_path):
    repository = clone(tmp_path / "repo")
    done = wrappers(
        [
            (repository / "hw1_1.sh", data / "in put.csv", data / "my images", tmp_path / "out.csv"),
            (repository / "hw1_2.sh", data / "tiles ü", tmp_path / "masks"),
        ]
    )
    for result, script in zip(done, ("p1_finetune.py", "p2_train.py")):
        assert result.returncode == 2
        assert result.stdout.count("\n") == 1 and f"python3 {script}" in result.stdout
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "masks").exists()


def killed(script: Path, *arguments: object, when, **environment: object) -> int:
    """Start a wrapper, kill it (SIGKILL) as soon as `when()` holds; its status, 0 when that was too late."""
    process = subprocess.Popen(
        ["bash", str(script), *map(str, arguments)],
        env=wrapper_environment(**environment),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and not when() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    return process.wait(timeout=60)


def test_killed_half_way_no_half_mask_has_a_final_name(tmp_path, p2_model):
    for number in range(60):
        save(random_image(number, 256, 256), tmp_path / "tiles" / f"{number:04d}_sat.png", compress_level=0)
    masks = tmp_path / "masks"
    status = killed(
        REPOSITORY / "hw1_2.sh",
        tmp_path / "tiles",
        masks,
        when=lambda: masks.is_dir() and len(list(masks.glob("*_mask.png"))) >= 3,
        P2_CHECKPOINT=p2_model,
    )
    found = sorted(masks.glob("*.png"))
    assert status == -signal.SIGKILL and 3 <= len(found) < 60
    for path in found:
        with Image.open(path) as image:
            image.load()
            assert image.size == (256, 256)


def test_killed_half_way_no_half_csv_has_a_final_name(tmp_path, p1_model):
    for number in range(8):
        save(random_image(number), tmp_path / "images" / f"{number}.png")
    rows = "".join(f"{i},{i % 8}.png,\n" for i in range(100_000))
    (tmp_path / "in.csv").write_text("id,filename,label\n" + rows)
    output = tmp_path / "out"
    output.mkdir()
    status = killed(
        REPOSITORY / "hw1_1.sh",
        tmp_path / "in.csv",
        tmp_path / "images",
        output / "out.csv",
        when=lambda: any(output.iterdir()),  # the first byte is on its way
        P1_CHECKPOINT=p1_model,
    )
    if (output / "out.csv").exists():  # killed a moment too late
        assert (output / "out.csv").read_text().count("\n") == 100_001
    else:
        assert status == -signal.SIGKILL
