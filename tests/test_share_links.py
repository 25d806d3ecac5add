"""What Google Drive, Dropbox, Hugging Face and GitHub show for a file becomes the address of its bytes."""

from __future__ import annotations

import pytest

from engine import download, manifest
from engine.manifest import direct_url
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
        (
            "https://huggingface.co/user/net/blob/main/net.pt",
            "https://huggingface.co/user/net/resolve/main/net.pt",
        ),
        (
            "https://huggingface.co/user/blob/blob/main/blob/net.pt?download=true",
            "https://huggingface.co/user/blob/resolve/main/blob/net.pt?download=true",
        ),
        ("https://hf.co/net/blob/main/a/net.pt", "https://hf.co/net/resolve/main/a/net.pt"),
        (
            "https://huggingface.co/datasets/user/net/blob/v1/net.pt",
            "https://huggingface.co/datasets/user/net/resolve/v1/net.pt",
        ),
        (
            "https://huggingface.co/user/net/resolve/main/net.pt",
            "https://huggingface.co/user/net/resolve/main/net.pt",
        ),
        (
            "https://github.com/user/net/blob/v1.0/weights/my%20net.pt",
            "https://github.com/user/net/raw/v1.0/weights/my%20net.pt",
        ),
        (
            "https://www.github.com/user/net/blob/main/net.pt?raw=true#L1",
            "https://www.github.com/user/net/raw/main/net.pt?raw=true",
        ),
        (
            "https://github.com/user/net/releases/download/v1/net.pt",
            "https://github.com/user/net/releases/download/v1/net.pt",
        ),
        (
            "https://raw.githubusercontent.com/user/net/main/blob/net.pt",
            "https://raw.githubusercontent.com/user/net/main/blob/net.pt",
        ),
        ("https://example.org/file/d/1a/view?dl=0", "https://example.org/file/d/1a/view?dl=0"),
    ],
)
def test_share_links_become_direct_ones(shared, direct):
    assert direct_url(shared) == direct


@pytest.mark.parametrize(
    "url",
    [
        "https://drive.google.com/drive/folders/1a-B_c?usp=sharing",
        "https://huggingface.co/user/net/tree/main",
        "https://github.com/user/net/tree/main/weights",
    ],
)
def test_a_link_to_a_shared_folder_is_called_that(url, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "FOLDER", tmp_path)
    with pytest.raises(download.NotAvailable, match="link to a folder"):
        download.fetch(an_entry(url))
