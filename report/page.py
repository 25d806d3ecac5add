"""The report as one HTML file that needs nothing beside it: report/page.html, filled.

Pictures and Chinese's font are inside it; its own Content-Security-Policy forbids scripts and the network.
"""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.base import cannot_write, write_atomically
from report.document import Report, content_of, pictures_in
from report.style import woff_of

CSS_DOTS_AN_INCH = 96
SMALLEST = 0.55  # of its own size: a figure's letters can still be read on a phone


def write_page(report: Report, folder: Path) -> Path:
    """Write `folder`/report.html with the pictures of `folder`/figures. UserError where it can't be."""
    content = content_of(report, folder)
    path = folder / "report.html"
    for picture in pictures_in(content):
        picture["source"] = _data_uri("image/png", picture["data"])
        picture["least"] = round(picture["width"] * CSS_DOTS_AN_INCH * SMALLEST)
        picture["pixels"] = tuple(round(picture[side] * CSS_DOTS_AN_INCH) for side in ("width", "height"))
    loader, tight = FileSystemLoader(Path(__file__).parent), {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **tight)
    template = environment.get_template("page.html")
    font = woff_of(template.render(content, font=""))
    page = template.render(content, font=_data_uri("font/woff", font) if font else "")
    try:
        with write_atomically(path) as temporary:
            temporary.write_bytes(page.encode())
    except OSError as error:
        raise cannot_write(str(path), error) from None
    return path


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
