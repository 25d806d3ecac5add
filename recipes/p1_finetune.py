"""Recipes of p1_finetune.py."""

from __future__ import annotations

RECIPES = {
    "default": {
        "model": "resnet50",
        "weights": "none",
        "epochs": 100,
        "batch_size": 32,
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_steps": 100,
        "image_size": 128,
        "augment": "unfrozen",
        "min_area": 0.3,  # smallest share of a photograph that a crop covers
        "jitter": 0.3,  # how far contrast and saturation change at most, and twice the brightness
        "label_smoothing": 0.1,
        "ema_decay": 0.995,
    },
}
PLAIN = {**RECIPES["default"], "augment": "none", "label_smoothing": 0.0, "ema_decay": 0.0}
ADAM = {"optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0}
# Both reports say nothing of these; the last two are how our networks and optimisers are made.
UNSAID = ["augment", "label_smoothing", "ema_decay", "zero-initialised residuals", "no decay of biases and norms"]
RECIPES["report001"] = {**PLAIN, **ADAM, "model": "resnet50_fc1000", "epochs": 50, "batch_size": 64}
RECIPES["report001"]["assumed"] = [*UNSAID, *ADAM, "batch_size"]
RECIPES["report004"] = {**PLAIN, "lr": 1e-4, "epochs": 500, "batch_size": 128, "assumed": [*UNSAID, "model"]}
