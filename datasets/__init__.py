"""What an image, a table, a tile and a mask are."""

import engine  # noqa: F401  it says in a line what a Python lacks
