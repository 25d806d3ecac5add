"""Networks (builders.py has them by name), their weights, and the path from images to logits."""

import engine  # noqa: F401  it says in a line what a Python lacks
