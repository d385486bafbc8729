"""Whether all masks of a cohort name their structures alike, as far as their values tell.

warn_of_codings([(1,), (1, 2), (255,)])     # 255 never stands beside the others: another way to write 1?

Nothing is changed: only who made the masks knows what their values mean.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence


def codings(masks: Iterable[Sequence[int]]) -> list[dict[int, int]]:
    """Return the groups of structures of which no two stand in one mask, each as structure -> how many masks have it.

    Args:
        masks: The structures of each mask.

    >>> codings([(1,), (1, 2), (255,), ()])
    [{1: 2, 2: 1}, {255: 1}]
    """
    counts: Counter[int] = Counter()
    groups: list[set[int]] = []
    for structures in masks:
        counts.update(structures)
        touched = [group for group in groups if not group.isdisjoint(structures)]
        groups = [group for group in groups if group not in touched]
        if structures:
            groups.append(set(structures).union(*touched))
    return [{value: counts[value] for value in sorted(group)} for group in sorted(groups, key=min)]


def warn_of_codings(masks: Iterable[Sequence[int]]) -> None:
    """Warn where masks may call the same structure by different values, such as 1 and 255.

    Args:
        masks: The structures of each mask.
    """
    groups = codings(masks)
    if len(groups) < 2:
        return
    shown = ["; ".join(f"{value} in {count} masks" for value, count in group.items()) for group in groups]
    warnings.warn(
        f"structures that never stand in one mask: {', and '.join(shown)}; each counts as a structure of its own. Where they are "
        "the same, give all masks one value for it and prepare again",
        stacklevel=5,
    )
