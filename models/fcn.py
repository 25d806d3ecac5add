"""Fully convolutional networks (Shelhamer, Long, Darrell, 2017): an encoder, a head, skips and an upsampler.

The networks of the reports are put together at the end. A transposed convolution from classes to classes
starts as bilinear interpolation, as in the paper, but in report000's and report003's networks; one that
changes the number of channels starts at random.
"""

from __future__ import annotations

from typing import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import vgg
from torchvision.models._utils import IntermediateLayerGetter


def pad_to_multiple(images: Tensor, multiple: int, least: int = 0) -> Tensor:
    """Pad (B, C, H, W) right and below, repeating the edge, to multiples that are `least` at least."""
    height, width = (max(side + -side % multiple, least) for side in images.shape[-2:])
    padding = (0, width - images.shape[-1], 0, height - images.shape[-2])
    return functional.pad(images, padding, mode="replicate") if any(padding) else images


# -- encoders ------------------------------------------------------------------------------------------------

# (B, 3, H, W) → features by their stride, {"stride8": ..., "stride16": ..., "stride32": ...}; H and W are
# multiples of 32. Parameters have torchvision's own names, so that its files and ours fill them.

STRIDES = ("stride8", "stride16", "stride32")


def vgg16_features(batch_norm: bool = False) -> nn.Sequential:
    """The `features` of torchvision's VGG16, with batch norm or not."""
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm)
    for layer in features:
        if isinstance(layer, nn.Conv2d):  # as torchvision's VGG starts; the rest has its layers' defaults
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return features


def vgg16(batch_norm: bool = False) -> nn.ModuleDict:
    """256, 512 and 512 channels, from its last three max-pools."""
    features = vgg16_features(batch_norm)
    pools = [name for name, layer in features.named_children() if isinstance(layer, nn.MaxPool2d)]
    return IntermediateLayerGetter(features, dict(zip(pools[-3:], STRIDES)))


def vgg16_of_the_paper() -> nn.ModuleDict:
    """With a first padding of 100 and pools that round up: a 7x7 kernel after it has something to see."""
    encoder = vgg16()
    encoder["0"].padding = (100, 100)
    for layer in encoder.values():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    return encoder


def resnet34() -> nn.ModuleDict:
    """128, 256 and 512 channels, from torchvision's last three stages; without its last two layers."""
    network = torchvision.models.resnet34(weights=None)
    return IntermediateLayerGetter(network, dict(zip(("layer2", "layer3", "layer4"), STRIDES)))


# -- parts ---------------------------------------------------------------------------------------------------


def bilinear_kernel(kernel_size: int) -> Tensor:
    """(k, k): the weights with which a transposed convolution of stride k / 2 interpolates bilinearly."""
    centre = (kernel_size - 1) / 2
    reach = (kernel_size + 1) // 2
    line = 1 - (torch.arange(kernel_size) - centre).abs() / reach
    return line[:, None] * line[None, :]


def upsampler(channels: int, stride: int, bias: bool = False, is_padded: bool = True) -> nn.ConvTranspose2d:
    """Upsamples `stride` times; trainable, starting as bilinear interpolation of each channel by itself.

    Without padding the result is wider by one stride: 15x15 becomes what 16x16 would with it.
    """
    padding = stride // 2 if is_padded else 0
    layer = nn.ConvTranspose2d(channels, channels, 2 * stride, stride=stride, padding=padding, bias=bias)
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(channels):
            layer.weight[channel, channel] = bilinear_kernel(2 * stride)
        if bias:
            layer.bias.zero_()
    return layer


def convolutions(*channels: int, kernel: int = 1, dropout: type[nn.Module] = nn.Dropout2d) -> list[nn.Module]:
    """Conv, ReLU, dropout from each of `channels` to the next; the first kernel is `kernel`, the others 1."""
    layers: list[nn.Module] = []
    for in_channels, out_channels in zip(channels, channels[1:]):
        layers += [nn.Conv2d(in_channels, out_channels, kernel), nn.ReLU(inplace=True), dropout(0.5)]
        kernel = 1
    return layers


