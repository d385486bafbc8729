"""What a pretraining run is worth without further training: a table of probes, beside a random encoder.

    medssl probe runs/simclr --data CACHE --label finding
    medssl probe runs/simclr --data CACHE --label finding --kind anomaly --normal normal
    medssl probe runs/simclr --data CACHE --label age --kind regression
    medssl probe runs/clip --data CACHE --kind retrieval zeroshot --label finding --prompts '{"normal": ["Clear lungs."]}'

Probes learn on the training patients of the cache's split and are scored on its validation patients, so that the test
patients stay untouched for `study`; `--score-on test` is for publication. Intervals are over patients, for one draw and this run. A
number that is not a mean over patients (NMI, ARI, R2, a median) has none.

    knn, linear   AUROC of nearest neighbours and of a logistic regression
    kmeans        agreement (NMI and ARI) of the classes with as many clusters, which are formed without labels
    anomaly       AUROC of the distance to the nearest normal training scans (Bergman et al. 2020, arXiv 2002.10445), and
                  of the reconstruction error if the method restores (Baur et al. 2021, arXiv 2004.03271)
    regression    ridge regression of a number: mean absolute error and R2
    zeroshot      CLIP: AUROC of the similarity of a scan to the prompts of each class
    retrieval     CLIP: how often a scan's own report is among the most similar, and a report's own scan, beside chance
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from medssl.core.errors import MedsslError
from medssl.core.runs import Run, read
from medssl.datasets.labels import label_values
from medssl.datasets.overlap import overlap
from medssl.datasets.splits import SplitSpec
from medssl.encoders import Encoder
from medssl.evaluation import representation
from medssl.evaluation.intervals import Interval, auroc_interval, crossed_interval, patient_means
from medssl.methods.base import Method
from medssl.methods.clip import CLIP
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.crops import Crops
from medssl.preprocessing.sample_fields import reports_in
from medssl.training.models import fresh_encoder, load_method, pretrained_encoder
from medssl.views.center_crops import center_crops

Kind = Literal["knn", "linear", "kmeans", "anomaly", "regression", "zeroshot", "retrieval"]
Scores = dict[str, Interval | float]  # metric -> its value, with an interval where it has one
TOP = 5  # ranks that count in a retrieval among more than twice as many scans; else the first alone
MAX_CLASSES = 20
MIN_NUMBERS = 3  # scans with a number, for a regression


def probe(
    run: Path,
    data: Path,
    kind: list[Kind] | None = None,
    label: str | None = None,
    normal: str | None = None,
    prompts: dict[str, list[str]] | None = None,
    score_on: Literal["validation", "test"] = "validation",
    encoder: Encoder | None = None,
    split: SplitSpec = SplitSpec(),
    seed: int = 0,
    allow_seen: bool = False,
) -> pd.DataFrame:
    """Probe the frozen encoder of a pretraining run, and a random one of the same shape.

    Args:
        run: Folder of a finished pretraining run, or of imported weights.
        data: Cache made by `medssl prepare`.
        kind: Probes to make; knn, linear and kmeans by default.
        label: Label column to learn and to score; a number for regression.
        normal: Value of the label in normal scans, for anomaly.
        prompts: For each value of the label, texts that describe it, for zeroshot; by default the value itself.
        score_on: Explore on validation, publish test.
        encoder: Encoder of a run whose encoder class lies outside medssl.
        split: How the patients are split; the same as in pretraining.
        seed: Seed of the random encoder and of the clusters.
        allow_seen: Whether to score on scans that the run was pretrained on, with a warning.

    Returns:
        One row for each encoder, probe and metric.

    Raises:
        MedsslError: A probe lacks what it needs, or the run was pretrained on scans or patients that are scored.
    """
    cache, run = Cache(Path(data)), Path(run)
    method, probed, record = _load(run, encoder)
    roles = cache.manifest["patient"].map(split.roles(cache.manifest))
    train, test = (list(cache.manifest["scan"][roles == role]) for role in ("train", score_on))
    _check_unseen(run, cache.manifest[cache.manifest["scan"].isin(test)], score_on, allow_seen)
    values = label_values(cache.manifest, label) if label else None
    size = tuple(record.config["crop"])
    random_encoder = fresh_encoder(record.config["encoder"], seed, encoder)
    representation.calibrate_norms(random_encoder, cache, train, size)
    rows = []
    for name, each_encoder in ((run.name, probed), ("random", random_encoder)):
        features = dict(zip([*train, *test], representation.embed(each_encoder, cache, [*train, *test], size)))
        pretrained = each_encoder is not random_encoder
        inputs = ProbeInputs(
            cache, method, pretrained, size, train, test, features, values, normal, prompts or {}, seed
        )
        for each in kind or ["knn", "linear", "kmeans"]:
            rows += [_row(name, each, metric, value) for metric, value in PROBES[each](inputs).items()]
    return pd.DataFrame(rows)


def _load(run: Path, encoder: Encoder | None) -> tuple[Method | None, Encoder, Run]:
    """The method of a run (None for imported weights, which have none), its encoder, and its record."""
    record = read(run)
    if record.kind == "import" and record.is_start:
        return None, pretrained_encoder(run, encoder), record
    method, record = load_method(run, encoder)
    return method, method.final_encoder, record


def _check_unseen(run: Path, scored: pd.DataFrame, role: str, allow_seen: bool) -> None:
    """Raise MedsslError where the run was pretrained on scored scans or patients; warn where that is allowed or not known."""
    found = overlap(scored, pd.read_parquet(run / "seen.parquet"))
    if found.count and not allow_seen:
        raise MedsslError(
            f"{run.name} was pretrained on {found} of {len(scored)} {role} scans, or on their patients: expected none; give the split "
            "of the pretraining (--split-seed), or accept it with --allow-seen"
        )
    if found.count != 0:
        warnings.warn(f"whether {run.name} was pretrained on {role} patients: {found}", stacklevel=3)


def _row(encoder: str, kind: str, metric: str, value: Interval | float) -> dict[str, Any]:
    row = {"encoder": encoder, "probe": kind, "metric": metric}
    if isinstance(value, Interval):
        return row | {"value": value.mean, "low": value.low, "high": value.high, "patients": value.patients}
    return row | {"value": value, "low": np.nan, "high": np.nan, "patients": np.nan}


@dataclass(frozen=True)
class ProbeInputs:
    """What every probe is given.

    Attributes:
        cache: Where the scans are.
        method: The method of the run; None for imported weights.
        pretrained: Whether the features are those of the run, not of the random encoder.
        size: Voxels of a crop along each axis.
        train: Scans to learn from.
        test: Scans to score.
        features: Scan -> feature vector, of both.
        values: Scan -> value of the label, where one is known.
        normal: Value of the label in normal scans.
        prompts: Value of the label -> texts that describe it.
        seed: Seed of the clusters.
    """

    cache: Cache
    method: Method | None
    pretrained: bool
    size: tuple[int, ...]
    train: list[str]
    test: list[str]
    features: dict[str, np.ndarray]
    values: pd.Series | None
    normal: str | None
    prompts: dict[str, list[str]]
    seed: int

    def vectors(self, scans: Sequence[str]) -> np.ndarray:
        """The features (N, out_dim) of the scans."""
        return np.array([self.features[scan] for scan in scans])

    def patients(self, scans: Sequence[str]) -> np.ndarray:
        """The patient (N,) of each scan."""
        return self.cache.manifest.set_index("scan")["patient"][list(scans)].to_numpy()

    def classes(self, kind: Kind) -> list[str]:
        """The values of the label in order. Raises MedsslError where they are not classes."""
        if self.values is None:
            raise MedsslError(f"the probe {kind} needs labels: expected --label with a column of the cache")
        classes = sorted(self.values.astype(str).unique())
        if not 2 <= len(classes) <= MAX_CLASSES:
            raise MedsslError(
                f"the label has {len(classes)} values: expected 2 to {MAX_CLASSES} classes; a number is for --kind regression"
            )
        return classes

    def labelled(self, scans: Sequence[str], kind: Kind) -> tuple[list[str], np.ndarray]:
        """Those of the scans that have the label, and their class numbers (N,).

        Args:
            scans: Pseudonyms of scans.
            kind: The probe that asks for them.
        """
        classes = self.classes(kind)
        assert self.values is not None
        text = self.values.astype(str)
        with_label = [scan for scan in scans if scan in text.index]
        return with_label, np.array([classes.index(text[scan]) for scan in with_label])


def _knn(inputs: ProbeInputs) -> Scores:
    return _classify(inputs, "knn", representation.knn_scores)


def _linear(inputs: ProbeInputs) -> Scores:
    return _classify(inputs, "linear", representation.linear_scores)


def _classify(inputs: ProbeInputs, kind: Kind, classifier: Callable[..., np.ndarray]) -> Scores:
    train, codes = inputs.labelled(inputs.train, kind)
    test, truth = inputs.labelled(inputs.test, kind)
    probabilities = classifier(inputs.vectors(train), codes, inputs.vectors(test), len(inputs.classes(kind)))
    return {"auroc": _auroc(truth, probabilities, inputs.patients(test))}


def _kmeans(inputs: ProbeInputs) -> Scores:
    test, truth = inputs.labelled(inputs.test, "kmeans")
    train, count = inputs.vectors(inputs.train), len(inputs.classes("kmeans"))
    clusters = representation.kmeans(train, inputs.vectors(test), count, inputs.seed)
    return dict(representation.agreement(truth, clusters))


def _anomaly(inputs: ProbeInputs) -> Scores:
    classes = inputs.classes("anomaly")
    if inputs.normal not in classes:
        raise MedsslError(
            f"the probe anomaly needs --normal, the value of a normal scan: expected one of {', '.join(classes)}"
        )
    train, codes = inputs.labelled(inputs.train, "anomaly")
    test, truth = inputs.labelled(inputs.test, "anomaly")
    normal_code = classes.index(inputs.normal)
    patients, abnormal = inputs.patients(test), (truth != normal_code).astype(int)
    normal_scans = [scan for scan, code in zip(train, codes) if code == normal_code]
    distances = representation.distance_to_normal(inputs.vectors(normal_scans), inputs.vectors(test))
    scores: Scores = {"auroc, distance": _auroc(abnormal, distances, patients)}
    if inputs.pretrained and inputs.method is not None:
        errors = reconstruction_errors(inputs.method, inputs.cache, test, inputs.size)
        if errors is not None:
            scores["auroc, reconstruction"] = _auroc(abnormal, errors, patients)
    return scores


def _regression(inputs: ProbeInputs) -> Scores:
    numbers = pd.Series(dtype=float)
    if inputs.values is not None:
        numbers = pd.to_numeric(inputs.values, errors="coerce").dropna()
    train, test = ([scan for scan in scans if scan in numbers.index] for scans in (inputs.train, inputs.test))
    if min(len(train), len(test)) < MIN_NUMBERS:
        raise MedsslError(
            f"the label is a number in {len(train)} training and {len(test)} scored scans: expected {MIN_NUMBERS} or more of "
            "each; keep the column with `medssl index --labels FILE.csv --label NAME`"
        )
    learned, truth = (numbers[scans].to_numpy(float) for scans in (train, test))
    predicted = representation.ridge(inputs.vectors(train), learned, inputs.patients(train), inputs.vectors(test))
    errors, _ = patient_means(np.abs(predicted - truth)[None], inputs.patients(test))
    variance = float(((truth - truth.mean()) ** 2).mean())
    r2 = 1 - float(((predicted - truth) ** 2).mean()) / variance if variance > 0 else float("nan")
    return {"mean absolute error": crossed_interval(errors, bounds=(0, np.inf)), "r2": r2}


def _zeroshot(inputs: ProbeInputs) -> Scores:
    clip = _clip(inputs, "zeroshot")
    if not inputs.pretrained:
        return {}  # there is no text encoder beside the random encoder
    classes = inputs.classes("zeroshot")
    test, truth = inputs.labelled(inputs.test, "zeroshot")
    if unknown := set(inputs.prompts) - set(classes):
        raise MedsslError(
            f"--prompts names {', '.join(sorted(unknown))}: expected values of the label, {', '.join(classes)}"
        )
    prompts = [inputs.prompts.get(value, [value]) for value in classes]
    probabilities = zero_shot(clip, inputs.vectors(test), prompts)
    return {"auroc": _auroc(truth, probabilities, inputs.patients(test))}


def _retrieval(inputs: ProbeInputs) -> Scores:
    clip = _clip(inputs, "retrieval")
    if not inputs.pretrained:
        return {}  # there is no text encoder beside the random encoder
    reports = reports_in(inputs.cache.manifest)
    test = [scan for scan in inputs.test if scan in reports]
    if len(test) < 2:
        raise MedsslError(f"{len(test)} scored scans have a report: expected two or more to search among")
    top = TOP if len(test) > 2 * TOP else 1
    scores: Scores = {f"chance of the first {top} of {len(test)}": top / len(test)}
    ranks = retrieval_ranks(clip, inputs.vectors(test), [reports[scan] for scan in test])
    for name, rank in ranks.items():
        shares, _ = patient_means((rank <= top).astype(float)[None], inputs.patients(test))
        scores[f"{name} among the first {top}"] = crossed_interval(shares, bounds=(0, 1))
        scores[f"{name}, median rank"] = float(np.median(rank))
    return scores


PROBES: dict[Kind, Callable[[ProbeInputs], Scores]] = {
    "knn": _knn,
    "linear": _linear,
    "kmeans": _kmeans,
    "anomaly": _anomaly,
    "regression": _regression,
    "zeroshot": _zeroshot,
    "retrieval": _retrieval,
}


def _auroc(truth: np.ndarray, scores: np.ndarray, patients: np.ndarray) -> Interval:
    """With an interval over patients; scores (N,) for labels 0/1, or (N, classes)."""
    return auroc_interval(truth, np.asarray(scores, float)[None], patients)


def _clip(inputs: ProbeInputs, kind: Kind) -> CLIP:
    """The run's CLIP, which may be one part of a Joint."""
    parts = [inputs.method, *getattr(inputs.method, "parts", [])]
    for part in parts:
        if isinstance(part, CLIP):
            return part
    raise MedsslError(
        f"the probe {kind} needs a run of CLIP: this is one of {type(inputs.method).__name__ if inputs.method else 'imported weights'}"
    )


