from __future__ import annotations


class RunError(Exception):
    """Something from outside is wrong; the message tells the user what, where and what to do next."""

    exit_status = 2
