"""Volume fusion: boxes of one scan are blended with another scan; the weight of the blend is predicted at each voxel.

Wang et al., MIS-FM: 3D Medical Image Segmentation using Foundation Models Pretrained on a Large-Scale Unannotated
Dataset, 2023 (arXiv 2306.16925), with settings as in its section on Volume Fusion.

    medssl pretrain --data CACHE --method VolumeFusion --crop 64 64 64

x = a foreground + (1 - a) background, where a is one of 0, 1/4, ..., 1 in each of 10 to 40 boxes, the later over the
earlier. A U-Net segments the classes of a with Dice and cross-entropy, and segmentation starts from both encoder and
decoder. Deviations: each scan is the background of the one before it in the batch; and a voxel that is air in both scans
does not count, because the blend does not show there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.decoder import Decoder
from medssl.methods.base import Method
from medssl.methods.shared import salts
from medssl.methods.shared.devices import device_count, gather_all, own_rows, sum_over_devices
from medssl.methods.shared.masked_mean import masked_mean
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import View, per_sample
from medssl.views.masking import random_box
from medssl.views.random import derive_keys, uniform

BOX = (1 / 16, 5 / 8)  # edges of a box, of the crop's: 8 to 80 voxels of 128 in the paper


class VolumeFusion(Method):
    """Dice and cross-entropy of the classes of the blending weight.

    Args:
        coefficients: Steps from 0 to 1 (K, 4 in the paper, which makes 5 classes).
        boxes: Smallest and largest number of boxes of a scan.

    Raises:
        MedsslError: `coefficients` is below 1, or `boxes` is not a range from 1 or more.
    """

    min_batch_size = 2

    def __init__(self, encoder: Encoder, coefficients: int = 4, boxes: tuple[int, int] = (10, 40)):
        super().__init__(encoder)
        if coefficients < 1 or not 1 <= boxes[0] <= boxes[1]:
            raise MedsslError(
                f"coefficients is {coefficients}, boxes is {boxes}: expected at least 1, and the smallest and the largest number of boxes"
            )
        self.coefficients, self.boxes = coefficients, tuple(boxes)
        self.decoder: Decoder = Decoder(encoder, coefficients + 1)

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return (recipes.masked(data_spec, size),)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        fused, classes, counted = self.fuse(batch)
        logits = self.decoder(self.encoder.features(fused)).float()
        entropy = F.cross_entropy(logits, classes, reduction="none")[:, None]
        return masked_mean(entropy, counted) + dice_loss(logits, classes, counted)

    def fuse(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The fused scans (B, C, *S), the class of each voxel's coefficient (B, *S), and what counts (B, 1, *S)."""
        x, body = batch["views"][0], batch["valid_views"][0]
        classes = self.classes_of(batch["key"], x.shape[2:])
        a = (classes / self.coefficients).to(x.dtype)[:, None]
        return a * x + (1 - a) * next_sample(x), classes, ((body + next_sample(body)) > 0).float()

    def classes_of(self, keys: Tensor, size: Sequence[int]) -> Tensor:
        """(B, *size) int64, 0..coefficients: boxes one over the other, of each sample by its key alone.

        Args:
            keys: (B,) int64.
            size: Voxels of the crop along each axis.
        """
        smallest, largest = self.boxes
        count = smallest + (uniform(derive_keys(keys, salts.BOX_COUNT), 1)[:, 0] * (largest - smallest + 1)).long()
        classes = torch.zeros(len(keys), *size, dtype=torch.int64, device=keys.device)
        for n in range(largest):
            one = derive_keys(derive_keys(keys, salts.BOXES), n)
            value = (uniform(derive_keys(one, 0), 1)[:, 0] * (self.coefficients + 1)).long()
            inside = random_box(derive_keys(one, 1), size, BOX) & per_sample(n < count, classes)
            classes = torch.where(inside, per_sample(value, classes), classes)
        return classes


def next_sample(x: Tensor) -> Tensor:
    """Of each sample the next one in the batch of all devices; of the last one the first, (B, ...)."""
    following = (own_rows(x[:1]) + 1) % device_count()  # the device whose first sample follows this device's last
    return torch.cat([x[1:], gather_all(x[:1])[following]])


def dice_loss(logits: Tensor, classes: Tensor, counted: Tensor) -> Tensor:
    """1 - the soft Dice of each class over the counted voxels of the batch, averaged over classes; the batch is that of all devices.

    Args:
        logits: (B, K, *S).
        classes: (B, *S) int64, 0..K-1.
        counted: (B, 1, *S), 1 where a voxel counts.
    """
    truth = F.one_hot(classes, logits.shape[1]).movedim(-1, 1) * counted
    shares = logits.softmax(1) * counted
    over = (0, *range(2, logits.ndim))
    both, either = (sum_over_devices(part.sum(over)) for part in (shares * truth, shares + truth))
    return 1 - ((2 * both + 1e-5) / (either + 1e-5)).mean()
