"""Does every method learn? A minute of each on the phantom cohort, and what its encoder knows of the anatomy after that.

    python -m tests.methods.learning                             # every method there is, 3 seeds; prints a table
    python -m tests.methods.learning --longer                    # those of `LONGER`, each in a set-up that suits it
    python -m tests.methods.learning --methods BYOL DINO --seeds 1 --steps 100 --folder /tmp/learning

The probe: which organs does a crop of a patient never seen hold (lungs, liver, spine, vessels)? A logistic regression on
the frozen features says so; the figure is the mean AUROC of the four, beside that of the encoder as it was drawn. A method
that restores is also measured by the error of what it restored, over that of the mean image, where the scan was changed.
A method learns if its probe gains `MARGIN` over the seeds, or if it restores better than the mean image. One that is not
ahead of its untrained encoder in every seed, in this set-up or in the longer one, says so itself (`Method.experimental`).
The cohort stays in `--folder`.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import default_collate

import medssl.methods
from medssl.core.errors import MedsslError
from medssl.core.registry import METHODS
from medssl.core.spec import describe
from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import LABELS, phantom
from medssl.encoders import Encoder, ResidualUNet, ViT
from medssl.evaluation import representation as probes
from medssl.methods import Method, Rotation, SimCLR, SimMIM
from medssl.preprocessing.cache import Cache, prepare
from medssl.preprocessing.crops import Crops, source_within
from medssl.preprocessing.sample_fields import readers, resolve
from medssl.training.models import fresh_encoder
from medssl.training.pretrain import pretrain
from medssl.training.samples import pretraining_scans
from medssl.views import recipes
from tests.options import options

MARGIN = 0.05
STEPS, SEEDS, BATCH = 100, 3, 16
PATIENTS, MORE_PATIENTS = 64, 160
ASKED = {"train": 400, "held out": 240}  # crops
ORGANS = [number for number, name in LABELS.items() if name != "lesion"]
ENCODERS: tuple[Callable[[], Encoder], ...] = (  # a method gets the first one that it takes
    partial(ResidualUNet, 3, width=8, blocks=(1, 1, 1)),
    partial(ResidualUNet, 3, width=8, blocks=(1, 1)),  # relational methods cut the crop into tiles, of 4 voxels here
    partial(ViT, 3, patch=4, width=96, depth=4),
)
SETTINGS: dict[str, dict[str, Any]] = {  # what a method needs to be told for so small a crop or budget, by its name
    # a normalised patch is shown with the true one's mean, which would beat the mean image without any learning
    **{name: {"normalise": False} for name in ("AIM", "MAE", "SparK")},
    "Joint": {"parts": [SimMIM, Rotation, SimCLR]},
}


@dataclass(frozen=True)
class Setup:
    """How a method is trained and what its encoder is asked.

    Attributes:
        edge: Voxels of the crop's edge.
        asked: Voxels of the edge of the crops that the probe asks about.
        steps: Optimiser steps.
        lr: Peak learning rate.
        arguments: Of the method, beside those of `SETTINGS`.
    """

    edge: int = 16
    asked: int = 16
    steps: int = STEPS
    lr: float = 2e-3
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def crop(self) -> tuple[int, int, int]:
        return self.edge, self.edge, self.edge


# Of methods that are not clearly ahead in every seed after 100 steps; on more patients too. Tiles of 8 voxels in place of 4
# for those that cut the crop; RelativeLocation, whose crop is larger then, is asked of what its encoder saw, a tile.
LONGER: dict[str, Setup] = {
    "DINO": Setup(steps=300),
    "IBOT": Setup(steps=300, lr=5e-4),
    "RelativeLocation": Setup(32, 8, steps=300),
    "VoCo": Setup(steps=300, arguments={"grid": 2}),
}


def method_names() -> list[str]:
    """Every method of the package, also of files that come after this one."""
    return list(METHODS.names())


def cohort(folder: Path, patients: int = PATIENTS) -> Cache:
    """The phantom cohort, indexed and prepared; what is there already is taken as it is."""
    scans = phantom(folder / "scans", patients=patients, seed=7, shape=(48, 48, 36), spacing_mm=(7.0, 7.0, 8.0))
    if not (folder / "cohort" / "cache.json").exists():
        told = pd.read_csv(scans / "labels.csv").merge(pd.read_csv(scans / "reports.csv"), on="file")
        told.to_csv(folder / "told.csv", index=False)
        index(
            [scans],
            folder / "manifest",
            labels=folder / "told.csv",
            patient="patient",
            label=["lesion", "kind", "scanner"],
            report="report",
            mask="../../masks/{name}.nii.gz",
        )
        prepare(folder / "manifest", folder / "cohort", spacing_mm=(8.0, 8.0, 8.0))
    return Cache(folder / "cohort")


def figures(name: str, cache: Cache, asked: dict[str, Any], folder: Path, seed: int, setup: Setup) -> dict[str, Any]:
    """Pretrain one method with one seed; its probe, the random encoder's, and its restoration over the mean image."""
    kind = partial(getattr(medssl.methods, name), **SETTINGS.get(name, {}) | setup.arguments)
    encoder, made = taken_by(kind, setup), []

    def make(given: Encoder) -> Method:
        made.append(kind(given))
        return made[0]

    run = pretrain(
        cache.path,
        folder / "runs" / f"{name}-{seed}",
        encoder(),
        make,
        **options(
            crop=setup.crop,
            steps=setup.steps,
            batch_size=BATCH,
            lr=setup.lr,
            warmup=10,
            seed=seed,
            monitor_every=setup.steps,
            accelerator="cpu",
            resume=False,
        ),
    )
    random = probe(fresh_encoder(describe(encoder()), seed), asked)
    learnt = probe(made[0].final_encoder, asked)
    return {
        "method": name,
        "seed": seed,
        "random": random,
        "learnt": learnt,
        "restored": restoration(made[0], cache, seed, setup),
        "seconds": run.cost["seconds"],
    }


