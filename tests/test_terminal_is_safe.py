"""Nothing that is printed moves the terminal, whoever named it; numbers past floats and names that no file
can hold are a line.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import mean_iou_evaluate
import p1_inference
import p2_inference
from datasets import score
from engine import publish
from engine.base import Progress, SafeStream, UserError, printable, run_script, say
from engine.checkpoint import read_model
from models import describe
from report import settings_table
from tests.grader import call, random_image, save, save_classifier

ESCAPES = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;title\x07",
    "clear": "\x1b[2J\x1b[H",
    "8-bit": "\x9b31m",
    "backspace": "good\b\b\b\bevil",
    "reversed": "abc\u202egpj.exe",
    "line end": "one\x0btwo\x85three\u2028four",
}
ALLOWED = "\n\t"


@pytest.fixture(params=ESCAPES)
def escape(request) -> str:
    return ESCAPES[request.param]


def said(capsys) -> str:
    """What was printed, which holds nothing that a terminal would obey."""
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert not [letter for letter in text if not letter.isprintable() and letter not in ALLOWED], ascii(text)
    return text


def status_of(main) -> int:
    with pytest.raises(SystemExit) as end:
        run_script(main)
    return end.value.code


def test_names_of_files_are_escaped(escape, tmp_path, p1_model, p2_model, capsys):
    tiles = tmp_path / f"tiles{escape}"
    save(random_image(1, 32, 32), tiles / f"{escape}_sat.jpg")
    (tiles / f"broken{escape}_sat.jpg").write_bytes(b"none")
    flags = ("--images", tiles, "--output", tmp_path / f"masks{escape}", "--checkpoint", p2_model)
    assert call(p2_inference, *flags) == 1
    assert printable(escape) in said(capsys)
    table = tmp_path / f"t{escape}.csv"
    table.write_bytes(f'filename\n"{escape}.jpg"\n'.encode())
    flags = ("--csv", table, "--images", tiles, "--output", tmp_path / "o.csv", "--checkpoint", p1_model)
    assert call(p1_inference, *flags) == 2
    assert "tiles" in said(capsys)


def test_what_a_checkpoint_says_of_itself_is_escaped(escape, tmp_path, capsys):
    images = save(random_image(1), tmp_path / "images" / "a.png").parent
    state = {f"fc{escape}": torch.zeros(2)}
    for number, changes in enumerate(
        ({"network": escape}, {"state": state}, {"source": escape}, {"edition": escape})
    ):
        model = save_classifier(tmp_path / f"{number}.pt", seed=0, **changes)
        out = tmp_path / f"{number}.csv"
        flags = ("--images", images, "--output", out, "--checkpoint", model, "--edition", "2022")
        assert call(p1_inference, *flags) == (2 if number < 2 else 0)
        said(capsys)
    names = [f"{number}{escape}" for number in range(65)]
    model = save_classifier(tmp_path / "names.pt", seed=0, classes=names, integer_labels=False)
    assert call(p1_inference, "--print-architecture", "--checkpoint", model) == 0
    said(capsys)


def test_classes_and_runs_are_escaped_in_tables(escape, tmp_path, monkeypatch, capsys):
    table = tmp_path / "t.csv"
    table.write_bytes(f'filename,label\na.jpg,"x{escape}"\n'.encode())
    assert status_of(lambda: score.main([str(table), str(table)])) == 0
    assert "accuracy: 1.0000" in said(capsys)
    assert status_of(lambda: describe.main([f"resnet{escape}"])) == 2
    assert status_of(lambda: settings_table.main([str(tmp_path / f"no{escape}")])) == 2
    said(capsys)


def test_arguments_are_escaped(escape, tmp_path):
    script = Path(p2_inference.__file__)
    done = subprocess.run([sys.executable, script, "--x" + escape], capture_output=True, text=True)
    assert done.returncode == 2 and not [c for c in done.stderr if not c.isprintable() and c not in ALLOWED]


def test_the_scorer_that_stands_alone_escapes_too(escape, tmp_path):
    folder = tmp_path / f"labels{escape}"
    folder.mkdir()
    (folder / f"{escape}.png").write_bytes(b"none")
    Image.new("RGB", (4, 4)).save(folder / "0.png")
    command = [sys.executable, mean_iou_evaluate.__file__, "-g", folder, "-p", folder]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert not [c for c in done.stderr if not c.isprintable() and c not in ALLOWED]


def test_messages_and_progress_are_escaped(escape, capsys):
    say(f"file {escape}")
    progress = Progress(f"images {escape}", total=3)
    progress.interval = 0
    progress.advance(f"image {escape}")
    progress.close()
    assert status_of(lambda: (_ for _ in ()).throw(UserError(f"bad {escape}"))) == 2
    assert "file " in said(capsys)


def test_text_is_as_it_was_but_for_what_a_terminal_obeys():
    assert printable("王小明 – ½ é 🙂 a'b\"c\\d") == "王小明 – ½ é 🙂 a'b\"c\\d"
    assert printable("a\x1b[31m\udca4\ud800\n") == "a\\x1b[31m\\udca4\\ud800\\n"
    assert printable("a\n\tb\r", kept="\n\t") == "a\n\tb\\r"


def test_a_stream_is_made_safe_once(capsys):
    run = [status_of(lambda: print("text")) for _ in range(3)]
    assert run == [0, 0, 0] and capsys.readouterr().out == 3 * "text\n"
    assert isinstance(sys.stdout, SafeStream) and not isinstance(sys.stdout.bare, SafeStream)


TOO_LARGE = (10**400, -(10**400), 2**60)


@pytest.mark.parametrize("number", TOO_LARGE, ids=["10**400", "-10**400", "2**60"])
@pytest.mark.parametrize("where", ["score", "mean", "std", "image_size"])
def test_a_number_past_floats_is_a_line(number, where, tmp_path, capsys):
    value = {"score": {"accuracy": number}, "image_size": number}.get(where, [number, 0.5, 0.5])
    model = save_classifier(tmp_path / "model.pt", seed=0, **{where: value})
    images = save(random_image(1), tmp_path / "images" / "a.png").parent
    flags = ("--images", images, "--output", tmp_path / "o.csv", "--checkpoint", model, "--edition", "2022")
    if where in ("mean", "std") and number == 2**60:
        return  # a float, and no harm
    assert call(p1_inference, *flags) == 2
    text = said(capsys)
    assert text.count("\n") == 1 and where in text and str(model) in text and len(text) < 1000
    with pytest.raises(UserError, match=where):
        publish.publish(model, "name", "p1")


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "\udbff\udbff", "\udcff\ud800"])
def test_a_class_that_no_csv_can_hold_is_a_line(name, tmp_path, capsys):
    names = [name, *map(str, range(64))]
    model = save_classifier(tmp_path / "model.pt", seed=0, classes=names, integer_labels=False)
    images = save(random_image(1), tmp_path / "images" / "a.png").parent
    flags = ("--images", images, "--output", tmp_path / "o.csv", "--checkpoint", model, "--edition", "2022")
    assert call(p1_inference, *flags) == 2
    assert said(capsys).count("\n") == 1 and not (tmp_path / "o.csv").exists()


def test_a_class_named_after_a_file_whose_name_is_no_utf8_is_written_as_the_file_is_called(tmp_path):
    names = ["\udca4\udca4", *map(str, range(64))]
    model = save_classifier(tmp_path / "model.pt", seed=0, classes=names, integer_labels=False)
    assert read_model(model)["classes"] == names
