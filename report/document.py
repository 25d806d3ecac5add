"""What a report consists of, before it is a page or a PDF: problems, their questions, and what answers
each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Union


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text; no mark in it means anything."""

    text: str


@dataclass(frozen=True)
class Table:
    """Cells of plain text.

    Columns from `numbers_from` on (0 is the first) are figures and stand to the right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    numbers_from: int = 1
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
    """One question of the assignment with what the runs say to it; the student's words are kept beside, by
    its key.
    """

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
