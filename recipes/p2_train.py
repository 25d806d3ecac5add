"""Recipes of p2_train.py.

Crops cover `min_crop` to all of a tile's side and are scaled to the crop size.
"""

from __future__ import annotations

from recipes import ADAM, NORMS, STEPPING

RECIPES = {
    "default": {
        **STEPPING,
        "edition": None,  # that of EDITION
        "model": "lite_fpn",
        "weights": "none",
        "epochs": 30,
        "lr": 2e-3,  # the head's
        "backbone_lr": 5e-4,  # the backbone's, where it starts from pretrained weights
        "weight_decay": 0.02,
        "warmup_steps": 100,
        "batch_size": 16,
        "scale": 0.75,
        "mean": None,  # the network's own
        "std": None,
        "min_crop": 0.5,
        "augment": "all",
        "changes": None,  # for the augmentation "recipe": see datasets/augment.py
        "gamma": 0.0,  # of the focal loss; with 0 it is cross-entropy
        "alpha": [1.0],
        "learns_unknown": False,  # as a seventh class; else its pixels are ignored
        "auxiliary_weight": 0.4,  # of the loss of a head on earlier features, as torchvision trains its own
        "soft_iou": 0.5,
        "balanced": True,
        "ema_decay": 0.998,
        "snapshot_epochs": None,  # first, middle and last
        "pictures": None,  # the edition's three tiles
    }
}

# Those of the reports, a recipe for each of their two networks (`_a`: the VGG16-FCN32s): what their text says
# and, where it is silent, what their authors' code did.
PLAIN = {
    **RECIPES["default"],
    **ADAM,
    "weights": "imagenet",
    "nesterov": False,
    "backbone_lr": 1e-4,
    "scale": 1.0,
    "min_crop": 1.0,
    "augment": "none",
    "auxiliary_weight": 0.0,
    "soft_iou": 0.0,
    "balanced": False,
    "ema_decay": 0.0,
}
UNSAID = ["soft_iou", "balanced", "ema_decay"]  # nobody says a word of these: there were none
IGNORED, BILINEAR = "ignored pixels", "bilinear start"  # ours that act

RECIPES["report000"] = {
    **PLAIN,
    "edition": "2021",
    "model": "fcn8s_conv2x2",
    "lr": 2e-4,
    "backbone_lr": 2e-4,
    "weight_decay": 1e-5,
    "batch_size": 64,
    "scale": 0.5,
    "mean": [0.4092, 0.3792, 0.2816],
    "std": [0.1375, 0.1025, 0.0919],
    "learns_unknown": True,
    "epochs": 35,
    "snapshot_epochs": [5, 10, 30],
    "pictures": ["0010", "0097", "0107"],
    "assumed": [*UNSAID, "weights", "schedule", "warmup_steps", "augment", NORMS],
}
RECIPES["report000_a"] = {**RECIPES["report000"], "model": "fcn32s_conv2x2"}

# Which six, and which seven, is not said. 450 of a tile's 512 pixels.
BLUR, ROTATION = {"blur": [1, 0.1, 2.0]}, {"rotation": 40}
SIX_COPIES = [{}, {"hflip": 1}, {"vflip": 1}, {"hflip": 1, "vflip": 1}, BLUR, ROTATION]
JITTER, WINDOW = {"jitter": [0.4, 0.4, 0.4, 0.2, 1]}, {"window": 450 / 512}
SEVEN_COPIES = [*SIX_COPIES[:3], *SIX_COPIES[4:], JITTER, WINDOW]
RECIPES["report001"] = {
    **PLAIN,
    "edition": "2024",
    "model": "deeplabv3_resnet101",
    "weights": "coco",
    "lr": 5e-5,
    "backbone_lr": 5e-5,
    "batch_size": 32,
    "augment": "recipe",
    "changes": SEVEN_COPIES,
    "learns_unknown": True,
    "epochs": 20,
    "snapshot_epochs": [5, 10, 11, 15, 20],
    "pictures": ["0013", "0062", "0104"],
    "assumed": [*UNSAID, "changes", "weight_decay", "schedule", "warmup_steps"],
}
RECIPES["report001_a"] = {
    **RECIPES["report001"],
    "model": "fcn32s_staged",
    "weights": "imagenet",
    "batch_size": 64,
    "changes": SIX_COPIES,
    "assumed": [*RECIPES["report001"]["assumed"], "weights"],
}

STEPS = ["optimizer", "lr", "weight_decay", "schedule", "warmup_steps", "batch_size"]
RECIPES["report002"] = {
    **PLAIN,
    "edition": "2021",
    "model": "resnet34_fcn8s",
    "epochs": 50,
    "snapshot_epochs": [5, 25, 50],
    "assumed": [*UNSAID, *STEPS, "weights", "augment", NORMS, IGNORED, BILINEAR],
}
RECIPES["report002_a"] = {**RECIPES["report002"], "model": "fcn32s_paper"}

RECIPES["report003"] = {
    **PLAIN,
    "edition": "2021",
    "model": "fcn8s",
    "lr": 2e-4,
    "backbone_lr": 2e-4,
    "batch_size": 4,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "augment": "recipe",
    "changes": [{"hflip": 0.5, "vflip": 0.5}],
    "alpha": [2.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0],
    "learns_unknown": True,
    "epochs": 75,
    "assumed": [*UNSAID, "weights", "weight_decay", "schedule", "warmup_steps", "loss a pixel, not a weight"],
}
RECIPES["report003_a"] = {
    **RECIPES["report003"],
    "model": "fcn32s_deconv",
    "assumed": [*RECIPES["report003"]["assumed"], "all of its training"],
}

# "flips": every tile as it is, mirrored, and upside down.
RECIPES["report004"] = {
    **PLAIN,
    "edition": "2024",
    "model": "deeplabv3_resnet101",
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup_steps": 500,
    "batch_size": 8,
    "augment": "flips",
    "gamma": 2.0,
    "alpha": [0.25],
    "assumed": [*UNSAID, "epochs", NORMS, IGNORED],
}
RECIPES["report004_a"] = {
    **RECIPES["report004"],
    "model": "fcn32s_bilinear",
    "batch_size": 16,
    "augment": "none",
    "gamma": 0.0,
    "alpha": [1.0],
    "assumed": [*UNSAID, "weights", "epochs", NORMS],
}
