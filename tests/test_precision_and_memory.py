"""Half precision and small memories: what overflows is skipped, what does not fit is cut, and a run that
meets either resumes to the last bit.
"""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import p1_finetune
import p1_ssl_pretrain
import p2_train
from datasets.tile_pairs import IGNORED
from engine import loop as loop_module
from engine.base import UserError
from engine.device import choose_precision
from engine.optimizer import Stepper, cut
from models import builders
from models.builders import normalisation
from models.byol import BYOL, byol_loss, embedding_std
from tests.killing import (
    OVERFLOWING,
    TinyClassifier,
    TinySegmenter,
    assert_equal,
    assert_same_end,
    lines_of,
    train_until_killed,
)
from tests.test_finetune import write_office
from tests.test_segmentation_training import data, flags
from tests.test_several_processes import images, losses, pretrain
from tests.test_training_loop import batches_of, ends, new_loop, signals_as_before, step, train

assert data and flags and images and signals_as_before  # fixtures

CPU = torch.device("cpu")
GREY = normalisation("resnet34")


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    monkeypatch.setitem(builders.CLASSIFIERS, "tiny_classifier", builders.Network(TinyClassifier))
    monkeypatch.setitem(builders.SEGMENTERS, "tiny_segmenter", builders.Network(TinySegmenter))


