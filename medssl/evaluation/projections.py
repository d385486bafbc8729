"""Features drawn in the plane: principal components, t-SNE and, where it is installed, UMAP.

    flat = principal(vectors)                 # flat.places (N, 2), flat.shares: of the variance along each axis
    rows, places = embedded("t-SNE", flat)    # of a random part of many scans, since it takes long

t-SNE: van der Maaten and Hinton, JMLR 9, 2008. UMAP: McInnes et al., arXiv 1802.03426. Both place neighbours together; the
distances between groups, and their sizes, mean nothing. Imports no torch.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np

from medssl.core.errors import MedsslError

COMPONENTS = 50  # that t-SNE and UMAP start from
MOST_SCANS = {"t-SNE": 3_000, "UMAP": 20_000}  # beyond which a random part is drawn: tens of seconds on one core


@dataclass(frozen=True)
class Principal:
    """Principal components.

    Attributes:
        components: Each scan along them, (N, COMPONENTS at most), the largest first.
        shares: Of the variance, of each.
    """

    components: np.ndarray
    shares: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """(N, 2): along the first two; zero along a second where there is one only."""
        flat = self.components[:, :2]
        return flat if flat.shape[1] == 2 else np.column_stack([flat, np.zeros(len(flat))])


def principal(features: np.ndarray) -> Principal:
    """Return the principal components of features (N, D); the sign of each is such that its largest value is positive.

    Raises:
        MedsslError: There are fewer than three scans, or all have the same features.
    """
    if len(features) < 3:
        raise MedsslError(f"there are {len(features)} scans with features: expected three or more to draw them")
    centred = np.asarray(features, np.float64) - np.mean(features, 0, dtype=np.float64)
    values, axes = np.linalg.eigh(centred.T @ centred)
    if values[-1] <= 1e-12 * max(1.0, float(np.square(features, dtype=np.float64).sum())):
        raise MedsslError("all scans have the same features: the encoder that made them tells no scan from another")
    values, axes = np.clip(values[::-1], 0, None), axes[:, ::-1][:, :COMPONENTS]
    components = centred @ axes
    signs = np.sign(components[np.abs(components).argmax(0), np.arange(components.shape[1])])
    shares = values[:COMPONENTS] / values.sum()
    return Principal((components * np.where(signs == 0, 1, signs)).astype(np.float32), shares)


def kinds() -> list[str]:
    """Return the projections that can be made here: UMAP only where umap-learn is installed."""
    return ["PCA", "t-SNE", *(["UMAP"] if importlib.util.find_spec("umap") else [])]


def embedded(kind: str, flat: Principal, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are drawn and their places (n, 2).

    Args:
        kind: One of `kinds()`.
        flat: The principal components.
        seed: Of the random part that is drawn of many scans, and of the method.

    Raises:
        MedsslError: The kind is not known here.
    """
    everything = np.arange(len(flat.components))
    if kind == "PCA":
        return everything, flat.places
    if kind not in kinds():
        raise MedsslError(f"the projection is {kind}: expected one of {', '.join(kinds())}")
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(everything)[: MOST_SCANS[kind]])
    method = _tsne(len(rows), seed) if kind == "t-SNE" else _umap(len(rows), seed)
    return rows, np.asarray(method.fit_transform(flat.components[rows]), np.float32)


def _tsne(count: int, seed: int):
    from sklearn.manifold import TSNE

    return TSNE(perplexity=min(30.0, (count - 1) / 3), init="random" if count < 4 else "pca", random_state=seed)


def _umap(count: int, seed: int):
    from umap import UMAP

    return UMAP(n_neighbors=min(15, count - 1), random_state=seed)
