"""The ground floor, which every module may import: errors, messages, progress, cores, the reading and the
writing of files.

It imports nothing of ours and no package but tqdm, beside a terminal: --help and mistakes don't wait.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Callable, Iterable, Iterator, TextIO


class UserError(Exception):
    """Something from outside is wrong; the message tells the user what, where and what to do next."""

    exit_status = 2


class Stopped(Exception):
    """The training was asked to stop before its end, and has saved; holds the script's exit status."""


# -- how scripts speak and end -------------------------------------------------------------------------------


def run_script(main: Callable[[], int | None]) -> None:
    """Run `main` and leave with its status (None is 0). A UserError is one line on stderr, and so is a lack
    of memory; anything else is our mistake and shows where."""
    speak_safely()
    try:
        status = main() or 0
    except Stopped as stopped:
        status = stopped.args[0]
    except KeyboardInterrupt:
        say("stopped by Ctrl-C")
        status = 130
    except UserError as error:
        say(f"error: {' '.join(str(error).split())}")
        status = error.exit_status
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        say("error: the memory is short; give a smaller --batch-size, or --device cpu for a GPU's")
        status = 2
    sys.exit(status)


def printable(text: object, kept: str = "") -> str:
    """The text with escapes for what a terminal would obey (and halves of surrogates), but those `kept`."""

    def shown(character: str) -> str:
        if character.isprintable() or character in kept:
            return character
        return character.encode("unicode_escape", "backslashreplace").decode()

    return "".join(map(shown, str(text)))


def say(text: object) -> None:
    """One line on stderr, over a progress bar that stands there."""
    over_the_bar = "\r\033[K" if sys.stderr is not None and sys.stderr.isatty() else ""
    stream = getattr(sys.stderr, "bare", sys.stderr)
    _attempt(lambda: print(over_the_bar + printable(text), file=stream, flush=True))


def speak_safely() -> None:
    """From now on what cannot be said stops nothing: a stream that is closed, full, read by nobody, or of an
    encoding that lacks a letter; and what is said moves no terminal."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file would get its number, and what libraries print with it
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        if not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream))


class SafeStream:
    """stdout or stderr, cleaned, never a reason to end, whoever writes there; `bare` is behind it."""

    def __init__(self, bare: TextIO):
        self.bare = bare

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)

    def write(self, text: str) -> int:
        _attempt(lambda: self.bare.write(printable(text, kept="\n\r\t")))  # tqdm's bar starts with \r
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        _attempt(self.bare.flush)


def _attempt(call: Callable[[], Any]) -> None:
    # RuntimeError: a signal's handler that prints in the middle of a print.
    with suppress(OSError, ValueError, RuntimeError):
        call()


# -- the machine ---------------------------------------------------------------------------------------------


def available_cores() -> int:
    """Processor cores that this process may use: under taskset or in a container not all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """Threads or processes that read: as many as this process has cores, 8 at most."""
    return min(8, available_cores())


def is_out_of_memory(error: BaseException) -> bool:
    """torch says it in several ways, mostly as RuntimeError: CUDA's allocator, cuDNN, cuBLAS, mps, CPU."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    phrases = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(phrase in said for phrase in phrases)


# -- progress: a bar where somebody watches, one plain line every half minute where a log file does ----------


def clock(seconds: float) -> str:
    """95 → '1:35', 5400 → '1:30:00'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Counts steps (or bytes: unit "B") on stderr: tqdm's bar on a terminal, else a line each half minute."""

    def __init__(
        self, label: str, done: int = 0, total: int | None = None, is_shown: bool = True, unit: str = "step"
    ):
        self.label, self.done, self.first, self.total, self.unit = label, done, done, total, unit
        self.interval = 30.0 if is_shown else math.inf
        self.started = self.said = time.monotonic()
        self.bar = None
        if is_shown and sys.stderr is not None and sys.stderr.isatty():
            with suppress(ImportError):
                from tqdm import tqdm

                shown = {"desc": printable(label), "unit": unit, "dynamic_ncols": True}
                # unit_scale: 3.2 MB instead of 3200000 B
                self.bar = tqdm(initial=done, total=total, unit_scale=unit == "B", **shown)

    def advance(self, note: str = "", count: int = 1) -> None:
        """`count` steps more. `note` says how it goes (loss, rate)."""
        self.done += count
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.set_postfix_str(printable(note), refresh=False)
            self.bar.update(count)
            return
        now = time.monotonic()
        if now - self.said >= self.interval:
            self.said = now
            pace = (now - self.started) / (self.done - self.first)
            left = f", {clock(pace * (self.total - self.done))} left" if self.total else ""
            note = f", {note}" if note else ""
            say(f"{self.label}: {self._place()}{note}{left}")

    def _place(self) -> str:
        if self.unit == "B":
            of = f" of {self.total / 1e6:.1f}" if self.total else ""
            return f"{self.done / 1e6:.1f}{of} MB"
        of = f"/{self.total}" if self.total else ""
        return f"{self.unit} {self.done}{of}"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


