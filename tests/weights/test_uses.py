"""Imported weights in every place that takes a pretraining run: finetune, study, probe, embed, pretrain, report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from medssl.core import runs
from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import phantom
from medssl.encoders import ResNet
from medssl.methods import SimCLR
from medssl.preprocessing.cache import Cache, prepare
from medssl.reporting.html.report import report
from medssl.studies.probe import probe
from medssl.studies.settings import StudyDesign
from medssl.studies.study import study
from medssl.training.config import FinetuneConfig, TrainConfig
from medssl.training.finetune import finetune
from medssl.training.predict import embed, predict
from medssl.training.pretrain import pretrain
from tests.weights.makers import imported, randomise

pytestmark = pytest.mark.long
SHORT = FinetuneConfig(steps=2, batch_size=2, growth=0)


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Single slices of 16 phantom patients."""
    folder = tmp_path_factory.mktemp("slices")
    phantom(folder / "scans", patients=16, seed=3, shape=(32, 32, 1), spacing_mm=(10.0, 10.0, 6.0))
    index(
        [folder / "scans"],
        folder / "manifest",
        labels=folder / "scans" / "labels.csv",
        patient="patient",
        mask="../../masks/{name}.nii.gz",
        label=["lesion", "scanner"],
    )
    prepare(folder / "manifest", folder / "cache")
    return Cache(folder / "cache")


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet with torchvision's names, imported for grey images."""
    folder = tmp_path_factory.mktemp("public")
    net = randomise(ResNet(2, 3, depth=10, width=4).net)
    imported(net.state_dict(), folder, crop=(32, 32), modality="CT")
    return folder / "run"


def test_a_model_starts_from_it_and_predicts(slices: Cache, public: Path, tmp_path: Path) -> None:
    run = finetune(slices.path, tmp_path / "model", "segmentation", init=public, train=SHORT)
    assert run.parent == runs.read(public).id
    assert run.config["encoder"]["class_path"] == "NormalizedInput"
    table = predict(tmp_path / "model", slices.path, tmp_path / "masks")
    assert len(table) == len(slices.manifest)


def test_it_is_an_arm_of_a_study_whose_report_has_the_receipt(slices: Cache, public: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no list of the scans that public weights were trained on"):
        summary = study(
            slices.path,
            tmp_path / "study",
            "classification",
            ["scratch", str(public)],
            ["50%"],
            label="scanner",
            train=SHORT,
            design=StudyDesign(draws=2, modes=["finetune", "linear"]),
        )
    assert {"scratch", "run"} == set(summary["arm"])
    page = report(tmp_path / "study").read_text()
    for text in ("Public weights", "torchvision", "BSD-3-Clause", "left random", "0 tensors, 0 parameters"):
        assert text in page
    assert "no readable log" not in page


def test_it_is_probed_and_embeds_scans_of_a_cache(slices: Cache, public: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="no list of the scans"):
        table = probe(public, slices.path, label="scanner", kind=["knn", "linear"], score_on="test")
    assert set(table["encoder"]) == {"run", "random"}
    features = embed(public, slices.path, tmp_path / "features").filter(regex=r"^f\d")
    assert features.shape == (len(slices.manifest), 32)
    assert np.isfinite(features.to_numpy()).all()


def test_pretraining_continues_from_it(slices: Cache, public: Path, tmp_path: Path) -> None:
    train = TrainConfig(steps=1, batch_size=4, lr=1e-9)
    run = pretrain(slices.path, tmp_path / "run", None, SimCLR, train=train, init=public)
    assert run.parent == runs.read(public).id
    assert len(pd.read_parquet(tmp_path / "run" / "seen.parquet")) > 0
    started, ended = (load_file(folder / "encoder.safetensors") for folder in (public, tmp_path / "run"))
    name = "encoder.net.layer1.0.conv1.weight"
    assert (started[name] - ended[name]).abs().max() < 1e-6


def test_a_report_of_imports_alone_shows_their_receipts(public: Path, tmp_path: Path) -> None:
    page = report(public, tmp_path / "report.html").read_text()
    assert "Public weights" in page
    assert "left random" in page
