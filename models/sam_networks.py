"""SAM's networks in less time: the image encoder, MobileSAM's TinyViT, the mask decoder for many points.

The encoder makes the official sums but for rounding. The official attention writes each head's table of all
pairs of 4,096 patches five times, 0.8 GB each in vit_b; here a head's bias is the mask of
scaled_dot_product_attention, a few rows of patches at a time.

The decoder, for many points of one image, is the same but for rounding too, with less work:

1. The first layer sees the same image for every point: its three projections of the image are computed once.
2. Later each point has an image of its own, of 4,096 pixels against 7 tokens. A projection W inside an
   attention is moved to the tokens' side, where it costs nothing: q . (W x) = (W^T q) . x,
   sum_i a_i (W x_i) = W (sum_i a_i x_i).
3. The quality of the masks is told before they are made, so that only those wanted are made; token 0, whose
   mask the generator throws away, never is.
4. Upsampling is two matrix products on pixels that lie in memory as they are, not transposed convolutions.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Sequence

import torch
from segment_anything.modeling import Sam, image_encoder, transformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import ImageEncoderViT, window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional

LARGEST_BIAS = 1 << 24  # numbers at a time, 64 MiB: all windows of a layer of vit_h at once
ROWS_OF_BIAS = 1 << 23  # and half of one head's where a layer attends over the whole image
TINY_HEAD = 32  # channels of each of TinyViT's heads
POINTS_UPSAMPLED = 4  # at a time: more would not stay in a CPU's cache


def encode_image(encoder: ImageEncoderViT | TinyViT, images: Tensor) -> Tensor:
    """(B, 3, S, S) normalised and padded → (B, 256, S/16, S/16), as `encoder(images)` but for rounding."""
    if isinstance(encoder, TinyViT):
        return encoder(images)
    tokens = encoder.patch_embed(images) + encoder.pos_embed
    for block in encoder.blocks:
        tokens = _block(block, tokens)
    return encoder.neck(tokens.permute(0, 3, 1, 2))


def _block(block: image_encoder.Block, tokens: Tensor) -> Tensor:
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


def _attend(attention: image_encoder.Attention, tokens: Tensor) -> Tensor:
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


def _relative_positions(
    attention: image_encoder.Attention, q: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """What a query adds for a key's row and column: (B, heads, H, W, H) and (B, heads, H, W, W)."""
    rows = image_encoder.get_rel_pos(height, height, attention.rel_pos_h)
    columns = image_encoder.get_rel_pos(width, width, attention.rel_pos_w)
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
        half = widths[0] // 2
        stem = nn.Sequential(_conv(3, half, 3, stride=2), nn.GELU(), _conv(half, widths[0], 3, stride=2))
        self.patch_embed = nn.ModuleDict({"seq": stem})
        self.layers = nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            if stage == 0:
                blocks = [_Inverted(width, 4 * width, width) for _ in range(depth)]
            else:
                blocks = [_TinyBlock(width, windows[stage - 1]) for _ in range(depth)]
            layer = nn.ModuleDict({"blocks": nn.Sequential(*blocks)})
            if stage < len(widths) - 1:
                following = widths[stage + 1]
                layer["downsample"] = _Convolutions(width, following, following, stride=2 if stage < 2 else 1)
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


