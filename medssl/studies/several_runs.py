"""Several pretraining runs as one arm: runs that differ in their seeds alone, one of them behind each draw.

    expand_braces("runs/simclr-{0,1,2}")          # runs/simclr-0, runs/simclr-1, runs/simclr-2
    common_name(["simclr-0", "simclr-1"])         # simclr-{0,1}

One run is one sample of what its method gives: another seed gives other weights and another score. Imports no torch.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from medssl.core import runs
from medssl.core.errors import MedsslError

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(text: str) -> list[str]:
    """Return the words that a shell makes of a text with braces; the text alone where it has none.

    >>> expand_braces("runs/simclr-{0..2}")
    ['runs/simclr-0', 'runs/simclr-1', 'runs/simclr-2']
    """
    match = BRACES.search(text)
    if match is None:
        return [text]
    before, after = text[: match.start()], expand_braces(text[match.end() :])
    return [before + choice + rest for choice in _choices(match[1]) for rest in after]


def _choices(inside: str) -> list[str]:
    """What stands between braces: words between commas, or all numbers of a range."""
    if numbers := RANGE.fullmatch(inside.strip()):
        return [str(number) for number in range(int(numbers[1]), int(numbers[2]) + 1)]
    return [word.strip() for word in inside.split(",")]


def common_name(names: Sequence[str]) -> str:
    """Return the text with braces that stands for several names; what they share at their ends stands outside of them.

    >>> common_name(["a-simclr", "b-simclr"])
    '{a,b}-simclr'
    """
    start = _shared_start(names).rstrip(string.digits)  # no number is cut in two
    rest = [name.removeprefix(start) for name in names]
    end = _shared_start([word[::-1] for word in rest])[::-1].lstrip(string.digits)
    return f"{start}{{{','.join(word.removesuffix(end) for word in rest)}}}{end}"


def _shared_start(words: Sequence[str]) -> str:
    return "".join(first for first, *_ in takewhile(lambda same: len(set(same)) == 1, zip(*words)))


def differences(first: runs.Run, other: runs.Run) -> dict[str, tuple[Any, Any]]:
    """What two pretraining runs differ in beside their seeds: the name of each setting -> both of its values.

    Args:
        first: One run.
        other: The other.
    """
    mine, theirs = (
        runs.flatten({"scans": run.data, "parent": run.parent, "config": run.config}) for run in (first, other)
    )
    return {name: (mine.get(name), theirs.get(name)) for name in mine | theirs if mine.get(name) != theirs.get(name)}


def check_same_but_seed(folders: Sequence[Path]) -> None:
    """Raise MedsslError where pretraining runs differ in more than their seeds, or two have the same seed.

    Args:
        folders: The runs of one arm.
    """
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise MedsslError(
            f"two runs of one arm are called {', '.join(names)}: expected different folders of different names"
        )
    first, *others = records = [runs.read(folder) for folder in folders]
    for name, other in zip(names[1:], others):
        if found := differences(first, other):
            listed = "; ".join(f"{setting} is {a!r} and {b!r}" for setting, (a, b) in found.items())
            raise MedsslError(
                f"the runs {names[0]} and {name} differ: {listed}: expected runs of one arm to differ in their seeds alone; give "
                "runs of other settings as other arms"
            )
    seeds = [record.seed for record in records]
    if len(set(seeds)) < len(seeds):
        raise MedsslError(
            f"the runs {', '.join(names)} have the seeds {', '.join(map(str, seeds))}: expected a different seed in each run of "
            "an arm; pretrain again with another --seed"
        )


def differing_in_seed_alone(folders: Sequence[Path]) -> list[list[Path]]:
    """Return the groups of two or more runs that could be one arm.

    Args:
        folders: Runs that are arms of their own.
    """
    groups: list[list[tuple[Path, runs.Run]]] = []
    for folder in folders:
        record = runs.read(folder)
        for group in groups:
            if not differences(group[0][1], record) and record.seed not in [other.seed for _, other in group]:
                group.append((folder, record))
                break
        else:
            groups.append([(folder, record)])
    return [[folder for folder, _ in group] for group in groups if len(group) > 1]
