"""How figures look and are saved: one style, colours for colour-blind eyes too, the same bytes each time; and
Chinese in figures, page and PDF, on any machine.

Figures are made without pyplot, so no window system is needed and nothing global changes. Noto TC comes out
of the package pylopdf-fonts-zh-tw, under the SIL Open Font License 1.1, which allows embedding and binds no
document made with it. On Python 3.9, for which it is not made, the machine's own fonts do.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Iterator

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from datasets.palette import CLASS_NAMES
from datasets.palette import COLOURS as CLASS_COLOURS
from engine.base import write_atomically

# Okabe and Ito, "Color Universal Design" (2008), without the yellow that white paper swallows.
BLACK, BLUE, VERMILION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
ORANGE, SKY, PURPLE = "#E69F00", "#56B4E9", "#CC79A7"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#666666"
SEQUENTIAL = "Blues"  # from white to one dark hue: read by any eye, and by a grey printer

# matplotlib's own font has no Chinese: the package's, which is the first, serves, or the machine's first.
CHINESE_FONTS = (
    *("Noto Sans TC", "Noto Sans CJK TC", "Noto Sans CJK JP", "Microsoft JhengHei", "PingFang TC"),
    *("Heiti TC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS"),
)
STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "pdf.fonttype": 42,  # whole TrueType outlines inside the file, so that text can be searched and copied
    "text.parse_math": False,  # a $ in a class's name is a dollar
}


@contextmanager
def styled() -> Iterator[None]:
    """Figures drawn inside have this style, whatever the user's matplotlibrc says."""
    family = ["DejaVu Sans", *_chinese_font()]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**STYLE, "font.family": family})
        yield


@cache
def _chinese_font() -> list[str]:
    """The name of a font that matplotlib knows; none where the machine has none."""
    fonts, folder = font_manager.fontManager, font_folder()
    if folder:
        fonts.addfont(folder / "NotoSansTC-Regular.otf")
        fonts.ttflist.append(replace(fonts.ttflist[-1], weight=700))  # its one weight stands for bold too
    installed = {font.name for font in fonts.ttflist}
    return [name for name in CHINESE_FONTS if name in installed][:1]


def save_figure(figure: Figure, path_without_suffix: str | Path) -> None:
    """Write `<path>.png` (150 dots an inch) and `<path>.pdf`, each whole or not at all, without a date."""
    with styled(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for it
        # "tight": whatever juts out, a long name say, widens the picture and is not cut.
        how = {"dpi": 150, "bbox_inches": "tight", "pad_inches": 0.08}
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
            with write_atomically(f"{path_without_suffix}.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, metadata=metadata, **how)


def without_axes(axes: Axes) -> None:
    """For pictures: no ticks, and an edge, since white is a class and would else be the paper."""
    axes.grid(False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=GREY, linewidth=0.6)


def class_patches() -> list[Patch]:
    """The land-cover classes in their colours, for a legend."""
    return [
        Patch(facecolor=colour / 255, edgecolor=GREY, linewidth=0.6, label=name)
        for name, colour in zip(CLASS_NAMES, CLASS_COLOURS)
    ]


# -- the font for Chinese ------------------------------------------------------------------------------------

FIRST_WIDE = "\u2e80"  # from here on Latin fonts have nothing: radicals, kana, ideographs, full-width forms


def font_folder() -> Path | None:
    """Where NotoSansTC-Regular.otf and NotoSerifTC-Regular.otf lie; None without the package."""
    package = importlib.util.find_spec("pylopdf_fonts_zh_tw")
    return Path(package.origin).parent if package and package.origin else None


def woff_of(text: str) -> bytes:
    """A WOFF of Noto Sans TC with just the characters of `text` that Latin fonts lack; b"" for none."""
    folder, wide = font_folder(), sorted({mark for mark in text if mark >= FIRST_WIDE})
    if folder is None or not wide:
        return b""
    from fontTools import subset  # half a second, and most pages need none

    names = [0, 1, 2, 13, 14]  # copyright, family, style, licence
    options = subset.Options(flavor="woff", layout_features=[], name_IDs=names, notdef_outline=True)
    options.recalc_timestamp = False
    with subset.load_font(str(folder / "NotoSansTC-Regular.otf"), options) as font:
        subsetter = subset.Subsetter(options)
        subsetter.populate(text="".join(wide))
        subsetter.subset(font)
        file = io.BytesIO()
        subset.save_font(font, file, options)
    return file.getvalue()
