"""Get the checkpoints that the manifest lists: resumed, from the first mirror that has them, checked by
sha256.

    bash get_checkpoints.sh              # the published weights of both problems
    bash get_checkpoints.sh vit_b        # Segment Anything's, only when asked for

A file is downloaded beside its place and renamed when its sha256 is right. The unfinished part carries the
start of the wanted sha256 in its name: whichever mirror it came from, it is a piece of that file; should it
not be, the hash tells, and the download begins anew. Nothing that a server says is believed: not its sizes,
not its redirects, not that an answer of 200 is the file. Standard library only, so that it runs before
anything is installed.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import shutil
import ssl
import time
from contextlib import closing, contextmanager
from http.client import HTTPException, responses
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Iterator
from urllib import request
from urllib.error import HTTPError
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from engine import manifest
from engine.base import Progress, UserError, run_script, say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TIMEOUT = 30.0  # seconds without a byte, or with fewer than SLOWEST bytes each, that count as a stall
SLOWEST = 1024
ATTEMPTS = 4  # at one URL without getting further
GAIN = 1 << 20  # bytes that make an attempt count as getting further
PAUSE = 1.0  # seconds before the second attempt, doubled from one to the next
CHUNK = 1 << 18


class NotAvailable(UserError):
    """One checkpoint that cannot be had now; others may."""


class Refused(Exception):
    """This URL will not give the file, however often it is asked."""


class Broken(Exception):
    """This attempt failed; the next may not."""


# -- a checkpoint into its place -----------------------------------------------------------------------------


def fetch(entry: dict[str, Any]) -> Path:
    """Bring the entry's file into place unless it is there and good; returns its path. Speaks on stderr only.

    NotAvailable when no URL gives it, UserError when the disk does not take it. A wrong file that lies there
    stays until a good one replaces it.
    """
    name, path, problems = entry["name"], manifest.entry_path(entry), []
    if manifest.is_intact(entry):
        return path
    if path.exists():
        say(f"{name}: {path} is not the published file (its size or sha256 differs)")
    if not entry["urls"]:
        raise NotAvailable(
            f"{name}: {path} is {'another file' if path.exists() else 'missing'} and the manifest lists no "
            f"URL for it; where git keeps it: git checkout -- {path.parent.name}/{path.name}; "
            "or train one and publish it: python3 -m engine.publish --help"
        )
    try:
        with _own_part(path, entry) as (part, file):
            if manifest.is_intact(entry):  # another process was faster
                file.truncate(0)
                return path
            if shutil.disk_usage(path.parent).free < entry["bytes"] - size_of(file):
                raise OSError(errno.ENOSPC, "no room for it")
            for url in entry["urls"]:
                if problems:
                    say(f"{name}: {problems[-1]}; trying the next URL")
                try:
                    _download(url, entry, file)
                    break
                except Refused as refusal:
                    problems.append(f"{url}: {refusal}")
            else:
                untouched = "; the file that is there was left as it is" if path.exists() else ""
                raise NotAvailable(f"{name} could not be had: {'; '.join(problems)}{untouched}")
            os.fsync(file.fileno())
            os.replace(part, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "make room and start again, it resumes from there"
            raise UserError(f"{path}: the disk is full; {hint}") from None
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    say(f"{name}: complete, sha256 checked")
    return path


@contextmanager
def _own_part(path: Path, entry: dict[str, Any]) -> Iterator[tuple[Path, BinaryIO]]:
    """The unfinished file, locked against other processes. It stays for the next try if it holds anything."""
    part, file = _open_part(path.with_name(f"{path.name}.{entry['sha256'][:12]}.part"), entry["name"])
    with file:
        try:
            yield part, file
        finally:
            if size_of(file) == 0 and _is_same_file(file, part):
                part.unlink()


def _open_part(part: Path, name: str) -> tuple[Path, BinaryIO]:
    while True:
        # Unbuffered: a full disk shows when writing, not at some later close.
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            _lock(file, name)
        except OSError:  # a file system without locks: a part that no other process knows
            file.close()
            part = part.with_name(f"{part.name}.{os.getpid()}.part")
            return part, open(part, "w+b", buffering=0)
        # Between opening and locking, the other process may have given this very file its final name.
        if _is_same_file(file, part):
            return part, file
        file.close()


def _lock(file: BinaryIO, name: str) -> None:
    """Wait until no other process has it. OSError where there are no locks."""
    if fcntl is None:
        raise OSError(errno.ENOLCK, "no locks here")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"{name}: another process is downloading it; waiting for that")
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_same_file(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


# -- the bytes behind one URL into one open file -------------------------------------------------------------


def _download(url: str, entry: dict[str, Any], file: BinaryIO) -> None:
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
    with _open_url(url, file) as response:
        done = _place(response, file, wanted)
        pieces = _pieces(response)
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


def _open_url(url: str, file: BinaryIO) -> Any:
    """Ask for what `file` lacks; returns the open answer."""
    headers = {"User-Agent": "get_checkpoints", "Accept-Encoding": "identity"}
    if size_of(file):
        headers["Range"] = f"bytes={size_of(file)}-"
    try:
        opener = request.build_opener(_Redirects)
        return opener.open(request.Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and "Range" in headers:
            file.truncate(0)
            raise Broken("the server cannot resume from there") from None
        reason = f"HTTP status {error.code} ({responses.get(error.code, 'unknown')})"
        if error.code in (401, 403, 404):
            reason += "; is the link right, and shared with everyone?"
        raise (Broken if error.code in (408, 425, 429) or error.code >= 500 else Refused)(reason) from None
    except ValueError:
        raise Refused("leads to something that is no address") from None
    except (OSError, HTTPException) as error:
        is_untrusted = isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError)
        lasts = is_untrusted or url.startswith("file:")
        raise (Refused if lasts else Broken)(_reason(error)) from None


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
    if headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        return True
    start = first.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
    return start.startswith((b"<!doctype html", b"<html"))


# -- share links lead to a page about the file; here they become links to its bytes --------------------------


def direct_url(url: str) -> str:
    """The URL that gives the bytes behind `url`; links of other sites come back as they are.

    UserError for a folder.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    host = (parts.hostname or "").lower()
    if host in ("drive.google.com", "docs.google.com", "drive.usercontent.google.com"):
        return _google_drive(url, parts.path, query)
    if host in ("dropbox.com", "www.dropbox.com"):
        query.pop("raw", None)
        # rlkey and st, where there, are the permission: they stay.
        query["dl"] = "1"
        return urlunsplit(("https", host, parts.path, urlencode(query), ""))
    return url


