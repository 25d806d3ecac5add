"""Every reader takes regular files of a bounded size alone; a FIFO, a device, a folder, nonsense: a line."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Callable

import pytest

from datasets.images import read_rgb
from datasets.tables import read_class_names, read_labels, read_predictions, read_table
from engine import manifest
from engine.base import LARGEST_TEXT, UserError, open_regular, read_regular
from engine.run_folder import read_json, read_run
from report.blocks import Picture
from report.collect import read_architecture
from report.document import _picture
from report.paired_tests import read_confusions
from report.text import _read as read_answers
from tests.strange_files import KINDS, make_strange

REPOSITORY = Path(__file__).resolve().parent.parent
REFUSING: dict[str, Callable[[Path], object]] = {  # a UserError that names the file
    "a table": read_table,
    "a table of labels": read_labels,
    "predictions.csv": read_predictions,
    "confusions.npz": read_confusions,
    "answers.md": read_answers,
    "an image": lambda path: read_rgb(path, apply_exif=True),
}
NONSENSE = {
    "empty": b"",
    "not UTF-8": b"\xa4\xa4\xa4\xe5,filename,label\n",
    "UTF-16": "id,filename,label\n0,a.jpg,1\n".encode("utf-16"),
    "NUL": b"\0" * 5000,
    "JSON nested 10,000 deep": b"[" * 10_000 + b"]" * 10_000,
    "JSON nested 10,000 deep, objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "JSON cut off deep inside": b"[" * 100_000,
    "a number of 5,000 digits": b"1" * 5_000,
}


@pytest.fixture(params=[*KINDS, *NONSENSE])
def strange(request, tmp_path) -> Path:
    path = tmp_path / "strange"
    if request.param in NONSENSE:
        path.write_bytes(NONSENSE[request.param])
        return path
    return make_strange(path, request.param)


@pytest.mark.parametrize("what", REFUSING)
def test_what_has_to_be_read_is_refused_by_its_name(what, strange):
    if what == "answers.md" and strange.is_file() and strange.stat().st_size < LARGEST_TEXT:
        return  # most nonsense is text, and text are answers
    with pytest.raises(UserError, match="strange"):
        REFUSING[what](strange)


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_is_a_file_and_so_are_weights(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "FOLDER", tmp_path)
    path = make_strange(tmp_path / "manifest.json", kind)
    with pytest.raises(UserError, match="manifest.json"):
        manifest.read()
    if kind != "huge":  # a large file has a sha256
        with pytest.raises(UserError, match="manifest.json"):
            manifest.sha256_of(path)


def test_what_may_be_missing_is_as_good_as_missing(strange, tmp_path):
    assert isinstance(read_class_names(strange, ["0"]), dict)
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "metrics.jsonl", "architecture.json"):
        (run / name).symlink_to(strange)
    record = read_run(run)
    assert record.gap and not record.metrics
    assert read_architecture(run) is None
    (run / "config.json").unlink()
    (run / "config.json").write_text('{"arguments": {}}')
    assert read_run(run).gap == "no epoch is done yet"
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "curves.png").symlink_to(strange)
    assert _picture(Picture("curves", "", ""), tmp_path)["kind"] == "gap"


def test_json_of_any_kind_is_read_or_an_ordinary_error(strange):
    with suppress(OSError, ValueError):
        read_json(strange)


@pytest.mark.parametrize("kind", ["fifo", "endless device", "folder"])
@pytest.mark.parametrize("side", [0, 1])
def test_the_scorer_of_tables_ends_with_a_line(kind, side, tmp_path):
    good = tmp_path / "good.csv"
    good.write_text("id,filename,label\n0,a.png,1\n")
    paths = [good, good]
    paths[side] = make_strange(tmp_path / "strange.csv", kind)
    command = [sys.executable, "-m", "datasets.score", *paths]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and str(tmp_path) in done.stderr


def test_a_regular_file_is_read_whole_up_to_its_bound(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_regular(path, 100) == b"x" * 100
    with pytest.raises(OSError, match="larger than"):
        read_regular(path, 99)
    link = tmp_path / "link"
    link.symlink_to(path)
    with open_regular(link, 100) as file:
        assert file.read() == b"x" * 100


def test_a_file_that_says_it_is_empty_and_is_not_is_bounded_too():
    """As those of /proc are."""
    path = Path("/proc/self/maps")
    if not path.exists():
        pytest.skip("no /proc here")
    with pytest.raises(OSError, match="larger than"):
        read_regular(path, 100)


def test_the_bound_leaves_room_for_every_table_of_the_course():
    row = "38399,n0153282900000000000000000.jpg,64\n"  # of mini-ImageNet, the largest
    assert 40 * 38_400 * len(row) < LARGEST_TEXT
    assert len(json.dumps({"names": 2_000 * ["0000_mask"]})) < LARGEST_TEXT
