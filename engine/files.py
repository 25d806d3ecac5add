"""Files that are whole or not there: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

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
