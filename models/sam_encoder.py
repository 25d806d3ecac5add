"""SAM's image encoders: the official ViT with attention by torch's fused kernel, and MobileSAM's TinyViT.

The official attention writes each head's table of all pairs of 4,096 patches five times (product, two biases,
softmax, result), 0.8 GB each in vit_b. Here a head's bias goes into scaled_dot_product_attention as its mask,
a few rows of patches at a time, so that it stays small.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Sequence

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    ImageEncoderViT,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn
from torch.nn import functional

LARGEST_BIAS = 1 << 24  # numbers at a time, 64 MiB: all windows of a layer of vit_h at once
ROWS_OF_BIAS = 1 << 23  # and half of one head's where a layer attends over the whole image
TINY_HEAD = 32  # channels of each of TinyViT's heads


def encode_image(encoder: ImageEncoderViT | TinyViT, images: Tensor) -> Tensor:
    """(B, 3, S, S) normalised and padded → (B, 256, S/16, S/16), as `encoder(images)` but for rounding."""
    if isinstance(encoder, TinyViT):
        return encoder(images)
    tokens = encoder.patch_embed(images) + encoder.pos_embed
    for block in encoder.blocks:
        tokens = _block(block, tokens)
    return encoder.neck(tokens.permute(0, 3, 1, 2))


def _block(block: Block, tokens: Tensor) -> Tensor:
    """(B, H, W, C) → the same shape: attention within windows or over all, then the MLP, each added."""
    normed = block.norm1(tokens)
    if block.window_size > 0:
        windows, padded = window_partition(normed, block.window_size)
        attended = _attend(block.attn, windows)
        attended = window_unpartition(attended, block.window_size, padded, tokens.shape[1:3])
    else:
        attended = _attend(block.attn, normed)
    tokens = tokens + attended
    return tokens + block.mlp(block.norm2(tokens))


def _attend(attention: Attention, tokens: Tensor) -> Tensor:
    """Self-attention of (B, H, W, C) with the decomposed relative positions of MViTv2 (Li et al., 2022)."""
    batch, height, width, channels = tokens.shape
    heads, pixels = attention.num_heads, height * width
    qkv = attention.qkv(tokens).view(batch, pixels, 3, heads, channels // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().unbind(0)  # each (B, heads, H*W, C/heads)
    by_row, by_column = _relative_positions(attention, q, height, width)

    out = torch.empty(batch, pixels, heads, channels // heads, dtype=q.dtype, device=q.device)
    together, rows = heads, height
    if batch * heads * pixels**2 > LARGEST_BIAS:
        together, rows = 1, max(1, ROWS_OF_BIAS // (batch * width * pixels))
    for head in range(0, heads, together):
        for row in range(0, height, rows):
            some, part = slice(head, head + together), slice(row, row + rows)
            bias = by_row[:, some, part, :, :, None] + by_column[:, some, part, :, None, :]
            queries = slice(row * width, (row + rows) * width)
            bias = bias.flatten(4).flatten(2, 3)
            found = functional.scaled_dot_product_attention(q[:, some, queries], k[:, some], v[:, some], bias)
            out[:, queries, some] = found.transpose(1, 2)
    return attention.proj(out.view(batch, height, width, channels))


def _relative_positions(attention: Attention, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """What a query adds for a key's row and column: (B, heads, H, W, H) and (B, heads, H, W, W)."""
    rows = get_rel_pos(height, height, attention.rel_pos_h)
    columns = get_rel_pos(width, width, attention.rel_pos_w)
    grid = q.unflatten(2, (height, width))
    return torch.einsum("bnhwc,hkc->bnhwk", grid, rows), torch.einsum("bnhwc,wkc->bnhwk", grid, columns)


# -- vit_t ---------------------------------------------------------------------------------------------------


