"""The report's page is one file that needs nothing else, and nothing that a run or a name says acts in it."""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from engine.base import UserError
from report import page as page_module
from report import style
from report.document import Picture, Problem, Question, Report, Table, Text, content_of
from report.page import write_page
from tests.made_up_report import HOSTILE, made_up_report, save_picture

REPOSITORY = Path(__file__).resolve().parent.parent
REFERENCES = ("src", "href", "srcset", "action", "data", "poster", "background", "style")


class Read(HTMLParser):
    """What a page consists of: its tags with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def report(folder):
    return made_up_report(folder)


@pytest.fixture(scope="module")
def page(report, folder):
    return Read(write_page(report, folder))


def one_question(*blocks, words: str = "", **fields) -> Report:
    problem = Problem("Problem 1", (Question("1.1", "Title", 5, "Asked", blocks),))
    return dataclasses.replace(Report("T", "r1", "N", "2024-01-01", (problem,), {"1.1": words}), **fields)


def test_the_page_has_everything_in_the_assignments_order(page, report):
    places = [page.text.rindex(f"{question.key} {question.title}") for question in report.questions]
    assert places == sorted(places)
    for words in (
        report.title,
        "王小明",
        "r12345678",
        "2024-10-01",
        "runs/p1/A-seed0",
        "5 % · Describe",
        "Not here yet",
    ):
        assert words in page.text
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"#{anchor}" for anchor in anchors}


def test_the_page_needs_nothing_outside_itself(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        for name in REFERENCES:
            value = attributes.get(name) or ""
            assert not re.search(r"//|url\(|@import", value) or value.startswith("data:image/png;base64,"), (
                value[:80]
            )
    style = re.search("<style>.*?</style>", "".join(f"<{t}>" for t, _ in page.tags))
    assert style is None  # the parser takes CSS as text: it is looked at below


def test_the_style_names_no_file_and_no_address(folder, page):
    style = re.search(
        "<style>(.*?)</style>", (folder / "report.html").read_text(encoding="utf-8"), re.DOTALL
    ).group(1)
    assert "@import" not in style and "//" not in re.sub(r"url\(data:font/woff;base64,[\w+/=]+\)", "", style)


def test_hostile_names_are_text_and_nothing_else(page):
    allowed = "html head meta title style body header h1 h2 h3 h4 p strong em code pre br nav ol ul li a span"
    allowed += " main section figure figcaption b div img table thead tbody tr th td footer blockquote hr"
    assert {tag for tag, _ in page.tags} <= set(allowed.split())
    for hostile in HOSTILE[:6]:
        assert page.text.count(" ".join(hostile.split())) >= 3, hostile
    assert "gpj.exe" in page.text and "w" * 300 in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", page.text)


def test_words_of_the_student_come_with_their_marks_and_no_others(tmp_path):
    page = Read(
        write_page(
            one_question(words='*a* <img src=x onerror="alert(1)"> [b](javascript:alert(2))\n\n- c'), tmp_path
        )
    )
    assert '<img src=x onerror="alert(1)"> [b](javascript:alert(2))' in page.text
    tags = [tag for tag, _ in page.tags]
    assert "em" in tags and "ul" in tags and "img" not in tags


def test_pictures_are_inside_with_their_size_and_what_they_show(page, folder):
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == [
        "Two curves that fall",
        "Curves",
        "A tall picture",
        "A square",
    ]
    for image, name in zip(images, ("usual", "wide", "tall", "square")):
        data = base64.b64decode(image["src"].split(",")[1])
        assert data == (folder / "figures" / f"{name}.png").read_bytes()
        width, height = Image.open(BytesIO(data)).size
        assert abs(int(image["width"]) / int(image["height"]) - width / height) < 0.02


@pytest.mark.parametrize("data", [None, b"", b"\x89PNG\r\n\x1a\n", b"<svg onload='alert(1)'/>"])
def test_a_picture_that_is_missing_or_broken_leaves_a_note_that_names_it(tmp_path, data):
    if data is not None:
        (tmp_path / "figures").mkdir()
        (tmp_path / "figures" / "curves.png").write_bytes(data)
    page = Read(write_page(one_question(Picture("curves", "All curves", "x")), tmp_path))
    assert "Not here yet: figures/curves.png (All curves)" in page.text and "img" not in [
        tag for tag, _ in page.tags
    ]


def test_a_picture_that_vanishes_while_the_page_is_written_is_in_it_all_the_same(tmp_path, monkeypatch):
    save_picture(tmp_path, "a", (3, 2))

    def read_and_lose(report, folder):
        content = content_of(report, folder)
        (folder / "figures" / "a.png").unlink()
        return content

    monkeypatch.setattr(page_module, "content_of", read_and_lose)
    page = Read(write_page(one_question(Picture("a", "A", "x")), tmp_path))
    assert "img" in [tag for tag, _ in page.tags]


def test_a_line_across_the_students_words_is_a_line(tmp_path):
    page = Read(write_page(one_question(words="above\n\n---\n\nbelow"), tmp_path))
    assert [tag for tag, _ in page.tags].count("hr") == 1 and "---" not in page.text


def test_a_tables_colours_stand_before_its_columns_and_only_colours_do(tmp_path):
    marks = ("#00ffff", "red; background: url(//x)", None)
    page = Read(write_page(one_question(Table(("a", "b", "c"), (("1", "2"),), "C", 1, marks)), tmp_path))
    swatches = [attributes["style"] for _, attributes in page.tags if attributes.get("class") == "swatch"]
    assert swatches == ["background: #00ffff"]
    assert len([tag for tag, _ in page.tags if tag == "td"]) == 3  # a short row is filled up


def test_the_same_report_gives_the_same_bytes_in_any_process(report, folder, tmp_path):
    code = "import sys; from pathlib import Path; from tests.made_up_report import made_up_report as m; "
    code += "from report.page import write_page; folder = Path(sys.argv[1]); write_page(m(folder), folder)"
    first = write_page(report, folder).read_bytes()
    shutil.copytree(folder / "figures", tmp_path / "figures")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Taipei", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, env=environment, check=True)
    assert (tmp_path / "report.html").read_bytes() == first


def test_chinese_brings_its_own_letters_and_latin_brings_none(tmp_path):
    write_page(one_question(Text("plain “Latin” – text")), tmp_path)
    assert "font/woff" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    write_page(one_question(Text("王小明")), tmp_path)
    assert ("font/woff" in (tmp_path / "report.html").read_text(encoding="utf-8")) == (
        style.font_folder() is not None
    )


def test_without_the_font_package_the_page_is_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "font_folder", lambda: None)
    assert "王小明" in Read(write_page(one_question(name="王小明"), tmp_path)).text


def test_a_folder_that_is_not_there_is_an_error_that_names_the_page(tmp_path):
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        write_page(one_question(), tmp_path / "nowhere")


def test_a_report_of_nothing_is_a_page_too(tmp_path):
    assert Read(write_page(Report("T", "", "", "", ()), tmp_path)).text.startswith("T T")
