"""How arms, numbers and states are written and drawn, in one place for the report and the dashboard.

    arm_name("simmim", "linear")                     # "simmim, linear probe"
    scoped_arm("simmim", "linear", 1)                # "simmim, linear probe (this run)"
    arm_styles(["scratch", "simmim"])["simmim"]      # colour, marker and line
    difference(0.031, 0.010, 0.052)                  # "+0.031 [0.010, 0.052]"

Colours are those of Okabe and Ito ("Color universal design", 2008), which colour-blind readers can distinguish; every
arm has a marker of its own as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medssl.studies.arms import BASELINES

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#767676"
TRUE_CLASS, OTHER_CLASS = "#009E73", "#8a8a8a"  # bars of class probabilities
DECODER_ALONE = "random-frozen", "finetune"  # what this arm trains in a segmentation study
MODES = {
    "finetune": "fine-tuned",
    "linear": "linear probe",
    "knn": "kNN",
    "class-mean": "nearest class mean",
    "kmeans": "k-means",
    "propagation": "label propagation",
    "chosen": "chosen probe",
}
METRICS = {
    "dice": "Dice",
    "surface_dice": "surface Dice",
    "hd95_mm": "HD95, mm",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
STATUSES = {  # a state that is not here is written as it is: running, finished, failed
    "stale": "stopped unexpectedly",
    "stopped": "stopped by the user",
    "broken": "record cannot be read",
    "refused": "refused: a link leads out of the folder",
    "partial": "no record",
    "empty": "empty folder",
}


class ArmStyle(NamedTuple):
    """Colour, marker and line of an arm, in matplotlib's words."""

    colour: str
    marker: str
    line: str


BASELINE_STYLES = {
    name: ArmStyle(GREY, marker, line)
    for name, marker, line in zip(BASELINES, ("o", "s", "^"), ("-", "--", ":"), strict=True)
}


def arm_styles(arms: Sequence[str]) -> dict[str, ArmStyle]:
    """Return the style of each arm: baselines grey, the others coloured in order of appearance."""
    styles = dict(BASELINE_STYLES)
    others = [arm for arm in dict.fromkeys(arms) if arm not in styles]
    for i, arm in enumerate(others):
        styles[arm] = ArmStyle(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], "-")
    return {arm: styles[arm] for arm in dict.fromkeys(arms)}


def arm_name(arm: str, mode: str) -> str:
    """Return how an arm is written: `simmim, linear probe`; an encoder that stays frozen is not called fine-tuned."""
    return f"{arm}, decoder trained" if (arm, mode) == DECODER_ALONE else f"{arm}, {MODES.get(mode, mode)}"


def scoped_arm(arm: str, mode: str, pretraining_runs: float) -> str:
    """Return how an arm is written beside an interval or a p-value: with one run behind it, these are about `this run`.

    Args:
        arm: Name of the arm.
        mode: How its encoder is used.
        pretraining_runs: Pretraining runs behind the numbers.
    """
    return arm_name(arm, mode) + (" (this run)" if pretraining_runs == 1 else "")


def offset_factors(count: int) -> list[float]:
    """Return one factor a curve that shifts it along a log axis, so that the intervals of curves do not overlap."""
    return np.geomspace(0.95, 1 / 0.95, count).tolist() if count > 1 else [1.0]


def status_name(status: Any) -> str:
    """Return how the state of a run is written: `stopped unexpectedly`."""
    return STATUSES.get(str(status), str(status))


def metric_name(name: str) -> str:
    """Return how a metric is written: `hd95_mm.1` is `HD95, mm (1)`, of structure 1."""
    kind, _, structure = name.partition(".")
    return METRICS.get(kind, kind.replace("_", " ")) + (f" ({structure})" if structure else "")


def number(value: Any, digits: int = 3) -> str:
    """Return a number with a real minus sign, or a dash where there is none."""
    known = value is not None and np.isfinite(float(value))
    return f"{float(value):,.{digits}f}".replace("-", "−") if known else "–"


def interval(low: float, high: float) -> str:
    """Return `0.700 to 0.800`, or a dash where there is no interval."""
    return f"{number(low)} to {number(high)}" if np.isfinite(low) else "–"


def difference(value: float, low: float, high: float) -> str:
    """Return `+0.031 [0.010, 0.052]`, without the brackets where there is no interval, or a dash."""
    if not np.isfinite(value):
        return "–"
    limits = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""
    return f"{value:+.3f}{limits}".replace("-", "−")


def p_value(value: float) -> str:
    """Return a p value with three digits, `< 0.001` below them, or a dash where nothing was tested."""
    return "–" if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(count: float, noun: str) -> str:
    """Return `1 patient` or `8 patients`."""
    return f"{count:g} {noun}{'' if count == 1 else 's'}"


def span(counts: Iterable[int]) -> str:
    """Return `4` where all counts are equal, else `3 to 5`."""
    ordered = sorted(counts)
    return f"{ordered[0]}" if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"