@torch.no_grad()
def zero_shot(method: CLIP, features: np.ndarray, prompts: Sequence[Sequence[str]]) -> np.ndarray:
    """Return class probabilities (N, classes) by the similarity of scans to texts.

    Args:
        method: A pretrained CLIP.
        features: Features (N, out_dim) of its encoder.
        prompts: Texts that describe each class; their vectors are averaged.
    """
    means = torch.stack([method.text_vectors(texts).mean(0) for texts in prompts])
    images = method.image_vectors(torch.from_numpy(features))
    return (method.log_scale.exp() * images @ torch.nn.functional.normalize(means, dim=1).T).softmax(1).numpy()


@torch.no_grad()
def retrieval_ranks(method: CLIP, features: np.ndarray, reports: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the rank (N,) of each scan's own report among all reports, and of each report's own scan.

    1 is the best rank; ties count one half.

    Args:
        method: A pretrained CLIP.
        features: Features (N, out_dim) of its encoder.
        reports: The report of each scan.
    """
    similarity = (method.image_vectors(torch.from_numpy(features)) @ method.text_vectors(reports).T).double().numpy()
    return {"report": _own_ranks(similarity), "scan": _own_ranks(similarity.T)}


def _own_ranks(similarity: np.ndarray) -> np.ndarray:
    """The rank of the diagonal element in each row."""
    own = np.diag(similarity)[:, None]
    return 1 + (similarity > own).sum(1) + ((similarity == own).sum(1) - 1) / 2


@torch.no_grad()
def reconstruction_errors(method: Method, cache: Cache, scans: Sequence[str], size: Sequence[int]) -> np.ndarray | None:
    """Return the mean absolute error (N,) over the body in the middle of each scan; None if the method restores nothing.

    Args:
        method: A trained method.
        cache: Where the scans are.
        scans: Scans to restore.
        size: Voxels of the middle crop along each axis.
    """
    errors = []
    for number, scan in enumerate(scans):
        batch = center_batch(method, cache, scan, size, seed=number)
        restored = method.reconstruct(batch)
        if restored is None:
            return None
        body = batch["valid_views"][0]
        difference = (restored["restored"] - restored["source"]).abs().mean(1, keepdim=True)
        errors.append(float((difference * body).sum() / body.sum().clamp(min=1)))
    return np.array(errors)


def center_batch(method: Method, cache: Cache, scan: str, size: Sequence[int], seed: int) -> dict[str, Any]:
    """Return a batch of one scan's middle, not augmented, as `method.reconstruct` takes it.

    Args:
        method: The method that restores it.
        cache: Where the scan is.
        scan: Its pseudonym.
        size: Voxels of the middle crop along each axis.
        seed: Seed of the masks.
    """
    sample = Crops(cache, [scan], tuple(size), seed, place="center")[0]
    batch = {
        name: value[None] if isinstance(value, torch.Tensor) else torch.tensor([value])
        for name, value in sample.items()
    }
    x, valid = center_crops(cache, [scan], size), batch["valid"].float()
    views = len(method._views) or 1
    return batch | {"views": [x] * views, "valid_views": [valid] * views}
