"""The student's own words: answers.md, a heading for each question, made once and then the student's alone.

Headings are found by their number. HTML comments are no words, but in code they are. What is under no
question's heading is left out of the report, and a line on stderr says so.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Sequence

from engine.base import UserError, cannot_write, read_regular, say
from report.document import Question, line
from report.text import cleaned, parser

# Of a question's heading; lower ones are the student's, unless they begin with a question's number.
OUR_LEVEL = "##"
NUMBER = re.compile(r"\d+(?:\.\d+)+")
# One that was never closed is no comment: it must not swallow the headings up to the next one's end.
COMMENT = re.compile(r"<!--(?:(?!<!--).)*?-->", re.DOTALL)


def read_answers(path: Path, questions: Sequence[Question]) -> dict[str, str]:
    """The words under each question's heading, key → Markdown; questions without words are not in it.

    A missing file is made; one that is there never changes. UserError when it can neither be read nor made,
    or isn't UTF-8.
    """
    with suppress(FileExistsError):
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


def _heading(question: Question) -> str:
    return f"{OUR_LEVEL} {line(question.key)} {line(question.title)}"


def _make(path: Path, questions: Sequence[Question]) -> dict[str, str]:
    """Write a new file with no words in it; FileExistsError when there is anything, even something broken."""
    parts = ["# Answers\n"]
    for question in questions:
        comment = line(question.asks).replace("--", "-").replace(">", "")
        parts.append(f"{_heading(question)}\n\n<!-- {comment}; write below -->\n")
    try:
        with open(path, "x", encoding="utf-8", newline="\n") as file:
            file.write("\n".join(parts))
    except FileExistsError:
        raise
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
