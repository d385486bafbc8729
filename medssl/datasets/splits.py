"""Who trains, who tests, and which patients a label budget buys: always by patient, always seeded, always nested.

    roles = SplitSpec(seed=0).roles(cache.manifest)            # patient -> train | validation | test
    subsets = label_budgets(roles, classes, ["1%", "10%"], seed=0)

A budget is a share of the labelled training patients ("5%", 0.05) or a number of them ("3p"), and includes the
validation patients that are cut from it. Every draw orders the training patients once and each budget takes a prefix
of that order, so 1% lies within 10% lies within 100%. The order starts with the fewest patients that together show
every class, so no budget leaves a class without a patient; the real counts are in the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medssl.core.errors import MedsslError
from medssl.core.settings import check_numbers

ROLES = ("train", "validation", "test")
MIN_PATIENTS_FOR_VALIDATION = (
    25  # patients; a smaller budget trains all of them on the fixed schedule, because a fifth of
)
# it would be 4 patients or fewer, whose score is mostly chance
VALIDATION_SHARE = 0.2
DEFAULT_DRAWS = 10  # of every budget: with three, no p-value of practical size can be small


@dataclass(frozen=True)
class SplitSpec:
    """Which patients train, validate and test: the options --split-seed and --split-column.

    Attributes:
        seed: Seed of the random split by patient.
        column: Label column that holds the role of each scan (train, validation, test), instead of a random split.

    Raises:
        MedsslError: The seed is negative.
    """

    option_prefix: ClassVar[str] = "split_"
    seed: int = 0
    column: str | None = None

    def __post_init__(self) -> None:
        check_numbers(self)

    def roles(self, manifest: pd.DataFrame) -> pd.Series:
        """The role (train, validation, test) of each patient, indexed by patient; see `split`."""
        return split(manifest, self.seed, column=self.column)

    def to_record(self) -> dict[str, Any]:
        """The fields by their option names, as a run's config keeps them."""
        return {"split_seed": self.seed, "split_column": self.column}


def split(
    manifest: pd.DataFrame, seed: int = 0, validation: float = 0.1, test: float = 0.3, column: str | None = None
) -> pd.Series:
    """A role (train, validation, test) for each patient, indexed by patient.

    Stratified over all label columns with few values. Patients who share a scan with identical voxels count as one
    person.

    Args:
        manifest: The scans.
        seed: Seed of the draw.
        validation: Share of the patients for validation.
        test: Share of the patients for the test.
        column: Take the roles from this label column instead (MedMNIST's own `split`).

    Raises:
        MedsslError: Shares do not fit, there are too few patients, or the column gives a patient two roles.
    """
    if column is not None:
        return _given_roles(manifest, column)
    if not (0 <= validation < 1 and 0 < test < 1 and validation + test < 1):
        raise MedsslError(
            f"the split has validation {validation} and test {test}: expected shares that add up to less than 1"
        )
    groups = _people(manifest)
    strata = _strata(manifest.assign(person=manifest["patient"].map(groups)))
    people = np.array(list(strata.index))
    if len(people) < 3:
        raise MedsslError(f"{len(people)} patient(s): expected at least 3, to train on some and to test on others")
    generator = np.random.default_rng([seed, 1])
    shuffled = people[generator.permutation(len(people))]
    ordered = sorted(shuffled, key=lambda person: strata[person])
    places = (np.arange(len(ordered)) + generator.random()) % len(ordered)
    slots = _systematic(len(ordered), (1 - validation - test, validation, test), generator)
    roles = {person: slots[int(place)] for person, place in zip(ordered, places)}
    _at_least_one(roles, ordered, validation)
    return pd.Series({patient: roles[groups[patient]] for patient in manifest["patient"].unique()}, name="role")


