"""Networks (builders.py has them by name), their weights, and the path from images to logits."""
