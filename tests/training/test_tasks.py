"""A task by name, its targets from a cache, and what it says where there are none."""

import subprocess
import sys

import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.preprocessing.cache import Cache
from medssl.training.tasks import Segmentation, task_named


def test_a_task_that_does_not_exist_is_named_with_the_nearest_one() -> None:
    with pytest.raises(MedsslError, match="no task 'segmentaton'.*did you mean segmentation"):
        task_named("segmentaton")


def test_a_task_of_too_few_classes_is_rejected() -> None:
    with pytest.raises(MedsslError, match="1 classes for classification: expected at least 2"):
        task_named("classification")(("normal",))


def test_a_task_is_made_without_torch() -> None:
    code = "import sys; from medssl.training.tasks import task_named; task_named('segmentation')(('1',)); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_segmentation_learns_the_structures_of_each_patient(cache: Cache) -> None:
    task = Segmentation.from_cache(cache)
    assert task.structures == tuple(cache.structures)
    assert task.outputs == len(cache.structures) + 1
    for patient, structures in task.seen.items():
        scans = cache.manifest["scan"][cache.manifest["patient"] == patient]
        assert set(structures) == set(np.concatenate([np.unique(cache.read_mask(s)) for s in scans])) - {0}


def test_a_perfect_mask_scores_one_and_an_empty_one_zero(cache: Cache) -> None:
    task = Segmentation.from_cache(cache)
    scans = list(task.labels)[:2]
    masks = [cache.read_mask(scans[0]), np.zeros_like(cache.read_mask(scans[1]))]
    cases, metrics = task.score(cache, scans, masks)
    dice = cases.filter(regex=r"^dice\.").to_numpy()
    assert np.nanmin(dice[0]) == 1
    assert np.nanmax(dice[1]) == 0
    assert metrics["dice"] == pytest.approx(0.5)
    assert list(cases["scan"]) == scans
