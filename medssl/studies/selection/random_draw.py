"""Random patients, the reference that every strategy has to beat; plain, or in proportion within strata."""

from __future__ import annotations

from typing import Any

import numpy as np

from medssl.studies.selection.base import Pool, Selector


class Random(Selector):
    """Any patients, each with the same chance."""

    pooling = None

    def choose(self, pool: Pool, count: int, seed: int) -> Any:
        return np.random.default_rng([seed, 11]).permutation(pool.candidates)[:count]


class Stratified(Selector):
    """Random patients, from each combination of scanner, site and modality in proportion to its size."""

    pooling = None

    def choose(self, pool: Pool, count: int, seed: int) -> Any:
        generator = np.random.default_rng([seed, 12])
        shuffled = generator.permutation(pool.candidates)
        ordered = shuffled[np.argsort(pool.strata[shuffled], kind="stable")]
        places = (np.arange(count) + generator.random()) * len(ordered) / count
        return generator.permutation(ordered[places.astype(int)])
