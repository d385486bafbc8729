"""Activation checkpointing: each block keeps its input alone, and is computed again when its gradient is wanted.

    with recomputed(method):                                   # medssl pretrain --checkpoint-activations true
        trainer.fit(method)

Chen, Xu, Zhang, Guestrin, "Training deep nets with sublinear memory cost", 2016, arXiv 1604.06174. The weights of a training are the
same to the last bit: dropout draws the same numbers again, and batch norms move their running statistics once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from medssl.core.errors import MedsslError


@contextmanager
def recomputed(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Have the blocks of a module computed again in the backward pass.

    Args:
        module: A network, or several in one; as it was afterwards.
        wanted: Whether to change anything.

    Raises:
        MedsslError: No part of the module is a block that could be computed again.

    >>> net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)) for _ in range(3)))
    >>> with recomputed(net):
    ...     net(torch.ones(2, 4)).sum().backward()
    """
    changed = blocks(module) if wanted else []
    if wanted and not changed:
        raise MedsslError(
            "--checkpoint-activations came with a network without blocks to compute again: expected layers in a Sequential or a "
            "ModuleList; leave the option out, or take a smaller --batch-size with --accumulate"
        )
    for block in changed:
        block.forward = partial(_computed_again, block, block.forward)
    try:
        yield
    finally:
        for block in changed:
            del block.__dict__["forward"]


def blocks(module: nn.Module) -> list[nn.Module]:
    """The smallest members of a `Sequential` or `ModuleList` that have two layers with weights or more, the first ones first.

    Args:
        module: A network, or several in one.

    >>> block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    >>> stage = nn.Sequential(block, nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)))
    >>> [place for place, member in enumerate(stage) if any(member is one for one in blocks(stage))]
    [0, 1]
    """
    members = dict.fromkeys(
        member
        for part in module.modules()
        if isinstance(part, nn.Sequential | nn.ModuleList)
        for member in part.children()
    )
    large = {member for member in members if not isinstance(member, nn.ModuleList) and _layers(member) > 1}
    return [member for member in members if member in large and not any(p in large for p in _inside(member))]


def _layers(module: nn.Module) -> int:
    return sum(1 for part in module.modules() if any(True for _ in part.parameters(recurse=False)))


def _inside(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if part is not module)


def _computed_again(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, block), **kwargs)


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _running_statistics_kept(block)


@contextmanager
def _running_statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms in training use the statistics of the batch as ever, but leave the running ones alone."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = norm.num_batches_tracked.clone() if norm.num_batches_tracked is not None else None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, batches
