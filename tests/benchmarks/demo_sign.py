"""Does the gain that the demo shows have the same sign in other cohorts? Ten seeds, fixed beforehand, none of them the demo's.

python -m tests.benchmarks.demo_sign [--quick]

For each seed: another phantom cohort, split and draw; scratch and the demo's semi-supervised arm with one labelled patient; the
paired difference in Dice on the test patients.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import joblib
from scipy.stats import binomtest

from medssl.cli.demo import CROP, FINETUNING, MASKS, SEMI_SUPERVISED, SHAPE, SPACING_MM
from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import phantom
from medssl.datasets.splits import SplitSpec
from medssl.encoders.resnet import ResNet
from medssl.preprocessing.cache import prepare
from medssl.studies.settings import StudyDesign
from medssl.studies.study import study

SEEDS = range(1, 11)
PATIENTS = 240


def gain(seed: int, patients: int = PATIENTS) -> float:
    """The semi-supervised arm's Dice minus that of scratch, for one cohort and one draw."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantom(folder / "scans", patients=patients, seed=seed, shape=SHAPE, spacing_mm=SPACING_MM)
        labels = folder / "scans" / "labels.csv"
        index([folder / "scans"], folder / "manifest", labels=labels, patient="patient", mask=MASKS)
        prepare(folder / "manifest", folder / "cache")
        table = study(
            folder / "cache",
            folder / "study",
            "segmentation",
            ["scratch", SEMI_SUPERVISED],
            ["1p"],
            encoder=ResNet(dims=2, depth=10, width=16, max_pool=False),
            crop=CROP,
            train=FINETUNING,
            design=StudyDesign(draws=1, seed=seed),
            split=SplitSpec(seed),
        )
    dice = table[table["metric"] == "dice"].set_index("arm")["mean"]
    return float(dice[SEMI_SUPERVISED] - dice["scratch"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one seed, fewer patients")
    quick = parser.parse_args().quick
    seeds = [*SEEDS][:1] if quick else [*SEEDS]
    work = joblib.delayed(gain)
    gains = joblib.Parallel(n_jobs=2)(work(seed, 60 if quick else PATIENTS) for seed in seeds)
    for seed, value in zip(seeds, gains, strict=True):
        print(f"seed {seed}: {value:+.4f}")
    positive = sum(value > 0 for value in gains)
    p = binomtest(positive, len(gains)).pvalue
    print(f"above zero: {positive} of {len(gains)}, sign test p = {p:.3f}, mean {sum(gains) / len(gains):+.4f}")
    ratios = {"share of seeds above zero": positive / len(gains)}
    print(
        json.dumps({"ratios": ratios, "goals": {"share of seeds above zero": 0.8}, "met": positive >= 0.8 * len(gains)})
    )


if __name__ == "__main__":
    main()
