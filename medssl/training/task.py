"""What a model learns and how it is scored: classification or segmentation, one class each.

    task = task_named("segmentation").from_cache(cache)
    model = task.build_model(encoder, seed=0)
    masks = task.predict(model, cache, scans, size=(32, 32, 32))
    cases, metrics = task.score(cache, scans, masks)

A task of another kind (regression, detection) is one more class here. torch is imported by the methods that need it,
so that reports and the dashboard can ask a task for its metric without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError, nearest
from medssl.core.progress import track
from medssl.datasets.labels import label_codes
from medssl.evaluation.case_metrics import AUROC, CaseMetric, Dice, mean_dice

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from medssl.encoders import Encoder
    from medssl.preprocessing.cache import Cache
    from medssl.preprocessing.crops import Crops
    from medssl.training.models import Classifier, Segmenter
    from medssl.views.base import View

TaskName = Literal["classification", "segmentation"]
SOURCE_SHARE = 1.3  # the side of the source that segmentation cuts its crops from, over the crop's
CLASSIFIED_AT_ONCE = 64


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
        return cls(tuple(classes), labels, _by_patient(cache, {scan: [code] for scan, code in labels.items()}))

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
        cases = _scans_and_patients(cache, scans).assign(label=truth)
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


@dataclass(frozen=True)
class Segmentation(Task):
    """One structure a voxel; class 0 is the background, class i + 1 the structure `structures[i]`."""

    name = "segmentation"
    metric = Dice()
    keeps_examples = True
    results_file = "volumes.csv"
    min_classes = 1

    @classmethod
    def from_cache(cls, cache: Cache, label: str | None = None) -> Self:
        scans = list(cache.manifest["scan"][cache.manifest["has_mask"]])
        if not scans:
            raise MedsslError(
                "segmentation needs masks and no scan of this cache has one: join them with `medssl index --mask`"
            )
        seen = {scan: np.setdiff1d(cache.read_mask(scan), [0]).tolist() for scan in scans}
        return cls(tuple(map(str, cache.structures)), dict.fromkeys(scans, 0), _by_patient(cache, seen))

    @property
    def structures(self) -> tuple[int, ...]:
        """The numbers of the structures in the masks."""
        return tuple(map(int, self.classes))

    @property
    def outputs(self) -> int:
        return 1 + len(self.classes)

    def with_head(self, encoder: Encoder) -> Segmenter:
        from medssl.training.models import Segmenter

        return Segmenter(encoder, self.outputs)

    def crops(self, cache: Cache, scans: Sequence[str], size: Sequence[int], seed: int, labelled: bool = True) -> Crops:
        from medssl.preprocessing.crops import Crops, source_within

        source = source_within(cache, scans, [round(SOURCE_SHARE * n) for n in size], size)
        return Crops(cache, scans, source, seed, masks=labelled)

    def inputs(self, view: View, params: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        target = self._class_of_structure.to(batch["mask"].device)[batch["mask"].long()].float()
        return view.with_mask(batch["source"].float(), target, params)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Dice and cross-entropy, over the batch as one scan."""
        return self._dice_and_cross_entropy(logits, target)

    def soft_loss(self, logits: Tensor, probabilities: Tensor, weight: Tensor) -> Tensor:
        """Dice of the structures, over the batch as one scan, and cross-entropy."""
        from medssl.training.losses import soft_cross_entropy, soft_dice

        dice = soft_dice(logits.softmax(1), probabilities, weight)
        return dice + soft_cross_entropy(logits, probabilities, weight)

    def primary_score(self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray]) -> float:
        """The mean Dice, as `validation_score`; `score` measures surface distances as well."""
        return self.validation_score(cache, scans, predictions)

    def predicted_classes(self, predictions: Sequence[np.ndarray]) -> set[int]:
        return {int(value) for mask in predictions for value in np.unique(mask)}

    def validation_score(self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray]) -> float:
        """The mean Dice."""
        from medssl.evaluation.metrics import dice

        cases = [dice(mask, cache.read_mask(scan), self.structures) for scan, mask in zip(scans, predictions)]
        return float(np.nanmean([list(case.values()) for case in cases]))

    def score(
        self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray]
    ) -> tuple[pd.DataFrame, dict[str, float]]:
        from medssl.evaluation.metrics import dice, surface_scores

        rows = []
        for scan, mask in zip(scans, predictions):
            reference = cache.read_mask(scan)
            row = {f"dice.{name}": value for name, value in dice(mask, reference, self.structures).items()}
            rows.append(row | surface_scores(mask, reference, self.structures, cache.spacing_mm))
        cases = pd.concat([_scans_and_patients(cache, scans), pd.DataFrame(rows)], axis=1)
        metrics = {name: float(cases[name].mean()) for name in rows[0]}
        return cases, metrics | {"dice": float(mean_dice(cases).mean())}

    def examples(
        self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray], cases: pd.DataFrame
    ) -> dict[str, dict[str, Any]]:
        """All masks; and of the worst, the median and the best case the slice that holds most of the reference."""
        from medssl.views.center_crops import center_crops

        dice_of_case, pictures = mean_dice(cases).fillna(1.0), dict[str, Any]()
        order = dice_of_case.argsort().to_numpy()
        for number, case in enumerate(dict.fromkeys([order[0], order[len(order) // 2], order[-1]])):
            scan = scans[case]
            image = center_crops(cache, [scan], cache.shape(scan))[0, 0].numpy()
            arrays = {"image": image, "reference": cache.read_mask(scan), "prediction": predictions[case]}
            if image.ndim == 3:
                place = int((arrays["reference"] > 0).sum(axis=(0, 1)).argmax())
                arrays = {name: array[:, :, place] for name, array in arrays.items()}
            pictures |= {f"{name}.{number}": array for name, array in arrays.items()}
            pictures[f"dice.{number}"] = dice_of_case[case]
        return {"examples.npz": pictures, "masks.npz": dict(zip(scans, predictions))}

    def write_results(
        self, model: Any, cache: Cache, size: Sequence[int], sources: Path | None, out: Path
    ) -> pd.DataFrame:
        """Write `SCAN.nii.gz` for each scan, on its own grid; the volume of each structure."""
        scans = track(list(cache.manifest["scan"]), "masks")
        return pd.DataFrame([self._write_mask(model, cache, scan, size, sources, out) for scan in scans])

    def _write_mask(
        self, model: Any, cache: Cache, scan: str, size: Sequence[int], sources: Path | None, out: Path
    ) -> dict[str, Any]:
        from medssl.training.models import segment_probabilities
        from medssl.training.native_grid import map_to_grid, native_grid, structure_volumes, write_mask
        from medssl.views.center_crops import center_crops

        x = center_crops(cache, [scan], cache.shape(scan))[0].to(next(model.parameters()).device)
        probabilities = segment_probabilities(model, x, size).cpu().numpy()
        shape, affine = native_grid(cache, scan, sources)
        values = np.array([0, *self.structures], np.uint8)
        mask = values[map_to_grid(probabilities, cache.affine(scan), shape, affine).argmax(0)]
        write_mask(out / f"{scan}.nii.gz", mask, affine)
        return {"scan": scan, "status": "ok"} | structure_volumes(mask, affine, self.structures)

    def _predict(self, model: Any, cache: Cache, scans: Sequence[str], size: Sequence[int]) -> list[np.ndarray]:
        from medssl.training.models import segment
        from medssl.views.center_crops import center_crops

        device = next(model.parameters()).device
        values, masks = np.array([0, *self.structures], np.uint8), []
        for scan in scans:
            x = center_crops(cache, [scan], cache.shape(scan))[0].to(device)
            masks.append(values[segment(model, x, size).cpu().numpy()])
        return masks

    @cached_property
    def _class_of_structure(self) -> Tensor:
        """(256,): the class number of every mask value."""
        import torch

        numbers = torch.zeros(256, dtype=torch.long)
        numbers[list(self.structures)] = torch.arange(1, self.outputs)
        return numbers

    @cached_property
    def _dice_and_cross_entropy(self) -> Any:
        from monai.losses import DiceCELoss

        return DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)


TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Segmentation)}


def task_named(name: str) -> type[Task]:
    """The class of a task. Raises MedsslError, with the nearest names, where there is none of that name.

    >>> task_named("segmentation").metric.name
    'dice'
    """
    if name not in TASKS:
        raise MedsslError(f"there is no task {name!r}: expected one of {', '.join(TASKS)}{nearest(name, TASKS)}")
    return TASKS[name]


def _by_patient(cache: Cache, seen: dict[str, Iterable[int]]) -> dict[str, tuple[int, ...]]:
    """What was seen in any scan of each patient, in rising order."""
    patient = cache.manifest.set_index("scan")["patient"]
    merged: dict[str, set[int]] = {}
    for scan, values in seen.items():
        merged.setdefault(patient[scan], set()).update(values)
    return {name: tuple(sorted(values)) for name, values in merged.items()}


def _scans_and_patients(cache: Cache, scans: Sequence[str]) -> pd.DataFrame:
    patient = cache.manifest.set_index("scan")["patient"]
    return pd.DataFrame({"scan": list(scans), "patient": [patient[scan] for scan in scans]})
