"""Classification: one class a scan.

medssl finetune --data CACHE --out MODEL --task classification --label finding
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.core.progress import track
from medssl.datasets.labels import label_codes
from medssl.evaluation.case_metrics import AUROC
from medssl.training.tasks.base import Task, by_patient, scans_and_patients

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from medssl.encoders import Encoder
    from medssl.preprocessing.cache import Cache
    from medssl.preprocessing.crops import Crops
    from medssl.training.models import Classifier
    from medssl.views.base import View

CLASSIFIED_AT_ONCE = 64


@dataclass(frozen=True)
class Classification(Task):
    """One class per scan, predicted from its centre crop."""

    name = "classification"
    metric = AUROC()
    probes = ("linear", "knn")
    results_file = "probabilities.csv"
    min_classes = 2

    @classmethod
    def from_cache(cls, cache: Cache, label: str | None = None) -> Self:
        if label is None:
            columns = [c.removeprefix("label.") for c in cache.manifest if c.startswith("label.")]
            raise MedsslError(
                f"classification needs --label: expected one of {', '.join(columns) or 'none, there is no label in this cache'}"
            )
        labels, classes = label_codes(cache.manifest, label)
        return cls(tuple(classes), labels, by_patient(cache, {scan: [code] for scan, code in labels.items()}))

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def with_head(self, encoder: Encoder) -> Classifier:
        from medssl.training.models import Classifier

        return Classifier(encoder, self.outputs)

    def crops(self, cache: Cache, scans: Sequence[str], size: Sequence[int], seed: int, labelled: bool = True) -> Crops:
        from medssl.preprocessing.crops import Crops

        return Crops(cache, scans, tuple(size), seed, targets=self.labels if labelled else None, place="center")

    def inputs(self, view: View, params: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return view(batch["source"].float(), params), batch["target"]

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(logits, target)

    def soft_loss(self, logits: Tensor, probabilities: Tensor, weight: Tensor) -> Tensor:
        from medssl.training.losses import soft_cross_entropy

        return soft_cross_entropy(logits, probabilities, weight)

    def primary_score(self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray]) -> float:
        return self.score(cache, scans, predictions)[1][self.metric.name]

    def predicted_classes(self, predictions: Sequence[np.ndarray]) -> set[int]:
        return {int(p.argmax()) for p in predictions}

    def validation_score(self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray]) -> float:
        """Minus the cross-entropy, each class with the same weight."""
        by_class: dict[int, list[float]] = {}
        for scan, p in zip(scans, predictions):
            by_class.setdefault(self.labels[scan], []).append(np.log(max(float(p[self.labels[scan]]), 1e-6)))
        return float(np.mean([np.mean(logs) for logs in by_class.values()]))

    def score(
        self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray]
    ) -> tuple[pd.DataFrame, dict[str, float]]:
        from medssl.evaluation.metrics import classification_metrics

        probabilities = np.stack(predictions)
        truth = np.array([self.labels[scan] for scan in scans])
        cases = scans_and_patients(cache, scans).assign(label=truth)
        for number, name in enumerate(self.classes):
            cases[f"p.{name}"] = probabilities[:, number]
        return cases, classification_metrics(truth, probabilities)

    def check_scored(self, scans: Sequence[str]) -> None:
        super().check_scored(scans)
        present = {self.labels[scan] for scan in scans}
        for code, name in enumerate(self.classes):
            if code not in present:
                raise MedsslError(
                    f"no scored scan is of the class {name}: expected at least one of each; use another --split-seed, or more data"
                )

    def write_results(
        self, model: Any, cache: Cache, size: Sequence[int], sources: Path | None, out: Path
    ) -> pd.DataFrame:
        """The class probabilities of each scan; no files."""
        scans = list(cache.manifest["scan"])
        starts = track(range(0, len(scans), CLASSIFIED_AT_ONCE), "scans")
        parts = [self._predict(model, cache, scans[i : i + CLASSIFIED_AT_ONCE], size) for i in starts]
        probabilities = pd.DataFrame(np.concatenate(parts), columns=[f"p.{name}" for name in self.classes])
        return pd.concat([cache.manifest[["scan", "patient", "status"]], probabilities], axis=1)

    def _predict(self, model: Any, cache: Cache, scans: Sequence[str], size: Sequence[int]) -> list[np.ndarray]:
        from medssl.training.models import classify
        from medssl.views.center_crops import center_crops

        device = next(model.parameters()).device
        probabilities: list[np.ndarray] = []
        for start in range(0, len(scans), CLASSIFIED_AT_ONCE):
            x = center_crops(cache, scans[start : start + CLASSIFIED_AT_ONCE], size).to(device)
            probabilities += list(classify(model, x).cpu().numpy())
        return probabilities
