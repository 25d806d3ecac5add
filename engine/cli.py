"""How every script ends: its exit status, and one plain line instead of a traceback when the user can mend it."""

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
        if type(error).__name__ == "OutOfMemoryError" and not hasattr(error, "exit_status"):
            print("error: the GPU's memory is short; give a smaller --batch-size, or --device cpu", file=sys.stderr)
            sys.exit(2)
        if not hasattr(error, "exit_status"):
            raise
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        status = error.exit_status
    sys.exit(status)
