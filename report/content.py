"""A report as plain data, clean and checked: what the page and the PDF are both drawn from."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from PIL import Image

from report.document import Block, Gap, Picture, Report, Table, Text
from report.markdown_text import cleaned, read_markdown
from report.text import one_line

KINDS = {Text: "text", Table: "table", Picture: "picture", Gap: "gap"}
COLOUR = re.compile("#[0-9a-fA-F]{6}")
DOTS_AN_INCH = 150  # of every PNG that report.style saves


def content_of(report: Report, folder: Path) -> dict[str, Any]:
    """Everything that is drawn, in order, as dicts, lists, strings and numbers.

    Every text is clean (see `report.markdown_text.cleaned`) and one line, but for a gap's command and the
    student's words; each block has a "kind". A picture that is not below `folder`, or is broken, is a gap;
    others have their size and their PNG's bytes, which are read once, so that a file that vanishes later is
    missed by nobody.
    """
    problems = [
        {
            "title": line(problem.title),
            "questions": [
                {
                    "key": line(question.key),
                    "title": line(question.title),
                    "points": question.points,
                    "asks": line(question.asks),
                    "blocks": [_block(block, folder) for block in question.blocks],
                    "words": read_markdown(report.words.get(question.key, "")),
                }
                for question in problem.questions
            ],
        }
        for problem in report.problems
    ]
    named = {name: line(getattr(report, name)) for name in ("title", "student_id", "name", "date")}
    head = " · ".join(one_line(part, 60) for part in (named["name"], named["student_id"]) if part)
    return {
        **named,
        "head": head,
        "problems": problems,
        "sources": [line(source) for source in report.sources],
    }


def line(text: object) -> str:
    return " ".join(cleaned(text).split())


def _block(block: Block, folder: Path) -> dict[str, Any]:
    kind = KINDS[type(block)]
    if isinstance(block, Table):
        width = len(block.columns)
        swatches = [mark if mark and COLOUR.fullmatch(mark) else None for mark in block.swatches]
        return {
            "kind": kind,
            "caption": line(block.caption),
            "columns": [line(name) for name in block.columns],
            "rows": [[line(cell) for cell in (*row, *[""] * width)][:width] for row in block.rows],
            "numbers_from": block.numbers_from,
            "swatches": (swatches + [None] * width)[:width],
        }
    if isinstance(block, Picture):
        return _picture(block, folder)
    more = (
        {"command": "\n".join(cleaned(block.command).splitlines()).strip()} if isinstance(block, Gap) else {}
    )
    return {"kind": kind, "text": line(block.text), **more}


def _picture(picture: Picture, folder: Path) -> dict[str, Any]:
    """With its PNG and its size in inches, as drawn; a gap where there is no picture to be read."""
    path = folder / "figures" / f"{picture.name}.png"
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else "cannot be read"
        caption = f" ({line(picture.caption)})" if picture.caption else ""
        return {"kind": "gap", "text": f"figures/{line(picture.name)}.png{caption} {why}.", "command": ""}
    return {
        "kind": "picture",
        "name": picture.name,
        "caption": line(picture.caption),
        "alt": line(picture.alt),
        "width": width / DOTS_AN_INCH,
        "height": height / DOTS_AN_INCH,
        "data": data,
    }
