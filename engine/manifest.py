"""checkpoints/manifest.json: which trained weights there are, a problem's default, where they can be had.

The file may have come from anywhere, so nothing in it is believed before it is checked: a `file` is a plain
name inside `checkpoints/`, a hash is a hash, a URL is http, https or file. A share link may stand for
the file behind it (`direct_url`). Imports no torch: `get_checkpoints.sh` runs it alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from engine.base import UserError, open_regular, read_regular, write_json

FOLDER = Path(__file__).resolve().parent.parent / "checkpoints"
PROBLEMS = ("p1", "p1_50", "p2", "sam")  # p1_50: problem 1 of the editions with 50 classes

# In the file's order.
_KEYS = ("name", "problem", "default", "file", "sha256", "bytes", "urls", "network", "score")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\.(pt|pth)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LFS = b"version https://git-lfs"  # how the text begins that stands for a file where Git LFS is not installed
_LARGEST_MANIFEST = 1 << 20  # bytes; a thousand entries take half of it


def read() -> list[dict[str, Any]]:
    """The entries of the manifest, none where there is no file. UserError when something in it is wrong."""
    path, advice = FOLDER / "manifest.json", "take the one of the repository (git checkout)"
    try:
        value = json.loads(read_regular(path, _LARGEST_MANIFEST).decode("utf-8"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {advice}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not JSON; {advice}") from None
    try:
        if not isinstance(value, dict) or not isinstance(value.get("checkpoints"), list):
            raise UserError('not of the form {"checkpoints": [...]}')
        return checked(value["checkpoints"])
    except (UserError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from None


def write(entries: list[dict[str, Any]]) -> None:
    """Replace the manifest by these entries, checked first; it is whole at every moment."""
    write_json(FOLDER / "manifest.json", {"checkpoints": checked(entries)})


def default_checkpoint(problem: str) -> dict[str, Any] | None:
    """The entry that `problem` uses when the user names no checkpoint; None when there is none."""
    return next((entry for entry in read() if entry["problem"] == problem and entry["default"]), None)


def entry_path(entry: dict[str, Any]) -> Path:
    """Where an entry's file lies, or will lie."""
    return FOLDER / entry["file"]


def is_intact(entry: dict[str, Any]) -> bool:
    """Whether the file is there and its sha256 is the manifest's: reads all of it."""
    return not what_is_wrong(entry)


def what_is_wrong(entry: dict[str, Any]) -> str:
    """With the file of an entry, in words that end in what to do; "" when it is the published one."""
    path = entry_path(entry)
    if not path.is_file():
        return "is no file; move it away" if os.path.lexists(path) else "is missing"
    try:
        with open(path, "rb") as file:
            begin, size = file.read(len(_LFS)), os.fstat(file.fileno()).st_size
            if size == entry["bytes"]:
                is_same = digest_of(file) == entry["sha256"]
                return "" if is_same else "is another file or a damaged one (its sha256 differs)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if begin == _LFS:
        return "is a Git LFS pointer in the place of the weights (git lfs install; git lfs pull)"
    what = "cut off, or another file" if size < entry["bytes"] else "another file"
    return f"is {what} ({size} bytes, not {entry['bytes']})"


