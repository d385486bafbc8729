"""What frozen features are worth: nearest neighbours, a linear probe, and whether the representation is healthy.

    features = embed(encoder, cache, scans, size=(32, 32, 32))
    effective_rank(features), knn(features, labels, patients)

Effective rank: Garrido et al., RankMe, ICML 2023 (arXiv 2210.02885). kNN: Wu et al., CVPR 2018 (arXiv 1805.01978).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl.encoders.base import Encoder
from medssl.errors import MedsslError
from medssl.scans.cache import Cache
from medssl.views import recipes
from medssl.views.base import make_keys

EMBEDDED_VOXELS = 2**20  # in one forward pass: bounds the memory, whatever the size of a scan


def middles(cache: Cache, scans: Sequence[str], size: Sequence[int]) -> torch.Tensor:
    """(N, C, *size): the middle of each scan as a model sees it at test time (padded with air where it is smaller)."""
    stacked = []
    for scan in scans:
        start = [(n - s) // 2 for n, s in zip(cache.shape(scan), size)]
        stacked.append(torch.from_numpy(np.asarray(cache.read(scan, start, size), np.float32)))
    x = torch.stack(stacked)
    view = recipes.plain(recipes.modality_of(cache.modality, cache.dims, cache.channels))
    return view(x, view.draw(make_keys(0, (torch.arange(len(x)),))))


@torch.no_grad()
def embed(encoder: Encoder, cache: Cache, scans: Sequence[str], size: Sequence[int]) -> np.ndarray:
    """(N, out_dim) float32: one feature vector a scan, from its middle, in evaluation mode."""
    batch = max(1, min(64, EMBEDDED_VOXELS // int(np.prod(size))))
    training, own = encoder.training, next(encoder.parameters()).device
    device = torch.device("cuda") if own.type == "cpu" and torch.cuda.is_available() else own
    encoder.to(device).eval()
    parts = [encoder(middles(cache, scans[i : i + batch], size).to(device)).cpu() for i in range(0, len(scans), batch)]
    encoder.to(own).train(training)
    return torch.cat(parts).float().numpy()


def effective_rank(features: np.ndarray) -> float:
    """exp(entropy of the normalised singular values): 1 when all scans share one direction, up to min(N, out_dim)."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12)
    return float(np.exp(-(shares * np.log(shares + 1e-12)).sum()))


def knn_scores(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, neighbours: int = 20, temperature: float = 0.07,
    same: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """(N, classes) votes of the nearest training scans by cosine; `same (N, M)` marks pairs that may not vote."""
    mean = train.mean(0)
    a, b = (F.normalize(torch.from_numpy(f - mean), dim=1) for f in (test, train))
    similar = a @ b.T
    if same is not None:
        similar[torch.from_numpy(same)] = -torch.inf
    near, who = similar.topk(min(neighbours, len(train)), dim=1)
    votes = F.one_hot(torch.from_numpy(labels).long()[who], classes) * (near / temperature).exp()[..., None]
    total = votes.sum(1)
    return (total / total.sum(1, keepdim=True).clamp(min=1e-12)).numpy()


def knn(features: np.ndarray, labels: np.ndarray, patients: np.ndarray, neighbours: int = 20) -> float:
    """Balanced accuracy of nearest neighbours among other patients' scans."""
    classes = int(labels.max()) + 1
    same = patients[:, None] == patients[None]
    found = knn_scores(features, labels, features, classes, neighbours, same=same).argmax(1)
    return float(np.mean([(found[labels == c] == c).mean() for c in range(classes) if (labels == c).any()]))


def linear_scores(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """(N, classes) probabilities of a logistic regression on standardised features."""
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    scores = np.zeros((len(test), classes), np.float32)
    if len(np.unique(labels)) == 1:  # a budget without a second class: nothing to tell apart
        scores[:, int(labels[0])] = 1.0
        return scores
    scores[:, np.unique(labels)] = model.fit(train, labels).predict_proba(test)
    return scores


def near_duplicates(
    features: np.ndarray, patients: Sequence[str], threshold: float = 0.99, block: int = 1024
) -> list[tuple[int, int, float]]:
    """Pairs of scans (i < j, cosine) of different patients whose centred features agree to `threshold`, closest first.

    features: (N, D). Memory grows with block x N, never with N x N. Raises MedsslError for a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise MedsslError(f"the threshold is {threshold}: expected a cosine above 0 and at most 1, for example 0.99")
    centred = F.normalize(torch.from_numpy(features - features.mean(0)).float(), dim=1)
    who = torch.from_numpy(np.unique(np.asarray(patients), return_inverse=True)[1])
    pairs = []
    for start in range(0, len(centred), block):
        cosines = centred[start : start + block] @ centred[start:].T
        cosines[who[start : start + block, None] == who[None, start:]] = -1
        for i, j in (cosines.triu(1) >= threshold).nonzero().tolist():
            pairs.append((start + i, start + j, float(cosines[i, j])))
    return sorted(pairs, key=lambda pair: -pair[2])