@pytest.fixture
def overflows(monkeypatch):
    """A gradient scaler whose scale is too high at first, and again after every second step."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, **OVERFLOWING))


# -- which precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "wanted"),
    [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16"), ((7, 0), "fp16"), ((6, 1), "fp32")],
)
def test_a_gpu_computes_in_what_its_generation_is_fast_in(capability, wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    network = nn.Conv2d(4, 4, 3, groups=4)
    assert choose_precision("auto", torch.device("cuda"), network) == wanted
    assert choose_precision("fp32", torch.device("cuda"), network) == "fp32"


def test_on_a_cpu_depthwise_convolutions_stay_in_single_precision(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert choose_precision("auto", CPU, nn.Conv2d(4, 4, 3)) == "bf16"
    assert choose_precision("auto", CPU, nn.Conv2d(4, 4, 3, groups=4)) == "fp32"


def test_a_run_keeps_its_precision_wherever_it_resumes(tmp_path):
    loop = new_loop(tmp_path / "run", precision="bf16")
    loop.run.close()
    again = new_loop(tmp_path / "run", precision="fp32")  # as auto might say on another machine
    assert again._stepper.precision == "bf16"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["precision"] == "bf16"


# -- a gradient that overflows -------------------------------------------------------------------------------


def test_a_step_that_overflows_moves_nothing_and_is_counted(tmp_path, overflows, monkeypatch, capsys):
    monkeypatch.setattr(loop_module, "LOG_EVERY", 1)
    loop = new_loop(tmp_path / "run", precision="fp16", warmup_steps=0)
    skipped = []
    for _ in loop.epochs():
        for batch in loop.batches(batches_of(loop)):
            names = {"network": loop.network, "average": loop.average}
            before = {name: {k: v.clone() for k, v in of.state_dict().items()} for name, of in names.items()}
            step(loop, batch)
            skipped.append(loop._stepper.is_skipped)
            for name, of in names.items():
                is_equal = all(torch.equal(v, before[name][k]) for k, v in of.state_dict().items())
                assert is_equal == skipped[-1], name
        loop.end_epoch({})
    assert skipped[0] and 1 < sum(skipped) < 11
    counted = [line["skipped_steps"] for line in lines_of(tmp_path / "run") if "step_loss" in line]
    assert counted == [sum(skipped[: number + 1]) for number in range(12)]
    assert "step 1 is skipped: its gradient overflowed" in capsys.readouterr().err
    assert ends(tmp_path / "run")[0]["loss"] > 0


def test_what_overflows_without_end_is_an_error_with_advice(tmp_path):
    loop = new_loop(tmp_path / "run", precision="fp16")
    loop._stepper.scaler.load_state_dict({**loop._stepper.scaler.state_dict(), "scale": 0.5})
    with pytest.raises(UserError, match="give --precision fp32"):
        step(loop, torch.full((4, 2), 1e30))


def test_byol_s_target_waits_where_a_step_is_skipped(tmp_path, overflows, monkeypatch, images):
    moved = []
    monkeypatch.setattr(BYOL, "update_target", lambda byol, decay: moved.append(decay))
    run = tmp_path / "run"
    assert call_pretraining(images, run, "--precision", "fp16") == 0
    last = torch.load(run / "last.pt")
    assert last["step"] == 10 and 0 < last["skipped"] == 10 - len(moved)


def call_pretraining(images, run, *more):
    words = ("--images", images, "--output", run, "--cache", run.parent / "cache", "--device", "cpu", *more)
    words += ("--model", "tiny_classifier", "--image-size", 32, "--batch-size", 8, "--epochs", 2)
    return p1_ssl_pretrain.main(p1_ssl_pretrain.parse_arguments([*map(str, words)]))


SCRIPTS = {
    "p1_ssl_pretrain.py": p1_ssl_pretrain,
    "p1_finetune.py": p1_finetune,
    "p2_train.py": p2_train,
}


@pytest.fixture
def given(tmp_path, flags, images):
    """What each script is given beside --output, for some ten steps with half the batch at a time."""
    write_office(tmp_path / "office")
    here = (
        "--cache",
        tmp_path / "cache",
        "--device",
        "cpu",
        "--image-size",
        32,
        "--model",
        "tiny_classifier",
    )
    p2 = flags("run")
    return {
        "p1_ssl_pretrain.py": ("--images", images, "--epochs", 2, "--batch-size", 8, *here),
        "p1_finetune.py": ("--data", tmp_path / "office", "--epochs", 3, "--batch-size", 4, *here),
        "p2_train.py": p2[: p2.index("--output")],
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_in_fp16_with_overflows_a_killed_run_ends_as_one_never_killed(
    script, given, tmp_path, overflows, monkeypatch
):
    monkeypatch.setattr("report.settings_table.write_settings_table", lambda folder: "")
    ways = (*given[script], "--precision", "fp16", "--micro-batch", 4)
    module, run = SCRIPTS[script], "A-seed0" if script == "p1_finetune.py" else ""

    def call(output):
        words = [str(word) for word in (*ways, "--output", tmp_path / output)]
        assert module.main(module.parse_arguments(words)) == 0

    call("whole")
    train_until_killed(6, script, *ways, "--output", tmp_path / "killed")
    call("killed")
    whole, killed = (tmp_path / name / run for name in ("whole", "killed"))
    assert "resuming from step 5 of" in (killed / "log.txt").read_text()
    assert_same_end(whole, killed, ("last.pt",))
    last = torch.load(whole / "last.pt")
    assert 1 < last["skipped"] < last["step"] - 1
    assert json.loads((killed / "config.json").read_text())["precision"] == "fp16"


# -- a batch in parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images_", "size", "sizes"),
    [
        (8, 8, [8]),
        (8, 99, [8]),
        (8, 3, [3, 3, 2]),
        (9, 4, [3, 3, 3]),
        (5, 2, [3, 2]),
        (3, 2, [3]),
        (2, 2, [2]),
    ],
)
def test_parts_are_nearly_equal_and_none_is_a_single_image(images_, size, sizes):
    batch = (torch.arange(images_), torch.randn(images_, 3), torch.tensor(7.0), 0.5)
    parts = cut(batch, size)
    assert [len(part[0]) for part in parts] == sizes
    assert torch.equal(torch.cat([part[0] for part in parts]), batch[0])
    assert torch.equal(torch.cat([part[1] for part in parts]), batch[1])
    assert all(part[2] == 7 and part[3] == 0.5 for part in parts)


def classify(generator) -> tuple:
    """Mixed images, two labels each."""
    bytes_ = torch.randint(256, (7, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(5, (7,), generator=generator)
    batch = [bytes_, labels, torch.tensor([[0.0, 1.0, 1.0]]).expand(7, 3)]
    ready = [p1_finetune.prepared(batch, GREY, "cutmix", CPU, (0, seed, 2)) for seed in range(9)]
    mixed = next(each for each in ready if each[3] < 1)
    return mixed, partial(p1_finetune.loss_of, label_smoothing=0.1), nn.Linear(3 * 8 * 8, 5)


def segment(generator) -> tuple:
    """Known pixels lie in some images alone."""
    bytes_ = torch.randint(256, (7, 3, 8, 8), generator=generator, dtype=torch.uint8)
    targets = torch.randint(6, (7, 8, 8), generator=generator, dtype=torch.uint8)
    targets[:3, 1:] = IGNORED
    ready = p2_train.prepared([bytes_, targets, torch.tensor([[0.0, 1.0, 1.0]]).expand(7, 3)], GREY, CPU)
    weights = [1.0, 2.0, 3.0, 1.0, 0.5, 1.0]
    return (
        ready,
        partial(p2_train.loss_of, gamma=2.0, alpha=weights, soft_iou=0.0, auxiliary_weight=0.4),
        nn.Conv2d(3, 7, 3, padding=1),
    )


def pretrain_two_views(generator) -> tuple:
    pair = tuple(torch.randn(7, 3, 8, 8, generator=generator) for _ in range(2))
    return pair, p1_ssl_pretrain.loss_of, nn.Linear(3 * 8 * 8, 16)


class Task(nn.Module):
    """A layer in the place of a script's network."""

    def __init__(self, kind, layer):
        super().__init__()
        self.kind, self.layer = kind, layer.double()

    def forward(self, *views: Tensor):
        views = [view.double() for view in views]
        if self.kind is segment:
            return {"out": self.layer(views[0]), "aux": self.layer(views[0].flip(3))}
        projections = self.layer(torch.cat(views).flatten(1))
        if self.kind is classify:
            return projections
        return byol_loss(projections, projections.detach().cumsum(1)), embedding_std(projections)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("kind", [classify, segment, pretrain_two_views])
