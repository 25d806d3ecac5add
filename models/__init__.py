"""Every network by its name (models/builders.py): from models import CLASSIFIERS, build_network, load_trained

They are imported when first asked for: torch takes two seconds, and `python3 -m models.export --help` needs none.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("CLASSIFIERS", "SEGMENTERS", "build_network", "describe_classifier", "load_trained", "normalisation"):
        import models.builders as builders

        return getattr(builders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
