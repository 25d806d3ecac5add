"""The report as a page and as a PDF: report/page.html filled, and report/page.typ filled and drawn by Typst.

The page is one HTML file with pictures and Chinese's font inside it; its Content-Security-Policy forbids
scripts and the network. What draws the PDF: the package typst (Apache License 2.0), with the fonts inside it
(Libertinus Serif, SIL Open Font License 1.1; DejaVu Sans Mono under its free licence) and Noto Serif TC and
Noto Sans TC out of pylopdf-fonts-zh-tw (SIL Open Font License 1.1). None of these binds the document.

No font of the machine is used, but on Python 3.9, which has no package for Chinese; the only dates are the
report's. So the same report gives the same bytes.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import unicodedata
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import typst
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.base import UserError, cannot_write, say, write_atomically
from report.document import Report, content_of, pictures_in
from report.style import font_folder, woff_of
from report.text import one_line

CSS_DOTS_AN_INCH = 96
SMALLEST_ON_A_PHONE = 0.55  # of its own size: a figure's letters can still be read
TEMPLATE = Path(__file__).with_name("page.typ")
STUDENT_ID = re.compile(r"[^\W_][\w.-]{0,63}")
# The largest width and height of a picture, in inches, on an A4 page and on one laid across: its question
# and its caption have room too.
UPRIGHT, ACROSS = (6.53, 8.0), (9.9, 4.6)
# Two pictures of this height in inches share a page, so a higher one is made smaller for it, but not smaller
# than READABLE, of its own size. SMALLEST: text of 10 points is still read, and a picture that would have to
# be smaller is laid across.
HALF_A_PAGE, READABLE, SMALLEST = 4.4, 0.7, 0.58
LONG_WORD = 24  # letters; a longer one may be broken anywhere, or it would run off the page
BREAK = "\u200b"


def write_page(report: Report, folder: Path) -> Path:
    """Write `folder`/report.html with the pictures of `folder`/figures. UserError where it can't be."""
    content = content_of(report, folder)
    for picture in pictures_in(content):
        picture["source"] = _data_uri("image/png", picture["data"])
        picture["least"] = round(picture["width"] * CSS_DOTS_AN_INCH * SMALLEST_ON_A_PHONE)
        picture["pixels"] = tuple(round(picture[side] * CSS_DOTS_AN_INCH) for side in ("width", "height"))
    loader, tight = FileSystemLoader(Path(__file__).parent), {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **tight)
    template = environment.get_template("page.html")
    font = woff_of(template.render(content, font=""))
    page = template.render(content, font=_data_uri("font/woff", font) if font else "")
    path = folder / "report.html"
    try:
        with write_atomically(path) as temporary:
            temporary.write_bytes(page.encode())
    except OSError as error:
        raise cannot_write(str(path), error) from None
    return path


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# -- the PDF -------------------------------------------------------------------------------------------------


def write_pdf(report: Report, folder: Path) -> Path:
    """Write `folder`/hw1_<student id>.pdf, or hw2_, with the pictures of `folder`/figures.

    UserError where it can't be. A line on stderr names the first character that no font has (an emoji).
    """
    if not STUDENT_ID.fullmatch(report.student_id):
        raise UserError(f"{report.student_id!r}: is no student id; give letters and digits, as in r12345678")
    path = folder / f"{report.homework}_{report.student_id}.pdf"
    content, fonts = content_of(report, folder), _fonts()
    missing = _without_font(content, fonts)
    if missing:
        say(f"note: {path}: none of its fonts has {missing}; the page report.html may show it")
    try:
        try:
            data = _draw(content, folder, "pdf", fonts)
        except typst.TypstError:  # one of the pictures' PDFs is broken: their PNGs have been looked at
            data = _draw(content, folder, "png", fonts)
        with write_atomically(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise cannot_write(str(path), error) from None
    except typst.TypstError as error:
        reason = f"Typst cannot draw it ({error})"
        raise UserError(f"{path}: {reason}; the page report.html has the same") from None
    return path


def first_page(report: Report, folder: Path) -> bytes:
    """The PDF's first page as a PNG of 100 dots an inch, with the pictures of `folder`/figures."""
    return _draw(content_of(report, folder), folder, "png", _fonts(), "png")[0]


def _fonts() -> typst.Fonts:
    chinese = font_folder()
    return typst.Fonts(include_system_fonts=chinese is None, font_paths=[str(chinese)] if chinese else [])


def _draw(content: dict[str, Any], folder: Path, suffix: str, fonts: typst.Fonts, form: str = "pdf") -> Any:
    """The PDF's bytes, or of the `form` "png" a list of its pages'; pictures of the kind `suffix` first."""
    content = copy.deepcopy(content)
    for picture in pictures_in(content):
        _place(picture, folder, suffix)
    more = {"day": _day(content["date"]), "short-title": one_line(content["title"], 60)}
    content = {**_breakable(content), **more}
    template, inputs = TEMPLATE.read_bytes(), {"report": json.dumps(content)}
    compiler = typst.Compiler(template, root=str(folder.resolve()), font_paths=fonts, sys_inputs=inputs)
    made = datetime(*(content["day"] or (1970, 1, 1)), tzinfo=timezone.utc)
    return compiler.compile_with_warnings(format=form, ppi=100, timestamp=made)[0]


def _place(picture: dict[str, Any], folder: Path, suffix: str) -> None:
    """Which file, how wide, and on which kind of page."""
    name = picture.pop("name")
    del picture["data"]  # Typst reads the files itself
    if not (folder / "figures" / f"{name}.{suffix}").is_file():
        suffix = "png"
    own_width, own_height = picture["width"], picture["height"]
    upright, across = (min(1, width / own_width, height / own_height) for width, height in (UPRIGHT, ACROSS))
    picture["path"] = f"/figures/{name}.{suffix}"
    picture["is_landscape"] = upright < SMALLEST and across > 1.25 * upright
    if upright > READABLE:
        upright = min(upright, max(HALF_A_PAGE / own_height, READABLE))
    picture["width"] *= across if picture["is_landscape"] else upright


def _without_font(content: dict[str, Any], fonts: typst.Fonts) -> str:
    """The first character of the content that no font has, "" where all have one.

    Typst draws an empty box for it without a word, but names it where a PDF/A is asked for.
    """
    every = set(json.dumps(content, ensure_ascii=False, default=lambda picture: ""))
    marks = sorted(mark for mark in every if mark > "\xff" and unicodedata.category(mark)[0] in "LNPS")
    compiler = typst.Compiler(b"#sys.inputs.text", font_paths=fonts, sys_inputs={"text": " ".join(marks)})
    try:
        compiler.compile(format="pdf", pdf_standards=["a-2b"])
    except typst.TypstError as error:
        return next((mark for mark in marks if f'"{mark}"' in str(error)), "")
    return ""


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
