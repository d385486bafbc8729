"""How many patients with each label are in each part of a study: training, validation, test, and each label budget.

    parts = parts_of(study, cache.manifest, label="kind")    # one row a class, one column a part: (fewest, most) over draws

The split is made again from the record's seed, and compared with the counts that the record keeps. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medssl.core.errors import MedsslError
from medssl.core.runs import Run
from medssl.datasets.splits import ROLES, SplitSpec
from medssl.studies.results import UNREADABLE

ALL, WITH_MASK = "all patients", "with a mask"
COLUMNS = ("draw", "budget_name", "patient", "role")


def roles_of(run: Run, usable: pd.DataFrame) -> pd.Series:
    """Return patient -> train, validation or test, as the study divided them.

    Args:
        run: The record of the study.
        usable: The manifest of the very cache that the study was made with.

    Raises:
        MedsslError: The division that is found here has other counts than the record.
    """
    spec = SplitSpec(int(run.config.get("split_seed", 0)), run.config.get("split_column"))
    roles = spec.roles(usable)
    counted, recorded = roles.value_counts().to_dict(), run.config.get("patients", {})
    if any(recorded.get(role, 0) != counted.get(role, 0) for role in ROLES):
        raise MedsslError(
            f"the study's record has {recorded} patients, its data give {counted}: expected the same; the split of another "
            "version of medssl is not the one of this version"
        )
    return roles


def subsets_of(study: Path) -> pd.DataFrame:
    """Return draw, budget_name, patient and role of every budget of a study.

    Raises:
        MedsslError: The file is missing, or is not what `medssl study` writes.
    """
    try:
        return pd.read_parquet(study / "subsets.parquet")[list(COLUMNS)]
    except (*UNREADABLE, KeyError) as error:
        raise MedsslError(
            f"subsets.parquet of the study cannot be read ({type(error).__name__}): expected the file that medssl study wrote; "
            "run the same study command again"
        ) from None


def counts_by_part(
    usable: pd.DataFrame, roles: pd.Series, subsets: pd.DataFrame, label: str | None = None
) -> pd.DataFrame:
    """Return the fewest and the most patients over the draws: one row a class, one column a part of the study.

    Args:
        usable: The scans.
        roles: Patient -> role, as from `roles_of`.
        subsets: The budgets, as from `subsets_of`.
        label: The label whose classes are counted; a patient with scans of two classes counts in both.

    Returns:
        Cells (fewest, most); the parts train, validation, test, then the budgets, the smallest first.
    """
    groups = {ALL: set(usable["patient"])}
    if usable["has_mask"].any():
        groups[WITH_MASK] = set(usable.loc[usable["has_mask"], "patient"])
    if label is not None:
        known = usable[["patient", f"label.{label}"]].dropna()
        by_class = known.groupby(known[f"label.{label}"].astype(str))["patient"]
        groups |= {str(name): set(patients) for name, patients in by_class}
    parts = {role: [set(roles.index[roles == role])] for role in ROLES}
    budgets = {
        str(name): [set(own["patient"]) for _, own in draws.groupby("draw")]
        for name, draws in subsets.groupby("budget_name", sort=False)
    }
    parts |= dict(sorted(budgets.items(), key=lambda budget: max(map(len, budget[1]))))
    table = {part: {name: _span(members, own) for name, own in groups.items()} for part, members in parts.items()}
    return pd.DataFrame(table, index=list(groups))


def _span(draws: list[set], group: set) -> tuple[int, int]:
    sizes = [len(members & group) for members in draws]
    return min(sizes), max(sizes)