def scoring_head(*channels: int, kernel: int = 1) -> nn.Sequential:
    """`convolutions` whose last has neither ReLU nor dropout: its values are scores."""
    return nn.Sequential(*convolutions(*channels, kernel=kernel)[:-2])


def wide_convolutions(*channels: int) -> list[nn.Module]:
    """report003's: 3x3 convolutions that keep the size, each followed by a ReLU."""
    layers: list[nn.Module] = []
    for in_channels, out_channels in zip(channels, channels[1:]):
        layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(inplace=True)]
    return layers


def upsampling_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    """(B, in, h, w) → (B, out, 2h, 2w)."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Skip(nn.Module):
    """Coarse scores are upsampled, and what a finer scale has to say is added, cut out at `offset`."""

    def __init__(self, upsample: nn.Module, score: nn.Module, offset: int = 0):
        super().__init__()
        # The names are those in every model.pt.
        self.enlarge, self.score = upsample, score
        self.offset = offset

    def forward(self, coarse: Tensor, finer: Tensor) -> Tensor:
        upsampled, scores = self.enlarge(coarse), self.score(finer)
        return upsampled + cut_out(scores, self.offset, *upsampled.shape[-2:])


def cut_out(maps: Tensor, offset: int, height: int, width: int) -> Tensor:
    """(B, C, H, W) → (B, C, height, width) from the `offset`-th row and column on."""
    return maps[..., offset : offset + height, offset : offset + width]


class FCN(nn.Module):
    """(B, 3, H, W) → {"out": logits (B, classes, H, W)}.

    The encoder's features at stride 32 go through the head, then through the skips, each of which adds those
    at its stride, then through the upsampler. Images are padded to whole strides, and to `least` pixels;
    what an encoder adds around them is cut off at `offset`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        upsample: nn.Module,
        skips: dict[str, Skip] | None = None,
        least: int = 32,
        offset: int = 0,
    ):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.skips, self.upsample = nn.ModuleDict(skips or {}), upsample
        self.least, self.offset = least, offset

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        features = self.backbone(pad_to_multiple(images, 32, self.least))
        scores = self.head(features["stride32"])
        for stride, skip in self.skips.items():
            scores = skip(scores, features[stride])
        return {"out": cut_out(self.upsample(scores), self.offset, height, width)}


def skips_of_8s(
    num_classes: int, channels: tuple[int, int], upsample: Callable[[int, int], nn.Module]
) -> dict[str, Skip]:
    """The paper's skips at strides 16 and 8: scores by 1x1 convolutions, added to the upsampled ones."""
    return {
        stride: Skip(upsample(num_classes, 2), nn.Conv2d(width, num_classes, 1))
        for stride, width in zip(("stride16", "stride8"), channels)
    }


# -- networks ------------------------------------------------------------------------------------------------


def fcn32s(num_classes: int) -> nn.Module:
    """The paper's, whose first kernel is 7; here it is 1, which keeps 16x16 without padding by 100 pixels."""
    return FCN(vgg16(), scoring_head(512, 4096, 4096, num_classes), upsampler(num_classes, 32))


def fcn32s_paper(num_classes: int) -> nn.Module:
    """The paper's as it is, and report002's. Its first two convolutions are VGG16's fc6 and fc7 by shape."""
    head = scoring_head(512, 4096, 4096, num_classes, kernel=7)
    return FCN(vgg16_of_the_paper(), head, upsampler(num_classes, 32, is_padded=False), offset=19)


def fcn8s_paper(num_classes: int) -> nn.Module:
    """The paper's: the padding shifts each scale by its own offset (their published FCN-8s)."""
    encoder, skips = vgg16_of_the_paper(), {}
    for stride, channels, offset in (("stride16", 512, 5), ("stride8", 256, 9)):
        score = nn.Conv2d(channels, num_classes, 1)
        skips[stride] = Skip(upsampler(num_classes, 2, is_padded=False), score, offset)
    head = scoring_head(512, 4096, 4096, num_classes, kernel=7)
    return FCN(encoder, head, upsampler(num_classes, 8, is_padded=False), skips, offset=31)


