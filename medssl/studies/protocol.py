"""The points that a sound label-efficiency study meets, and which of them a study does meet.

points = protocol_points(runs.read("studies/hippo").config)
points["inductive"]                 # {"met": True, "evidence": "no test scan or patient was pretrained on"}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from medssl.datasets.splits import MIN_PATIENTS_FOR_VALIDATION
from medssl.preprocessing.data_spec import DataSpec
from medssl.preprocessing.expected import same_spacing
from medssl.studies.arms import BASELINES, start_of

Config = dict[str, Any]
POINTS = (  # in the order in which they are read; the keys of a record are sorted
    "split by patient",
    "untouched test set",
    "budget includes validation",
    "nested stratified budgets",
    "paired arms",
    "strong baselines",
    "fine-tuning settings",
    "preprocessing parity",
    "inductive",
    "crossed statistics",
    "several pretraining runs",
    "labels saved",
    "cost beside every score",
    "losses published",
)


@dataclass(frozen=True)
class Point:
    """Whether a study meets a point (None: does not apply, or is shown elsewhere), and the evidence."""

    met: bool | None
    evidence: str


def protocol_points(config: Config) -> dict[str, dict[str, Any]]:
    """Return every point of the protocol with its verdict and evidence, from the config of a study's record."""
    patients = config["patients"]
    points = {
        "split by patient": Point(
            True,
            f"{patients['train']} train, {patients['validation']} validation, {patients['test']} test patients; no exact "
            "duplicate of a test scan outside of it",
        ),
        "untouched test set": _untouched(config),
        "budget includes validation": Point(
            True,
            f"a checkpoint is chosen on a fifth of the budget's own patients from {MIN_PATIENTS_FOR_VALIDATION} on; below, the "
            "schedule is fixed",
        ),
        "nested stratified budgets": Point(True, "stored in subsets.parquet; actual counts in the table"),
        "paired arms": Point(True, "same subset, order, augmentation keys and head seed in every arm of a draw"),
        "strong baselines": _baselines(config),
        "fine-tuning settings": _finetuning(config),
        "preprocessing parity": _parity(config),
        "inductive": _inductive(config),
        "crossed statistics": Point(
            True, "draws x patients, generalized pivotal quantity; Holm over the table's comparisons"
        ),
        "several pretraining runs": _pretraining_runs(config),
        "labels saved": Point(None, "in the report, where the curves allow it"),
        "cost beside every score": Point(True, "seconds, memory and samples a second in every cell"),
        "losses published": Point(True, "every requested arm and budget is in the table"),
    }
    return {name: asdict(points[name]) for name in POINTS}


def _untouched(config: Config) -> Point:
    if config["score_on"] == "test":
        return Point(True, "test read once a cell, after training")
    return Point(False, "exploration: scored on validation patients")


def _baselines(config: Config) -> Point:
    """Whether the baselines that the protocol asks for are among the arms, and whether each was tuned as hard."""
    arms = config["arms"]
    missing = [name for name in BASELINES if name not in arms]
    missing += [] if any(start_of(arm) == "scratch" for arm in arms) else ["semi-supervised on scratch"]
    absent = f"; without {', '.join(missing)}" if missing else ""
    return Point(False, f"arms: {', '.join(arms)}{absent}; {_trials(config)}; {_public(config)}")


def _public(config: Config) -> str:
    imported = [arm for arm, about in config["pretraining"].items() if "receipt" in about]
    return f"public weights: {', '.join(imported)}" if imported else "no ImageNet arm"


def _trials(config: Config) -> str:
    trials = config.get("trials")
    if not trials:
        return "the settings are fixed, no arm has trials of its own"
    return (
        f"{trials['count']} trials of every arm in each cell by {trials['folds']}-fold cross-validation inside its labels, from "
        f"{trials['min_patients']} patients on; below, the settings are fixed"
    )


def _pretraining_runs(config: Config) -> Point:
    """Whether every pretrained arm has several runs; what one run would give with another seed is in no interval."""
    counts = {arm: len(about["runs"]) for arm, about in config["pretraining"].items()}
    if not counts:
        return Point(None, "no arm is pretrained")
    single = [arm for arm, count in counts.items() if count == 1]
    several = [f"{count} of {arm}" for arm, count in counts.items() if count > 1]
    evidence = (
        [f"one run of {', '.join(single)}: p and interval are about this run, not about its method"] if single else []
    )
    evidence += [f"{', '.join(several)}: a random effect, with the draws within it"] if several else []
    return Point(not single, "; ".join(evidence))


def _finetuning(config: Config) -> Point:
    """Whether every arm has the same settings, and how long it trains; what differs for a pretrained encoder."""
    settings = config["settings"]
    names = (
        "lr",
        "batch_size",
        "weight_decay",
        "growth",
        "averaging",
        "balanced",
        "augmentation",
        "pasting",
        "precision",
    )
    different = [name for name in names if len({str(each.get(name)) for each in settings.values()}) > 1]
    growth = next(iter(settings.values())).get("growth")
    length = (
        f"steps grow with the labelled scans to the power of {growth:g}" if growth else "the same steps at every budget"
    )
    evidence = f"one rate, batch, augmentation and averaging in all arms; {length}"
    if different:
        evidence = f"the arms differ in {', '.join(different)}"
    pretrained = [each for arm, each in settings.items() if arm in config["pretraining"]]
    if pretrained:
        first = pretrained[0]
        evidence += (
            f"; a pretrained encoder learns at {first['encoder_share']:g} of the rate, after its head, which is alone for "
            f"{first['head_first']:.0%} of the steps"
        )
    return Point(not different, evidence)


def _parity(config: Config) -> Point:
    """Whether every pretraining run had the spacing of this study, to 5%."""
    data_spec = DataSpec.from_record(config)
    others = [arm for arm, pretraining in config["pretraining"].items() if not same_spacing(pretraining, data_spec)]
    evidence = f"one cache and crop, spacing {data_spec.spacing_mm} mm, in all arms"
    return Point(not others, evidence + (f"; pretrained at another spacing: {', '.join(others)}" if others else ""))


def _inductive(config: Config) -> Point:
    seen = {arm: count for arm, count in config["seen_test_scans"].items() if count}
    if seen:
        return Point(False, f"test scans seen in pretraining: {seen}")
    if unknown := [arm for arm, count in config["seen_test_scans"].items() if count is None]:
        return Point(False, f"whether test patients were seen in pretraining cannot be known: {', '.join(unknown)}")
    return Point(True, "no test scan or patient was pretrained on")
