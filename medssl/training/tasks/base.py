"""What a model learns and how it is scored: the contract that each task fulfils.

torch is imported by the methods that need it, so that reports and the dashboard can ask a task for its metric without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.evaluation.case_metrics import CaseMetric

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from medssl.encoders import Encoder
    from medssl.preprocessing.cache import Cache
    from medssl.preprocessing.crops import Crops
    from medssl.training.models import Classifier, Segmenter
    from medssl.views.base import View

TaskName = Literal["classification", "segmentation"]


@dataclass(frozen=True)
class Task(ABC):
    """A task with its targets; one that is made from a record alone has no targets, so it can predict but not train.

    Attributes:
        classes: The classes to tell apart, or the structures to find.
        labels: Scan -> class number of every scan that has a target (0 for every scan with a mask).
        seen: Patient -> the classes or structures seen in them, by which label budgets are stratified.
    """

    classes: tuple[str, ...]
    labels: dict[str, int] = field(default_factory=dict)
    seen: dict[str, tuple[int, ...]] = field(default_factory=dict)

    name: ClassVar[TaskName]
    metric: ClassVar[CaseMetric]
    probes: ClassVar[tuple[str, ...]] = ()  # how a frozen encoder can be scored without training it
    keeps_examples: ClassVar[bool] = False  # whether `examples` gives pictures
    results_file: ClassVar[str]  # name of the table that `write_results` returns
    min_classes: ClassVar[int]

    def __post_init__(self) -> None:
        if len(self.classes) < self.min_classes:
            raise MedsslError(
                f"there are {len(self.classes)} classes for {self.name}: expected at least {self.min_classes}"
            )

    @classmethod
    @abstractmethod
    def from_cache(cls, cache: Cache, label: str | None = None) -> Self:
        """The task on the labelled scans of a cache.

        Args:
            cache: The prepared scans.
            label: Label column that holds the classes, for a task that has them.

        Raises:
            MedsslError: The cache has no such label, no masks, or too few classes.
        """

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many numbers the model's head gives, for each image or voxel."""

    @abstractmethod
    def with_head(self, encoder: Encoder) -> Classifier | Segmenter:
        """The encoder below a randomly initialised head."""

    @abstractmethod
    def crops(self, cache: Cache, scans: Sequence[str], size: Sequence[int], seed: int, labelled: bool = True) -> Crops:
        """The stream of training samples, with the target in each if they are labelled.

        Args:
            cache: Where the scans are.
            scans: Scans to train on.
            size: Voxels of a crop along each axis.
            seed: Seed of the stream.
            labelled: Whether the samples hold their targets.
        """

    @abstractmethod
    def inputs(self, view: View, params: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """A batch of `crops` seen through a view: the model's input, and the target.

        Args:
            view: The augmentation.
            params: What the view drew for the batch.
            batch: A batch of `crops`, on the model's device.
        """

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch of `inputs`.

        Args:
            logits: The model's output (B, classes, *S), without *S in classification.
            target: What `inputs` returned beside the model's input.
        """

    @abstractmethod
    def soft_loss(self, logits: Tensor, probabilities: Tensor, weight: Tensor) -> Tensor:
        """The loss against class probabilities in place of a reader's target.

        Args:
            logits: The model's output (B, classes, *S), without *S in classification.
            probabilities: Of the same shape.
            weight: Of each place (B, *S).
        """

    @abstractmethod
    def validation_score(self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray]) -> float:
        """What a checkpoint is chosen by; higher is better, NaN where nothing can be said.

        Args:
            cache: Where the scans are.
            scans: The scans that were predicted.
            predictions: What `predict` returned for them, in the same order.
        """

    @abstractmethod
    def primary_score(self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray]) -> float:
        """The primary metric alone, over all scans.

        Args:
            cache: Where the scans are.
            scans: Labelled scans.
            predictions: Of each scan, as from `predict`.
        """

    @abstractmethod
    def score(
        self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray]
    ) -> tuple[pd.DataFrame, dict[str, float]]:
        """The case table, one row per scan, and the metrics over all of them.

        Args:
            cache: Where the scans are.
            scans: The scans that were predicted.
            predictions: What `predict` returned for them, in the same order.
        """

    @abstractmethod
    def write_results(
        self, model: Any, cache: Cache, size: Sequence[int], sources: Path | None, out: Path
    ) -> pd.DataFrame:
        """Predict every scan of a cache, for a user who has no targets.

        Args:
            model: Model of the task; it stays on its device.
            cache: Scans to predict.
            size: Voxels of a crop along each axis.
            sources: Table of the scans' files; without one, masks lie on the cache's grid.
            out: Folder for one file per scan, where the task makes any.

        Returns:
            A table with one row for each scan.
        """

    @abstractmethod
    def _predict(self, model: Any, cache: Cache, scans: Sequence[str], size: Sequence[int]) -> list[np.ndarray]: ...

    def build_model(self, encoder: Encoder, seed: int) -> Classifier | Segmenter:
        """The encoder as it is, below a head that depends on the seed alone, so that paired arms share it.

        Args:
            encoder: The encoder, whose weights stay as they are.
            seed: Seed of the head's weights.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.with_head(encoder)

    def predict(
        self, model: Any, cache: Cache, scans: Sequence[str], size: Sequence[int], precision: str = "32-true"
    ) -> list[np.ndarray]:
        """Of each scan its class probabilities (classes,), or its mask (*S) in the structures' own numbers.

        Args:
            model: Model of the task.
            cache: Where the scans are.
            scans: Scans to predict.
            size: Voxels of a crop along each axis.
            precision: "32-true" or "bf16-mixed".
        """
        import torch

        own = next(model.parameters()).device.type
        device = "cuda" if torch.cuda.is_available() else own  # Lightning leaves the model on the CPU after training
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"):
            return self._predict(model.to(device), cache, scans, size)

    @abstractmethod
    def predicted_classes(self, predictions: Sequence[np.ndarray]) -> set[int]:
        """The classes or structures (0: background) that these predictions of `predict` name."""

    def check_scored(self, scans: Sequence[str]) -> None:
        """Raises MedsslError where the metric cannot be computed on these scans."""
        if not scans:
            raise MedsslError("no labelled scan to score: expected at least one in the scored split")

    def examples(
        self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray], cases: pd.DataFrame
    ) -> dict[str, dict[str, Any]]:
        """Pictures worth keeping of a scored model: file name -> name -> array. By default none.

        Args:
            cache: Where the scans are.
            scans: The scans that were predicted.
            predictions: What `predict` returned for them, in the same order.
            cases: The case table that `score` returned.
        """
        return {}


def by_patient(cache: Cache, seen: dict[str, Iterable[int]]) -> dict[str, tuple[int, ...]]:
    """What was seen in any scan of each patient, in rising order."""
    patient = cache.manifest.set_index("scan")["patient"]
    merged: dict[str, set[int]] = {}
    for scan, values in seen.items():
        merged.setdefault(patient[scan], set()).update(values)
    return {name: tuple(sorted(values)) for name, values in merged.items()}


def scans_and_patients(cache: Cache, scans: Sequence[str]) -> pd.DataFrame:
    patient = cache.manifest.set_index("scan")["patient"]
    return pd.DataFrame({"scan": list(scans), "patient": [patient[scan] for scan in scans]})
