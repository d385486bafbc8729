"""Any network of MONAI, in 2D and 3D, by its class and the names of the layers to read.

    MonaiNetwork(
        network="monai.networks.nets.AttentionUnet",
        layers=["model.0", "model.1.submodule.conv"],
        options={"out_channels": 2, "channels": [16, 32], "strides": [2]},
    )
    medssl pretrain --encoder MonaiNetwork --encoder.network monai.networks.nets.DenseNet121 --encoder.options '{"out_channels": 2}' \
        --encoder.layers '["features.relu0", "features.denseblock1", "features.denseblock2"]' --data CACHE

`net` is the whole network with MONAI's own names. It runs up to the last of the layers and no further; weights that take
no part in that do not learn. Which size each layer has is found by running one empty crop. Families that are used often have
files of their own: SwinUNETR, SegResNet, DenseNet, EfficientNet, MedNeXt, UNETR, ResNet.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medssl.core.errors import MedsslError, nearest
from medssl.encoders.base import Encoder
from medssl.encoders.foreign import REFUSALS, first_line, part_of, try_size

ROOM = "monai.networks.nets"
FETCHES = ("pretrained", "progress", "adv_prop")  # arguments with which MONAI downloads weights


class MonaiNetwork(Encoder):
    """A network of MONAI, read at named layers.

    Args:
        dims: 2 for images, 3 for volumes.
        in_channels: Channels of a scan.
        network: Class of the network, such as "monai.networks.nets.DenseNet121"; nothing else is imported.
        layers: Names of the modules whose outputs are the levels, fine to coarse, as `net.named_modules()` has them.
        options: Further arguments of the class.
        size: Voxels along each axis of the crop that the levels are measured with; 64 by default.

    Raises:
        MedsslError: There is no such network or layer, or what a layer gives is no level of a pyramid.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        network: str = "monai.networks.nets.DenseNet121",
        layers: Sequence[str] = (
            "features.relu0",
            "features.denseblock1",
            "features.denseblock2",
            "features.denseblock3",
        ),
        options: dict[str, Any] | None = None,
        size: tuple[int, ...] | None = None,
    ):
        self.check_arguments(dims, in_channels)
        net = _build(network, dims, in_channels, options or {})
        size = tuple(size or (64,) * dims)
        used, maps = _measure(net, list(layers), torch.zeros(1, in_channels, *size))
        super().__init__(dims, in_channels, *_levels(size, dict(zip(layers, maps))))
        self.network, self.read, self.net = network, tuple(layers), net
        self.net.requires_grad_(False)
        for name in used:
            self.net.get_parameter(name).requires_grad_(True)

    def features(self, x: Tensor) -> list[Tensor]:
        return _run(self.net, self.read, x)

    def layers(self) -> list[nn.Module]:
        """The network's own parts, as far as they learn: its children, a container's children each as a part."""
        groups: dict[str, list[str]] = {}
        for name, weight in self.net.named_parameters():
            if weight.requires_grad:
                first, _, rest = name.partition(".")
                container = isinstance(self.net._modules.get(first), nn.Sequential | nn.ModuleList)
                groups.setdefault(f"{first}.{rest.partition('.')[0]}" if container else first, []).append(name)
        return [part_of(self.net, names) for names in groups.values()]

    def check_size(self, size: Sequence[int]) -> None:
        super().check_size(size)
        try_size(self, size)


class _LastLayer(Exception):
    """The last layer was read, so the rest of the network need not run."""


