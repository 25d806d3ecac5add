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
        "stem": "7x7",
        "augment": "unfrozen",
        "min_area": 0.3,  # smallest share of an image that a crop covers ...
        "shift": 0,  # ... or by how many pixels at most it is moved, as it is
        "jitter": 0.3,  # how far contrast and saturation change at most, and twice the brightness
        "mix": "none",
        "label_smoothing": 0.1,
        "ema_decay": 0.995,
    },
}

# For images of some 32 pixels, the editions with 50 classes: taken when none is named
# and labels are in the names.
RECIPES["small"] = {
    **RECIPES["default"],
    "model": "resnet34",
    "epochs": 60,
    "batch_size": 64,
    "warmup_steps": 200,
    "image_size": 32,
    "stem": "3x3",
    "shift": 4,
    "jitter": 0.0,
    "mix": "cutmix",
}

VGG_LR = 2e-4  # at most, where none is given: at 1e-3 a VGG stays for long where it started

# Those of the reports.
PLAIN = {**RECIPES["default"], "augment": "none", "label_smoothing": 0.0, "ema_decay": 0.0}
ADAM = {"optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant", "warmup_steps": 0}
# Both reports say nothing of these; the last two are how our networks and optimisers are made.
UNSAID = [
    "augment",
    "label_smoothing",
    "ema_decay",
    "zero-initialised residuals",
    "no decay of biases and norms",
]
RECIPES["report001"] = {**PLAIN, **ADAM, "model": "resnet50_fc1000", "epochs": 50, "batch_size": 64}
RECIPES["report001"]["assumed"] = [*UNSAID, *ADAM, "batch_size"]
RECIPES["report004"] = {**PLAIN, "lr": 1e-4, "epochs": 500, "batch_size": 128, "assumed": [*UNSAID, "model"]}

# Of their training the reports on 50 classes say nothing but the network, and report000 its ImageNet weights,
# without which none of the three figures can be reached. 224 pixels are what such weights were trained at.
IMAGENET = {**PLAIN, **ADAM, "weights": "imagenet", "epochs": 50, "batch_size": 64, "image_size": 224}
ASSUMED = ["augment", "label_smoothing", "ema_decay", *ADAM, "weights", "epochs", "batch_size", "image_size"]
RECIPES["report000"] = {
    **IMAGENET,
    "model": "resnet34",
    "assumed": [name for name in ASSUMED if name != "weights"],
}
RECIPES["report002"] = {**IMAGENET, "model": "vgg16_bn", "assumed": ASSUMED}
RECIPES["report003"] = {**IMAGENET, "model": "vgg16", "assumed": ASSUMED}  # the other seven: --model
