"""The receipts of imported weights as a table, for a report: where each file is from, its licence, what of it is in the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl.core.spec import plain
from medssl.reporting.tables import Table
from medssl.weights.receipt import Receipt


def public_weights(configs: Mapping[str, Any]) -> Table | None:
    """Return one row for each line of each receipt; None where no run was imported.

    Args:
        configs: Name of an arm or run -> the config of its record.
    """
    table = Table(["=arm", "=part", "what"])
    for name, config in configs.items():
        if "receipt" not in config:
            continue
        source = config["source"]
        table.add(name, "layout", source["layout"], first=True)
        table.add("", "licence", source["licence"])
        table.add("", "file", f"sha256 {source['sha256'][:16]}…")
        expected = {key: value for key, value in plain(config["expects"]).items() if value}
        table.add(
            "", "expects", "; ".join(f"{key} {_text(value)}" for key, value in expected.items()) or "nothing stated"
        )
        for line in Receipt.from_record(config["receipt"]).lines():
            table.add("", line[:12].strip(), line[12:])
    return table if table.rows else None


def _text(value: Any) -> str:
    return " x ".join(f"{n:g}" for n in value) if isinstance(value, list | tuple) else str(value)
