"""Patients far from all that are labelled, so that none is far from a label; takes outliers early.

Sener, Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018 (arXiv 1708.00489).
"""

from __future__ import annotations

from typing import Any

from medssl.studies.selection.base import Pool, Selector, query


class CoreSet(Selector):
    """Greedy k-center, as scikit-activeml computes it; better with many labels than with few."""

    def choose(self, pool: Pool, count: int, seed: int) -> Any:
        from skactiveml.pool import CoreSet as Strategy

        return query(Strategy(random_state=seed), pool, count)