def test_the_gradients_of_the_parts_add_up_to_that_of_the_batch(kind, size, monkeypatch):
    monkeypatch.setattr(
        Tensor, "float", lambda self: self if self.dtype == torch.float64 else self.to(torch.float32)
    )
    gradients, found = [], []
    for micro_batch in (None, size):
        torch.manual_seed(0)
        batch, losses, layer = kind(torch.Generator().manual_seed(0))
        network = Task(kind, layer)
        stepper = Stepper(network, torch.optim.SGD(network.parameters(), lr=0.0), CPU, "fp32", micro_batch)
        found.append(stepper.step(batch, partial(losses, stepper.forward)))
        gradients.append([parameter.grad for parameter in network.parameters()])
    for whole, in_parts in zip(*gradients):
        assert whole.dtype == torch.float64 and whole.abs().max() > 1e-4
        torch.testing.assert_close(in_parts, whole, rtol=1e-6, atol=1e-9)
    assert found[1]["loss"].item() == pytest.approx(found[0]["loss"].item(), rel=1e-6)


# -- memory that is short ------------------------------------------------------------------------------------


def give_memory_for(images, network, when="forward"):
    """More of them at once are too many: said after all that a forward pass changes has changed, or in the
    backward pass.
    """

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def watch(module, given, output):
        if len(given[0]) > images:
            if when == "forward":
                out_of_memory()
            output.register_hook(out_of_memory)

    network.register_forward_hook(watch)


@pytest.mark.parametrize("when", ["forward", "backward"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_out_of_memory_a_run_is_as_if_the_smaller_micro_batch_had_been_given(
    when, precision, tmp_path, capsys
):
    given = {"precision": precision, "batch_size": 8}
    ended = []
    for name in ("short", "given"):
        loop = new_loop(tmp_path / name, **given, micro_batch=None if name == "short" else 2)
        if name == "short":
            give_memory_for(3, loop.network, when)
        torch.manual_seed(7)
        assert train_on_eight(loop)
        ended.append(torch.load(tmp_path / name / "last.pt"))
    assert_equal(*ended, "last.pt")
    assert lines_of(tmp_path / "short") == lines_of(tmp_path / "given")
    said = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
    assert said == ["step 1: out of memory; done again, as all that follow, 2 images at a time"]


def train_on_eight(loop):
    for _ in loop.epochs():
        for batch in loop.batches(
            lambda epoch, first_batch: (torch.randn(8, 2) for _ in range(first_batch, 4))
        ):
            step(loop, batch)
        loop.end_epoch({})
    return True


def test_what_the_micro_batch_was_halved_to_is_kept_and_one_given_by_hand_may_differ(tmp_path):
    sizes = []
    for given in (None, None, 6, 6, None, 3):
        loop = new_loop(tmp_path / "run", micro_batch=given, epochs=9)
        give_memory_for(3 if given == 6 else 5, loop.network)
        for _ in loop.epochs():
            for _ in loop.batches(batches_of(loop)):
                step(loop, torch.randn(8, 2))
                break
            break
        loop._save()
        sizes.append((loop.args.micro_batch, loop._stepper.micro_batch))
        loop.run.close()
    assert sizes == [(None, 4), (None, 4), (6, 3), (6, 3), (None, 3), (3, 3)]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["micro_batch"] == 3


def test_where_two_images_do_not_fit_one_line_says_what_to_give(tmp_path):
    loop = new_loop(tmp_path / "run")
    give_memory_for(1, loop.network)
    with pytest.raises(UserError, match="short even for 2 images at a time; give smaller ones") as error:
        train(loop)
    assert "\n" not in str(error.value) and loop.steps_done == 0


def test_a_dry_run_says_precision_and_micro_batch(images, tmp_path, capsys):
    assert (
        call_pretraining(images, tmp_path / "run", "--dry-run", "--micro-batch", 4, "--precision", "fp16")
        == 0
    )
    said = capsys.readouterr().out
    assert "dry run: 40 images; fp16 on cpu, 4 images at a time, " in said and " s for a step of " in said


# -- several processes ---------------------------------------------------------------------------------------


def test_two_processes_cut_their_shares_as_one_cuts_the_batch(images, tmp_path):
    found = []
    for processes, micro_batch in ((1, 4), (2, 2)):
        run = tmp_path / f"of{processes}"
        done = pretrain(images, run, processes, "--micro-batch", micro_batch, "--epochs", 2)
        assert done.returncode == 0, done.stderr
        found.append((losses(run), torch.load(run / "backbone.pt")))
    (ours, weights), (theirs, others) = found
    assert len(ours) == 10 and theirs == pytest.approx(ours, abs=1e-4)
    for key in weights:
        torch.testing.assert_close(others[key], weights[key], rtol=0, atol=1e-6)


def test_out_of_memory_one_process_ends_all_with_one_line(images, tmp_path):
    done = pretrain(images, tmp_path / "run", 2, "--model", "out_of_memory")
    assert done.returncode != 0 and "exitcode  : 2" in done.stderr
    # Not by lines: what the other process says may come before the end of this one's.
    (said,) = done.stderr.split("error: ")[1:]
    assert said.startswith(
        "process 1: the memory is short; give a --micro-batch, half as large each time, or a smaller "
        "--batch-size"
    )
    assert "engine/optimizer.py" not in done.stderr  # as in a traceback
