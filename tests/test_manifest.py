"""checkpoints/manifest.json is believed only as far as it was checked, and names each wrong entry."""

from __future__ import annotations

import pytest

from engine import manifest
from engine.base import UserError
from tests.entries import CONTENT, an_entry, write_manifest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty checkpoints/."""
    monkeypatch.setattr(manifest, "FOLDER", tmp_path)
    return tmp_path


HOSTILE = {
    "a path as file": {"file": "../../.bashrc.pt"},
    "an absolute file": {"file": "/etc/cron.pt"},
    "a file that is no weights": {"file": "manifest.json"},
    "a hidden file": {"file": ".pt"},
    "a line end in the file": {"file": "net.pt\n"},
    "a file that is a list": {"file": ["net.pt"]},
    "a path as name": {"name": "../net"},
    "dots as name": {"name": ".."},
    "no name": {"name": None},
    "a long name": {"name": "n" * 81},
    "an unknown problem": {"problem": "p9"},
    "a problem that is an object": {"problem": {}},
    "a text for default": {"default": "yes"},
    "a short hash": {"sha256": "abc"},
    "a hash that is a number": {"sha256": 5},
    "bytes as text": {"bytes": "5"},
    "bytes as truth": {"bytes": True},
    "no bytes": {"bytes": 0},
    "a fraction of bytes": {"bytes": 1.5},
    "one URL as text": {"urls": "http://127.0.0.1/x"},
    "an ftp URL": {"urls": ["ftp://127.0.0.1/x"]},
    "a URL that is a flag": {"urls": ["--output=/etc"]},
    "a URL with a line end": {"urls": ["http://127.0.0.1/x\r\nHost: evil"]},
    "a URL with an escape": {"urls": ["http://127.0.0.1/\x1b[2J"]},
    "a URL without host": {"urls": ["http:///x"]},
    "a broken URL": {"urls": ["http://[::1/x"]},
    "a broken port": {"urls": ["http://127.0.0.1:port/x"]},
    "a score that is no number": {"score": {"mean_iou": float("nan")}},
    "a score too large": {"score": {"mean_iou": 10**400}},
    "a score as text": {"score": "0.7"},
    "a network with control characters": {"network": "\x1b[31m"},
}


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_a_manifest_with_a_wrong_entry_is_refused_and_the_entry_is_named(changes, folder):
    write_manifest(folder, an_entry(name="fine"), an_entry(**changes))
    with pytest.raises(UserError, match=r"manifest\.json: entry 2: "):
        manifest.read()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"checkpoints": {}}', "{" * 100_000, "[" * 100_000, " " * 2_000_000]
)
def test_a_file_that_is_no_manifest_is_refused(text, folder):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        manifest.read()
    (folder / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not JSON"):
        manifest.read()


def test_names_files_and_defaults_are_there_once(folder):
    for second, problem in [
        ({"name": "NET", "file": "b.pt"}, "the name 'net'"),
        ({"name": "b", "file": "NET.pt"}, "the file 'net.pt'"),
        ({"name": "b", "file": "b.pt", "default": True}, "more than one default"),
    ]:
        write_manifest(folder, an_entry(default=True), an_entry(**second))
        with pytest.raises(UserError, match=problem):
            manifest.read()


def test_the_default_of_a_problem_is_found_and_what_is_optional_filled_in(folder):
    assert manifest.default_checkpoint("p1") is None  # no manifest at all
    bare = an_entry(name="bare")
    for key in ("default", "urls", "network", "score"):
        del bare[key]
    write_manifest(folder, bare, an_entry(name="best", default=True))
    assert manifest.default_checkpoint("p1") is None
    best = manifest.default_checkpoint("p2")
    assert (best["name"], manifest.entry_path(best)) == ("best", folder / "best.pt")
    assert (manifest.read()[0]["urls"], manifest.read()[0]["default"]) == ([], False)


def test_intactness_is_the_size_and_the_hash(folder):
    assert manifest.what_is_wrong(an_entry()) == "is missing"
    (folder / "net.pt").write_bytes(b"x" * len(CONTENT))
    assert "sha256 differs" in manifest.what_is_wrong(an_entry())
    assert not manifest.is_intact(an_entry())


def test_the_committed_manifest_knows_segment_anything_and_every_published_file():
    entries = {entry["name"]: entry for entry in manifest.read()}
    assert [entries[name]["file"] for name in ("vit_t", "vit_b", "vit_l", "vit_h")] == [
        "mobile_sam.pt", "sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth", "sam_vit_h_4b8939.pth",
    ]  # fmt: skip
    for entry in entries.values():
        assert manifest.is_intact(entry) or (entry["urls"] and not manifest.entry_path(entry).exists()), (
            entry["name"]
        )
