"""The points that a sound label-efficiency study meets, and which of them a study does meet.

points = protocol_points(runs.read("studies/hippo").config)
points["inductive"]                 # {"met": True, "evidence": "no test scan or patient was pretrained on"}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from medssl.preprocessing.data_spec import DataSpec

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
            "a checkpoint is chosen on a fifth of the budget's own patients from 10 on; below, the schedule is fixed",
        ),
        "nested stratified budgets": Point(True, "stored in subsets.parquet; actual counts in the table"),
        "paired arms": Point(True, "same subset, order, augmentation keys and head seed in every arm of a draw"),
        "strong baselines": Point(
            False,
            f"arms: {', '.join(config['arms'])}; scratch has the same learning rate as the others, no trials of its own; no "
            "ImageNet and no semi-supervised arm",
        ),
        "fine-tuning settings": _finetuning(config),
        "preprocessing parity": _parity(config),
        "inductive": _inductive(config),
        "crossed statistics": Point(
            True, "draws x patients, generalized pivotal quantity; Holm over the table's comparisons"
        ),
        "labels saved": Point(None, "in the report, where the curves allow it"),
        "cost beside every score": Point(True, "seconds, memory and samples a second in every cell"),
        "losses published": Point(True, "every requested arm and budget is in the table"),
    }
    return {name: asdict(points[name]) for name in POINTS}


def _untouched(config: Config) -> Point:
    if config["score_on"] == "test":
        return Point(True, "test read once a cell, after training")
    return Point(False, "exploration: scored on validation patients")


def _finetuning(config: Config) -> Point:
    """Whether every pretrained encoder starts after its head and learns at a smaller rate."""
    pretrained = {arm: settings for arm, settings in config["settings"].items() if arm in config["pretraining"]}
    if not pretrained:
        return Point(None, "no pretrained arm")
    evidence = (
        f"{arm}: encoder at {settings['encoder_share']:g} of the rate, head alone for {settings['head_first']:.0%} of the steps"
        for arm, settings in pretrained.items()
    )
    gentle = all(settings["encoder_share"] < 1 and settings["head_first"] > 0 for settings in pretrained.values())
    return Point(gentle, "; ".join(evidence))


def _parity(config: Config) -> Point:
    """Whether every pretraining run had the spacing of this study, to 5%."""
    data_spec = DataSpec.from_record(config)
    others = [
        arm
        for arm, pretraining in config["pretraining"].items()
        if not data_spec.same_spacing(DataSpec.from_record(pretraining))
    ]
    evidence = f"one cache and crop, spacing {data_spec.spacing_mm} mm, in all arms"
    return Point(not others, evidence + (f"; pretrained at another spacing: {', '.join(others)}" if others else ""))


def _inductive(config: Config) -> Point:
    seen = {arm: count for arm, count in config["seen_test_scans"].items() if count}
    if seen:
        return Point(False, f"test scans seen in pretraining: {seen}")
    return Point(True, "no test scan or patient was pretrained on")
