"""Recipes of p1_ssl_pretrain.py."""

from __future__ import annotations

RECIPES = {
    "default": {
        "image_share": 1.0,  # of the images, drawn by seed
        "epochs": 300,
        "batch_size": 256,
        "optimizer": "adamw",
        "nesterov": True,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "decay_all": False,  # biases and norms are not pulled to zero
        "schedule": "cosine",
        "last_rate": 0.0,  # share of the rate with which a cosine ends
        "milestones": None,  # at which the schedule "step" falls
        "warmup_steps": 1000,
        "precision": "auto",
        "views": "two",  # the paper's two asymmetric ones, drawn for each image (datasets/views.py)
        # Smallest share of an image that a view shows; the paper's .08 is for images of 224 pixels.
        "min_area": 0.2,
        "target_decay": 0.996,
        "target_schedule": "cosine",
        "ema_decay": 0,  # BYOL's target is its own average
    },
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
ZERO, NORMS = "zero-initialised residuals", "no decay of biases and norms"  # how ours are made
RECIPES["report001"] = {
    **STOCK,
    "optimizer": "adam",
    "lr": 1e-4,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
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
