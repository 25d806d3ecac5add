"""Text from outside made fit to be shown: one line of a name, a cell of a table, the student's own words.

answers.md has a heading for each question, is made once, and is then the student's alone. Headings are found
by their number. HTML comments are no words, but in code they are. What is under no question's heading is left
out of the report, and a line on stderr says so. Its Markdown (CommonMark by markdown-it-py) becomes plain
data that page and PDF draw, so that neither has to trust it. Links, pictures and HTML stay the text that was
typed. A block is a dict with "kind" and

paragraph, heading  "runs": text with the marks bold, italic, code; "\\n" in it is a line's end
code                "text"
quote               "blocks"
list                "is_ordered", "start", "items" (of each its blocks)
rule                a line across the page
"""

from __future__ import annotations

import html
import os
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Sequence

from engine.base import UserError, cannot_write, read_regular, say, write_atomically

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

DEPTH = 6  # lists and quotes deeper inside one another than this are drawn as if they were this deep
CONTAINERS = ("bullet_list_open", "ordered_list_open", "blockquote_open")
OFF = ["link", "image", "autolink", "reference", "html_block", "html_inline"]
# Of a question's heading; lower ones are the student's, unless they begin with a question's number.
OUR_LEVEL = "##"
NUMBER = re.compile(r"\d+(?:\.\d+)+")
# One that was never closed is no comment: it must not swallow the headings up to the next one's end.
COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)


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


def cleaned(text: object) -> str:
    """The text with plain line ends, without what nobody sees and no file format should meet.

    That is control and format characters (which turn the direction of text), halves of surrogate pairs.
    """
    lines = re.sub("\r\n|[\r\u2028\u2029]", "\n", str(text)).expandtabs(4)
    kept = (mark for mark in lines if mark == "\n" or unicodedata.category(mark) not in ("Cc", "Cf"))
    return "".join("\ufffd" if unicodedata.category(mark) == "Cs" else mark for mark in kept)


def line(text: object) -> str:
    """The text as one line of any length."""
    return " ".join(cleaned(text).split())


# -- answers.md --------------------------------------------------------------------------------------------


def read_answers(path: Path, questions: Sequence[Any]) -> dict[str, str]:
    """The words under each question's heading, key → Markdown; questions without words are not in it.

    A missing file is made; one that is there never changes. UserError when it can neither be read nor made,
    or isn't UTF-8.
    """
    if not os.path.lexists(path):
        return _make(path, questions)
    words: dict[str, list[str]] = {}
    seen = set()
    keys = {line(question.key) for question in questions}
    for heading, text in _sections(_read(path), keys):
        number = NUMBER.match(heading)
        key = number.group() if number and number.group() in keys else None
        seen.add(key)
        if text and key:
            words.setdefault(key, []).append(text)
        elif text:
            place = f'under "{heading}"' if heading else "above the first heading"
            say(f"note: {path}: what is {place} belongs to no question and is left out of the report")
    for question in questions:
        if line(question.key) not in seen:
            say(f'note: {path}: has no heading "{_heading(question)}"; put one where its words shall be')
    return {key: "\n\n".join(parts) for key, parts in words.items()}


def _heading(question: Any) -> str:
    return f"{OUR_LEVEL} {line(question.key)} {line(question.title)}"


def _make(path: Path, questions: Sequence[Any]) -> dict[str, str]:
    """Write a new file with no words in it."""
    parts = ["# Answers\n"]
    for question in questions:
        comment = line(question.asks).replace("--", "-").replace(">", "")
        parts.append(f"{_heading(question)}\n\n<!-- {comment}; write below -->\n")
    try:
        with write_atomically(path) as part:
            part.write_bytes("\n".join(parts).encode())
    except OSError as error:
        raise cannot_write(str(path), error) from None
    return {}


def _read(path: Path) -> str:
    try:
        data = read_regular(path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be read ({reason}); it holds the report's answers") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise UserError(f"{path}: is not UTF-8 from line {number} on; save it as UTF-8") from None


def _without_comments(text: str) -> str:
    """The text without its HTML comments, but for those in code, which are words."""
    # A comment's own backticks open no code. All lengths stay, and so do the places of everything.
    quiet = COMMENT.sub(lambda match: re.sub("[`~]", "x", match.group()), text)
    code_lines: set[int] = set()
    spans: list[tuple[int, int, str]] = []  # first line, line after the last, code
    for token in parser().parse(quiet):
        if token.type in ("fence", "code_block"):
            code_lines.update(range(*token.map))
        for child in token.children or []:
            if child.type == "code_inline":
                spans.append((*token.map, child.content))

    def kept(match: re.Match) -> str:
        start = text.count("\n", 0, match.start())
        comment = quiet[match.start() : match.end()].replace("\n", " ")
        is_in_span = any(first <= start < end and comment in code for first, end, code in spans)
        return match.group() if start in code_lines or is_in_span else ""

    return COMMENT.sub(kept, text)


def _sections(text: str, keys: set[str]) -> list[tuple[str, str]]:
    """(heading, what is under it), in order; the first has no heading. In a block of code there are none."""
    text = _without_comments(cleaned(text))
    lines = text.split("\n")
    tokens = parser().parse(text)
    starts = [(0, 0, "")]
    for token, inline in zip(tokens, tokens[1:]):
        if token.type == "heading_open" and token.level == 0 and token.markup[0] == "#":
            number = NUMBER.match(inline.content)
            is_key = bool(number) and number.group() in keys
            if is_key or len(token.markup) <= len(OUR_LEVEL):
                starts.append((token.map[0], token.map[1], " ".join(inline.content.split())))
    ends = [*(start for start, _, _ in starts[1:]), len(lines)]
    bodies = [lines[body:end] for (_, body, _), end in zip(starts, ends)]
    return [(heading, "\n".join(body).strip("\n")) for (_, _, heading), body in zip(starts, bodies)]


# -- the student's Markdown ----------------------------------------------------------------------------------


def parser() -> MarkdownIt:
    """Past 60 levels markdown-it drops what is inside; its own limit is 20."""
    from markdown_it import MarkdownIt  # tables and figures need only the lines above

    return MarkdownIt("commonmark", {"html": False, "maxNesting": 60}).disable(OFF)


def read_markdown(text: str) -> list[dict[str, Any]]:
    return _blocks(iter(parser().parse(cleaned(text))), 0)


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
