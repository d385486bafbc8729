"""Whether the pretraining runs of a study saw the scans that it scores on: the same voxels or patient, or nearly the same picture.

counts = seen_scans(folders, cache, roles, {"test"}, allow_seen=False)
pairs = near_duplicates(folders, cache, roles, {"test"})
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pandas as pd

from medssl.core.errors import MedsslError
from medssl.datasets.near_duplicates import alike, outlines
from medssl.datasets.overlap import overlap
from medssl.preprocessing.cache import Cache

SHOWN = 10  # ids in a warning
EMPTY = pd.DataFrame({"digest": [], "patient": [], "outline": []})


def seen_scans(
    folders: dict[str, tuple[Path, ...]], cache: Cache, roles: pd.Series, scored: set[str], allow_seen: bool
) -> dict[str, int | None]:
    """How many scans of the scored roles, by voxels or by patient, each arm's pretraining was given; None where that cannot be known.

    Args:
        folders: The pretraining runs of each arm.
        cache: The study's cache.
        roles: Patient -> train, validation or test.
        scored: The roles whose patients are scored.
        allow_seen: Whether a study may score on scans that were seen.

    Raises:
        MedsslError: Some were seen, and that is not allowed.
    """
    test = cache.manifest[cache.manifest["patient"].map(roles).isin(scored)]
    found = {
        arm: [overlap(test, pd.read_parquet(folder / "seen.parquet")) for folder in each]
        for arm, each in folders.items()
    }
    each_count = {arm: [one.count for one in each] for arm, each in found.items()}
    counts = {arm: None if None in each else max(filter(None, each), default=0) for arm, each in each_count.items()}
    if any(counts.values()) and not allow_seen:
        by_arm = ", ".join(f"{count} by {arm}" for arm, count in counts.items() if count)
        raise MedsslError(
            f"pretraining saw {' or '.join(sorted(scored))} scans or patients ({by_arm}): expected none; pretrain with the same --split-seed and "
            "without --transductive, or accept it with --allow-seen, and the report will say so"
        )
    for arm in (arm for arm, count in counts.items() if count is None):
        reason = next(str(one) for one in found[arm] if one.count is None)
        warnings.warn(f"whether {arm} was pretrained on test patients {reason}", stacklevel=3)
    return counts


def near_duplicates(
    folders: dict[str, tuple[Path, ...]], cache: Cache, roles: pd.Series, scored: set[str]
) -> dict[str, list[str]]:
    """The scored scans, by arm, that nearly equal a scan of another patient which its pretraining was given; none are left out.

    Runs of before outlines were kept in `seen.parquet` are not looked at.

    Args:
        folders: The pretraining runs of each arm.
        cache: The study's cache.
        roles: Patient -> train, validation or test.
        scored: The roles whose patients are scored.
    """
    tables = {arm: [pd.read_parquet(folder / "seen.parquet") for folder in each] for arm, each in folders.items()}
    seen = {arm: pd.concat([table for table in each if "outline" in table] or [EMPTY]) for arm, each in tables.items()}
    seen = {arm: table.dropna(subset=["outline"]) for arm, table in seen.items()}
    if not any(map(len, seen.values())):
        return {}
    test = cache.manifest[cache.manifest["patient"].map(roles).isin(scored)]
    ours = outlines(cache.read, test["scan"])
    found = {}
    for arm, table in seen.items():
        rows, columns = alike(ours, list(table["outline"])).nonzero()
        other = test["digest"].to_numpy()[rows] != table["digest"].to_numpy()[columns]
        other &= test["patient"].to_numpy()[rows] != table["patient"].to_numpy()[columns]
        if other.any():
            found[arm] = sorted(set(test["scan"].to_numpy()[rows[other]]))
            _warn(arm, found[arm])
    return found


def _warn(arm: str, scans: list[str]) -> None:
    shown = ", ".join(scans[:SHOWN]) + (", ..." if len(scans) > SHOWN else "")
    warnings.warn(
        f"{len(scans)} scored scan(s) look nearly the same as a scan of another patient that {arm} was pretrained on: {shown}; look "
        "at them (medssl where), and if they are copies put both patients into one split (--split-column)",
        stacklevel=4,
    )
