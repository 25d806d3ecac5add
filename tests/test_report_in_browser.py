"""The report's page, opened in a real Chromium where one is installed; where none is, the tests say that and
pass.
"""

from __future__ import annotations

import importlib.util
import shutil
import warnings

import pytest

from report.page import write_page
from report.style import font_folder
from tests.made_up_report import made_up_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync")
SIZES = {"desktop": (1280, 900), "phone": (375, 812)}
# The lowest contrast (WCAG 2, 1.4.3) of any text to the colour behind it, with the element that has it.
CONTRAST = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = colour
        .map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let lowest = [99, ""];
  for (const e of document.body.querySelectorAll("*")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < lowest[0]) lowest = [ratio, e.outerHTML.slice(0, 80)];
  }
  return lowest;
}"""
WIDTHS = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
PICTURES = "() => [...document.images].map(i => [i.complete, i.naturalWidth, i.alt])"
# Boxes that jut out of the window; what scrolls inside a box of its own does not count.
CUT = """() => [...document.body.querySelectorAll("*")].filter(e => {
  const r = e.getBoundingClientRect();
  return r.width && !e.parentElement.closest(".scroll, pre") && (r.right > innerWidth + 1 || r.left < -1);
}).map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    return write_page(made_up_report(folder), folder).as_uri()


@pytest.fixture(scope="module")
def browser():
    """A Chromium; None, with a warning in the tests' summary, where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None or importlib.util.find_spec("playwright") is None:
        warnings.warn(
            "no Chromium, or no playwright, here: the page was not looked at in a browser", stacklevel=1
        )
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_whole_readable_and_quiet(browser, address, size, scheme):
    if browser is None:
        return
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    fonts = page.evaluate(
        "() => document.fonts.ready.then(() => [...document.fonts].map(font => font.status))"
    )
    scroll, client = page.evaluate(WIDTHS)
    pictures, cut, (contrast, where) = page.evaluate(PICTURES), page.evaluate(CUT), page.evaluate(CONTRAST)
    context.close()
    assert scroll <= client == width and not cut
    assert len(pictures) == 4 and all(complete and natural > 0 for complete, natural, _ in pictures)
    assert contrast >= 4.5, where
    assert fonts == (["loaded"] if font_folder() else [])
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]


def test_the_dark_page_is_dark_and_the_light_one_light(browser, address):
    if browser is None:
        return
    colours = {}
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(address)
        colours[scheme] = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
        context.close()
    assert colours["light"] == "rgb(255, 255, 255)" != colours["dark"]
    assert all(int(part) < 60 for part in colours["dark"][4:-1].split(","))


def test_on_paper_nothing_sticks_out_and_dark_is_light(browser, address):
    if browser is None:
        return
    context = browser.new_context(
        viewport={"width": 657, "height": 970}, color_scheme="dark"
    )  # A4 less its margins
    page = context.new_page()
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(address)
    wide = page.evaluate(
        "() => [...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right)"
    )
    (scroll, client), paper = (
        page.evaluate(WIDTHS),
        page.evaluate("() => getComputedStyle(document.documentElement).color"),
    )
    context.close()
    assert scroll <= client and max(wide) <= client
    assert paper == "rgb(28, 28, 30)"
