"""The student's words: answers.md is made once, never changed, and read whatever an editor does to it."""

from __future__ import annotations

import os
import re
from contextlib import suppress

import pytest

from engine.base import UserError
from report.document import Question
from report.text import read_answers, read_markdown

QUESTIONS = (
    Question("1.1", "Pre-training", 5, "Describe your method --> here"),
    Question("1.2", "Settings", 20, "Compare A to E"),
    Question("2.1", "架構", 5, "Draw A and B"),
)
HEADINGS = "".join(
    f"## {question.key} {question.title}\n\nwords of {question.key}\n\n" for question in QUESTIONS
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.md"


def written(path, text: str | bytes) -> dict[str, str]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_answers(path, QUESTIONS)


# -- made once, never changed --------------------------------------------------------------------------------


def test_a_missing_file_is_made_with_a_heading_and_what_is_asked_for_each_question(path, capsys):
    assert read_answers(path, QUESTIONS) == {}
    text = path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## 1.1 Pre-training",
        "## 1.2 Settings",
        "## 2.1 架構",
    ]
    assert "<!-- Compare A to E; write below -->" in text
    assert read_answers(path, QUESTIONS) == {} and capsys.readouterr().err == ""


def test_words_below_the_comments_are_read_and_the_comments_are_not(path):
    read_answers(path, QUESTIONS)
    path.write_text(
        path.read_text(encoding="utf-8").replace("write below -->\n", "write below -->\n\nMine.\n")
    )
    assert read_answers(path, QUESTIONS) == {"1.1": "Mine.", "1.2": "Mine.", "2.1": "Mine."}


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"no headings", HEADINGS.encode(), b"\xa4\xa4\xa4\xe5", b"\xff\xfe1\0"]
)
def test_a_file_that_is_there_keeps_every_byte(path, data):
    path.write_bytes(data)
    with suppress(UserError):
        read_answers(path, QUESTIONS)
    assert path.read_bytes() == data and os.listdir(path.parent) == ["answers.md"]


# -- how it is read ------------------------------------------------------------------------------------------


def test_words_are_found_by_the_number_of_their_heading_alone(path):
    text = "# 1.2\n\nb\n\n## 2.1. Another title\n\nc\n\n#### 1.1 deeper\n\na\n"
    assert written(path, text) == {"1.2": "b", "2.1": "c", "1.1": "a"}


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_words(path):
    assert written(path, b"\xef\xbb\xbf" + HEADINGS.replace("\n", "\r\n").encode()) == {
        question.key: f"words of {question.key}" for question in QUESTIONS
    }


def test_sub_headings_and_blocks_of_code_stay_with_their_question(path):
    words = "### What I saw\n\n```\n## 1.2 is a comment here\n```\n\nUnderlined\n---\n\nend"
    assert written(path, f"## 1.1 x\n\n{words}\n\n## 1.2 y\n\n## 2.1 z\n") == {"1.1": words}


def test_a_comment_that_is_not_closed_swallows_no_other_answer(path):
    words = written(path, "## 1.1 a\n\n<!-- asked\n\none\n\n## 1.2 b\n\n<!-- asked -->\n\ntwo\n\n## 2.1 c\n")
    assert words["1.2"] == "two" and "one" in words["1.1"]


CODE = {
    "fence": "```html\n<!-- kept -->\n```",
    "fence in a list": "- so:\n\n  ~~~\n  <!-- kept -->\n  ~~~",
    "indented": "so:\n\n    <!-- kept -->",
    "span": "it ends with `<!-- kept -->` here",
}


@pytest.mark.parametrize("code", CODE.values(), ids=list(CODE))
def test_comments_in_code_are_words_and_those_around_it_are_not(path, code):
    words = written(
        path, f"## 1.1 x\n\n<!-- a ``` fence\n```\n-->\n\n{code}\n\n<!-- gone -->\n\n## 1.2 y\n\nb\n"
    )
    assert words == {"1.1": code, "1.2": "b"}


def test_words_under_no_question_are_left_out_and_named(path, capsys):
    words = written(
        path, f"# Answers\n\nfirst\n\n{HEADINGS}## 3.7 Other\n\nlost\n\n## Thanks \u202e\x1b[31m\n\nto all\n"
    )
    assert sorted(words) == ["1.1", "1.2", "2.1"] and "lost" not in str(words)
    said = capsys.readouterr().err
    assert 'under "Answers"' in said and 'under "3.7 Other"' in said and 'under "Thanks' in said
    assert "\x1b" not in said and "\u202e" not in said
    written(path, "early\n\n" + HEADINGS)
    assert "above the first heading" in capsys.readouterr().err


def test_a_question_without_a_heading_is_named_with_the_heading_to_put(path, capsys):
    assert written(path, "## 1.1 x\n\nwords\n\n## 2.1\n") == {"1.1": "words"}
    assert 'has no heading "## 1.2 Settings"' in capsys.readouterr().err


