"""get_checkpoints.sh brings the listed weights into place, whatever the servers do, and never anything else."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request

import pytest

from engine import download, manifest, transfer
from engine.errors import RunError
from engine.links import direct_url
from tests.loopback import Loopback, serve, unused_port

REPOSITORY = Path(__file__).resolve().parent.parent
CONTENT = random.Random(0).getrandbits(8 * 200_000).to_bytes(200_000, "big")


@pytest.fixture
def server():
    yield from serve(CONTENT)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty checkpoints/, and patience for tests."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(manifest, "FOLDER", tmp_path)
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    return tmp_path


def an_entry(*urls: str, name: str = "net", **changes) -> dict:
    entry = {"name": name, "problem": "p2", "default": False, "file": f"{name}.pt", "urls": list(urls)}
    entry.update(
        sha256=hashlib.sha256(CONTENT).hexdigest(), bytes=len(CONTENT), network="lite", score={"mean_iou": 0.7}
    )
    return {**entry, **changes}


def only_the_file_is_there(folder: Path) -> bool:
    return os.listdir(folder) == ["net.pt"] and (folder / "net.pt").read_bytes() == CONTENT


# ---- what arrives, and how


@pytest.mark.parametrize(
    "path",
    ["good", "redirects", "moved-for-good", "redirects-with-an-endless-body", "ignores-range", "cuts-once",
     "cuts-once-then-ignores-range", "corrupts-once", "fails-once", "creeps"],
)  # fmt: skip
def test_a_url_that_gives_the_file_in_the_end_gives_it(path, server, folder, monkeypatch):
    monkeypatch.setattr(transfer, "GAIN", 1000)  # what counts as getting further, for a small file
    assert download.fetch(an_entry(server.url(path))) == folder / "net.pt"
    assert only_the_file_is_there(folder)


def test_a_broken_download_goes_on_where_it_broke(server, folder):
    download.fetch(an_entry(server.url("cuts-once")))
    assert server.asked == [("cuts-once", None), ("cuts-once", "bytes=100000-")]


@pytest.mark.parametrize("path", ["good", "ignores-range", "refuses-ranges", "wrong-range"])
def test_what_an_earlier_run_left_is_gone_on_with_where_the_server_can(path, server, folder):
    with pytest.raises(download.NotAvailable):
        download.fetch(an_entry(server.url("cuts-always")))
    server.asked.clear()
    download.fetch(an_entry(server.url(path)))
    assert server.asked[0] == (path, "bytes=100-")
    assert only_the_file_is_there(folder)


def test_a_damaged_part_costs_a_second_download_and_nothing_else(server, folder):
    with pytest.raises(download.NotAvailable):
        download.fetch(an_entry(server.url("cuts-always")))
    (part,) = folder.iterdir()
    part.write_bytes(b"not the beginning of the file")
    download.fetch(an_entry(server.url("good")))
    assert [asked for _, asked in server.asked[-2:]] == ["bytes=29-", None]
    assert only_the_file_is_there(folder)


def test_a_file_url_is_read_from_the_disk(folder, tmp_path_factory):
    source = tmp_path_factory.mktemp("elsewhere") / "source.pt"
    source.write_bytes(CONTENT)
    download.fetch(an_entry(source.as_uri()))
    assert only_the_file_is_there(folder)


# ---- what does not arrive

NUISANCES = {
    "status/401": "shared with everyone",
    "status/403": "HTTP status 403",
    "status/404": "is the link right",
    "status/410": "HTTP status 410",
    "status/429": "HTTP status 429",
    "status/500": "HTTP status 500",
    "corrupts": "another file (its sha256 differs)",
    "cuts-always": "ended after 100 of 200000 bytes",
    "cuts-chunks": "IncompleteRead",
    "stalls": "stalled",
    "never-answers": "stalled",
    "drips": "stalled",
    "page": "HTML page came instead of the file (is the link shared with everyone?)",
    "page-in-disguise": "HTML page came instead",
    "says-more": "is a file of 200004 bytes, not of 200000",
    "sends-without-end": "sends more than the 200000 bytes",
    "redirects-to-a-file": "HTTP status 302",
    "redirects-to-ftp": "not safe to follow",
    "redirects-in-a-circle": "HTTP status 302",
    "talks-rubbish": "rubbish",
}


@contextmanager
def files_limited_to(size: int):
    """No file of this process can grow beyond `size`, as on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("path", NUISANCES)
