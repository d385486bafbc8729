"""Patients whose neighbourhoods cover most of the others.

Yehuda, Dekel, Hacohen, Weinshall, "Active Learning Through a Covering Lens", NeurIPS 2022 (arXiv 2205.11320).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.studies.selection.base import Pool, Selector, query

CLUSTERS = 5  # that stand in for the classes, which are not known: the radius is the largest that rarely mixes two
RADII = np.geomspace(0.005, 2.0, 100)  # between unit vectors
PURITY = 0.95


class ProbCover(Selector):
    """Greedy coverage within a radius that keeps neighbourhoods pure, as scikit-activeml computes it."""

    def choose(self, pool: Pool, count: int, seed: int) -> Any:
        from skactiveml.pool import ProbCover as Strategy

        settings = {"n_classes": CLUSTERS, "deltas": RADII, "alpha": PURITY}
        strategy = Strategy(**settings, random_state=seed, cluster_algo_dict={"random_state": seed})
        return query(strategy, pool, count)
