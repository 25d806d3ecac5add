"""What writes a run folder: its lock, its checkpoints, what it says and measures. How its files are called,
and how they are read, is in engine/run_folder.py.

Started again with the same command, a run resumes where its newest whole checkpoint lies; with other
arguments it is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Sequence

import torch

from engine import checkpoint, distributed, manifest
from engine.base import UserError, available_cores, plain_errors, printable, say, write_atomically, write_json
from engine.lock import is_free
from engine.run_folder import CONFIG, FILES, LAST, LOG, MAY_DIFFER, METRICS, PREVIOUS, SNAPSHOTS, TENSORBOARD


class Run:
    """One run folder, locked for this process; of several that train together the main one alone writes."""

    def __init__(
        self,
        folder: str | Path,
        script: str,
        arguments: dict[str, Any],
        recipe: dict[str, Any],
        inputs: dict[str, str | Sequence[str] | None] | None = None,
    ):
        """Make or reopen `folder`; `script` is the file that trains. `inputs` are the arguments that name a
        place, compared by what lies there: the names of images, or the path of a file. UserError when the
        folder is in use, is something else, or was made with other arguments."""
        self.folder = Path(folder)
        self._board = self._lock = None
        self._broken: dict[Path, UserError] = {}  # checkpoints that cannot be read
        begun = {
            "script": Path(script).name,
            "arguments": arguments,
            "recipe": recipe,
            "inputs": {name: _content(given) for name, given in (inputs or {}).items()},
            "total_steps": None,
            "precision": None,
            "micro_batch": None,
            "finished": False,
        }
        self.config = distributed.from_main(self._open(begun) if distributed.is_main() else None)

    def _open(self, begun: dict[str, Any]) -> dict[str, Any]:
        """Make or reopen the folder, of a run that is `begun` so; returns its config."""
        folder, config = self.folder, self.folder / CONFIG
        with plain_errors(folder):
            is_old = config.is_file()
            is_ours = is_old or self._lock_path.is_file()
            if not is_ours and folder.is_dir() and any(folder.iterdir()):
                raise UserError(f"{folder}: not empty and no run folder; give --output a new folder")
            if is_old:
                self._config_of_the_same(begun)
            self._refuse_strange_files()
            # Before anything else: what lies in a folder without a config and without a lock is not ours.
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
            (folder / SNAPSHOTS).mkdir(exist_ok=True)
            if config.is_file():
                return self._config_of_the_same(begun)  # another process may have begun it meanwhile
            values = {**begun, **_surroundings()}
            write_json(config, values)
            return values

    def _refuse_strange_files(self) -> None:
        """UserError where no file lies in the place of one: it would end the training hours later."""
        for name in FILES:
            path = self.folder / name
            if path.is_dir() or path.is_fifo() or path.is_socket():
                raise UserError(f"{path}: is no file; move it away, or give --output a new folder")

    @property
    def _lock_path(self) -> Path:
        return self.folder / ".lock"

    def _take_lock(self) -> IO:
        lock = open(self._lock_path, "w")  # held open for as long as the process lives
        if not is_free(lock.fileno()):
            lock.close()
            raise UserError(f"{self.folder}: another process trains here; wait or give another --output")
        return lock

    def _config_of_the_same(self, now: dict[str, Any]) -> dict[str, Any]:
        """What config.json says. UserError that names what is not as it was when the run was begun."""
        path = self.folder / CONFIG
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if not all(isinstance(config[name], dict) for name in ("arguments", "recipe", "inputs")):
                raise TypeError("arguments, recipe or inputs is no object")
            precision, size = config.get("precision"), config.get("micro_batch") or 2
            if precision not in (None, "fp32", "bf16", "fp16") or type(size) is not int or size < 2:
                raise TypeError("precision or micro_batch is none")
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error}); give --output a new folder") from None
        old = {**config["arguments"], **config["inputs"]}
        new = {**now["arguments"], **now["inputs"]}
        # A flag that the run is older than may be there, where it says nothing.
        silent = {
            name for name in new if name not in old and new[name] in (now["recipe"].get(name), None, "auto")
        }
        other = [
            f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
            for name in sorted({*old, *new} - {*MAY_DIFFER, *silent})
            if _plain(old.get(name)) != _plain(new.get(name))
        ]
        if other:
            advice = "repeat the first command or give another --output"
            raise UserError(f"{self.folder}: was started with other arguments ({'; '.join(other)}); {advice}")
        return config

    def settle_precision(self, chosen: str) -> str:
        """The precision that the run was begun in, on whatever device; at its begin the one `chosen`."""
        self.record(precision=self.config.get("precision") or chosen)
        return self.config["precision"]

    def settle_micro_batch(self, given: int | None) -> int | None:
        """What the micro-batch was halved to before; the one `given` where that is another than before."""
        if given not in (None, self.config.get("micro_batch_given")):
            self.record(micro_batch_given=given, micro_batch=given)
        return self.config.get("micro_batch")

    @property
    def is_finished(self) -> bool:
        return self.config.get("finished", False)

    def record_end(self) -> None:
        """All is done, also what is checked after the last score; the checkpoint before the last goes."""
        if distributed.is_main():
            with plain_errors(self.folder):
                (self.folder / PREVIOUS).unlink(missing_ok=True)
        self.record(finished=True)

    def record(self, **values: Any) -> None:
        """What config.json says from now on."""
        if all(self.config.get(name) == value for name, value in values.items()):
            return
        self.config.update(values)
        if distributed.is_main():
            with plain_errors(self.folder / CONFIG):
                write_json(self.folder / CONFIG, self.config)

    # -- checkpoints -----------------------------------------------------------------------------------------

    def save_last(self, state: dict[str, Any]) -> None:
        """Write last.pt; the one before becomes previous.pt. Killed at any point, one of them is whole."""
        if not distributed.is_main():
            return
        last = self.folder / LAST
        if last.is_file():
            os.replace(last, self.folder / PREVIOUS)
        checkpoint.save(last, state)

    def save(self, name: str, values: dict[str, Any]) -> None:
        """Write one more checkpoint into the folder."""
        if distributed.is_main():
            checkpoint.save(self.folder / name, values)

    def load_last(self) -> dict[str, Any] | None:
        """The newest whole checkpoint, None at the start; UserError when there are some but none can be read.
        Nothing is changed yet: a state that does not fit the network must not cost metrics (`resume_after`).
        """
        return distributed.from_main(self._load_last() if distributed.is_main() else None)

    def _load_last(self) -> dict[str, Any] | None:
        self._broken = {}
        for path in (self.folder / LAST, self.folder / PREVIOUS):
            if not path.is_file():
                continue
            try:
                return checkpoint.read_last(path, self.config["total_steps"])
            except UserError as error:
                self._broken[path] = error
        if self._broken:
            reasons = "; ".join(map(str, self._broken.values()))
            advice = "nothing is changed: mend the folder, or give --output a new one"
            raise UserError(f"{self.folder}: none of its checkpoints can be read ({reasons}); {advice}")
        return None

    def resume_after(self, step: int) -> None:
        """The state of that step is taken up: a broken newer one is set aside, later lines are dropped."""
        if not distributed.is_main():
            return
        with plain_errors(self.folder):
            for newer, reason in self._broken.items():
                aside = f"set aside as {newer.name}.broken, trying the one before"
                self.say(f"{newer}: broken ({reason}); {aside}")
                os.replace(newer, newer.with_suffix(".pt.broken"))
            self._broken = {}
            for leftover in self.folder.rglob(".*.part"):
                leftover.unlink()
            self._forget_metrics_after(step)

    def require(self, name: str) -> None:
        """UserError where a result of the run is not there any more, whose training is over."""
        if not (self.folder / name).is_file():
            advice = "bring it back, or train again with another --output"
            raise UserError(f"{self.folder}: the run is finished, but its {name} is gone; {advice}")

    # -- what it says ----------------------------------------------------------------------------------------

    def _forget_metrics_after(self, step: int) -> None:
        """Drop the lines of work that is about to be repeated, and a last line cut in half."""
        path = self.folder / METRICS
        if not path.is_file():
            return
        kept = []
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError, RecursionError):  # ValueError: no UTF-8 either
                if json.loads(line)["step"] <= step:
                    kept.append(line + b"\n")
        with write_atomically(path) as temporary:
            temporary.write_bytes(b"".join(kept))

    def log_metrics(self, step: int, epoch: int, **values: Any) -> None:
        """One line of metrics.jsonl, and every number among `values` to TensorBoard."""
        if not distributed.is_main():
            return
        line = {"step": step, "epoch": epoch, "time": round(time.time(), 3), **values}
        path = self.folder / METRICS
        with plain_errors(path), open(path, "a", encoding="utf-8") as metrics:
            metrics.write(json.dumps(line) + "\n")
        self._show(step, values)

    def _show(self, step: int, values: dict[str, Any]) -> None:
        """To TensorBoard: it is an extra, and whatever it lacks ends no training."""
        if self._board is False:
            return
        try:
            if self._board is None:
                from torch.utils.tensorboard import SummaryWriter  # takes a second to import

                self._board = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=step)
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, step)
        except Exception as error:  # a package that is missing, a name that is no UTF-8, a full disk
            self._board = False
            self.say(f"note: no events for TensorBoard ({type(error).__name__}: {error})")

    def say(self, line: str) -> None:
        """A line on stderr and in log.txt."""
        if not distributed.is_main():
            return
        say(line)
        # On a full disk the next checkpoint says so; the log is no reason to lose the steps until then.
        with suppress(OSError), open(self.folder / LOG, "a", encoding="utf-8") as log:
            log.write(time.strftime("%Y-%m-%d %H:%M:%S ") + printable(line) + "\n")

    def close(self) -> None:
        """Close its files and give up the lock; a process that ends does so by itself."""
        for file in (self._board, self._lock):
            if file:
                file.close()


class Stopper:
    """Asks the loop to stop after the step in hand: on Ctrl-C, SIGTERM, or when --max-minutes are over."""

    def __init__(self, max_minutes: float | None):
        self.deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
        self.signal: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.signal = number
        if number == signal.SIGINT:  # the second one ends at once; torchrun and schedulers repeat SIGTERM
            signal.signal(number, signal.SIG_DFL)
            say("stopping after this step; Ctrl-C once more ends at once")

    def asked(self) -> bool:
        return self.signal is not None or (self.deadline is not None and time.monotonic() >= self.deadline)

    def status(self) -> int:
        """Exit status: 0 when the minutes were over, 128 + signal as shells count it."""
        return 0 if self.signal is None else 128 + self.signal


def command_to_resume() -> str:
    processes = distributed.world_size()
    start = ["python3"] if processes == 1 else ["torchrun", "--nproc-per-node", str(processes)]
    return shlex.join([*start, *sys.argv])


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that a tuple equals the list that it became."""
    return json.loads(json.dumps(value, default=str))


def _content(given: str | Sequence[str] | None) -> str | None:
    """What lies at a place, in words: of images their number and names, of a file its bytes."""
    if given is None or (isinstance(given, str) and not os.path.isfile(given)):
        return given  # a word such as imagenet
    if isinstance(given, str):
        return f"sha256 {manifest.sha256_of(given)}"
    names = "\0".join(given).encode("utf-8", "surrogateescape")
    return f"{len(given)} images, sha256 of their names {hashlib.sha256(names).hexdigest()}"


def _surroundings() -> dict[str, Any]:
    """Versions, machine and commit, for whoever asks later how a figure came about."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": command_to_resume(),
        "commit": commit,
        "dirty": None if changes is None else bool(changes),  # whether files differ from the commit's
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {"system": platform.platform(), "cores": available_cores(), "gpu": gpu},
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _git(*words: str) -> str | None:
    """What git answers about this repository; None where there is no git or no repository."""
    here = Path(__file__).resolve().parent
    try:
        return subprocess.check_output(
            ["git", *words], cwd=here, stderr=subprocess.DEVNULL, text=True, timeout=10
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None
