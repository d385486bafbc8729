"""The encoder of Swin UNETR in 2D and 3D (Hatamizadeh et al. 2022, arXiv 2201.01266), MONAI's own network.

    SwinUNETR(dims=3, width=48)                            # the size of the public weights
    SwinUNETR(dims=3, width=48, use_v2=True)               # VoCo's

`net` is MONAI's SwinTransformer: what MONAI's SwinUNETR calls `swinViT.X` is `net.X` here. Windows are padded where they do not
fit, so any crop works that 32 divides.
"""

from __future__ import annotations

from monai.networks.nets.swin_unetr import MERGING_MODE, SwinTransformer
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder


class SwinUNETR(Encoder):
    """The hierarchical transformer of Swin UNETR; its patches are of 2 voxels, its levels normed as MONAI's decoder gets them.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        width: Channels of the finest level (MONAI's feature_size), doubled with each level.
        depths: Transformer blocks of each of the four stages.
        heads: Attention heads of each stage; they divide the stage's channels.
        window: Patches along the edge of a window.
        use_v2: Whether a residual convolution precedes each stage (SwinUNETR-V2, He et al., MICCAI 2023).

    Raises:
        MedsslError: There are not four stages, or the heads do not divide the channels.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        width: int = 48,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 7,
        use_v2: bool = False,
    ):
        if len(depths) != 4 or len(heads) != 4 or any(width * 2**i % n for i, n in enumerate(heads)):
            raise MedsslError(
                f"width is {width}, depths {tuple(depths)}, heads {tuple(heads)}: expected four depths and four numbers of heads "
                f"that divide the channels {tuple(width * 2**i for i in range(4))}"
            )
        super().__init__(dims, in_channels, [width * 2**i for i in range(5)], [(2 * 2**i,) * dims for i in range(5)])
        self.width, self.depths, self.heads = width, tuple(depths), tuple(heads)
        self.window, self.use_v2 = window, use_v2
        self.net = SwinTransformer(
            in_chans=in_channels,
            embed_dim=width,
            window_size=(window,) * dims,
            patch_size=(2,) * dims,
            depths=depths,
            num_heads=heads,
            spatial_dims=dims,
            downsample=MERGING_MODE["merging"],
            use_v2=use_v2,
        )

    def features(self, x: Tensor) -> list[Tensor]:
        return self.net(x, normalize=True)

    def layers(self) -> list[nn.Module]:
        parts: list[nn.Module] = [self.net.patch_embed]
        for stage in range(1, 5):
            names = (f"layers{stage}c", f"layers{stage}") if self.use_v2 else (f"layers{stage}",)
            parts.append(nn.ModuleList([self.net.get_submodule(name) for name in names]))
        return parts
