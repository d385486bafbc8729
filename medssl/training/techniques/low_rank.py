"""Low-rank adapters (Hu et al., LoRA, 2021, arXiv 2106.09685): a pretrained weight W becomes W + B A, of which only A and B
learn. For a convolution, W is taken as a matrix of output channels by everything else.

    add_adapters(encoder, rank=4)              # W is frozen; norms and biases learn as before
    ...                                        # train
    merge_adapters(encoder)                    # the same function, with ordinary weights
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medssl.core.errors import MedsslError

ADAPTED = (nn.Linear, nn.Conv2d, nn.Conv3d)
ADAPTER = ".parametrizations."


class LowRank(nn.Module):
    """W -> W + B A, with B at 0 to begin with.

    Args:
        weight: The weight, at least 2-dimensional.
        rank: Columns of B and rows of A; no more than the weight's own rank can be.
    """

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        self.a = nn.ParameterDict({"weight": nn.Parameter(torch.randn(rank, columns) / columns**0.5)})
        self.b = nn.ParameterDict({"weight": nn.Parameter(torch.zeros(rows, rank))})

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.b["weight"] @ self.a["weight"]).view_as(weight)


def add_adapters(module: nn.Module, rank: int) -> None:
    """Freeze the weights of all linear layers, convolutions and attention projections, and add adapters to them.

    Args:
        module: Changed in place. Norms, biases and transposed convolutions learn as before.
        rank: Rank of each change.

    Raises:
        MedsslError: There is no such layer.
    """
    layers = _adaptable(module)
    if not layers:
        raise MedsslError(
            "adapter_rank is set, but the encoder has no linear layer and no convolution: expected adapter_rank 0"
        )
    for layer, name in layers:
        weight = getattr(layer, name)
        weight.requires_grad_(False)
        parametrize.register_parametrization(layer, name, LowRank(weight, rank))


def merged_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of the module as it will be after `merge_adapters`; the module keeps its adapters."""
    state = {name: values.detach().clone() for name, values in module.state_dict().items() if ADAPTER not in name}
    for path, layer in module.named_modules(remove_duplicate=False):  # a layer may stand in a module under two names
        for name in _adapted_names(layer):
            if parametrize.is_parametrized(layer, name):
                state[f"{path}.{name}"] = getattr(layer, name).detach().clone()
    return state


def merge_adapters(module: nn.Module) -> None:
    """Replace each adapted weight by W + B A."""
    for layer, name in _adaptable(module):
        if parametrize.is_parametrized(layer, name):
            parametrize.remove_parametrizations(layer, name, leave_parametrized=True)
            getattr(layer, name).requires_grad_(True)


def _adaptable(module: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(layer, name) for layer in list(module.modules()) for name in _adapted_names(layer)]


def _adapted_names(layer: nn.Module) -> tuple[str, ...]:
    """The names of a layer's own weights that get adapters."""
    if isinstance(layer, nn.MultiheadAttention):
        return ("in_proj_weight",)
    return ("weight",) if isinstance(layer, ADAPTED) else ()
