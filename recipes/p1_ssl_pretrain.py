"""Recipes of p1_ssl_pretrain.py."""

from __future__ import annotations

# byol-pytorch's own views (one draw a batch, of images already normalised, which it clamps) and decay: the
# reports'.
STOCK = {
    "views": "stock",
    "min_area": None,
    "target_decay": 0.99,
    "target_schedule": "constant",
    "ema_decay": 0,
}
ADAM = {"optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0}
ADAMW = {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.05, "schedule": "cosine", "warmup_steps": 4000}
UNSAID = [*STOCK, "zero-initialised residuals", "no decay of biases and norms"]  # how ours are made

RECIPES = {
    "default": {
        "epochs": 300,
        "batch_size": 256,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_steps": 1000,
        "views": "two",  # the paper's two asymmetric ones, drawn for each image (datasets/views.py)
        # Smallest share of an image that a view shows; the paper's .08 is for images of 224 pixels.
        "min_area": 0.2,
        "target_decay": 0.996,
        "target_schedule": "cosine",
        "ema_decay": 0,  # BYOL's target is its own average
    },
    "report001": {
        **STOCK,
        **ADAM,
        "epochs": 100,
        "batch_size": 64,
        "assumed": ["epochs", "weight_decay", *UNSAID],
    },
    "report004": {**STOCK, **ADAMW, "epochs": 1000, "batch_size": 256, "assumed": UNSAID},
}
