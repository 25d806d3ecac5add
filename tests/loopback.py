"""A real HTTP server on 127.0.0.1 that misbehaves on request: what a path does is its name."""

from __future__ import annotations

import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Iterator

PAGE = b"<!DOCTYPE html><html><body>Sign in to go on</body></html>"


class Loopback(ThreadingHTTPServer):
    """Serves `content` under /good, and under the other paths what their names say.

    Keeps what it was asked.
    """

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.asked: list[tuple[str, str | None]] = []  # (path, Range)
        self.release = threading.Event()  # lets go of the paths that hang

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def count(self, path: str) -> int:
        return [asked for asked, _ in self.asked].count(path)

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is what several tests are about."""


def serve(content: bytes) -> Iterator[Loopback]:
    """For a fixture: a server that runs until the test is over."""
    server = Loopback(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()


def unused_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _Handler(BaseHTTPRequestHandler):
    server: Loopback

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.server.asked.append((path, self.headers.get("Range")))
        getattr(self, "do_" + path.split("/")[0].replace("-", "_"))()

    @property
    def first_time(self) -> bool:
        return self.server.count(self.path.lstrip("/")) == 1

    def answer(self, status: int, body: bytes = b"", length: int | None = -1, **headers: str) -> None:
        """`length` is what Content-Length says: the truth (-1), something else, or nothing (None)."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        self.end_headers()
        self.wfile.write(body)

    def answer_range(self, content: bytes, upto: int | None = None) -> None:
        """`content` from where the client wants it; the connection ends early with `upto`."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, total = int(match.group(1)) if match else 0, len(content)
        headers = {"Content_Range": f"bytes {start}-{total - 1}/{total}"} if match else {}
        self.answer(206 if match else 200, content[start:upto], length=total - start, **headers)

    def do_good(self) -> None:
        self.answer_range(self.server.content)

    def do_slow(self) -> None:
        half = len(self.server.content) // 2
        self.answer(200, self.server.content[:half], length=len(self.server.content))
        self.wfile.flush()
        time.sleep(0.5)
        self.wfile.write(self.server.content[half:])

    def do_ignores_range(self) -> None:
        self.answer(200, self.server.content)

    def do_cuts_once(self) -> None:
        self.answer_range(
            self.server.content, upto=len(self.server.content) // 2 if self.first_time else None
        )

    def do_cuts_once_then_ignores_range(self) -> None:
        if self.first_time:
            self.do_cuts_once()
        else:
            self.do_ignores_range()

    def do_cuts_chunks(self) -> None:
        self.protocol_version = "HTTP/1.1"
        self.answer(200, b"400\r\n" + self.server.content[:100], length=None, Transfer_Encoding="chunked")
        self.close_connection = True

    def do_cuts_always(self) -> None:
        self.answer(200, self.server.content[:100], length=len(self.server.content))

    def do_creeps(self) -> None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))
        self.answer_range(self.server.content, upto=int(match.group(1)) + len(self.server.content) // 8)

    def do_corrupts(self) -> None:
        self.answer_range(self.server.content[:-1] + b"!")

    def do_corrupts_once(self) -> None:
        if self.first_time:
            self.do_corrupts()
        else:
            self.do_good()

    def do_redirects(self) -> None:
        self.answer(302, Location="/good")

    def do_moved_for_good(self) -> None:
        self.answer(308, Location="/good")

    def do_redirects_to_a_file(self) -> None:
        self.answer(302, Location="file:///etc/hostname")

    def do_redirects_to_ftp(self) -> None:
        self.answer(302, Location="ftp://127.0.0.1/file")

    def do_redirects_in_a_circle(self) -> None:
        self.answer(302, Location="/redirects-in-a-circle")

    def do_redirects_with_an_endless_body(self) -> None:
        self.answer(302, length=None, Location="/good")
        self.send_without_end()

    def do_status(self) -> None:
        self.answer(int(self.path.split("/")[-1]), b"no")

    def do_fails_once(self) -> None:
        if self.first_time:
            self.answer(503, b"later")
        else:
            self.do_good()

    def do_refuses_ranges(self) -> None:
        if "Range" in self.headers:
            self.answer(416)
        else:
            self.do_good()

    def do_wrong_range(self) -> None:
        if "Range" in self.headers:
            total = len(self.server.content)
            self.answer(206, self.server.content[7:], Content_Range=f"bytes 7-{total - 1}/{total}")
        else:
            self.do_good()

    def do_stalls(self) -> None:
        self.answer(200, self.server.content[:100], length=len(self.server.content))
        self.wfile.flush()
        self.server.release.wait(20)

    def do_never_answers(self) -> None:
        self.server.release.wait(20)

    def do_drips(self) -> None:
        self.answer(200, length=len(self.server.content))
        while not self.server.release.wait(0.02):
            self.wfile.write(b"x")

    def raw(self, start: bytes, then: bytes, pause: float = 0.02) -> None:
        """These bytes as they are, then again and again the others."""
        self.wfile.write(start)
        while not self.server.release.wait(pause):
            self.wfile.write(then)

    def do_drips_a_status(self) -> None:
        self.raw(b"HTTP/1.1 200 ", b"O")

    def do_drips_headers(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nX: ", b"x")

    def do_drips_many_headers(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\n", b"X: x\r\n", pause=0.05)

    def do_drips_100_continue(self) -> None:
        self.raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n")

    def do_says_100_continue_without_end(self) -> None:
        self.raw(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, pause=0)

    def do_redirects_slowly(self) -> None:
        time.sleep(0.12)
        step = int(self.path.split("/")[-1]) + 1
        self.answer(302, Location=f"/redirects-slowly/{step}")

    def do_drips_a_chunk_size(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0")

    def do_drips_a_chunk_extension(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x")

    def do_drips_chunks(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")

    def do_drips_trailers(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", b"X: x\r\n")

    def do_sends_trailers_without_end(self) -> None:
        start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"
        self.raw(start, b"X: x\r\n" * 100, pause=0)

    def do_whole_but_for_trailers_without_end(self) -> None:
        size = b"%x\r\n" % len(self.server.content)
        start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size
        self.raw(start + self.server.content + b"\r\n0\r\n", b"X: x\r\n" * 100, pause=0)

    def do_page(self) -> None:
        self.answer(200, PAGE, Content_Type="text/html; charset=utf-8")

    def do_page_in_disguise(self) -> None:
        self.answer(200, PAGE, Content_Type="application/octet-stream")

    def do_says_more(self) -> None:
        self.answer(200, self.server.content + b"more")

    def do_sends_without_end(self) -> None:
        self.answer(200, length=None)
        self.send_without_end()

    def do_talks_rubbish(self) -> None:
        self.wfile.write(b"\x1b[31mrubbish\r\n\r\n")

    def send_without_end(self) -> None:
        while not self.server.release.is_set():
            self.wfile.write(b"x" * 4096)
