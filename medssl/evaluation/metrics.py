"""Metrics of one model: AUROC, AUPRC, balanced accuracy and calibration; Dice, HD95 in mm and surface Dice.

    classification_metrics([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9])         # {"auroc": 1.0, ...}
    surface_scores(mask, reference, structures=(1, 2), spacing_mm=(1, 1, 1))
    # {"hd95_mm.1": 1.4, "surface_dice.1": 0.93, ...}

A structure whose reference is empty is not counted in surface distances (NaN). One that is there and not predicted has
surface Dice 0 and an HD95 of the scan's diagonal, so that a missed structure always scores worse than a badly segmented one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from medssl.core.errors import MedsslError
from medssl.evaluation.intervals import one_vs_rest


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve; with several classes the mean of one against the rest. Ties count one half.

    Args:
        labels: (cases,) class numbers.
        scores: (cases,) of class 1, or (cases, classes).

    Returns:
        A number from 0 to 1; 0.5 is chance.

    Raises:
        MedsslError: A class has no case.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    codes, columns = one_vs_rest(labels, np.asarray(scores, dtype=float)[None])
    return float(np.mean([roc_auc_score(codes == k, column[0]) for k, column in columns]))


def classification_metrics(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float]:
    """AUROC, AUPRC, balanced accuracy and expected calibration error of one draw.

    Args:
        labels: (cases,) class numbers.
        probabilities: (cases, classes), rows adding up to 1, or (cases,) of class 1.

    Returns:
        Name -> value. With two classes AUROC and AUPRC are of class 1, with more the mean of one against the rest.

    Raises:
        MedsslError: A class has no case.
    """
    table = np.asarray(probabilities, dtype=float)
    table = np.stack([1 - table, table], axis=1) if table.ndim == 1 else table
    codes, columns = one_vs_rest(labels, table[None])
    return {
        "auroc": auroc(codes, table),
        "auprc": float(np.mean([average_precision_score(codes == k, column[0]) for k, column in columns])),
        "balanced_accuracy": float(balanced_accuracy_score(codes, table.argmax(axis=1))),
        "calibration_error": calibration_error(codes, table),
    }


def calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error: the mean of |accuracy - confidence| over bins of equal width.

    Guo et al., "On calibration of modern neural networks", ICML 2017.

    Args:
        labels: (cases,) class numbers.
        probabilities: (cases, classes), rows adding up to 1.
        bins: How many bins the confidence from 0 to 1 is cut into.

    Returns:
        The error, from 0 (calibrated) to 1.
    """
    table = torch.from_numpy(np.asarray(probabilities, dtype=float))
    truth = torch.from_numpy(np.asarray(labels, dtype=int))
    return float(multiclass_calibration_error(table, truth, table.shape[1], n_bins=bins, norm="l1"))


def dice(
    prediction: ArrayLike, reference: ArrayLike, structures: Mapping[str, int] | Sequence[int]
) -> dict[str, float]:
    """Dice of each structure in one case.

    Args:
        prediction: Integer mask.
        reference: Integer mask of the same shape.
        structures: Name -> number in the masks, or the numbers alone.

    Returns:
        Name -> score. A structure that is in neither mask has NaN and does not count; one in the prediction alone has 0.

    Raises:
        MedsslError: The masks differ in shape.

    >>> dice([0, 1, 1], [0, 1, 0], {"tumour": 1, "cyst": 2})
    {'tumour': 0.6666666666666666, 'cyst': nan}
    """
    mask, truth = np.asarray(prediction), np.asarray(reference)
    if mask.shape != truth.shape:
        raise MedsslError(f"prediction {mask.shape} and reference {truth.shape}: expected one shape")
    labels = structures if isinstance(structures, Mapping) else {str(label): label for label in structures}
    result = {}
    for name, label in labels.items():
        size = int(np.sum(mask == label)) + int(np.sum(truth == label))
        overlap = int(np.sum((mask == label) & (truth == label)))
        result[name] = 2 * overlap / size if size else float("nan")
    return result


def surface_scores(
    prediction: np.ndarray, reference: np.ndarray, structures: Sequence[int], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """HD95 in mm and surface Dice of each structure in one case; see the top of this file for empty masks.

    Args:
        prediction: (*S) integer mask.
        reference: (*S) integer mask.
        structures: Numbers in the masks.
        spacing_mm: Of a voxel; its longest edge is the tolerance of surface Dice.

    Returns:
        `hd95_mm.<structure>` and `surface_dice.<structure>` -> value.
    """
    scores: dict[str, float] = {}
    diagonal = float(np.linalg.norm(np.multiply(reference.shape, spacing_mm)))
    for structure in structures:
        a, b = (torch.from_numpy(np.asarray(m) == structure)[None, None] for m in (prediction, reference))
        if not b.any():
            distance = overlap = float("nan")
        elif not a.any():
            distance, overlap = diagonal, 0.0
        else:
            spacing = list(map(float, spacing_mm))
            distance = float(compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing))
            overlap = float(compute_surface_dice(a, b, [max(spacing)], include_background=True, spacing=spacing))
        scores |= {f"hd95_mm.{structure}": distance, f"surface_dice.{structure}": overlap}
    return scores
