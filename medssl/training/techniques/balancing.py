"""Class-balanced sampling: a rare class is seen as often as a common one (Japkowicz and Stephen 2002).

balanced(["a", "b", "c"], {"a": 0, "b": 1, "c": 1})         # ["a", "b", "a", "c"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def balanced(scans: Sequence[str], classes: Mapping[str, int]) -> list[str]:
    """Return the scans of the classes in turn, each class as often as the largest; scans of small classes are repeated.

    Args:
        scans: Scans to draw from.
        classes: The class of each.

    >>> balanced(["a", "b", "c"], {"a": 0, "b": 1, "c": 1})
    ['a', 'b', 'a', 'c']
    """
    members: dict[int, list[str]] = {}
    for scan in scans:
        members.setdefault(classes[scan], []).append(scan)
    groups = [members[number] for number in sorted(members)]
    longest = max(map(len, groups), default=0)
    return [group[place % len(group)] for place in range(longest) for group in groups]
