"""Text from outside (file names, class names, arguments) made fit for a line, a table or a figure."""

from __future__ import annotations

import re
import unicodedata


def one_line(text: object, width: int) -> str:
    """The text without line ends, control characters and reversals of direction; longer than `width` columns
    it is cut, with an ellipsis. A Chinese character takes two columns."""
    kept: list[str] = []
    used, fitting = 0, 0  # columns of what is kept; how many of its marks leave a column for the ellipsis
    gap = ""
    for mark in str(text):
        if unicodedata.category(mark)[0] in "CZ":
            gap = " " if kept else ""
            continue
        for part in gap + mark:
            used += columns(part)
            if used > width:  # the rest, which may be megabytes, is not looked at
                return "".join(kept[:fitting]).rstrip() + "…"
            kept.append(part)
            if used < width:
                fitting = len(kept)
        gap = ""
    return "".join(kept)


def columns(text: str) -> int:
    """How wide a text is, in columns of Latin letters."""
    return sum(2 if unicodedata.east_asian_width(mark) in "WF" else 1 for mark in text)


def markdown(text: object, width: int = 60) -> str:
    """The text as one cell of a Markdown table: nothing in it is markup or HTML."""
    line = one_line(text, width)
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(mark, entity)
    # Inside a word _ is no markup, and file names read better without the backslash.
    return re.sub(r"[\\`*{}\[\]|~$#!]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)
