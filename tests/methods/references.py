"""The reference that each method's loss is tested against, and the largest deviation from it: README.md beside this file.

    python -m tests.methods.references

It runs the tests that take the fixture `agrees` and fails where one of them fails or a row was never measured.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

TOLERANCE = 1e-5
HERE = Path(__file__).parent
INTRO = """# What every loss is tested against

The largest difference between the loss of a method, in float32, and an independent computation of it in float64 (numpy, the
published formula) or by another library; at most 1e-5, of the loss's size where it says so. Written by `python -m
tests.methods.references`.

"""
FORMULAE = {  # method: its part: where the formula stands that the test writes out in numpy, in float64, or the library
    "AIM": {"next patch": "El-Nouby et al. 2024 (arXiv 2401.08541), equation 2 with its prefix"},
    "Autoencoder": {"restoration": "mean squared error of every voxel (Baur et al. 2021, arXiv 2004.03271)"},
    "BYOL": {"both ways": "Grill et al. 2020 (arXiv 2006.07733), equation 2"},
    "BarlowTwins": {"cross-correlation": "Zbontar et al. 2021 (arXiv 2103.03230), algorithm 1"},
    "CLIP": {
        "pairs": "Radford et al. 2021 (arXiv 2103.00020), figure 3",
        "equal reports": "the same without the pairs whose reports read the same",
    },
    "DINO": {
        "views": "Caron et al. 2021 (arXiv 2104.14294), algorithm 1 with local views",
        "centre": "equation 4: the moving mean of the teacher's logits",
    },
    "DenoisingAutoencoder": {"restoration": "mean squared error over body (Vincent et al. 2010, JMLR 11)"},
    "IBOT": {
        "views and patches": "Zhou et al. 2022 (arXiv 2111.07832), equations 2 and 3",
        "patches alone": "equation 2, by the difference of two weights of it",
        "centres": "section 3.2: the moving means of the teacher's logits, of views and of patches",
    },
    "Jigsaw": {"answer": "cross-entropy of the permutation (Noroozi and Favaro 2016, arXiv 1603.09246)"},
    "Joint": {"weighted sum": "the formulae of SimMIM and SimCLR, weighted and added"},
    "MAE": {
        "masked patches": "He et al. 2022 (arXiv 2111.06377), section 3, patch by patch",
        "decoder and loss": "lightly 1.6: MaskedVisionTransformerDecoderTIMM, patchify, normalize_mean_var",
    },
    "MaskedMotion": {
        "frames and differences": "Yang et al. 2022 (arXiv 2210.04154): mean absolute errors of both, in tubes"
    },
    "MoCo": {
        "v2": "He et al. 2020 (arXiv 1911.05722), algorithm 1, two steps of its queue",
        "v3": "Chen, Xie and He 2021 (arXiv 2104.02057), algorithm 1",
    },
    "ModelsGenesis": {"restoration": "mean squared error over body (Zhou et al. 2021, arXiv 2004.07882)"},
    "NextSlice": {"next slices": "mean absolute error of the next ones (Mathieu et al. 2016, arXiv 1511.05440)"},
    "PatientContrast": {
        "positives": "Chen et al. 2020 (arXiv 2002.05709), equation 1, scans of a patient no negatives"
    },
    "RelativeLocation": {"answer": "cross-entropy of the side (Doersch et al. 2015, arXiv 1505.05192)"},
    "Rotation": {"answer": "cross-entropy of the turn (Gidaris et al. 2018, arXiv 1803.07728)"},
    "SimCLR": {
        "NT-Xent": "Chen et al. 2020 (arXiv 2002.05709), equation 1",
        "NT-Xent, lightly": "lightly 1.6: NTXentLoss against our own, which takes the other similarities",
    },
    "SimMIM": {
        "masked voxels": "Xie et al. 2022 (arXiv 2111.09886): mean absolute error of what is masked",
        "places": "the same, and the mean absolute error of each voxel's place",
        "intensities": "the same over every voxel of body (restore_intensity)",
    },
    "SimSiam": {"both ways": "Chen and He 2021 (arXiv 2011.10566), equation 2"},
    "SparK": {
        "masked blocks": "Tian et al. 2023 (arXiv 2301.03580), section 3.3, block by block",
        "sparse encoding": "section 3.1: a convolution and a norm over visible places, place by place",
    },
    "VAE": {
        "lower bound": "Kingma and Welling 2014 (arXiv 1312.6114), appendices B and C.2",
        "divergence": "appendix B alone, in nats a scan",
    },
    "VICReg": {"three terms": "Bardes et al. 2022 (arXiv 2105.04906), algorithm 1"},
    "VoCo": {"place and base crops": "Wu et al. 2024 (arXiv 2402.17300), equations 1 to 5, pair by pair"},
    "VolumeFusion": {
        "Dice and cross-entropy": "Wang et al. 2023 (arXiv 2306.16925), its section on Volume Fusion",
        "Dice": "MONAI 1.6: DiceLoss(softmax=True, to_onehot_y=True, batch=True)",
    },
}
MEASURED: dict[tuple[str, str], list[tuple[float, bool]]] = {}  # each deviation, and whether it is relative


def compare(method: str, part: str, ours: float, theirs: float, relative: bool = False) -> None:
    """Assert that two numbers differ by less than `TOLERANCE`, and keep by how much for the table.

    relative: to the size of `theirs`, for losses in the tens and hundreds, where float32 cannot do better.
    """
    assert part in FORMULAE[method], f"{method} has no {part!r} in references.py"
    deviation = abs(float(ours) - float(theirs)) / (abs(float(theirs)) if relative else 1.0)
    MEASURED.setdefault((method, part), []).append((deviation, relative))
    assert deviation < TOLERANCE, f"{method}, {part}: {ours} against {theirs}"


def rows() -> list[str]:
    """The table, a line a part; a part that no test has measured says so."""
    lines = ["| method | part | reference | largest deviation | comparisons |", "|---|---|---|---|---|"]
    for method, parts in FORMULAE.items():
        for part, reference in parts.items():
            computed = MEASURED.get((method, part), [])
            largest, relative = max(computed, default=(float("nan"), False))
            largest_text = f"{largest:.1e}{' (relative)' if relative else ''}" if computed else "not measured"
            lines.append(f"| {method} | {part} | {reference} | {largest_text} | {len(computed)} |")
    return lines


class _LossesAlone:
    """A pytest plugin: of what was collected the tests that compare a loss."""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if "agrees" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def main(arguments: Iterable[str] = ()) -> int:
    """Run the comparisons and print the table; 0 only if all agree and every part was measured."""
    code = pytest.main([str(HERE), *arguments], plugins=[_LossesAlone()])
    print("\n".join(rows()))
    missing = [
        f"{method}, {part}" for method, parts in FORMULAE.items() for part in parts if (method, part) not in MEASURED
    ]
    if missing:
        print("no test measured: " + "; ".join(missing), file=sys.stderr)
    return int(code) or bool(missing)


if __name__ == "__main__":
    from tests.methods import references  # the module that the tests write to, not this second copy of it

    failed = references.main(sys.argv[1:])
    (HERE / "README.md").write_text(INTRO + "\n".join(references.rows()) + "\n")
    sys.exit(failed)
