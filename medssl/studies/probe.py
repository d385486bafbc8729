"""What a pretraining run is worth without training it further: one table of probes, beside a random encoder.

    medssl probe runs/simclr --data CACHE --label finding
    medssl probe runs/simclr --data CACHE --label finding --kind anomaly --normal normal
    medssl probe runs/simclr --data CACHE --label age --kind regression
    medssl probe runs/clip --data CACHE --kind retrieval zeroshot --label finding --prompts '{"normal": ["Clear lungs."]}'

Learned on the training patients of the cache's split, scored on its validation patients, so that the test patients stay
for `study`; `--score-on test` publishes. Intervals are over patients (one draw); a number that is no mean over patients
(NMI, ARI, R2) has none.

    knn, linear   AUROC of nearest neighbours and of a logistic regression
    kmeans        clusters, as many as classes, found without labels: do they agree with them? NMI and ARI
    anomaly       AUROC of the distance to the nearest normal training scans (Bergman et al. 2020, arXiv 2002.10445), and
                  of the reconstruction error where the method restores (Baur et al. 2021, arXiv 2004.03271)
    regression    ridge regression of a number: mean absolute error, R2
    zeroshot      CLIP: which class's prompts is a scan most like? AUROC
    retrieval     CLIP: is the own report among the first of all, and the own scan? share, and chance
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from medssl.core.errors import MedsslError
from medssl.datasets.splits import split
from medssl.encoders import Encoder
from medssl.evaluation import representation as probes
from medssl.evaluation.intervals import Interval, auroc_interval, crossed_interval, patient_means
from medssl.methods.base import Method
from medssl.methods.clip import CLIP
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.sample_fields import reports_in
from medssl.training.models import fresh_encoder, load_method
from medssl.views.center_crops import center_crops

Kind = Literal["knn", "linear", "kmeans", "anomaly", "regression", "zeroshot", "retrieval"]
Found = dict[str, Interval | float]  # metric -> its value, with an interval where it has one
FIRST = 5  # of a retrieval among more than twice as many, else the very first


@dataclass
class Scored:
    """What every probe is given: features and labels of the scans it learns from and of those it is scored on."""

    cache: Cache
    method: Method
    size: tuple[int, ...]
    train: list[str]
    test: list[str]
    features: dict[str, np.ndarray]
    patients: np.ndarray  # of `test`
    values: pd.Series | None
    normal: str | None
    prompts: dict[str, list[str]]
    pretrained: bool
    seed: int

    def of(self, scans: Sequence[str]) -> np.ndarray:
        return np.stack([self.features[scan] for scan in scans])


def probe(
    run: Path,
    data: Path,
    kind: list[Kind] | None = None,
    label: str | None = None,
    normal: str | None = None,
    prompts: dict[str, list[str]] | None = None,
    score_on: Literal["validation", "test"] = "validation",
    encoder: Encoder | None = None,
    split_seed: int = 0,
    split_column: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Probe the frozen encoder of a pretraining run, and a random one of the same shape; one row a probe and metric.

    kind: of the probes, knn, linear and kmeans by default. label: the label column; a number for regression. normal: the
    value of the label that anomaly takes for normal. prompts: of each value of the label the texts that describe it, for
    zeroshot; the value itself by default. score_on: explore on validation, publish test. encoder: for a run whose
    encoder class lies outside of medssl. split_seed, split_column: as the run was pretrained with.
    Raises MedsslError for a probe that lacks what it needs.
    """
    cache, kinds = Cache(Path(data)), list(kind or ["knn", "linear", "kmeans"])
    method, record = load_method(Path(run), encoder)
    values = probes.label_values(cache, label) if label else None
    roles = cache.manifest["patient"].map(split(cache.manifest, split_seed, column=split_column))
    scans = cache.manifest["scan"]
    train, test = (list(scans[roles == role]) for role in ("train", score_on))
    size, rows = tuple(record.config["crop"]), []
    for name, kept in (
        (Path(run).name, method.final_encoder),
        ("random", fresh_encoder(record.config["encoder"], seed, encoder)),
    ):
        features = dict(zip([*train, *test], probes.embed(kept, cache, [*train, *test], size)))
        patients = cache.manifest.set_index("scan")["patient"]
        given = Scored(cache, method, size, train, test, features, patients[test].to_numpy(), values, normal, prompts or {},
                       name != "random", seed)  # fmt: skip
        for each in kinds:
            rows += [_row(name, each, metric, value) for metric, value in PROBES[each](given).items()]
    return pd.DataFrame(rows)