# -- files from outside: a pipe would be waited for without end, a device read without end -------------------

LARGEST_TEXT = 64 << 20  # bytes of a table, of JSON, of answers: far more than any of ours
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)


def open_regular(path: str | Path, largest: int) -> BinaryIO:
    """A regular file of at most `largest` bytes, open for reading; OSError says what it is else."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK))
    status = os.fstat(file.fileno())
    is_regular = stat.S_ISREG(status.st_mode)
    if is_regular and status.st_size <= largest:
        return file
    file.close()
    raise _too_large(path, largest) if is_regular else OSError(errno.EINVAL, "not a regular file", str(path))


def read_regular(path: str | Path, largest: int = LARGEST_TEXT) -> bytes:
    """All bytes of a regular file; OSError, see open_regular, also where it grows beyond `largest`."""
    with open_regular(path, largest) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise _too_large(path, largest)
    return data


def _too_large(path: str | Path, largest: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {largest / 1e6:,.0f} MB", str(path))


# -- files of weights, before torch reads them ---------------------------------------------------------------


def damage_of_zip(path: str | Path) -> str:
    """What is wrong with a zip file, the form in which torch saves; "" when nothing is, or it is no zip file.

    torch.load does not check the sums that the file holds. OSError when the file cannot be read.
    """
    import zipfile  # only what reads weights needs it

    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":  # as torch tells them from its older files
            return ""
        try:
            with zipfile.ZipFile(file) as archive:
                if sum(part.file_size for part in archive.infolist()) > os.path.getsize(path):
                    return "its parts are larger than the file"  # compressed: torch never does that
                damaged = archive.testzip()
        except OSError:
            raise
        except Exception as error:  # BadZipFile, zlib.error, NotImplementedError, EOFError, struct.error, ...
            return f"damaged or cut off: {str(error)[:100] or type(error).__name__}"
    return f"damaged: the bytes of {damaged!a:.100} are not those that were saved" if damaged else ""


# -- files that are whole or not there: written under a temporary name in the same folder, then renamed ------

LONGEST_IN_PART = 40  # characters of its name that a file's temporary name keeps
_UMASK = os.umask(0o077)  # can only be read by setting it; once, for it touches what other threads make
os.umask(_UMASK)


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is renamed to it on leaving, or removed on an error."""
    folder, name = os.path.split(path)
    prefix = f".{name[:LONGEST_IN_PART]}."
    handle, name = tempfile.mkstemp(dir=folder or ".", prefix=prefix, suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp's mode is 0600, which would hide a result from the group that marks it.
        with suppress(OSError):  # network shares may know no modes
            os.chmod(temporary, 0o666 & ~_UMASK)
        with open(temporary, "rb+") as file:
            sync(file)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(file: IO) -> None:
    """To the disk, lest a power cut leave a whole name with half the bytes; where the file system can."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # the bytes are not all there
            raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON; a path that is no UTF-8 is escaped, and read as it was."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_writable(folder: str, output: str) -> None:
    """UserError, which names `output`, unless a file can be made in `folder`."""
    with writing_into(folder, output):
        tempfile.TemporaryFile(dir=os.path.abspath(folder)).close()


@contextmanager
def writing_into(folder: str, output: str) -> Iterator[None]:
    """Missing folders are made, and taken away where nothing lies in them; what the disk refuses becomes a
    UserError that names `output`."""
    missing, path = [], os.path.abspath(folder)
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        if missing:
            os.makedirs(missing[0], exist_ok=True)  # another process may be making it too
        yield
    except OSError as error:
        wanted, failed = os.path.abspath(folder), os.path.abspath(os.fsdecode(error.filename or folder))
        if not (failed.startswith(wanted) or wanted.startswith(failed)):
            raise  # of a file elsewhere
        raise cannot_write(output, error) from None
    finally:
        for path in missing:
            with suppress(OSError):  # something lies there now
                os.rmdir(path)


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """What the disk refuses becomes a message to the user."""
    try:
        yield
    except OSError as error:
        where, reason = error.filename or path, error.strerror or error
        raise UserError(f"{where}: {reason}; make room, or choose another --output") from None


def cannot_write(path: str, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror or error}); give --output a place that can")


def refuse_replacing(output: str, inputs: Iterable[str]) -> None:
    """UserError when `output` exists and is one of `inputs` (under whatever name), or is no plain file."""
    if not os.path.exists(output):
        return
    if not os.path.isfile(output):
        raise UserError(f"{output}: exists and is not a plain file; give another --output")
    for path in inputs:
        if os.path.exists(path) and os.path.samefile(output, path):
            raise UserError(f"{output}: is the input {path}; give another --output")
