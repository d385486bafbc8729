"""What frozen features are worth: probes by nearest neighbours and linear models, and measures of a collapse.

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
from scipy.spatial.distance import cdist, pdist
from scipy.special import softmax
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

CALIBRATION_SCANS = 512  # whose statistics a random encoder's norms get
EMBEDDED_VOXELS = 2**20  # in one forward pass: bounds the memory, whatever the size of a scan


@torch.no_grad()
def embed(
    encoder: Encoder,
    cache: Cache,
    scans: Sequence[str],
    size: Sequence[int],
    view: View | None = None,
    dense: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """Return one feature vector for each scan, from its middle, in evaluation mode: (N, out_dim) float32.

    Args:
        encoder: Runs on a GPU if there is one, and is then moved back.
        cache: Where the scans are.
        scans: Scans to embed.
        size: Voxels of the middle crop along each axis.
        view: View of the crop; by default the one that models see at test time.
        dense: Return the coarsest level of the pyramid instead: (N, channels[-1], *size // strides[-1]).
        seed: Seed of the view.
    """
    batch = max(1, min(64, EMBEDDED_VOXELS // int(np.prod(size))))
    weight = next(encoder.parameters())
    training, own = encoder.training, weight.device
    device = torch.device("cuda") if own.type == "cpu" and torch.cuda.is_available() else own
    encoder.to(device).eval()
    parts = []
    for i in range(0, len(scans), batch):
        x = center_crops(cache, scans[i : i + batch], size, view, seed).to(device, weight.dtype)
        parts.append((encoder.features(x)[-1] if dense else encoder(x)).cpu())
    encoder.to(own).train(training)
    return torch.cat(parts).float().numpy()


@torch.no_grad()
def calibrate_norms(encoder: Encoder, cache: Cache, scans: Sequence[str], size: Sequence[int]) -> None:
    """Set the running statistics of an encoder's batch norms, in place, to those of scans, 512 at most.

    A random encoder has a mean of 0 and a variance of 1 there, which makes its features worse than its weights are.

    Args:
        encoder: Left in the mode it was in.
        cache: Where the scans are.
        scans: Scans to take the statistics from, none of them of the test.
        size: Voxels of the middle crop along each axis.
    """
    norms = [part for part in encoder.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    training, momenta = encoder.training, [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
    encoder.train()
    batch = max(2, min(64, EMBEDDED_VOXELS // int(np.prod(size))))
    chosen = evenly(scans, CALIBRATION_SCANS)
    for i in range(0, len(chosen), batch):
        if i == 0 or len(chosen) - i > 1:  # a batch of one scan has no variance between scans
            encoder(center_crops(cache, chosen[i : i + batch], size).to(next(encoder.parameters()).device))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    encoder.train(training)


def evenly(items: Sequence[str], maximum: int) -> list[str]:
    """Items spread evenly over a sequence.

    Args:
        items: The sequence.
        maximum: How many to take at most.

    >>> evenly(["a", "b", "c", "d", "e"], 3)
    ['a', 'c', 'e']
    """
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(len(items), maximum)).round().astype(int))]


def effective_rank(features: np.ndarray) -> float:
    """exp(entropy of the normalised singular values): 1 when all scans share one direction, up to min(N, out_dim)."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / max(values.sum(), 1e-12)
    return float(np.exp(-(shares * np.log(shares + 1e-12)).sum()))


def feature_std(features: np.ndarray) -> float:
    """Standard deviation over scans of the normalised features (N, D), averaged; 0 when all scans have the same."""
    return float(_unit(features).std(0).mean())


def alignment(features: np.ndarray, others: np.ndarray) -> float:
    """Mean squared distance of normalised features (N, D) of two views of the same scans; 0 when views do not matter.

    Args:
        features: (N, D) of one view of each scan.
        others: (N, D) of another view of the same scans, in the same order.
    """
    return float(((_unit(features) - _unit(others)) ** 2).sum(1).mean())


def view_retrieval(features: np.ndarray, others: np.ndarray) -> float:
    """How well a scan is found by another view of it: the mean of 1 / rank by cosine among all scans, 1 at best.

    The question of instance discrimination (Wu et al., CVPR 2018, arXiv 1805.01978), asked of the encoder's own features.

    Args:
        features: (N, D) of one view of each scan.
        others: (N, D) of another view of the same scans, in the same order.
    """
    a, b = (_unit(each - each.mean(0)) for each in (features, others))
    similarity = a @ b.T
    ranks = (similarity >= np.diag(similarity)[:, None]).sum(1)
    return float((1 / ranks).mean())


def uniformity(features: np.ndarray) -> float:
    """log of the mean of exp(-2 d^2) over pairs of normalised features (N, D): 0 when all are the same, down to -4."""
    return float(np.log(np.exp(-2 * pdist(_unit(features), "sqeuclidean")).mean()))


def dense_rank(features: np.ndarray, max_places: int = 4096) -> float:
    """Effective rank of dense features (N, D, *places) within scans, each scan's mean subtracted; 1 when places are alike.

    Args:
        features: (N, D, *places).
        max_places: Places used of all scans together, distributed evenly.
    """
    flat = features.reshape(*features.shape[:2], -1)
    vectors = (flat - flat.mean(2, keepdims=True)).transpose(0, 2, 1).reshape(-1, flat.shape[1])
    return effective_rank(_thin_out(vectors, max_places))


def structures(cache: Cache, scans: Sequence[str], size: Sequence[int], places: Sequence[int]) -> np.ndarray:
    """Whether more than half of each place in the middle crop of a scan is a structure of its mask: (N, *places) bool.

    Args:
        cache: Where the scans and masks are.
        scans: Scans with a mask.
        size: Voxels of the middle crop along each axis.
        places: Places along each axis, as dense features have them.
    """
    masks = []
    for scan in scans:
        start = [(n - s) // 2 for n, s in zip(cache.shape(scan), size)]
        mask = torch.from_numpy(cache.read_mask(scan, start, size) > 0).float()[None]
        pool: Any = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
        masks.append(pool(mask, tuple(places))[0].numpy() > 0.5)
    return np.stack(masks)


def dense_auroc(features: np.ndarray, truth: np.ndarray, patients: np.ndarray, max_places: int = 4096) -> float | None:
    """AUROC of a logistic regression that tells the places of structures from the others.

    Args:
        features: Dense features (N, D, *places).
        truth: Whether a place is a structure, (N, *places).
        patients: Patient of each scan (N,): every second one is learned from, the others are scored.
        max_places: Places used of each half.

    Returns:
        The score, or None if the places of either half are all alike.
    """
    vectors = features.reshape(*features.shape[:2], -1).transpose(0, 2, 1)  # (N, places, D)
    learned_from = np.isin(patients, np.unique(patients)[::2])
    halves = []
    for scans in (learned_from, ~learned_from):
        x = _thin_out(vectors[scans].reshape(-1, vectors.shape[2]), max_places)
        y = _thin_out(truth[scans].reshape(-1).astype(int), max_places)
        if len(np.unique(y)) < 2:
            return None
        halves.append((x, y))
    (train, labels), (test, test_labels) = halves
    return auroc(test_labels, linear_scores(train, labels, test, 2)[:, 1])


def _thin_out(items: np.ndarray, maximum: int) -> np.ndarray:
    """Evenly distributed items, `maximum` at most."""
    return items[:: max(1, -(-len(items) // maximum))]


def _unit(features: np.ndarray) -> np.ndarray:
    return features / (np.linalg.norm(features, axis=1, keepdims=True) + 1e-12)


def knn_scores(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
    excluded: np.ndarray | None = None,
) -> np.ndarray:
    """Return the votes (N, classes) of the nearest training scans, weighted by cosine similarity; they sum to 1.

    Args:
        train: Features (M, D).
        labels: Class number of each training scan (M,).
        test: Features (N, D).
        classes: Number of classes.
        neighbours: Training scans that vote on each test scan.
        temperature: Of the weights exp(cosine / temperature).
        excluded: Pairs (N, M) of a test and a training scan that do not vote.
    """
    mean = train.mean(0)
    a, b = (F.normalize(torch.from_numpy(f - mean), dim=1) for f in (test, train))
    similarity = a @ b.T  # (N, M)
    if excluded is not None:
        similarity[torch.from_numpy(excluded)] = -torch.inf
    cosines, voters = similarity.topk(min(neighbours, len(train)), dim=1)
    votes = F.one_hot(torch.from_numpy(labels).long()[voters], classes) * (cosines / temperature).exp()[..., None]
    total = votes.sum(1)
    return (total / total.sum(1, keepdim=True).clamp(min=1e-12)).numpy()


def knn(features: np.ndarray, labels: np.ndarray, patients: np.ndarray, neighbours: int = 20) -> float:
    """Balanced accuracy of nearest neighbours (see `knn_scores`) among the scans of other patients.

    Args:
        features: (N, D).
        labels: Class number of each scan (N,).
        patients: Patient of each scan (N,).
        neighbours: Scans that vote on each scan.
    """
    classes = int(labels.max()) + 1
    same_patient = patients[:, None] == patients[None]
    scores = knn_scores(features, labels, features, classes, neighbours, excluded=same_patient)
    predicted = scores.argmax(1)
    return float(np.mean([(predicted[labels == c] == c).mean() for c in range(classes) if (labels == c).any()]))


def linear_scores(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> np.ndarray:
    """Return the class probabilities (N, classes) of a logistic regression on standardised features.

    Args:
        train: Features (M, D).
        labels: Class number of each training scan (M,).
        test: Features (N, D).
        classes: Number of classes.
    """
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    scores = np.zeros((len(test), classes), np.float32)
    if len(np.unique(labels)) == 1:  # a budget that holds only one class
        scores[:, int(labels[0])] = 1.0
        return scores
    scores[:, np.unique(labels)] = model.fit(train, labels).predict_proba(test)
    return scores


def class_mean_scores(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, unlabelled: np.ndarray
) -> np.ndarray:
    """Return class probabilities (N, classes) by the distance to each class's mean (Snell et al. 2017, arXiv 1703.05175).

    The squared distance is averaged over the features, where the paper adds them up, so that the probabilities do not become
    0 and 1 with the length of the vector.

    Args:
        train: Features (M, D) of labelled scans.
        labels: Class number of each (M,).
        test: Features (N, D).
        classes: Number of classes; one that no scan shows gets 0.
        unlabelled: Features (L, D) of training scans, by which the features are standardised.
    """
    scale = StandardScaler().fit(unlabelled)
    a, b = scale.transform(train), scale.transform(test)
    present = np.unique(labels)
    means = np.stack([a[labels == number].mean(0) for number in present])
    distances = ((b[:, None] - means[None]) ** 2).mean(2)
    scores = np.zeros((len(test), classes), np.float32)
    scores[:, present] = softmax(-distances, axis=1)
    return scores


def cluster_scores(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    classes: int,
    unlabelled: np.ndarray,
    per_class: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Return class probabilities (N, classes) by k-means clusters that the labelled scans name.

    The clusters are formed without labels, from training scans; a test scan gets the shares of the classes among the
    labelled scans of its cluster and, where that has none, of the nearest cluster that has.

    Args:
        train: Features (M, D) of labelled scans.
        labels: Class number of each (M,).
        test: Features (N, D).
        classes: Number of classes.
        unlabelled: Features (L, D) of training scans.
        per_class: Clusters for each class.
        seed: Seed of the clusters.
    """
    scale = StandardScaler().fit(unlabelled)
    count = min(per_class * classes, len(unlabelled))
    clusters = KMeans(count, n_init=10, random_state=seed).fit(scale.transform(unlabelled))
    own, theirs = clusters.predict(scale.transform(train)), clusters.predict(scale.transform(test))
    counts = np.zeros((len(clusters.cluster_centers_), classes))
    np.add.at(counts, (own, labels), 1)
    centers, known = clusters.cluster_centers_, np.flatnonzero(counts.sum(1))
    nearest = known[cdist(centers, centers[known]).argmin(1)]
    shares = counts[nearest] / counts[nearest].sum(1, keepdims=True)
    return shares[theirs].astype(np.float32)


def kmeans(train: np.ndarray, test: np.ndarray, clusters: int, seed: int = 0) -> np.ndarray:
    """Return the cluster number of each test scan (N,), by k-means on standardised features.

    Args:
        train: Features (M, D) that the clusters are fitted to.
        test: Features (N, D).
        clusters: Number of clusters, M at most.
        seed: Seed of the first centres.
    """
    model: Any = make_pipeline(StandardScaler(), KMeans(min(clusters, len(train)), n_init=10, random_state=seed))
    return model.fit(train).predict(test)


def agreement(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """How well clusters agree with labels: normalised mutual information (0 to 1) and adjusted Rand index.

    The adjusted Rand index is 0 for a chance agreement and 1 for the same partition.

    Args:
        labels: Class number of each scan (N,).
        clusters: Cluster number of each scan (N,).
    """
    nmi, ari = normalized_mutual_info_score(labels, clusters), adjusted_rand_score(labels, clusters)
    return {"nmi": float(nmi), "ari": float(ari)}


def distance_to_normal(normal: np.ndarray, test: np.ndarray, neighbours: int = 5) -> np.ndarray:
    """Return the mean distance (N,) of each test scan to the nearest normal scans, in standardised features.

    Args:
        normal: Features (M, D) of normal training scans.
        test: Features (N, D).
        neighbours: Nearest normal scans that the distance is averaged over.

    Raises:
        MedsslError: There is no normal scan.
    """
    if not len(normal):
        raise MedsslError("no normal training scan: expected one or more to measure the distance to")
    scale = StandardScaler().fit(normal)
    near = NearestNeighbors(n_neighbors=min(neighbours, len(normal))).fit(scale.transform(normal))
    return near.kneighbors(scale.transform(test))[0].mean(1)


def ridge(train: np.ndarray, values: np.ndarray, patients: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return values (N,) predicted by a ridge regression on standardised features.

    The penalty is chosen by cross-validation over folds of patients.

    Args:
        train: Features (M, D).
        values: What is to be predicted, of each training scan (M,).
        patients: Patient of each training scan (M,).
        test: Features (N, D).
    """
    folds = list(GroupKFold(min(5, len(np.unique(patients)))).split(train, groups=patients))
    model: Any = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 15), cv=folds))
    return model.fit(train, values).predict(test)
