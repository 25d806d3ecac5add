"""BYOL (Grill et al., 2020): byol-pytorch's networks, set up without that package's traps.

The package's learner draws one augmentation for a whole batch, keeps the target's decay constant and computes
its loss in bfloat16 under autocast. Here it builds the networks; the step is ours.
"""

from __future__ import annotations

import byol_pytorch
import torch
from torch import Tensor, nn
from torch.nn import functional

PROJECTION_SIZE, HIDDEN_SIZE = 256, 4096  # the paper's; byol-pytorch's defaults too


class BYOL(nn.Module):
    """(B, 3, S, S) twice → the loss and the projections' embedding_std, both scalars.

    `backbone` gives features (B, D) and is trained in place. `stock_views` is the package's own augmentation:
    floats in 0..1 → normalised floats, one draw for the whole batch. Build this before the processes join:
    byol-pytorch would put torch's SyncBatchNorm into the predictor, and its trial pass would fail on a CPU.
    """

    def __init__(self, backbone: nn.Module, image_size: int):
        super().__init__()
        # -1: the backbone's output is the feature. Simplicial embeddings are on by default, and not BYOL's.
        learner = byol_pytorch.BYOL(
            backbone,
            image_size,
            hidden_layer=-1,
            projection_size=PROJECTION_SIZE,
            projection_hidden_size=HIDDEN_SIZE,
            sync_batchnorm=False,
            use_simplicial_embeddings=False,
        )
        self.online_encoder, self.predictor = learner.online_encoder, learner.online_predictor
        self.target_encoder = learner.target_encoder
        self.stock_views = learner.augment1
        for module in self.modules():  # that forward pass has seen noise
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()

    @property
    def backbone(self) -> nn.Module:
        return self.online_encoder.net

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        # One pass of 2B images, as in byol-pytorch: batch norm sees both views; the paper's sees each alone.
        images = torch.cat([first, second]).contiguous(memory_format=torch.channels_last)
        projections, _ = self.online_encoder(images)
        predictions = self.predictor(projections)
        with torch.no_grad():
            targets, _ = self.target_encoder(images)
        return byol_loss(predictions, targets), embedding_std(projections)

    @torch.no_grad()
    def update_target(self, decay: float) -> None:
        """target ← decay · target + (1 - decay) · online, weights alone (Grill et al., equation 1).

        Batch norm's statistics are the target's own. One fused call takes .005 s for a ResNet50, a loop .15.
        """
        targets, online = list(self.target_encoder.parameters()), list(self.online_encoder.parameters())
        torch._foreach_lerp_(targets, online, 1 - decay)


def byol_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """(2B, D), both views in turn → 2 - 2 cos, the sum of both directions, a mean over the batch; in 0..8.

    The first view's prediction is compared with the second view's target and the reverse (equation 2, and its
    symmetric term). In float32 at least: in bfloat16 a cosine near 1 has two digits.
    """
    wide = torch.promote_types(predictions.dtype, torch.float32)
    predictions, targets = predictions.to(wide), targets.detach().to(wide)
    swapped = torch.cat(targets.chunk(2)[::-1])
    cosines = functional.cosine_similarity(predictions, swapped, dim=1)
    return 2 * (2 - 2 * cosines).mean()


@torch.no_grad()
def embedding_std(projections: Tensor) -> Tensor:
    """How far the projections (N, D) differ in direction: 1 when they point everywhere, 0 when all one way.

    The standard deviation of each coordinate of the unit vectors, times sqrt(D) (Chen & He, 2021, 4.1).
    """
    units = functional.normalize(projections.float(), dim=1)
    return units.std(dim=0).mean() * units.shape[1] ** 0.5
