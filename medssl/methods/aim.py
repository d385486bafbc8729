"""AIM: read a scan patch by patch and predict the next patch, as a language model predicts the next word.

El-Nouby et al., Scalable Pre-training of Large Autoregressive Image Models, ICML 2024 (arXiv 2401.08541).

    medssl pretrain --data CACHE --encoder ViT --method AIM --method.order slice --crop 48 48 48

The patches of a prefix of random length attend to each other in both directions, as all patches do when the encoder is
used; the patches after it are predicted one by one, each from those before it. Deviations: the paper's head (12 blocks,
2048 wide, for a trunk of 24) is smaller here, for the small default ViT; air and padding do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightly.models.modules import AIMPredictionHead
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.tokens import TokenEncoder, from_patches
from medssl.methods.base import Method
from medssl.methods.shared import salts
from medssl.methods.shared.masked_mean import masked_mean
from medssl.methods.shared.patches import patches_and_body, targets, with_tokens
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.random import derive_keys, uniform


class AIM(Method):
    """The mean squared error of each patch after the prefix, predicted from the patches before it.

    Args:
        order: How patches follow each other: "raster", the last axis fastest, or "slice", the last axis slowest, one
            (axial) slice of patches after the other.
        head_depth: Layers of the head that predicts.
        head_width: Width of its layers.
        normalise: Whether to predict each patch with mean 0 and variance 1, as the paper does.
    """

    encoder: TokenEncoder

    def __init__(
        self,
        encoder: Encoder,
        order: Literal["raster", "slice"] = "raster",
        head_depth: int = 4,
        head_width: int = 192,
        normalise: bool = True,
    ):
        super().__init__(with_tokens(encoder, "AIM"))
        if head_depth < 1 or head_width < 1:
            raise MedsslError(f"head_depth is {head_depth}, head_width {head_width}: expected numbers above 0")
        self.order, self.head_depth, self.head_width, self.normalise = order, head_depth, head_width, normalise
        self.patch = encoder.strides[-1]
        voxels = encoder.in_channels * torch.Size(self.patch).numel()
        self.head = AIMPredictionHead(encoder.out_dim, voxels, head_width, head_depth)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        x, order = batch["views"][0], self.sequence(batch["views"][0])
        patches, body = patches_and_body(x, batch["valid_views"][0], self.patch)
        target, _, _ = targets(patches, body, self.normalise)
        prefix = self.prefix_of(batch)
        after = torch.arange(1, len(order), device=x.device) >= prefix[:, None]  # (B, N - 1), beyond the prefix
        counted = body[:, order[1:]] * after[..., None]
        return masked_mean((self.predict(x, prefix) - target[:, order[1:]]).square(), counted)

    def sequence(self, x: Tensor) -> Tensor:
        """(N,) int64: the numbers of the patches in reading order."""
        grid = self.encoder.grid(x.shape[2:])
        numbers = torch.arange(torch.Size(grid).numel(), device=x.device).reshape(grid)
        return (numbers.movedim(-1, 0) if self.order == "slice" else numbers).flatten()

    def prefix_of(self, batch: dict[str, Any]) -> Tensor:
        """(B,) int64: the length of the prefix, uniform from 1 to all patches but one."""
        count = torch.Size(self.encoder.grid(batch["views"][0].shape[2:])).numel()
        return 1 + (uniform(derive_keys(batch["key"], salts.PREFIX), 1)[:, 0] * (count - 1)).long()

    def predict(self, x: Tensor, prefix: Tensor) -> Tensor:
        """The second patch of the sequence, the third, ..., the last, each from those before it.

        Args:
            x: (B, C, *S).
            prefix: (B,) int64, how many first patches are seen in both directions.

        Returns:
            (B, N - 1, C * voxels of a patch).
        """
        order = self.sequence(x)
        rank = order.argsort()
        attend = (rank <= rank[:, None]) | (rank < prefix[:, None, None])  # (B, N, N)
        return self.head(self.encoder.tokens(x, attend=attend)[:, order[:-1]])

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The scan after its prefix, each patch predicted from the true ones before it."""
        x, order = batch["views"][0], self.sequence(batch["views"][0])
        patches, body = patches_and_body(x, batch["valid_views"][0], self.patch)
        _, mean, deviation = targets(patches, body, self.normalise)
        prefix = self.prefix_of(batch)
        predicted = torch.zeros_like(patches)
        predicted[:, order[1:]] = self.predict(x, prefix).to(x.dtype)
        visible = (order.argsort() < prefix[:, None])[..., None]
        made = {"corrupted": patches * visible, "restored": torch.where(visible, patches, predicted * deviation + mean)}
        grid = self.encoder.grid(x.shape[2:])
        return {"source": x} | {name: from_patches(p, self.patch, grid) for name, p in made.items()}

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        if torch.Size(self.encoder.grid(crop)).numel() < 2:
            raise MedsslError(
                f"the crop {tuple(crop)} holds one patch of {self.patch} voxels: AIM predicts the next one and needs two or "
                f"more; pass a larger --crop or a smaller --encoder.patch"
            )
