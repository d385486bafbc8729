"""A small phantom cohort, indexed and prepared once for the whole test run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from medssl.datasets.index import index
from medssl.datasets.phantom.cohort import phantom
from medssl.encoders import ResidualUNet
from medssl.methods import SimMIM
from medssl.preprocessing.cache import Cache, prepare
from medssl.training.pretrain import pretrain
from tests.options import options
from tests.scans import scan_makers

TRAINING_FOLDERS = {"apps", "container", "docs", "methods", "studies", "training"}  # below tests/
TRAINING_FIXTURES = {"pretrained", "studied"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the arithmetic of another machine, or other random numbers, would change; see contributing.md."""
    parser.addoption("--threads", type=int, default=1, help="of torch in each process")
    parser.addoption("--other-seeds", type=int, default=0, help="added to every seed that torch and numpy get")


def pytest_configure(config: pytest.Config) -> None:
    """With pytest-xdist there is a process for each core: more threads than one would wait for each other."""
    torch.set_num_threads(config.getoption("--threads"))
    if step := config.getoption("--other-seeds"):
        seed_torch, seed_numpy = torch.manual_seed, np.random.default_rng
        torch.manual_seed = lambda seed: seed_torch(seed + step)
        np.random.default_rng = lambda seed=None: seed_numpy(seed + step if isinstance(seed, int) else seed)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as long, so that `make test-fast` leaves them out, the folders whose tests train, and any test with a trained model."""
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if folder in TRAINING_FOLDERS or TRAINING_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random weights do not depend on the tests that ran before in the same process."""
    torch.manual_seed(0)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` of this test run, made by the first process that asks for it; the others wait for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make(folder.with_suffix(".part"))
            folder.with_suffix(".part").rename(folder)
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 phantom patients as DICOM series with masks and labels."""
    size = {"patients": 16, "seed": 3, "shape": (40, 40, 24), "spacing_mm": (9.0, 9.0, 12.0)}
    return made_once(tmp_path_factory, "cohort", lambda folder: phantom(folder, **size))


@pytest.fixture(scope="session")
def manifest(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {"labels": cohort / "labels.csv", "patient": "patient", "mask": "../../masks/{name}.nii.gz"}
    labels["label"] = ["lesion", "kind", "scanner"]
    return made_once(tmp_path_factory, "manifest", lambda folder: index([cohort], folder, **labels))


@pytest.fixture(scope="session")
def cache(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    spacing_mm = (12.0, 12.0, 12.0)
    return Cache(made_once(tmp_path_factory, "cache", lambda folder: prepare(manifest, folder, spacing_mm=spacing_mm)))


def small_encoder() -> ResidualUNet:
    return ResidualUNet(dims=3, width=4, blocks=(1, 1, 1))


@pytest.fixture(scope="session")
def pretrained(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, tiny SimMIM run on the cohort."""
    settings = options(crop=(16, 16, 16), steps=6, batch_size=4, workers=0, accelerator="cpu")
    return made_once(
        tmp_path_factory, "simmim", lambda folder: pretrain(cache.path, folder, small_encoder(), SimMIM, **settings)
    )


@pytest.fixture
def shared():
    """shared("hippocampus") -> its folder; the test is skipped, saying so, where the data are not."""

    def find(name: str):
        folder = scan_makers.SHARED / name
        if not folder.exists():
            pytest.skip(f"../shared/data/{name} is not on this machine")
        return folder

    return find