class TinyViT(nn.Module):
    """MobileSAM's image encoder (Zhang et al., 2023, "Faster Segment Anything"; Wu et al., 2022, "TinyViT").

    (B, 3, S, S) normalised and padded → (B, `embedding`, S/16, S/16). `widths` and `depths` have a number for
    each of four stages, `windows` one for each but the first, which is of convolutions alone. Unlike in
    TinyViT itself the last stage is as fine as the one before.
    """

    def __init__(
        self,
        img_size: int,
        widths: Sequence[int],
        depths: Sequence[int],
        windows: Sequence[int],
        embedding: int = 256,
    ):
        super().__init__()
        self.img_size = img_size  # what SAM's generator resizes images to
        stem = [
            _conv(3, widths[0] // 2, 3, stride=2),
            nn.GELU(),
            _conv(widths[0] // 2, widths[0], 3, stride=2),
        ]
        self.patch_embed = nn.ModuleDict({"seq": nn.Sequential(*stem)})
        self.layers = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            blocks = [
                _TinyBlock(width, windows[stage - 1]) if stage else _Inverted(width) for _ in range(depth)
            ]
            layer = nn.ModuleDict({"blocks": nn.Sequential(*blocks)})
            if stage < len(widths) - 1:
                layer["downsample"] = _Merging(width, widths[stage + 1], stride=2 if stage < 2 else 1)
            self.layers.append(layer)
        self.neck = nn.Sequential(
            nn.Conv2d(widths[-1], embedding, 1, bias=False),
            LayerNorm2d(embedding),
            nn.Conv2d(embedding, embedding, 3, padding=1, bias=False),
            LayerNorm2d(embedding),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed["seq"](images)
        for layer in self.layers:
            for part in layer.values():  # blocks, then what leads to the next stage
                x = part(x)
        return self.neck(x)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch norm, under the names of MobileSAM's file."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(c=conv, bn=nn.BatchNorm2d(outputs)))


class _Merging(nn.Module):
    """Three convolutions (the middle one depthwise) that lead from one stage to the next."""

    def __init__(self, width: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = _conv(width, outputs, 1)
        self.conv2 = _conv(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = _conv(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.conv1(x))
        return self.conv3(functional.gelu(self.conv2(x)))


class _Inverted(nn.Module):
    """An inverted residual block: four times as wide inside, GELU after the sum too."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = _conv(width, 4 * width, 1)
        self.conv2 = _conv(4 * width, 4 * width, 3, groups=4 * width)
        self.conv3 = _conv(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.gelu(self.conv2(functional.gelu(self.conv1(x))))
        return functional.gelu(x + self.conv3(wide))


class _TinyBlock(nn.Module):
    """Attention in windows, added; a depthwise convolution; an MLP, added."""

    def __init__(self, width: int, window: int):
        super().__init__()
        self.attn = _WindowAttention(width, window)
        self.local_conv = _conv(width, width, 3, groups=width)
        self.mlp = nn.ModuleDict(
            {
                "norm": nn.LayerNorm(width),
                "fc1": nn.Linear(width, 4 * width),
                "fc2": nn.Linear(4 * width, width),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        tokens = self.local_conv(x).permute(0, 2, 3, 1)
        hidden = functional.gelu(self.mlp["fc1"](self.mlp["norm"](tokens)))
        return (tokens + self.mlp["fc2"](hidden)).permute(0, 3, 1, 2)


class _WindowAttention(nn.Module):
    """Self-attention within windows, with a bias for each head and distance of two tokens."""

    def __init__(self, width: int, window: int):
        super().__init__()
        heads = width // TINY_HEAD
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) → the same shape. Zeros at the right and below fill the last windows, and take part:
        normed, they are the norm's bias.
        """
        windows, padded = window_partition(tokens, self.window)
        qkv = self.qkv(self.norm(windows.flatten(1, 2)))
        # Head by head: its queries, keys and values lie together.
        q, k, v = qkv.unflatten(2, (-1, 3, TINY_HEAD)).permute(3, 0, 2, 1, 4).unbind(0)
        bias = self.attention_biases[:, self._distances()]
        found = functional.scaled_dot_product_attention(q, k, v, bias[None])
        found = self.proj(found.transpose(1, 2).flatten(2)).view(windows.shape)
        return window_unpartition(found, self.window, padded, tokens.shape[1:3])

    def _distances(self) -> Tensor:
        """(w*w, w*w): where `attention_biases` keeps that of two tokens of a window, rows apart * w + columns
        apart. Made anew each time: a buffer would be on no device where weights are put in place.
        """
        places = torch.arange(self.window, device=self.attention_biases.device)
        apart = (places[:, None] - places).abs()
        table = apart[:, None, :, None] * self.window + apart[None, :, None, :]
        return table.flatten(2).flatten(0, 1)
