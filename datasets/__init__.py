"""What an image, a table, a tile and a mask are."""
