"""Splits are by patient, stratified, seeded; budgets are nested, cover every class and hold their validation."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core.errors import MedsslError
from medssl.datasets.splits import duplicates_across, label_budgets, split


def manifest(patients: int, scans: int = 2, positive: float = 0.3) -> pd.DataFrame:
    rows = [
        {
            "scan": f"s{p}_{i}",
            "patient": f"p{p}",
            "digest": f"d{p}_{i}",
            "label.finding": "yes" if p < positive * patients else "no",
        }
        for p in range(patients)
        for i in range(scans)
    ]
    return pd.DataFrame(rows)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 60), st.integers(0, 5))
def test_every_patient_has_one_role_and_every_role_a_patient(patients: int, seed: int) -> None:
    roles = split(manifest(patients), seed=seed)
    assert len(roles) == patients
    assert {"train", "test"} <= set(roles)


def test_split_is_stratified_seeded_and_has_the_asked_shares() -> None:
    table = manifest(200)
    roles = split(table, seed=1)
    assert roles.equals(split(table, seed=1))
    assert not roles.equals(split(table, seed=2))
    counts = roles.value_counts()
    assert abs(counts["test"] - 60) <= 1
    assert abs(counts["validation"] - 20) <= 1
    positive = {p for p in table["patient"][table["label.finding"] == "yes"]}
    for role, number in (("test", 60), ("train", 120)):
        assert abs(len(positive & set(roles.index[roles == role])) / number - 0.3) < 0.05


def test_the_order_of_the_label_columns_does_not_matter() -> None:
    table = manifest(30)
    numbers = table["patient"].str[1:].astype(int)
    table = table.assign(**{"label.scanner": numbers.mod(3).astype(str), "label.kind": numbers.mod(5).astype(str)})
    rest, labels = list(table.columns[:3]), list(table.columns[3:])
    assert all(split(table).equals(split(table[[*rest, *names]])) for names in itertools.permutations(labels))


def test_patients_with_a_common_scan_stay_together() -> None:
    table = manifest(40)
    table.loc[table["scan"] == "s5_0", "digest"] = "d30_1"
    table.loc[table["scan"] == "s17_0", "digest"] = "d30_0"
    for seed in range(10):
        roles = split(table, seed=seed)
        assert roles["p5"] == roles["p30"] == roles["p17"]
        assert duplicates_across(table, roles) == 0


def test_duplicates_across_counts_test_scans_that_stand_elsewhere() -> None:
    table = manifest(4, scans=1)
    table["digest"] = ["a", "b", "a", "c"]
    roles = pd.Series({"p0": "test", "p1": "train", "p2": "train", "p3": "test"})
    assert duplicates_across(table, roles) == 1


def test_a_patient_in_two_roles_of_a_given_split_is_refused() -> None:
    table = manifest(6)
    table["label.split"] = ["train", "test"] + ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    with pytest.raises(MedsslError, match="1 patient.*two roles"):
        split(table, column="split")
    table.loc[1, "label.split"] = "train"
    assert split(table, column="split").value_counts().to_dict() == {"train": 4, "validation": 1, "test": 1}


def classes_of(patients: int) -> dict[str, tuple[int, ...]]:
    return {f"p{i}": (i % 3,) for i in range(patients)}


def all_train(patients: int) -> pd.Series:
    return pd.Series("train", index=[f"p{i}" for i in range(patients)])


@settings(max_examples=25, deadline=None)
@given(st.integers(6, 80), st.integers(0, 3))
def test_budgets_are_nested_and_show_every_class(patients: int, seed: int) -> None:
    names = ["1p", "20%", "50%", "100%"]
    table = label_budgets(all_train(patients), classes_of(patients), names, seed, draws=2)
    for draw in range(2):
        sets = [set(table["patient"][(table["draw"] == draw) & (table["budget_name"] == n)]) for n in names]
        for small, large in itertools.pairwise(sets):
            assert small <= large
        assert {c for p in sets[0] for c in classes_of(patients)[p]} == {0, 1, 2}
        assert len(sets[-1]) == patients


def test_draws_differ_and_one_seed_repeats_them() -> None:
    table = label_budgets(all_train(50), classes_of(50), ["10%"], 0, draws=4)
    drawn = {tuple(g["patient"]) for _, g in table.groupby("draw")}
    assert len(drawn) == 4
    assert table.equals(label_budgets(all_train(50), classes_of(50), ["10%"], 0, draws=4))


def test_a_budget_that_misses_a_class_is_raised_to_one_a_class_and_counts_are_real() -> None:
    table = label_budgets(all_train(24), classes_of(24), ["5%"], 0, draws=1)
    assert len(table) == 3
    assert table["budget"].iloc[0] == pytest.approx(3 / 24)


def test_a_budget_that_rounds_to_no_case_is_refused_with_the_smallest_there_is() -> None:
    with pytest.raises(MedsslError, match=r"'1%' comes to 0 of 24.*smallest budget is 1p, which is 4.2%"):
        label_budgets(all_train(24), classes_of(24), ["1%"])


def test_validation_is_cut_from_the_budget_and_only_from_25_patients_on() -> None:
    table = label_budgets(all_train(60), classes_of(60), ["24p", "30p"], 0, draws=1)
    roles = table.groupby("budget_name")["role"].value_counts()
    assert roles["24p"].to_dict() == {"train": 24}
    assert 5 <= roles["30p"]["validation"] <= 6
    assert roles["30p"].sum() == 30
    learnt = table[(table["budget_name"] == "30p") & (table["role"] == "train")]["patient"]
    assert {classes_of(60)[p][0] for p in learnt} == {0, 1, 2}


@pytest.mark.parametrize("budget", ["0%", "101%", "-1", "many", "0p", "2.0", "0.5p"])
def test_a_budget_that_means_nothing_is_refused(budget: str) -> None:
    with pytest.raises(MedsslError, match="budget"):
        label_budgets(all_train(10), classes_of(10), [budget])


def test_more_patients_than_there_are_is_refused() -> None:
    with pytest.raises(MedsslError, match="comes to 11 of 10 training patients"):
        label_budgets(all_train(10), classes_of(10), ["11p"])


def test_stratified_budgets_keep_the_share_of_classes() -> None:
    classes = {f"p{i}": (int(i < 20),) for i in range(100)}
    table = label_budgets(all_train(100), classes, ["50%"], 0, draws=5)
    shares = [np.mean([classes[p][0] for p in g["patient"]]) for _, g in table.groupby("draw")]
    assert max(abs(s - 0.2) for s in shares) < 0.04


@pytest.mark.parametrize("names", [["10%", "10%"], ["10%", "0.1"], ["100%", "1.0", "5%"], ["3p", "3 patients"]])
def test_a_budget_that_is_given_twice_is_refused(names):
    """Its patients stood in two rows each, so that the study counted them twice."""
    with pytest.raises(MedsslError, match="are the same: expected each once"):
        label_budgets(all_train(50), classes_of(50), names, 0, draws=1)
    assert len(label_budgets(all_train(50), classes_of(50), ["10%", "5p"], 0, draws=1)["budget_name"].unique()) == 2
