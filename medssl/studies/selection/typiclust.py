"""Typical patients: the densest place of each of as many clusters as there are labels to buy.

Hacohen, Dekel, Weinshall, "Active Learning on a Budget", ICML 2022 (arXiv 2202.02794).
"""

from __future__ import annotations

from typing import Any

from medssl.studies.selection.base import Pool, Selector, query


class TypiClust(Selector):
    """The most typical patient of each uncovered cluster, as scikit-activeml computes it; for very few labels."""

    def choose(self, pool: Pool, count: int, seed: int) -> Any:
        from skactiveml.pool import TypiClust as Strategy

        neighbours = max(1, min(5, len(pool.labelled) // (count + int(pool.labelled.sum()))))
        return query(Strategy(random_state=seed, k=neighbours, cluster_algo_dict={"random_state": seed}), pool, count)