def _row(name: str, kind: str, metric: str, value: Interval | float) -> dict[str, Any]:
    row = {"encoder": name, "probe": kind, "metric": metric}
    if isinstance(value, Interval):
        return row | {"value": value.mean, "low": value.low, "high": value.high, "patients": value.patients}
    return row | {"value": value, "low": np.nan, "high": np.nan, "patients": np.nan}


def _classes(given: Scored, scans: Sequence[str], kind: str) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """The labelled of the scans, their codes, which of `scans` they are, and the names of the classes."""
    if given.values is None:
        raise MedsslError(f"the probe {kind} needs labels: expected --label with a column of the cache")
    text = given.values.astype(str)
    names = sorted(text.unique())
    known = np.array([scan in text.index for scan in scans])
    found = [scan for scan, has in zip(scans, known) if has]
    codes = np.array([names.index(text[scan]) for scan in found])
    if len(names) > 20 or len(names) < 2:
        raise MedsslError(
            f"the label has {len(names)} values: expected 2 to 20 classes; a number is for --kind regression"
        )
    return found, codes, known, names


def _knn(given: Scored) -> Found:
    return _classified(given, "knn", probes.knn_scores)


def _linear(given: Scored) -> Found:
    return _classified(given, "linear", probes.linear_scores)


def _classified(given: Scored, kind: str, scores: Callable[..., np.ndarray]) -> Found:
    train, codes, _, names = _classes(given, given.train, kind)
    test, truth, known, _ = _classes(given, given.test, kind)
    found = scores(given.of(train), codes, given.of(test), len(names))
    return {"auroc": _auroc(truth, found, given.patients[known])}


def _kmeans(given: Scored) -> Found:
    _, _, _, names = _classes(given, given.train, "kmeans")
    test, truth, _, _ = _classes(given, given.test, "kmeans")
    clusters = probes.kmeans(given.of(given.train), given.of(test), len(names), given.seed)
    return dict(probes.agreement(truth, clusters))


def _anomaly(given: Scored) -> Found:
    train, codes, _, names = _classes(given, given.train, "anomaly")
    test, truth, known, _ = _classes(given, given.test, "anomaly")
    if given.normal not in names:
        raise MedsslError(
            f"the probe anomaly needs --normal, the value of a normal scan: expected one of {', '.join(names)}"
        )
    usual = names.index(given.normal)
    patients, abnormal = given.patients[known], (truth != usual).astype(int)
    learned = given.of([scan for scan, code in zip(train, codes) if code == usual])
    found: Found = {"auroc, distance": _auroc(abnormal, probes.distance_to_normal(learned, given.of(test)), patients)}
    errors = reconstruction_errors(given.method, given.cache, test, given.size) if given.pretrained else None
    return found if errors is None else found | {"auroc, reconstruction": _auroc(abnormal, errors, patients)}


def _regression(given: Scored) -> Found:
    values = (
        pd.to_numeric(given.values, errors="coerce").dropna() if given.values is not None else pd.Series(dtype=float)
    )
    train, test = ([s for s in scans if s in values.index] for scans in (given.train, given.test))
    if min(len(train), len(test)) < 3:
        raise MedsslError(
            f"the label is a number in {len(train)} training and {len(test)} scored scans: expected 3 or more of each; keep the "
            f"column with `medssl index --labels FILE.csv --label NAME`"
        )
    owner = given.cache.manifest.set_index("scan")["patient"]
    truth = values[test].to_numpy(float)
    predicted = probes.ridge(given.of(train), values[train].to_numpy(float), owner[train].to_numpy(), given.of(test))
    errors, _ = patient_means(np.abs(predicted - truth)[None], owner[test].to_numpy())
    spread = float(((truth - truth.mean()) ** 2).mean())
    r2 = 1 - float(((predicted - truth) ** 2).mean()) / spread if spread > 0 else float("nan")
    return {"mean absolute error": crossed_interval(errors, bounds=(0, np.inf)), "r2": r2}


def _zeroshot(given: Scored) -> Found:
    method = _clip(given, "zeroshot")
    if method is None:
        return {}
    test, truth, known, names = _classes(given, given.test, "zeroshot")
    if wrong := set(given.prompts) - set(names):
        raise MedsslError(
            f"--prompts names {', '.join(sorted(wrong))}: expected values of the label, {', '.join(names)}"
        )
    scores = zero_shot(method, given.of(test), [given.prompts.get(name, [name]) for name in names])
    return {"auroc": _auroc(truth, scores, given.patients[known])}


