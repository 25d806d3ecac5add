"""get_checkpoints.sh brings the listed weights into place, whatever the servers do, and never anything
else.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import Request

import pytest

from engine import download, manifest, transfer
from engine.base import Progress, UserError
from tests.entries import CONTENT, an_entry, write_manifest
from tests.loopback import Loopback, serve, unused_port

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def server():
    yield from serve(CONTENT)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty checkpoints/, and patience for tests."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(manifest, "FOLDER", tmp_path)
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    monkeypatch.setattr(transfer, "ANSWER", 0.4)
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    return tmp_path


def only_the_file_is_there(folder: Path) -> bool:
    return os.listdir(folder) == ["net.pt"] and (folder / "net.pt").read_bytes() == CONTENT


# ---- what arrives, and how


@pytest.mark.parametrize(
    "path",
    ["good", "redirects", "moved-for-good", "redirects-with-an-endless-body", "ignores-range", "cuts-once",
     "cuts-once-then-ignores-range", "corrupts-once", "fails-once", "creeps",
     "whole-but-for-trailers-without-end"],
)  # fmt: skip
def test_a_url_that_gives_the_file_in_the_end_gives_it(path, server, folder, monkeypatch):
    monkeypatch.setattr(transfer, "GAIN", 1000)  # what counts as getting further, for a small file
    assert download.fetch(an_entry(server.url(path))) == folder / "net.pt"
    assert only_the_file_is_there(folder)


def test_a_broken_download_resumes_where_it_broke(server, folder):
    download.fetch(an_entry(server.url("cuts-once")))
    assert server.asked == [("cuts-once", None), ("cuts-once", "bytes=100000-")]


@pytest.mark.parametrize("path", ["good", "ignores-range", "refuses-ranges", "wrong-range"])
def test_what_an_earlier_run_left_is_resumed_where_the_server_can(path, server, folder):
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


def test_a_long_download_says_how_far_it_is(capsys):
    progress = Progress("net.pt", 0, 4_000_000, unit="B")
    progress.interval = 0
    progress.advance(count=1_000_000)
    assert capsys.readouterr().err.startswith("net.pt: 1.0 of 4.0 MB, 0:")


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
    "drips-a-status": "stalled: no answer",
    "drips-headers": "stalled: no answer",
    "drips-many-headers": "stalled: no answer",
    "drips-100-continue": "stalled: no answer",
    "says-100-continue-without-end": "stalled: no answer",
    "redirects-slowly/0": "stalled: no answer",
    "drips-a-chunk-size": "stalled: 0 bytes",
    "drips-a-chunk-extension": "stalled: 0 bytes",
    "drips-chunks": "then fewer than 1024 a second",
    "drips-trailers": "stalled: 3 bytes",
    "sends-trailers-without-end": "stalled: 3 bytes",
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


@pytest.mark.parametrize(
    "path", ["corrupts", "page", "status/404", "sends-without-end", "redirects-to-a-file"]
)
def test_what_is_not_the_file_never_gets_its_name_and_leaves_nothing(path, server, folder):
    with pytest.raises(download.NotAvailable) as error:
        download.fetch(an_entry(server.url(path)))
    assert NUISANCES[path] in str(error.value)
    assert server.url(path) in str(error.value)
    assert os.listdir(folder) == []


def test_a_port_where_nobody_listens_is_a_mirror_less(server, folder, capsys):
    download.fetch(
        an_entry(f"http://127.0.0.1:{unused_port()}/x", "file:///no/such/file", server.url("good"))
    )
    said = capsys.readouterr().err
    assert "Connection refused" in said
    assert "No such file" in said
    assert only_the_file_is_there(folder)


def test_a_handshake_that_drips_is_cut(folder, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(b"\x16\x03\x03\x3f\xff")  # a record of 16 kB is said to come
                while not over.wait(0.02):
                    connection.sendall(b"\2")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        with pytest.raises(download.NotAvailable, match="stalled: no"):
            download.fetch(an_entry(f"https://127.0.0.1:{listener.getsockname()[1]}/net.pt"))
        over.set()
        thread.join(5)


def test_nothing_watches_on_when_an_attempt_is_over(server, folder):
    with pytest.raises(download.NotAvailable):
        download.fetch(an_entry(server.url("status/404"), server.url("cuts-always")))
    deadline = time.monotonic() + 10
    while "watch" in [thread.name for thread in threading.enumerate()]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


@pytest.mark.parametrize(
    "wrong", [b"", CONTENT[:-1] + b"?", CONTENT + b"x"], ids=["empty", "same size", "longer"]
)
def test_a_wrong_file_is_replaced_by_a_good_one_and_said_so(wrong, server, folder, capsys):
    (folder / "net.pt").write_bytes(wrong)
    download.fetch(an_entry(server.url("good")))
    assert "is not the published file" in capsys.readouterr().err
    assert only_the_file_is_there(folder)


def test_a_wrong_file_stays_when_nothing_better_can_be_had(server, folder):
    (folder / "net.pt").write_bytes(b"mine")
    with pytest.raises(download.NotAvailable, match="left as it is"):
        download.fetch(an_entry(server.url("status/404")))
    with pytest.raises(download.NotAvailable, match=r"4 bytes, not 200000\) and the manifest lists no URL"):
        download.fetch(an_entry())
    assert (folder / "net.pt").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["link", "hard link", "dangling link", "link to a folder", "pipe", "folder"])
def test_a_part_that_leads_elsewhere_is_not_written_through(kind, server, folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    part = folder / f"net.pt.{an_entry()['sha256'][:12]}.part"
    (elsewhere / "mine.txt").write_text("mine")
    if kind == "hard link":
        os.link(elsewhere / "mine.txt", part)
    elif kind == "pipe":
        os.mkfifo(part)
    elif kind == "folder":
        part.mkdir()
    else:
        part.symlink_to(
            {"link": elsewhere / "mine.txt", "dangling link": elsewhere / "new"}.get(kind, elsewhere)
        )
    with pytest.raises(UserError, match=r"\.part: is a link or no plain file|cannot be written"):
        download.fetch(an_entry(server.url("good")))
    assert os.listdir(elsewhere) == ["mine.txt"] and (elsewhere / "mine.txt").read_text() == "mine"
    assert not (folder / "net.pt").exists() and server.asked == []


def test_a_place_that_is_a_link_is_replaced_and_not_written_through(server, folder, tmp_path_factory):
    mine = tmp_path_factory.mktemp("elsewhere") / "mine.txt"
    mine.write_text("mine")
    (folder / "net.pt").symlink_to(mine)
    download.fetch(an_entry(server.url("good")))
    assert mine.read_text() == "mine" and not (folder / "net.pt").is_symlink()
    assert only_the_file_is_there(folder)


# ---- the disk


def test_a_full_disk_is_one_line_and_the_download_resumes_when_there_is_room(server, folder):
    with files_limited_to(50_000), pytest.raises(UserError, match="the disk is full") as error:
        download.fetch(an_entry(server.url("good"), server.url("good")))
    assert not isinstance(
        error.value, download.NotAvailable
    )  # no other checkpoint would fit either: exit status 2
    assert not (folder / "net.pt").exists()
    download.fetch(an_entry(server.url("good")))
    assert server.asked == [("good", None), ("good", "bytes=50000-")]
    assert only_the_file_is_there(folder)


def test_a_disk_without_room_is_noticed_before_anything_is_asked(server, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(UserError, match="the disk is full"):
        download.fetch(an_entry(server.url("good")))
    assert server.asked == []


def test_a_name_that_cannot_be_written_is_one_line(server, folder):
    (folder / "net.pt").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        download.fetch(an_entry(server.url("good")))


# ---- the command


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
        command,
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
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
    write_manifest(
        clone / "checkpoints", an_entry(server.url("good")), an_entry(server.url("good"), name="other")
    )
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


def test_what_a_killed_run_left_is_resumed(clone, server, folder, monkeypatch):
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
    loaded = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "torchvision", "numpy", "PIL", "tqdm"} & set(loaded)
