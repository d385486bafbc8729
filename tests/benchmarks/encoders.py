"""What an encoder of ours costs beside the original library's own network: forward plus backward, one thread.

    python -m tests.benchmarks.encoders --quick
    python -m tests.benchmarks.encoders

Both are of one architecture and run one loss on the same maps. Rounds of the two alternate, and the best of each counts, since what
else a machine does only adds time; it is the time of this process on the processor. The last line is JSON: ratios, and whether the
goal is met.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import timm
import torch
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from monai.networks import nets
from monai.networks.nets.segresnet_ds import SegResEncoder as MonaiSegResEncoder
from torch import nn

from medssl import encoders
from medssl.encoders import Encoder

GOAL = 1.02
Pair = tuple[Encoder, Any, Callable[[torch.Tensor], Any], tuple[int, ...]]  # ours, theirs, their maps, the crop


def timm_stages(name: str, edge: int) -> Pair:
    theirs = timm.create_model(name, in_chans=1, features_only=True)
    return encoders.Timm(2, 1, name), theirs, theirs, (edge, edge)


def timm_vit(name: str, edge: int) -> Pair:
    theirs = timm.create_model(name, in_chans=1, num_classes=0, dynamic_img_size=True)
    return _Vector(encoders.Timm(2, 1, name)), theirs, lambda x: [theirs(x)], (edge, edge)


class _Vector(nn.Module):
    """An encoder whose maps are its vector alone."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.net, self.encoder = encoder.net, encoder

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.encoder(x)]


def resenc(dims: int, edge: int) -> Pair:
    theirs = ResidualEncoder(
        1,
        4,
        [16, 32, 64, 128],
        nn.Conv2d if dims == 2 else nn.Conv3d,
        3,
        [1, 2, 2, 2],
        [1, 2, 2, 2],
        conv_bias=True,
        norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        return_skips=True,
    )
    return encoders.ResidualUNet(dims, 1, 16, (1, 2, 2, 2)), theirs, theirs, (edge,) * dims


def swin(dims: int, edge: int) -> Pair:
    theirs = nets.SwinUNETR(1, 2, feature_size=24, spatial_dims=dims).swinViT
    return encoders.SwinUNETR(dims, 1, 24), theirs, theirs, (edge,) * dims


def segresnet(dims: int, edge: int) -> Pair:
    theirs = nets.SegResNet(dims, 16, 1)
    return encoders.SegResNet(dims, 1, 16), theirs, lambda x: theirs.encode(x)[1], (edge,) * dims


def segres_encoder(dims: int, edge: int) -> Pair:
    theirs = MonaiSegResEncoder(dims, 16, 1)
    return encoders.SegResEncoder(dims, 1, 16), theirs, theirs, (edge,) * dims


def efficientnet(dims: int, edge: int) -> Pair:
    theirs = nets.EfficientNetBNFeatures("efficientnet-b0", pretrained=False, spatial_dims=dims, in_channels=1)
    return encoders.EfficientNet(dims, 1), theirs, theirs, (edge,) * dims


def densenet(dims: int, edge: int) -> Pair:
    theirs = nets.DenseNet121(dims, 1, 2)
    ours = encoders.DenseNet(dims, 1)
    return ours, theirs, lambda x: [theirs.class_layers.relu(theirs.features(x))], (edge,) * dims


def unetr(dims: int, edge: int) -> Pair:
    theirs = nets.ViT(1, (edge,) * dims, 8, 192, 768, 6, 3, spatial_dims=dims)
    ours = encoders.UNETR(dims, 1, (edge,) * dims, 8, 192, 6, 3)
    return ours, theirs, lambda x: [theirs(x)[0]], (edge,) * dims


CASES: dict[str, Callable[[], Pair]] = {
    "Timm convnext_atto": lambda: timm_stages("convnext_atto", 128),
    "Timm resnet18": lambda: timm_stages("resnet18", 128),
    "Timm tf_efficientnet_lite0": lambda: timm_stages("tf_efficientnet_lite0", 128),
    "Timm vit_tiny_patch16_224": lambda: timm_vit("vit_tiny_patch16_224", 224),
    "ResidualUNet 2D": lambda: resenc(2, 128),
    "ResidualUNet 3D": lambda: resenc(3, 32),
    "SwinUNETR 2D": lambda: swin(2, 128),
    "SwinUNETR 3D": lambda: swin(3, 32),
    "SegResNet 3D": lambda: segresnet(3, 32),
    "SegResEncoder 3D": lambda: segres_encoder(3, 32),
    "EfficientNet 2D": lambda: efficientnet(2, 128),
    "DenseNet 2D": lambda: densenet(2, 128),
    "UNETR 3D": lambda: unetr(3, 32),
}
QUICK = ("Timm convnext_atto", "ResidualUNet 3D", "SwinUNETR 2D", "SegResEncoder 3D")


def seconds(maps: Callable[[torch.Tensor], Any], x: torch.Tensor) -> float:
    """The processor's time for one forward and one backward pass."""
    started = time.process_time()
    sum(level.square().mean() for level in maps(x)).backward()
    return time.process_time() - started


def compare(case: str, rounds: int) -> tuple[float, float]:
    """The best seconds of ours and of theirs, in training mode.

    Args:
        case: A name in `CASES`.
        rounds: How often both are run, after one round that does not count.
    """
    torch.manual_seed(0)
    ours, theirs, their_maps, crop = CASES[case]()
    x = torch.randn(2, 1, *crop)
    levels = len(their_maps(x))
    mine, other = [], []
    for i in range(rounds + 1):
        for net, maps, times in ((ours, lambda x: ours.features(x)[-levels:], mine), (theirs, their_maps, other)):
            net.zero_grad(set_to_none=True)
            taken = seconds(maps, x)
            if i:
                times.append(taken)
    return min(mine), min(other)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="four cases, few rounds")
    parser.add_argument("--rounds", type=int, help="8 with --quick, else 30")
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="cases; all by default")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    ratios = {}
    for case in given.only or (QUICK if given.quick else CASES):
        mine, other = compare(case, given.rounds or (8 if given.quick else 30))
        ratios[case] = round(mine / other, 3)
        print(f"{case:28} ours {1e3 * mine:8.1f} ms   original {1e3 * other:8.1f} ms   {ratios[case]:.3f}", flush=True)
    print(json.dumps({"ratios": ratios, "goal": GOAL, "met": all(ratio <= GOAL for ratio in ratios.values())}))


if __name__ == "__main__":
    main()
