"""Recipes of p2_train.py. Crops cover `min_crop` to all of a tile's side and are scaled to the crop size."""

from __future__ import annotations

RECIPES = {
    "default": {
        "weights": "none",
        "epochs": 30,
        "lr": 2e-3,  # the head's
        "backbone_lr": 5e-4,  # the backbone's, where it starts from ready-made weights
        "weight_decay": 0.02,
        "schedule": "cosine",
        "warmup_steps": 100,
        "batch_size": 16,
        "scale": 0.75,
        "min_crop": 0.5,
        "soft_iou": 0.5,  # weight of the soft-IoU loss beside cross-entropy
        "balanced": True,  # draw tiles with rare classes more often
        "ema_decay": 0.998,
    },
}
