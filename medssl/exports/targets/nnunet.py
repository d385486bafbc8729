"""The file that nnU-Net fine-tunes from: our ResidualUNet is its encoder, and our decoder on it is its decoder.

medssl export RUN --to nnunet --out FOLDER

nnU-Net sees volumes as (Z, Y, X), we as (X, Y, Z): every kernel is permuted, spacing and patch are reversed. An encoder alone is
read by nnU-Net's main branch (the commands in the card); a fine-tuned segmenter also by `-pretrained_weights` of nnU-Net 2.8, for a
plan with the architecture of `plans.json`.
"""

from __future__ import annotations

import pydoc
from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.resenc import ResidualUNet
from medssl.exports.targets.base import Target, write_json
from medssl.exports.trained import TrainedModel, input_description
from medssl.training.models import Segmenter

FILE = "checkpoint_final.pth"
REVERSED = (0, 1, 4, 3, 2)  # a kernel (out, in, X, Y, Z) as (out, in, Z, Y, X)
STEM = ["encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"]  # one weight under its two names
IMPORTED = ["conv_op", "norm_op", "dropout_op", "nonlin"]


class NnUNet(Target):
    """`checkpoint_final.pth` of plain Python types and tensors, and `plans.json`, the architecture for a plan of nnU-Net."""

    title = "nnU-Net"

    def check(self, model: TrainedModel) -> None:
        encoder = model.encoder
        if not isinstance(encoder, ResidualUNet) or encoder.dims != 3:
            raise MedsslError(
                f"the encoder is a {encoder.dims}D {type(encoder).__name__}: nnU-Net's file is for our 3D ResidualUNet, which is its "
                "residual encoder; pretrain with --encoder ResidualUNet, or export to safetensors or onnx, which take any"
            )

    def left_out(self, model: TrainedModel) -> str | None:
        if model.kind == "classifier":
            return "The last layer is left out: nnU-Net segments."
        whole = "Read by nnU-Net's -pretrained_weights too, but for its last layer, which nnU-Net always leaves out."
        return whole if model.kind == "segmenter" else None

    def write(self, model: TrainedModel, folder: Path) -> None:
        architecture = _architecture(model)
        network = unet(architecture, model.encoder.in_channels, max(2, len(model.outputs)))
        network.encoder.load_state_dict(_inner(model).net.state_dict())
        weights = network.state_dict()
        if isinstance(model.module, Segmenter):
            _load_decoder(network, model.module)
            weights = network.state_dict()
        else:
            weights = {name: weight for name, weight in weights.items() if name.startswith("encoder.")}
        plan = _adaptation_plan(model, architecture)
        stored = {"network_weights": turned(weights), "nnssl_adaptation_plan": plan, "citations": []}
        torch.save(stored, folder / FILE)
        write_json(
            folder / "plans.json",
            {"architecture": architecture, "patch_size": plan["recommended_downstream_patchsize"]},
        )
        write_json(folder / "config.json", {"input": input_description(model), "run": model.run.id})

    def usage(self, model: TrainedModel) -> str:
        classes = max(2, len(model.outputs))
        last = (
            "model.load_state_dict(weights)"
            if model.kind == "segmenter"
            else "model.load_state_dict(weights, strict=False)"
        )
        return f"""
import torch

from medssl.exports.targets.nnunet import unet  # as nnunetv2's get_network_from_plans

stored = torch.load("{FILE}", weights_only=True)
weights, plan = stored["network_weights"], stored["nnssl_adaptation_plan"]
model = unet(plan["architecture_plans"], {model.encoder.in_channels}, {classes})
{last}
model.eval()  # takes (B, C, Z, Y, X)

# nnU-Net's main branch (after 2.8.1), from a terminal; ID is a dataset of your own, planned by nnUNetv2_plan_experiment:
# nnUNetv2_preprocess_like_nnssl -d ID -n medssl -pc {FILE} -am like_pretrained
# nnUNetv2_train_pretrained ID 3d_fullres 0 -p ptPlans__medssl____... -tr PretrainedTrainer
"""