def _google_drive(url: str, path: str, query: dict[str, str]) -> str:
    if "/folders/" in path or "/folderview" in path:
        raise UserError(f"{url} is a link to a folder; share the file itself and take its link")
    match = re.search(r"/d/([\w-]+)", path)
    identity = match.group(1) if match else query.get("id")
    if not identity:
        return url
    # confirm=t answers the page that asks, from about 100 MB on, whether to continue without a virus scan.
    wanted = {"id": identity, "export": "download", "confirm": "t"}
    if "resourcekey" in query:  # files shared before 2021 need it
        wanted["resourcekey"] = query["resourcekey"]
    return "https://drive.usercontent.google.com/download?" + urlencode(wanted)


# -- the command ---------------------------------------------------------------------------------------------


def _chosen(names: list[str]) -> list[dict[str, Any]]:
    """The entries of these names; without a name, what the two problems publish."""
    entries = {entry["name"]: entry for entry in manifest.read()}
    unknown = [name for name in names if name not in entries]
    if unknown:
        raise UserError(
            f"no checkpoint is called {unknown[0]!a}; the manifest has: {', '.join(entries) or 'none'}"
        )
    if names:
        return [entries[name] for name in dict.fromkeys(names)]
    ours = [entry for entry in entries.values() if entry["problem"] != "sam"]
    return [entry for entry in ours if entry["default"] or entry["urls"]]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="get_checkpoints.sh",
        description="Download the published checkpoints and check those that are there.",
        epilog="Exit status: 0 all in place, 1 some could not be had, 2 none could, or the disk is full.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a name in checkpoints/manifest.json (default: what both problems publish); vit_b, vit_l, vit_h "
        "are Segment Anything's (0.4, 1.2, 2.6 GB)",
    )
    entries = _chosen(parser.parse_args().names)
    missing, fetched = [], False
    for entry in entries:
        try:
            intact = manifest.is_intact(entry)
            path = manifest.entry_path(entry) if intact else fetch(entry)
            print(f"{entry['name']}: in place, {path}", flush=True)
            fetched = fetched or not intact
        except NotAvailable as error:
            say(f"error: {error}")
            missing.append(entry["name"])
    if missing:
        say(f"not in place: {', '.join(missing)}")
        return 2 if len(missing) == len(entries) else 1
    if not entries:
        print("nothing to do: the manifest publishes no weights (Segment Anything's: vit_b, vit_l or vit_h)")
    else:
        print("all in place" if fetched else "nothing to do: all in place, sha256 checked")
    return 0


if __name__ == "__main__":
    run_script(main)
