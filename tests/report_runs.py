"""Run folders and results of both problems, as the scripts leave them, made in a moment without any
training.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from datasets.palette import save_mask
from models.describe import described, write_architecture
from report.style import save_figure

TILES = ("0013", "0062", "0104")
IOUS = ("urban", "agriculture", "rangeland", "forest", "water", "barren")
STARTED = 1_790_000_000.0  # 2026-09-21, UTC


def write_run(folder: Path, arguments: dict, lines: list[dict], total_steps: int | None = None) -> Path:
    """config.json and metrics.jsonl of a run, ten steps an epoch."""
    folder.mkdir(parents=True)
    total = total_steps or max((line["step"] for line in lines), default=10)
    config = {
        "arguments": arguments,
        "recipe": {},
        "total_steps": total,
        "command": "python3 some_script.py --output there",
        "machine": {"system": "Linux", "cores": 2, "gpu": None},
        "started": "2026-09-21 10:00:00",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def epochs(count: int, **series) -> list[dict]:
    """A line an epoch; each of `series` is a function of the epoch."""
    return [
        {
            "step": 10 * epoch,
            "epoch": epoch,
            "time": STARTED + 60 * epoch,
            "seconds": 30.0 * epoch,
            "loss": 2 / epoch,
            **{name: value(epoch) for name, value in series.items()},
        }
        for epoch in range(1, count + 1)
    ]


def problem_1(folder: Path, seeds: int = 2, settings: str = "ABCDE") -> Path:
    """Pre-training, settings with their predictions, and a t-SNE picture."""
    given = {
        "model": "resnet50",
        "weights": "none",
        "recipe": "default",
        "batch_size": 256,
        "lr": 1e-3,
        "seed": 0,
    }
    ssl = {
        **given,
        "optimizer": "adamw",
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_steps": 1000,
        "views": "two",
        "min_area": 0.2,
        "target_decay": 0.996,
        "target_schedule": "cosine",
        "image_size": 128,
        "training_images": 38400,
    }
    lines = epochs(4, embedding_std=lambda e: 1 - 0.1 / e, knn_accuracy=lambda e: 0.1 * e)
    write_run(folder / "ssl", ssl, lines)
    for place, setting in enumerate(settings):
        for seed in range(seeds):
            right = 50 + 5 * place + seed
            own = {
                **given,
                "setting": setting,
                "seed": seed,
                "is_frozen": setting in "DE",
                "num_classes": 3,
                "backbone": str(folder / "ssl" / "backbone.pt") if setting in "CE" else None,
            }
            name = folder / "settings" / f"{setting}-seed{seed}"
            run = write_run(
                name, own, epochs(4, accuracy=lambda e, right=right: right / 100 if e >= 3 else 0.3)
            )
            answers = [i % 3 if (37 * i + 11 * place) % 100 < right else (i + 1) % 3 for i in range(100)]
            rows = [(f"{i}.jpg", answer, i % 3) for i, answer in enumerate(answers)]
            for file in ("predictions.csv", "predictions_last.csv"):
                with open(run / file, "w", newline="") as opened:
                    csv.writer(opened).writerows([("filename", "label", "truth"), *rows])
    tsne = folder / "tsne"
    tsne.mkdir()
    save_figure(Figure(figsize=(4, 2)), tsne / "tsne")
    panel = {
        "checkpoint": "runs/C-seed0/snapshots/epoch_0004.pt",
        "title": "after epoch 4",
        "silhouette_plane": 0.1,
    }
    scattered = [{"label": "1", "name": "1 Bed"}]
    overlapping = [{"labels": ["1", "2"], "names": ["1 Bed", "2 Couch"]}]
    (tsne / "scores.json").write_text(
        json.dumps([panel, {**panel, "most_scattered": scattered, "most_overlapping": overlapping}])
    )
    return folder


def fifty(folder: Path) -> Path:
    """Two networks on 50 classes, from random and from pretrained weights, their vote, and their features at
    three epochs.
    """
    for model, weights, right in (("resnet18", "none", 60), ("efficientnet_lite0", "imagenet", 80)):
        given = {"model": model, "weights": weights, "train_csv": None, "num_classes": 50, "setting": "A"}
        given |= {"seed": 0, "image_size": 32, "val_images": "val_50", "batch_size": 64, "optimizer": "adamw"}
        run = write_run(
            folder / model / "A-seed0", given, epochs(4, accuracy=lambda e, right=right: right * e / 400)
        )
        rows = [(f"{i % 50}_{i}.png", i % 50 if i < right else (i + 1) % 50, i % 50) for i in range(100)]
        for file in ("predictions.csv", "predictions_last.csv"):
            with open(run / file, "w", newline="") as opened:
                csv.writer(opened).writerows([("filename", "label", "truth"), *rows])
        write_architecture(described(model, 32, 50), run / "architecture")
        for method in ("tsne", "pca"):
            place = folder / method / model
            place.mkdir(parents=True)
            save_figure(Figure(figsize=(4, 2)), place / method)
            for tens in ("00-09", "10-19") if method == "tsne" else ():
                save_figure(Figure(figsize=(4, 2)), place / f"{method}_classes_{tens}")
            panels = [
                {"checkpoint": f"{run}/snapshots/epoch_{epoch:04d}.pt", "title": f"after epoch {epoch}"}
                for epoch in (1, 2, 4)
            ]
            panels[-1]["most_scattered"] = [{"label": "30", "name": "30"}]
            panels[-1]["most_overlapping"] = [{"labels": ["13", "18"], "names": ["13", "18"]}]
            (place / "scores.json").write_text(json.dumps(panels))
    (folder / "predictions.csv").write_text("filename,label\n")
    (folder / "score.txt").write_text("class\n\naccuracy: 0.8250 +- 0.0380 (82 of 100 images)\n")
    return folder


def problem_2(folder: Path) -> Path:
    """Tiles of 64 px, a run of each model with masks at three stages, and the masks of hw1_2.sh."""
    random = np.random.default_rng(0)
    tiles, masks = folder / "data" / "validation", folder / "masks"
    for made in (tiles, masks):
        made.mkdir(parents=True)
    truths = {name: random.integers(0, 6, (4, 4)).repeat(16, axis=0).repeat(16, axis=1) for name in TILES}
    for name, truth in truths.items():
        Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tiles / f"{name}_sat.jpg")
        save_mask(truth, tiles / f"{name}_mask.png")
        save_mask(np.roll(truth, 8, axis=1), masks / f"{name}_mask.png")
    given = {
        "data": str(folder / "data"),
        "scale": 1.0,
        "min_crop": 0.5,
        "gamma": 0.0,
        "alpha": [1.0],
        "soft_iou": 0.5,
    }
    given |= {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.02, "schedule": "cosine", "batch_size": 16}
    for letter, model, best in (("a", "fcn32s_bilinear", 0.5), ("b", "lite_fpn", 0.6)):
        scores = {name: (lambda e, v=best + 0.01 * place: v * e / 3) for place, name in enumerate(IOUS)}
        lines = epochs(3, mean_iou=lambda e, best=best: best * e / 3, **scores)
        run = write_run(folder / f"model_{letter}", {**given, "model": model}, lines)
        write_confusions(run, best)
        write_architecture(described(model, 64), run / "architecture")
        for epoch in (1, 2, 3):
            stage = run / "snapshots" / f"epoch_{epoch:04d}"
            stage.mkdir(parents=True)
            for name, truth in truths.items():
                save_mask(np.roll(truth, 24 - 8 * epoch, axis=1), stage / f"{name}_mask.png")
    return folder


def write_confusions(run: Path, iou: float) -> None:
    """confusions.npz of twelve tiles with so much IoU in each class, 0.1 more or less in a tile."""
    pixels = np.zeros((12, 7, 7), dtype=np.int64)
    for tile in range(12):
        right = round(200 * iou) + (20 if tile % 2 else -20)
        pixels[tile, range(6), range(6)] = right
        pixels[tile, range(6), 6] = 200 - right
    names = np.array([f"{tile:04d}" for tile in range(12)])
    np.savez(run / "confusions.npz", names=names, best=pixels, last=pixels)


def sam(folder: Path) -> Path:
    """What p2_sam.py leaves of three images."""
    folder.mkdir(parents=True)
    save_figure(Figure(figsize=(6, 4)), folder / "sheet")
    made_by = {
        "network": "vit_b",
        "weights": "sam_vit_b_01ec64.pth",
        "points_per_side": 32,
        "pred_iou_thresh": 0.88,
    }
    for name in TILES:
        image = {"file_name": f"{name}_sat.jpg", "height": 64, "width": 64}
        annotations = [{"id": 1, "area": 1024}, {"id": 2, "area": 512}]
        text = json.dumps({"image": image, "made_by": made_by, "annotations": annotations})
        (folder / f"{name}_sam.json").write_text(text)
    scores = {
        "images": 3,
        "model B": {"mean_iou": 0.6, "urban": 0.5},
        "vote": {"mean_iou": 0.61, "urban": 0.52},
    }
    (folder / "score.json").write_text(json.dumps(scores))
    return folder
