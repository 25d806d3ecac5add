"""Files that are whole or not there: written under a temporary name in the same folder, then renamed; and whether they
may be written at all."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterable, Iterator

from engine.errors import RunError

# Asked for once: it can only be read by setting it, which would touch the files that other threads make meanwhile.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving, sync it to the disk and rename it; on an error, remove it."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name[:40]}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's mode is 0600, which would hide a result from the group that marks it.
        os.chmod(temporary, 0o666 & ~_UMASK)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_writable(folder: str, output: str) -> None:
    """RunError, which names `output`, unless a file can be made in `folder`.

    Folders that are missing are made for the try and taken away again.
    """
    missing = []
    path = os.path.abspath(folder)
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    made = []
    try:
        for path in reversed(missing):
            os.mkdir(path)
            made.append(path)
        with tempfile.TemporaryFile(dir=os.path.abspath(folder)):
            pass
    except OSError as error:
        raise cannot_write(output, error) from None
    finally:
        for path in reversed(made):
            with suppress(OSError):  # somebody else has put something there meanwhile
                os.rmdir(path)


def cannot_write(path: str, error: OSError) -> RunError:
    return RunError(f"{path}: cannot be written ({error.strerror or error}); give --output a place that can")


def refuse_replacing(output: str, inputs: Iterable[str]) -> None:
    """RunError when `output` exists and is one of `inputs` (under whatever name), or is no plain file."""
    if not os.path.exists(output):
        return
    if not os.path.isfile(output):
        raise RunError(f"{output}: exists and is not a plain file; give another --output")
    for path in inputs:
        if os.path.exists(path) and os.path.samefile(output, path):
            raise RunError(f"{output}: is the input {path}; give another --output")
