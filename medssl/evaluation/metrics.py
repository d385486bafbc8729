"""How far a predicted surface lies from the reference's: HD95 in mm and surface Dice, from MONAI.

    surface_scores(mask, reference, structures=(1, 2), spacing_mm=(1, 1, 1))
    # {"hd95_mm.1": 1.4, "surface_dice.1": 0.93, ...}

An empty reference gives NaN (not counted); an empty prediction of a structure that is there gives surface Dice 0 and an
HD95 of the scan's diagonal, so that missing a structure never looks better than finding it badly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice


def surface_scores(
    prediction: np.ndarray, reference: np.ndarray, structures: Sequence[int], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """(*S) and (*S) class numbers -> `hd95_mm.<structure>` and `surface_dice.<structure>` (tolerance: one voxel's longest edge)."""
    found: dict[str, float] = {}
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
        found |= {f"hd95_mm.{structure}": distance, f"surface_dice.{structure}": overlap}
    return found
