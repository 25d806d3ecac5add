"""Text from outside (file names, class names, arguments) made fit for a line, a table or a figure."""

from __future__ import annotations

import re
import unicodedata


def one_line(text: object, width: int) -> str:
    """The text without line ends, control characters and reversals of direction; longer than `width` columns it is cut,
    with an ellipsis. A Chinese character takes two columns."""
    kept = "".join(" " if unicodedata.category(mark)[0] in "CZ" else mark for mark in str(text))
    kept = " ".join(kept.split())
    if columns(kept) <= width:
        return kept
    while columns(kept) > width - 1:
        kept = kept[:-1]
    return kept.rstrip() + "…"


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
