"""Tables of what a study's record states: its cohort, and every setting that it was made with.

table = settings(run.config)        # one row a setting, in place of the record's JSON
"""

from __future__ import annotations

from typing import Any

from medssl.core.runs import Run, flatten
from medssl.core.spec import plain
from medssl.preprocessing.data_spec import DataSpec
from medssl.reporting.redaction import without_paths
from medssl.reporting.tables import Table
from medssl.reporting.values import value_text

ROLES = {"train": "for training, of whom the budgets are drawn", "validation": "for validation", "test": "for testing"}


def cohort(run: Run) -> Table:
    """Describe the scans and the patients of a study."""
    config, data_spec = run.config, DataSpec.from_record(run.config)
    table, patients = Table(["=", ""]), config.get("patients", {})
    for role in sorted(patients, key=[*ROLES, *patients].index):
        table.add(f"patients {ROLES.get(role, role)}", patients[role])
    table.add("patients whose scores count", config.get("scored_patients", "–"))
    table.add("scans whose scores count", config.get("scored_scans", "–"))
    table.add("modality", data_spec.modality)
    table.add("dimensions, channels", f"{data_spec.dims}, {data_spec.channels}")
    table.add("spacing, mm", " × ".join(f"{step:g}" for step in data_spec.spacing_mm or ()) or "–")
    table.add("size, pixels", " × ".join(map(str, data_spec.size or ())) or "–")
    kind = "structures" if config.get("task") == "segmentation" else "classes"
    table.add(kind, ", ".join(map(str, config.get("classes") or ())) or "–")
    return table


def settings(config: dict[str, Any]) -> Table:
    """List every setting of a record by its dotted name; a long value is cut, with a digest by which two can be compared."""
    table = Table(["=setting", "value"])
    for name, value in sorted(flatten(_numbered(plain(config))).items()):
        text = ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else value
        table.add(without_paths(name), value_text(text) or "–")
    return table


def _numbered(value: Any) -> Any:
    """The value with every list that holds dicts or lists as a dict of its places, so that `flatten` names each entry."""
    if isinstance(value, dict):
        return {key: _numbered(item) for key, item in value.items()}
    if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
        return {str(place): _numbered(item) for place, item in enumerate(value)}
    return value
