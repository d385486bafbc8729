"""What the page Reading shows: the cases of one reader in an order of the reader's own, two arms on sides that change.

    pair = Pair("5%", 0, ("scratch", "finetune", "5%"), ("simmim", "finetune", "5%"))
    for scan in order("Ann", study, pair): a, b = sides("Ann", study, pair, scan)

Order and sides come from a hash of reader, study and pair, so that they stay the same when a page is opened again, and nobody
can tell the arms from them. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from medssl.core import runs
from medssl.reporting.dashboard import cases
from medssl.reporting.dashboard.study import Key, ReviewedStudy
from medssl.reporting.verdicts.readings import Answer, Reading, Side

SEED = "medssl reading 1"
GRADES = {1: "unusable", 2: "poor", 3: "fair", 4: "good", 5: "excellent"}
PREFERENCES = {"A": "A is better", "equal": "No difference", "B": "B is better"}


class Pair(NamedTuple):
    """What is read: the cells of one or two arms at a budget and a draw."""

    budget: str
    draw: int
    first: Key
    second: Key | None = None

    @property
    def keys(self) -> tuple[Key, ...]:
        """The arms that are there."""
        return (self.first, self.second) if self.second else (self.first,)


def default_pair(study: ReviewedStudy, budget: str, draw: int) -> tuple[Key, Key | None]:
    """Return scratch, or the first baseline, and the last pretrained arm, where there are two arms."""
    arms = cases.arms(study.cases, budget, draw)
    return (*arms[0], budget), (*arms[-1], budget) if len(arms) > 1 else None


def order(reader: str, study: ReviewedStudy, pair: Pair, scans: Sequence[str]) -> list[str]:
    """Return the cases that all arms of the pair have, among these scans, in the order of this reader."""
    known = set(scans)
    for key in pair.keys:
        known &= set(study.cases[key][pair.draw]["scan"])
    return sorted(known, key=lambda scan: _hash(reader, study, pair, f"place {scan}"))


def sides(reader: str, study: ReviewedStudy, pair: Pair, scan: str) -> dict[str, Key]:
    """Return what stands on side A and on side B for this reader and case."""
    if pair.second is None:
        return {"A": pair.first}
    swapped = _hash(reader, study, pair, f"side {scan}")[0] % 2 == 1
    arms = sorted(pair.keys)
    return dict(zip("AB", reversed(arms) if swapped else arms, strict=True))


def sides_as_runs(study: ReviewedStudy, pair: Pair, shown: dict[str, Key]) -> dict[str, Side]:
    """Return the runs of the cells on each side, as a verdict keeps them."""
    return {
        letter: Side(runs.read(study.cell_folder(key, pair.draw)).id, key[0], key[1]) for letter, key in shown.items()
    }


def reading_of(reader: str, study: ReviewedStudy, pair: Pair, scan: str, answers: Sequence[Answer]) -> Reading:
    """Return the reading of a case, ready to be saved."""
    table = study.cases[pair.first][pair.draw]
    patient = str(table.loc[table["scan"] == scan, "patient"].iloc[0])
    stood = sides_as_runs(study, pair, sides(reader, study, pair, scan))
    return Reading(
        reader, study.run.id, scan, patient, pair.budget, pair.draw, stood["A"], stood.get("B"), tuple(answers)
    )


def own_readings(all_readings: Sequence[Reading], study: ReviewedStudy, pair: Pair) -> dict[str, Reading]:
    """Return scan -> the reading that counts, of one reader's latest readings, of this pair."""
    ids = frozenset(side.run for side in sides_as_runs(study, pair, dict(zip("AB", pair.keys))).values())
    return {reading.scan: reading for reading in all_readings if reading.pair == ids}


def missing(answers: Sequence[Answer], shown: Sequence[str], structures: Sequence[int]) -> list[str]:
    """Return what a reader has not said yet, in words."""
    given = {(answer.question, answer.side, answer.structure) for answer in answers}
    wanted = {f"the grade of {side}": {("grade", side, s) for s in structures} for side in shown}
    if len(shown) > 1:
        wanted["which is better"] = {("prefer", "", 0)}
    return [what for what, asked in wanted.items() if not asked <= given]


def _hash(reader: str, study: ReviewedStudy, pair: Pair, what: str) -> bytes:
    arms = sorted("|".join(key) for key in pair.keys)
    text = "\0".join([SEED, reader, study.run.id, str(pair.draw), *arms, what])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
