"""Inference reads, computes and writes at once in bounded memory, and makes do with less memory where it
must.
"""

from __future__ import annotations

import os
import threading

import pytest
import torch

from engine.base import default_workers, write_atomically
from engine.device import choose_workers
from engine.pipeline import OutOfMemoryError, Runner, batches_of_one_shape, read_ahead, run_each, write_behind

CPU = torch.device("cpu")


def test_reading_runs_ahead_of_its_user_and_no_further_than_told():
    started, gate = [], threading.Semaphore(0)

    def read(item: int) -> int:
        started.append(item)
        gate.release()
        return item * item

    stream = read_ahead(read, range(100), workers=2, ahead=5, expected=ValueError)
    assert next(stream) == (0, 0)
    for _ in range(6):
        assert gate.acquire(timeout=10)  # five more are read although nobody asked for them yet
    assert max(started) == 5
    assert list(stream) == [(item, item * item) for item in range(1, 100)]


def test_an_expected_failure_of_reading_is_handed_on_and_another_one_raised():
    def read(item: int) -> int:
        if item == 1:
            raise ValueError("bad")
        if item == 3:
            raise KeyError("a mistake of ours")
        return item

    stream = read_ahead(read, range(5), workers=2, ahead=2, expected=ValueError)
    assert next(stream) == (0, 0)
    assert isinstance(next(stream)[1], ValueError)
    assert next(stream) == (2, 2)
    with pytest.raises(KeyError):
        next(stream)


def test_reading_and_writing_go_on_while_the_network_computes():
    """Each stage waits for the other one's next step: it would hang if they took turns."""
    was_read, was_written = threading.Event(), threading.Event()

    def read(item: int) -> int:
        if item == 3:
            was_read.set()
        return item

    with write_behind(lambda item: was_written.set(), workers=1) as write:
        for item, _ in read_ahead(read, range(5), workers=1, ahead=3, expected=ValueError):
            if item == 0:  # "computing" the first
                assert was_read.wait(10)
            write(item)
            if item == 1:
                assert was_written.wait(10)


def test_no_more_than_a_few_results_wait_to_be_written():
    gate, submitted = threading.Event(), []

    def produce():
        with write_behind(lambda item: gate.wait(10), workers=2) as write:
            for item in range(20):
                write(item)
                submitted.append(item)

    thread = threading.Thread(target=produce)
    thread.start()
    thread.join(0.2)
    assert len(submitted) <= 4
    gate.set()
    thread.join(10)
    assert len(submitted) == 20


def test_finished_files_are_the_groups_too_without_a_touch_on_the_umask_of_other_threads(
    tmp_path, monkeypatch
):
    (tmp_path / "plain").touch()
    monkeypatch.delattr(os, "umask")
    with write_atomically(tmp_path / "ours") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_there_are_no_more_workers_than_cores_that_this_process_may_use(monkeypatch):
    for ours, wanted in ((3, 3), (64, 8)):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda process, ours=ours: set(range(ours)), raising=False
        )
        assert default_workers() == choose_workers(None, torch.device("cuda")) == wanted


def test_a_failure_of_writing_is_raised_and_what_was_begun_is_finished():
    written = []

    def write(item: int) -> None:
        if item == 1:
            raise OSError("full")
        written.append(item)

    with pytest.raises(OSError, match="full"), write_behind(write, workers=1) as submit:
        for item in range(3):
            submit(item)
    assert written == [0, 2]


def test_batches_have_one_shape_lose_nothing_and_do_not_pile_up():
    shapes = [(1,), (2,), (1,), (2,), (2,), (1,)] + [(3 + n,) for n in range(20)] + [(1,)]
    alive = set()

    def items():
        for number, shape in enumerate(shapes):
            alive.add(number)
            assert len(alive) <= 4 * 3
            yield number, torch.zeros(shape)

    seen = []
    for batch in batches_of_one_shape(items(), 3):
        assert len({tensor.shape for _, tensor in batch}) == 1 and 1 <= len(batch) <= 3
        seen += [number for number, _ in batch]
        alive -= {number for number, _ in batch}
    assert sorted(seen) == list(range(len(shapes)))
    assert seen[:3] == [0, 2, 5] or seen[:3] == [1, 3, 4]


