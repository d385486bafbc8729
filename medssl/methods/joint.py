"""Joint: several methods on one shared encoder, their losses weighted and summed.

    medssl pretrain --data CACHE --config swin_unetr_pretrain        # inpainting + rotation + contrast, see configs/

    method:
      class_path: Joint
      init_args:
        parts: [{class_path: SimMIM, init_args: {mask_block: 4}}, {class_path: Rotation}, {class_path: SimCLR}]
        weights: [1, 1, 0.1]

    Joint(encoder, [SimMIM, partial(SimCLR, temperature=0.5)], weights=[1, 0.1])

Multi-task self-supervision: Doersch and Zisserman, ICCV 2017 (arXiv 1708.07860). The sum of inpainting, rotation and
contrast is the pretraining of Swin UNETR: Tang et al., CVPR 2022 (arXiv 2111.14791), there with equal weights; it is a
config here, not a method. Each part keeps its own views and heads; its loss is a curve of its own (`method.loss.NAME`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.base import Method
from medssl.methods.rotation import Rotation
from medssl.methods.shared import salts
from medssl.methods.simclr import SimCLR
from medssl.methods.simmim import SimMIM
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.sample_fields import resolve
from medssl.views.base import View
from medssl.views.random import derive_keys


class Joint(Method):
    """The weighted sum of the losses of several methods.

    Segmentation starts from a pretrained decoder if exactly one part trains one.

    Args:
        parts: The methods, each with its own settings.
        weights: Of their losses, 1 each by default.

    Raises:
        MedsslError: There are fewer than two parts, or not one weight above 0 for each, or a part has another encoder.
    """

    built_inside: ClassVar = {"parts": "encoder"}

    def __init__(self, encoder: Encoder, parts: list[Callable[[Encoder], Method]], weights: list[float] | None = None):
        super().__init__(encoder)
        self.parts = nn.ModuleList(part(encoder) for part in parts)
        self.weights = [1.0] * len(parts) if weights is None else [float(w) for w in weights]
        if len(parts) < 2 or len(self.weights) != len(parts) or min(self.weights) <= 0:
            raise MedsslError(
                f"Joint has {len(parts)} parts and the weights {self.weights}: expected two parts or more and a number above 0 "
                f"for each; for one pretext alone name it as --method"
            )
        if any(part.encoder is not encoder for part in self.methods):
            raise MedsslError("a part of Joint does not use the encoder it is given: expected one shared encoder")
        for part in self.methods:
            part.progress = self.progress
        decoders = [part.decoder for part in self.methods if part.decoder is not None]
        self.decoder = decoders[0] if len(decoders) == 1 else None
        self.min_batch_size = max(part.min_batch_size for part in self.methods)
        self.sample_fields = tuple(resolve(field for part in self.methods for field in part.sample_fields))
        self.names = [type(part).__name__ for part in self.methods]
        self.names = [n if self.names.count(n) == 1 else f"{n}.{i}" for i, n in enumerate(self.names)]
        self.losses: dict[str, Tensor] = {}

    @classmethod
    def examples(cls) -> tuple[dict[str, Any], ...]:
        return ({"parts": [SimMIM, Rotation, SimCLR], "weights": [1, 0.5, 0.1]},)

    @property
    def methods(self) -> list[Method]:
        """The methods that are trained together: `parts` as a typed list."""
        return list(self.parts)  # type: ignore[arg-type]

    def views(self, data_spec: DataSpec, size: Sequence[int]) -> tuple[View, ...]:
        return tuple(view for own in self._views_of_parts(data_spec, size) for view in own)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        losses = [part.loss(own) for part, own in zip(self.methods, self.batches(batch))]
        self.losses = {name: loss.detach() for name, loss in zip(self.names, losses)}
        return torch.stack([w * loss for w, loss in zip(self.weights, losses)]).sum()

    def batches(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """The batch as each part would have it alone: its own views, and keys that no other part draws from."""
        made, start = [], 0
        for number, count in enumerate(self.counts):
            mine = slice(start, start + count)
            lists = ("views", "valid_views", "coordinate_views")
            own: dict[str, Any] = {name: batch[name][mine] for name in lists if name in batch}
            own["key"] = derive_keys(batch["key"], salts.PART + number) if number else batch["key"]
            made.append(batch | own)
            start += count
        return made

    def monitored_values(self) -> dict[str, float]:
        """Each part's loss at the last step, and the values that the parts monitor."""
        values = {f"loss.{name}": float(loss) for name, loss in self.losses.items()}
        for name, part in zip(self.names, self.methods):
            values |= {f"{name}.{key}": value for key, value in part.monitored_values().items()}
        return values

    def reconstruct(self, batch: dict[str, Any]) -> dict[str, Tensor] | None:
        shown = (part.reconstruct(own) for part, own in zip(self.methods, self.batches(batch)))
        return next((images for images in shown if images is not None), None)

    def source_size(self, crop: Sequence[int]) -> tuple[int, ...]:
        return tuple(max(sizes) for sizes in zip(*(part.source_size(crop) for part in self.methods)))

    def check(self, crop: Sequence[int], batch_size: int) -> None:
        super().check(crop, batch_size)
        for part in self.methods:
            part.check(crop, batch_size)

    def set_up_views(self, data_spec: DataSpec, size: Sequence[int]) -> None:
        self.counts = [len(own) for own in self._views_of_parts(data_spec, size)]
        firsts = [sum(self.counts[:number]) for number in range(len(self.counts))]
        self.partner_views = tuple(n + i for n, part in zip(firsts, self.methods) for i in part.partner_views)
        self.hides_padding = any(part.hides_padding for part in self.methods)
        super().set_up_views(data_spec, size)

    def before_step(self) -> None:
        for part in self.methods:
            part.before_step()

    def after_step(self) -> None:
        for part in self.methods:
            part.after_step()

    def _views_of_parts(self, data_spec: DataSpec, size: Sequence[int]) -> list[tuple[View, ...]]:
        return [part.views(data_spec, tuple(size)) for part in self.methods]
