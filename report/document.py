"""What a report consists of: the assignment's questions with the blocks that answer them; and the same as
plain data, clean and checked, which the page and the PDF are both drawn from.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Sequence, Union

from PIL import Image

from datasets.editions import Edition
from engine.base import read_regular
from report.text import cleaned, line, one_line, read_markdown


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


@dataclass(frozen=True)
class Listing:
    """Lines as a program printed them."""

    text: str
    caption: str


Block = Union[Text, Table, Picture, Gap, Listing]


@dataclass
class Question:
    """A question of the assignment with what the runs say to it; the student's words are Report.words."""

    key: str  # "1.1"
    title: str
    points: int  # per cent of the homework
    asks: str  # the assignment's words, in short
    blocks: Sequence[Block] = ()
    name: str = ""  # of QUESTIONS


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
    homework: str = "hw1"

    @property
    def questions(self) -> list[Question]:
        return [question for problem in self.problems for question in problem.questions]


# -- what the assignment asks --------------------------------------------------------------------------------

STAGES = "at the early, the middle and the final stage of training"
FEATURES = "the output of the penultimate layer for the validation set"
# Name → (title, the assignment's words in short). Which of them a year asks says datasets/editions.py; its
# tiles stand for "{tiles}".
QUESTIONS = {
    "pretraining": (
        "The pre-training",
        "The implementation details of your SSL method: method, data augmentation, learning-rate schedule, "
        "optimiser, batch size.",
    ),
    "settings": (
        "Settings A to E",
        "The classification accuracy of Office-Home's validation set for each of the five settings, "
        "discussed.",
    ),
    "tsne": (
        "t-SNE of setting C",
        "The learned representations of setting C on the train set, the output of the penultimate layer, "
        "from the first and the last epoch.",
    ),
    "classifier_printed": ("The network", "Print the architecture of your network."),
    "accuracy": ("Accuracy", "The accuracy of your network on the validation set."),
    "validation_tsne": ("t-SNE", f"Visualise {FEATURES} by t-SNE, and explain it."),
    "classifier_drawn": (
        "The networks",
        "Draw the network architecture of model A (trained from scratch) or of model B.",
    ),
    "classifiers_accuracy": ("Accuracy of A and B", "The accuracy of both models on the validation set."),
    "classifier_a": ("Model A in detail", "The implementation details of model A."),
    "classifier_b": ("Model B", "The alternative model or method of B, and how it differs from A."),
    "features_pca": ("PCA of model A", f"Visualise {FEATURES} by PCA, and explain it."),
    "features_tsne": (
        "t-SNE of model A",
        f"Visualise {FEATURES} by t-SNE, from three epochs, the first and the last among them; explain it.",
    ),
    "model_a": (
        "Model A, VGG16-FCN32s",
        "Draw the network architecture of your VGG16-FCN32s model (model A).",
    ),
    "model_b": (
        "Model B, the improved one",
        "Draw the network architecture of the improved model (model B), and explain how it differs from A.",
    ),
    "model_a_printed": ("VGG16-FCN32s", "Print the network architecture of your VGG16-FCN32s (model A)."),
    "model_b_printed": (
        "The improved network",
        "Print the network architecture of your improved network (model B).",
    ),
    "both_ious": ("Mean IoU of both", "The mIoU of both models on the validation set."),
    "iou": ("Mean IoU", "The mIoU of the improved model on the validation set."),
    "stages": ("Masks during training", f"The predicted masks of {{tiles}} {STAGES}."),
    "stages_of_a": ("Masks of VGG16-FCN32s", f"The masks that it predicts for {{tiles}} {STAGES}."),
    "stages_of_b": ("Masks of the improved network", f"The masks that it predicts for {{tiles}} {STAGES}."),
    "sam": (
        "Segment Anything",
        "Segment three of the validation images with SAM; show the results and describe the method.",
    ),
}


def problems_of(year: Edition) -> tuple[Problem, ...]:
    """What the year asks, in its order, not answered yet."""
    tiles = "{} and {}".format(", ".join(year.report_images[:-1]), year.report_images[-1])
    problems = []
    for number, (title, asked) in enumerate(year.report, start=1):
        questions = []
        for place, (name, points) in enumerate(asked, start=1):
            heading, asks = QUESTIONS[name]
            asks = asks.format(tiles=tiles)
            questions.append(Question(f"{number}.{place}", heading, points, asks, name=name))
        problems.append(Problem(f"Problem {number}: {title}", tuple(questions)))
    return tuple(problems)


# -- the same as plain data ----------------------------------------------------------------------------------

COLOUR = re.compile("#[0-9a-fA-F]{6}")
DOTS_AN_INCH = 150  # of every PNG that report.style saves


def content_of(report: Report, folder: Path) -> dict[str, Any]:
    """Everything that is drawn, in order, as dicts, lists, strings and numbers.

    Every text is clean (see `report.text.cleaned`) and one line, but for a gap's command, a listing and the
    student's words; each block has a "kind". A picture that is not below `folder`, or is broken, is a gap;
    others have their size and their PNG's bytes, read once, so that nobody misses a file that vanishes later.
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


def _block(block: Block, folder: Path) -> dict[str, Any]:
    kind = type(block).__name__.lower()
    if isinstance(block, Picture):
        return _picture(block, folder)
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
    has_lines = {"gap": "command", "listing": "text"}.get(kind)
    texts = {name: (_lines if name == has_lines else line)(text) for name, text in vars(block).items()}
    return {"kind": kind, **texts}


def _lines(text: str) -> str:
    return "\n".join(cleaned(text).splitlines()).strip()


def _picture(picture: Picture, folder: Path) -> dict[str, Any]:
    """With its PNG and its size in inches, as drawn; a gap where there is no picture to be read."""
    texts = {name: line(text) for name, text in vars(picture).items()}
    try:
        data = read_regular(folder / "figures" / f"{picture.name}.png")
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else "cannot be read"
        caption = f" ({texts['caption']})" if picture.caption else ""
        return {"kind": "gap", "text": f"figures/{texts['name']}.png{caption} {why}.", "command": ""}
    size = {"width": width / DOTS_AN_INCH, "height": height / DOTS_AN_INCH}
    return {"kind": "picture", **texts, "name": picture.name, **size, "data": data}
