"""Shared by contrastive methods: the similarity of two projections, and InfoNCE and NT-Xent with any such similarity.

    loss = info_nce(queries, keys, temperature=0.2)        # (B, D), (B, D): row i of the keys is query i's positive

`dot` and `euclidean` are divided by D, so that one temperature means the same for all three where projections have about
unit variance: on vectors of length sqrt(D) they equal the cosine, `euclidean` up to a constant. The keys of all devices
are compared.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.methods.shared.devices import device_count, gather_all, own_rows

Similarity = Literal["cosine", "dot", "euclidean"]


def similarities(a: Tensor, b: Tensor, similarity: Similarity = "cosine") -> Tensor:
    """The similarity of every row of a with every row of b, (..., N, M).

    Args:
        a: (..., N, D).
        b: (..., M, D).
        similarity: "cosine"; "dot", a.b / D; or "euclidean", -|a - b|^2 / 2D (a Gaussian's exponent).

    >>> similarities(torch.eye(2), torch.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if similarity == "cosine":
        return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT
    dots = a @ b.mT
    if similarity == "euclidean":
        dots = dots - (a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :]) / 2
    return dots / a.shape[-1]


def info_nce(
    queries: Tensor, keys: Tensor, temperature: float, similarity: Similarity = "cosine", groups: Tensor | None = None
) -> Tensor:
    """InfoNCE: the cross-entropy of each query's own key among the keys of the batch.

    Van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018 (arXiv 1807.03748).

    Args:
        queries: (B, D).
        keys: (B, D); row i is the positive of query i.
        temperature: What similarities are divided by.
        similarity: Its name, see `similarities`.
        groups: (B,) whole numbers, such as the scans'; a key of the query's own group is not a negative.
    """
    logits, answers = similarities(queries, gather_all(keys), similarity) / temperature, own_rows(queries)
    if groups is not None:
        excluded = groups[:, None] == gather_all(groups)[None]
        excluded[torch.arange(len(queries)), answers] = False
        logits = logits.masked_fill(excluded, -torch.inf)
    return F.cross_entropy(logits, answers)


def info_nce_of_queue(
    queries: Tensor, keys: Tensor, queue: Tensor, temperature: float, similarity: Similarity, excluded: Tensor
) -> Tensor:
    """InfoNCE against a queue of the keys of earlier batches (He et al., CVPR 2020, arXiv 1911.05722).

    Args:
        queries: (B, D).
        keys: (B, D); row i is the positive of query i.
        queue: (Q, D), the negatives.
        temperature: What similarities are divided by.
        similarity: Its name, see `similarities`.
        excluded: (B, Q), true where an entry of the queue is not a negative of the query.
    """
    positive = similarities(queries[:, None], keys[:, None], similarity)[:, 0]  # (B, 1)
    negative = similarities(queries, queue, similarity).masked_fill(excluded, -torch.inf)
    answers = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    return F.cross_entropy(torch.cat([positive, negative], dim=1) / temperature, answers)


def nt_xent(a: Tensor, b: Tensor, groups: Tensor, temperature: float, similarity: Similarity = "cosine") -> Tensor:
    """NT-Xent where members of a group are not negatives (Chen et al., ICML 2020, arXiv 2002.05709, equation 1).

    Args:
        a: (B, D).
        b: (B, D); row i is the positive of row i of a.
        groups: (B,) whole numbers. Where all differ, with the cosine, this is lightly's `NTXentLoss`.
        temperature: What similarities are divided by.
        similarity: Its name, see `similarities`.
    """
    queries, count = torch.cat([a, b]), len(a) * device_count()
    logits = similarities(queries, torch.cat([gather_all(a), gather_all(b)]), similarity) / temperature
    answers = torch.cat([own_rows(a) + count, own_rows(a)])
    excluded = (groups[:, None] == gather_all(groups)[None]).repeat(2, 2)
    excluded[torch.arange(2 * len(a)), answers] = False
    return F.cross_entropy(logits.masked_fill(excluded, -torch.inf), answers)


def check_temperature(temperature: float) -> None:
    """Raise MedsslError unless the temperature is above 0."""
    if not temperature > 0:
        raise MedsslError(f"temperature is {temperature}: expected a number above 0, for example 0.2")
