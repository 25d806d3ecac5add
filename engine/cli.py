"""How scripts speak and end: plain lines on stderr, an exit status, no traceback when the user can mend it."""

from __future__ import annotations

import sys
from typing import Callable


def run_script(main: Callable[[], int | None]) -> None:
    """Run `main` and leave with its status (None is 0).

    An exception that carries `exit_status` is a message to the user. Anything else is our mistake and shows where.
    """
    try:
        status = main() or 0
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        status = 130
    except Exception as error:
        if hasattr(error, "exit_status"):
            message, status = " ".join(str(error).split()), error.exit_status
        elif type(error).__name__ == "OutOfMemoryError":  # torch's; this module imports no torch
            message, status = "the GPU's memory is short; give a smaller --batch-size, or --device cpu", 2
        else:
            raise
        print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def say(text: object) -> None:
    """One line on stderr; what a file name may hold beside printable characters is escaped."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(text))
    print(line, file=sys.stderr, flush=True)