def _build(network: str, dims: int, in_channels: int, options: dict[str, Any]) -> nn.Module:
    """The network with random weights."""
    room, _, name = network.rpartition(".")
    nets = importlib.import_module(ROOM)
    known = [kind.__name__ for kind in vars(nets).values() if inspect.isclass(kind) and issubclass(kind, nn.Module)]
    if room != ROOM or name not in known:
        raise MedsslError(f"there is no network {network!r}{nearest(name, known, ROOM + '.')}")
    kind = getattr(nets, name)
    if taken := [key for key in options if key in FETCHES or key in ("spatial_dims", "in_channels", "in_chans")]:
        raise MedsslError(
            f"options has {taken[0]}: expected arguments of {name} beside dims and in_channels; weights come by `medssl import`"
        )
    expected = inspect.signature(kind.__init__).parameters
    asks = expected if "in_channels" in expected else inspect.signature(kind.__mro__[1].__init__).parameters
    channels = {"in_channels" if "in_channels" in asks else "n_input_channels": in_channels}
    own = {"pretrained": False} if "pretrained" in asks else {}
    try:
        return kind(spatial_dims=dims, **channels, **own, **options)
    except REFUSALS as error:
        raise MedsslError(
            f"{name} cannot be built with {options} ({first_line(error)}): expected its arguments as "
            f"--encoder.options '{{\"out_channels\": 2}}'"
        ) from error


def _run(net: nn.Module, names: Sequence[str], x: Tensor) -> list[Tensor]:
    """The outputs of the named modules; the network stops after the last one."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            found[name] = out
            if len(found) == len(set(names)):
                raise _LastLayer

        return hook

    hooks = [net.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        net(x)
    except _LastLayer:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return [found[name] for name in names]


def _measure(net: nn.Module, names: list[str], empty: Tensor) -> tuple[list[str], list[Tensor]]:
    """The names of the weights that the named layers depend on, and the layers' outputs for an empty crop.

    Raises:
        MedsslError: The network has no such layers, does not reach them, or does not take the crop.
    """
    known = [name for name, _ in net.named_modules() if name]
    if missing := [name for name in names if name not in known]:
        raise MedsslError(f"{type(net).__name__} has no layer {missing[0]!r}{nearest(missing[0], known)[:2000]}")
    if not names or len(set(names)) != len(names):
        raise MedsslError(f"layers is {names}: expected names of modules, fine to coarse, each once")
    modes = {module: module.training for module in net.modules()}
    try:
        maps = _run(net.eval(), names, empty)
        if wrong := [n for n, m in zip(names, maps) if not isinstance(m, Tensor) or m.ndim != empty.ndim]:
            raise MedsslError(
                f"the layer {wrong[0]} gives no map (B, C, *S): expected a module whose output is one tensor of that form"
            )
        total = torch.stack([m.square().sum() for m in maps]).sum()
        gradients = torch.autograd.grad(total, list(net.parameters()), allow_unused=True)
    except (*REFUSALS, KeyError) as error:
        raise MedsslError(
            f"{type(net).__name__} does not take the crop {tuple(empty.shape[2:])} ({first_line(error)}): expected a size that it "
            f"takes and layers that it reaches; pass --encoder.size"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    used = [name for (name, _), gradient in zip(net.named_parameters(), gradients) if gradient is not None]
    return used, [m.detach() for m in maps]


def _levels(size: Sequence[int], maps: dict[str, Tensor]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Channels and strides of the levels.

    Raises:
        MedsslError: A level does not divide the crop, or is finer than the one before it.
    """
    strides = [tuple(n // m for n, m in zip(size, level.shape[2:])) for level in maps.values()]
    for name, stride, level in zip(maps, strides, maps.values()):
        if tuple(s * m for s, m in zip(stride, level.shape[2:])) != tuple(size):
            raise MedsslError(
                f"the layer {name} is of {tuple(level.shape[2:])} for a crop of {tuple(size)}: expected sizes that divide the crop's"
            )
    for name, fine, coarse in zip(list(maps)[1:], strides, strides[1:]):
        if any(b % a for a, b in zip(fine, coarse)):
            raise MedsslError(
                f"the layer {name} has the stride {coarse}, the one before it {fine}: expected layers fine to coarse; change their order"
            )
    return [level.shape[1] for level in maps.values()], strides
