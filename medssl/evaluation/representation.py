"""What frozen features are worth: nearest neighbours, a linear probe, and whether the representation is healthy.

    features = embed(encoder, cache, scans, size=(32, 32, 32))
    effective_rank(features), knn(features, labels, patients)

Effective rank: Garrido et al., RankMe, ICML 2023 (arXiv 2210.02885). kNN: Wu et al., CVPR 2018 (arXiv 1805.01978).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.evaluation.metrics import auroc
from medssl.preprocessing.cache import Cache
from medssl.views.base import View
from medssl.views.center_crops import center_crops

EMBEDDED_VOXELS = 2**20  # in one forward pass: bounds the memory, whatever the size of a scan


@torch.no_grad()
def embed(
    encoder: Encoder, cache: Cache, scans: Sequence[str], size: Sequence[int], view: View | None = None,
    dense: bool = False,
) -> np.ndarray:  # fmt: skip
    """(N, out_dim) float32: one feature vector a scan, from its middle, in evaluation mode.

    view: of the middle, in place of what a model sees at test time. dense: the coarsest level of the pyramid instead,
    (N, channels[-1], *size // strides[-1]).
    """
    batch = max(1, min(64, EMBEDDED_VOXELS // int(np.prod(size))))
    training, own = encoder.training, next(encoder.parameters()).device
    device = torch.device("cuda") if own.type == "cpu" and torch.cuda.is_available() else own
    encoder.to(device).eval()
    parts = []
    for i in range(0, len(scans), batch):
        x = center_crops(cache, scans[i : i + batch], size, view).to(device)
        parts.append((encoder.features(x)[-1] if dense else encoder(x)).cpu())
    encoder.to(own).train(training)
    return torch.cat(parts).float().numpy()


def label_codes(cache: Cache, label: str) -> tuple[dict[str, int], list[str]]:
    """scan -> class number for the scans that have the label, and the names of the classes in order."""
    values = label_values(cache, label).astype(str)
    names = sorted(values.unique())
    return {scan: names.index(value) for scan, value in values.items()}, names


def label_values(cache: Cache, label: str) -> pd.Series:
    """The label of the scans that have it, by scan. Raises MedsslError for a label that is not in the cache."""
    column = f"label.{label}"
    if column not in cache.manifest:
        known = ", ".join(c.removeprefix("label.") for c in cache.manifest if c.startswith("label.")) or "none"
        raise MedsslError(
            f"there is no label {label!r} in this cache: expected one of {known}; join it with `medssl index --labels`"
        )
    return cache.manifest.set_index("scan")[column].dropna()


def effective_rank(features: np.ndarray) -> float:
    """exp(entropy of the normalised singular values): 1 when all scans share one direction, up to min(N, out_dim)."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12)
    return float(np.exp(-(shares * np.log(shares + 1e-12)).sum()))


def feature_std(features: np.ndarray) -> float:
    """Standard deviation over scans of the normalised features (N, D), averaged; 0 when all scans look alike."""
    return float(_unit(features).std(0).mean())


def alignment(features: np.ndarray, others: np.ndarray) -> float:
    """Mean squared distance of normalised features (N, D) of two views of the same scans; 0 when views do not matter."""
    return float(((_unit(features) - _unit(others)) ** 2).sum(1).mean())


def uniformity(features: np.ndarray) -> float:
    """log of the mean of exp(-2 d^2) over pairs of normalised features (N, D): 0 when all are the same, down to -4."""
    return float(np.log(np.exp(-2 * pdist(_unit(features), "sqeuclidean")).mean()))


def dense_rank(features: np.ndarray, most: int = 4096) -> float:
    """Effective rank of the features (N, D, *places) within scans: each scan's mean taken off; 1 when places look alike."""
    flat = features.reshape(*features.shape[:2], -1)
    rows = (flat - flat.mean(2, keepdims=True)).transpose(0, 2, 1).reshape(-1, flat.shape[1])
    return effective_rank(rows[:: -(-len(rows) // most)])


def structures(cache: Cache, scans: Sequence[str], size: Sequence[int], places: Sequence[int]) -> np.ndarray:
    """(N, *places) bool: whether most of a place in the middle crop of each scan is a structure of its mask."""
    found = []
    for scan in scans:
        start = [(n - s) // 2 for n, s in zip(cache.shape(scan), size)]
        mask = torch.from_numpy(cache.read_mask(scan, start, size) > 0).float()[None]
        pool: Any = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
        found.append(pool(mask, tuple(places))[0].numpy() > 0.5)
    return np.stack(found)


def dense_auroc(features: np.ndarray, truth: np.ndarray, patients: np.ndarray, most: int = 4096) -> float | None:
    """AUROC of a linear read-out of `truth` (N, *places) from features (N, D, *places), learned on every second patient,
    scored on the others; None where either half has but one kind of place."""
    rows = features.reshape(*features.shape[:2], -1).transpose(0, 2, 1)
    half = np.isin(patients, np.unique(patients)[::2])
    parts = [(rows[m].reshape(-1, rows.shape[2]), truth[m].reshape(-1).astype(int)) for m in (half, ~half)]
    parts = [(x[:: -(-len(x) // most)], y[:: -(-len(y) // most)]) for x, y in parts if len(x)]
    if len(parts) < 2 or any(len(np.unique(y)) < 2 for _, y in parts):
        return None
    (x, y), (test, wanted) = parts
    return auroc(wanted, linear_scores(x, y, test, 2)[:, 1])


def _unit(features: np.ndarray) -> np.ndarray:
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-12)


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


def kmeans(train: np.ndarray, test: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """(N,) cluster numbers of `test`, by k-means on the standardised features of `train`; no label is looked at."""
    model: Any = make_pipeline(StandardScaler(), KMeans(min(clusters, len(train)), n_init=10, random_state=seed))
    return model.fit(train).predict(test)


def agreement(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Of labels and clusters: normalised mutual information, 0..1, and the adjusted Rand index, 0 by chance, 1 the same."""
    nmi, ari = normalized_mutual_info_score(labels, clusters), adjusted_rand_score(labels, clusters)
    return {"nmi": float(nmi), "ari": float(ari)}


def distance_to_normal(normal: np.ndarray, test: np.ndarray, neighbours: int = 5) -> np.ndarray:
    """(N,): how far, on average, the nearest normal scans lie from each of `test`, in standardised features."""
    if not len(normal):
        raise MedsslError("no normal training scan: expected one or more to measure the distance to")
    scale = StandardScaler().fit(normal)
    near = NearestNeighbors(n_neighbors=min(neighbours, len(normal))).fit(scale.transform(normal))
    return near.kneighbors(scale.transform(test))[0].mean(1)


def ridge(train: np.ndarray, values: np.ndarray, patients: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(N,) values predicted by a ridge regression on standardised features; its strength is chosen over folds of patients."""
    folds = list(GroupKFold(min(5, len(np.unique(patients)))).split(train, groups=patients))
    model: Any = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 15), cv=folds))
    return model.fit(train, values).predict(test)


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
