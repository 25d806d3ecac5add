"""The bytes behind one URL into one open file, whatever the server does: resumed, asked again, given up.

Nothing that a server says is believed: not its sizes, not its redirects, not that an answer of 200 is the
file. Standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection, responses
from itertools import chain
from typing import Any, BinaryIO, Iterator
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

from engine import manifest
from engine.base import Progress, UserError, say

TIMEOUT = 30.0  # seconds without a byte, or with fewer than SLOWEST bytes each, that count as a stall
ANSWER = 120.0  # seconds for connecting, redirects and headers together
SLOWEST = 1024
ATTEMPTS = 4  # at one URL without getting further
GAIN = 1 << 20  # bytes that make an attempt count as getting further
PAUSE = 1.0  # seconds before the second attempt, doubled from one to the next
CHUNK = 1 << 18


class Refused(Exception):
    """This URL will not give the file, however often it is asked."""


class Broken(Exception):
    """This attempt failed; the next may not."""


def download(url: str, entry: dict[str, Any], file: BinaryIO) -> None:
    """Fill `file` (read and written, unbuffered) from one URL until its sha256 is the entry's; what
    it holds is taken for its beginning. Refused when the URL does not give it; an OSError is the disk's."""
    try:
        direct = manifest.direct_url(url)
    except UserError as error:
        raise Refused(str(error)) from None
    say(f"{entry['name']}: {entry['bytes'] / 1e6:.1f} MB from {url}")
    failures = mismatches = 0
    while True:
        before = size_of(file)
        try:
            if before < entry["bytes"]:
                _transfer(direct, entry, file)
            if manifest.digest_of(file) == entry["sha256"]:
                return
            mismatches += 1
            file.truncate(0)
            problem = "what came is another file (its sha256 differs)"
        except Broken as broken:
            problem = str(broken)
        failures = 0 if size_of(file) - before >= GAIN else failures + 1
        # The first mismatch may be the fault of an old part; the second is this URL's.
        if failures == ATTEMPTS or mismatches == 2:
            raise Refused(problem)
        say(f"{entry['name']}: {problem}; trying again")
        time.sleep(PAUSE * 2 ** max(failures - 1, 0))