def fcn32s_conv2x2(num_classes: int) -> nn.Module:
    """report000's: a first kernel of 2 makes 16x16 15x15, an upsampler without padding brings back 512."""
    head = scoring_head(512, 4096, 4096, num_classes, kernel=2)
    return FCN(vgg16(), head, nn.ConvTranspose2d(num_classes, num_classes, 64, stride=32), least=64)


def fcn32s_staged(num_classes: int) -> nn.Module:
    """report001's: upsampled five times by two, learned, with ever fewer channels, then the scores."""
    channels = (4096, 512, 256, 128, 64, 32)
    stages = [upsampling_stage(*pair) for pair in zip(channels, channels[1:])]
    upsample = nn.Sequential(*stages, nn.Conv2d(32, num_classes, 1))
    return FCN(vgg16(), nn.Sequential(*convolutions(512, 4096, 4096, dropout=nn.Dropout)), upsample)


def fcn32s_vgg16bn(num_classes: int) -> nn.Module:
    """Ours: VGG16 with batch norm, scores at once. (report002 printed one such by mistake.)"""
    return FCN(vgg16(batch_norm=True), scoring_head(512, num_classes), upsampler(num_classes, 32, bias=True))


def fcn32s_deconv(num_classes: int) -> nn.Module:
    """report003's: three wide convolutions, and one upsampler from 1,024 channels to the classes."""
    head = nn.Sequential(*wide_convolutions(512, 1024, 1024, 1024))
    return FCN(vgg16(), head, nn.ConvTranspose2d(1024, num_classes, 32, stride=32))


def fcn32s_bilinear(num_classes: int) -> nn.Module:
    """report004's, with its flaw: ReLU and dropout on the scores. The upsampling has nothing to learn."""
    head = nn.Sequential(*convolutions(512, 4096, num_classes))
    return FCN(vgg16(), head, nn.Upsample(scale_factor=32, mode="bilinear", align_corners=False))


def fcn8s(num_classes: int) -> nn.Module:
    """report003's, after the paper: kernels as wide as their stride upsample its scores."""

    def upsample(channels: int, stride: int) -> nn.Module:
        return nn.ConvTranspose2d(channels, channels, stride, stride=stride)

    head = nn.Sequential(*wide_convolutions(512, 1024, 1024), nn.Conv2d(1024, num_classes, 1))
    encoder, skips = vgg16(), skips_of_8s(num_classes, (512, 256), upsample)
    return FCN(encoder, head, upsample(num_classes, 8), skips)


def fcn8s_conv2x2(num_classes: int) -> nn.Module:
    """report000's: scores, pool4 and pool3 as it is meet at stride 8 in 256 channels."""
    scores = nn.ConvTranspose2d(num_classes, 256, 8, stride=4)
    pool4 = nn.ConvTranspose2d(512, 256, 2, stride=2)
    skips = {"stride16": Skip(scores, pool4), "stride8": Skip(nn.Identity(), nn.Identity())}
    head = scoring_head(512, 4096, 4096, num_classes, kernel=2)
    return FCN(vgg16(), head, nn.ConvTranspose2d(256, num_classes, 8, stride=8), skips, least=64)


def resnet34_fcn8s(num_classes: int) -> nn.Module:
    """report002's improved model."""
    encoder, head, upsample = resnet34(), scoring_head(512, num_classes), upsampler(num_classes, 8)
    return FCN(encoder, head, upsample, skips_of_8s(num_classes, (256, 128), upsampler))


def resnet34_fcn32s(num_classes: int) -> nn.Module:
    """The control that report002 asks for: the same without skips."""
    return FCN(resnet34(), scoring_head(512, num_classes), upsampler(num_classes, 32))
