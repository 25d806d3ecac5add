"""On a GPU no step mixes devices or waits for one: every script's forward, validation and inference path, in
float32 on fake CUDA tensors, which have no numbers to read and need no GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, unset_fake_temporarily

import p1_finetune
import p1_ssl_pretrain
import p2_train
from benchmarks.memory import to_fake
from datasets.palette import NUM_CLASSES
from datasets.views import NUMBERS
from engine.optimizer import cut
from models import predict
from models.backbone import penultimate
from models.builders import CLASSIFIERS, SEGMENTERS, build_network
from models.byol import BYOL
from models.predict import land_cover, predict_classes, predict_images

GPU = torch.device("cuda:0")
NORMAL = ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
SIDE = 64


@pytest.fixture(autouse=True)
def fake():
    """All tensors are fake; constants made once are made anew for them, and are not kept for other tests."""
    predict.constants.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):  # numbers made at import, say: they are on the CPU
        yield
    predict.constants.cache_clear()


def build(name: str, num_classes: int = 5) -> nn.Module:
    return to_fake(build_network(name, num_classes=num_classes), GPU)


def images(count: int = 2, side: int = SIDE) -> torch.Tensor:
    return torch.zeros(count, 3, side, side, dtype=torch.uint8, device=GPU)


def labels(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.int64, device=GPU)


def colours() -> torch.Tensor:
    return torch.zeros(2, 3, device=GPU)


class Pairs:
    """Tiles and masks as TilePairs has them, on the CPU; of two sizes."""

    def __len__(self) -> int:
        return 3

    def tile(self, index: int) -> np.ndarray:
        return np.zeros((SIDE, SIDE + 32 * (index == 1), 3), np.uint8)

    def mask(self, index: int) -> np.ndarray:
        return self.tile(index)[..., 0]


def test_a_mixed_device_and_a_number_that_is_read_are_found():
    with pytest.raises(RuntimeError, match="two different devices"):
        images() + torch.zeros(SIDE)
    with pytest.raises(DataDependentOutputException):
        bool(images().any())


@pytest.mark.parametrize("name", [*CLASSIFIERS, *SEGMENTERS])
def test_every_network_computes_on_one_device(name):
    network = build(name)
    seen = images(side=224 if name in CLASSIFIERS else 256) / 255
    for outputs in (network.train()(seen), network.eval()(seen)):
        of_all = outputs.values() if isinstance(outputs, dict) else [outputs]
        assert all(output.device == GPU for output in of_all)


def test_pretraining_makes_views_and_a_loss_and_is_probed():
    with unset_fake_temporarily():  # byol-pytorch's constructor cannot move what is fake
        byol = BYOL(build_network("resnet18", num_classes=2), SIDE)
    byol = to_fake(byol, GPU).train()
    numbers = torch.zeros(2, 2, NUMBERS, device=GPU)
    views = p1_ssl_pretrain.paper_views(images(side=80), numbers, SIDE, 0.2, NORMAL)
    found = p1_ssl_pretrain.loss_of(byol, *views, share=0.5)
    byol.update_target(0.99)
    assert found["loss"].device == found["embedding_std"].device == GPU
    assert predict_images(byol.backbone.eval(), images(), *NORMAL).device == GPU


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
def test_fine_tuning_makes_a_loss_and_is_validated(mix):
    network = build("resnet18").train()
    for step in range(3):  # some of them mixed
        batch = [images(), labels(2), colours()]
        ready = p1_finetune.prepared(batch, NORMAL, mix, GPU, (0, step, 2))
        for part in cut(ready, 2):
            found = p1_finetune.loss_of(network, *part, share=0.5, label_smoothing=0.1)
            assert found["loss"].device == GPU
    batches = [(images().cpu(), labels(2).cpu())] * 2
    assert predict_classes(network.eval(), batches, *NORMAL, GPU).shape == (4,)


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 0.0, "alpha": [1.0], "soft_iou": 0.5, "auxiliary_weight": 0.4},
        {"gamma": 2.0, "alpha": [0.25, 1, 1, 1, 1, 1], "soft_iou": 0.0, "auxiliary_weight": 0.4},
    ],
)
def test_segmentation_makes_a_loss_and_is_validated(options):
    network = build("deeplabv3_resnet50", NUM_CLASSES).train()
    batch = [images(), labels(2, SIDE, SIDE).to(torch.uint8), colours()]
    found = p2_train.loss_of(network, *p2_train.prepared(batch, NORMAL, GPU), share=0.5, **options)
    assert found["loss"].device == GPU
    confusions = p2_train.tile_confusions(network.eval(), Pairs(), 0.75, NORMAL, GPU)
    assert confusions.device == GPU and confusions.shape == (3, NUM_CLASSES, NUM_CLASSES)


def test_inference_answers(monkeypatch):
    # The one read that it means to make: broken weights are told before anything is written.
    monkeypatch.setattr(predict, "require_finite", lambda answers: None)
    classifier, segmenter = build("resnet18").eval(), build("lite_fpn", NUM_CLASSES).eval()
    assert predict_images(classifier, images(), *NORMAL, "flip").device == GPU
    assert penultimate(classifier, images(), *NORMAL).device == GPU
    model = {"mean": NORMAL[0], "std": NORMAL[1], "scale": 0.75, "tta": "d4"}
    assert land_cover([segmenter] * 2, [model] * 2, images(), scales=(0.5, 1)).device == GPU