def size_of(file: BinaryIO) -> int:
    """The size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def _transfer(url: str, entry: dict[str, Any], file: BinaryIO) -> None:
    """Ask once, and append to `file` what is missing."""
    wanted = entry["bytes"]
    with closing(_Watch()) as watch, _open_url(url, file, watch) as response:
        done = _place(response, file, wanted)
        pieces = _pieces(response, watch)
        first = next(pieces, b"")
        if _is_page(response.headers, first if done == 0 else b""):
            raise Refused("an HTML page came instead of the file (is the link shared with everyone?)")
        length = response.headers.get("Content-Length", "").strip()
        if response.getcode() != 206 and length.isdigit() and length != str(wanted):
            raise Refused(f"is a file of {length[:20]} bytes, not of {wanted}")
        with closing(Progress(entry["name"], done, wanted, unit="B")) as progress:
            for piece in chain([first], pieces):
                if done + len(piece) > wanted:
                    file.truncate(0)
                    raise Refused(f"sends more than the {wanted} bytes of the file")
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
                done += len(piece)
                progress.advance(count=len(piece))
    if done < wanted:
        raise Broken(f"the connection ended after {done} of {wanted} bytes")


def _open_url(url: str, file: BinaryIO, watch: _Watch) -> Any:
    """Ask for what `file` lacks; returns the open answer, over a connection that `watch` may cut."""
    headers = {"User-Agent": "get_checkpoints", "Accept-Encoding": "identity"}
    if size_of(file):
        headers["Range"] = f"bytes={size_of(file)}-"
    try:
        opener = request.build_opener(_Redirects, _Connections(watch))
        response = opener.open(request.Request(url, headers=headers), timeout=TIMEOUT)
        if watch.has_cut:  # a header that was cut short counts as one
            response.close()
            raise TimeoutError
        return response
    except HTTPError as error:
        error.close()
        if error.code == 416 and "Range" in headers:
            file.truncate(0)
            raise Broken("the server cannot resume from there") from None
        reason = f"HTTP status {error.code} ({responses.get(error.code, 'unknown')})"
        if error.code in (401, 403, 404):
            reason += "; is the link right, and shared with everyone?"
        raise (Broken if error.code in (408, 425, 429) or error.code >= 500 else Refused)(reason) from None
    except (OSError, HTTPException, ValueError) as error:
        if watch.has_cut:
            raise Broken(f"stalled: no answer in {ANSWER:g} seconds") from None
        if isinstance(error, ValueError):
            raise Refused("leads to something that is no address") from None
        is_untrusted = isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError)
        lasts = is_untrusted or url.startswith("file:")
        raise (Refused if lasts else Broken)(_reason(error)) from None


class _Watch:
    """Cuts the connections of one attempt when what comes before the answer's body takes longer than ANSWER
    seconds, or the body comes at fewer than SLOWEST bytes a second: a socket's own timeout begins anew with
    every byte, and headers, chunk sizes or trailers that drip would hold us for ever."""

    def __init__(self) -> None:
        self.received: int | None = None  # bytes of the body; None before it begins
        self.has_cut = False
        self._sockets: list[socket.socket] = []
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def connect(self, *address: Any) -> socket.socket:
        """As socket.create_connection."""
        connection = socket.create_connection(*address)
        self._sockets.append(connection.dup())  # TLS takes the first one's place
        if self.has_cut:
            self._cut()
        return connection

    def _watch(self) -> None:
        started, before = time.monotonic(), None
        while not self._is_over.wait(TIMEOUT):
            received = self.received
            if received is None:
                is_slow = time.monotonic() - started >= ANSWER
            else:
                is_slow = before is not None and received - before < SLOWEST * TIMEOUT
                before = received
            if is_slow:
                self.has_cut = True
                self._cut()
                return

    def _cut(self) -> None:
        for connection in self._sockets:
            with suppress(OSError):  # the other side was faster
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._is_over.set()
        for connection in self._sockets:
            connection.close()


class _Connections(request.HTTPHandler, request.HTTPSHandler):
    """Opens connections that a _Watch knows."""

    def __init__(self, watch: _Watch):
        super().__init__()
        self.watch = watch

    def http_open(self, req: request.Request) -> Any:
        return self.do_open(partial(self._connection, HTTPConnection), req)

    def https_open(self, req: request.Request) -> Any:
        return self.do_open(partial(self._connection, HTTPSConnection), req)

    def _connection(self, kind: type, host: str, **options: Any) -> HTTPConnection:
        connection = kind(host, **options)
        connection._create_connection = self.watch.connect
        return connection


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects, but only to http and https, and never from https to http."""

    def redirect_request(
        self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        fp.close()  # or urllib would read its body to the end, however long that is
        target = urlsplit(newurl).scheme
        if target not in ("http", "https") or (req.type, target) == ("https", "http"):
            raise Refused("redirects to an address that is not safe to follow")
        return request.Request(newurl, headers=req.headers)

    http_error_308 = request.HTTPRedirectHandler.http_error_302  # Python knows it from 3.11 on


def _place(response: Any, file: BinaryIO, wanted: int) -> int:
    """Set `file` to where the answer's bytes belong, and return that place."""
    start = 0  # an answer of 200 is the whole file, whether or not a piece was asked for
    if response.getcode() == 206:
        given = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", given)
        if match and match.group(2) not in ("*", str(wanted)):
            raise Refused(f"is a file of {match.group(2)} bytes, not of {wanted}")
        if not match or int(match.group(1)) != size_of(file):
            file.truncate(0)
            raise Broken("the server sent another piece than the one asked for")
        start = size_of(file)
    file.truncate(start)
    file.seek(start)
    return start


def _pieces(response: Any, watch: _Watch) -> Iterator[bytes]:
    """The body as it comes. Broken when it stops coming."""
    watch.received, problem = 0, ""
    try:
        for piece in iter(lambda: response.read1(CHUNK), b""):
            yield piece
            watch.received += len(piece)
    except (OSError, HTTPException, ValueError) as error:
        problem = _reason(error)
    if watch.has_cut:
        problem = f"stalled: {watch.received} bytes, then fewer than {SLOWEST} a second"
    if problem:
        raise Broken(problem)


def _reason(error: BaseException) -> str:
    error = getattr(error, "reason", error)  # URLError wraps what happened
    if "timed out" in str(error):
        return f"stalled: nothing came for {TIMEOUT:g} seconds"
    # What a server wrote may hold control characters.
    return ascii(getattr(error, "strerror", None) or str(error) or type(error).__name__)[1:200].rstrip("'\"")


def _is_page(headers: Any, first: bytes) -> bool:
    if headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        return True
    start = first.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
    return start.startswith((b"<!doctype html", b"<html"))