def runs_out_above(limit: int, message: str = "CUDA out of memory. Tried to allocate 2 GiB"):
    def forward(batch: torch.Tensor) -> torch.Tensor:
        if batch.device.type == "meta":
            raise RuntimeError(message)
        if len(batch) > limit:
            raise RuntimeError(message)
        sizes.append(len(batch))
        return batch * 2

    sizes: list[int] = []
    return forward, sizes


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2 GiB",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9 GB)",
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 9",
    ],
)
def test_a_batch_that_does_not_fit_is_made_smaller_and_stays_so(message, capsys):
    forward, sizes = runs_out_above(2, message)
    runner = Runner([], forward, CPU, batch_size=8)
    batch = torch.arange(8)
    assert torch.equal(runner(batch), batch * 2)
    assert torch.equal(runner(batch[:5]), batch[:5] * 2)
    assert sizes == [2, 2, 2, 2, 2, 2, 1]
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in said] == ["4", "2"]


class Elsewhere(torch.nn.Module):
    """A network that remembers where it was put; `refuses` is what a device says to it."""

    def __init__(self, refuses: str | None = None):
        super().__init__()
        self.refuses, self.places = refuses, []

    def to(self, device, **options):
        self.places.append(str(device))
        if self.refuses and str(device) != "cpu":
            raise RuntimeError(self.refuses)
        return self


def test_one_image_that_does_not_fit_on_the_device_sends_the_networks_to_the_cpu(capsys):
    forward, sizes = runs_out_above(9)
    network = Elsewhere()
    runner = Runner(
        [network], forward, torch.device("meta"), batch_size=2
    )  # a device that every test machine has
    batch = torch.arange(4)
    assert torch.equal(runner(batch), batch * 2)
    assert network.places == ["meta", "cpu"] and sizes == [1, 1, 1, 1]
    assert "CPU" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: no kernel image is available for execution on the device\nmore",
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
        "The NVIDIA driver on your system is too old (found version 11040).",
        "CUDA error: the provided PTX was compiled with an unsupported toolchain.",
        "cuDNN error: CUDNN_STATUS_ARCH_MISMATCH",
    ],
)
def test_a_gpu_that_the_driver_does_not_know_is_left_for_the_cpu(message, capsys):
    forward, _ = runs_out_above(9)
    network = Elsewhere(refuses=message)
    runner = Runner([network], forward, torch.device("meta"), batch_size=2)
    assert torch.equal(runner(torch.arange(2)), torch.arange(2) * 2)
    said = capsys.readouterr().err
    assert message.splitlines()[0] in said and said.count("\n") == 1


def fails_off_the_cpu(error: Exception):
    def forward(batch: torch.Tensor) -> torch.Tensor:
        if batch.device.type != "cpu":
            raise error
        return batch * 2

    return forward


def test_an_operator_that_the_device_lacks_sends_the_networks_to_the_cpu(capsys):
    missing = "The operator 'aten::_upsample_bilinear2d_aa' is not currently implemented for the MPS device"
    network = Elsewhere()
    forward = fails_off_the_cpu(NotImplementedError(missing))
    runner = Runner([network], forward, torch.device("meta"), batch_size=2)
    assert torch.equal(runner(torch.arange(3)), torch.arange(3) * 2)
    assert network.places == ["meta", "cpu"]
    assert missing in capsys.readouterr().err


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: device-side assert triggered",
        "CUDA error: an illegal memory access was encountered",
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
        "mat1 and mat2 shapes cannot be multiplied",
    ],
)
def test_any_other_error_off_the_cpu_is_raised(message, capsys):
    forward = fails_off_the_cpu(RuntimeError(message))
    with pytest.raises(RuntimeError, match=message[:20]):
        Runner([], forward, torch.device("meta"), batch_size=4)(torch.zeros(4))
    with pytest.raises(RuntimeError, match=message[:20]):
        Runner([Elsewhere(refuses=message)], forward, torch.device("meta"), batch_size=4)
    assert capsys.readouterr().err == ""


def test_what_fits_nowhere_is_told_apart_and_the_rest_is_done():
    def forward(batch: torch.Tensor) -> torch.Tensor:
        if (batch == 2).any():
            raise MemoryError
        return batch

    results = run_each(
        Runner([], forward, CPU, batch_size=4), [(f"n{i}", torch.tensor([i])) for i in range(4)]
    )
    assert [name for name, _ in results] == ["n0", "n1", "n2", "n3"]
    assert isinstance(results[2][1], OutOfMemoryError)
    assert [int(result) for i, (_, result) in enumerate(results) if i != 2] == [0, 1, 3]


def test_a_mistake_in_the_network_is_no_lack_of_memory():
    def forward(batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Runner([], forward, CPU, batch_size=4)(torch.zeros(4))