def label_budgets(
    roles: pd.Series, classes: Mapping[str, Iterable], budgets: list[str], seed: int = 0, draws: int = DEFAULT_DRAWS
) -> pd.DataFrame:
    """The patients of each draw and budget: columns draw, budget_name, budget, patient, role (train, validation).

    Args:
        roles: The role of each patient, as `split` returns it.
        classes: For each patient, the classes or structures labelled in them.
        budgets: Shares ("5%", "0.05") or numbers ("3p") of the labelled training patients.
        seed: Seed of the draws.
        draws: Draws of each budget.

    Raises:
        MedsslError: A budget comes to no patient or to more than there are, or is given twice, or no training patient has a label.
    """
    train = [p for p in roles.index[roles == "train"] if p in classes]
    if not train:
        raise MedsslError(
            "no training patient has a label: expected at least one; join labels with `medssl index --labels`"
        )
    _check_distinct(budgets, len(train))
    rows = []
    for name in budgets:
        count, _ = budget_size(name, len(train))
        for draw in range(draws):
            order = _order(train, classes, np.random.default_rng([seed, 2, draw]))
            chosen = budget_roles(order, classes, count)
            rows += [(draw, name, len(chosen) / len(train), p, role) for p, role in chosen.items()]
    return pd.DataFrame(rows, columns=["draw", "budget_name", "budget", "patient", "role"])


def budget_roles(order: list[str], classes: Mapping[str, Iterable], count: int) -> dict[str, str]:
    """The patients that a budget buys in an order of labelling, with the role of each (train, validation).

    The first few patients of the order who together show every class that it shows come first, whatever their place.

    Args:
        order: Patients, the most wanted first.
        classes: For each patient, the classes or structures labelled in them.
        count: How many to take; more, if fewer do not show every class.
    """
    head = _cover(order, classes)
    chosen = [*head, *(p for p in order if p not in set(head))][: max(count, len(head))]
    held_out = _validation(chosen, len(head))
    return {p: "validation" if p in held_out else "train" for p in chosen}


def _check_distinct(budgets: list[str], patients: int) -> None:
    """Raise MedsslError for a budget that is given twice, as 5% and 0.05 are: its patients would count twice."""
    given: dict[tuple[str, float], str] = {}
    for name in map(str, budgets):
        count, _ = budget_size(name, patients)
        request = ("patients", float(count)) if "p" in name else ("share", round(_share(name), 12))
        if request in given:
            raise MedsslError(
                f"the budgets {given[request]} and {name} are the same: expected each once; leave one out"
            )
        given[request] = name


def duplicates_across(manifest: pd.DataFrame, roles: pd.Series) -> int:
    """The number of test scans whose voxels also stand, byte for byte, in a scan of another role.

    Args:
        manifest: The scans, with the digest of their voxels.
        roles: The role of each patient, as `split` returns it.
    """
    role = manifest["patient"].map(roles)
    return int(manifest["digest"][role == "test"].isin(manifest["digest"][role != "test"]).sum())


def budget_size(budget: str, patients: int) -> tuple[int, float]:
    """How many of the patients a budget comes to, and which share of them.

    Args:
        budget: A share ("5%", "0.05") or a number ("3p").
        patients: How many there are.

    Raises:
        MedsslError: It is neither, or comes to none or to more than there are.
    """
    match = re.fullmatch(r"\s*(?:(\d+)\s*(?:p|patients?)|(\d*\.?\d+)\s*(%?))\s*", str(budget))
    if match and match[1]:
        count = int(match[1])
    else:
        share = _share(budget) if match else 0.0
        if not 0 < share <= 1:
            raise MedsslError(
                f"the budget {budget!r} is not a share of the training patients: expected for example 1%, 0.01 or 3p (three patients)"
            )
        count = round(share * patients)
    if not 0 < count <= patients:
        raise MedsslError(
            f"the budget {budget!r} comes to {count} of {patients} training patients: expected 1 to {patients}; "
            f"the smallest budget is 1p, which is {100 / patients:.1f}%"
        )
    return count, count / patients


def _share(budget: str) -> float:
    """The share that a budget such as 5% or 0.05 names."""
    text = str(budget).strip()
    return float(text.rstrip("% ")) / (100 if text.endswith("%") else 1)


def _cover(order: list[str], classes: Mapping[str, Iterable]) -> list[str]:
    """The first few patients of an order who together show every class that it shows."""
    missing = {c for p in order for c in classes[p]}
    head: list[str] = []
    while missing:
        best = max(order, key=lambda p: len(missing & set(classes[p])))
        head.append(best)
        missing -= set(classes[best])
    return head


