"""nnssl's residual encoders: nnFoundationCNN and OpenMind (Wald et al. 2024, arXiv 2412.17041; https://github.com/MIC-DKFZ/nnssl).

    medssl import checkpoint_final.pth --as nnssl --out runs/nnfoundation

The architecture is read from the tensors and from the plan inside the file, never from its name. nnssl and nnU-Net see volumes as
(Z, Y, X), so every kernel and the plan's spacing and patch are turned to (X, Y, Z).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.encoders.resenc import ResidualUNet
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.adapt import reversed_axes
from medssl.weights.reading import Stored
from medssl.weights.sources.base import Converted, Source, Tensors, take_out, with_in_channels, without_prefix

STEM = "stem.convs.0.conv.weight"
BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.conv1\.conv\.weight")


class Nnssl(Source):
    """A residual encoder with nnU-Net's names."""

    licence = "CC-BY-SA-4.0 (nnFoundation) or CC-BY-4.0 (OpenMind): name the authors"
    payloads = ("network_weights", "state_dict", "net")
    typical = (r"encoder\.stem\.convs\.0\.conv\.weight$", r"encoder\.stages\.0\.blocks\.0\.conv1\.conv\.weight$")

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        tensors = without_prefix(stored.tensors(self.payloads), ("module.", "_orig_mod."))
        tensors, left_out = take_out(tensors, {"decoder and heads": r"^(?!encoder\.)"})
        tensors = {name.removeprefix("encoder."): value for name, value in tensors.items()}
        built = _encoder_like(tensors, encoder)
        turned = {f"net.{name}": reversed_axes(value) for name, value in tensors.items()}
        kernels = [f"net.{name}" for name, value in tensors.items() if value.ndim > 3]
        plan = stored.content.get("nnssl_adaptation_plan") or {}
        _check_strides(plan)
        return Converted(
            built,
            turned,
            _expected(plan, built.dims),
            adapted={"axes turned from (Z, Y, X) to (X, Y, Z)": kernels},
            left_out=left_out,
            notes=[
                "each scan was scaled to mean 0 and deviation 1; the norm after the first convolution makes that of any linear scale"
            ],
        )


def _encoder_like(tensors: Tensors, encoder: Encoder | None) -> Encoder:
    """The residual encoder that the tensors belong to."""
    if STEM not in tensors:
        raise MedsslError(
            f"the file has no encoder.{STEM}, but {', '.join(list(tensors)[:5]) or 'no tensor below encoder.'}: expected a residual "
            "encoder of nnssl or nnU-Net"
        )
    stem = tensors[STEM]
    if encoder is not None:
        return with_in_channels(encoder, stem.shape[1])
    blocks: dict[int, int] = {}
    for name in tensors:
        if match := BLOCK.fullmatch(name):
            blocks[int(match[1])] = max(blocks.get(int(match[1]), 0), int(match[2]) + 1)
    stages = sorted(blocks)
    widths = [tensors[f"stages.{stage}.blocks.0.conv1.conv.weight"].shape[0] for stage in stages]
    wanted = [min(widths[0] * 2**i, max(widths)) for i in range(len(widths))]
    if widths != wanted:
        raise MedsslError(
            f"the stages of the file are {widths} channels wide: expected {wanted}, doubled up to a largest width, as ResidualUNet is"
        )
    return ResidualUNet(stem.ndim - 2, stem.shape[1], widths[0], tuple(blocks[stage] for stage in stages), max(widths))


def _check_strides(plan: Mapping[str, Any]) -> None:
    """Raise MedsslError where the plan in the file has other strides than ResidualUNet, which no tensor shows."""
    arguments = (plan.get("architecture_plans") or {}).get("arch_kwargs") or {}
    strides = arguments.get("strides")
    if strides is None:
        return
    numbers = [set(each) if isinstance(each, list | tuple) else {each} for each in strides]
    if numbers != [{1}, *[{2}] * (len(numbers) - 1)]:
        raise MedsslError(
            f"the plan in the file has the strides {strides}: expected 1 and then 2 along every axis, as ResidualUNet has them"
        )


def _expected(plan: Mapping[str, Any], dims: int) -> ExpectedScans:
    """What the plan in the file says of the scans, in our order of axes."""
    configurations = (plan.get("pretrain_plan") or {}).get("configurations") or {}
    first: dict[str, Any] = next(iter(configurations.values()), {})
    spacing = first.get("spacing") if first.get("spacing_style", "onemmiso") != "noresample" else None
    patch = plan.get("recommended_downstream_patchsize") or first.get("patch_size")
    return ExpectedScans(
        spacing_mm=tuple(float(mm) for mm in reversed(spacing)) if spacing and len(spacing) == dims else None,
        size=tuple(int(n) for n in reversed(patch)) if patch and len(patch) == dims else None,
        intensity="each scan to mean 0 and deviation 1",
        orientation="as the files have it",
    )