def test_one_question_under_two_headings_has_both(path):
    assert written(path, HEADINGS + "## 1.1 more\n\nmore words\n")["1.1"] == "words of 1.1\n\nmore words"


# -- what cannot be read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("## 1.1 好\n\n中文的答案\n".encode("big5"), "line 1 on"),
        ("## 1.1\n\n中文".encode("utf-16"), "line 1 on"),
        (b"## 1.1\n\nfine\n\xff\xff\xff\n", "line 4 on"),
    ],
)
def test_another_encoding_is_named_with_what_to_do(path, data, reason):
    with pytest.raises(UserError) as caught:
        written(path, data)
    assert (
        str(path) in str(caught.value)
        and reason in str(caught.value)
        and "save it as UTF-8" in str(caught.value)
    )


def test_what_is_no_file_or_cannot_be_made_is_an_error_that_names_it(path, tmp_path):
    path.mkdir()
    with pytest.raises(UserError, match=r"answers\.md: cannot be read"):
        read_answers(path, QUESTIONS)
    with pytest.raises(UserError, match=r"nowhere.answers\.md: cannot be written"):
        read_answers(tmp_path / "nowhere" / "answers.md", QUESTIONS)
    dangling = tmp_path / "dangling.md"
    dangling.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"dangling\.md: cannot be read"):
        read_answers(dangling, QUESTIONS)


# -- Markdown ------------------------------------------------------------------------------------------------


def plain(blocks: list[dict]) -> str:
    """All the text in it, in order."""
    parts = []
    for block in blocks:
        parts += [run["text"] for run in block.get("runs", [])] + [block.get("text", "")]
        parts += [plain(item) for item in [block.get("blocks", []), *block.get("items", [])]]
    return "".join(parts)


def test_paragraphs_lists_marks_code_and_quotes_are_told_apart():
    text = "one **two** *three* `four`\n\n3. a\n4. b\n\n- c\n\n> d\n\n### e\n\n```\nf\n  g\n```\n"
    paragraph, numbered, bullets, quote, heading, code = read_markdown(text)
    marks = [(run["text"], run["bold"], run["italic"], run["code"]) for run in paragraph["runs"]]
    assert marks == [
        ("one ", False, False, False),
        ("two", True, False, False),
        (" ", False, False, False),
        ("three", False, True, False),
        (" ", False, False, False),
        ("four", False, False, True),
    ]
    assert (numbered["is_ordered"], numbered["start"], [plain(item) for item in numbered["items"]]) == (
        True,
        3,
        ["a", "b"],
    )
    assert (bullets["is_ordered"], plain(bullets["items"][0])) == (False, "c")
    assert (quote["kind"], plain(quote["blocks"])) == ("quote", "d")
    assert (heading["kind"], plain([heading])) == ("heading", "e")
    assert code == {"kind": "code", "text": "f\n  g"}


@pytest.mark.parametrize(
    "text",
    [
        "[a](http://b)",
        "![a](http://b)",
        "<http://b>",
        "<b>a</b>",
        "[a]: http://b",
        "<div>",
        "[a][b]",
        "http://b",
    ],
)
def test_links_pictures_and_html_stay_as_typed(text):
    assert read_markdown(text) == [
        {"kind": "paragraph", "runs": [{"text": text, "bold": False, "italic": False, "code": False}]}
    ]


def test_a_line_that_ends_between_chinese_characters_leaves_no_gap():
    assert plain(read_markdown("第一行\n第二行\nthird line\nfourth")) == "第一行第二行 third line fourth"


@pytest.mark.parametrize(
    "text", ["**粗體**\n中文", "中文\n**粗體**", "*斜*\n**粗**", "**粗體\n中文**", "中 *a*\n*b* 文"]
)
def test_marks_beside_a_lines_end_are_looked_through(text):
    has_gap = "a" in text
    assert plain(read_markdown(text)) == re.sub(r"\*+", "", text).replace("\n", " " if has_gap else "")


def test_a_line_across_the_page_is_a_rule_and_an_underlined_title_is_none():
    kinds = [block["kind"] for block in read_markdown("above\n\n---\n\n> ***\n\ntitle\n---\n")]
    assert kinds == ["paragraph", "rule", "quote", "heading"]
    assert read_markdown("> ***")[0]["blocks"] == [{"kind": "rule"}]


@pytest.mark.parametrize("mark", ["> ", "- ", "1. ", "*a ", "**a *b ", "`a ", "[", "<"])
def test_no_depth_of_nesting_is_too_deep_and_no_word_is_lost(mark):
    assert plain(read_markdown(mark * 25 + "word")).endswith("word")
    read_markdown(mark * 2000 + "word")


def test_control_characters_and_reversals_of_direction_are_gone():
    assert plain(read_markdown("a\x00b\x1b[31mc\u202ed\u2066e\ud800")) == "ab[31mcde\ufffd"
