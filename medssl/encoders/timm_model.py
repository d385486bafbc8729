"""Any model of timm in 2D (Wightman, https://github.com/huggingface/pytorch-image-models).

    Timm(name="convnext_tiny", in_channels=3)
    Timm(name="vit_base_patch14_dinov2", options={"img_size": 224})
    medssl pretrain --data CACHE --encoder Timm --encoder.name resnet50 --method SimCLR

`net` is timm's model without its classifier, so a state dict of timm loads into it name by name. Weights are never
downloaded: `medssl import` brings them. `features` gives the stages of a hierarchical model; of a model of patches (ViT,
DINOv2, DINOv3) the last map, normed, and finer levels made from it, see `finer.py`. `forward` gives timm's own vector before the
classifier, such as the class token of a ViT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import timm
from timm.models import group_parameters
from torch import Tensor, nn

from medssl.core.errors import MedsslError, nearest
from medssl.encoders.finer import add_finer, finer_channels, finer_levels, finer_strides
from medssl.encoders.foreign import part_of, try_size
from medssl.encoders.timm_patches import encode_patches, has_patches
from medssl.encoders.tokens import TokenEncoder

ANY_SIZE: tuple[dict[str, bool], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})
OURS = (
    "num_classes",
    "in_chans",
    "features_only",
    "feature_cfg",
    "out_indices",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
)


class Timm(TokenEncoder):
    """A model of timm.

    Args:
        dims: 2, since timm has no networks for volumes.
        in_channels: Channels of a scan.
        name: Name of the model, as `timm.list_models()` has it; the name of public weights after a dot is allowed.
        options: Further arguments of the model, such as {"img_size": 224} or {"drop_path_rate": 0.1}.

    Raises:
        MedsslError: timm has no such model, or the model has no such option, or no map of features.
    """

    allowed_dims: ClassVar[tuple[int, ...]] = (2,)

    def __init__(
        self, dims: int = 2, in_channels: int = 1, name: str = "resnet18", options: dict[str, Any] | None = None
    ):
        self.check_arguments(dims, in_channels)
        net = _create(name, in_channels, options or {})
        levels = _levels(name, net)
        channels, strides = [c for c, _ in levels], [(s,) * dims for _, s in levels]
        is_plain = len(set(strides)) == 1 and len(strides) > 1  # one map after each block, all of one size
        if is_plain:
            strides = finer_strides(strides[-1])
            channels = finer_channels(channels[-1], strides)
        super().__init__(dims, in_channels, channels, strides)
        self.name, self.is_plain = name, is_plain
        self.net: Any = net
        self.finer = finer_levels(dims, channels, strides) if is_plain else nn.ModuleList()

    @property
    def encodes_patches(self) -> bool:
        return has_patches(self.net)

    def tokens(self, x: Tensor, keep: Tensor | None = None, attend: Tensor | None = None) -> Tensor:
        if not self.encodes_patches:
            raise MedsslError(
                f"timm's {self.name} has no tokens of patches: expected a ViT, such as vit_tiny_patch16_224"
            )
        return encode_patches(self.net, x, keep, attend)

    @property
    def out_dim(self) -> int:
        return self.net.head_hidden_size

    def features(self, x: Tensor) -> list[Tensor]:
        if self.is_plain:
            last = self.net.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[-1]
            return add_finer(self.finer, last)
        if hasattr(self.net, "forward_intermediates"):
            return list(self.net.forward_intermediates(x, intermediates_only=True))
        return _hooked(self.net, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def layers(self) -> list[nn.Module]:
        groups = group_parameters(self.net, self.net.group_matcher(coarse=False))
        parts = [part_of(self.net, names) for _, names in sorted(groups.items())]
        return [*parts[:-1], nn.ModuleList([parts[-1], self.finer])]

    def check_size(self, size: Sequence[int]) -> None:
        super().check_size(size)
        try_size(self, size)


def _create(name: str, in_channels: int, options: dict[str, Any]) -> Any:
    """timm's model with random weights, for images of any size where it has such an option."""
    if name.partition(".")[0] not in timm.list_models():
        close = nearest(name, timm.list_models()).partition(" known:")[0]
        raise MedsslError(f"timm has no model {name!r}{close} expected a name from timm.list_models()")
    taken = [
        key for key in options if key in OURS or (key.startswith("pretrained") and key != "pretrained_window_sizes")
    ]
    if taken:
        raise MedsslError(
            f"options has {taken[0]}: expected arguments of the model itself; channels are in_channels, weights come by "
            f"`medssl import`"
        )
    for size in ANY_SIZE:
        given = size | options
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_channels, **given)
        except TypeError as error:
            if not any(key in str(error) for key in size):
                raise MedsslError(
                    f"timm cannot build {name} with {given} ({error}): expected options that it has"
                ) from error
    raise AssertionError("the last of ANY_SIZE is empty")


def _levels(name: str, net: Any) -> list[tuple[int, int]]:
    """The channels and the stride of each map of features, in the model's order."""
    info = getattr(net, "feature_info", None)
    if not info:
        raise MedsslError(f"timm's {name} gives no maps of features: expected a model whose feature_info is not empty")
    return [(item["num_chs"], item["reduction"]) for item in list(info)]


def _hooked(net: Any, x: Tensor) -> list[Tensor]:
    """The outputs of the modules that timm's `feature_info` names, for the few models without `forward_intermediates`."""
    names = [item["module"] for item in net.feature_info]
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, given, out: found.__setitem__(name, out)

    hooks = [net.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        net.forward_features(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name in names]
