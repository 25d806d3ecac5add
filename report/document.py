"""What a report consists of: the assignment's questions with the blocks that answer them.

And the same as plain data, clean and checked, which the page and the PDF are both drawn from.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Sequence, Union

from PIL import Image

from engine.base import read_regular
from report.text import cleaned, one_line, read_markdown


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text; no mark in it means anything."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells of plain text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    numbers_from: int = 1  # columns from this one on (0 is the first) are figures and stand to the right
    swatches: tuple[str | None, ...] = ()  # a colour such as #00ffff before each column's name; () for none


@dataclass(frozen=True)
class Picture:
    """figures/NAME.png and figures/NAME.pdf below the report's folder."""

    name: str
    caption: str
    alt: str  # what it shows, for those who cannot see it


@dataclass(frozen=True)
class Gap:
    """What is missing, and the command that fills it ("" where no one command does)."""

    text: str
    command: str = ""


Block = Union[Text, Table, Picture, Gap]


@dataclass(frozen=True)
class Question:
    """A question of the assignment with what the runs say to it; the student's words are Report.words."""

    key: str  # "1.1"
    title: str
    points: int  # per cent of the homework
    asks: str  # the assignment's words, in short
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class Problem:
    title: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Report:
    title: str
    student_id: str
    name: str
    date: str  # YYYY-MM-DD, of the newest run; "" where there is none
    problems: tuple[Problem, ...]
    words: dict[str, str] = field(default_factory=dict)  # the student's, key → Markdown
    sources: tuple[str, ...] = ()  # the run folders that it was made of

    @property
    def questions(self) -> list[Question]:
        return [question for problem in self.problems for question in problem.questions]


# -- what the assignment asks --------------------------------------------------------------------------------

QUESTIONS = (
    Question(
        "1.1",
        "The pre-training",
        5,
        "The implementation details of your SSL method: method, data augmentation, learning-rate schedule, "
        "optimiser, batch size.",
    ),
    Question(
        "1.2",
        "Settings A to E",
        20,
        "The classification accuracy of Office-Home's validation set for each of the five settings, "
        "discussed.",
    ),
    Question(
        "1.3",
        "t-SNE of setting C",
        5,
        "The learned representations of setting C on the train set, the output of the penultimate layer, "
        "from the first and the last epoch.",
    ),
    Question(
        "2.1",
        "Model A, VGG16-FCN32s",
        3,
        "Draw the network architecture of your VGG16-FCN32s model (model A).",
    ),
    Question(
        "2.2",
        "Model B, the improved one",
        3,
        "Draw the network architecture of the improved model (model B), and explain how it differs from A.",
    ),
    Question("2.3", "Mean IoU of both", 1, "The mIoU of both models on the validation set."),
    Question(
        "2.4",
        "Masks during training",
        3,
        "The predicted masks of 0013, 0062 and 0104 at the early, the middle and the final stage of "
        "training.",
    ),
    Question(
        "2.5",
        "Segment Anything",
        10,
        "Segment three of the validation images with SAM; show the results and describe the method.",
    ),
)


def answered(key: str, blocks: Sequence[Block]) -> Question:
    """The question of that key with what answers it."""
    return replace(next(question for question in QUESTIONS if question.key == key), blocks=tuple(blocks))


# -- the same as plain data ----------------------------------------------------------------------------------

KINDS = {Text: "text", Table: "table", Picture: "picture", Gap: "gap"}
COLOUR = re.compile("#[0-9a-fA-F]{6}")
DOTS_AN_INCH = 150  # of every PNG that report.style saves


def content_of(report: Report, folder: Path) -> dict[str, Any]:
    """Everything that is drawn, in order, as dicts, lists, strings and numbers.

    Every text is clean (see `report.text.cleaned`) and one line, but for a gap's command and the student's
    words; each block has a "kind". A picture that is not below `folder`, or is broken, is a gap; others have
    their size and their PNG's bytes, read once, so that nobody misses a file that vanishes later.
    """

    def plain(question: Question) -> dict[str, Any]:
        return {
            **{name: line(getattr(question, name)) for name in ("key", "title", "asks")},
            "points": question.points,
            "blocks": [_block(block, folder) for block in question.blocks],
            "words": read_markdown(report.words.get(question.key, "")),
        }

    problems = [
        {"title": line(problem.title), "questions": [plain(question) for question in problem.questions]}
        for problem in report.problems
    ]
    named = {name: line(getattr(report, name)) for name in ("title", "student_id", "name", "date")}
    head = " · ".join(one_line(part, 60) for part in (named["name"], named["student_id"]) if part)
    sources = [line(source) for source in report.sources]
    return {**named, "head": head, "problems": problems, "sources": sources}


def pictures_in(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The pictures among the blocks of `content_of`, in order."""
    questions = [question for problem in content["problems"] for question in problem["questions"]]
    return [block for question in questions for block in question["blocks"] if block["kind"] == "picture"]


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
    if isinstance(block, Gap):
        command = "\n".join(cleaned(block.command).splitlines()).strip()
        return {"kind": kind, "text": line(block.text), "command": command}
    return {"kind": kind, "text": line(block.text)}


def _picture(picture: Picture, folder: Path) -> dict[str, Any]:
    """With its PNG and its size in inches, as drawn; a gap where there is no picture to be read."""
    path = folder / "figures" / f"{picture.name}.png"
    try:
        data = read_regular(path)
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