def sha256_of(path: str | Path) -> str:
    """The sha256 of a file, in hex."""
    try:
        with open_regular(path, sys.maxsize) as file:
            return digest_of(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def digest_of(file: BinaryIO) -> str:
    """The sha256 of an open file, from its beginning, in hex."""
    digest = hashlib.sha256()
    file.seek(0)
    for piece in iter(lambda: file.read(1 << 20), b""):
        digest.update(piece)
    return digest.hexdigest()


def checked(entries: list[Any]) -> list[dict[str, Any]]:
    """The entries with what is optional filled in. UserError names the first entry that is wrong, and why."""
    result = []
    for number, entry in enumerate(entries, start=1):
        try:
            result.append(_checked_entry(entry))
        except UserError as error:
            raise UserError(f"entry {number}: {error}") from None
    # Case is ignored: on some file systems A.pt and a.pt are one file.
    for key in ("name", "file"):
        values = [entry[key].lower() for entry in result]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise UserError(f"two entries have the {key} {twice[0]!r}")
    for problem in PROBLEMS:
        if sum(entry["default"] for entry in result if entry["problem"] == problem) > 1:
            raise UserError(f"{problem} has more than one default")
    return result


def check_name(name: Any) -> None:
    """UserError unless `name` can be a checkpoint's name, and with .pt the name of its file."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"name {name!a:.100} must be letters, digits, '.', '_', '-' (80 at most, no '/')")


def check_url(url: Any) -> None:
    """UserError unless `url` is a plain http, https or file URL (printable ASCII; with a host, but file)."""
    is_right = isinstance(url, str) and re.fullmatch(r"[!-~]{1,2000}", url)
    try:
        parts = urlsplit(url if is_right else "")
        has_host = parts.hostname and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or not (parts.scheme == "file" or (parts.scheme in ("http", "https") and has_host)):
        raise UserError(f"URL {url!a:.200} is not an http, https or file URL")


def _checked_entry(entry: Any) -> dict[str, Any]:
    """One entry, checked. What else it holds is kept as it is."""
    if not isinstance(entry, dict):
        raise UserError("not an object")
    optional = {"default": False, "urls": [], "network": "", "score": {}}
    entry = {**{key: optional.get(key) for key in _KEYS}, **entry}
    check_name(entry["name"])
    size, network = entry["bytes"], entry["network"]
    is_size = type(size) is int and 0 < size < 1 << 50
    wanted = {
        "problem": (entry["problem"] in PROBLEMS, "must be one of " + ", ".join(PROBLEMS)),
        "file": (_matches(_FILE, entry["file"]), "must be a plain file name that ends in .pt or .pth"),
        "sha256": (_matches(_SHA256, entry["sha256"]), "must be 64 small hexadecimal digits"),
        "bytes": (is_size, "must be a positive whole number"),
        "default": (isinstance(entry["default"], bool), "must be true or false"),
        "urls": (isinstance(entry["urls"], list), "must be a list of URLs"),
        "network": (isinstance(network, str) and network.isprintable(), "must be a builder's name"),
        "score": (_is_score(entry["score"]), "must be an object of numbers"),
    }
    for key, (right, rule) in wanted.items():
        if not right:
            raise UserError(f"({entry['name']}) {key} {entry[key]!a:.100} {rule}")
    for url in entry["urls"]:
        check_url(url)
    return entry


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_score(value: Any) -> bool:
    """{"mean_iou": 0.69} and the like: what inference prints on its first line."""
    return isinstance(value, dict) and all(
        key.isprintable() and type(number) in (int, float) and -1e9 < number < 1e9
        for key, number in value.items()
    )


# -- share links lead to a page about the file; here they become links to its bytes --------------------------

_HUGGING_FACE = ("/(?:(?:datasets|spaces)/)?[^/]+(?:/[^/]+)?", "resolve")
_GITHUB = ("/[^/]+/[^/]+", "raw")
# By host: what stands before "blob" in the path of a file's page, and what for "blob" in that of its bytes.
_PAGES = {
    "huggingface.co": _HUGGING_FACE,
    "www.huggingface.co": _HUGGING_FACE,
    "hf.co": _HUGGING_FACE,
    "github.com": _GITHUB,
    "www.github.com": _GITHUB,
}


def direct_url(url: str) -> str:
    """The URL of the bytes behind `url`; other sites' links stay as they are. UserError for a folder."""
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
    if host in _PAGES:
        repository, of_bytes = _PAGES[host]
        page = re.fullmatch(f"({repository})/(blob|tree)/(.+)", parts.path)
        if page and page[2] == "tree":
            raise _folder(url)
        if page:
            return urlunsplit(("https", host, f"{page[1]}/{of_bytes}/{page[3]}", parts.query, ""))
    return url


def _folder(url: str) -> UserError:
    return UserError(f"{url} is a link to a folder; share the file itself and take its link")


def _google_drive(url: str, path: str, query: dict[str, str]) -> str:
    if "/folders/" in path or "/folderview" in path:
        raise _folder(url)
    match = re.search(r"/d/([\w-]+)", path)
    identity = match.group(1) if match else query.get("id")
    if not identity:
        return url
    # confirm=t answers the page that asks, from about 100 MB on, whether to continue without a virus scan.
    wanted = {"id": identity, "export": "download", "confirm": "t"}
    if "resourcekey" in query:  # files shared before 2021 need it
        wanted["resourcekey"] = query["resourcekey"]
    return "https://drive.usercontent.google.com/download?" + urlencode(wanted)
