"""Servers that a download meets: the good, the broken, and those that never come to an end."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Callable

from engine import download, manifest, transfer
from engine.base import run_script
from tests import loopback
from tests.entries import CONTENT, an_entry, write_manifest
from tests.soak import children

PATIENCE = 90.0  # seconds: what never ends is to be given up within this, whatever the server does
GIVEN_UP = 0.5  # seconds of silence that a download bears here, instead of 30


class Handler(loopback._Handler):
    """What a path does is its name, as in loopback; those of here hold a client for as long as it stays."""

    def drip(self, text: bytes) -> None:
        while not self.server.release.wait(0.05):
            self.wfile.write(text)
            self.wfile.flush()

    def do_endless_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        self.drip(b"X: " + b"x" * 500 + b"\r\n")

    def do_dripping_header(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.drip(b"x")

    def do_dripping_status(self) -> None:
        self.drip(b"H")

    def do_endless_continue(self) -> None:
        self.drip(b"HTTP/1.1 100 Continue\r\n\r\n")

    def do_dripping_chunk_size(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.drip(b"0")

    def do_tiny_chunks(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.drip(b"1\r\nx\r\n")

    def do_endless_trailers(self) -> None:
        size = f"{len(CONTENT):x}".encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n")
        self.wfile.write(CONTENT + b"\r\n0\r\n")
        self.drip(b"X: x\r\n")

    def do_negative_length(self) -> None:
        self.answer(200, CONTENT, length=-7)

    def do_two_lengths(self) -> None:
        self.answer(200, CONTENT, length=3, content_length=str(len(CONTENT)))

    def do_a_compressed_bomb(self) -> None:
        self.answer(200, bytes(1000), Content_Encoding="gzip")

    def do_escapes(self) -> None:
        self.wfile.write(b"HTTP/1.1 500 \x1b[31mred\x1b]0;title\x07\r\n\r\n")

    def do_redirects_to_escapes(self) -> None:
        self.answer(302, Location="http://127.0.0.1:1/\x1b[31mred")


PATHS = sorted(
    name[3:].replace("_", "-")
    for name in dir(Handler)
    if name.startswith("do_") and name not in ("do_GET", "do_status")
) + [f"status/{status}" for status in (204, 206, 304, 400, 401, 403, 404, 410, 416, 429, 500, 503, 999)]
LEFT = ("nothing", "a part", "a wrong file", "a part that is a link")


def attack(shared: Path) -> tuple[int, Callable[[int, Path], None]]:
    """Every server, with whatever an earlier download left in checkpoints/."""
    cases = [(path, left) for left in LEFT for path in PATHS]

    def case(number: int, folder: Path) -> None:
        path, left = cases[number]
        checkpoints = folder / "checkpoints"
        checkpoints.mkdir(parents=True)
        (folder / "precious").write_text("years of work")

        def main() -> None:
            server = loopback.Loopback(CONTENT)
            server.RequestHandlerClass = Handler
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            entry = an_entry(server.url(path))
            write_manifest(checkpoints, entry)
            _leave(left, checkpoints, entry["sha256"])
            _download(checkpoints)

        start = time.monotonic()
        try:
            ended = children.run(main, folder, patience=PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{path}, {left} there: {error}") from None
        what = f"{path}, {left} there: status {ended.status} after {time.monotonic() - start:.0f} s"
        assert ended.status in (0, 2), f"{what}: {ended.said.strip()[-200:]}"
        assert "\x1b" not in ended.said, f"{what}: escapes reach the terminal"
        file = checkpoints / "net.pt"
        is_right = file.is_file() and file.read_bytes() == CONTENT
        assert is_right == (ended.status == 0), (
            f"{what}: {'the file' if is_right else 'another file'} is there"
        )
        assert (folder / "precious").read_bytes() == b"years of work", f"{what}: written through a link"

    return len(cases), case


def _leave(left: str, checkpoints: Path, sha256: str) -> None:
    part = checkpoints / f"net.pt.{sha256[:12]}.part"
    if left == "a part":
        part.write_bytes(CONTENT[:1000])
    elif left == "a wrong file":
        (checkpoints / "net.pt").write_bytes(b"another")
    elif left == "a part that is a link":
        part.symlink_to("../precious")


def _download(checkpoints: Path) -> None:
    """As get_checkpoints.sh does it, but impatient."""
    os.environ["no_proxy"] = "*"
    manifest.FOLDER = checkpoints
    transfer.TIMEOUT, transfer.ANSWER, transfer.PAUSE = GIVEN_UP, 2 * GIVEN_UP, 0.01
    sys.argv = ["get_checkpoints.sh", "net"]
    run_script(download.main)