def _retrieval(given: Scored) -> Found:
    method = _clip(given, "retrieval")
    if method is None:
        return {}
    reports = reports_in(given.cache.manifest)
    known = np.array([scan in reports for scan in given.test])
    test = [scan for scan in given.test if scan in reports]
    if len(test) < 2:
        raise MedsslError(f"{len(test)} scored scans have a report: expected two or more to search among")
    first = FIRST if len(test) > 2 * FIRST else 1
    ranks = retrieval_ranks(method, given.of(test), [reports[scan] for scan in test])
    found: Found = {f"chance of the first {first} of {len(test)}": first / len(test)}
    for name, rank in ranks.items():
        shares, _ = patient_means((rank <= first).astype(float)[None], given.patients[known])
        found |= {f"{name} among the first {first}": crossed_interval(shares, bounds=(0, 1)), f"{name}, median rank": float(np.median(rank))}  # fmt: skip
    return found


PROBES: dict[str, Callable[[Scored], Found]] = {
    "knn": _knn, "linear": _linear, "kmeans": _kmeans, "anomaly": _anomaly, "regression": _regression,
    "zeroshot": _zeroshot, "retrieval": _retrieval,
}  # fmt: skip


def _auroc(truth: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> Interval:
    """With an interval over patients; scores (N,) for 0/1, or (N, classes)."""
    return auroc_interval(truth, np.asarray(scores, float)[None], patients)


def _clip(given: Scored, kind: str) -> CLIP | None:
    """The run's CLIP, alone or in a Joint; None for the random encoder, which has no text beside it."""
    parts = [given.method, *getattr(given.method, "parts", [])]
    found = next((part for part in parts if isinstance(part, CLIP)), None)
    if found is None:
        raise MedsslError(f"the probe {kind} needs a run of CLIP: this is one of {type(given.method).__name__}")
    return found if given.pretrained else None


@torch.no_grad()
def zero_shot(method: CLIP, features: np.ndarray, prompts: Sequence[Sequence[str]]) -> np.ndarray:
    """(N, classes) probabilities from features (N, out_dim): how like a scan is each class's mean prompt."""
    means = torch.stack([method.text_vectors(texts).mean(0) for texts in prompts])
    images = method.image_vectors(torch.from_numpy(features))
    return (method.log_scale.exp() * images @ torch.nn.functional.normalize(means, dim=1).T).softmax(1).numpy()


@torch.no_grad()
def retrieval_ranks(method: CLIP, features: np.ndarray, reports: Sequence[str]) -> dict[str, np.ndarray]:
    """The rank (N,), 1 the best, of each scan's own report among all, and of each report's own scan; ties count half."""
    similar = (method.image_vectors(torch.from_numpy(features)) @ method.text_vectors(reports).T).double().numpy()
    return {"report": _ranks(similar), "scan": _ranks(similar.T)}


def _ranks(similar: np.ndarray) -> np.ndarray:
    own = np.diag(similar)[:, None]
    return 1 + (similar > own).sum(1) + ((similar == own).sum(1) - 1) / 2


@torch.no_grad()
def reconstruction_errors(method: Method, cache: Cache, scans: Sequence[str], size: Sequence[int]) -> np.ndarray | None:
    """(N,): the mean absolute error over the body, of the middle of each scan; None for a method that restores nothing."""
    found = []
    for number, scan in enumerate(scans):
        batch = middle_batch(method, cache, scan, size, number)
        shown = method.reconstruct(batch)
        if shown is None:
            return None
        body = batch["valid_views"][0]
        off = (shown["restored"] - shown["source"]).abs().mean(1, keepdim=True)
        found.append(float((off * body).sum() / body.sum().clamp(min=1)))
    return np.array(found)


def middle_batch(method: Method, cache: Cache, scan: str, size: Sequence[int], number: int) -> dict[str, Any]:
    """A batch of one scan's middle, unchanged by views, as `method.reconstruct` takes it."""
    from medssl.preprocessing.crops import Crops

    sample = Crops(cache, [scan], size, seed=number, place="center")[0]
    batch = {
        name: value[None] if isinstance(value, torch.Tensor) else torch.tensor([value])
        for name, value in sample.items()
    }
    x, valid = center_crops(cache, [scan], size), batch["valid"].float()
    views = len(method._views) or 1
    return batch | {"views": [x] * views, "valid_views": [valid] * views}
