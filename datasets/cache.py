"""Decoded images, kept as one file of bytes: decoding 2,000 tiles takes a minute, mapping the file takes none.

Images keep their own sizes. The file lies in the user's cache folder (never beside the data) under a name made from
what went in, so a changed image makes a new file.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from datasets.errors import DataError

_VERSION = 1


def default_cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlcv-hw1"


class ImageCache:
    """Arrays of uint8 by index; `shapes[i]` is () where the file could not be read (its reason is in `errors`)."""

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
            self._bytes = np.memmap(self.path, dtype=np.uint8, mode="r")
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self._bytes[start:stop].reshape(self.shapes[index])

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_bytes": None}


def cached_images(
    paths: Sequence[Path], read: Callable[[Path], np.ndarray], name: str, cache: str | Path | None
) -> ImageCache:
    """Read every path with `read` (→ uint8 array; may raise DataError), or map what an earlier call has read.

    `name` says what `read` makes of a file ("tile", "photo160"); files are known by path, size and time of change.
    """
    folder = Path(cache) if cache else default_cache_folder()
    data = folder / f"{name}-{_fingerprint(paths, name)}.bin"
    index = data.with_suffix(".json")
    try:
        if not index.is_file() or not data.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            print(f"reading {len(paths)} images into {data}", file=sys.stderr)
            _build(paths, read, data, index)
        found = ImageCache(data, json.loads(index.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{data}: the cache cannot be made or read ({error}); delete it or give --cache DIR") from None
    if data.stat().st_size != found.offsets[-1] or len(found) != len(paths):
        raise DataError(f"{data}: the cache is broken; delete it and run again")
    return found


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


def _build(paths: Sequence[Path], read: Callable[[Path], np.ndarray], data: Path, index: Path) -> None:
    shapes, errors = [], {}

    def attempt(path: Path):
        try:
            return read(path)
        except DataError as error:
            return error

    handle, temporary = tempfile.mkstemp(dir=str(data.parent), prefix=".reading-")
    try:
        with os.fdopen(handle, "wb") as file, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            # In portions, so that a fast reader does not pile decoded images up before a slow disk.
            for start in range(0, len(paths), 64):
                for image in pool.map(attempt, paths[start : start + 64]):
                    if isinstance(image, DataError):
                        errors[str(len(shapes))] = str(image)
                        shapes.append(())
                    else:
                        shapes.append(image.shape)
                        file.write(np.ascontiguousarray(image, dtype=np.uint8).data)
        os.replace(temporary, data)
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"shapes": shapes, "errors": errors}, file)
        os.replace(temporary, index)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
