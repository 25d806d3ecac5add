"""Chinese in the page and in the PDF, on any machine: Noto TC out of the package pylopdf-fonts-zh-tw.

The fonts are under the SIL Open Font License 1.1, which allows embedding and binds no document that is made
with them. The package is not made for Python 3.9: there the machine's own fonts have to do.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

FIRST_WIDE = "\u2e80"  # from here on Latin fonts have nothing: radicals, kana, ideographs, full-width forms


def font_folder() -> Path | None:
    """Where NotoSansTC-Regular.otf and NotoSerifTC-Regular.otf lie; None where the package isn't
    installed.
    """
    package = importlib.util.find_spec("pylopdf_fonts_zh_tw")
    return Path(package.origin).parent if package and package.origin else None


def woff_of(text: str) -> bytes:
    """A WOFF of Noto Sans TC with just the characters of `text` that a Latin font lacks; empty where it needs
    none.

    The same characters give the same bytes.
    """
    folder, wide = font_folder(), sorted({mark for mark in text if mark >= FIRST_WIDE})
    if folder is None or not wide:
        return b""
    from fontTools import subset  # half a second, and most pages need none

    options = subset.Options(
        flavor="woff", layout_features=[], name_IDs=[0, 1, 2, 13, 14], notdef_outline=True
    )
    options.recalc_timestamp = False
    with subset.load_font(str(folder / "NotoSansTC-Regular.otf"), options) as font:
        subsetter = subset.Subsetter(options)
        subsetter.populate(text="".join(wide))
        subsetter.subset(font)
        file = io.BytesIO()
        subset.save_font(font, file, options)
    return file.getvalue()
