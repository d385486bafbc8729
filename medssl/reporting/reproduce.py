"""The command that makes a study again, from its record.

print(command(run))        # medssl study --data CACHE --out STUDY --task ...
"""

from __future__ import annotations

from typing import Any

from medssl.core.runs import Run
from medssl.reporting.redaction import without_paths
from medssl.studies.results import pretraining_of


def command(run: Run) -> str:
    """Return the command of a study, with the folders left for the reader to fill in."""
    config = run.config
    runs = pretraining_of(config)
    placeholders = {
        arm: f"RUN_{i}" if len(each) == 1 else f"'RUN_{i}_{{1..{len(each)}}}'"
        for i, (arm, each) in enumerate(runs.items(), 1)
    }
    arms = [placeholders.get(arm, arm) for arm in config.get("arms", [])]
    given = config.get("given_options", config.get("asked", {}))  # "asked": in records of medssl 0.1
    options = {"task": config.get("task", ""), "arms": arms} | given
    words = [f"--{name.replace('_', '-')} {_option_text(value)}" for name, value in options.items()]
    lines = [
        f"# {word}: {arm}, run {', '.join(str(run.get('id') or '–') for run in runs[arm])}"
        for arm, word in placeholders.items()
    ]
    if chosen := config.get("selection", {}).get("run"):
        by_id = {
            run.get("id"): f"RUN_{place}" if len(each) == 1 else f"RUN_{place}_{number}"
            for place, each in enumerate(runs.values(), 1)
            for number, run in enumerate(each, 1)
        }
        words.append(f"--selection-run {by_id.get(chosen, 'SELECTION_RUN')}")
        lines += [] if chosen in by_id else [f"# SELECTION_RUN: run {chosen}"]
    return without_paths("\n".join([" ".join(["medssl study --data CACHE --out STUDY", *words]), *lines]))


def _option_text(value: Any) -> str:
    """The value of an option as it is typed on the command line."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