def _order(train: list[str], classes: Mapping[str, Iterable], generator: np.random.Generator) -> list[str]:
    """One draw's order of the patients: those who show every class, then the others, each class in proportion."""
    shuffled = [train[i] for i in generator.permutation(len(train))]
    head = _cover(shuffled, classes)
    strata: dict[tuple, list[str]] = {}
    for patient in shuffled:
        if patient not in head:
            strata.setdefault(tuple(sorted(map(str, classes[patient]))), []).append(patient)
    rest = []
    for members in strata.values():
        offset = generator.random()
        rest += [((i + offset) / len(members), p) for i, p in enumerate(members)]
    return head + [p for _, p in sorted(rest)]


def _validation(chosen: list[str], cover: int) -> set[str]:
    """Patients cut from the budget to choose a checkpoint on; none where the budget is small."""
    if len(chosen) < MIN_PATIENTS_FOR_VALIDATION:
        return set()
    rest = chosen[cover:]
    every = round(1 / VALIDATION_SHARE)
    return set(rest[every - 1 :: every])


def _systematic(count: int, shares: tuple[float, ...], generator: np.random.Generator) -> list[str]:
    """Roles distributed evenly over `count` places, so that any run of neighbours has them in proportion."""
    bounds = np.cumsum(shares)
    offset = generator.random()
    steps = (np.arange(count) * 0.6180339887498949 + offset) % 1.0
    ranks = np.argsort(np.argsort(steps))
    return [ROLES[int(np.searchsorted(bounds, (r + 0.5) / count))] for r in ranks]


def _at_least_one(roles: dict[str, str], ordered: list[str], validation: float) -> None:
    for wanted in ("test", "train") + (("validation",) if validation else ()):
        if wanted not in roles.values():
            common = max(ROLES, key=lambda r: list(roles.values()).count(r))
            roles[next(p for p in ordered if roles[p] == common)] = wanted


def _people(manifest: pd.DataFrame) -> dict[str, int]:
    """The number of the person behind each patient: patients who share a scan with identical voxels are one person."""
    patients, names = pd.factorize(manifest["patient"])
    digests, distinct = pd.factorize(manifest["digest"])  # -1 where there is none
    known = digests >= 0
    count = len(names) + len(distinct)  # the nodes of a graph: patients, then the digests of their scans
    ends = patients[known], len(names) + digests[known]
    _, people = connected_components(coo_array((np.ones(known.sum()), ends), (count, count)), directed=False)
    return dict(zip(names, people.tolist()))


def _strata(manifest: pd.DataFrame) -> pd.Series:
    columns = sorted(c for c in manifest if c.startswith("label.") and 1 < manifest[c].nunique() <= 10)
    if not columns:
        return pd.Series("", index=manifest["person"].unique())
    commonest = manifest.groupby("person", sort=False)[columns].agg(
        lambda v: v.mode().astype(str).min() if v.notna().any() else ""
    )
    return commonest.astype(str).agg("|".join, axis=1)


def _given_roles(manifest: pd.DataFrame, column: str) -> pd.Series:
    name = f"label.{column}"
    if name not in manifest:
        raise MedsslError(f"the manifest has no column {name}: expected the roles of the split there")
    alias = {"val": "validation", "valid": "validation", "training": "train", "testing": "test"}
    roles = manifest[name].astype(str).str.lower().replace(alias)
    unknown = sorted(set(roles) - set(ROLES))
    if unknown:
        raise MedsslError(
            f"the split column {column} holds {len(unknown)} other value(s): expected train, validation and test"
        )
    counts = roles.groupby(manifest["patient"]).nunique()
    if (counts > 1).any():
        raise MedsslError(
            f"{int((counts > 1).sum())} patient(s) stand in two roles of the split column {column}, the first is "
            f"{counts.index[counts > 1][0]}: expected one role a patient; leave --split-column out to split by patient"
        )
    return roles.groupby(manifest["patient"], sort=False).first().rename("role")
