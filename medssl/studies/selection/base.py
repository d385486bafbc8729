"""What a strategy chooses from, and its contract.

Random().select(pool, count=20, seed=0)         # numbers of patients in the pool, in the order of labelling
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from medssl.core.errors import MedsslError


@dataclass(frozen=True)
class Pool:
    """The patients of the training split.

    Attributes:
        features: One unit vector per patient (patients, D); None if the strategy uses none.
        labelled: Whether a patient is labelled already (patients,).
        strata: Scanner, site and modality of each patient as one text (patients,).
    """

    features: NDArray[np.float64] | None
    labelled: NDArray[np.bool_]
    strata: NDArray[np.str_]

    @property
    def candidates(self) -> NDArray[np.intp]:
        """The numbers of the patients without a label."""
        return np.flatnonzero(~self.labelled)


class Selector(ABC):
    """A strategy. Add one by adding a file to this folder."""

    pooling: ClassVar[Literal["image", "body"] | None] = "image"  # over what the features are averaged; None: unused

    @abstractmethod
    def choose(self, pool: Pool, count: int, seed: int) -> Any:
        """The numbers of `count` candidates, in the order in which they should be labelled."""

    def select(self, pool: Pool, count: int, seed: int = 0) -> list[int]:
        """Choose patients to label.

        Args:
            pool: The patients.
            count: How many to choose, beside those that are labelled already.
            seed: Seed of ties, clusters and random choices.

        Raises:
            MedsslError: There are fewer patients without a label.
        """
        free = len(pool.candidates)
        if not 0 < count <= free:
            raise MedsslError(
                f"{count} patients were asked for, and {free} of {len(pool.labelled)} training patients have no label: "
                f"expected 1 to {free}; give a smaller --budget"
            )
        return [int(number) for number in self.choose(pool, count, seed)]


def query(strategy: Any, pool: Pool, count: int) -> Any:
    """Ask a pool strategy of scikit-activeml, which sees the labelled patients as covered already."""
    known = np.where(pool.labelled, 0.0, np.nan)
    return strategy.query(pool.features, known, candidates=pool.candidates, batch_size=count)
