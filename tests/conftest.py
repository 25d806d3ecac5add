"""Fixtures for several files: small trained-looking networks, and no settings from the caller's
environment.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tiny networks gain nothing from threads, which on a busy machine wait for each other. Set before torch is
# imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests import grader


@pytest.fixture(autouse=True)
def nothing_from_the_environment(monkeypatch):
    for name in ("P1_CHECKPOINT", "P1_50_CHECKPOINT", "P2_CHECKPOINT", "EDITION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def p1_model(tmp_path_factory) -> Path:
    """A model.pt that classifies images, seen at 32 px, into the numbers 0 to 64."""
    return grader.save_classifier(tmp_path_factory.mktemp("p1") / "model.pt", seed=0)


@pytest.fixture(scope="session")
def p2_model(tmp_path_factory) -> Path:
    """A model.pt that finds land cover in tiles, seen at half their size; its highest logit is often
    unknown's.
    """
    return grader.save_segmenter(tmp_path_factory.mktemp("p2") / "model.pt", seed=0)