def test_a_bad_server_is_named_with_its_reason_and_the_next_mirror_is_tried(path, server, folder, capsys):
    with files_limited_to(len(CONTENT)):  # not one byte more than announced is written
        download.fetch(an_entry(server.url(path), server.url("good")))
    said = capsys.readouterr().err
    assert NUISANCES[path] in said
    assert "\x1b" not in said
    assert only_the_file_is_there(folder)


@pytest.mark.parametrize("path", ["corrupts", "page", "status/404", "sends-without-end", "redirects-to-a-file"])
def test_what_is_not_the_file_never_gets_its_name_and_leaves_nothing(path, server, folder):
    with pytest.raises(download.NotAvailable) as error:
        download.fetch(an_entry(server.url(path)))
    assert NUISANCES[path] in str(error.value)
    assert server.url(path) in str(error.value)
    assert os.listdir(folder) == []


def test_a_port_where_nobody_listens_is_a_mirror_less(server, folder, capsys):
    download.fetch(an_entry(f"http://127.0.0.1:{unused_port()}/x", "file:///no/such/file", server.url("good")))
    said = capsys.readouterr().err
    assert "Connection refused" in said
    assert "No such file" in said
    assert only_the_file_is_there(folder)


def test_what_cannot_change_is_not_asked_twice_and_what_can_is(server, folder):
    with pytest.raises(download.NotAvailable):
        download.fetch(an_entry(server.url("status/404"), server.url("status/500"), server.url("corrupts")))
    asked = [server.count(path) for path in ("status/404", "status/500", "corrupts")]
    assert asked == [1, transfer.ATTEMPTS, 2]


def test_a_redirect_from_https_to_http_is_refused():
    secure = Request("https://127.0.0.1/x")
    redirects = transfer._Redirects()
    with pytest.raises(transfer.Refused, match="not safe"):
        redirects.redirect_request(secure, open(os.devnull), 302, "", {}, "http://127.0.0.1/x")
    followed = redirects.redirect_request(secure, open(os.devnull), 302, "", {}, "https://127.0.0.1/y")
    assert followed.full_url == "https://127.0.0.1/y"


# ---- what lies there already


def test_a_good_file_is_checked_and_left_alone(server, folder):
    (folder / "net.pt").write_bytes(CONTENT)
    download.fetch(an_entry(server.url("good")))
    assert server.asked == []


@pytest.mark.parametrize("wrong", [b"", CONTENT[:-1] + b"?", CONTENT + b"x"], ids=["empty", "same size", "longer"])
def test_a_wrong_file_is_replaced_by_a_good_one_and_said_so(wrong, server, folder, capsys):
    (folder / "net.pt").write_bytes(wrong)
    download.fetch(an_entry(server.url("good")))
    assert "is not the published file" in capsys.readouterr().err
    assert only_the_file_is_there(folder)


def test_a_wrong_file_stays_when_nothing_better_can_be_had(server, folder):
    (folder / "net.pt").write_bytes(b"mine")
    with pytest.raises(download.NotAvailable, match="left as it is"):
        download.fetch(an_entry(server.url("status/404")))
    with pytest.raises(download.NotAvailable, match="another file and the manifest lists no URL"):
        download.fetch(an_entry())
    assert (folder / "net.pt").read_bytes() == b"mine"


# ---- the disk


def test_a_full_disk_is_one_line_and_the_download_goes_on_when_there_is_room(server, folder):
    with files_limited_to(50_000), pytest.raises(RunError, match="the disk is full") as error:
        download.fetch(an_entry(server.url("good"), server.url("good")))
    assert not isinstance(error.value, download.NotAvailable)  # no other checkpoint would fit either: exit status 2
    assert not (folder / "net.pt").exists()
    download.fetch(an_entry(server.url("good")))
    assert server.asked == [("good", None), ("good", "bytes=50000-")]
    assert only_the_file_is_there(folder)


def test_a_disk_without_room_is_noticed_before_anything_is_asked(server, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(RunError, match="the disk is full"):
        download.fetch(an_entry(server.url("good")))
    assert server.asked == []


def test_a_name_that_cannot_be_written_is_one_line(server, folder):
    (folder / "net.pt").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        download.fetch(an_entry(server.url("good")))


# ---- the manifest

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
    with pytest.raises(RunError, match=r"manifest\.json: entry 2: "):
        manifest.read()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"checkpoints": {}}', "{" * 100_000, "[" * 100_000, " " * 2_000_000])
