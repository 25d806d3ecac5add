"""SAM's mask decoder for many points of one image: the same but for rounding, with less work.

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

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor
from torch.nn import functional

POINTS_UPSAMPLED = 4  # at a time: more would not stay in a CPU's cache


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

    def _first_layer(self, layer: TwoWayAttentionBlock, prompts: Tensor) -> tuple[Tensor, Tensor]:
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
        self, layer: TwoWayAttentionBlock, tokens: Tensor, image: Tensor, prompts: Tensor
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


def _split(x: Tensor, attention: Attention) -> Tensor:
    """(B, N, heads * width) → (B, heads, N, width)."""
    return x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """A projection's weight (heads * width, C) → (heads, width, C)."""
    return weight.view(heads, -1, weight.shape[1])


def _tokens_to_image(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
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


def _from_tokens(attention: Attention, image: Tensor, shares: Tensor, tokens: Tensor) -> Tensor:
    """The pixels (B, N, C) plus what they attend to: `shares` (B, heads, T, N) of the tokens (B, T, C)."""
    heads = attention.num_heads
    v = attention.v_proj(tokens).unflatten(2, (heads, -1))
    weight = attention.out_proj.weight.unflatten(1, (heads, -1))  # (C, heads, width)
    # A head's shares sum to 1, so each head may bring its part of the bias.
    folded = torch.einsum("bthw,chw->bhtc", v, weight) + attention.out_proj.bias / heads
    return torch.baddbmm(image, shares.flatten(1, 2).transpose(1, 2), folded.flatten(1, 2))


def _upsample(layer: torch.nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of 2x2 by stride 2 on (..., C) → (..., 2, 2, C')."""
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)  # (C, 2 * 2 * C')
    return functional.linear(x, weight.t(), layer.bias.repeat(4)).unflatten(-1, (2, 2, -1))
