"""Recipes of p1_ssl_pretrain.py."""

from __future__ import annotations

from recipes import ADAM, STEPPING

RECIPES = {
    "default": {
        **STEPPING,
        "image_share": 1.0,  # of the images, drawn by seed
        "epochs": 300,
        "batch_size": 256,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "warmup_steps": 1000,
        "views": "two",  # the paper's two asymmetric ones, drawn for each image (datasets/views.py)
        # Smallest share of an image that a view shows; the paper's .08 is for images of 224 pixels.
        "min_area": 0.2,
        "target_decay": 0.996,
        "target_schedule": "cosine",
        "ema_decay": 0,  # BYOL's target is its own average
    }
}

# Those of the reports: what their text says and, where it is silent, what their authors' code did. Views and
# target are byol-pytorch's own (one draw a batch, of images already normalised, which it clamps).
STOCK = {
    **RECIPES["default"],
    "views": "stock",
    "min_area": None,
    "target_decay": 0.99,
    "target_schedule": "constant",
}
ZERO = "zero-initialised residuals"  # how ours are made
RECIPES["report001"] = {
    **STOCK,
    **ADAM,
    "epochs": 200,
    "batch_size": 64,
    "precision": "fp16",
    "assumed": ["weight_decay", ZERO],
}
# Its own code had no momentum, which is SimSiam; BYOL is what its text says.
RECIPES["report004"] = {
    **STOCK,
    "lr": 1e-4,
    "decay_all": True,
    "last_rate": 0.005,
    "warmup_steps": 4000,
    "image_share": 0.85,
    "epochs": 1000,
    "assumed": ["target_decay", ZERO],
}
