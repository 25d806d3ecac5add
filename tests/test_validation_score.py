"""The mIoU that training reports is the scorer's on the masks that inference writes, to the last digit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import mean_iou_evaluate
import p2_inference
import p2_train
from datasets.palette import CLASS_NAMES, SCORED_CLASSES, mask_image
from datasets.tile_pairs import load_pairs
from engine import checkpoint
from engine.metrics import confusion_matrix, iou_per_class, mean_iou
from models.builders import build_network, normalisation
from models.losses import pixel_loss, soft_iou_loss


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(2)
    for index in range(3):
        coarse = generator.integers(0, 7, (5, 5), dtype=np.uint8)  # unknown too
        mask = np.array(mask_image(coarse.repeat(16, 0).repeat(16, 1)))
        mask[:5, :5] = (255, 0, 0)
        Image.fromarray(mask).save(tmp_path / f"{index:04d}_mask.png")
        noise = generator.integers(0, 256, (80, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{index:04d}_sat.jpg")
    return tmp_path


def test_the_reported_iou_is_that_of_the_written_masks(folder, capsys):
    torch.manual_seed(0)
    network = build_network("lite_fpn", num_classes=7).eval()
    mean, std = normalisation("lite_fpn")
    pairs = load_pairs(folder, folder / "cache")
    confusions = p2_train.tile_confusions(network, pairs, 0.75, (mean, std), torch.device("cpu"))
    scores = p2_train.scores_of(confusions)
    ious = [scores[name] for name in CLASS_NAMES[:SCORED_CLASSES]]

    model = {
        "format": 1,
        "problem": "p2",
        "network": "lite_fpn",
        "arguments": {"num_classes": 7},
        "scale": 0.75,
    }
    model.update(state=network.state_dict(), classes=list(CLASS_NAMES), image_size=None, mean=mean, std=std)
    model.update(edition="2024", score={}, source="test")
    checkpoint.save(folder / "model.pt", model)
    flags = [
        "--images",
        folder,
        "--output",
        folder / "out",
        "--checkpoint",
        folder / "model.pt",
        "--device",
        "cpu",
    ]
    assert p2_inference.main(p2_inference.parse_arguments([str(flag) for flag in flags])) == 0
    labels = folder / "labels"
    labels.mkdir()
    for mask in folder.glob("*_mask.png"):
        mask.rename(labels / mask.name)
    score = folder / "score.json"
    flags = ["-g", str(labels), "-p", str(folder / "out"), "--json", str(score)]
    mean_iou_evaluate.main(mean_iou_evaluate.get_args(flags))
    printed = capsys.readouterr().out
    assert [f"{iou:1.5f}" for iou in ious] == [line.split(" : ")[1] for line in printed.splitlines()[:6]]
    assert scores["mean_iou"] == json.loads(score.read_text())["mean_iou"]


def test_a_class_on_neither_side_is_nan_and_so_is_the_mean():
    target = torch.tensor([0, 0, 1, 2])
    ious = iou_per_class(confusion_matrix(torch.tensor([0, 1, 1, 2]), target, 7), 6)
    assert ious[:3] == [0.5, 0.5, 1.0]
    assert np.isnan(ious[3]) and np.isnan(mean_iou(ious))


def test_the_losses_are_cross_entropy_and_one_minus_the_soft_iou_of_known_pixels():
    torch.manual_seed(0)
    logits = torch.randn(2, 7, 4, 4)
    targets = torch.randint(0, 3, (2, 4, 4))
    targets[0, 0] = 255
    probabilities = logits.softmax(1)
    entropies, ious = [], []
    for b, y, x in (targets != 255).nonzero().tolist():
        entropies.append(-probabilities[b, targets[b, y, x], y, x].log())
    for number in range(3):
        known = targets != 255
        p, t = probabilities[:, number][known], (targets[known] == number).float()
        ious.append((p * t).sum() / (p + t - p * t).sum())
    torch.testing.assert_close(pixel_loss(logits, targets, 255), torch.stack(entropies).sum())
    torch.testing.assert_close(soft_iou_loss(logits, targets, 255, 6), 1 - torch.stack(ious).mean())


def test_a_batch_without_a_known_pixel_gives_no_gradient_through_the_soft_iou():
    logits = torch.randn(1, 7, 2, 2, requires_grad=True)
    targets = torch.full((1, 2, 2), 255)
    targets[0, 0, 0] = 6  # nothing that is scored
    soft_iou_loss(logits, targets, 255, 6).backward()
    assert not logits.grad.any()
    assert pixel_loss(logits, torch.full((1, 2, 2), 255), 255) == 0


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_pixel_that_is_surely_right_has_a_finite_gradient(gamma):
    logits = torch.tensor([60.0, 0.0, 0.0]).reshape(1, 3, 1, 1).requires_grad_()
    pixel_loss(logits, torch.zeros(1, 1, 1, dtype=torch.long), 255, gamma).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("alpha", [[0.25], [1.0, 1.0, 3.0, 1.0, 0.5, 1.0, 1.0]])
def test_the_focal_loss_is_the_papers_equation_5(alpha):
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 7, 3, 3), torch.randint(0, 6, (2, 3, 3))
    targets[0, 1] = 255
    wanted = 0.0
    for b, y, x in (targets != 255).nonzero().tolist():
        p = logits.softmax(1)[b, targets[b, y, x], y, x]
        wanted -= (
            (alpha * 7)[targets[b, y, x]] * (1 - p) ** 2 * p.log()
            if len(alpha) == 1
            else (alpha[targets[b, y, x]] * (1 - p) ** 2 * p.log())
        )
    torch.testing.assert_close(pixel_loss(logits, targets, 255, 2.0, alpha), wanted)
