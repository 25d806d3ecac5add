"""Progress: a bar where somebody watches, one plain line every half minute where a log file does."""

from __future__ import annotations

import math
import sys
import time


def clock(seconds: float) -> str:
    """95 → '1:35', 5400 → '1:30:00'."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class Progress:
    """Counts steps on stderr: tqdm's bar on a terminal, otherwise a line at most every `interval` seconds."""

    def __init__(
        self, label: str, done: int = 0, total: int | None = None, interval: float = 30.0, is_shown: bool = True
    ):
        self.label, self.done, self.first, self.total, self.interval = label, done, done, total, interval
        self.started = self.said = time.monotonic()
        self.bar = None
        if not is_shown:
            self.interval = math.inf
        elif sys.stderr.isatty():
            try:
                from tqdm import tqdm

                self.bar = tqdm(desc=label, initial=done, total=total, unit="step", dynamic_ncols=True)
            except ImportError:
                pass

    def advance(self, note: str, total: int | None = None) -> None:
        """One step more. `note` says how it goes (loss, rate)."""
        self.done += 1
        self.total = total or self.total
        if self.bar is not None:
            self.bar.total = self.total
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update()
            return
        now = time.monotonic()
        if now - self.said >= self.interval:
            self.said = now
            pace = (now - self.started) / (self.done - self.first)
            left = f", {clock(pace * (self.total - self.done))} left" if self.total else ""
            of = f"/{self.total}" if self.total else ""
            print(f"{self.label}: step {self.done}{of}, {note}{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
