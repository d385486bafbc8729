"""A guard against wrong gradients of 3D convolutions in bfloat16 on the CPU, over feature maps less deep than the kernel.

Observed with torch 2.15.0 on a CPU with AVX512-BF16: over maps two voxels deep the gradient of the weights of a kernel
of 3 is noise (cosine to that of float32 between 0 and 0.6), and no error is raised. Maps one voxel deep are right.
"""

from __future__ import annotations

import functools
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from medssl.core.errors import MedsslError


class GradientGuard(pl.Callback):
    """Stops a training whose 3D convolutions would get wrong gradients.

    Whether this torch computes wrong gradients is measured at the start, so a repaired torch trains.

    Raises:
        MedsslError: A convolution learns from a feature map that is less deep than its kernel.
    """

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        bfloat16_on_cpu = trainer.strategy.root_device.type == "cpu" and str(trainer.precision).startswith("bf16")
        if bfloat16_on_cpu and not bfloat16_is_sound():
            for part in module.modules():
                if isinstance(part, nn.Conv3d | nn.ConvTranspose3d) and (part.kernel_size[0], part.stride[0]) != (3, 2):
                    part.register_forward_pre_hook(_check_depth)


@functools.cache
def bfloat16_is_sound(depth: int = 2) -> bool:
    """Whether torch computes the right gradient of a 3D convolution over a map of this depth, in bfloat16 on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv, x = nn.Conv3d(16, 16, 3, padding=1, bias=False), torch.randn(4, 16, depth, 4, 4)
        gradients = []
        for enabled in (False, True):
            with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                (grad,) = torch.autograd.grad(conv(x).float().pow(2).sum(), conv.weight)
            gradients.append(grad.flatten())
    exact, rounded = gradients
    return bool(torch.cosine_similarity(exact, rounded, dim=0) > 0.99)  # false for NaN, too


def _check_depth(conv: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    learns = torch.is_grad_enabled() and conv.weight.requires_grad
    if learns and 1 < inputs[0].shape[2] < conv.kernel_size[0]:
        raise MedsslError(
            f"--precision bf16 came with a 3D feature map of {tuple(inputs[0].shape[2:])} voxels, on the CPU: this torch "
            f"({torch.__version__}) computes wrong gradients for maps less deep than the kernel; use --precision 32-true, a "
            f"deeper --crop, or a GPU"
        )
