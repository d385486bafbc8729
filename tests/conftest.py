"""A small phantom cohort, indexed and prepared once for the whole test run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import phantom
from medssl.encoders import ResidualUNet
from medssl.methods import SimMIM
from medssl.preprocessing.cache import Cache, prepare
from medssl.training.pretrain import pretrain
from tests.options import options
from tests.scans import scan_makers

torch.set_num_threads(1)  # pytest-xdist runs a process for each core; more threads would wait for each other


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 phantom patients as DICOM series with masks and labels."""
    return phantom(
        tmp_path_factory.mktemp("cohort"), patients=16, seed=3, shape=(40, 40, 24), spacing_mm=(9.0, 9.0, 12.0)
    )


@pytest.fixture(scope="session")
def manifest(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manifest")
    index([cohort], out, labels=cohort / "labels.csv", patient="patient", mask="../../masks/{name}.nii.gz")
    return out


@pytest.fixture(scope="session")
def cache(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return prepare(manifest, tmp_path_factory.mktemp("cache"), spacing_mm=(12.0, 12.0, 12.0))


def small_encoder() -> ResidualUNet:
    return ResidualUNet(dims=3, width=4, blocks=(1, 1, 1))


@pytest.fixture(scope="session")
def pretrained(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, tiny SimMIM run on the cohort."""
    out = tmp_path_factory.mktemp("runs") / "simmim"
    pretrain(
        cache.path,
        out,
        small_encoder(),
        SimMIM,
        **options(crop=(16, 16, 16), steps=6, batch_size=4, workers=0, accelerator="cpu"),
    )
    return out


@pytest.fixture
def shared():
    """shared("hippocampus") -> its folder; the test is skipped, saying so, where the data are not."""

    def find(name: str):
        folder = scan_makers.SHARED / name
        if not folder.exists():
            pytest.skip(f"../shared/data/{name} is not on this machine")
        return folder

    return find
