"""An encoder whose weights expect scans on another scale than a cache holds: public weights keep their own input.

    NormalizedInput(ResNet(dims=2, in_channels=3, depth=50), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    NormalizedInput(SwinUNETR(dims=3), window_hu=(-175.0, 250.0))       # CT: HU, clipped, as 0..1

`medssl import` makes it. Nothing is folded into the first convolution, for two reasons: a window clips, which no weights can do, and
a convolution pads with zeros after the scaling, so that folded weights would give other features along the border. A grey scan is
repeated over the channels for the same reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.encoders.tokens import TokenEncoder
from medssl.scans.modality import FAMILIES
from medssl.views.intensity import Window
from medssl.views.recipes import window

DIRECTIONS = {"R": (0, False), "L": (0, True), "A": (1, False), "P": (1, True), "S": (2, False), "I": (2, True)}


class NormalizedInput(TokenEncoder):
    """Another encoder, with what its weights expect done to each scan before its first layer.

    Args:
        encoder: The encoder; its features are passed on.
        in_channels: Channels of a scan: as many as the encoder takes, or one, which is repeated.
        mean: Subtracted from each channel of the encoder (or one number for all), on the scale 0..1.
        std: What each channel is then divided by.
        window_hu: For CT: HU that become 0 and 1, clipped beyond; the mean and std follow. None takes 0..1 as it comes.
        axes: Directions of the encoder's array axes, such as "SPL" for foot to head, front to back, right to left; ours are "RAS".
        enlarge: How many times as wide the encoder sees a scan, along each axis, where its weights were trained on larger pictures
            (bicubic in 2D, trilinear in 3D). A level finer than the scan's own voxels is averaged to these.

    Raises:
        MedsslError: The numbers do not fit the encoder, or the axes are not three different directions.
    """

    def __init__(
        self,
        encoder: Encoder,
        in_channels: int = 1,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        window_hu: tuple[float, float] | None = None,
        axes: str = "RAS",
        enlarge: int = 1,
    ):
        wanted = encoder.in_channels
        if in_channels not in (1, wanted) or {len(mean), len(std)} - {1, wanted} or min(std) <= 0:
            raise MedsslError(
                f"in_channels is {in_channels}, mean {mean}, std {std}: expected 1 or {wanted} channels, as many numbers, and "
                "deviations above 0"
            )
        if window_hu is not None and window_hu[0] >= window_hu[1]:
            raise MedsslError(f"window_hu is {window_hu}: expected a lower and a higher number")
        finest = min(min(stride) for stride in encoder.strides)
        if enlarge < 1 or any(max(step, enlarge) % min(step, enlarge) for stride in encoder.strides for step in stride):
            raise MedsslError(
                f"enlarge is {enlarge}: expected a whole number that divides the strides of the encoder, {encoder.strides}, or is a "
                f"multiple of the finer ones ({finest})"
            )
        order, flipped = _order(axes, encoder.dims)
        back = [order.index(axis) for axis in range(encoder.dims)]
        strides = [tuple(max(1, stride[axis] // enlarge) for axis in back) for stride in encoder.strides]
        super().__init__(encoder.dims, in_channels, encoder.channels, strides)
        self.encoder, self.window_hu, self.axes, self.enlarge = encoder, window_hu, axes, enlarge
        self.order, self.back, self.flipped = order, back, flipped
        self.mean: Tensor
        self.std: Tensor
        shape = (1, -1, *[1] * encoder.dims)
        self.register_buffer("mean", torch.tensor(mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(shape), persistent=False)

    @property
    def out_dim(self) -> int:
        return self.encoder.out_dim

    def prepared(self, x: Tensor) -> Tensor:
        """(B, in_channels, *S) as the views give it -> what the encoder expects, along its axes."""
        if self.window_hu is not None:
            low, high = self.window_hu
            x = ((_ct_window().to_hu(x) - low) / (high - low)).clamp(0, 1)
        if self.enlarge > 1:
            mode = "bicubic" if self.dims == 2 else "trilinear"
            x = F.interpolate(x, scale_factor=self.enlarge, mode=mode, align_corners=False)
        x = x.expand(-1, self.encoder.in_channels, *x.shape[2:])
        x = (x - self.mean) / self.std
        return x.permute(0, 1, *[2 + axis for axis in self.order]).flip(self.flipped)

    def features(self, x: Tensor) -> list[Tensor]:
        back = [0, 1, *[2 + axis for axis in self.back]]
        levels = [level.flip(self.flipped).permute(back) for level in self.encoder.features(self.prepared(x))]
        return [self._to_voxels(level, x) for level in levels]

    def _to_voxels(self, level: Tensor, x: Tensor) -> Tensor:
        """A level that is finer than the scan, averaged to the scan's voxels; any other as it is."""
        finer = [max(1, size // voxels) for size, voxels in zip(level.shape[2:], x.shape[2:])]
        pool = F.avg_pool2d if self.dims == 2 else F.avg_pool3d
        return level if max(finer) == 1 else pool(level, finer)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.prepared(x))

    @property
    def encodes_patches(self) -> bool:
        inner = self.encoder
        return isinstance(inner, TokenEncoder) and inner.encodes_patches and self.axes == "RAS" and self.enlarge == 1

    def tokens(self, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
        if not (isinstance(self.encoder, TokenEncoder) and self.encodes_patches):
            raise MedsslError(
                f"a {type(self.encoder).__name__} with axes {self.axes}, enlarged {self.enlarge} times, has no tokens of patches in "
                "our order: expected a ViT with axes RAS, not enlarged"
            )
        return self.encoder.tokens(self.prepared(x), keep, attend)

    def layers(self) -> list[nn.Module]:
        return self.encoder.layers()

    def check_size(self, size: Sequence[int]) -> None:
        super().check_size(size)
        self.encoder.check_size([size[axis] * self.enlarge for axis in self.order])


def _order(axes: str, dims: int) -> tuple[list[int], list[int]]:
    """Which of our axes each of the encoder's is, and which dimensions (B, C, *S) of its input run the other way."""
    places = [DIRECTIONS.get(direction, (-1, False)) for direction in axes]
    if sorted(axis for axis, _ in places) != [0, 1, 2] or (dims == 2 and axes != "RAS"):
        raise MedsslError(f'axes is {axes!r}: expected three different directions such as "SPL", and "RAS" for images')
    if dims == 2:
        return [0, 1], []
    return [axis for axis, _ in places], [2 + place for place, (_, reverse) in enumerate(places) if reverse]


def _ct_window() -> Window:
    """The window through which every recipe of views shows CT."""
    (view,) = window(FAMILIES["CT"])
    assert isinstance(view, Window)
    return view
