"""The bytes behind one URL into one open file: resumed, tried again, never more than announced, checked by
sha256.

Nothing that a server says is believed: not its sizes, not its redirects, not that an answer of 200 is the
file.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import time
from contextlib import contextmanager
from http.client import HTTPException, responses
from itertools import chain
from typing import Any, BinaryIO, Callable, Iterator
from urllib import request
from urllib.error import HTTPError
from urllib.parse import urlsplit

from engine.base import UserError
from engine.links import direct_url
from engine.manifest import digest_of

TIMEOUT = 30.0  # seconds without a byte, or with fewer than SLOWEST bytes each, that count as a stall
SLOWEST = 1024
ATTEMPTS = 4  # at one URL without getting further
GAIN = 1 << 20  # bytes that make an attempt count as getting further
PAUSE = 1.0  # seconds before the second attempt, doubled from one to the next
CHUNK = 1 << 18
HTML = "an HTML page came instead of the file (is the link shared with everyone?)"


class Refused(Exception):
    """This URL will not give the file, however often it is asked."""


class Broken(Exception):
    """This attempt failed; the next may not."""


def download(url: str, entry: dict[str, Any], file: BinaryIO) -> None:
    """Fill `file` (open for reading and writing, unbuffered) from one URL until its sha256 is the entry's.

    What the file holds is taken for its beginning. Refused when the URL does not give it; an OSError is the
    disk's.
    """
    try:
        direct = direct_url(url)
    except UserError as error:
        raise Refused(str(error)) from None
    say(f"{entry['name']}: {entry['bytes'] / 1e6:.1f} MB from {url}")
    failures = mismatches = 0
    while True:
        before = size_of(file)
        try:
            if before < entry["bytes"]:
                _transfer(direct, entry, file)
            if digest_of(file) == entry["sha256"]:
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


def say(line: str) -> None:
    """A line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def _transfer(url: str, entry: dict[str, Any], file: BinaryIO) -> None:
    """Ask once, and append to `file` what is missing."""
    wanted = entry["bytes"]
    with _open_url(url, file) as response:
        done = _place(response, file, wanted)
        pieces = _pieces(response)
        first = next(pieces, b"")
        if _is_page(response.headers, first if done == 0 else b""):
            raise Refused(HTML)
        length = response.headers.get("Content-Length", "").strip()
        if response.getcode() != 206 and length.isdigit() and length != str(wanted):
            raise Refused(f"is a file of {length[:20]} bytes, not of {wanted}")
        with _meter(entry["name"], done, wanted) as show:
            for piece in chain([first], pieces):
                if done + len(piece) > wanted:
                    file.truncate(0)
                    raise Refused(f"sends more than the {wanted} bytes of the file")
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
                done += len(piece)
                show(done)
    if done < wanted:
        raise Broken(f"the connection ended after {done} of {wanted} bytes")


def _open_url(url: str, file: BinaryIO) -> Any:
    """Ask for what `file` lacks; returns the open answer."""
    headers = {"User-Agent": "get_checkpoints", "Accept-Encoding": "identity"}
    if size_of(file):
        headers["Range"] = f"bytes={size_of(file)}-"
    opener = request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    try:
        return opener.open(request.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and "Range" in headers:
            file.truncate(0)
            raise Broken("the server cannot go on from there") from None
        reason = f"HTTP status {error.code} ({responses.get(error.code, 'unknown')})"
        if error.code in (401, 403, 404):
            reason += "; is the link right, and shared with everyone?"
        raise (Broken if error.code in (408, 425, 429) or error.code >= 500 else Refused)(reason) from None
    except ValueError:
        raise Refused("leads to something that is no address") from None
    except (OSError, HTTPException) as error:
        lasting = url.startswith("file:") or isinstance(
            getattr(error, "reason", None), ssl.SSLCertVerificationError
        )
        raise (Refused if lasting else Broken)(_reason(error)) from None


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects, but only to http and https, and never from https to http."""

    def redirect_request(
        self, req: request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        fp.close()  # or urllib would read its body to the end, however long that is
        target = urlsplit(newurl).scheme
        if target not in ("http", "https") or (req.type, target) == ("https", "http"):
            raise Refused("redirects to an address that is not safe to follow")
        return request.Request(
            newurl, headers=req.headers, origin_req_host=req.origin_req_host, unverifiable=True
        )

    http_error_308 = request.HTTPRedirectHandler.http_error_302  # Python knows it from 3.11 on


# build_opener would add ftp: and data: to these.
_HANDLERS = (
    request.ProxyHandler,
    request.HTTPHandler,
    request.HTTPSHandler,
    request.FileHandler,
    request.HTTPErrorProcessor,
    request.HTTPDefaultErrorHandler,
    _Redirects,
)


def _place(response: Any, file: BinaryIO, wanted: int) -> int:
    """Set `file` to where the answer's bytes belong, and return that place."""
    start = 0  # an answer of 200 is the whole file, whether or not a piece was asked for
    if response.getcode() == 206:
        match = re.fullmatch(
            r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", "")
        )
        if match and match.group(2) not in ("*", str(wanted)):
            raise Refused(f"is a file of {match.group(2)} bytes, not of {wanted}")
        if not match or int(match.group(1)) != size_of(file):
            file.truncate(0)
            raise Broken("the server sent another piece than the one asked for")
        start = size_of(file)
    file.truncate(start)
    file.seek(start)
    return start


def _pieces(response: Any) -> Iterator[bytes]:
    """The body as it comes. Broken when it stops coming."""
    since, received = time.monotonic(), 0
    while True:
        try:
            piece = response.read1(CHUNK)
        except (OSError, HTTPException, ValueError) as error:
            raise Broken(_reason(error)) from None
        if not piece:
            return
        yield piece
        received += len(piece)
        if time.monotonic() - since > TIMEOUT:
            if received < SLOWEST * TIMEOUT:
                raise Broken(f"stalled: {received} bytes in {TIMEOUT:g} seconds")
            since, received = time.monotonic(), 0


def _reason(error: BaseException) -> str:
    error = getattr(error, "reason", error)  # URLError wraps what happened
    if "timed out" in str(error):
        return f"stalled: nothing came for {TIMEOUT:g} seconds"
    # What a server wrote may hold control characters.
    return ascii(getattr(error, "strerror", None) or str(error) or type(error).__name__)[1:200].rstrip("'\"")


def _is_page(headers: Any, first: bytes) -> bool:
    kind = headers.get("Content-Type", "").lower()
    start = first.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
    return kind.startswith(("text/html", "application/xhtml")) or start.startswith(
        (b"<!doctype html", b"<html")
    )


@contextmanager
def _meter(name: str, done: int, total: int) -> Iterator[Callable[[int], None]]:
    """Yields show(bytes so far): a bar on a terminal that has tqdm, otherwise a line every half minute."""
    bar = None
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm

            bar = tqdm(desc=name, initial=done, total=total, unit="B", unit_scale=True, dynamic_ncols=True)
        except ImportError:
            pass
    said = time.monotonic()

    def show(now: int) -> None:
        nonlocal said
        if bar is not None:
            bar.update(now - bar.n)
        elif time.monotonic() - said >= 30:
            said = time.monotonic()
            say(f"{name}: {now / 1e6:.1f} of {total / 1e6:.1f} MB")

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
