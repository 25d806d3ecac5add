"""Share links of Google Drive and Dropbox lead to a page about the file; here they become links to its
bytes.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from engine.base import UserError


def direct_url(url: str) -> str:
    """The URL that gives the bytes behind `url`; links of other sites come back as they are.

    UserError for a folder.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    host = (parts.hostname or "").lower()
    if host in ("drive.google.com", "docs.google.com", "drive.usercontent.google.com"):
        return _google_drive(url, parts.path, query)
    if host in ("dropbox.com", "www.dropbox.com"):
        query.pop("raw", None)
        # rlkey and st, where there, are the permission: they stay.
        query["dl"] = "1"
        return urlunsplit(("https", host, parts.path, urlencode(query), ""))
    return url


def _google_drive(url: str, path: str, query: dict[str, str]) -> str:
    if "/folders/" in path or "/folderview" in path:
        raise UserError(f"{url} is a link to a folder; share the file itself and take its link")
    match = re.search(r"/d/([\w-]+)", path)
    identity = match.group(1) if match else query.get("id")
    if not identity:
        return url
    # confirm=t answers the page that asks, from about 100 MB on, whether to go on without a virus scan.
    wanted = {"id": identity, "export": "download", "confirm": "t"}
    if "resourcekey" in query:  # files shared before 2021 need it
        wanted["resourcekey"] = query["resourcekey"]
    return "https://drive.usercontent.google.com/download?" + urlencode(wanted)