def taken_by(kind: Callable[[Encoder], Method], setup: Setup = Setup()) -> Callable[[], Encoder]:
    """The first of `ENCODERS` that the method works with; the last one where it refuses them all, and says why."""
    for encoder in ENCODERS[:-1]:
        try:
            kind(encoder()).check(setup.crop, BATCH)
        except MedsslError:
            continue
        return encoder
    return ENCODERS[-1]


def questions(cache: Cache, edge: int = Setup().asked) -> dict[str, Any]:
    """Crops of the scans pretraining sees and of the others, and which organs take more of a crop than of the median one."""
    seen = set(pretraining_scans(cache))
    batches = {}
    for role, count in ASKED.items():
        scans = [s for s in cache.manifest["scan"] if (s in seen) == (role == "train")]
        crops = Crops(cache, scans, (edge,) * 3, seed=99, masks=True)
        batches[role] = default_collate([crops[n] for n in range(count)])
    view = recipes.plain(cache.data_spec)
    shares = {k: np.stack([(b["mask"] == o).flatten(1).float().mean(1) for o in ORGANS], 1) for k, b in batches.items()}
    return {
        role: (view(b["source"].float(), view.draw(b["key"])), shares[role] > np.median(shares["train"], axis=0))
        for role, b in batches.items()
    }


@torch.no_grad()
def probe(encoder: Encoder, asked: dict[str, Any]) -> float:
    """Mean AUROC over the organs of a logistic regression on frozen features, of patients it was not fitted on."""
    encoder.cpu().eval()
    features = {k: torch.cat([encoder(part) for part in x.split(50)]).numpy() for k, (x, _) in asked.items()}
    computed = []
    for train, test in zip(asked["train"][1].T, asked["held out"][1].T):
        scores = probes.linear_scores(features["train"], train.astype(int), features["held out"], 2)
        computed.append(roc_auc_score(test, scores[:, 1]))
    return float(np.mean(computed))


@torch.no_grad()
def restoration(method: Method, cache: Cache, seed: int, setup: Setup = Setup(), count: int = 32) -> float | None:
    """Mean absolute error over that of the mean image, in scans not seen, where the scan was changed (or everywhere)."""
    seen = pretraining_scans(cache)
    unseen = [s for s in cache.manifest["scan"] if s not in seen]
    shown = []
    for scans in (seen, unseen):
        source = source_within(cache, scans, method.source_size(setup.crop), setup.crop)
        fields = readers(resolve(method.sample_fields), cache.manifest[cache.manifest["scan"].isin(scans)])
        crops = Crops(cache, scans, source, seed + 1, fields=fields)
        batch = method.cpu().eval().make_views(default_collate([crops[n] for n in range(count)]))
        shown.append(method.reconstruct(batch))
    known, new = shown
    if known is None or new is None:
        return None
    changed = new["corrupted"] != new["source"]
    changed = changed if changed.any() else torch.ones_like(changed)
    mean = known["source"].mean(0, keepdim=True)
    errors = [(guess - new["source"]).abs()[changed].mean() for guess in (new["restored"], mean)]
    return float(errors[0] / errors[1])


def attempt(
    name: str, cache: Cache, asked: dict[str, Any], folder: Path, seed: int, setup: Setup = Setup()
) -> dict[str, Any]:
    """The figures, or in words why there are none."""
    try:
        return figures(name, cache, asked, folder, seed, setup)
    except MedsslError as error:
        return {"method": name, "seed": seed, "cannot": str(error)}


def summary(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per method: means over the seeds, and whether it learns."""
    columns = ["random", "learnt", "restored", "seconds", "cannot"]
    table = pd.DataFrame(rows).reindex(columns=["method", "seed", *columns])
    means = table.groupby("method")[columns[:-1]].agg(lambda x: x.astype(float).mean())
    means["seeds"] = table.groupby("method")["learnt"].count()
    gains = (table["learnt"] - table["random"]).astype(float)
    gain = gains.groupby(table["method"])
    means["gain"], means["least"], means["ahead"] = gain.mean(), gain.min(), (gains > 0).groupby(table["method"]).sum()
    means["learns"] = (means["gain"] >= MARGIN) | (means["restored"] < 1)
    means["cannot"] = table.groupby("method")["cannot"].first().fillna("")
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=method_names())
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, help="in place of the set-up's")
    parser.add_argument("--longer", action="store_true", help="the set-ups of LONGER, on more patients")
    parser.add_argument("--folder", type=Path, help="where the cohort and the runs stay")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.gettempdir()) / f"medssl-learning{'-longer' * given.longer}"
    cache = cohort(folder, MORE_PATIENTS if given.longer else PATIENTS)
    asked, rows = functools.cache(partial(questions, cache)), []
    for name in given.methods or (LONGER if given.longer else method_names()):
        setup = LONGER[name] if given.longer else Setup()
        setup = replace(setup, steps=given.steps or setup.steps)
        for seed in range(given.seeds):
            rows.append(attempt(name, cache, asked(setup.asked), folder, seed, setup))
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    table = summary(rows)
    print(table.round(3).to_string())
    lost = list(table.index[~table["learns"]])
    print(f"{len(table) - len(lost)} of {len(table)} methods learn; not: {', '.join(lost) or 'none'}")


if __name__ == "__main__":
    main()
