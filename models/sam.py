"""Segment Anything (Kirillov et al., 2023) from a file of weights: the official package's network.

The official files are told apart by their shapes alone: vit_b, vit_l, vit_h, and MobileSAM's vit_t (Zhang et
al., 2023), whose encoder is ours. Any other size of the same layouts is built too. The package brings no
weights: bash get_checkpoints.sh vit_t.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from engine.base import UserError
from models.sam_networks import TinyViT
from models.weights import state_of_file, unwrapped

PIXEL_MEAN, PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # of bytes, ImageNet's
# By (width, blocks) of the image encoder; TinyViT's width is that of its last stage.
_TYPES = {(320, 12): "vit_t", (768, 12): "vit_b", (1024, 24): "vit_l", (1280, 32): "vit_h"}
_DECODER_HEADS = 8  # of every official file; the one size that no shape tells, but for:
_TINY_SIDE = 1024  # pixels that a TinyViT sees a side
_VIT, _TINY = "image_encoder.pos_embed", "image_encoder.patch_embed.seq.0.c.weight"  # each layout's own
_UNUSED = ("image_encoder.norm_head.", "image_encoder.head.")  # a classifier in MobileSAM's file


def load_sam(path: str | Path) -> Sam:
    """The network of an official file (or of another size in its layout), in eval mode, float32, on the CPU.

    Nothing in the file is run. UserError when it cannot be read, or is no Segment Anything.
    """
    given = unwrapped(state_of_file(Path(path)), {_VIT, _TINY})
    state = {key: value.float() for key, value in given.items() if not key.startswith(_UNUSED)}
    try:
        with torch.device("meta"):  # shapes without memory: the file's own tensors take their place
            sam = build_sam(**sizes_of(state))
        sam.load_state_dict(state, assign=True)
    except KeyError as error:
        raise _no_sam(path, f"it lacks {error.args[0]}") from None
    except (RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError, AssertionError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[1] if len(lines) > 1 else "its shapes fit no such network"
        raise _no_sam(path, reason[:150]) from None
    sam.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(-1, 1, 1), False)  # in no file
    sam.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(-1, 1, 1), False)
    return sam.eval().requires_grad_(False)


def _no_sam(path: str | Path, reason: str) -> UserError:
    advice = "give an official file: bash get_checkpoints.sh vit_t"
    return UserError(f"{path}: no weights of Segment Anything ({reason}); {advice}")


def type_of(sam: Sam) -> str:
    """vit_t, vit_b, vit_l or vit_h; for any other size its width and blocks, such as vit_32x2."""
    encoder = sam.image_encoder
    if isinstance(encoder, TinyViT):
        size = (encoder.neck[0].in_channels, sum(len(layer["blocks"]) for layer in encoder.layers))
    else:
        size = (encoder.pos_embed.shape[3], len(encoder.blocks))
    return _TYPES.get(size, "vit_{}x{}".format(*size))


def sizes_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """The arguments of `build_sam` that these weights were made with. KeyError names what they lack."""
    return {
        **(_tiny_sizes(state) if _TINY in state else _vit_sizes(state)),
        "embedding": state["image_encoder.neck.0.weight"].shape[0],
        "mask_channels": state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        "decoder_mlp": state["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        "iou_hidden": state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    }


def _vit_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    _, grid, _, width = state[_VIT].shape
    blocks = _numbered(state, r"image_encoder\.blocks\.(\d+)\.")
    # A table of relative positions has 2 s - 1 rows for attention over s x s: the whole grid, or a window.
    tables = [state[f"image_encoder.blocks.{index}.attn.rel_pos_h"].shape for index in range(blocks)]
    sides = [(rows + 1) // 2 for rows, _ in tables]
    return {
        "image_size": grid * state["image_encoder.patch_embed.proj.weight"].shape[2],
        "grid": grid,
        "embed_dim": width,
        "num_heads": width // tables[0][1] if tables else 1,
        "mlp_ratio": state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] / width,
        "global_attn_indexes": tuple(index for index, side in enumerate(sides) if side == grid),
        "window_size": min(sides),
        "depth": blocks,
    }


def _tiny_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    stages = range(_numbered(state, r"image_encoder\.layers\.(\d+)\."))
    last = [f"image_encoder.layers.{stage}.downsample.conv3.c.weight" for stage in stages[:-1]]
    biases = [f"image_encoder.layers.{stage}.blocks.0.attn.attention_biases" for stage in stages[1:]]
    return {
        "image_size": _TINY_SIDE,
        "grid": _TINY_SIDE // 16,
        "widths": [state[key].shape[0] for key in ("image_encoder.patch_embed.seq.2.c.weight", *last)],
        "depths": [_numbered(state, rf"image_encoder\.layers\.{stage}\.blocks\.(\d+)\.") for stage in stages],
        "windows": [math.isqrt(state[key].shape[1]) for key in biases],
    }


def _numbered(state: dict[str, Tensor], pattern: str) -> int:
    """How many numbers stand in the keys, where the pattern has its group."""
    return len({found[1] for found in (re.match(pattern, key) for key in state) if found})


def build_sam(
    image_size: int,
    grid: int,
    embedding: int = 256,
    mask_channels: int = 16,
    decoder_mlp: int = 2048,
    iou_hidden: int = 256,
    **encoder: Any,
) -> Sam:
    """A SAM with random weights, as segment_anything.build_sam puts it together.

    It sees `image_size` pixels a side as `grid` patches. `encoder` has the sizes of ImageEncoderViT, or, with
    `widths` among them, of TinyViT.
    """
    if "widths" in encoder:
        image_encoder = TinyViT(img_size=image_size, embedding=embedding, **encoder)
    else:
        image_encoder = ImageEncoderViT(
            img_size=image_size,
            patch_size=image_size // grid,
            out_chans=embedding,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            qkv_bias=True,
            use_rel_pos=True,
            **encoder,
        )
    return Sam(
        image_encoder=image_encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=embedding,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=mask_channels,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(2, embedding, num_heads=_DECODER_HEADS, mlp_dim=decoder_mlp),
            transformer_dim=embedding,
            iou_head_depth=3,
            iou_head_hidden_dim=iou_hidden,
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
