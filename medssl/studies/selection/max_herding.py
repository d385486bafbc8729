"""Patients that represent all: each next one adds most to the smooth coverage of the feature space.

Bae, Noh, Sutherland, "Generalized Coverage for More Robust Low-Budget Active Learning", ECCV 2024 (arXiv 2407.12212).
"""

from __future__ import annotations

from typing import Any

from medssl.studies.selection.base import Pool, Selector, query

GAMMA = 1.0  # of the Gaussian kernel on unit vectors, as in the paper


class MaxHerding(Selector):
    """Greedy coverage with a Gaussian kernel, as scikit-activeml computes it; good from one label to many."""

    def choose(self, pool: Pool, count: int, seed: int) -> Any:
        from skactiveml.pool import MaxHerding as Strategy

        return query(Strategy(metric="rbf", metric_dict={"gamma": GAMMA}, random_state=seed), pool, count)


class ForegroundHerding(MaxHerding):
    """The same on features averaged over the body alone, so that air and table do not count; for segmentation."""

    pooling = "body"
