"""A run folder resumes only as the run that it is, loses nothing, and repeats no line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from engine import run as run_module
from engine import run_folder
from engine.base import UserError
from engine.run import Run
from tests.killing import REPOSITORY

ARGUMENTS = {"epochs": 3, "lr": 0.1, "device": None, "workers": 0, "max_minutes": None}


def state_of(step):
    """A checkpoint as a training saves it, of a network without weights."""
    return {
        "step": step,
        "total_steps": 20,
        "best": 0.5,
        "seconds": 1.5,
        "loss_sum": torch.zeros(()),
        "loss_count": 0,
        "network": {},
        "average": None,
        "optimizer": {"state": {}, "param_groups": []},
        "random": {"torch": torch.get_rng_state()},
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def open_and_close(folder, **changes):
    run = Run(folder, "script.py", {**ARGUMENTS, **changes}, {"lr": 0.2})
    run.close()
    return run


def test_the_configuration_says_how_the_run_came_about(folder):
    open_and_close(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["arguments"]["epochs"] == 3 and config["recipe"] == {"lr": 0.2}
    assert {"command", "commit", "versions", "machine", "started"} <= set(config)


def test_other_arguments_in_the_same_folder_are_refused_by_name(folder):
    open_and_close(folder)
    with pytest.raises(UserError, match=r"epochs was 3, now 4.*lr was 0\.1, now 0\.3") as refusal:
        open_and_close(folder, epochs=4, lr=0.3)
    assert refusal.value.exit_status == 2


def test_the_machine_may_change_under_a_run(folder):
    open_and_close(folder)
    open_and_close(folder, device="cpu", workers=2, max_minutes=5.0)


def test_what_lies_at_a_place_counts_and_not_what_the_place_is_called(folder, tmp_path):
    def begin(place, names, weights):
        arguments = {**ARGUMENTS, "images": place, "weights": str(weights)}
        inputs = {"images": names, "weights": str(weights)}
        Run(folder, "script.py", arguments, {}, inputs).close()

    for name, content in (("one.pt", b"1"), ("moved.pt", b"1"), ("other.pt", b"2")):
        (tmp_path / name).write_bytes(content)
    begin("here", ["a.png", "b.png"], tmp_path / "one.pt")
    begin("there", ["a.png", "b.png"], tmp_path / "moved.pt")
    with pytest.raises(UserError, match="images was '2 images, .* now '3 images"):
        begin("here", ["a.png", "b.png", "c.png"], tmp_path / "one.pt")
    with pytest.raises(UserError, match="weights was 'sha256 .* now 'sha256"):
        begin("here", ["a.png", "b.png"], tmp_path / "other.pt")
    with pytest.raises(UserError, match="weights was 'sha256 .* now 'imagenet'"):
        begin("here", ["a.png", "b.png"], "imagenet")


def test_a_flag_that_the_run_is_older_than_may_be_there_at_its_default(folder):
    Run(folder, "script.py", ARGUMENTS, {}).close()
    recipe = {"precision": "auto"}
    Run(folder, "script.py", {**ARGUMENTS, "precision": "auto", "micro_batch": None}, recipe).close()
    with pytest.raises(UserError, match="precision was None, now 'bf16'"):
        Run(folder, "script.py", {**ARGUMENTS, "precision": "bf16"}, recipe)


def test_what_a_recipe_says_of_itself_is_no_argument(folder):
    Run(folder, "script.py", ARGUMENTS, {"assumed": ["lr"]}).close()
    Run(folder, "script.py", ARGUMENTS, {"assumed": ["lr", "epochs"]}).close()


def test_two_processes_cannot_train_in_one_folder(folder):
    run = Run(folder, "script.py", ARGUMENTS, {})
    with pytest.raises(UserError, match="another process"):
        Run(folder, "script.py", ARGUMENTS, {})
    run.close()
    open_and_close(folder)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(UserError, match="no run folder"):
        Run(tmp_path, "script.py", ARGUMENTS, {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"arguments": 3}', '{"arguments": [], "recipe": {}}'])
def test_a_broken_configuration_is_one_plain_line(folder, content):
    open_and_close(folder)
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        open_and_close(folder)


def test_the_newest_whole_checkpoint_is_taken_and_a_broken_one_set_aside(folder, capsys):
    run = Run(folder, "script.py", ARGUMENTS, {})
    run.save_last(state_of(1))
    run.save_last(state_of(2))
    assert run.load_last()["step"] == 2
    newest = folder / "last.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    assert run.load_last()["step"] == 1
    run.resume_after(1)
    assert "last.pt: broken" in capsys.readouterr().err
    run.save_last(state_of(2))  # the broken file does not push out the whole one
    assert torch.load(folder / "previous.pt", weights_only=True)["step"] == 1
    run.close()


def test_a_finished_run_keeps_one_checkpoint(folder):
    run = Run(folder, "script.py", ARGUMENTS, {})
    run.save_last(state_of(1))
    run.save_last(state_of(2))
    run.record_end()
    assert (folder / "last.pt").is_file() and not (folder / "previous.pt").exists()
    assert run.is_finished
    run.close()


def test_hours_of_work_are_not_begun_anew_because_no_checkpoint_can_be_read(folder):
    run = Run(folder, "script.py", ARGUMENTS, {})
    run.save_last(state_of(1))
    run.save_last(state_of(2))
    run.log_metrics(2, 1, loss=0.5)
    for name in ("last.pt", "previous.pt"):
        (folder / name).write_bytes(b"broken")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(UserError, match="none of its checkpoints can be read"):
        run.load_last()
    run.close()
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_refused_folder_is_not_touched(folder):
    folder.mkdir()
    (folder / "config.json").write_text('{"arguments": {"lr": 9}, "recipe": {}, "inputs": {}}')
    with pytest.raises(UserError, match="other arguments"):
        open_and_close(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_what_the_disk_refuses_is_one_plain_line(folder):
    open_and_close(folder)
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    run = Run(folder, "script.py", ARGUMENTS, {})
    with pytest.raises(UserError, match=r"metrics\.jsonl: No space left on device; make room"):
        run.log_metrics(1, 1, loss=0.5)
    (folder / "metrics.jsonl").unlink()


def test_killed_between_two_renames_a_run_still_has_its_checkpoint(folder):
    run = Run(folder, "script.py", ARGUMENTS, {})
    run.save_last(state_of(1))
    (folder / "last.pt").rename(folder / "previous.pt")
    assert run.load_last()["step"] == 1
    run.close()


def test_lines_of_work_that_is_repeated_are_dropped(folder):
    run = Run(folder, "script.py", ARGUMENTS, {})
    run.save_last(state_of(10))
    for step in (5, 10, 15):
        run.log_metrics(step, 1, loss=0.5)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "lo')  # the power went
    run.close()
    run = Run(folder, "script.py", ARGUMENTS, {})
    run.resume_after(run.load_last()["step"])
    run.log_metrics(15, 1, loss=0.4)
    run.close()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(5, 0.5), (10, 0.5), (15, 0.4)]


def test_metrics_go_to_tensorboard_too(folder):
    run = Run(folder, "script.py", ARGUMENTS, {})
    run.log_metrics(1, 1, loss=0.5)
    run.close()
    assert any((folder / "tensorboard").iterdir())


def test_leftovers_of_a_kill_while_writing_are_removed(folder):
    run = Run(folder, "script.py", ARGUMENTS, {})
    (folder / ".last.pt.x.part").write_bytes(b"half")
    assert run.load_last() is None
    run.resume_after(-1)
    assert not list(folder.glob(".*.part"))
    run.close()


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    "moment", ["_take_lock", "_refuse_strange_files", "write_json", "_surroundings", "mkdir"]
)
def test_a_kill_while_the_folder_is_made_leaves_one_that_takes_its_own_command(folder, monkeypatch, moment):
    def die(*arguments, **more):
        raise Killed

    with monkeypatch.context() as patched:
        if moment == "mkdir":  # of snapshots/
            mkdir = type(folder).mkdir
            patched.setattr(
                type(folder),
                "mkdir",
                lambda path, *how, **more: die() if path.name == "snapshots" else mkdir(path, *how, **more),
            )
        else:
            patched.setattr(Run if hasattr(Run, moment) else run_module, moment, die)
        with pytest.raises(Killed):
            Run(folder, "script.py", ARGUMENTS, {})
    assert not folder.exists() or (folder / ".lock").exists() or not list(folder.iterdir())
    open_and_close(folder)


@pytest.mark.parametrize(
    "name", ["last.pt", "previous.pt", "model.pt", "metrics.jsonl", "log.txt", "config.json"]
)
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_at_the_door(folder, name, kind):
    open_and_close(folder)
    path = folder / name
    path.unlink(missing_ok=True)
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match=f"{name}: is no file; move it away"):
        open_and_close(folder)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", "fp64"),
        ("precision", 3),
        ("micro_batch", 1.5),
        ("micro_batch", 1),
        ("micro_batch", "4"),
        ("micro_batch", [4]),
    ],
)
def test_a_precision_or_micro_batch_that_is_none_is_refused(folder, name, value):
    open_and_close(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(UserError, match=r"config\.json: cannot be read .precision or micro_batch is none"):
        open_and_close(folder)


@pytest.mark.parametrize(
    "bad", [b"\xff\xfe\x00", b"\xa4\xa4", b"[" * 100_000, b'{"step": "1"}', b"{}", b"null", b"\0"]
)
def test_metrics_that_cannot_be_read_are_dropped_and_the_others_kept(folder, bad):
    open_and_close(folder)
    good = b'{"step": 1, "epoch": 1, "loss": 0.5}\n'
    (folder / "metrics.jsonl").write_bytes(bad + b"\n" + good + bad)
    run = Run(folder, "script.py", ARGUMENTS, {})
    run.resume_after(1)
    run.close()
    assert (folder / "metrics.jsonl").read_bytes() == good


@pytest.mark.parametrize(
    "error", [ImportError("none"), OSError(28, "full"), UnicodeEncodeError("utf-8", "", 0, 1, "")]
)
def test_tensorboard_that_fails_is_a_note_and_the_metrics_go_on(folder, monkeypatch, capsys, error):
    from torch.utils import tensorboard

    class Failing:
        def __init__(self, *arguments, **more):
            if isinstance(error, ImportError):
                raise error

        def add_scalar(self, *arguments):
            raise error

    monkeypatch.setattr(tensorboard, "SummaryWriter", Failing)
    run = Run(folder, "script.py", ARGUMENTS, {})
    for step in (1, 2):
        run.log_metrics(step, 1, loss=0.5)
    run.close()
    assert capsys.readouterr().err.count("note: no events for TensorBoard") == 1
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_tensorboard_that_cannot_be_imported_is_a_note(folder):
    code = "from engine.run import Run; Run({!r}, 'x.py', {{}}, {{}}).log_metrics(1, 1, loss=0.5)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests" / "cases" / "no_tb")}
    command = [sys.executable, "-c", code.format(str(folder))]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "(ImportError: No module named tensorboard" in done.stderr, done.stderr
    assert '"loss": 0.5' in (folder / "metrics.jsonl").read_text()


# -- what others read of it ----------------------------------------------------------------------------------


def write_run(folder, lines=(), **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"arguments": {}, **config}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


HALF, WHOLE = ([{"step": step, "epoch": step}] for step in (1, 2))


@pytest.mark.parametrize(
    ("lines", "config", "is_finished"),
    [
        (WHOLE, {"total_steps": 2}, True),
        (HALF, {"total_steps": 2}, False),
        (HALF, {"total_steps": None}, False),
        (WHOLE, {"total_steps": 2, "finished": False}, False),  # killed after the last step
        (WHOLE, {"total_steps": 2, "finished": True}, True),
        ([], {"total_steps": 2}, False),
    ],
)
def test_the_exit_status_tells_a_makefile_whether_a_run_is_finished(
    folder, capsys, lines, config, is_finished
):
    assert run_folder.main([write_run(folder, lines, **config)]) == (0 if is_finished else 1)
    out, err = capsys.readouterr()
    assert out == "" and bool(err) != is_finished
    assert run_folder.is_finished(folder) == is_finished


def test_no_run_folder_is_no_finished_run(tmp_path, capsys):
    assert run_folder.main([str(tmp_path)]) == 1
    assert "no run folder" in capsys.readouterr().err


def test_reading_a_run_needs_no_torch():
    code = "import sys, engine.run_folder; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_run_says_by_itself_or_by_its_arguments_what_it_trains(tmp_path):
    kinds = {"p1_ssl_pretrain.py": "target_schedule", "p1_finetune.py": "setting", "p2_train.py": "min_crop"}
    for script, argument in kinds.items():
        said = run_folder.read_run(write_run(tmp_path / script, script=script))
        told = run_folder.read_run(write_run(tmp_path / argument, arguments={argument: 1}))
        assert run_folder.kind_of(said) == run_folder.kind_of(told)
        assert run_folder.kind_of(told) is not None
    assert run_folder.kind_of(run_folder.read_run(write_run(tmp_path / "x", script="x.py"))) is None


def test_snapshots_are_found_by_the_names_they_are_written_under(tmp_path):
    for name in (run_folder.snapshot_weights(12), run_folder.snapshot_masks(3), "snapshots/epoch_0007.png"):
        (tmp_path / name).mkdir(parents=True)
    assert run_folder.snapshot_epochs(tmp_path) == [3, 12]
    assert run_folder.snapshot_epochs(tmp_path / "nowhere") == []
