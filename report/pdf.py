"""The report as a PDF: report/page.typ, filled and drawn by Typst.

What draws it: the package typst (the Typst compiler, Apache License 2.0), with the fonts inside it (Libertinus Serif
under the SIL Open Font License 1.1, DejaVu Sans Mono under its free licence) and Noto Serif TC and Noto Sans TC out of
the package pylopdf-fonts-zh-tw (SIL Open Font License 1.1). None of these binds the document: it is the student's.

No font of the machine is used, but on Python 3.9, which has no package for Chinese; the only dates are the report's. So
the same report gives the same bytes.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import typst

from engine.errors import RunError
from engine.files import cannot_write, write_atomically
from report.chinese import font_folder
from report.content import content_of
from report.document import Report
from report.text import one_line

TEMPLATE = Path(__file__).with_name("page.typ")
STUDENT_ID = re.compile(r"[^\W_][\w.-]{0,63}")
# The widest and the highest that a picture gets, in inches, on an A4 page and on one laid across: there is room for its
# question and its caption too.
UPRIGHT, ACROSS = (6.53, 8.0), (9.9, 4.6)
HALF_A_PAGE = 4.4  # inches high: two pictures of this height share a page, so a higher one is made smaller for it,
READABLE = 0.7  # but not smaller than this, of its own size
SMALLEST = 0.58  # of its own size: text of 10 points is still read. A picture that must be smaller is laid across.
LONG_WORD = 24  # letters; a longer one may be broken anywhere, or it would run off the page
BREAK = "\u200b"


def write_pdf(report: Report, folder: Path) -> Path:
    """Write `folder`/hw1_<student id>.pdf with the pictures of `folder`/figures. RunError where it can't be made."""
    if not STUDENT_ID.fullmatch(report.student_id):
        raise RunError(f"{report.student_id!r}: is no student id; give letters and digits, such as r12345678")
    path = folder / f"hw1_{report.student_id}.pdf"
    try:
        try:
            data = _draw(report, folder, "pdf")
        except typst.TypstError:  # one of the pictures' PDFs is broken: their PNGs have been looked at
            data = _draw(report, folder, "png")
        with write_atomically(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise cannot_write(str(path), error) from None
    except typst.TypstError as error:
        raise RunError(f"{path}: Typst cannot draw it ({error}); the page report.html has the same") from None
    return path


def _draw(report: Report, folder: Path, suffix: str) -> bytes:
    """The PDF, with pictures of this kind where they are there."""
    content = content_of(report, folder)
    for problem in content["problems"]:
        for question in problem["questions"]:
            for block in question["blocks"]:
                if block["kind"] == "picture":
                    _place(block, folder, suffix)
    content = {**_breakable(content), "day": _day(report.date), "short-title": one_line(report.title, 60)}
    chinese = font_folder()
    compiler = typst.Compiler(
        TEMPLATE.read_bytes(),
        root=str(folder.resolve()),
        font_paths=typst.Fonts(include_system_fonts=chinese is None, font_paths=[str(chinese)] if chinese else []),
        sys_inputs={"report": json.dumps(content)},
    )
    made = datetime(*(content["day"] or (1970, 1, 1)), tzinfo=timezone.utc)
    data, _ = compiler.compile_with_warnings(format="pdf", timestamp=made)
    return data


def _place(picture: dict[str, Any], folder: Path, suffix: str) -> None:
    """Which file, how wide, and on which kind of page."""
    name = picture.pop("name")
    if not (folder / "figures" / f"{name}.{suffix}").is_file():
        suffix = "png"
    upright, across = (
        min(1, width / picture["width"], height / picture["height"]) for width, height in (UPRIGHT, ACROSS)
    )
    is_landscape = upright < SMALLEST and across > 1.25 * upright
    picture["path"] = f"/figures/{name}.{suffix}"
    picture["is_landscape"] = is_landscape
    if upright > READABLE:
        upright = min(upright, max(HALF_A_PAGE / picture["height"], READABLE))
    picture["width"] *= across if is_landscape else upright


def _day(text: str) -> tuple[int, int, int] | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return day.year, day.month, day.day


def _breakable(value: Any, name: str = "") -> Any:
    """The content with marks in all long words where a line may break; a picture's path stays what it is."""
    if isinstance(value, dict):
        return {key: _breakable(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [_breakable(part) for part in value]
    if not isinstance(value, str) or name in ("path", "kind"):
        return value
    return re.sub(rf"[^\s\u2e80-\uffdc]{{{LONG_WORD + 1},}}", _broken, value).replace(" ± ", "\u00a0±\u00a0")


def _broken(match: re.Match) -> str:
    """After each mark such as / or _; a part that is still long, after each letter."""
    parts = re.findall(r"[\w]+|\W", match.group())
    return BREAK.join(part if len(part) <= LONG_WORD else BREAK.join(part) for part in parts)
