"""The report's PDF says what the report says, letter for letter, and is the same for the same report."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import typst
from matplotlib.figure import Figure

from engine.base import UserError
from report import page
from report.document import Gap, Picture, Problem, Question, Report, Table, Text, content_of
from report.page import write_pdf
from report.style import save_figure, styled
from tests.made_up_report import HOSTILE, made_up_report, save_picture

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pdf")


@pytest.fixture(scope="module")
def report(folder):
    return made_up_report(folder)


def one_question(*blocks, words: str = "", **fields) -> Report:
    problem = Problem("Problem 1", (Question("1.1", "Title", 5, "Asked", blocks),))
    return dataclasses.replace(Report("T", "r1", "N", "2024-01-01", (problem,), {"1.1": words}), **fields)


def document(report: Report, folder: Path, monkeypatch) -> dict:
    """What Typst was given for the report's PDF."""
    given, make = {}, typst.Compiler

    def compiler(template, **arguments):
        given.update(arguments, input=template)
        return make(template, **arguments)

    with monkeypatch.context() as patched:
        patched.setattr(page.typst, "Compiler", compiler)
        write_pdf(report, folder)
    return given


def texts(given: dict, selector: str) -> list[str]:
    """The text of each such element of the document, as Typst understood it."""

    def within(node) -> str:
        if isinstance(node, dict):
            own = node.get("text", "") if node.get("func") == "text" else ""
            return own + "".join(
                within(part) for name, part in node.items() if name in ("body", "children", "child")
            )
        return "".join(map(within, node)) if isinstance(node, list) else ""

    arguments = {name: given[name] for name in ("root", "font_paths", "sys_inputs")}
    found = json.loads(typst.Compiler(given["input"], **arguments).query(selector))
    return [within(element).replace("\u200b", "") for element in found]


def pages_of(path: Path) -> list[tuple[float, float]]:
    """The width and height of each page, in points."""
    data = path.read_bytes()
    parts = [data]
    for part in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        with suppress(zlib.error):
            parts.append(zlib.decompress(part))
    boxes = re.findall(
        rb"/Type\s*/Page\b(?!s)[^>]*?/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)", b"\n".join(parts)
    )
    return [(float(width), float(height)) for width, height in boxes]


# -- what it says --------------------------------------------------------------------------------------------


def test_headings_captions_and_paragraphs_stand_letter_for_letter(report, folder, monkeypatch):
    given = document(report, folder, monkeypatch)
    headings, captions, paragraphs = (texts(given, name) for name in ("heading", "figure.caption", "par"))
    problems = [problem.title for problem in report.problems]
    asked = [f"{question.key} {question.title}" for question in report.questions]
    assert [text for text in headings if text in [*problems, *asked]] == [
        problems[0],
        *asked[:3],
        problems[1],
        *asked[3:],
    ]
    assert "Settings A to E on the validation images, mean\xa0±\xa0deviation over seeds." in captions
    assert HOSTILE[0] in captions
    for hostile in [*HOSTILE[:6], "w" * 300, "王小明", "gpj.exe [31m\ufffd"]:
        assert " ".join(hostile.split()) in paragraphs, hostile


def test_the_files_metadata_name_the_title_the_author_and_the_day(report, folder):
    data = write_pdf(report, folder).read_bytes()
    assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF")
    text = data.decode("utf-8", errors="replace")
    assert "Deep Learning for Computer Vision, homework 1</rdf:li>" in text
    assert "王小明 Wang Xiao-Ming · r12345678</rdf:li>" in text and "<xmp:CreateDate>2024-10-01" in text


def test_no_outside_text_is_part_of_what_typst_runs(report, folder, monkeypatch):
    given = document(report, folder, monkeypatch)
    template = given["input"].decode()
    assert template == (REPOSITORY / "report" / "page.typ").read_text(encoding="utf-8")
    assert not re.search(r"\b(eval|read|plugin)\(|\b(include|import)\b", template)
    assert "王小明" in json.loads(given["sys_inputs"]["report"])["name"]


def test_long_words_may_be_broken_and_short_ones_not(tmp_path):
    content = page._breakable(
        content_of(one_question(Text("short words " + "w" * 40 + " runs/p1/A-seed0/model.pt")), tmp_path)
    )
    words = content["problems"][0]["questions"][0]["blocks"][0]["text"].split(" ")
    assert words[:2] == ["short", "words"] and words[2] == page.BREAK.join("w" * 40)
    assert words[3].replace(page.BREAK, "") == "runs/p1/A-seed0/model.pt" and page.BREAK not in "".join(
        words[:2]
    )


# -- pictures and tables -------------------------------------------------------------------------------------


def test_pages_are_a4_and_a_very_wide_picture_has_one_that_lies_across(report, folder):
    pages = pages_of(write_pdf(report, folder))
    assert {tuple(round(side) for side in page) for page in pages} == {(595, 842), (842, 595)}
    assert sum(width > height for width, height in pages) == 1


