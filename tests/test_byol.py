"""BYOL is the paper's: two symmetric terms, a target without gradient that follows by the formula, and no
trap.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from engine.schedule import target_decay
from models.byol import BYOL, byol_loss, embedding_std
from tests.killing import TinyClassifier


@pytest.fixture
def byol():
    torch.manual_seed(0)
    backbone = TinyClassifier(2)
    backbone.fc = nn.Identity()
    return BYOL(backbone, 32).train()


def views(count=4):
    return torch.rand(2, count, 3, 32, 32).unbind()


def test_the_loss_is_the_papers_two_terms(byol):
    first, second = views()
    byol.eval()  # no dropout: the same numbers in two passes
    loss, _ = byol(first, second)
    total = 0.0
    for here, there in ((first, second), (second, first)):
        prediction = byol.predictor(byol.online_encoder(here)[0])
        target = byol.target_encoder(there)[0]
        for p, z in zip(prediction.tolist(), target.tolist()):
            length_p, length_z = math.hypot(*p), math.hypot(*z)
            # Equation 2: the squared distance of the two unit vectors.
            total += sum((a / length_p - b / length_z) ** 2 for a, b in zip(p, z)) / len(first)
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_the_loss_of_equal_directions_is_0_and_of_opposite_ones_8():
    vectors = torch.randn(6, 5)
    swapped = torch.cat([vectors[3:], vectors[:3]])
    assert byol_loss(3 * vectors, swapped).item() == pytest.approx(0, abs=1e-5)
    assert byol_loss(vectors, -2 * swapped).item() == pytest.approx(8, rel=1e-5)


def test_the_loss_keeps_its_digits_in_half_precision():
    near = torch.randn(8, 256).bfloat16()
    swapped = torch.cat([near[4:], near[:4]])
    swapped = swapped + 0.03 * torch.randn(8, 256).bfloat16()
    loss = byol_loss(near, swapped)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(byol_loss(near.double(), swapped.double()).item(), rel=1e-3)


def test_the_target_gets_no_gradient_and_all_else_does(byol):
    loss, _ = byol(*views())
    loss.backward()
    assert not any(parameter.requires_grad for parameter in byol.target_encoder.parameters())
    assert all(parameter.grad is None for parameter in byol.target_encoder.parameters())
    trained = [*byol.online_encoder.parameters(), *byol.predictor.parameters()]
    assert all(parameter.grad is not None for parameter in trained)


def test_the_target_follows_the_online_network_by_the_formula(byol):
    with torch.no_grad():
        for parameter in byol.online_encoder.parameters():
            parameter.normal_()
    before = [parameter.clone() for parameter in byol.target_encoder.parameters()]
    byol.update_target(0.9)
    for old, new, online in zip(before, byol.target_encoder.parameters(), byol.online_encoder.parameters()):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * online)


def test_the_targets_decay_rises_to_1_by_half_a_cosine():
    for step in (0, 1, 250, 999, 1000):
        expected = 1 - (1 - 0.996) * (math.cos(math.pi * step / 1000) + 1) / 2
        assert target_decay(step, 1000, 0.996, "cosine") == pytest.approx(expected, abs=1e-12)
    assert target_decay(7, 1000, 0.99, "constant") == 0.99
    assert target_decay(7, None, 0.996, "cosine") == 0.996  # while --budget-minutes measures the speed


def test_it_is_built_without_the_packages_traps(byol):
    names = {name for name, _ in byol.named_parameters()}
    assert not any(
        "embedder" in name or "fc" in name for name in names
    )  # no simplicial embeddings, no random fc
    first, norm, _, last = byol.online_encoder.projector
    assert isinstance(norm, nn.BatchNorm1d) and (first.out_features, last.out_features) == (4096, 256)
    for module in byol.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # the package's trial pass left no trace
            assert (
                module.num_batches_tracked == 0
                and not module.running_mean.any()
                and (module.running_var == 1).all()
            )
    for online, target in zip(byol.online_encoder.parameters(), byol.target_encoder.parameters()):
        assert torch.equal(online, target)


def test_the_backbone_is_trained_in_place_under_its_own_names(byol):
    plain = TinyClassifier(2)
    assert set(byol.backbone.state_dict()) == {key for key in plain.state_dict() if not key.startswith("fc.")}


def test_the_stock_views_draw_once_for_the_whole_batch(byol):
    # What the reports had, and why `default` does not: equal images stay equal.
    torch.manual_seed(0)
    images = torch.rand(1, 3, 32, 32).expand(4, 3, 32, 32)
    view = byol.stock_views(images)
    assert (view == view[:1]).all()


def test_the_spread_is_1_for_all_directions_and_0_for_one():
    torch.manual_seed(0)
    assert embedding_std(torch.randn(4000, 64)).item() == pytest.approx(1, abs=0.02)
    assert embedding_std(torch.randn(1, 64).expand(100, 64)).item() == pytest.approx(0, abs=1e-6)
