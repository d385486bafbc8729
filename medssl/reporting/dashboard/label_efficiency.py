"""What the page on label efficiency shows: the curve of each arm over the label budgets. The page of that
name in `apps/review/` draws it. Does not import torch.

[curve.arm for curve in curves(study.main, "finetune")]     # ["scratch", "simmim"]
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd


class Curve(NamedTuple):
    """The summary's rows of one arm, by patients."""

    arm: str
    mode: str
    rows: pd.DataFrame


def curves(main: pd.DataFrame, mode: str) -> list[Curve]:
    """Return one curve an arm for a mode (`finetune`, `linear`, `knn`); scratch is among them in every mode.

    Args:
        main: The summary's rows of the primary metric.
        mode: How the encoders were used.
    """
    return [
        Curve(str(arm), str(own_mode), rows.sort_values("patients"))
        for (arm, own_mode), rows in main.groupby(["arm", "mode"], sort=False)
        if own_mode == mode or arm == "scratch"
    ]
