"""Recipes of p1_finetune.py."""

from __future__ import annotations

from recipes import ADAM, NORMS, STEPPING

RECIPES = {
    "default": {
        **STEPPING,
        "edition": None,  # that of EDITION
        "model": "resnet50",
        "weights": "none",
        "epochs": 100,
        "batch_size": 32,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "warmup_steps": 100,
        "image_size": 128,
        "padded": False,  # to a square, with black, before it is resized
        "mean": None,  # the network's own
        "std": None,
        "stem": "7x7",
        "augment": "unfrozen",
        "changes": None,  # ours: crops, flips and colours as below; else see datasets/augment.py
        "min_area": 0.3,  # smallest share of an image that a crop covers ...
        "shift": 0,  # ... or by how many pixels at most it is moved, as it is
        "jitter": 0.3,  # how far contrast and saturation change at most, and twice the brightness
        "mix": "none",
        "label_smoothing": 0.1,
        "ema_decay": 0.995,
    }
}

# For ten epochs or fewer: in so few, crops and colours cost more than they give, .520 against .631.
RECIPES["short"] = {**RECIPES["default"], "epochs": 10, "augment": "none"}

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

VGG_LR = 2e-4  # at most, in the recipes above: at 1e-3 a VGG stays for long where it started

# Those of the reports: what their text says and, where it is silent, what their authors' code did.
PLAIN = {**RECIPES["default"], "augment": "none", "label_smoothing": 0.0, "ema_decay": 0.0, "nesterov": False}
UNSAID = ["label_smoothing", "ema_decay"]  # neither says a word of these: there were none

# Each image eight times. How far the affine one goes is not known.
EIGHT_COPIES = [
    {},
    {"hflip": 1},
    {"vflip": 1},
    {"hflip": 1, "vflip": 1},
    {"rotation": 40},
    {"blur": [1, 0.1, 2.0]},
    {"affine": [10, 0.1, 0.1]},
    {"jitter": [0.4, 0.4, 0.4, 0.2, 1]},
]
RECIPES["report001"] = {
    **PLAIN,
    **ADAM,
    "edition": "2024",
    "model": "resnet50_fc1000",
    "lr": 3e-4,
    "epochs": 50,
    "batch_size": 16,
    "augment": "all",
    "changes": EIGHT_COPIES,
    "padded": True,
    "assumed": [*UNSAID, "weight_decay", "schedule", "warmup_steps", "amounts of affine"],
}
# byol-pytorch's, drawn for each image; its crops cover torchvision's usual areas.
BYOL_VIEWS = {
    "jitter": [0.8, 0.8, 0.8, 0.2, 0.3],
    "grey": 0.2,
    "hflip": 0.5,
    "blur": [0.2, 1.0, 2.0],
    "crop": 0.08,
}
RECIPES["report004"] = {
    **PLAIN,
    "edition": "2024",
    "model": "resnet50_report004",
    "lr": 1e-4,
    "epochs": 500,
    "batch_size": 128,
    "augment": "all",
    "changes": [BYOL_VIEWS],
    "assumed": [*UNSAID, NORMS],
}

# On 50 classes. 224 pixels are what ImageNet's weights, without which none of these figures can be reached,
# were trained at.
RECIPES["report000"] = {
    **PLAIN,
    **ADAM,
    "edition": "2021",
    "model": "resnet34",
    "weights": "imagenet",
    "lr": 5e-4,
    "weight_decay": 2e-4,
    "decay_all": True,
    "schedule": "step",
    "milestones": {"epochs": [9, 14], "factor": 0.1},
    "epochs": 25,
    "batch_size": 64,
    "image_size": 224,
    "augment": "all",
    "changes": [{"jitter": [0.3, 0.3, 0, 0, 1], "hflip": 0.5, "rotation": 35}],
    "assumed": [*UNSAID, "which two of the colours jitter changes", "warmup_steps"],
}
RECIPES["report002"] = {
    **PLAIN,
    **ADAM,
    "edition": "2021",
    "model": "vgg16_bn",
    "weights": "imagenet",
    "epochs": 50,
    "batch_size": 64,
    "image_size": 224,
    "assumed": [*UNSAID, *ADAM, "weights", "epochs", "batch_size", "image_size", "augment", NORMS],
}
TURNS = {"hflip": 0.5, "vflip": 0.5, "rotation": 15}
RECIPES["report003"] = {  # the other seven of its ensemble: --model
    **PLAIN,
    **ADAM,
    "edition": "2021",
    "model": "vgg16",
    "weights": "imagenet",
    "optimizer": "sgd",
    "lr": 1e-3,
    "schedule": "step",
    "milestones": {"steps": [8000, 16000, 24000, 32000, 40000], "factor": 0.7},
    "epochs": 120,
    "batch_size": 64,
    "image_size": 40,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "augment": "all",
    "changes": [{**TURNS, "jitter": [0.5, 0.5, 0.5, 0, 1], "perspective": [0.2, 0.5]}],
    "assumed": [*UNSAID, "weights", "weight_decay", "warmup_steps", "how often perspective changes", NORMS],
}
