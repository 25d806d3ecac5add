"""Get the checkpoints that the manifest lists: resumed, from the first mirror that has them, checked.

    bash get_checkpoints.sh              # the published weights of both problems
    bash get_checkpoints.sh vit_b        # Segment Anything's, only when asked for

A file is downloaded beside its place and renamed when its sha256 is right. The unfinished part has the start
of the wanted sha256 in its name: whichever mirror it came from, it is a piece of that file, or the hash tells
and the download begins anew. Standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Iterator

from engine import manifest
from engine.base import UserError, run_script, say, sync
from engine.transfer import Refused, download, size_of


class NotAvailable(UserError):
    """One checkpoint that cannot be had now; others may."""


# -- a checkpoint into its place -----------------------------------------------------------------------------


def fetch(entry: dict[str, Any]) -> Path:
    """Bring the entry's file into place unless it is there and good; returns its path. NotAvailable when no
    URL gives it, UserError when the disk does not take it. A wrong file stays until a good one replaces it.
    """
    name, path, problems = entry["name"], manifest.entry_path(entry), []
    what = manifest.what_is_wrong(entry)
    if not what:
        return path
    if not entry["urls"]:
        raise NotAvailable(
            f"{name}: {path} {what} and the manifest lists no URL for it; where git keeps it: "
            f"git checkout -- {path.parent.name}/{path.name}; "
            "or train one and publish it: python3 -m engine.publish --help"
        )
    if path.exists():
        say(f"{name}: {path} is not the published file: it {what}")
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
                    download(url, entry, file)
                    break
                except Refused as refusal:
                    problems.append(f"{url}: {refusal}")
            else:
                untouched = "; the file that is there was left as it is" if path.exists() else ""
                raise NotAvailable(f"{name} could not be had: {'; '.join(problems)}{untouched}")
            sync(file)
            os.replace(part, path)
    except OSError as error:
        reason = f": cannot be written ({error.strerror})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = ": the disk is full; make room and start again, it resumes from there"
        if error.errno == errno.ELOOP:
            reason = f".{entry['sha256'][:12]}.part: is a link or no plain file; move it away and start again"
        raise UserError(f"{path}{reason}") from None
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
        # Never through a link to a file elsewhere, nor into a pipe.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        # Unbuffered: a full disk shows when writing, not at some later close.
        file = os.fdopen(os.open(part, flags, 0o666), "r+b", buffering=0)
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            file.close()
            raise OSError(errno.ELOOP, "a link or no plain file")
        try:
            _lock(file, name)
        except (OSError, ImportError):  # without locks: a part that no other process knows
            file.close()
            part = part.with_name(f"{part.name}.{os.getpid()}.part")
            return part, open(part, "w+b", buffering=0)
        # Between opening and locking, the other process may have given this very file its final name.
        if _is_same_file(file, part):
            return part, file
        file.close()


def _lock(file: BinaryIO, name: str) -> None:
    """Wait until no other process has it. OSError where there are no locks, on Windows ImportError."""
    import fcntl

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


# -- the command ---------------------------------------------------------------------------------------------


def _chosen(names: list[str]) -> list[dict[str, Any]]:
    """The entries of these names; without a name, what the two problems publish."""
    entries = {entry["name"]: entry for entry in manifest.read()}
    unknown = [name for name in names if name not in entries]
    if unknown:
        known = ", ".join(entries) or "none"
        raise UserError(f"no checkpoint is called {unknown[0]!a}; the manifest has: {known}")
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
    names = "a name in checkpoints/manifest.json (default: what both problems publish); vit_t, vit_b, "
    names += "vit_l, vit_h are Segment Anything's (0.04, 0.4, 1.2, 2.6 GB)"
    parser.add_argument("names", nargs="*", metavar="NAME", help=names)
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
        print("nothing to do: the manifest publishes no weights (Segment Anything's: vit_t, vit_b, ...)")
    else:
        print("all in place" if fetched else "nothing to do: all in place, sha256 checked")
    return 0


if __name__ == "__main__":
    run_script(main)
