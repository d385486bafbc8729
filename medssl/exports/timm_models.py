"""A model as one of timm's: its name there, its arguments, and its weights under timm's names.

found = timm_model(model)
timm.create_model(found.name, **found.args).load_state_dict(found.weights)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.core.spec import plain
from medssl.encoders.resnet import BLOCKS, ResNet
from medssl.encoders.timm_model import Timm
from medssl.encoders.tokens import positions
from medssl.encoders.vit import ViT
from medssl.exports.resnets import check_resnet, resnet_weights
from medssl.exports.trained import TrainedModel

SAME_VIT = (
    "vit_base_patch16_clip_224"  # timm's plain ViT whose layer norms have our eps of 1e-5; its sizes are arguments
)


@dataclass(frozen=True)
class TimmModel:
    """A network of timm.

    Attributes:
        name: Its name in timm.
        args: Arguments of `timm.create_model`, as JSON holds them.
        weights: Its weights.
        features: Length of its feature vector.
        note: What holds for this network alone, in words.
    """

    name: str
    args: dict[str, Any]
    weights: dict[str, Tensor]
    features: int
    note: str | None = None


def timm_model(model: TrainedModel) -> TimmModel:
    """The same network in timm.

    Raises:
        MedsslError: timm has none.
    """
    encoder = model.encoder
    common = {"in_chans": encoder.in_channels, "num_classes": 0 if model.head is None else len(model.outputs)}
    if isinstance(encoder, ViT) and encoder.dims == 2:
        return _vit(model, encoder, common)
    if isinstance(encoder, Timm):
        return _of_timm(model, encoder, common)
    if not isinstance(encoder, ResNet):
        raise MedsslError(
            f"the encoder is a {encoder.dims}D {type(encoder).__name__}: timm has our 2D ResNet, ViT and Timm; export to safetensors "
            "or onnx, which take any"
        )
    check_resnet(encoder, "timm")
    standard = encoder.depth in (18, 34, 50, 101, 152)
    args = common if standard else common | {"layers": list(BLOCKS[encoder.depth])}
    return TimmModel(f"resnet{encoder.depth if standard else 18}", args, resnet_weights(model), encoder.out_dim)


def _of_timm(model: TrainedModel, encoder: Timm, common: dict[str, Any]) -> TimmModel:
    """timm's own model: its name, options and weights as they are."""
    net = encoder.net
    any_size: dict[str, Any] = {}  # the option by which the encoder takes images of any size
    if getattr(net, "dynamic_img_size", False):
        any_size = {"dynamic_img_size": True}
    elif getattr(getattr(net, "patch_embed", None), "strict_img_size", True) is False:
        any_size = {"strict_img_size": False}
    options = plain(model.run.config["encoder"]["init_args"]["options"]) or {}
    weights = dict(net.state_dict())
    if model.head is not None:
        layer = net.pretrained_cfg["classifier"]
        weights |= {f"{layer}.{name}": weight for name, weight in model.head.state_dict().items()}
    note = "The levels for segmentation are left out." if encoder.is_plain else None
    name = encoder.name.partition(".")[0]
    return TimmModel(name, any_size | options | common, weights, encoder.out_dim, note)


def _vit(model: TrainedModel, encoder: ViT, common: dict[str, Any]) -> TimmModel:
    """A plain ViT: no class token, normalised before the mean, sines and cosines as its learned positions."""
    if encoder.positions != "sine" or encoder.registers is not None:
        raise MedsslError(
            f"this ViT has {encoder.positions} positions and {0 if encoder.registers is None else encoder.registers.shape[1]} registers: "
            "timm has ours with sine positions and none; export to safetensors or onnx, which take any"
        )
    crop, patch = model.crop, encoder.strides[-1]
    args = common | {
        "img_size": list(crop),
        "patch_size": list(patch),
        "embed_dim": encoder.width,
        "depth": encoder.depth,
        "num_heads": encoder.heads,
        "pre_norm": False,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    }
    note = f"timm's positions are those of {crop[0]} x {crop[1]} images: resize to it; the levels for segmentation are left out."
    return TimmModel(SAME_VIT, args, _vit_weights(model, encoder), encoder.width, note)


VIT_NAMES = {
    "self_attn.in_proj_": "attn.qkv.",
    "self_attn.out_proj.": "attn.proj.",
    "linear1.": "mlp.fc1.",
    "linear2.": "mlp.fc2.",
}


def _vit_weights(model: TrainedModel, encoder: ViT) -> dict[str, Tensor]:
    state, patch = encoder.state_dict(), encoder.strides[-1]
    weights = {
        "patch_embed.proj.weight": state["embed.weight"].reshape(encoder.width, encoder.in_channels, *patch),
        "patch_embed.proj.bias": state["embed.bias"],
        "pos_embed": positions(encoder.grid(model.crop), encoder.width)[None],
    }
    for name, weight in state.items():
        if name.startswith(("blocks.", "norm.")):
            for own, theirs in VIT_NAMES.items():
                name = name.replace(own, theirs)
            weights[name] = weight
    head = {} if model.head is None else {f"head.{name}": weight for name, weight in model.head.state_dict().items()}
    return weights | head
