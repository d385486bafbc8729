"""Labels on their way back: those of a manifest with what readers changed, as a CSV that `index` takes.

    content = label_file(read_table(Path("cache/manifest.parquet")), "finding", {"85f3706036c9": "cyst"})
    # medssl index SCANS --out manifest --labels labels.csv --key scan --patient patient --label finding

The file names scans and patients by their pseudonyms, so it is of use to the manifest of the same key alone, and it holds
every label of every scan, so that indexing with it changes nothing but what the readers changed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import pandas as pd

from medssl.core.errors import MedsslError
from medssl.datasets.labels import check_classes
from medssl.datasets.manifest import scan_of_frame


def label_names(manifest: pd.DataFrame) -> list[str]:
    """Return the names of the labels in a manifest."""
    return [str(name).removeprefix("label.") for name in manifest if str(name).startswith("label.")]


def known_classes(manifest: pd.DataFrame, label: str) -> list[str]:
    """Return the values of a label as they are written, in order; none where there is no such label.

    Args:
        manifest: Of the cohort, or of a cache.
        label: Name of the label.
    """
    column = f"label.{label}"
    return sorted({_written(value) for value in manifest[column].dropna()}) if column in manifest else []


def label_file(manifest: pd.DataFrame, label: str, changes: Mapping[str, str]) -> bytes:
    """Return the CSV.

    Args:
        manifest: Of the cohort, or of a cache; scans of unknown patients are left out.
        label: The label that readers worked on; a new one where the manifest has none of this name.
        changes: Scan -> its value; of the frames of one scan the last counts.

    Raises:
        MedsslError: The label cannot be a column, or its values are not those of classes.
    """
    if not label.strip() or label in ("scan", "patient"):
        raise MedsslError(f"the label is called {label!r}: expected a name for its column, other than scan and patient")
    known = manifest[manifest["patient"].notna()]
    table = pd.DataFrame({"scan": known["scan"].map(scan_of_frame), "patient": known["patient"]})
    for name in dict.fromkeys([*label_names(manifest), label]):
        column = f"label.{name}"
        table[name] = known[column].map(_written) if column in known else ""
    table = table.drop_duplicates("scan", ignore_index=True)
    changed = table["scan"].map({scan_of_frame(scan): value.strip() for scan, value in changes.items()})
    table[label] = changed.fillna(table[label])
    content = table.to_csv(index=False).encode()
    check_classes(label, pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""])[label])
    return content


def _written(value: object) -> str:
    """A value as a CSV has it: 1.0 in a column with gaps is 1."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