def _inner(model: TrainedModel) -> ResidualUNet:
    assert isinstance(model.encoder, ResidualUNet)
    return model.encoder


def _architecture(model: TrainedModel) -> dict[str, Any]:
    """nnU-Net's description of our network."""
    encoder = _inner(model)
    stages = len(encoder.channels)
    kwargs = {
        "n_stages": stages,
        "features_per_stage": list(encoder.channels),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_blocks_per_stage": list(encoder.blocks),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    name = f"{ResidualEncoderUNet.__module__}.{ResidualEncoderUNet.__qualname__}"
    return {"arch_class_name": name, "arch_kwargs": kwargs, "arch_kwargs_requiring_import": IMPORTED}


def unet(architecture: dict[str, Any], channels: int, classes: int) -> ResidualEncoderUNet:
    """The network that nnU-Net builds from `architecture_plans`.

    Args:
        architecture: Its description.
        channels: Channels of a scan.
        classes: Channels of the logits.
    """
    kwargs = dict(architecture["arch_kwargs"])
    for name in architecture["arch_kwargs_requiring_import"]:
        kwargs[name] = kwargs[name] and pydoc.locate(kwargs[name])
    return ResidualEncoderUNet(input_channels=channels, num_classes=classes, deep_supervision=False, **kwargs)


def _load_decoder(network: ResidualEncoderUNet, model: Segmenter) -> None:
    """Our decoder's weights into nnU-Net's: both go from coarse to fine by a transposed convolution and one block."""
    ours, theirs = model.decoder, network.decoder
    for up, transposed in zip(reversed(ours.ups), theirs.transpconvs):
        transposed.load_state_dict(up.state_dict())
    for join, stage in zip(reversed(ours.joins), theirs.stages):
        block = stage.convs[0]
        assert isinstance(join, nn.Sequential)
        block.conv.load_state_dict(join[0].state_dict())
        block.norm.load_state_dict(join[1].state_dict())
    for coarser in theirs.seg_layers[:-1]:  # of deep supervision, which we do not have; nnU-Net never reads them
        nn.init.zeros_(coarser.weight)
        nn.init.zeros_(coarser.bias)
    theirs.seg_layers[-1].load_state_dict(ours.head.state_dict())


def turned(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose kernels see (Z, Y, X) in place of (X, Y, Z).

    Args:
        weights: Tensors by name.
    """
    return {
        name: weight.permute(REVERSED).contiguous() if weight.ndim == 5 else weight.clone()
        for name, weight in weights.items()
    }


def _adaptation_plan(model: TrainedModel, architecture: dict[str, Any]) -> dict[str, Any]:
    """What nnU-Net's main branch reads beside the weights; the names of its fields are nnssl's."""
    spacing, patch = [float(mm) for mm in model.data_spec.spacing_mm[::-1]], list(model.crop[::-1])
    configuration = {
        "data_identifier": "medssl",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": "fixed",
        "spacing": spacing,
        "patch_size": patch,
        "normalization_schemes": ["ZScoreNormalization"] * model.encoder.in_channels,
        "use_mask_for_norm": [False] * model.encoder.in_channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_mask": "resample_data_or_seg_to_shape",
        "resampling_fn_mask_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    pretrain_plan = {
        "dataset_name": "medssl",
        "plans_name": "medssl",
        "original_median_spacing_after_transp": spacing,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "medssl",
        "configurations": {"medssl": configuration},
    }
    return {
        "architecture_plans": architecture,
        "pretrain_plan": pretrain_plan,
        "pretrain_num_input_channels": model.encoder.in_channels,
        "recommended_downstream_patchsize": patch,
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        "keys_to_in_proj": STEM,
        "key_to_lpe": None,
    }
