"""Decoded images, kept as one file of bytes: decoding 2,000 tiles takes a minute, mapping it no time.

Images keep their own sizes. The file lies in the user's cache folder (never beside the data) under a name
made from what went in, so a changed image makes a new file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Callable, Literal, Sequence

import numpy as np

from engine.base import UserError, available_cores, read_regular, say, sync

_VERSION = 1
_READING = ".reading-"  # how names of unfinished files start
_DAY = 24 * 60 * 60  # seconds


def default_cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlcv-hw1"


class ImageCache:
    """Arrays of uint8 by index; `shapes[i]` is () where a file could not be read, as `errors` says."""

    def __init__(self, data: Path, index: dict):
        self.shapes = [tuple(shape) for shape in index["shapes"]]
        self.errors = index["errors"]
        self.offsets = np.concatenate([[0], np.cumsum([int(np.prod(s)) if s else 0 for s in self.shapes])])
        self.path = data
        self._bytes = None

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        if self._bytes is None:  # mapped by each worker for itself
            self._bytes = _mapped(self.path)
        start, stop = self.offsets[index], self.offsets[index + 1]
        if self._bytes is False:
            image = np.fromfile(self.path, np.uint8, count=stop - start, offset=start)
        else:
            image = self._bytes[start:stop]
        return image.reshape(self.shapes[index])

    def as_one(self, shape: tuple[int, ...]) -> np.ndarray:
        """All bytes as one array of this shape; writing into it changes this process's copy alone."""
        # Mode "c": torch warns of arrays that are read-only.
        mapped = _mapped(self.path, mode="c")
        return (np.fromfile(self.path, np.uint8) if mapped is False else mapped).reshape(shape)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_bytes": None}


def _mapped(path: Path, mode: str = "r") -> np.ndarray | Literal[False]:
    """The bytes of a file; False where its file system cannot map files, and they have to be read."""
    try:
        return np.memmap(path, dtype=np.uint8, mode=mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES):
            raise
        return False


def cached_images(
    paths: Sequence[Path], read: Callable[[Path], np.ndarray], name: str, cache: str | Path | None
) -> ImageCache:
    """Read every path with `read` (→ uint8 array; may raise UserError), or map what an earlier call has read.

    `name` says what `read` makes of a file ("tile", "training160"); files are known by path, size and time of
    change. A broken cache is made anew. UserError when it cannot be written or read.
    """
    folder = Path(cache) if cache else default_cache_folder()
    data = folder / f"{name}-{_fingerprint(paths, name)}.bin"
    index = data.with_suffix(".json")
    try:
        is_there = index.is_file() and data.is_file()
        found = _opened(data, index, len(paths)) if is_there else None
        if found is None:
            why = " again, the ones there are broken" if is_there else ""
            say(f"reading {len(paths)} images into {data}{why}")
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            found = ImageCache(data, _build(paths, read, data, index))
    except OSError as error:
        reason = f"the cache cannot be made or read ({error.strerror or error})"
        raise UserError(f"{data}: {reason}; give --cache another folder") from None
    return found


def _opened(data: Path, index: Path, count: int) -> ImageCache | None:
    """The cache of `count` images that lies there; None if its index or its size is not what was written."""
    try:
        found = ImageCache(data, json.loads(read_regular(index).decode("utf-8")))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # no JSON, or another's
        return None
    is_whole = len(found) == count and data.stat().st_size == found.offsets[-1]
    return found if is_whole and isinstance(found.errors, dict) else None


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing; younger files may be of one that is still at it."""
    for path in folder.glob(f"{_READING}*"):
        with suppress(OSError):  # another process was faster, or the file is somebody else's
            if path.stat().st_mtime < time.time() - _DAY:
                path.unlink()


def _fingerprint(paths: Sequence[Path], name: str) -> str:
    digest = hashlib.sha256(f"{_VERSION} {name}\n".encode())
    for path in paths:
        try:
            status = os.stat(path)
            known = f"{status.st_size}\t{status.st_mtime_ns}"
        except OSError:
            known = "missing"
        digest.update(f"{os.path.abspath(path)}\t{known}\n".encode("utf-8", "replace"))
    return digest.hexdigest()[:24]


def _build(paths: Sequence[Path], read: Callable[[Path], np.ndarray], data: Path, index: Path) -> dict:
    """Write both files, the index last. Returns the index."""
    shapes, errors = [], {}

    def attempt(path: Path):
        try:
            return read(path)
        except UserError as error:
            return error

    handle, temporary = tempfile.mkstemp(dir=str(data.parent), prefix=_READING)
    try:
        with os.fdopen(handle, "wb") as file, ThreadPoolExecutor(min(8, available_cores())) as pool:
            # In portions, so that a fast reader does not pile decoded images up before a slow disk.
            for start in range(0, len(paths), 64):
                for image in pool.map(attempt, paths[start : start + 64]):
                    if isinstance(image, UserError):
                        errors[str(len(shapes))] = str(image)
                        shapes.append(())
                    else:
                        shapes.append(image.shape)
                        file.write(np.ascontiguousarray(image, dtype=np.uint8).data)
            sync(file)
        os.replace(temporary, data)
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"shapes": shapes, "errors": errors}, file)
            sync(file)
        os.replace(temporary, index)
        return {"shapes": shapes, "errors": errors}
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
