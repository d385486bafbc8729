"""timm's transformers of patches (ViT, DINOv2, DINOv3, EVA-02) on some of the patches alone, for methods that mask them.

tokens = encode_patches(net, x, keep)                  # (B, K, width)
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from medssl.encoders.tokens import take, with_prefix


def has_patches(net: nn.Module) -> bool:
    """Whether timm's model encodes patches that do not depend on each other before its blocks.

    Args:
        net: A model of timm.
    """
    return isinstance(net, VisionTransformer | Eva) and not getattr(net, "rope_mixed", False)


def encode_patches(net: Any, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
    """The patches after the last norm, without class and register tokens, which see all of them.

    Args:
        net: A model of timm that `has_patches`.
        x: (B, C, H, W).
        keep: (B, K) numbers of the patches to encode; all of them by default.
        attend: (B, N, N), True where patch i may attend to patch j; class and register tokens then attend to each other
            alone, since what they see every patch sees.

    Returns:
        (B, N, width), or (B, K, width).
    """
    placed, prefix = net._pos_embed(net.patch_embed(x)), net.num_prefix_tokens
    tokens, rotary = placed if isinstance(placed, tuple) else (placed, None)
    if keep is not None:
        tokens = torch.cat([tokens[:, :prefix], take(tokens[:, prefix:], keep)], dim=1)
        rotary = None if rotary is None else rotary[keep][:, None]  # (B, 1, K, 2 * a head's width)
    given = {} if rotary is None else {"rope": rotary}
    if attend is not None:
        given["attn_mask"] = with_prefix(attend, prefix)[:, None]
    tokens = net.norm_pre(tokens)
    for block in net.blocks:
        tokens = block(tokens, **given)
    return net.norm(tokens)[:, prefix:]
