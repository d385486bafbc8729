"""Which patients a reader should label next, chosen on the features of a pretraining run.

    medssl select --data CACHE --run runs/simclr --label finding --budget 20p --out to_label.csv

Patients are chosen, not scans, and only among the training patients of the split, so that validation and test stay a
random sample. `medssl where MANIFEST SCAN` shows which files a line of the list stands for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from medssl.core import runs
from medssl.core.atomic import write_atomically
from medssl.core.errors import MedsslError
from medssl.core.registry import SELECTORS
from medssl.datasets.labels import label_values
from medssl.datasets.splits import SplitSpec, budget_size
from medssl.encoders import Encoder
from medssl.evaluation import representation
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops
from medssl.studies.selection.base import Pool, Selector
from medssl.training.models import pretrained_encoder

STRATA = ("modality", "manufacturer", "site")


def select(
    data: Path,
    budget: str,
    out: Path,
    run: Path | None = None,
    selector: str = "MaxHerding",
    label: str | None = None,
    seed: int = 0,
    encoder: Encoder | None = None,
    split: SplitSpec = SplitSpec(),
) -> pd.DataFrame:
    """Choose the patients to label next, and write them to a CSV.

    Args:
        data: Cache made by `medssl prepare`.
        budget: How many patients to label, beside those that are labelled: a number (20p) or a share (5%) of the
            training patients.
        out: File of the list.
        run: Folder of a pretraining run, whose features are used; Random and Stratified need none.
        selector: Strategy: MaxHerding, ForegroundHerding, TypiClust, ProbCover, CoreSet, Random or Stratified.
        label: Label column that is to be completed; patients who have a value count as labelled. By default those who
            have a mask do.
        seed: Seed of clusters, ties and random choices.
        encoder: Encoder of a run whose encoder class lies outside medssl.
        split: How the patients are split; the same as in pretraining and in the study.

    Returns:
        One row for each scan of the chosen patients: rank, patient, scan.

    Raises:
        MedsslError: There are not that many patients without a label, or the strategy needs a run.
    """
    strategy, cache = SELECTORS.load(selector)(), Cache(Path(data))
    roles = split.roles(cache.manifest)
    manifest = cache.manifest[cache.manifest["patient"].map(roles) == "train"].reset_index(drop=True)
    patients = manifest["patient"].unique()
    pool = Pool(
        patient_features(strategy, cache, manifest, run, encoder),
        np.isin(patients, manifest["patient"][_labelled(manifest, label)].unique()),
        patient_strata(manifest),
    )
    chosen = strategy.select(pool, budget_size(budget, len(patients))[0], seed)
    rank = {patients[number]: i for i, number in enumerate(chosen, 1)}
    table = manifest.loc[manifest["patient"].isin(rank), ["patient", "scan"]]
    table.insert(0, "rank", table["patient"].map(rank))
    table = table.sort_values(["rank", "scan"], kind="stable").reset_index(drop=True)
    write_atomically(Path(out), table.to_csv(index=False).encode())
    return table


def _labelled(manifest: pd.DataFrame, label: str | None) -> pd.Series:
    """Whether each scan is labelled."""
    if label is None:
        return manifest["has_mask"]
    return manifest["scan"].isin(label_values(manifest, label).index)


def patient_strata(manifest: pd.DataFrame) -> np.ndarray:
    """Scanner, site and modality of each patient's first scan, as one text.

    Args:
        manifest: The patients' scans.
    """
    first = manifest.drop_duplicates("patient").reindex(columns=list(STRATA)).fillna("")
    return first.astype(str).agg(" ".join, axis=1).to_numpy(dtype=str)


def patient_features(
    strategy: Selector, cache: Cache, manifest: pd.DataFrame, run: Path | None, encoder: Encoder | None
) -> np.ndarray | None:
    """One vector per patient (patients, D): the mean over the patient's scans, centred over the patients, of length 1.

    Args:
        strategy: The strategy that is to choose, which may need none.
        cache: Where the scans are.
        manifest: The patients' scans.
        run: Folder of a pretraining run.
        encoder: Encoder of a run whose encoder class lies outside medssl.

    Raises:
        MedsslError: The strategy needs a run, and there is none.
    """
    if strategy.pooling is None:
        return None
    if run is None:
        raise MedsslError(
            f"{type(strategy).__name__} chooses on features: expected --run with the folder of a pretraining run; Random "
            "and Stratified need none"
        )
    trained, scans = pretrained_encoder(Path(run), encoder).eval(), list(manifest["scan"])
    size = runs.read(Path(run)).config["crop"]
    embed = _body_features if strategy.pooling == "body" else representation.embed
    vectors = embed(trained, cache, scans, size).astype(float)
    means = pd.DataFrame(vectors).groupby(manifest["patient"].to_numpy(), sort=False).mean().to_numpy()
    centred = means - means.mean(axis=0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def _body_features(encoder: Encoder, cache: Cache, scans: list[str], size: tuple[int, ...]) -> np.ndarray:
    """The coarsest features (N, channels), averaged over the places in proportion to the body in them."""
    dense = torch.from_numpy(representation.embed(encoder, cache, scans, size, dense=True))
    pool: Any = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    crops = Crops(cache, scans, tuple(size), 0, place="center")
    body = torch.stack([pool(crops[i]["valid"].float(), dense.shape[2:]) for i in range(len(scans))])
    share = body / body.sum(dim=tuple(range(1, body.ndim)), keepdim=True).clamp(min=1e-6)
    return (dense * share).flatten(2).sum(2).numpy()
