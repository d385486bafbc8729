"""The scans of a cohort in one sentence and in tables; the numbers are those of `dashboard/cohort.py` and `cohort_parts.py`."""

from __future__ import annotations

import pandas as pd

from medssl.reporting.dashboard.cohort import Cohort, columns, counts, reject_reasons
from medssl.reporting.style import counted, span
from medssl.reporting.tables import Table

NAMES = {
    "spacing_mm": "spacing, mm",
    "shape": "size, voxels",
    "manufacturer": "scanner's maker",
    "has_mask": "has a mask",
    "slice_axis": "slice axis",
    "affine_rule": "where the geometry is from",
    "qform_apart_mm": "qform and sform apart, mm",
    "flags": "quality flags",
}
GLANCE = ("modality", "spacing_mm", "shape", "manufacturer", "site", "has_mask", "flags")
SHOWN = 3  # values of a column at a glance
PARTS = {"train": "training", "test": "test", "validation": "validation"}
PARTS_CAPTION = (
    "Patients. Training, validation and test are the study's split; the other columns are its label budgets, of which the fewest and "
    "the most over the draws are shown. A patient with scans of two classes counts in both."
)


def column_name(name: str) -> str:
    """Return how a column of a manifest is written: `label.kind` is `kind (label)`."""
    label = name.removeprefix("label.")
    return f"{label} (label)" if label != name else NAMES.get(name, name)


def sentence(cohort: Cohort) -> str:
    """Return what a cohort is, in one sentence."""
    usable, rejected = cohort.usable, cohort.rejected
    known = usable["patient"].nunique()
    parts = [f"{counted(len(usable), 'scan')} of {counted(known, 'patient')} can be used"]
    if len(usable):
        modality, size = (counts(usable, name).iloc[0] for name in ("modality", "spacing_mm"))
        share = "all" if modality["scans"] == len(usable) else f"{modality['scans']} of them"
        parts.append(f"{share} {modality['value']}, most often at {size['value']} mm")
    text = ": ".join(parts)
    if rejected.empty:
        return f"{text}; none was rejected."
    reasons = reject_reasons(rejected)
    whole = f"{text}; {counted(len(rejected), 'scan')} cannot be used"
    if len(reasons) == 1:
        return f"{whole}{', all for one reason' if len(rejected) > 1 else ''}."
    return f"{whole}, {reasons['scans'].iloc[0]} of them for one reason."


def at_a_glance(usable: pd.DataFrame) -> Table:
    """List the commonest values of the columns that matter first, with the scans that have them."""
    table = Table(["=column", "commonest values (scans)", "#values"])
    own = columns(usable)
    for name in [each for each in own if each in GLANCE or each.startswith("label.")]:
        rows = counts(usable, name)
        shown = ", ".join(f"{row.value} ({row.scans})" for row in rows.head(SHOWN).itertuples())
        table.add(column_name(name), shown + (", …" if len(rows) > SHOWN else ""), len(rows))
    return table


def parts(rows: pd.DataFrame) -> Table:
    """Format the patients of each class in each part of a study; rows: as from `counts_by_part`."""
    table = Table(["=class", *(f"#{PARTS.get(str(part), part)}" for part in rows)])
    for name, cells in rows.iterrows():
        table.add(name, *(span(cell) for cell in cells))
    return table
