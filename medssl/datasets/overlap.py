"""Whether scans were among those that a pretraining run was given: by their voxels, and by their patients where that can be known.

    found = overlap(test, pd.read_parquet(run / "seen.parquet"))
    found.scans, found.patients_known           # 0, True: none; 0, False: it cannot be known

A patient's pseudonym depends on the key of the manifest. Under two keys the same person has two names, so names that differ
say nothing: only equal voxels are proof then.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from medssl.datasets.manifest import pseudonym_key

PUBLIC = (
    "cannot be known: there is no list of the scans that public weights were trained on; see what their publisher says"
)
UNKNOWN = (
    "cannot be known: its patients were named with another key; index both cohorts with the same --key-file, or make sure in "
    "another way that no patient is in both"
)


@dataclass(frozen=True)
class Overlap:
    """How many scans were seen, by voxels or by patient.

    Attributes:
        scans: Of those that were asked about.
        patients_known: Whether patients could be compared; if not, more scans may be of a patient who was seen.
        listed: Whether there is a list of what was seen; public weights come without one.
    """

    scans: int
    patients_known: bool
    listed: bool = True

    @property
    def count(self) -> int | None:
        """The number of scans; None where none was found and it cannot be known whether there are any."""
        return self.scans if self.scans or self.patients_known else None

    def __str__(self) -> str:
        if self.count is None:
            return why_unknown(self.listed)
        return f"{self.scans} scans" + ("" if self.patients_known else " or more")


def overlap(scans: pd.DataFrame, seen: pd.DataFrame) -> Overlap:
    """Compare scans with those that a run was given.

    Args:
        scans: Rows of a cache's manifest.
        seen: The table `seen.parquet` of a pretraining run.
    """
    same_voxels = scans["digest"].isin(seen["digest"].dropna())
    same_names = scans["patient"].isin(seen["patient"].dropna())
    ours, theirs = pseudonym_key(scans), pseudonym_key(seen)
    known = ours == theirs if ours and theirs else bool(same_names.any())  # equal names prove an equal key
    return Overlap(int((same_voxels | (same_names & known)).sum()), known, bool(len(seen)))


def why_unknown(listed: bool) -> str:
    """The end of a sentence on an arm whose test patients may have been seen.

    Args:
        listed: Whether there is a list of what was seen.
    """
    return UNKNOWN if listed else PUBLIC
