"""Segmentation: one structure a voxel.

medssl finetune --data CACHE --out MODEL --task segmentation
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from medssl.core.errors import MedsslError
from medssl.core.progress import track
from medssl.evaluation.case_metrics import Dice, mean_dice
from medssl.training.tasks.base import Task, by_patient, scans_and_patients

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from medssl.encoders import Encoder
    from medssl.preprocessing.cache import Cache
    from medssl.preprocessing.crops import Crops
    from medssl.training.models import Segmenter
    from medssl.views.base import View

SOURCE_SHARE = 1.3  # the side of the source that segmentation cuts its crops from, over the crop's


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
        return cls(tuple(map(str, cache.structures)), dict.fromkeys(scans, 0), by_patient(cache, seen))

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
        cases = pd.concat([scans_and_patients(cache, scans), pd.DataFrame(rows)], axis=1)
        metrics = {name: float(cases[name].mean()) for name in rows[0]}
        return cases, metrics | {"dice": float(mean_dice(cases).mean())}

    def examples(
        self, cache: Cache, scans: Sequence[str], predictions: Sequence[np.ndarray], cases: pd.DataFrame
    ) -> dict[str, dict[str, Any]]:
        """Of the worst, the median and the best case the slice that holds most of the reference."""
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
        return {"examples.npz": pictures}

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