def test_no_picture_is_larger_than_its_page_or_than_it_was_drawn(report, folder, monkeypatch):
    given = json.loads(document(report, folder, monkeypatch)["sys_inputs"]["report"])
    blocks = [
        block
        for problem in given["problems"]
        for question in problem["questions"]
        for block in question["blocks"]
    ]
    width = {Path(block["path"]).stem: block["width"] for block in blocks if block["kind"] == "picture"}
    assert width == {
        "usual": pytest.approx(6.4),
        "wide": pytest.approx(page.ACROSS[0]),
        "tall": pytest.approx(5 * page.UPRIGHT[1] / 14),
        "square": pytest.approx(9 * page.READABLE),
    }


def test_a_figure_is_drawn_from_its_pdf_and_from_its_png_where_that_is_missing_or_broken(tmp_path):
    report = one_question(Picture("a", "A", "x"))
    save_picture(tmp_path, "a", (3, 2))
    with styled():
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([1, 2])
    save_figure(figure, tmp_path / "figures" / "a")
    assert b"/Subtype/Image" not in write_pdf(report, tmp_path).read_bytes()  # lines and letters, no dots
    (tmp_path / "figures" / "a.pdf").write_bytes(b"%PDF-1.4 and no more")
    assert b"/Subtype/Image" in write_pdf(report, tmp_path).read_bytes()
    (tmp_path / "figures" / "a.pdf").unlink()
    assert b"/Subtype/Image" in write_pdf(report, tmp_path).read_bytes()
    (tmp_path / "figures" / "a.png").write_bytes(b"no picture")
    assert b"/Subtype/Image" not in write_pdf(report, tmp_path).read_bytes()


def test_a_picture_that_vanishes_while_the_pdf_is_drawn_is_one_line(tmp_path, monkeypatch):
    save_picture(tmp_path, "a", (3, 2))

    def read_and_lose(report, folder):
        content = content_of(report, folder)
        shutil.rmtree(folder / "figures")
        return content

    monkeypatch.setattr(page, "content_of", read_and_lose)
    with pytest.raises(UserError, match=r"hw1_r1\.pdf: Typst cannot draw it"):
        write_pdf(one_question(Picture("a", "A", "x")), tmp_path)
    assert not list(tmp_path.glob("*.pdf"))


def test_a_line_across_the_students_words_is_a_line(tmp_path, monkeypatch):
    given = document(one_question(words="above\n\n---\n\nbelow"), tmp_path, monkeypatch)
    assert texts(given, "par")[-2:] == ["above", "below"]


def test_characters_that_no_font_has_are_named_once_and_others_are_not(tmp_path, capsys):
    words = "我的 “words” – 😀 and ± ★ 😀"
    assert write_pdf(one_question(words=words), tmp_path).is_file()
    said = capsys.readouterr().err
    assert said.startswith("note: ") and "none of its fonts has 😀;" in said and said.count("\n") == 1
    write_pdf(one_question(words=words.replace("😀", "")), tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("columns", [1, 2, 13, 40])
def test_tables_of_any_width_and_of_no_rows_are_drawn(tmp_path, columns):
    names = tuple(f"column {n}" for n in range(columns))
    tables = [
        Table(names, rows, "T", 1, ("#00ff00",)) for rows in ((), (("0.5000 ± 0.1000",) * columns,) * 3)
    ]
    assert len(pages_of(write_pdf(one_question(*tables), tmp_path))) == 1


@pytest.mark.parametrize("mark", ["> ", "- ", "1. ", "*a ", "> - 1. "])
def test_deeply_nested_words_are_drawn(tmp_path, mark):
    assert write_pdf(one_question(words=mark * 30 + "word"), tmp_path).is_file()


# -- the same, and safely ------------------------------------------------------------------------------------


def test_the_same_report_gives_the_same_bytes_in_any_process(report, folder, tmp_path):
    code = "import sys; from pathlib import Path; from tests.made_up_report import made_up_report as m; "
    code += "from report.page import write_pdf; folder = Path(sys.argv[1]); write_pdf(m(folder), folder)"
    first = write_pdf(report, folder).read_bytes()
    shutil.copytree(folder / "figures", tmp_path / "figures")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Taipei", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, env=environment, check=True)
    assert (tmp_path / "hw1_r12345678.pdf").read_bytes() == first


@pytest.mark.parametrize("date", ["", "soon", "2024-13-01"])
def test_without_a_date_the_bytes_are_the_same_too(tmp_path, date):
    first = write_pdf(one_question(date=date), tmp_path).read_bytes()
    assert write_pdf(one_question(date=date), tmp_path).read_bytes() == first


@pytest.mark.parametrize("student_id", ["", "../r1", "a/b", ".hidden", "r1\x00", "x" * 65, "r1\n"])
def test_a_student_id_that_is_no_file_name_is_refused(tmp_path, student_id):
    with pytest.raises(UserError, match="is no student id"):
        write_pdf(one_question(student_id=student_id), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_the_font_package_the_pdf_is_drawn_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "font_folder", lambda: None)
    assert write_pdf(one_question(Gap("王小明")), tmp_path).is_file()


def test_a_folder_that_is_not_there_is_an_error_that_names_the_pdf(tmp_path):
    with pytest.raises(UserError, match=r"hw1_r1\.pdf: cannot be written"):
        write_pdf(one_question(), tmp_path / "nowhere")


def test_a_report_of_nothing_is_a_page_too(tmp_path):
    assert len(pages_of(write_pdf(Report("", "r1", "", "", ()), tmp_path))) == 1