def test_a_file_that_is_no_manifest_is_refused(text, folder):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"manifest\.json"):
        manifest.read()
    (folder / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="not JSON"):
        manifest.read()


def test_names_files_and_defaults_are_there_once(folder):
    for second, problem in [
        ({"name": "NET", "file": "b.pt"}, "the name 'net'"),
        ({"name": "b", "file": "NET.pt"}, "the file 'net.pt'"),
        ({"name": "b", "file": "b.pt", "default": True}, "more than one default"),
    ]:
        write_manifest(folder, an_entry(default=True), an_entry(**second))
        with pytest.raises(RunError, match=problem):
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


def test_presence_is_the_size_and_intactness_the_hash(folder):
    assert not manifest.is_present(an_entry())
    (folder / "net.pt").write_bytes(b"x" * len(CONTENT))
    assert manifest.is_present(an_entry())
    assert not manifest.is_intact(an_entry())


def test_the_committed_manifest_knows_segment_anything_and_every_published_file():
    entries = {entry["name"]: entry for entry in manifest.read()}
    assert [entries[name]["file"] for name in ("vit_b", "vit_l", "vit_h")] == [
        "sam_vit_b_01ec64.pth", "sam_vit_l_0b3195.pth", "sam_vit_h_4b8939.pth",
    ]  # fmt: skip
    for entry in entries.values():
        assert manifest.is_intact(entry) or (entry["urls"] and not manifest.entry_path(entry).exists()), entry["name"]


# ---- share links

DRIVE = "https://drive.usercontent.google.com/download?id=1a-B_c&export=download&confirm=t"


@pytest.mark.parametrize(
    ("shared", "direct"),
    [
        ("https://drive.google.com/file/d/1a-B_c/view?usp=sharing", DRIVE),
        ("https://drive.google.com/file/d/1a-B_c/view?resourcekey=0-xyz&usp=drive_link", DRIVE + "&resourcekey=0-xyz"),
        ("https://drive.google.com/file/u/1/d/1a-B_c/edit", DRIVE),
        ("https://drive.google.com/open?id=1a-B_c", DRIVE),
        ("https://drive.google.com/uc?export=download&id=1a-B_c", DRIVE),
        ("https://docs.google.com/uc?id=1a-B_c", DRIVE),
        ("https://drive.usercontent.google.com/download?id=1a-B_c", DRIVE),
        ("https://www.dropbox.com/s/abc/net.pt?dl=0", "https://www.dropbox.com/s/abc/net.pt?dl=1"),
        ("https://www.dropbox.com/s/abc/net.pt", "https://www.dropbox.com/s/abc/net.pt?dl=1"),
        (
            "https://www.dropbox.com/scl/fi/abc/net.pt?rlkey=k1&st=s2&dl=0",
            "https://www.dropbox.com/scl/fi/abc/net.pt?rlkey=k1&st=s2&dl=1",
        ),
        ("http://dropbox.com/s/abc/net.pt?raw=1", "https://dropbox.com/s/abc/net.pt?dl=1"),
        ("https://example.org/file/d/1a/view?dl=0", "https://example.org/file/d/1a/view?dl=0"),
    ],
)
def test_share_links_become_direct_ones(shared, direct):
    assert direct_url(shared) == direct


def test_a_link_to_a_shared_folder_is_called_that(folder):
    with pytest.raises(download.NotAvailable, match="link to a folder"):
        download.fetch(an_entry("https://drive.google.com/drive/folders/1a-B_c?usp=sharing"))


# ---- the command


def write_manifest(folder: Path, *entries: dict) -> None:
    (folder / "manifest.json").write_text(json.dumps({"checkpoints": entries}))


@pytest.fixture
def clone(tmp_path) -> Path:
    """What a user has, in a folder with spaces and more, before anything is installed."""
    root = tmp_path / "my homework é 作業"
    shutil.copytree(REPOSITORY / "engine", root / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "get_checkpoints.sh", root)
    (root / "checkpoints").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(os.path.realpath(sys.executable))
    return root