class _Convolutions(nn.Module):
    """Three, the middle one depthwise, that lead from one stage of TinyViT to the next."""

    def __init__(self, width: int, hidden: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = _conv(width, hidden, 1)
        self.conv2 = _conv(hidden, hidden, 3, stride, groups=hidden)
        self.conv3 = _conv(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.conv1(x))
        return self.conv3(functional.gelu(self.conv2(x)))


class _Inverted(_Convolutions):
    """An inverted residual block: GELU after the sum too."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x + super().forward(x))


class _TinyBlock(nn.Module):
    """Attention in windows, added; a depthwise convolution; an MLP, added."""

    def __init__(self, width: int, window: int):
        super().__init__()
        self.attn = _WindowAttention(width, window)
        self.local_conv = _conv(width, width, 3, groups=width)
        norm, fc1, fc2 = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.ModuleDict({"norm": norm, "fc1": fc1, "fc2": fc2})

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


# -- the mask decoder ----------------------------------------------------------------------------------------


class PointDecoder:
    """The decoder, ready for points of the image whose embedding (1, C, h, w) is given."""

    def __init__(self, sam: Sam, embedding: Tensor):
        self.sam, self.decoder = sam, sam.mask_decoder
        self.transformer = self.decoder.transformer
        self.grid = embedding.shape[-2:]
        no_mask = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        self.image = (embedding + no_mask).flatten(2).transpose(1, 2)  # (1, N, C)
        self.places = sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2)  # (1, N, C)
        first = self.transformer.layers[0]
        to_image, to_tokens = first.cross_attn_token_to_image, first.cross_attn_image_to_token
        placed = self.image + self.places
        self.first_k = _split(to_image.k_proj(placed), to_image)  # (1, heads, N, width)
        self.first_v = _split(to_image.v_proj(self.image), to_image)
        self.first_q = _split(to_tokens.q_proj(placed), to_tokens)

    def judge(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 2) points in the network's pixels → predicted IoU (B, 3) of their three masks, and what `masks`
        needs: each point's image (B, N, C) and its masks' weights (B, 3, C/8)."""
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        prompts, _ = self.sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
        output = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        prompts = torch.cat([output.expand(len(points), -1, -1), prompts], dim=1)

        tokens, image = self._first_layer(self.transformer.layers[0], prompts)
        for layer in self.transformer.layers[1:]:
            tokens, image = self._later_layer(layer, tokens, image, prompts)
        attention = self.transformer.final_attn_token_to_image
        tokens = tokens + _tokens_to_image(attention, tokens + prompts, image + self.places, image)
        tokens = self.transformer.norm_final_attn(tokens)

        quality = self.decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
        networks = list(self.decoder.output_hypernetworks_mlps)[1:]
        weights = [network(tokens[:, 2 + index]) for index, network in enumerate(networks)]
        return quality, image, torch.stack(weights, dim=1)

    def masks(self, image: Tensor, weights: Tensor, wanted: Tensor) -> Tensor:
        """The logits (wanted.sum(), 4 h, 4 w) of the masks that `wanted` (B, 3) marks, point by point."""
        points = wanted.any(dim=1).nonzero()[:, 0]
        if len(points) == 0:
            return image.new_empty(0, 4 * self.grid[0], 4 * self.grid[1])
        parts = points.split(POINTS_UPSAMPLED)
        return torch.cat([self._upsampled(image[some], weights[some])[wanted[some]] for some in parts])

    def _first_layer(self, layer: transformer.TwoWayAttentionBlock, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, C) → tokens, and for each point an image (B, N, C)."""
        batch, count, _ = prompts.shape
        tokens = layer.norm1(layer.self_attn(q=prompts, k=prompts, v=prompts))

        attention = layer.cross_attn_token_to_image
        q = attention.q_proj(tokens + prompts).flatten(0, 1)[None]  # all points' tokens as one list
        q = _split(q, attention)
        found = functional.scaled_dot_product_attention(q, self.first_k, self.first_v)
        found = found.transpose(1, 2).reshape(batch, count, -1)
        tokens = layer.norm2(tokens + attention.out_proj(found))
        tokens = layer.norm3(tokens + layer.mlp(tokens))

        attention = layer.cross_attn_image_to_token
        k = attention.k_proj(tokens + prompts).flatten(0, 1)[None]
        k = _split(k, attention)[0]  # (heads, B*T, width)
        scores = k @ self.first_q[0].transpose(1, 2) / math.sqrt(k.shape[-1])
        shares = scores.view(-1, batch, count, scores.shape[-1]).transpose(0, 1).softmax(dim=2)
        image = _from_tokens(attention, self.image.expand(batch, -1, -1), shares, tokens)
        return tokens, layer.norm4(image)

    def _later_layer(
        self, layer: transformer.TwoWayAttentionBlock, tokens: Tensor, image: Tensor, prompts: Tensor
    ) -> tuple[Tensor, Tensor]:
        placed = tokens + prompts
        tokens = layer.norm1(tokens + layer.self_attn(q=placed, k=placed, v=tokens))
        placed_image = image + self.places
        attention = layer.cross_attn_token_to_image
        tokens = layer.norm2(tokens + _tokens_to_image(attention, tokens + prompts, placed_image, image))
        tokens = layer.norm3(tokens + layer.mlp(tokens))

        attention = layer.cross_attn_image_to_token
        heads = attention.num_heads
        k = attention.k_proj(tokens + prompts).unflatten(2, (heads, -1))  # (B, T, heads, width)
        folded = torch.einsum("bthw,hwc->bhtc", k, _by_head(attention.q_proj.weight, heads))
        offset = torch.einsum("bthw,hw->bht", k, attention.q_proj.bias.view(heads, -1))
        folded, offset = (x.flatten(1, 2) / math.sqrt(k.shape[-1]) for x in (folded, offset))
        scores = torch.baddbmm(offset[:, :, None], folded, placed_image.transpose(1, 2))  # (B, heads * T, N)
        shares = scores.unflatten(1, (heads, -1)).softmax(dim=2)
        return tokens, layer.norm4(_from_tokens(attention, image, shares, tokens))

    def _upsampled(self, image: Tensor, weights: Tensor) -> Tensor:
        """Each point's three masks (B, 3, 4 h, 4 w): its image, upsampled twice by two, times weights."""
        first, norm, activation, second, last_activation = self.decoder.output_upscaling
        (height, width), batch = self.grid, len(image)
        x = _upsample(first, image)  # (B, h*w, 2, 2, C/4)
        x = functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
        x = last_activation(_upsample(second, activation(x)))  # (B, h*w, 2, 2, 2, 2, C/8)
        masks = weights @ x.view(batch, -1, x.shape[-1]).transpose(1, 2)  # (B, 3, h*w*16)
        masks = masks.view(batch, -1, height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return masks.reshape(batch, -1, 4 * height, 4 * width)


def _split(x: Tensor, attention: transformer.Attention) -> Tensor:
    """(B, N, heads * width) → (B, heads, N, width)."""
    return x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """A projection's weight (heads * width, C) → (heads, width, C)."""
    return weight.view(heads, -1, weight.shape[1])


def _tokens_to_image(
    attention: transformer.Attention, tokens: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Tokens (B, T, C) attend to pixels (B, N, C), whose keys and values are not projected → (B, T, C)."""
    batch, count, _ = tokens.shape
    heads = attention.num_heads
    q = attention.q_proj(tokens).unflatten(2, (heads, -1))  # (B, T, heads, width)
    # k_proj's bias adds the same to all of a query's scores, which softmax drops.
    folded = torch.einsum("bthw,hwc->bhtc", q, _by_head(attention.k_proj.weight, heads)).flatten(1, 2)
    scores = torch.bmm(folded / math.sqrt(q.shape[-1]), keys.transpose(1, 2))  # (B, heads * T, N)
    mixed = torch.bmm(scores.softmax(dim=2), values).view(batch, heads, count, -1)
    found = torch.einsum("bhtc,hwc->bthw", mixed, _by_head(attention.v_proj.weight, heads)).flatten(2)
    return attention.out_proj(found + attention.v_proj.bias)


def _from_tokens(attention: transformer.Attention, image: Tensor, shares: Tensor, tokens: Tensor) -> Tensor:
    """The pixels (B, N, C) plus what they attend to: `shares` (B, heads, T, N) of the tokens (B, T, C)."""
    heads = attention.num_heads
    v = attention.v_proj(tokens).unflatten(2, (heads, -1))
    weight = attention.out_proj.weight.unflatten(1, (heads, -1))  # (C, heads, width)
    # A head's shares sum to 1, so each head may bring its part of the bias.
    folded = torch.einsum("bthw,chw->bhtc", v, weight) + attention.out_proj.bias / heads
    return torch.baddbmm(image, shares.flatten(1, 2).transpose(1, 2), folded.flatten(1, 2))


def _upsample(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of 2x2 by stride 2 on (..., C) → (..., 2, 2, C')."""
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)  # (C, 2 * 2 * C')
    return functional.linear(x, weight.t(), layer.bias.repeat(4)).unflatten(-1, (2, 2, -1))
