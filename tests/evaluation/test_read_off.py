"""What can be read off features: told apart where they differ, chance where only the patient shows, intervals that cover."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from medssl.evaluation import read_off as module
from medssl.evaluation.read_off import read_off


def cohort(patients: int, scans: int, groups: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patients, their group, and features without either in them, of each scan."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), scans)
    return patient.astype(str), (patient % groups).astype(str), generator.normal(size=(len(patient), 12))


def test_a_scanner_in_the_features_is_read_off() -> None:
    patients, scanners, features = cohort(60, 2)
    features[:, 3] += 4 * (scanners == "1")
    found = read_off(features, scanners, patients)
    assert found.value > 0.93
    assert found.chance == 0.5
    assert found.shown
    assert 0.8 < found.low < found.value < found.high <= 1
    assert (found.groups, found.scans, found.patients) == (("0", "1"), 120, 60)


def test_features_that_tell_patients_but_no_scanner_are_at_chance() -> None:
    """With folds of scans in place of patients these would be read off nearly without an error."""
    patients, scanners, _ = cohort(40, 6)
    own = np.random.default_rng(1).normal(size=(40, 60))
    features = own[patients.astype(int)] + 0.01 * np.random.default_rng(2).normal(size=(240, 60))
    found = read_off(features, scanners, patients)
    assert not found.shown
    assert found.value < 0.7


def test_nothing_is_read_off_noise() -> None:
    made = [cohort(40, 1, seed=seed) for seed in range(40)]
    found = [read_off(features, groups, patients) for patients, groups, features in made]
    assert sum(each.shown for each in found) <= 4
    assert np.mean([each.value for each in found]) == pytest.approx(0.5, abs=0.05)


def test_the_value_is_balanced_accuracy_where_a_patient_has_one_scan() -> None:
    y, right = np.array([0, 0, 0, 1, 1]), np.array([1.0, 1, 0, 1, 0])
    predicted = np.where(right == 1, y, 1 - y)
    value, low, high = module._balanced(right, y, np.arange(5))
    assert value == pytest.approx(balanced_accuracy_score(y, predicted))
    assert low < value < high
    assert module._balanced(np.ones(10), np.repeat([0, 1], 5), np.arange(10))[1] < 0.8  # ten patients prove little


def test_small_groups_are_left_out_and_too_few_give_nothing() -> None:
    patients, scanners, features = cohort(33, 1, groups=3)
    scanners[:31:1] = np.where(scanners[:31] == "2", "0", scanners[:31])  # two scans of the third are left
    found = read_off(features, [None if i == 0 else s for i, s in enumerate(scanners)], patients)
    assert found.left_out == ("2",)
    assert found.scans == 31
    assert read_off(features[:8], scanners[:8], patients[:8]) is None


def test_of_many_scans_a_part_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SCANS", 60)
    patients, scanners, features = cohort(200, 1)
    assert read_off(features, scanners, patients).scans == 60
