"""Text from outside made fit to be shown: one line of a name, a cell of a table, the student's Markdown.

The Markdown becomes plain data that the page and the PDF both draw, so that neither has to trust it. It is
CommonMark by markdown-it-py: paragraphs, lists, bold, italic, code, blocks of code, quotes, headings. Links,
pictures and HTML stay the text that was typed. A block is a dict with "kind" and

paragraph, heading  "runs": text with the marks bold, italic, code; "\\n" in it is a line's end
code                "text"
quote               "blocks"
list                "is_ordered", "start", "items" (of each its blocks)
rule                a line across the page
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import TYPE_CHECKING, Any, Iterator

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

DEPTH = 6  # lists and quotes deeper inside one another than this are drawn as if they were this deep
CONTAINERS = ("bullet_list_open", "ordered_list_open", "blockquote_open")
OFF = ["link", "image", "autolink", "reference", "html_block", "html_inline"]


def one_line(text: object, width: int) -> str:
    """The text without line ends, control characters and reversals of direction.

    Longer than `width` columns it is cut, with an ellipsis. A Chinese character takes two columns.
    """
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
    line = html.escape(one_line(text, width), quote=False)
    # Inside a word _ is no markup, and file names read better without the backslash.
    return re.sub(r"[\\`*{}\[\]|~$#!]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


# -- the student's Markdown ----------------------------------------------------------------------------------


def parser() -> MarkdownIt:
    """Past 60 levels markdown-it drops what is inside; its own limit is 20."""
    from markdown_it import MarkdownIt  # tables and figures need only the lines above

    return MarkdownIt("commonmark", {"html": False, "maxNesting": 60}).disable(OFF)


def read_markdown(text: str) -> list[dict[str, Any]]:
    return _blocks(iter(parser().parse(cleaned(text))), 0)


def cleaned(text: object) -> str:
    """The text with plain line ends, without what nobody sees and no file format should meet.

    That is control and format characters (which turn the direction of text), halves of surrogate pairs.
    """
    lines = re.sub("\r\n|[\r\u2028\u2029]", "\n", str(text)).expandtabs(4)
    kept = (mark for mark in lines if mark == "\n" or unicodedata.category(mark) not in ("Cc", "Cf"))
    return "".join("\ufffd" if unicodedata.category(mark) == "Cs" else mark for mark in kept)


def _blocks(tokens: Iterator[Token], depth: int) -> list[dict[str, Any]]:
    """The blocks up to the end of the one that the next token stands in."""
    blocks: list[dict[str, Any]] = []
    for token in tokens:
        if token.nesting == -1:
            break
        if token.nesting == 1:
            blocks += _opened(token, _blocks(tokens, depth + (token.type in CONTAINERS)), depth)
        elif token.type == "inline":
            blocks.append({"kind": "paragraph", "runs": _runs(token.children or [])})
        elif token.type in ("fence", "code_block"):
            blocks.append({"kind": "code", "text": token.content.rstrip("\n")})
        elif token.type == "hr":
            blocks.append({"kind": "rule"})
        else:  # whatever else the parser may know: as it was typed
            blocks.append({"kind": "paragraph", "runs": [_run(token.markup or token.content, set())]})
    return blocks


def _opened(token: Token, inside: list[dict[str, Any]], depth: int) -> list[dict[str, Any]]:
    """What stands for an element with these blocks in it."""
    if token.type == "heading_open":
        return [{**block, "kind": "heading"} for block in inside]
    if token.type == "list_item_open":
        return [{"kind": "item", "blocks": inside}]
    if token.type in CONTAINERS and depth >= DEPTH:
        lists = [block["blocks"] if block["kind"] == "item" else [block] for block in inside]
        return [part for parts in lists for part in parts]
    if token.type == "blockquote_open":
        return [{"kind": "quote", "blocks": inside}]
    if token.type in CONTAINERS:
        start = int(token.attrs.get("start", 1))
        items = [block["blocks"] for block in inside]
        return [{"kind": "list", "is_ordered": token.type[0] == "o", "start": start, "items": items}]
    return inside


def _runs(tokens: list[Token]) -> list[dict[str, Any]]:
    """Text with its marks; two beside one another that are marked alike are one."""
    runs: list[dict[str, Any]] = []
    marks: list[str] = []
    for position, token in enumerate(tokens):
        kind = token.type.rsplit("_", 1)[0]
        if kind in ("strong", "em"):
            marks.append(kind) if token.nesting == 1 else marks.remove(kind)
            continue
        if token.type == "softbreak":
            # The mark beside a line's end may be one that opens or closes bold: the letter beyond it counts.
            before = next((run["text"][-1] for run in reversed(runs) if run["text"]), "")
            later = (tokens[place].content for place in range(position + 1, len(tokens)))
            text = _between(before, next((content[0] for content in later if content), ""))
        else:
            text = "\n" if token.type == "hardbreak" else token.content
        run = _run(text, {*marks, *(["code"] if token.type == "code_inline" else [])})
        if runs and {**runs[-1], "text": ""} == {**run, "text": ""}:
            run["text"] = runs.pop()["text"] + text
        runs.append(run)
    return runs


def _between(before: str, after: str) -> str:
    """What a line's end between two characters stands for: nothing where both are Chinese, else a space."""
    return "" if columns(before) == columns(after) == 2 else " "


def _run(text: str, marks: set[str]) -> dict[str, Any]:
    return {"text": text, "bold": "strong" in marks, "italic": "em" in marks, "code": "code" in marks}
