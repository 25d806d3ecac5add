"""Recipes of p2_train.py.

Crops cover `min_crop` to all of a tile's side and are scaled to the crop size.
"""

from __future__ import annotations

RECIPES = {
    "default": {
        "model": "lite_fpn",
        "weights": "none",
        "epochs": 30,
        "optimizer": "adamw",
        "lr": 2e-3,  # the head's
        "backbone_lr": 5e-4,  # the backbone's, where it starts from pretrained weights
        "weight_decay": 0.02,
        "schedule": "cosine",
        "warmup_steps": 100,
        "batch_size": 16,
        "scale": 0.75,
        "min_crop": 0.5,
        "augment": "all",
        "gamma": 0.0,  # of the focal loss; with 0 it is cross-entropy
        "alpha": [1.0],
        "soft_iou": 0.5,
        "balanced": True,
        "ema_decay": 0.998,
    },
}

# Those of the reports. Each is for its better network; the other one: --model, as in the comments.
ADAM = {"optimizer": "adam", "lr": 1e-4, "backbone_lr": 1e-4, "weight_decay": 0.0, "schedule": "constant"}
ADAMW = {"optimizer": "adamw", "lr": 1e-4, "backbone_lr": 1e-4, "weight_decay": 0.05, "schedule": "cosine"}
PLAIN = {
    **RECIPES["default"],
    **ADAM,
    "weights": "imagenet",
    "warmup_steps": 0,
    "scale": 1.0,
    "min_crop": 1.0,
    "augment": "none",
    "soft_iou": 0.0,
    "balanced": False,
    "ema_decay": 0.0,
}
# Nothing of theirs that we do is in any report, so it is left out.
OURS = ["augment", "soft_iou", "balanced", "ema_decay", "no decay of biases and norms"]
UNSAID = [*OURS, *ADAM, "warmup_steps", "batch_size", "weights"]
RECIPES["report000"] = {**PLAIN, "model": "fcn8s_conv2x2", "epochs": 30, "assumed": UNSAID}  # fcn32s_conv2x2
RECIPES["report001"] = {  # fcn32s_staged
    **PLAIN,
    "model": "deeplabv3_resnet101",
    "weights": "coco",
    "assumed": [*UNSAID, "epochs"],
}
RECIPES["report002"] = {**PLAIN, "model": "resnet34_fcn8s", "epochs": 50, "assumed": UNSAID}  # fcn32s_vgg16bn
RECIPES["report003"] = {**PLAIN, "model": "fcn8s", "assumed": [*UNSAID, "epochs"]}  # fcn32s_deconv
# Its two networks were trained differently. "flips": every tile as it is, mirrored, and upside down.
RECIPES["report004"] = {
    **PLAIN,
    **ADAMW,
    "model": "deeplabv3_resnet101",
    "weights": "coco",
    "warmup_steps": 500,
    "batch_size": 8,
    "augment": "flips",
    "gamma": 2.0,
    "alpha": [0.25],
    "assumed": ["soft_iou", "balanced", "ema_decay", "no decay of biases and norms", "weights", "epochs"],
}
RECIPES["report004_a"] = {
    **PLAIN,
    **ADAMW,
    "model": "fcn32s_bilinear",
    "warmup_steps": 500,
    "batch_size": 16,
    "assumed": ["soft_iou", "balanced", "ema_decay", "no decay of biases and norms", "weights", "epochs"],
}
