"""Workers end with their training and with nothing else; a machine that bears few trains with few."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from datasets import sampling
from datasets.palette import COLOURS
from tests.grader import REPOSITORY, random_image, save, wrapper_environment

CASES = REPOSITORY / "tests" / "cases"


class Numbers(torch.utils.data.Dataset):
    """Large samples, each filled with its number; what `trouble` does is done in workers alone."""

    def __init__(self, trouble=lambda: None, side: int = 4):
        self.trouble, self.side = trouble, side

    def __len__(self) -> int:
        return 24

    def __getitem__(self, key: tuple[int, int, int]) -> torch.Tensor:
        if torch.utils.data.get_worker_info() is not None:
            self.trouble()
        return torch.full((3, self.side, self.side), key[2], dtype=torch.uint8)


def batches_of(dataset: Numbers, workers: int) -> list[list[int]]:
    return numbers_of(sampling.EpochLoader(dataset, 0, 4, workers)(epoch=1, first_batch=1))


def numbers_of(batches) -> list[list[int]]:
    return [batch[:, 0, 0, 0].tolist() for batch in batches]


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch):
    monkeypatch.setattr(sampling, "_most_workers", sys.maxsize)


def raise_error(error: Exception):
    def trouble() -> None:
        raise error

    return trouble


def vanish() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory is short


def burst() -> None:
    os.kill(os.getpid(), signal.SIGBUS)  # as when /dev/shm is full


def sleep() -> None:
    time.sleep(30)


TROUBLES = {
    "no shared memory": raise_error(RuntimeError("unable to allocate shared memory(shm)")),
    "no files": raise_error(OSError(24, "Too many open files")),
    "no memory": vanish,
    "bus error": burst,
    "silence": sleep,
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_where_workers_fail_the_same_batches_come_with_fewer(trouble, monkeypatch, capsys):
    monkeypatch.setattr(sampling, "PATIENCE", 1)
    expected = batches_of(Numbers(), 0)
    assert batches_of(Numbers(TROUBLES[trouble]), 2) == expected
    said = capsys.readouterr().err
    assert "2 workers are too many for this machine" in said and "going on with 1;" in said
    assert "1 workers" in said and "going on with 0; --workers 0 needs" in said
    assert batches_of(Numbers(TROUBLES[trouble]), 2) == expected  # what was learned is not learned again
    assert capsys.readouterr().err == ""


def test_workers_stay_from_epoch_to_epoch_and_end_with_their_loader():
    loader = sampling.EpochLoader(Numbers(), 0, 4, 2)
    started = set()
    for epoch in (0, 1, 2):
        # Left in the middle, as a training that stops does: what was begun is not taken for the next epoch's.
        next(loader(epoch, 0))
        expected = numbers_of(sampling.EpochLoader(Numbers(), 0, 4, 0)(epoch, 1))
        assert numbers_of(loader(epoch, 1)) == expected
        started |= {child.pid for child in multiprocessing.active_children()}
    assert len(started) == 2
    del loader
    assert not multiprocessing.active_children()


def test_a_mistake_in_a_sample_is_told_as_it_is(capsys):
    class Broken(Numbers):
        def __getitem__(self, key):
            raise ValueError("this sample is broken")

    with pytest.raises(ValueError, match="this sample is broken"):
        batches_of(Broken(), 1)


@pytest.mark.parametrize(("files", "workers"), [(40, 0), (64, 0), (90, 1), (100, 2)])
def test_few_open_files_are_few_workers(files, workers):
    done = load_alone("sh", "-c", f'ulimit -n {files} && exec "$@"', "sh")
    assert (
        f"8 workers are too many for this machine (too few open files are allowed); going on with {workers};"
        in done
    )


@pytest.mark.parametrize("size", ["4m", "8m"])
def test_little_shared_memory_is_few_workers(size):
    command = ("sh", CASES / "shm" / "run.sh", size)
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs root, and the right to mount in a namespace of its own")
    assert "8 workers are too many for this machine" in load_alone(*command)


def load_alone(*before: object) -> str:
    """What a process says on stderr that loads with 8 workers and checks what it got."""
    command = [*map(str, before), sys.executable, "-W", "ignore", "-m", "tests.test_workers"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


# -- signals -------------------------------------------------------------------------------------------------


@pytest.fixture
def training(tmp_path):
    """Starts a long training in a process group of its own; returns when it has saved a first time."""
    for split in ("train", "validation"):
        for number in range(4):
            save(random_image(number, 64, 64), tmp_path / "data" / split / f"{number:04d}_sat.jpg")
            mask = COLOURS[np.arange(4096).reshape(64, 64) // 700]
            save(mask, tmp_path / "data" / split / f"{number:04d}_mask.png")
    started = []

    def start(how: str, workers: int) -> subprocess.Popen:
        flags = ("--data", tmp_path / "data", "--output", tmp_path / "run", "--cache", tmp_path / "cache")
        quick = ("--model", "tiny_segmenter", "--device", "cpu", "--batch-size", 2, "--epochs", 5000)
        command = [sys.executable, "-W", "ignore", "-m", "tests.killing", 0, "p2_train.py", *flags, *quick]
        environment = wrapper_environment(PYTHONPATH=CASES / "spawn", HOW=how)
        process = subprocess.Popen(
            [str(word) for word in (*command, "--workers", workers)],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        deadline = time.monotonic() + 200
        while not (tmp_path / "run" / "last.pt").is_file():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.1)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("fork", signal.SIGTERM),
        ("fork", signal.SIGINT),
        ("spawn", signal.SIGINT),
        ("forkserver", signal.SIGTERM),
    ],
)
def test_a_signal_to_the_whole_group_stops_the_training_after_a_save(training, how, number):
    process = training(how, workers=2)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number, said
    assert "resume with: " in said and "Traceback" not in said


def test_ctrl_c_whose_reader_died_first_stops_the_training_after_a_save(training, tmp_path):
    """As under 2>&1 | tee log."""
    process = training("fork", workers=0)
    process.stdout.close()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 128 + signal.SIGINT
    assert "resume with: " in (tmp_path / "run" / "log.txt").read_text()


if __name__ == "__main__":
    assert batches_of(Numbers(side=512), 8) == batches_of(Numbers(), 0)


HELD = """
import signal, sys
from datasets.sampling import EpochLoader
from tests.test_workers import Numbers
loader = EpochLoader(Numbers(), 0, 4, 2)
held = loader(epoch=0, first_batch=0)
next(held)
print("a batch", flush=True)
{end}
"""


@pytest.mark.parametrize(
    "end",
    ["", "raise SystemExit(0)", "iterator = loader._loader._iterator; sys.last_value = [held, iterator]"],
)
def test_workers_that_something_still_holds_end_with_the_program(end):
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HELD.format(end=end)],  # torch warns where there is one core
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "a batch\n", "")
