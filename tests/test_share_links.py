"""What Google Drive and Dropbox offer for sharing becomes the address of the file itself."""

from __future__ import annotations

import pytest

from engine import download, manifest
from engine.download import direct_url
from tests.entries import an_entry

DRIVE = "https://drive.usercontent.google.com/download?id=1a-B_c&export=download&confirm=t"


@pytest.mark.parametrize(
    ("shared", "direct"),
    [
        ("https://drive.google.com/file/d/1a-B_c/view?usp=sharing", DRIVE),
        (
            "https://drive.google.com/file/d/1a-B_c/view?resourcekey=0-xyz&usp=drive_link",
            DRIVE + "&resourcekey=0-xyz",
        ),
        ("https://drive.google.com/file/u/1/d/1a-B_c/edit", DRIVE),
        ("https://drive.google.com/open?id=1a-B_c", DRIVE),
        ("https://drive.google.com/uc?export=download&id=1a-B_c", DRIVE),
        ("https://docs.google.com/uc?id=1a-B_c", DRIVE),
        ("https://drive.usercontent.google.com/download?id=1a-B_c", DRIVE),
        ("https://www.dropbox.com/s/abc/net.pt?dl=0", "https://www.dropbox.com/s/abc/net.pt?dl=1"),
        ("https://www.dropbox.com/s/abc/net.pt", "https://www.dropbox.com/s/abc/net.pt?dl=1"),
        (
            "https://www.dropbox.com/scl/fi/abc/net.pt?rlkey=k1&st=s2&dl=0",
            "https://www.dropbox.com/scl/fi/abc/net.pt?rlkey=k1&st=s2&dl=1",
        ),
        ("http://dropbox.com/s/abc/net.pt?raw=1", "https://dropbox.com/s/abc/net.pt?dl=1"),
        ("https://example.org/file/d/1a/view?dl=0", "https://example.org/file/d/1a/view?dl=0"),
    ],
)
def test_share_links_become_direct_ones(shared, direct):
    assert direct_url(shared) == direct


def test_a_link_to_a_shared_folder_is_called_that(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "FOLDER", tmp_path)
    with pytest.raises(download.NotAvailable, match="link to a folder"):
        download.fetch(an_entry("https://drive.google.com/drive/folders/1a-B_c?usp=sharing"))
