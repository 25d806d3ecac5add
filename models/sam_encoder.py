"""SAM's image encoder with attention by torch's fused kernel: the same sums, no tables of all pairs.

The official attention writes each head's table of all pairs of 4,096 patches five times (product, two biases,
softmax, result), 0.8 GB each in vit_b. Here a head's bias goes into scaled_dot_product_attention as its mask,
a few rows of patches at a time, so that it stays small.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    ImageEncoderViT,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor
from torch.nn import functional

LARGEST_BIAS = 1 << 24  # numbers at a time, 64 MiB: all windows of a layer of vit_h at once
ROWS_OF_BIAS = 1 << 23  # and half of one head's where a layer attends over the whole image


def encode_image(encoder: ImageEncoderViT, images: Tensor) -> Tensor:
    """(B, 3, S, S) normalised and padded → (B, 256, S/16, S/16), as `encoder(images)` but for rounding."""
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