def start(clone: Path, *names: str, **settings) -> subprocess.Popen:
    """The script, started in a folder whose files have the names of modules."""
    here = clone.parent / "elsewhere"
    (here / "engine").mkdir(parents=True, exist_ok=True)
    for trap in ("json.py", "engine/__init__.py"):
        (here / trap).write_text("raise SystemExit('a file of the current folder was imported')")
    environment = {**os.environ, "PATH": f"{clone.parent / 'bin'}:{os.environ['PATH']}", "no_proxy": "*"}
    command = ["bash", os.path.relpath(clone / "get_checkpoints.sh", here), *names]
    return subprocess.Popen(
        command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


def run(clone: Path, *names: str, **settings) -> tuple[int, str, str]:
    process = start(clone, *names, **settings)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_the_script_gets_what_the_problems_publish_and_then_has_nothing_to_do(clone, server: Loopback):
    write_manifest(
        clone / "checkpoints",
        an_entry(server.url("good"), name="net"),
        an_entry(server.url("status/404"), name="vit_b", problem="sam"),
        an_entry(name="unpublished"),
    )
    status, out, err = run(clone)
    assert (status, out.splitlines()[-1]) == (0, "all in place"), err
    assert (clone / "checkpoints" / "net.pt").read_bytes() == CONTENT
    server.asked.clear()
    status, out, err = run(clone)
    assert (status, out.splitlines()[-1], err) == (0, "nothing to do: all in place, sha256 checked", "")
    assert server.asked == []


def test_the_script_gets_segment_anything_only_by_name(clone, server):
    write_manifest(
        clone / "checkpoints", an_entry(server.url("good"), name="vit_b", problem="sam", file="sam_vit_b.pth")
    )
    assert run(clone)[0] == 0
    assert server.asked == []
    assert run(clone, "vit_b", "vit_b")[0] == 0
    assert server.asked == [("good", None)]
    assert (clone / "checkpoints" / "sam_vit_b.pth").read_bytes() == CONTENT


def test_the_exit_status_tells_all_some_and_none(clone, server):
    good, bad = an_entry(server.url("good"), name="good"), an_entry(server.url("status/404"), name="bad")
    missing = an_entry(name="missing", default=True)
    write_manifest(clone / "checkpoints", bad, good, missing)
    status, out, err = run(clone)
    assert status == 1
    assert err.splitlines()[-1] == "not in place: bad, missing"
    assert "git checkout -- checkpoints/missing.pt" in err
    assert "good: in place" in out
    assert run(clone, "good")[0] == 0
    assert run(clone, "bad")[0] == 2
    assert run(clone, "bad", "missing")[0] == 2


def test_bad_arguments_and_a_bad_manifest_are_one_line_and_exit_2(clone, server):
    write_manifest(clone / "checkpoints", an_entry(server.url("good")))
    status, out, err = run(clone, "net", "nett")
    assert (status, out, server.asked) == (2, "", [])
    assert err == "error: no checkpoint is called 'nett'; the manifest has: net\n"
    assert run(clone, "--no-such-flag")[0] == 2
    write_manifest(clone / "checkpoints", an_entry(server.url("good"), file="../net.pt"))
    status, out, err = run(clone)
    assert (status, len(err.splitlines()), server.asked) == (2, 1, [])


def test_a_full_disk_ends_the_script_with_exit_2_and_no_traceback(clone, server):
    write_manifest(clone / "checkpoints", an_entry(server.url("good")), an_entry(server.url("good"), name="other"))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # noqa: E731
    status, _, err = run(clone, preexec_fn=limit)
    assert status == 2
    assert "the disk is full" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_two_runs_at_once_share_one_download(clone, server):
    write_manifest(clone / "checkpoints", an_entry(server.url("slow")))
    both = [start(clone), start(clone)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert server.asked == [("slow", None)]
    assert sorted(os.listdir(clone / "checkpoints")) == ["manifest.json", "net.pt"]
    assert (clone / "checkpoints" / "net.pt").read_bytes() == CONTENT


def test_what_a_killed_run_left_is_gone_on_with(clone, server, folder, monkeypatch):
    write_manifest(clone / "checkpoints", an_entry(server.url("stalls")))
    process = start(clone)
    deadline = time.monotonic() + 30
    while not any(file.stat().st_size == 100 for file in (clone / "checkpoints").glob("*.part")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (clone / "checkpoints" / "net.pt").exists()
    monkeypatch.setattr(manifest, "FOLDER", clone / "checkpoints")
    download.fetch(an_entry(server.url("good")))
    assert server.asked[-1] == ("good", "bytes=100-")
    assert (clone / "checkpoints" / "net.pt").read_bytes() == CONTENT


def test_downloading_needs_no_installed_package():
    modules = "import sys, engine.download; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-S", "-c", modules]
    loaded = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "torchvision", "numpy", "PIL", "tqdm"} & set(loaded)
