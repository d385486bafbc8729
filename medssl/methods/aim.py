"""AIM: read a scan patch by patch and predict the next one, as a language model predicts the next word.

El-Nouby et al., Scalable Pre-training of Large Autoregressive Image Models, ICML 2024 (arXiv 2401.08541).

    medssl pretrain --data CACHE --encoder ViT --method AIM --method.order slice --crop 48 48 48

Of each scan a prefix of random length may be seen both ways, so that the encoder learns to attend both ways, as it does
when it is used; what follows is predicted patch by patch, each from those before it. Deviations: the paper's head (12
blocks, 2048 wide, for a trunk of 24) is smaller here, for the small default ViT; air and padding do not count.
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
from medssl.methods.shared.patches import mean_square, patches_and_body, targets, with_tokens
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View
from medssl.views.random import derive_keys, uniform


class AIM(Method):
    """order: in which patches follow each other: "raster", the last axis fastest, or "slice", the last axis slowest, one
    (axial) slice of patches after the other.

    normalise: predict each patch with mean 0 and variance 1 (as the paper) rather than as it is.
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
        x, follows = batch["views"][0], self.sequence(batch["views"][0])
        patches, body = patches_and_body(x, batch["valid_views"][0], self.patch)
        target, _, _ = targets(patches, body, self.normalise)
        prefix = self.prefix_of(batch)
        after = torch.arange(1, len(follows), device=x.device) >= prefix[:, None]  # (B, N - 1): not seen both ways
        counted = body[:, follows[1:]] * after[..., None]
        return mean_square(self.predict(x, prefix), target[:, follows[1:]], counted)

    def sequence(self, x: Tensor) -> Tensor:
        """(N,): the numbers of the patches in the order in which they are read."""
        grid = self.encoder.grid(x.shape[2:])
        numbers = torch.arange(torch.Size(grid).numel(), device=x.device).reshape(grid)
        return (numbers.movedim(-1, 0) if self.order == "slice" else numbers).flatten()

    def prefix_of(self, batch: dict[str, Any]) -> Tensor:
        """(B,): how many patches may be seen both ways, uniform from 1 to all but one."""
        count = torch.Size(self.encoder.grid(batch["views"][0].shape[2:])).numel()
        return 1 + (uniform(derive_keys(batch["key"], 503), 1)[:, 0] * (count - 1)).long()

    def predict(self, x: Tensor, prefix: Tensor) -> Tensor:
        """(B, C, *S) -> (B, N - 1, C * voxels of a patch): the second patch of the sequence, the third, ..., the last."""
        follows = self.sequence(x)
        rank = follows.argsort()
        attend = (rank <= rank[:, None]) | (rank < prefix[:, None, None])  # (B, N, N)
        return self.head(self.encoder.tokens(x, attend=attend)[:, follows[:-1]])

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What follows the prefix, each patch predicted from the true ones before it."""
        x, follows = batch["views"][0], self.sequence(batch["views"][0])
        patches, body = patches_and_body(x, batch["valid_views"][0], self.patch)
        _, mean, deviation = targets(patches, body, self.normalise)
        prefix = self.prefix_of(batch)
        found = torch.zeros_like(patches)
        found[:, follows[1:]] = self.predict(x, prefix).to(x.dtype)
        seen = (follows.argsort() < prefix[:, None])[..., None]
        made = {"corrupted": patches * seen, "restored": torch.where(seen, patches, found * deviation + mean)}
        grid = self.encoder.grid(x.shape[2:])
        return {"source": x} | {name: from_patches(p, self.patch, grid) for name, p in made.items()}

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        if torch.Size(self.encoder.grid(crop)).numel() < 2:
            raise MedsslError(
                f"the crop {tuple(crop)} holds one patch of {self.patch} voxels: AIM predicts the next one and needs two or "
                f"more; pass a larger --crop or a smaller --encoder.patch"
            )
